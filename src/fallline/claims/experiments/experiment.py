"""An experiment: what it runs in a lab, for any number of claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fallline.claims.again import Look, loss_on_test, measured_again
from fallline.claims.arrival import arrivals
from fallline.claims.chosen import Specs, aimed, last_loss, recorded
from fallline.claims.extraction import samples_of
from fallline.claims.samples import Samples
from fallline.claims.variants import shortened
from fallline.compare.records import Comparison
from fallline.compare.statistics.cells import Cells
from fallline.studies.lab import Effort, Lab
from fallline.tasks.task import Task

#: What a comparison costs. The luck of tuning is in the interval only if there are several studies.
USUAL, QUICK = Effort(8, 2, 7), Effort(4, 1, 3)
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
        timed: the arms of which it is measured how long they take to the target.
        looks: what is measured in final models, by name of the measure.
        looked_at: the arms of which it is.
    """

    task: Callable[[], Task]
    optimizers: tuple[str, ...]
    scientific: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    space: Mapping[str, Any] | None = None
    effort: Effort = USUAL
    quick: Effort = QUICK
    timed: tuple[str, ...] = ()
    looks: Mapping[str, Look] = field(default_factory=dict)
    looked_at: tuple[str, ...] = ()

    def __call__(self, lab: Lab) -> Samples:
        """Return what the comparison measures in ``lab``."""
        comparison, task = self.compared(lab)
        found = measured_again(comparison, task, recorded(comparison, self.looked_at), self.looks)
        times = arrivals(comparison, task, self.timed) if self.timed else {}
        return samples_of(comparison, task).having(found).having(times)

    def compared(self, lab: Lab) -> tuple[Comparison, Task]:
        """Return the comparison, and the task that it is on."""
        task = shortened(self.task(), QUICK_SHARE) if lab.quick else self.task()
        comparison = lab.compare(
            "comparison",
            self.optimizers,
            task=task,
            scientific=self.scientific,
            space=self.space,
            effort=self.quick if lab.quick else self.effort,
        )
        return comparison, task


@dataclass(frozen=True)
class AlsoAtTheEnd:
    """A comparison whose trainings are also judged at their end, where nobody stopped early.

    Beside "sgd", stopped at the lowest validation loss, there is "sgd, run on", the same trainings at their
    end, and "sgd, to the end", trainings whose settings tuning found best at the end.

    Args:
        comparison: what is compared.
        run_on: the arms whose trainings are also judged at their end.
        to_the_end: the arms that are also tuned for the end.
    """

    comparison: Tuned
    run_on: tuple[str, ...]
    to_the_end: tuple[str, ...]

    def __call__(self, lab: Lab) -> Samples:
        """Return what the comparison measures in ``lab``."""
        comparison, task = self.comparison.compared(lab)
        chosen = {
            "run on": recorded(comparison, self.run_on),
            "to the end": aimed(comparison, self.to_the_end, last_loss),
        }
        ends = {
            f"{arm}, {when}": cells
            for when, specs in chosen.items()
            for arm, cells in _at_the_end(comparison, task, specs).items()
        }
        return samples_of(comparison, task).having({"test loss": ends})


def _at_the_end(comparison: Comparison, task: Task, specs: Specs) -> Mapping[str, Cells]:
    return measured_again(comparison, task, specs, {"test loss": loss_on_test})["test loss"]
