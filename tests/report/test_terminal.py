"""What people see in a terminal: it fits, it names everything, and user text is only text."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from fallline.compare.records import Comparison
from fallline.report.terminal import print_report, span
from synthetic import NAMES, comparison, plan


def printed(of: Comparison, width: int = 80, terminal: bool = False) -> str:
    out = StringIO()
    print_report(of, Console(file=out, width=width, force_terminal=terminal))
    return out.getvalue()


@pytest.fixture(scope="module")
def searched_widely(whole) -> Comparison:
    """Many tuned settings with long values, losses of every size, long names."""
    wide = {"lr": 0.000123456, "beta1": 0.912345, "beta2": 0.99912345, "weight_decay": 0.000123456}

    def rename(trial):
        name = "my-company-optimizer-v2" if trial.spec.arm == "adam" else trial.spec.arm
        loss = trial.valid_loss and trial.valid_loss * (1e10 if name == "sgd" else 1)
        return replace(trial, spec=replace(trial.spec, arm=name, settings=wide), valid_loss=loss)

    names = ["my-company-optimizer-v2" if name == "adam" else name for name in NAMES]
    return Comparison(plan(names), [rename(trial) for trial in whole.trials], {"sgd": 1234567.8})


@pytest.mark.parametrize("width", [80, 120, 200])
def test_never_wider_than_80_columns(whole, trouble, searched_widely, width):
    arms = comparison([f"{o}, dropout={x}" for o in ("adamw", "momentum") for x in (0, 0.25)], studies=3)
    few = comparison(["adam"], seeds=1), Comparison(plan(), []), arms
    for of in (whole, trouble, searched_widely, *few):
        assert max(len(line) for line in printed(of, width).splitlines()) <= 80


def test_each_optimizer_has_one_line_in_each_table(whole):
    lines = printed(whole).splitlines()
    for rank, name in [(1, "adamw"), (15, "gd")]:
        (row,) = [line for line in lines if line.split()[:2] == [str(rank), name]]
        assert len(row.split()) >= 8
        assert sum(line.split()[:1] == [name] for line in lines) == 1


def test_what_is_asked_for_is_there(whole):
    text = printed(whole)
    for wanted in (
        "0.0937 0.0917–0.0958", "accuracy %", "97.4 97.4–97.5", "138 best", "0 of 3", "µs/step", "30.5",
        "60.3 kB", "lr 0.004", "No single winner: adamw", "not the luck of", "Warning: Still improving",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_unfinished_and_broken_optimizers_are_told(trouble):
    text = " ".join(printed(trouble).split())
    assert "momentum (1 of 3 final runs diverged)" in text
    assert "nadam (no final run yet)" in text
    assert "broken (8 of 8 tuning runs failed: ValueError: <script>alert(1)</script>)" in text


def test_markup_in_names_is_printed_as_it_is():
    assert "[bold]loud[/bold]" in printed(comparison(["[bold]loud[/bold]", "sgd"]), terminal=True)


def test_a_metric_that_is_no_share_is_not_shown_in_per_cent(whole):
    scaled = [replace(t, metrics={"perplexity": 100 * t.metric} if t.metric else {}) for t in whole.trials]
    text = printed(Comparison(replace(whole.plan, metric_name="perplexity"), scaled))
    assert "perplexity %" not in text
    assert "97.4" in text


def test_an_error_from_0_to_1_is_not_an_accuracy(whole):
    named = Comparison(replace(whole.plan, metric_name="mean absolute error"), whole.trials)
    assert "error %" not in " ".join(printed(named).split())


def test_without_a_target_nothing_is_said_to_have_missed_it(whole):
    aimless = [replace(t, steps_to_target=None, epochs_to_target=None) for t in whole.trials]
    text = printed(Comparison(replace(whole.plan, target=None, target_name=""), aimless))
    assert "steps*" not in text
    assert "epochs*" not in text
    assert "0 of 3" not in text


def test_without_a_metric_there_is_no_column_for_it(whole):
    bare = [replace(t, metrics={}) for t in whole.trials]
    heads = printed(Comparison(replace(whole.plan, metric_name=""), bare)).splitlines()[1]
    assert heads.split() == ["#", "optimizer", "loss", "95", "%", "steps*", "vs", "best"]


def test_an_interval_of_many_decades_is_not_told_to_three_digits():
    assert (span(1.02e-19, 1.76e14), span(1e-3, 13.7)) == ("1e-19–2e+14", "0.001–10")
    assert span(-1.0, -0.5) == "-1.00 to -0.500"
