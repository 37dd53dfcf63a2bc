"""What a check states: something expected, and what was seen instead."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Deviation(Exception):  # noqa: N818 - it carries what a check found, and never leaves the suite
    """A check has seen something else than it expects."""

    def __init__(self, expected: str, seen: str):
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected, self.seen = expected, seen


def expect(holds: bool, expected: str, seen: str) -> None:
    """Raise a Deviation unless ``holds``."""
    if not holds:
        raise Deviation(expected, seen)


def expect_same(wanted: Sequence[Tensor], got: Sequence[Tensor], expected: str) -> None:
    """Expect the same bits."""
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        expect(a.shape == b.shape, expected, f"shape {tuple(b.shape)} in place of {tuple(a.shape)}")
        expect(torch.equal(a, b), expected, _difference(i, a, b))


def expect_close(
    wanted: Sequence[Tensor], got: Sequence[Tensor], expected: str, relative: float, absolute: float
) -> None:
    """Expect numbers that differ by at most a share of the wanted ones, plus ``absolute``."""
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        expect_within(a, b, relative * a.detach().abs() + absolute, expected, i)


def expect_within(wanted: Tensor, got: Tensor, bound: Tensor, expected: str, place: int = 0) -> None:
    """Expect each number within its own ``bound`` of the wanted one; NaN is never within."""
    a, b = wanted.detach(), got.detach().to(wanted.dtype)
    expect(a.shape == b.shape, expected, f"shape {tuple(b.shape)} in place of {tuple(a.shape)}")
    expect(bool(((a - b).abs() <= bound).all()), expected, _difference(place, a, b))


def expect_refused(
    call: Callable[[], object], errors: type[Exception] | tuple[type[Exception], ...], words: str, when: str
) -> None:
    """Expect an error of one of these types whose text has ``words`` in it."""
    kinds = errors if isinstance(errors, tuple) else (errors,)
    expected = f"{' or '.join(kind.__name__ for kind in kinds)} that says {words!r} for {when}"
    try:
        call()
    except kinds as error:
        expect(words.lower() in str(error).lower(), expected, _shown(error))
    except Exception as error:
        raise Deviation(expected, _shown(error)) from error
    else:
        raise Deviation(expected, "no error")


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _difference(place: int, a: Tensor, b: Tensor) -> str:
    a, b = (x.detach().to(torch.complex128 if x.is_complex() else torch.float64) for x in (a, b))
    if not b.abs().isfinite().all():
        return f"tensor {place} is not finite in {int((~b.abs().isfinite()).sum())} of {b.numel()} elements"
    away, count = (a - b).abs(), int((a != b).sum())
    return f"tensor {place} differs in {count} of {a.numel()} elements, by up to {away.max():.3g}"
