"""Schedules: hyperparameters as pure functions of the step; factors, to be multiplied by a first value."""

from fallline.core.errors import ScheduleEnded
from fallline.core.schedule import Schedule, Stateful
from fallline.schedules.combine import join, scale, warmup_cosine, with_warmup
from fallline.schedules.cycles import cosine_restarts, cyclic, one_cycle, warmup_stable_decay
from fallline.schedules.plateau import reduce_on_plateau
from fallline.schedules.scheduler import LRScheduler
from fallline.schedules.shapes import (
    constant,
    cosine,
    exponential,
    inverse_sqrt,
    linear,
    multistep,
    polynomial,
    step,
)

__all__ = [
    "LRScheduler", "Schedule", "ScheduleEnded", "Stateful", "constant", "cosine", "cosine_restarts", "cyclic",
    "exponential", "inverse_sqrt", "join", "linear", "multistep", "one_cycle", "polynomial",
    "reduce_on_plateau", "scale", "step", "warmup_cosine", "warmup_stable_decay", "with_warmup",
]  # fmt: skip
