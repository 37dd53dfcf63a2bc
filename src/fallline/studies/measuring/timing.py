"""What took how long: functions timed in turns, the median with its interval, and on which machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from statistics import median

from fallline.compare.statistics.pairs import Interval


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the seconds of each of ``calls`` in each of ``rounds``, as a mean over ``steps`` calls at once.

    What else the machine does hits all of them alike, and ratios within a round are free of it.

    Example:
        >>> seconds = in_turns({"nothing": dict, "a nap": lambda: time.sleep(1e-3)}, rounds=3, steps=1)
        >>> len(seconds["nothing"]), min(seconds["a nap"]) >= 1e-3
        (3, True)
    """
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(steps):
                call()
            seen[name].append((time.perf_counter() - started) / steps)
    return seen


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Return the median of ``values`` and its interval, which assumes nothing of how they are distributed.

    .. math::
        [x_{(k)}, x_{(n+1-k)}], \qquad k = \max \{k : P(B < k) \le (1 - c) / 2\}

    with :math:`x_{(i)}` the i-th smallest of the n values, :math:`B` binomial with n trials of 1/2, and
    :math:`c` the ``confidence``. Fewer than 6 values have no interval of 95 %.

    Example:
        >>> median_interval([5, 1, 2, 3, 4, 6, 7, 90, 8])
        Interval(mean=5, low=2, high=8)

    Source: Thompson, On Confidence Ranges for the Median, Annals of Mathematical Statistics 1936.
    """
    from scipy.stats import binom

    ordered, n = sorted(values), len(values)
    outside = (k for k in range(n // 2, 0, -1) if binom.cdf(k - 1, n, 0.5) <= (1 - confidence) / 2)
    k = next(outside, None)
    if k is None:
        return Interval(median(values))
    return Interval(median(values), ordered[k - 1], ordered[n - k])


def busy(share: float) -> list[str]:
    """Return a caveat where other programs leave less than nine tenths of the cores to what is timed.

    Arguments:
        share: of a core that is free now, of each: see `fallline.compare.cost.core_share`.

    Example:
        >>> busy(0.5), busy(0.97)
        (['Other programs ran on this machine: of each core 50 % was free, which times depend on.'], [])
    """
    free = f"of each core {100 * share:.0f} % was free"
    return [f"Other programs ran on this machine: {free}, which times depend on."] if share < 0.9 else []


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stamp() -> dict[str, str]:
    """Return machine, versions and date, as the facts of a finding that is no comparison."""
    versions = {
        **{name: version(name) for name in ("torch", "fallline")},
        "python": platform.python_version(),
    }
    return {
        "Machine": f"{platform.machine()}, {cores()} cores, {platform.system()}",
        "Versions": ", ".join(f"{name} {each}" for name, each in versions.items()),
        "Date": f"{datetime.now().astimezone():%Y-%m-%d}",
    }
