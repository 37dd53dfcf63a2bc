"""The hyperparameters that many optimizers share, as records; each optimizer names its own default."""

from collections.abc import Mapping, Sequence
from typing import Any

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.parts import GAIN
from fallline.core.space import USUAL, Range
from fallline.core.transform import Transform


def learning_rate(default: float, low: float, high: float) -> Hyperparameter:
    """Return the record of a learning rate searched from ``low`` to ``high`` on a log scale."""
    return Hyperparameter(
        "lr", default, "learning rate: how far one step goes", "η", "parameter units per unit of update",
        low=0, search=Range(low, high, "log"), complaint="Invalid learning rate",
    )  # fmt: skip


def betas(beta1: float, beta2: float) -> Hyperparameter:
    """Return the record of Adam's pair of decay rates."""
    return decay_rates((beta1, "average of gradients"), (beta2, "average of squared gradients"))


def decay_rates(*averages: tuple[float, str]) -> Hyperparameter:
    """Return the record of ``betas``: for each average the default of its decay rate, and what it is of."""
    parts = tuple(
        Hyperparameter(
            f"beta{i}", default, f"decay rate of the {average}", f"β{'₁₂₃'[i - 1]}", "per step", low=0,
            high=1, open_high=True, search=USUAL["beta1" if i == 1 else "beta2"],
            complaint=f"Invalid beta parameter at index {i - 1}",
        )
        for i, (default, average) in enumerate(averages, 1)
    )  # fmt: skip
    defaults = tuple(default for default, _ in averages)
    return Hyperparameter("betas", defaults, "decay rates of the averages", parts=parts)


def epsilon(default: float) -> Hyperparameter:
    """Return the record of the small number that keeps a denominator from zero."""
    return Hyperparameter(
        "eps", default, "added to the denominator", "ε", "gradient units", low=0,
        search=USUAL["eps"], complaint="Invalid epsilon value",
    )  # fmt: skip


def weight_decay(default: float) -> Hyperparameter:
    """Return the record of the strength of weight decay."""
    return Hyperparameter(
        "weight_decay", default, "strength of weight decay", "λ", "per unit of learning rate", low=0,
        search=USUAL["weight_decay"],
    )  # fmt: skip


def momentum(default: float) -> Hyperparameter:
    """Return the record of the share of the last velocity that is kept."""
    return Hyperparameter(
        "momentum", default, "share of the last velocity that is kept", "μ", "per step", low=0,
        search=USUAL["momentum"],
    )  # fmt: skip


def check_velocity(after: Sequence[Transform], group: Mapping[str, Any]) -> None:
    """Refuse a penalty after a velocity that never comes to rest: its step size would be infinite."""
    if group["momentum"] >= 1 and any(GAIN in t.inputs for t in after):
        raise ValueError(
            f"Invalid momentum value: {group['momentum']}; a penalty after the step needs momentum below 1"
        )


def flag(name: str, meaning: str) -> Hyperparameter:
    """Return the record of a switch that is off by default."""
    return Hyperparameter(name, False, meaning)


MAXIMIZE = flag("maximize", "climb instead of descend")
DECOUPLED = flag("decoupled_weight_decay", "shrink parameters directly, not through the gradient")


def space(optimizer: type, *names: str) -> dict[str, Range]:
    """Return the published ranges of the named hyperparameters of ``optimizer``."""
    records = [part for h in optimizer.hyperparameters for part in (h.parts or (h,))]  # type: ignore[attr-defined]
    return {name: next(r.search for r in records if r.name == name) for name in names}
