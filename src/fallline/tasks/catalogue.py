"""The built-in tasks by name: where each is made, what it is, and how long one training of it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

#: How long one training takes on one core: under 0.1 s, under 1 s, under 10 s, or longer.
Cost = Literal["instant", "second", "seconds", "minutes"]


@dataclass(frozen=True)
class Listed:
    """A built-in task as `fallline list` shows it, known before anything of it is loaded.

    Args:
        module: inside `fallline.tasks`; it has ``maker``.
        summary: one line on data and model.
        cost: how long one training of it takes.
        maker: the function that returns the task; its arguments have defaults and may be given with the
            name, as in ``"quadratic(kappa=1000)"``.
    """

    module: str
    summary: str
    cost: Cost
    maker: str = "make_task"


#: Every built-in task, in the order of `fallline list`.
BUILT_IN: Mapping[str, Listed] = MappingProxyType(
    {
        "digits": Listed(
            "digits", "scikit-learn's digits, 8x8 pixels, 10 classes; an MLP 64-100-10", "second"
        ),
    }
)
