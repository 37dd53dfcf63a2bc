"""The steps of trainings that go on together: one for all whose optimizers can be joined."""

from collections.abc import Callable, Mapping, Sequence

from fallline.compare.trials.training import Training
from fallline.core.joint import Joint, joinable

#: What raised, by the place of its training.
Problems = dict[int, Exception]


class JointSteps:
    """Makes the steps of several trainings, each of which ends as if it had stepped alone.

    Args:
        trainings: with optimizers of any kind; those that are not `joinable` step one by one.
    """

    def __init__(self, trainings: Sequence[Training]):
        self._trainings = trainings
        self._joined = [i for i, training in enumerate(trainings) if joinable(training.optimizer)]
        self._joint = Joint([trainings[i].optimizer for i in self._joined])

    def from_here(self) -> Callable[[], Problems]:
        """Return what makes the next step of every training each time it is called."""
        first = {
            i: training.stepping.after(
                training.step, training.parameters, _nothing if i in self._joined else None
            )
            for i, training in enumerate(self._trainings)
        }

        def make() -> Problems:
            problems = _raised(first)
            return problems if self._stepped(problems) else problems | _raised(self._single(problems))

        return make

    def _stepped(self, problems: Problems) -> bool:
        """Make the joint step, unless one of its trainings has a problem or it is refused for all."""
        if not problems.keys().isdisjoint(self._joined):
            return False
        try:
            self._joint.step()
        except Exception:
            return False
        return True

    def _single(self, problems: Problems) -> Mapping[int, Callable[[], object]]:
        """Return the steps of those that did not make the joint one; each shows alone what is its own."""
        return {i: self._trainings[i].optimizer.step for i in self._joined if i not in problems}


def _raised(calls: Mapping[int, Callable[[], object]]) -> Problems:
    problems: Problems = {}
    for place, call in calls.items():
        try:
            call()
        except Exception as error:
            problems[place] = error
    return problems


def _nothing() -> None:
    """Leave the step to the joint one."""
