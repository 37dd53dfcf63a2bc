"""The suite: every check that applies, on an optimizer of ours or of your own."""

from fallline.testing import (  # noqa: F401 - each adds its checks to CHECKS
    calls,
    checkpoints,
    counterpart,
    dtypes,
    formula,
    gains,
    hypergradients,
    refusals,
    symmetry,
    tensors,
)
from fallline.testing.check import CHECKS, Check
from fallline.testing.expectation import Deviation
from fallline.testing.report import ConformanceError, Failure, Report
from fallline.testing.subject import Maker, Subject
from fallline.testing.traits import Traits


def check_optimizer(make: Maker, *, traits: Traits | None = None) -> Report:
    """Check an optimizer against everything that any optimizer promises, and say all that is wrong with it.

    Which checks apply follows from the plan of its rules: whether each element is stepped by itself, sums
    are taken, or rules work on whole tensors. An optimizer that is none of ours has no plan and is checked
    from the outside. What a plan does not tell is in ``traits``.

    Args:
        make: an optimizer class, what `fallline.chain` returns, or a function ``(params, **settings)`` that
            returns an optimizer. It must be found in a module by its name, as its pickle is.
        traits: settings to make it with, and what it promises beside; see `Traits`.

    Returns:
        The names of the checks that passed, and why others were left out.

    Raises:
        ConformanceError: some checks fail; the text names each with what was expected and what was seen, and
            ``error.report.failed`` has them.

    Example:
        >>> import fallline
        >>> from fallline.testing import check_optimizer
        >>> report = check_optimizer(fallline.Lion)
        >>> "a_pickle_goes_on" in report.passed
        True
    """
    subject = Subject(make, traits)
    skipped = {name: reason for name, each in CHECKS.items() if (reason := each.left_out(subject))}
    ran = {name: run_check(each, subject) for name, each in CHECKS.items() if name not in skipped}
    passed = tuple(name for name, failure in ran.items() if failure is None)
    report = Report(subject.name, passed, skipped, tuple(failure for failure in ran.values() if failure))
    if report.failed:
        raise ConformanceError(report)
    return report


def run_check(one: Check, subject: Subject) -> Failure | None:
    """Return what is wrong, or None if the check passes."""
    try:
        one(subject)
    except Deviation as deviation:
        return Failure(one.name, one.states, deviation.expected, deviation.seen)
    except Exception as error:
        return Failure(one.name, one.states, "no error", f"{type(error).__name__}: {error}")
    return None
