"""Rprop: steps whose sizes follow the signs of gradients, not their sizes."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, minimum, sign, where
from fallline.core.transform import Transform, transform
from fallline.optimizers.rmsprop import count
from fallline.optimizers.settings import MAXIMIZE, learning_rate, space

_ETAS = Hyperparameter(
    "etas", (0.5, 1.2), "factors of a step size",
    parts=(
        Hyperparameter("eta_minus", 0.5, "factor after a change of sign", "η₋", low=0, high=1,
                       open_low=True, open_high=True, complaint="Invalid eta values"),
        Hyperparameter("eta_plus", 1.2, "factor while the sign stays", "η₊", low=1, open_low=True,
                       complaint="Invalid eta values"),
    ),
)  # fmt: skip
_STEP_SIZES = Hyperparameter(
    "step_sizes", (1e-6, 50), "bounds of the step size",
    parts=(
        Hyperparameter("smallest", 1e-6, "smallest step size", "Δ₋", "parameter units", low=0),
        Hyperparameter("largest", 50, "largest step size", "Δ₊", "parameter units", low=0),
    ),
)  # fmt: skip


@transform(slots=("prev", Slot("step_size", nonnegative=True)), per_tensor=count)
def scale_by_rprop(g, prev, step_size, *, lr, eta_minus, eta_plus, smallest, largest, fresh):
    """Step by the element's own size against the sign of the gradient; not at all where it has changed."""
    size = step_size + fresh * lr
    agreement = sign(g) * sign(prev)
    size = where(agreement > 0, eta_plus * size, where(agreement < 0, eta_minus * size, size))
    step_size = minimum(maximum(size, smallest), largest)
    g = where(agreement < 0, 0 * step_size, g)
    return sign(g) * step_size, g, step_size


class Rprop(Optimizer):
    r"""Rprop: each element's step grows while its gradient keeps its sign and shrinks when it changes.

    .. math::
        \Delta_t = \begin{cases}
            \min(\eta_+ \Delta_{t-1}, \Delta_{\max}) & g_t\, g_{t-1} > 0 \\
            \max(\eta_- \Delta_{t-1}, \Delta_{\min}),\ g_t \leftarrow 0 & g_t\, g_{t-1} < 0 \\
            \Delta_{t-1} & \text{else}
        \end{cases}
        \qquad p_t = p_{t-1} - \operatorname{sign}(g_t)\, \Delta_t

    It is for gradients of the whole training set: noise changes signs, too.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: first step size :math:`\Delta_0 \ge 0`, in parameter units.
        etas: factors :math:`(\eta_-, \eta_+)` of the step size, in (0, 1) and (1, ∞).
        step_sizes: bounds :math:`(\Delta_{\min}, \Delta_{\max})` of the step size, in parameter units.
        capturable, foreach, maximize, differentiable: as in torch.

    State: ``step`` (0-d float32), ``prev``, the last gradient, and ``step_size``, each of the parameter's
    shape and dtype.

    Raises:
        ValueError: a setting out of range, or bounds in the wrong order.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.Rprop([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.item()
        0.75

    Source: Riedmiller and Braun 1993, https://doi.org/10.1109/ICNN.1993.298623, without going back after a
    change of sign ("Rprop-", Igel and Hüsken 2003), as in torch.
    Differs from torch's: bounds are checked; two gradients whose product underflows still agree in sign.
    """

    hyperparameters = (learning_rate(1e-2, 1e-5, 1e-1), _ETAS, _STEP_SIZES, MAXIMIZE)
    added_later = {**Optimizer.added_later, "capturable": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, etas=etas, step_sizes=step_sizes, foreach=foreach, maximize=maximize,
                differentiable=differentiable, capturable=capturable,
            ),
            **extra,
        )  # fmt: skip

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse bounds of the step size that leave no room between them."""
        super().check_together(group)
        smallest, largest = group["step_sizes"]
        if smallest > largest:
            raise ValueError(
                f"Invalid step_sizes value: {group['step_sizes']}; the first bound must not exceed the second"
            )

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The step itself, in parameter units."""
        return (scale_by_rprop,)


register(
    Entry("rprop", Rprop, space(Rprop, "lr"), "step sizes that follow signs; whole set", batch_size="all")
)
