"""Architectures are searched as settings are: from the example, trained for real."""

from pathlib import Path

import pytest

from fallline.compare import compare
from fallline.core.python_file import run

EXAMPLE = Path(__file__).parents[2] / "examples" / "architecture_search.py"
ARM = "momentum"


@pytest.fixture(scope="module")
def example():
    return run(EXAMPLE)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "shapes"
    return compare(
        f"{EXAMPLE}:make_task", [ARM], trials=8, seeds=1, studies=1, out=out, workers=0, quiet=True,
        space={"task": {"epochs": 0.2}},
    )  # fmt: skip


def test_every_shape_was_the_one_that_was_trained(example, comparison):
    """Momentum keeps one float32 per parameter, so its state tells how large the model was."""
    assert len(comparison.trials) == 9
    for trial in comparison.trials:
        assert trial.status == "ok", trial.error
        shape = {name: trial.spec.settings[name] for name in example.SHAPES if name in trial.spec.settings}
        model = example.make_model(**shape)
        assert trial.state_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())


def test_kernels_are_searched_for_convolutions_alone(comparison):
    kinds = {trial.spec.settings["kind"] for trial in comparison.trials}
    assert kinds == {"dense", "conv"}
    for trial in comparison.trials:
        settings = trial.spec.settings
        assert ("kernel" in settings) == (settings["kind"] == "conv")
        assert isinstance(settings["width"], int)
        assert 8 <= settings["width"] <= 64


def test_a_kind_may_be_compared_with_another(example, tmp_path):
    comparison = compare(
        f"{EXAMPLE}:make_task", [ARM], trials=2, seeds=1, studies=1, out=tmp_path / "out", workers=0,
        quiet=True, space={"task": {"epochs": 0.2}}, scientific={"kind": ["dense", "conv"]},
    )  # fmt: skip
    assert list(comparison.plan.arms) == ["kind=dense", "kind=conv"]
    assert {trial.spec.arm for trial in comparison.trials if "kernel" in trial.spec.settings} == {"kind=conv"}
    assert {trial.status for trial in comparison.trials} == {"ok"}
