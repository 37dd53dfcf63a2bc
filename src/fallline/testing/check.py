"""A check: one statement about optimizers, and to which of them it applies."""

from collections.abc import Callable
from dataclasses import dataclass

from fallline.testing.subject import Subject

#: Returns why a check does not apply, or None if it does.
Need = Callable[[Subject], str | None]


@dataclass(frozen=True)
class Check:
    """One statement, made by a function that raises where it does not hold; its docstring says it."""

    function: Callable[[Subject], None]
    needs: tuple[Need, ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def states(self) -> str:
        """The statement, in one sentence."""
        return (self.function.__doc__ or self.name).splitlines()[0].rstrip(".")

    def left_out(self, subject: Subject) -> str | None:
        """Return why it does not apply to ``subject``, or None if it does."""
        return next((reason for need in self.needs if (reason := need(subject))), None)

    def __call__(self, subject: Subject) -> None:
        """Raise an error that tells what was expected and seen, unless the statement holds."""
        self.function(subject)


#: Every check by name, in the order in which they run.
CHECKS: dict[str, Check] = {}


def check(*needs: Need) -> Callable[[Callable[[Subject], None]], Check]:
    """Add a function to the checks; it applies where every need returns None."""

    def add(function: Callable[[Subject], None]) -> Check:
        CHECKS[function.__name__] = Check(function, needs)
        return CHECKS[function.__name__]

    return add


def a_plan(subject: Subject) -> str | None:
    """Apply to optimizers made of transforms."""
    return None if subject.planned else "it has no plan: it is not a fallline.Optimizer"


def elements(subject: Subject) -> str | None:
    """Apply to rules that step each element by itself."""
    return a_plan(subject) or (None if subject.elementwise else "it takes sums or works on whole tensors")


def formulas(subject: Subject) -> str | None:
    """Apply to rules that are scalar formulas, sums among them."""
    return a_plan(subject) or ("it works on whole tensors" if subject.whole else None)


def tensors_apart(subject: Subject) -> str | None:
    """Apply to rules that step each tensor without a look at the others."""
    if subject.numbered:
        return "it draws numbers by the place of a tensor among all"
    return None if subject.tensorwise else "it has no plan, or takes sums over several tensors"


def no_places(subject: Subject) -> str | None:
    """Leave out rules that ask which place a tensor has."""
    return "it draws numbers by the place of a tensor among all" if subject.numbered else None


def dense_gradients(subject: Subject) -> str | None:
    """Leave out what takes sparse gradients only."""
    return "it takes sparse gradients only" if subject.sparse_only else None


def setting(name: str) -> Need:
    """Apply to optimizers whose groups have a setting of this name."""

    def has(subject: Subject) -> str | None:
        return None if name in subject.group else f"it has no setting {name!r}"

    return has


def promised(trait: str) -> Need:
    """Apply where a trait that may be None is not."""

    def given(subject: Subject) -> str | None:
        return f"its traits have {trait}=None" if getattr(subject.traits, trait) is None else None

    return given
