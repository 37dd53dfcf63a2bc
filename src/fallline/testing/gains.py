"""The gain that a chain tells: how far a gradient goes that stays the same."""

from collections.abc import Iterator
from itertools import count

from fallline.core.plan import descend, plan
from fallline.core.transform import transform
from fallline.testing.check import check, dense_gradients, formulas
from fallline.testing.expectation import expect
from fallline.testing.oracle import begin, stepped
from fallline.testing.subject import Subject

GRADIENTS = 0.37, -3.0
#: After so many steps most averages have become the gradient, and after so many all but the slowest.
SOON, LATE = 300, 10_000
#: Numbers kept once per tensor may be rounded to float32.
ROUNDING = 1e-5


@transform()
def show_gain(p, gain):
    """Put the gain in the parameter's place."""
    return gain


def a_gain(subject: Subject) -> str | None:
    """Apply where every transform of the update tells its gain, and none follows the step."""
    links = [t for rule in subject.plans for t in rule.transforms if t is not descend]
    told = all(t.target == "g" and t.gain is not None for t in links)
    return None if told else "it does not tell its gain, or something follows the step"


@check(formulas, dense_gradients, a_gain)
def a_told_gain_is_that_of_a_steady_gradient(subject: Subject) -> None:
    """Where the gradient stays the same, the update comes to be the gradient times the gain that is told."""
    for g in GRADIENTS:
        soon = 0.0
        for step, (gain, update) in enumerate(_course(subject, g), 1):
            if step not in (SOON, LATE):
                continue
            away = abs(gain - abs(update / g)) / abs(gain)
            if away < ROUNDING:
                break
            coming = step == SOON or away < soon / 2
            seen = f"{update:.6g} after {step} steps, {away:.2g} of it away"
            expect(coming, f"an update of {gain * g:.6g}, the gain times the gradient {g}", seen)
            if step == LATE:
                break
            soon = away


def _course(subject: Subject, g: float) -> Iterator[tuple[float, float]]:
    """Yield the gain that is told and the update at each step from one place, on Python floats."""
    optimizer = subject.start(**subject.at_rest).optimizer
    links = optimizer.transforms(optimizer.param_groups[0])
    rule, telling = plan(links), plan((*links, show_gain))
    settings, values = begin(optimizer, rule, 1.0)
    for step in count(1):
        told = stepped(telling, values, g, settings, step)["p"]
        values = stepped(rule, values, g, settings, step)
        yield told, 1.0 - values["p"]
        values["p"] = 1.0
