"""Numbers and lists as a reader wants them."""

from collections.abc import Sequence
from math import floor, isfinite, log10
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB")


def number(x: float) -> str:
    """Return ``x`` with three significant digits: 0.0912, 12.3, 1234, 2.50e+10.

    >>> number(0.1)
    '0.100'
    """
    if not isfinite(x):
        return str(x)
    if 1000 <= abs(x) < 99999.5:
        return f"{x:.0f}"
    return f"{x:#.3g}".removesuffix(".")


def ends(low: float, high: float) -> tuple[str, str]:
    """Return both ends of an interval; one that spans a factor of a thousand or more has no digits to tell.

    >>> ends(0.5, 2.0), ends(1.02e-19, 1.76e14)
    (('0.500', '2.00'), ('1e-19', '2e+14'))
    """
    vague = low > 0 and high >= 1000 * low
    low_text, high_text = (f"{float(f'{x:.1g}'):g}" if vague else number(x) for x in (low, high))
    return low_text, high_text


def rounded(x: Any) -> Any:
    """Round to 3 digits, or to 3 digits of 1 - x when that is small: 0.9991 must not become 1."""
    if not isinstance(x, float):
        return x
    return round(x, 2 - floor(log10(1 - x))) if 0.9 < x < 1 else float(f"{x:.3g}")


def setting(x: Any) -> str:
    """Return a hyperparameter's value briefly: 0.00316, 0.9, 10.

    >>> setting(0.00316228), setting(0.99964), setting("relu")
    ('0.00316', '0.99964', 'relu')
    """
    return f"{rounded(x):.15g}" if isinstance(x, float) else str(x)


def excess(ratio: float) -> str:
    """Return how much more a ``ratio`` of losses is: '4 % higher', '3.2 times as high'.

    >>> excess(1.04)
    '4 % higher'
    """
    if ratio >= 2:
        return f"{number(ratio)} times as high"
    return f"{ratio - 1:.0%} higher".replace("%", " %") if ratio >= 1.005 else "less than 1 % higher"


def duration(seconds: float) -> str:
    """Return a length of time as ``45 s``, ``3:20 min`` or ``2:05 h``; what is not over takes a second.

    >>> duration(0.2), duration(0)
    ('1 s', '0 s')
    """
    whole = 1 if 0 < seconds < 1 else max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def size(count: int) -> str:
    """Return a number of bytes with its unit, such as '60.3 kB'."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{number(value)} {_UNITS[unit]}"


def listing(items: Sequence[str], most: int = 6) -> str:
    """Return ``items`` as prose, naming at most ``most``: 'a, b and c', 'a, b and 7 others'.

    >>> listing(["adam, activation=relu", "sgd, activation=relu", "sgd, activation=tanh"])
    'adam, activation=relu; sgd, activation=relu; and sgd, activation=tanh'
    """
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} others"]
    if any(", " in item.partition(" (")[0] for item in items[:-1]):
        return "; ".join([*items[:-1], f"and {items[-1]}"])
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1]))) if items else ""


def plural(count: int, noun: str) -> str:
    """Return ``count`` and ``noun``, in the plural unless there is one.

    >>> plural(3, "more study")
    '3 more studies'
    """
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"


def last_line(error: str | None) -> str:
    """Return the line of a traceback that names the error."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason recorded"
