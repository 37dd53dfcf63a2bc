"""What happens in a step besides the optimizer's own: clipping the gradient, scheduling the rate."""

from collections.abc import Callable, Iterable
from itertools import count
from math import ceil
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from fallline import schedules
from fallline.schedules import Schedule
from fallline.tasks.task import Task

#: The shapes of the learning rate over so many steps, by the names that tasks use; "inverse_sqrt" has no end.
SHAPES: dict[str, Callable[[int], Schedule]] = {
    "constant": lambda steps: schedules.constant(),
    "linear": lambda steps: schedules.linear(1.0, 0.0, steps),
    "cosine": lambda steps: schedules.cosine(steps),
    "exponential": lambda steps: schedules.exponential(0.01 ** (1 / steps)),  # to a hundredth
    "step": lambda steps: schedules.step(ceil(steps / 3), 0.1),  # to a tenth, and to a hundredth
    "polynomial": lambda steps: schedules.polynomial(steps, power=2.0),
    "one_cycle": lambda steps: schedules.one_cycle(max(4, steps)),  # fewer have no room for its phases
}


class Stepping:
    """The steps of one training: clip, set the learning rate, step; only what the task asks for.

    Args:
        optimizer: anything with ``step`` and ``param_groups``.
        task: says the ``schedule``, the share of ``warmup``, and to which norm of all together to ``clip``.
        steps: of the whole training.

    Raises:
        ValueError: a schedule for an optimizer whose parameter groups have no ``lr``.
    """

    def __init__(self, optimizer: Any, task: Task, steps: int):
        self.optimizer, self.clip = optimizer, task.clip
        self.factor = learning_rate_factor(task.schedule, task.warmup, steps)
        if self.factor and not all("lr" in group for group in optimizer.param_groups):
            raise ValueError(
                f"{type(optimizer).__name__} has no learning rate (lr) to schedule; use schedule='constant'"
            )
        self.rates = [group["lr"] for group in optimizer.param_groups] if self.factor else []

    def after(
        self, step: int, parameters: Iterable[Tensor], make: Callable[[], object] | None = None
    ) -> Callable[[], object]:
        """Return what makes the next step each time it is called, after so many: lean if that is all.

        ``make`` takes the place of the optimizer's own step, if given.
        """
        following = make or self.optimizer.step
        if self.factor:
            following = _scheduled(
                following, self.optimizer.param_groups, self.rates, self.factor, count(step)
            )
        return following if self.clip is None else _clipped(following, list(parameters), self.clip)


def learning_rate_factor(shape: str, warmup: float, steps: int) -> Schedule | None:
    """Return the learning rate's schedule over ``steps``, as a factor; None where it stays as it is.

    The warm-up rises in equal steps and reaches the first value of ``shape`` after ``warmup`` of all steps.

    Example:
        >>> factor = learning_rate_factor("linear", 0.5, 8)
        >>> [factor(step) for step in range(8)]
        [0.25, 0.4375, 0.625, 0.8125, 1.0, 0.75, 0.5, 0.25]
    """
    rise = min(round(warmup * steps), steps - 1)
    if shape == "constant" and not rise:
        return None
    if shape == "inverse_sqrt":  # falls from the end of the warm-up on as if it had begun with the training
        return schedules.inverse_sqrt(rise + 1)
    factor = SHAPES[shape](steps - rise)
    return schedules.with_warmup(factor, rise, start=1 / rise) if rise else factor


def _scheduled(
    make: Callable[[], object],
    groups: list[dict[str, Any]],
    rates: list[float],
    factor: Schedule,
    steps: Iterable[int],
) -> Callable[[], object]:
    following = iter(steps)

    def scheduled() -> None:
        now = factor(next(following))
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * now
        make()

    return scheduled


def _clipped(make: Callable[[], object], parameters: list[Tensor], norm: float) -> Callable[[], object]:
    def clipped() -> None:
        clip_grad_norm_(parameters, norm)
        make()

    return clipped
