"""Results by study and seed: the two levels of luck, and the optimizers' results laid side by side.

A *study* tunes the optimizers once; its finals repeat each winner on several seeds. Another study would find
other settings, so seeds alone understate the spread. A seed belongs to its study: (0, 1) and (1, 1) are two
runs. When there is only one study, its seeds can be given as studies of one cell each; what follows then
covers the luck of the seed only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fallline.compare.statistics.pairs import Pair, compare_pairs

#: {(study, seed): value} of one optimizer; less is better.
Cells = Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Sample:
    """The cells that all optimizers share, which takes out what a study or a seed does to all of them.

    ``values`` has a column per optimizer and a row per cell, study after study of ``sizes`` cells.
    """

    values: np.ndarray
    sizes: list[int]

    def study_means(self) -> np.ndarray:
        """Return the mean over the seeds of each study, a row per study."""
        ends = np.cumsum(self.sizes)[:-1]
        return np.array([block.mean(axis=0) for block in np.split(self.values, ends)])

    def means(self) -> np.ndarray:
        """Return each optimizer's mean over studies; every study counts the same, however many its seeds."""
        return self.study_means().mean(axis=0)


def shared_sample(results: Mapping[str, Cells]) -> Sample:
    """Return the cells that all optimizers of ``results`` have.

    Raises:
        ValueError: fewer than 2 studies are shared by all, or a shared value is not finite.

    >>> shared_sample({"a": {(0, 0): 1, (1, 0): 2}, "b": {(0, 0): 3, (1, 0): 4, (2, 0): 5}}).means().tolist()
    [1.5, 3.5]
    """
    shared = sorted(set.intersection(*(set(cells) for cells in results.values()))) if results else []
    studies = [study for study, _ in shared]
    sizes = [studies.count(study) for study in dict.fromkeys(studies)]
    if len(sizes) < 2:
        raise ValueError(
            f"The number of studies that all share is {len(sizes)}, which says nothing of how studies vary: "
            "give at least 2, or each seed as a study of its own if only the luck of the seed is asked for."
        )
    values = np.array([[cells[cell] for cells in results.values()] for cell in shared], dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("Values must be finite: leave out optimizers of which a run diverged.")
    return Sample(values, sizes)


def compare_studies(results: Mapping[str, Cells], overlap: float = 0.0) -> list[Pair]:
    """Compare every two optimizers, as `compare_pairs` does, by study means over the cells that all share.

    ``n`` of a pair counts studies, so the test covers both levels of luck. ``overlap`` is that of
    `compare_pairs`. Errors: see `shared_sample`.

    >>> a, b = {(0, 0): 1.0, (0, 1): 1.2, (1, 0): 3.0}, {(0, 0): 2.0, (0, 1): 2.4, (1, 0): 4.0}
    >>> [pair] = compare_studies({"a": a, "b": b})
    >>> pair.n, round(pair.difference, 3)
    (2, 1.05)
    """
    means = shared_sample(results).study_means()
    return compare_pairs(
        {name: dict(enumerate(column)) for name, column in zip(results, means.T, strict=True)}, overlap
    )
