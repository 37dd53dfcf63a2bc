# ruff: noqa: N801 (users write a schedule as they call a function)
"""The schedule with state: it falls when a metric has stopped improving."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import copysign, inf
from typing import Any, Literal

from fallline.core.schedule import Stateful, number, refusal
from fallline.schedules.arguments import one_of, whole


@dataclass(frozen=True, repr=False)
class reduce_on_plateau(Stateful):
    r"""A factor that falls when a metric has not improved for some time.

    .. math:: v \leftarrow \max(c\, v, v_{\min})

    at the :math:`(p + 1)`-th observation in a row that does not improve, starting at :math:`v = 1`. One
    improves if it is below :math:`(1 - \tau)` times the best so far, or below the best minus :math:`\tau`
    (above, with the signs turned, for ``mode="max"``). NaN never improves.

    Args:
        factor: :math:`c` in (0, 1).
        patience: :math:`p \ge 0` observations without improvement that are borne.
        mode: ``"min"`` for a loss, ``"max"`` for an accuracy.
        threshold: :math:`\tau \ge 0`; below 1 if relative.
        threshold_mode: ``"rel"`` or ``"abs"``.
        cooldown: observations after a fall during which none is counted as bad, at least 0.
        min_factor: :math:`v_{\min}` in [0, 1].

    State: the value, the best metric, and the counts of bad observations and of cooldown left.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> schedule = reduce_on_plateau(factor=0.5, patience=0)
        >>> for loss in [2.0, 1.0, 1.0]:
        ...     schedule.observe(loss)
        >>> schedule(3)
        0.5

    Differs from torch's ReduceLROnPlateau: it can be scaled, joined and given a warm-up; there is no smallest
    change ``eps``; a relative threshold is relative to the metric's size, also where that is negative.
    """

    factor: float = 0.1
    patience: int = 10
    mode: Literal["min", "max"] = "min"
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_factor: float = 0.0
    _state: dict[str, Any] = field(init=False, default_factory=dict, hash=False)

    def __post_init__(self):
        for name in ("factor", "threshold", "min_factor"):
            number(self, name)
        whole(self, "patience", least=0)
        whole(self, "cooldown", least=0)
        one_of(self, "mode", ("min", "max"))
        one_of(self, "threshold_mode", ("rel", "abs"))
        if not 0 < self.factor < 1:
            raise refusal(self, "factor", "must lie in (0, 1)")
        if self.min_factor > 1:
            raise refusal(self, "min_factor", "must lie in [0, 1]")
        if self.threshold_mode == "rel" and self.threshold >= 1:
            raise refusal(self, "threshold", "must be less than 1 where it is relative")
        worst = inf if self.mode == "min" else -inf
        self._state.update(value=1.0, best=worst, bad=0, cooling=0)

    def value_at(self, step: int) -> float:
        """Return the value that the observations so far have led to."""
        return self._state["value"]

    def observe(self, metric: Any) -> None:
        """Take note of a metric: a number, or a tensor of one element."""
        state, metric = self._state, float(metric)
        if self._improves(metric):
            state.update(best=metric, bad=0)
        else:
            state["bad"] += 1
        if state["cooling"]:
            state.update(cooling=state["cooling"] - 1, bad=0)
        if state["bad"] > self.patience:
            value = max(state["value"] * self.factor, self.min_factor)
            state.update(value=value, cooling=self.cooldown, bad=0)

    def state_dict(self) -> dict[str, float]:
        """Return the state: ``value``, ``best``, ``bad`` and ``cooling``."""
        return dict(self._state)

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Go on from what `state_dict` returned."""
        if set(state_dict) != set(self._state):
            raise ValueError(
                f"not a state of reduce_on_plateau: it has the keys {sorted(state_dict)}; "
                f"load what state_dict() returned, with {sorted(self._state)}"
            )
        self._state.update(state_dict)

    def _improves(self, metric: float) -> bool:
        best, down = self._state["best"], self.mode == "min"
        threshold = -self.threshold if down else self.threshold
        relative = self.threshold_mode == "rel"
        bound = best * (1 + copysign(1, best) * threshold) if relative else best + threshold
        return metric < bound if down else metric > bound
