"""What came of a suite of checks."""

from collections.abc import Mapping
from dataclasses import dataclass

from fallline.core.errors import FalllineError


@dataclass(frozen=True)
class Failure:
    """A check that failed: what it states, what it expected, and what it saw."""

    check: str
    states: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"{self.check}: {self.states}\n    expected: {self.expected}\n    seen: {self.seen}"


@dataclass(frozen=True)
class Report:
    """The names of the checks that passed, those left out with the reason, and the failures."""

    subject: str
    passed: tuple[str, ...]
    skipped: Mapping[str, str]
    failed: tuple[Failure, ...]

    def __str__(self) -> str:
        ran = len(self.passed) + len(self.failed)
        verdict = f"fails {len(self.failed)} of {ran} checks" if self.failed else f"passes all {ran} checks"
        lines = [f"{self.subject} {verdict}", *(f"  {failure}" for failure in self.failed)]
        for reason in dict.fromkeys(self.skipped.values()):
            names = ", ".join(name for name, given in self.skipped.items() if given == reason)
            lines.append(f"  left out, as {reason}: {names}")
        return "\n".join(lines)


class ConformanceError(FalllineError, AssertionError):
    """An optimizer fails some of the checks; ``report`` has them all."""

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report
