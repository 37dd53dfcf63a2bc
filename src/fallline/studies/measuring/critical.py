"""The critical batch size: up to where a larger batch saves steps, as a law that is fitted to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np

from fallline.compare.statistics.cells import Cells
from fallline.compare.statistics.pairs import Interval, mean_interval
from fallline.studies.reading import averaged


@dataclass(frozen=True)
class Law:
    """Steps S to the target over the batch size B: S = ``steps`` (1 + ``critical`` / B)."""

    steps: float
    critical: float

    def at(self, size: float) -> float:
        """Return the steps with batches of ``size``."""
        return self.steps * (1 + self.critical / size)


def fitted(steps: Mapping[int, float]) -> Law:
    r"""Return the law that comes closest to ``steps`` by batch size, in squared differences of logarithms.

    .. math:: S = S_{\min} (1 + B_{\mathrm{crit}} / B)

    For small B, twice the batch takes half the steps; far above :math:`B_{\mathrm{crit}}` it saves none.

    Example:
        >>> law = fitted({8: 500.0, 32: 200.0, 128: 125.0})
        >>> round(law.steps, 3), round(law.critical, 3)
        (100.0, 32.0)

    Source: McCandlish, Kaplan, Amodei et al. 2018, https://arxiv.org/abs/1812.06162.
    """
    from scipy.optimize import minimize_scalar

    sizes, logs = np.array(list(steps), dtype=float), np.log(list(steps.values()))

    def apart(log_critical: float) -> np.ndarray:
        return logs - np.log1p(exp(log_critical) / sizes)

    ends = log(sizes.min()) - 5, log(sizes.max()) + 5
    found: Any = minimize_scalar(
        lambda x: float(np.var(apart(x))), bounds=ends, method="bounded", options={"xatol": 1e-8}
    )
    return Law(exp(float(np.mean(apart(found.x)))), exp(found.x))


def laws(steps: Mapping[int, Cells]) -> list[Law]:
    """Return the law of each study, over the means of its seeds; with a single study, of each seed."""
    shared = set.intersection(*(set(cells) for cells in steps.values()))
    several = len({study for study, _ in shared}) > 1
    groups: dict[int, list[tuple[int, int]]] = {}
    for cell in sorted(shared):
        groups.setdefault(cell[not several], []).append(cell)
    return [
        fitted({size: averaged(_part(cells, group), "log").mean for size, cells in steps.items()})
        for group in groups.values()
    ]


def _part(cells: Cells, group: Sequence[tuple[int, int]]) -> Cells:
    return {cell: cells[cell] for cell in group}


def critical(found: Sequence[Law]) -> Interval:
    """Return the critical batch size as a geometric mean, with its interval."""
    return mean_interval([law.critical for law in found], scale="log")


def typical(found: Sequence[Law]) -> Law:
    """Return the law with the geometric means of both numbers."""
    steps = mean_interval([law.steps for law in found], scale="log")
    return Law(steps.mean, critical(found).mean)
