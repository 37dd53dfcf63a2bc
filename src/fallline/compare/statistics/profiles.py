"""Who is fast over many workloads: performance profiles, and the AlgoPerf score of times to a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

#: AlgoPerf gives no credit for more than this many times the fastest submission's time.
TAU_MAX = 4.0
#: How many values of tau AlgoPerf's scoring program integrates over.
POINTS = 100

#: {submission: {workload: time to the target}}, infinite where the target was missed.
Times = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Profiles:
    """Performance profiles: ``shares[s][i]`` is the share of workloads that s solves within ``taus[i]``."""

    taus: np.ndarray
    shares: dict[str, np.ndarray]

    def scores(self) -> dict[str, float]:
        """Return each submission's area under its profile over the width of ``taus``, 0 to 1, best first.

        A submission that is the fastest on every workload has 1, one that never comes within the largest
        tau has 0. The area is a sum of trapezoids, as AlgoPerf has it.
        """
        width = self.taus[-1] - self.taus[0]
        areas = {s: float(np.trapezoid(share, self.taus) / width) for s, share in self.shares.items()}
        return dict(sorted(areas.items(), key=lambda item: -item[1]))


def study_time(trials: Sequence[tuple[int, float]]) -> float:
    """Return the time of the trial that reached the target first, infinity when none did.

    Args:
        trials: of each tuning trial of one study the number of evaluations until the target and the time
            until then; the time of a trial that missed the target is infinite.

    First means after the fewest evaluations, which is how AlgoPerf's program picks the trial; with equal
    counts it is the shorter time.

    >>> study_time([(3, 21.0), (2, 25.0), (-1, float("inf"))])
    25.0
    """
    reached = [trial for trial in trials if trial[1] < inf]
    return min(reached)[1] if reached else inf


def workload_time(studies: Sequence[Sequence[tuple[int, float]]]) -> float:
    """Return the median over ``studies`` of `study_time`; infinite when half of them miss the target.

    >>> workload_time([[(2, 20.0)], [(3, 30.0)], [(-1, float("inf"))]])
    30.0
    """
    if not studies:
        return inf
    return float(np.median([study_time(trials) for trials in studies]))


def credited_times(times: Times, variants: Mapping[str, str], tau_max: float = TAU_MAX) -> Times:
    """Return the times on the base workloads that count under AlgoPerf's rule of held-out variants.

    Args:
        times: the time to the target of each submission on base workloads and variants.
        variants: {variant: base workload}.
        tau_max: the largest multiple of the fastest time that counts.

    A base workload that was missed makes its variants missed, then times of more than ``tau_max`` times
    the fastest are missed, then a missed variant makes its base workload missed. Only base workloads are
    returned.

    Raises:
        ValueError: a time is not positive.

    >>> times = {"a": {"w": 1.0, "w2": 9.0}, "b": {"w": 3.0, "w2": 2.0}}
    >>> credited_times(times, {"w2": "w"})
    {'a': {'w': inf}, 'b': {'w': 3.0}}

    Source: AlgoPerf's scoring/performance_profile.py (mlcommons/algorithmic-efficiency, 2024).
    """
    names, workloads, table = _table(times)
    column = {workload: i for i, workload in enumerate(workloads)}
    pairs = [(column[v], column[b]) for v, b in variants.items() if v in column and b in column]
    for variant, base in pairs:
        table[np.isinf(table[:, base]), variant] = inf
    table[table > tau_max * table.min(axis=0)] = inf
    for variant, base in pairs:
        table[np.isinf(table[:, variant]), base] = inf
    bases = [workload for workload in workloads if workload not in variants]
    return {s: {w: float(table[i, column[w]]) for w in bases} for i, s in enumerate(names)}


def performance_ratios(times: Times) -> dict[str, dict[str, float]]:
    """Return each time over the fastest submission's on that workload, r = t / min t; at least 1.

    A workload that a submission lacks counts as missed; one that all missed is infinite for all.

    Raises:
        ValueError: a time is not positive.

    >>> performance_ratios({"a": {"w": 2.0}, "b": {"w": 3.0}})
    {'a': {'w': 1.0}, 'b': {'w': 1.5}}

    Source: Dolan and Moré, Benchmarking Optimization Software with Performance Profiles, 2002.
    """
    names, workloads, table = _table(times)
    fastest = table.min(axis=0)
    solved = np.isfinite(fastest)
    table[:, solved] /= fastest[solved]
    return {s: dict(zip(workloads, row.tolist(), strict=True)) for s, row in zip(names, table, strict=True)}


def performance_profiles(times: Times, tau_max: float = TAU_MAX, points: int = POINTS) -> Profiles:
    """Return ρ(τ), the share of workloads on which a submission takes at most τ times the fastest time.

    Args:
        times: the time to the target of each submission on each workload, infinite when missed.
        tau_max: the largest τ, above 1.
        points: how many values of τ, equally spaced from 1; more come closer to the exact area, which is
            the mean over workloads of (tau_max - r)/(tau_max - 1) for ratios r up to tau_max.

    Raises:
        ValueError: a time is not positive, ``tau_max`` is not above 1, or there are fewer than 2 points.

    >>> profiles = performance_profiles({"a": {"v": 1.0, "w": 4.0}, "b": {"v": 3.0, "w": 2.0}})
    >>> {s: round(score, 2) for s, score in profiles.scores().items()}
    {'a': 0.84, 'b': 0.67}

    Source: Dolan and Moré 2002; the score: Dahl et al., Benchmarking Neural Network Training Algorithms,
    2023, whose program takes 100 points up to 4.
    """
    if not tau_max > 1:
        raise ValueError(f"tau_max must be above 1, the ratio of the fastest; got {tau_max}.")
    if points < 2:
        raise ValueError(f"points must be at least 2 to span an area; got {points}.")
    taus = np.linspace(1.0, tau_max, points)
    ratios = {s: np.array(list(row.values())) for s, row in performance_ratios(times).items()}
    return Profiles(taus, {s: np.mean(r <= taus[:, None], axis=1) for s, r in ratios.items()})


def _table(times: Times) -> tuple[list[str], list[str], np.ndarray]:
    """Return submissions, workloads and a table of times, infinite where there is none."""
    workloads = list(dict.fromkeys(w for row in times.values() for w in row))
    table = np.array([[row.get(w, inf) for w in workloads] for row in times.values()], dtype=float)
    if not table.size:
        raise ValueError("No times given: at least one submission with one workload is needed.")
    if not (table > 0).all():
        raise ValueError(
            "Times must be positive; a missed target is infinity, not NaN, zero or a negative number."
        )
    return list(times), workloads, table
