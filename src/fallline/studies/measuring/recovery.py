"""Which coefficients are not zero? Proximal steps beside L1 by subgradient, at strengths of the penalty."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fallline import SGD
from fallline.compare.judgement.wording import number, setting
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.measuring.penalized import add_l1_subgradient
from fallline.tasks.load import load
from fallline.tasks.threads import one_thread

#: Of 200 coefficients 8 are not zero; the rate is below 2/L, so that gradient descent settles.
TASK, RATE = "sparse-recovery", 0.2
#: Strengths of the penalty, of which theory says that the middle ones find the support.
STRENGTHS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
METHODS = {"proximal": "proximal-sgd", "subgradient": "fallline.studies.measuring.recovery:l1_by_subgradient"}


@dataclass(frozen=True)
class Recovered:
    """What a training with a penalty has found: whether exactly the support, F1, and the share of zeros."""

    method: str
    strength: float
    is_exact: bool
    f1: float
    zeros: float


def l1_by_subgradient(params: Iterable[Tensor], lr: float = 0.1, strength: float = 0.0) -> SGD:
    """Return SGD on the loss plus ``strength`` times the sum of absolute values.

    Example:
        >>> weight = Tensor([0.5, -0.5]).requires_grad_()
        >>> weight.grad = Tensor([0.0, 0.0])
        >>> l1_by_subgradient([weight], lr=0.1, strength=1.0).step()
        >>> weight.tolist()
        [0.4000000059604645, -0.4000000059604645]
    """
    return SGD(params, lr=lr, before=[add_l1_subgradient(strength)])


def recover(quick: bool) -> list[Recovered]:
    """Train with each method at each strength, or each other one when quick."""
    strengths = STRENGTHS[1::2] if quick else STRENGTHS
    return [_recovered(method, strength) for method in METHODS for strength in strengths]


def _recovered(method: str, strength: float) -> Recovered:
    spec = Spec(method, "tune", 0, 0, {"lr": RATE, "strength": strength})
    with one_thread():
        trial = run_trial(load(TASK), Arm(METHODS[method]), spec)
    last = {name: values[-1] for name, values in trial.curve.metrics.items()}
    return Recovered(method, strength, last["exact support"] == 1, last["support F1"], last["zeros"])


def told(found: Sequence[Recovered]) -> str:
    """Return how often each method found the support, and how many zeros it made at most, as a sentence."""
    said = []
    for method in METHODS:
        own = [each for each in found if each.method == method]
        exact = sum(each.is_exact for each in own)
        zeros = 100 * max(each.zeros for each in own)
        made = f"up to {zeros:.3g} % of the weights" if zeros else "no weight"
        said.append(
            f"{method} steps find exactly the planted support at {exact} of {len(own)} strengths of the L1 "
            f"penalty, and make {made} exactly zero"
        )
    return f"On {TASK} {'; '.join(said)}."


def table(found: Sequence[Recovered]) -> Table:
    """Return a row for each strength, with what both methods found."""
    rows = []
    for strength in dict.fromkeys(each.strength for each in found):
        own = [each for each in found if each.strength == strength]
        rows.append([setting(strength), *(cell for each in own for cell in _cells(each))])
    heads = [head for method in METHODS for head in (f"{method}: exact", "F1", "zeros")]
    note = "F1 of the weights that are not exactly zero against the planted ones; zeros: in per cent."
    return Table(["strength", *heads], rows, f"Which weights are not zero, on {TASK}", note)


def _cells(each: Recovered) -> list[str]:
    return ["yes" if each.is_exact else "no", number(each.f1), f"{100 * each.zeros:.3g}"]


def figure(found: Sequence[Recovered]) -> Figure:
    """Return F1 over the strength for both methods."""
    drawn = {
        method: Line(
            [each.strength for each in found if each.method == method],
            [each.f1 for each in found if each.method == method],
        )
        for method in METHODS
    }
    about = "F1 of the weights that are not exactly zero against the planted ones; 1 is exactly the support."
    axes = Axis("strength of the L1 penalty", log=True), Axis("F1 of the support")
    return Figure("Finding the support", about, lines(drawn, *axes))
