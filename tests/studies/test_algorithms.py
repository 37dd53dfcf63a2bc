"""The study of gradient-descent algorithms: what each sees, keeps and costs, and its loss by each measure."""

from statistics import median

import pytest
import torch

from fallline import Task
from fallline.compare.run import read
from fallline.studies import StudyError
from fallline.studies.algorithms import ALGORITHMS, STUDY
from fallline.studies.lab import Effort


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab(effort=Effort(2, 3, 1))
    return lab, STUDY.answer(lab)


def by_name(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_all_see_equally_many_samples_or_make_equally_many_steps(made):
    lab = made[0]
    by_samples, by_steps = (read(lab.folder / label) for label in ("equal-samples", "equal-steps"))
    steps = {name: {t.steps for t in by_samples.trials if t.spec.arm == name} for name in ALGORITHMS}
    assert steps == {"gd": {4}, "online-sgd": {480}} | {name: {48} for name in ALGORITHMS[2:]}
    assert {t.steps for t in by_steps.trials} == {48}


def test_state_is_what_each_algorithm_keeps(made):
    (costs,) = (table for table in made[1].tables if table.title == "Costs")
    state = {name: row["state"] for name, row in by_name(costs).items()}
    slot = 4 * 51  # bytes of the 51 parameters
    steps = 4 * 4  # Adam counts the steps of each of the 4 tensors
    assert state == dict.fromkeys(("gd", "online-sgd", "sgd"), "0 B") | dict.fromkeys(
        ("momentum", "nesterov"), f"{slot} B"
    ) | {"adam": f"{2 * slot + steps} B"}
    samples = {name: row["samples/step"] for name, row in by_name(costs).items()}
    assert samples == {"gd": 120, "online-sgd": 1} | dict.fromkeys(ALGORITHMS[2:], 10)


def test_the_lines_are_medians_of_the_recorded_curves(made):
    lab, finding = made
    figure = next(f for f in finding.figures if f.title == "Loss by steps")
    records = read(lab.folder / "equal-steps")
    for trace in figure.plot["data"]:
        runs = records.finals(trace["name"])
        assert trace["x"] == runs[0].curve.step
        assert trace["y"] == [
            median(losses) for losses in zip(*(t.curve.valid_loss for t in runs), strict=True)
        ]


def test_the_time_of_an_epoch_is_that_of_its_steps(made):
    (costs,) = (table for table in made[1].tables if table.title == "Costs")
    for name, row in by_name(costs).items():
        steps = {"gd": 1, "online-sgd": 120}.get(name, 12)
        assert float(row["s/epoch"]) == pytest.approx(steps * float(row["µs in all"]) / 1e6, rel=0.02)


def test_the_answer_names_the_lowest_of_both_views(made):
    finding = made[1]
    for label in ("equal-samples", "equal-steps"):
        table = finding.tables[0 if label == "equal-samples" else 1]
        assert f"{table.rows[0][0]} has the lowest validation loss ({table.rows[0][1]}" in finding.answer


def test_a_stream_is_refused(new_lab):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(2), torch.tensor(0)

    data = torch.zeros(4, 2), torch.zeros(4).long()
    task = Task(lambda: torch.nn.Linear(2, 2), Endless(), data, max_steps=5)
    with pytest.raises(StudyError, match="stream"):
        STUDY.answer(new_lab(task))
