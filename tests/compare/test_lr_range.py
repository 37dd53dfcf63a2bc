"""The range test against what theory says of a quadratic, and beside whole trainings."""

import doctest
import json
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from small_task import blobs
from torch import nn

from fallline import Task
from fallline.compare import ComparisonError, compare
from fallline.compare.advice import lr_range as module
from fallline.compare.advice.lr_range import LrRange, Probe, Spread, Tuned, lr_range, smoothed, tuned_in
from fallline.compare.advice.lr_range_view import quartiles, text, write_figure
from fallline.compare.statistics.rate_response import GoodRange
from fallline.core.registry import entries, find
from fallline.tasks import load
from fallline.tasks.batches import Batches
from fallline.tasks.seeding import seeded
from synthetic import BEST_RATE, comparison

SMALL = Path(__file__).with_name("small_task.py")


class Quadratic(nn.Module):
    """f(x) = mean over samples b of Σ λ_i (x_i - b_i)²/2, whose largest λ is L."""

    def __init__(self, largest: float):
        super().__init__()
        self.curvature = torch.linspace(0.2, 1.0, 5) * largest
        self.x = nn.Parameter(torch.randn(5))

    def forward(self, samples):
        return (self.curvature * (self.x - samples) ** 2).sum(dim=1) / 2


def quadratic(largest: float) -> Task:
    data = (torch.randn(2000, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(2000))
    return Task(
        lambda: Quadratic(largest), data, data, name="quadratic", batch_size=100, epochs=10,
        loss=lambda outputs, targets: outputs.mean(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "largest", "limit"), [("sgd", 0.5, 2.0), ("sgd", 4.0, 2.0), ("momentum", 1.0, 2 * 1.9)]
)
def test_a_quadratic_diverges_just_above_its_limit(name, largest, limit):
    """Gradient descent is stable up to 2/L, and with momentum μ up to 2 (1 + μ)/L (Polyak 1964)."""
    found = lr_range(quadratic(largest), name, seeds=3, steps=1500)
    assert found.diverged.seeds == 3
    assert all(1 < probe.diverged * largest / limit < 1.4 for probe in found.probes)


def test_the_limit_scales_as_theory_says():
    """Scaling the function by c divides every rate at which anything happens by c."""
    first, second = (lr_range(quadratic(c), "sgd", seeds=2, steps=1000) for c in (1.0, 10.0))
    assert first.diverged.median / second.diverged.median == pytest.approx(10, rel=0.05)


def test_rates_go_from_a_decade_below_the_searched_range_to_a_decade_above():
    searched = find("adam").space["lr"]
    rates = lr_range(blobs(), "adam", seeds=1, steps=20).rates
    assert (rates[0], rates[-1]) == pytest.approx((searched.low / 10, searched.high * 10))
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(rates[1] / rates[0]))


@pytest.mark.parametrize("name", list(entries()))
def test_every_entry_is_stepped_at_the_rates_of_the_test(name):
    (probe,) = lr_range(blobs(), name, seeds=1, steps=12).probes
    assert probe.losses[0] != probe.losses[1]
    assert probe.steepest is not None


@pytest.mark.parametrize(("ours", "theirs"), [("sgd", "torch.optim.SGD"), ("adamw", "torch.optim.AdamW")])
def test_the_losses_are_those_of_a_plain_loop_of_torch(ours, theirs):
    """A new model on the seed, batches in the order of the seed, and torch's optimizer at each rate."""
    found = lr_range(blobs(), ours, seeds=1, steps=20)
    task, (probe,) = blobs(), found.probes
    with seeded(probe.seed):
        model = task.model()
        maker = torch.optim.SGD if ours == "sgd" else torch.optim.AdamW
        optimizer = maker(model.parameters(), lr=1.0)
        losses = []
        for (inputs, targets), rate in zip(
            Batches(task.train, 10, probe.seed), [*found.rates, 0.0], strict=False
        ):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    expected = list(smoothed(losses))[1:]
    assert probe.losses == pytest.approx(expected[: len(probe.losses)], rel=1e-4)
    assert len(probe.losses) == 20 or expected[len(probe.losses)] > 4 * min(probe.losses)
    other = lr_range(blobs(), theirs, seeds=1, steps=20)
    assert other.probes[0].losses == pytest.approx(probe.losses, rel=1e-4)


