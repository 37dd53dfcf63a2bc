"""The examples are run as a reader would run them, and what they print is checked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def printed(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["learn_the_learning_rate.py", "maml_sine.py"])
def test_an_example_is_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 70


@pytest.mark.long
def test_the_learned_learning_rate_is_as_good_as_the_best_of_a_sweep():
    rows = re.findall(
        r"^(.+?) +lr ([\d.]+)  mean loss ([\d.]+)$", printed("learn_the_learning_rate.py"), re.M
    )
    losses = {name: float(loss) for name, _, loss in rows}
    rates = {name: float(lr) for name, lr, _ in rows}
    assert losses["start"] > 10 * losses["learned"]
    # the loss is flat around its minimum: 2 % of it is reached within a quarter of the rate
    assert losses["learned"] == pytest.approx(losses["best of the sweep"], rel=0.02)
    assert rates["learned"] == pytest.approx(rates["best of the sweep"], rel=0.25)


@pytest.mark.long
def test_one_step_after_meta_training_beats_one_after_pretraining():
    """2.4 times on the machine where it was written; 1.34 after a third of the meta-training."""
    factor = re.search(r"better by a factor of ([\d.]+)", printed("maml_sine.py"))
    assert factor is not None
    assert float(factor.group(1)) > 1.8
