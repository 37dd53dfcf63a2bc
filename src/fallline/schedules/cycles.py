# ruff: noqa: N801 (users write a schedule as they call a function)
"""Schedules that rise and fall: with restarts, in cycles, in one cycle, or with a plateau between."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt
from typing import Literal

from fallline.core.schedule import Schedule, number, refusal
from fallline.schedules.arguments import one_of, whole
from fallline.schedules.shapes import half_wave


@dataclass(frozen=True, repr=False)
class cosine_restarts(Schedule):
    r"""Half cosine waves from 1 down to ``end``, one after the other, each longer by a factor; for ever.

    .. math:: f(s) = b + (1 - b)\, \tfrac12 (1 + \cos(\pi u / n_i)), \qquad n_i = n\, m^i

    where :math:`u` is the number of steps since the :math:`i`-th restart.

    Args:
        first: :math:`n \ge 1`, steps of the first wave.
        multiplier: :math:`m \ge 1`, a whole number: how many times as long as the last the next wave is.
        end: :math:`b \ge 0`, the factor at which a wave arrives.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> schedule = cosine_restarts(10, multiplier=2)
        >>> schedule(5), schedule(10), schedule(20)
        (0.5, 1.0, 0.5)

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983.
    Differs from torch's CosineAnnealingWarmRestarts: ``end`` is a factor, not a learning rate, and a step is
    always whole.
    """

    first: int
    multiplier: int = 1
    end: float = 0.0

    def __post_init__(self):
        whole(self, "first")
        whole(self, "multiplier")
        number(self, "end")

    def value_at(self, step: int) -> float:
        """Return the height of the wave that the step is in."""
        start, steps = self._wave(step)
        return self.end + (1 - self.end) * half_wave(step - start, steps)

    def _wave(self, step: int) -> tuple[int, int]:
        """Return the start and length of the wave at ``step``, in whole numbers: waves begin exactly."""
        growth = self.multiplier - 1
        if growth == 0:
            return step - step % self.first, self.first
        bound = step * growth // self.first + 1
        power = self.multiplier ** round(log(bound) / log(self.multiplier))
        if power > bound:
            power //= self.multiplier
        return self.first * (power - 1) // growth, self.first * power


@dataclass(frozen=True, repr=False)
class cyclic(Schedule):
    r"""From ``start`` to ``peak`` and back in straight lines, again and again.

    .. math:: f(s) = a + (b - a)\, v\, k

    where :math:`v` is 0 at the ends of a cycle and 1 at its peak, and :math:`k` is by ``mode``: 1 for
    ``"triangular"``, :math:`2^{-i}` in the :math:`i`-th cycle (from 0) for ``"triangular2"``, :math:`c^s` for
    ``"exp_range"``.

    Args:
        start: :math:`a \ge 0`.
        peak: :math:`b \ge 0`; lower than ``start`` for a momentum that goes against the learning rate.
        up: steps from start to peak, at least 1.
        down: steps from peak to start; as ``up`` unless given.
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``.
        factor: :math:`0 < c \le 1`, for ``"exp_range"`` only.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> schedule = cyclic(0.1, 1.0, up=10)
        >>> schedule(0), schedule(10), schedule(20)
        (0.1, 1.0, 0.1)

    Source: Smith 2017, https://arxiv.org/abs/1506.01186.
    Differs from torch's CyclicLR: momentum is a schedule of its own, ``cyclic(0.9, 0.8, up=10)``.
    """

    start: float
    peak: float
    up: int
    down: int | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    factor: float = 1.0

    def __post_init__(self):
        number(self, "start")
        number(self, "peak")
        whole(self, "up")
        if self.down is not None:
            whole(self, "down")
        one_of(self, "mode", ("triangular", "triangular2", "exp_range"))
        number(self, "factor")
        if not 0 < self.factor <= 1:
            raise refusal(self, "factor", "must lie in (0, 1]")
        if self.factor != 1 and self.mode != "exp_range":
            raise refusal(self, "factor", "is read by mode='exp_range' only; leave it out")

    def value_at(self, step: int) -> float:
        """Return the height of the triangle that the step is in."""
        down = self.up if self.down is None else self.down
        cycle, place = divmod(step, self.up + down)
        height = place / self.up if place <= self.up else (self.up + down - place) / down
        return self.start + (self.peak - self.start) * height * self._damping(step, cycle)

    def _damping(self, step: int, cycle: int) -> float:
        return {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.factor**step}[self.mode]


@dataclass(frozen=True, repr=False)
class one_cycle(Schedule):
    r"""Up from ``start`` to ``peak``, and down to ``end`` at the very last step.

    .. math:: f(s) = x + (y - x)\, h(u)

    from the turn with value :math:`x` to the next with value :math:`y`, :math:`u` being the share of the way
    between them, and :math:`h(u) = u` or :math:`\tfrac12(1 - \cos \pi u)`. With :math:`n` steps and the rise
    :math:`r`, turns are at the steps 0, :math:`rn - 1`, :math:`n - 1`; with three phases at 0,
    :math:`rn - 1`, :math:`2rn - 2`, where the value is ``start`` again, and :math:`n - 1`.

    Args:
        steps: :math:`n \ge 2`.
        start: first factor; torch's ``1 / div_factor``.
        peak: the factor at the peak; lower than ``start`` for a momentum, ``one_cycle(n, 0.95, 0.85, 0.95)``.
        end: last factor; torch's ``1 / (div_factor * final_div_factor)``.
        rise: :math:`r` in (0, 1), the share of the steps that go up; torch's ``pct_start``.
        curve: ``"cosine"`` or ``"linear"``.
        three_phase: return to ``start`` as fast as it rose, and then go on to ``end``.

    Raises:
        TypeError, ValueError: an argument out of range, or a phase that has no step.

    Example:
        >>> schedule = 0.1 * one_cycle(100)
        >>> schedule(0), schedule(29), schedule(99)
        (0.004, 0.1, 4e-07)

    Source: Smith and Topin 2018, https://arxiv.org/abs/1708.07120.
    Differs from torch's OneCycleLR: momentum is a schedule of its own, and a phase without steps is an error
    here, where torch divides by zero.
    """

    steps: int
    start: float = 1 / 25
    peak: float = 1.0
    end: float = 1 / 25 / 1e4
    rise: float = 0.3
    curve: Literal["cosine", "linear"] = "cosine"
    three_phase: bool = False

    def __post_init__(self):
        whole(self, "steps", least=2)
        for name in ("start", "peak", "end", "rise"):
            number(self, name)
        one_of(self, "curve", ("cosine", "linear"))
        turns = [turn for turn, _ in self._turns]
        if any(a >= b for a, b in pairwise(turns)):
            raise refusal(self, "rise", f"must give each phase steps, but turns would be at {turns}")

    @property
    def length(self) -> int:
        """``steps``."""
        return self.steps

    @property
    def _turns(self) -> list[tuple[float, float]]:
        """Where the phases begin and end, and the values there."""
        top = self.rise * self.steps - 1
        back = [(2 * self.rise * self.steps - 2, self.start)] if self.three_phase else []
        return [(0.0, self.start), (top, self.peak), *back, (self.steps - 1.0, self.end)]

    def value_at(self, step: int) -> float:
        """Return the value between the two turns that the step lies between."""
        turns = self._turns
        if step >= self.steps - 1:
            return self.end
        after = next(i for i, (turn, _) in enumerate(turns) if step <= turn and i > 0)
        (begin, x), (finish, y) = turns[after - 1], turns[after]
        share = (step - begin) / (finish - begin)
        return x + (y - x) * (share if self.curve == "linear" else 1 - half_wave(share))


#: What is left of a decay from 1 to ``end`` after the share ``u`` of its steps.
DECAYS: dict[str, Callable[[float, float], float]] = {
    "linear": lambda u, end: end + (1 - end) * (1 - u),
    "cosine": lambda u, end: end + (1 - end) * half_wave(u),
    "sqrt": lambda u, end: end + (1 - end) * (1 - sqrt(u)),
    "exponential": lambda u, end: end**u,
}


@dataclass(frozen=True, repr=False)
class warmup_stable_decay(Schedule):
    r"""Up from 0 to 1 in a straight line, level for long, and a decay to ``end``.

    .. math::
        f(s) = s / w, \qquad f(s) = 1, \qquad f(s) = d(u)

    for :math:`s < w`, the next :math:`l` steps, and the last :math:`n`, of which the share :math:`u` is over.
    The decay is by ``shape``: ``"linear"`` :math:`b + (1-b)(1-u)`, ``"cosine"`` :math:`b + (1-b)\tfrac12(1 +
    \cos \pi u)`, ``"sqrt"`` :math:`b + (1-b)(1 - \sqrt u)`, ``"exponential"`` :math:`b^u`.

    Args:
        warmup: :math:`w \ge 0` steps.
        stable: :math:`l \ge 0` steps.
        decay: :math:`n \ge 1` steps, 10 to 20 % of all in the papers.
        end: :math:`b \ge 0`, where it arrives; greater than 0 for ``"exponential"``.
        shape: of the decay.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> schedule = warmup_stable_decay(10, 70, 20, shape="sqrt")
        >>> schedule(5), schedule(50), schedule(85)
        (0.5, 1.0, 0.5)

    Source: Hu et al. 2024 (MiniCPM), https://arxiv.org/abs/2404.06395; the shape ``"sqrt"`` is Hägele et al.
    2024, https://arxiv.org/abs/2405.18392. torch has no such scheduler.
    """

    warmup: int
    stable: int
    decay: int
    end: float = 0.0
    shape: Literal["linear", "cosine", "sqrt", "exponential"] = "linear"

    def __post_init__(self):
        whole(self, "warmup", least=0)
        whole(self, "stable", least=0)
        whole(self, "decay")
        number(self, "end")
        one_of(self, "shape", tuple(DECAYS))
        if self.shape == "exponential" and self.end == 0:
            raise refusal(self, "end", "must be greater than 0, which an exponential decay never reaches")

    @property
    def length(self) -> int:
        """The steps of all three parts."""
        return self.warmup + self.stable + self.decay

    def value_at(self, step: int) -> float:
        """Return the value in the part that the step is in."""
        if step < self.warmup:
            return step / self.warmup
        decayed = step - self.warmup - self.stable
        return DECAYS[self.shape](decayed / self.decay, self.end) if decayed > 0 else 1.0
