"""How state and parameters are stored: the precision of an optimizer, whatever its rule."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fallline.core.errors import suggestion
from fallline.core.transform import Transform, transform

#: The key of a parameter group that holds its precision, where it has one.
PRECISION = "precision"

State = Literal["fp32", "bf16", "8bit", "4bit"]
Params = Literal["kahan", "stochastic", "master"]


@dataclass(frozen=True)
class Precision:
    r"""How an optimizer stores its state and its parameters; the arithmetic is float32 all the same.

    ==========  =====================================================  ===============================
    ``state``   each element of the state is                           bytes per parameter, for Adam
    ==========  =====================================================  ===============================
    None        of the parameter's dtype, as in torch                  8, or 4 with bfloat16 parameters
    ``"fp32"``  a float32                                              8
    ``"bf16"``  a bfloat16                                             4
    ``"8bit"``  a code of 8 bits; 256 share a float32 scale            2.03
    ``"4bit"``  a code of 4 bits; 128 share a float32 scale            1.06
    ==========  =====================================================  ===============================

    ================  ================================================  ===================
    ``params``        a bfloat16 or float16 parameter is                bytes per parameter
    ================  ================================================  ===================
    None              rounded to nearest; small steps are lost          0
    ``"stochastic"``  rounded up or down at random, right on average    0
    ``"kahan"``       rounded, and what was lost is kept beside it      2
    ``"master"``      the high half of a float32 that is kept exactly   2; bfloat16 only
    ================  ================================================  ===================

    What is narrower than float32 is rounded at random where its dtype or code leaves a choice of two:

    .. math:: P(\text{up}) = \frac{x - a}{b - a}, \qquad a \le x \le b

    for neighbours :math:`a, b` (of codes, up to the bend of their curve between the two), so that averages of
    many small changes go where they should. The random bits
    follow from ``seed``, the step, the parameter's place and the element alone: not from threads, and a
    resumed training goes on to the same bits. State that holds a copy of a parameter (averages of weights)
    stays in float32. A block of codes of which one value is infinite or NaN is NaN. Where several processes
    hold a parameter, an element is known by its place in the shard, and blocks end with it: what is rounded
    at random, and codes, depend on the sharding.

    Args:
        state: format of the state with one value per element; state of other shapes stays in float32.
        params: how bfloat16 or float16 parameters are rounded.
        seed: of random rounding.

    Raises:
        ValueError: a format that does not exist.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.zeros(512, dtype=torch.bfloat16))
        >>> optimizer = fallline.AdamW([p], precision=fallline.Precision(state="8bit", params="kahan"))
        >>> print(fallline.explain(optimizer).splitlines()[-1].strip())
        keeps 4.031 bytes of state per element

    A state dict in any of these formats loads into an optimizer with another: it is converted at the next
    step, and the optimizer keeps its own precision.

    Source: Dettmers et al. 2022, https://arxiv.org/abs/2110.02861 (blocks of 8 bits); Li et al. 2023,
    https://arxiv.org/abs/2309.01507 (4 bits); Zamirai et al. 2020, https://arxiv.org/abs/2010.06192
    (stochastic rounding and Kahan summation). Differs from bitsandbytes and torchao: no table of values, and
    small squares are never rounded to zero. torch has no such option.
    """

    state: State | None = None
    params: Params | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("state", get_args(State)), ("params", get_args(Params))):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                hint = suggestion(str(value), allowed)
                raise ValueError(f"Invalid precision of {name}: {value!r} is no format{hint}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"Invalid seed of random rounding: {self.seed!r}; give an integer")

    @property
    def is_random(self) -> bool:
        """Whether anything is rounded at random, which needs the number of the step."""
        return self.state in ("bf16", "8bit", "4bit") or self.params == "stochastic"

    def packed(self) -> dict[str, Any]:
        """Return it as plain values, for a state dict."""
        return asdict(self)


#: What is stored as torch stores it.
AS_TORCH = Precision()


def precision_of(group: Mapping[str, Any]) -> Precision:
    """Return the precision of a parameter group."""
    return group.get(PRECISION) or AS_TORCH


def check_precision(group: Mapping[str, Any]) -> None:
    """Refuse a precision that is none."""
    value = group.get(PRECISION)
    if value is not None and not isinstance(value, Precision):
        raise TypeError(
            f"Invalid precision: {value!r}; give a fallline.Precision, such as Precision(state='8bit')"
        )


def counting(group: Mapping[str, Any]) -> tuple[Transform, ...]:
    """Return what the chain of a group needs besides its rules for random rounding."""
    return (round_at_random,) if precision_of(group).is_random else ()


@transform()
def round_at_random(p, *, step):
    """Count the steps for a rule that does not: random rounding needs their number."""
    return p