def test_smoothing_is_the_weighted_mean_of_the_losses_so_far():
    losses = np.random.default_rng(0).normal(size=30)
    for n, value in enumerate(smoothed(losses), 1):
        weights = 0.98 ** np.arange(n)[::-1]
        assert value == pytest.approx(np.sum(weights * losses[:n]) / weights.sum())


def test_the_same_seed_gives_the_same_test_and_others_another():
    first, again, other = (lr_range(blobs(), "adam", seeds=2, steps=20, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.probes[0].losses != other.probes[0].losses
    assert first.probes[0].losses != first.probes[1].losses


def test_the_task_s_own_schedule_does_not_count():
    plain, scheduled = (
        lr_range(replace(blobs(), schedule=shape), "sgd", seeds=1, steps=20)
        for shape in ("constant", "cosine")
    )
    assert plain == scheduled


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A comparison that tuned Adam on blobs."""
    out = tmp_path_factory.mktemp("lr") / "run"
    compare(f"{SMALL}:blobs", ["adam", "sgd"], trials=8, seeds=1, studies=1, workers=0, out=out, quiet=True)
    return out


def test_the_sweep_s_rate_is_that_of_the_lowest_expected_loss():
    """`synthetic` makes losses with a minimum at a known rate; few trials say their best."""
    whole = comparison(["adam"], trials=40)
    found = tuned_in(whole, "adam")
    assert found.rate == pytest.approx(BEST_RATE["adam"], rel=0.3)
    assert found.good.low < BEST_RATE["adam"] < found.good.high
    few = replace(whole, trials=whole.tuning("adam")[:4])
    best = min(few.trials, key=lambda t: inf if t.valid_loss is None else t.valid_loss)
    assert tuned_in(few, "adam") == Tuned(best.spec.settings["lr"], None, 4)


def test_a_recorded_comparison_is_read(recorded):
    from fallline.compare.run import read

    assert tuned_in(read(recorded), "adam").trials == 8


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    from fallline import cli

    monkeypatch.setattr("sys.argv", ["fallline", "lr-range", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    return end.value.code or 0, printed.out, printed.err


QUICK = [f"{SMALL}:blobs", "--optimizer", "adam", "--seeds", "2", "--steps", "30"]


def test_the_command_prints_table_plot_and_verdict_and_writes_the_figure(
    monkeypatch, capsys, recorded, tmp_path
):
    figure = tmp_path / "deep" / "figure.html"
    code, out, err = run(monkeypatch, capsys, *QUICK, "--run", recorded, "--out", figure)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for told in ("loss falls fastest at", "diverges at", "best of the sweep", "range test suggests"):
        assert told in out
    page = figure.read_text()
    assert "adam on blobs" in page
    assert "https://cdn" not in page.split("<body>")[1][:2000]


def test_the_command_prints_one_json_document(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, *QUICK, "--sweep", "0", "--json")
    document = json.loads(out)
    assert (code, err, document["tuned"], document["agrees"]) == (0, "", None, None)
    assert [len(probe["losses"]) <= 30 for probe in document["probes"]] == [True, True]


def test_a_sweep_of_its_own_is_kept_nowhere(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(monkeypatch, capsys, *QUICK, "--sweep", "3", "--json")
    assert (code, json.loads(out)["tuned"]["trials"]) == (0, 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--steps", "9"], "steps must be at least 10, got 9"),
        (["--optimizer", "adm"], "unknown optimizer 'adm'; did you mean 'adam'"),
        (["--sweep", "-1"], "sweep must be at least 0, got -1"),
    ],
)
def test_senseless_options_are_refused(monkeypatch, capsys, options, told):
    code, out, err = run(monkeypatch, capsys, *QUICK, "--sweep", "0", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {told}")


def test_another_run_is_refused(monkeypatch, capsys, recorded):
    code, _, err = run(monkeypatch, capsys, "digits", "--optimizer", "adam", "--run", recorded)
    assert (code, "the task is blobs, not digits" in err) == (2, True)
    code, _, err = run(monkeypatch, capsys, *QUICK[:1], "--optimizer", "nadam", "--run", recorded)
    assert (code, "the comparison has no nadam; it has adam, sgd" in err) == (2, True)


def test_a_model_that_raises_is_one_line():
    from small_task import unlucky

    with pytest.raises(ComparisonError, match="sgd on 'unlucky' raised RuntimeError: out of luck at call 6"):
        lr_range(unlucky(), "sgd", seeds=1, steps=20)


def made(suggestion: float, good: GoodRange | None) -> LrRange:
    """Return a test on made-up losses: a valley, and divergence at the end on one seed of two."""
    rates = np.geomspace(1e-4, 10, 60).tolist()
    losses = [2 - 0.03 * i if i < 45 else 0.65 + 0.05 * (i - 45) for i in range(60)]
    probes = [Probe(0, losses[:50], suggestion, rates[50]), Probe(2, losses, suggestion, None)]
    tuned = Tuned(0.05, good, 8)
    return LrRange("adam", "t", rates, probes, Spread(suggestion, suggestion, suggestion, 2), None, tuned)


def test_agreement_and_disagreement_are_said():
    good = GoodRange(0.01, 0.1)
    told = {x: " ".join(text(made(x, good)).split()) for x in (0.02, 1.0, 0.001)}
    assert "whole trainings agree: it is among their good rates" in told[0.02]
    assert "it lies 10.0 times above their good rates" in told[1.0]
    assert "it lies 10.0 times below their good rates" in told[0.001]
    assert "too few trials to say" in " ".join(text(made(0.02, None)).split())


def test_the_median_ends_where_half_of_the_seeds_diverged():
    low, middle, high = quartiles(made(0.02, None))
    assert np.isfinite(middle).sum() == 60
    assert np.isfinite(high).sum() == 50
    assert (low[:50] == high[:50]).all()


def test_the_plot_fits_and_marks_stand_above_their_rates(tmp_path):
    found = made(0.02, GoodRange(0.01, 0.1))
    lines = text(found).splitlines()
    assert max(map(len, lines)) <= 80
    (test,) = [line for line in lines if line.startswith("range test")]
    (sweep,) = [line for line in lines if line.strip().startswith("sweep ")]
    column = 11 + round((np.log10(0.02) + 4) / 5 * 67)
    assert test[column] == "F"
    assert sweep.index("-") < column < sweep.index("B")
    write_figure(found, tmp_path / "f.html")
    page = (tmp_path / "f.html").read_text()
    assert "good in the sweep" in page
    assert "plot_bgcolor" not in page.split("Plotly.newPlot(")[-1]  # none of Plotly's own colours


def test_a_loss_that_never_falls_suggests_nothing():
    found = replace(made(0.02, None), steepest=None)
    assert found.suggestion is None
    assert "suggests nothing: the loss never fell" in text(found)
    assert "never" in text(found)


def test_a_comparison_in_which_all_diverged_is_refused():
    whole = comparison(["adam"])
    lost = [replace(t, status="diverged", valid_loss=None) for t in whole.trials]
    with pytest.raises(ComparisonError, match="no tuning trial of adam ended well"):
        tuned_in(replace(whole, trials=lost), "adam")


def test_examples_in_docstrings():
    assert doctest.testmod(module, extraglobs={"load": load}).failed == 0
