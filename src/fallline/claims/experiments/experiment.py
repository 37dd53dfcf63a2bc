"""An experiment: what it runs in a lab, for any number of claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fallline.claims.again import Look, measured_again
from fallline.claims.extraction import samples_of
from fallline.claims.samples import Samples
from fallline.claims.variants import shortened
from fallline.studies.lab import Effort, Lab
from fallline.tasks.task import Task

#: What a comparison costs. The luck of tuning is in the interval only if there are several studies.
USUAL, QUICK = Effort(8, 2, 5), Effort(4, 1, 3)
#: Share of its length that a training has when the user wants a first impression.
QUICK_SHARE = 0.4


@dataclass(frozen=True)
class Experiment:
    """An experiment by name: ``measure`` runs it and returns what it measured."""

    name: str
    about: str
    measure: Callable[[Lab], Samples]


@dataclass(frozen=True)
class Tuned:
    """A comparison of arms, each tuned anew, and what is measured of them.

    Args:
        task: makes what is trained.
        optimizers: as of `fallline.compare`.
        scientific: levels that are compared, as of `fallline.compare`.
        space: search spaces, as of `fallline.compare`.
        effort: of the comparison; ``quick`` for a first impression.
        looks: what is measured in final models, by name of the measure.
        looked_at: the arms of which it is.
    """

    task: Callable[[], Task]
    optimizers: tuple[str, ...]
    scientific: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    space: Mapping[str, Any] | None = None
    effort: Effort = USUAL
    quick: Effort = QUICK
    looks: Mapping[str, Look] = field(default_factory=dict)
    looked_at: tuple[str, ...] = ()

    def __call__(self, lab: Lab) -> Samples:
        """Return what the comparison measures in ``lab``."""
        task = shortened(self.task(), QUICK_SHARE) if lab.quick else self.task()
        comparison = lab.compare(
            "comparison",
            self.optimizers,
            task=task,
            scientific=self.scientific,
            space=self.space,
            effort=self.quick if lab.quick else self.effort,
        )
        samples = samples_of(comparison, task)
        return samples.having(measured_again(comparison, task, self.looked_at, self.looks))
