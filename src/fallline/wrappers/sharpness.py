"""Sharpness-aware minimisation: any optimizer, with the gradient of the worst point nearby."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.wrappers.wrapper import Wrapper, refuse_closures, refuse_released

RHO = Hyperparameter("rho", 0.05, "radius of the neighbourhood", "ρ", "parameter units", low=0)

#: Keeps the perturbation finite where the gradient is zero.
TINY = 1e-12


class SAM(Wrapper):
    r"""SAM: any optimizer, with the gradient where the loss is highest within reach of the parameters.

    .. math::
        \epsilon = \rho \frac{T^2 g}{\lVert T g \rVert_2 + 10^{-12}}, \qquad
        g_\text{SAM} = \nabla L(\theta + \epsilon)

    with :math:`T = 1` in SAM and :math:`T = |\theta|`, element by element, in ASAM (``adaptive=True``), which
    rescaling the network leaves as it is. The norm is over all parameters. Each step evaluates the loss and
    its gradient twice; BatchNorm sees both passes.

    Args:
        optimizer: any ``torch.optim.Optimizer`` that takes gradients as they are.
        rho: :math:`\rho \ge 0`, the radius: in parameter units, or relative to their size (then
            about ten times as large).
        adaptive: measure distance relative to each parameter's size.

    State: none of its own.

    Raises:
        TypeError: ``optimizer`` is not an optimizer, or `step` got no closure.
        ValueError: ``rho`` out of range, or an inner optimizer that evaluates the loss itself or leaves no
            gradients.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = fallline.SAM(fallline.SGD([p], lr=0.5), rho=5.0)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (p * p).sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item()  # the gradient is taken at (6, 8)
        12.5
        >>> p.tolist()
        [0.0, 0.0]

    Source: Foret et al. 2021, https://arxiv.org/abs/2010.01412; ASAM: Kwon et al. 2021,
    https://arxiv.org/abs/2102.11600. torch has no such optimizer.
    """

    without_gradients = "use either without the other"

    def __init__(self, optimizer: torch.optim.Optimizer, rho: float = 0.05, adaptive: bool = False):
        RHO.check(rho)
        refuse_closures("SAM", optimizer)
        refuse_released(SAM, optimizer)
        super().__init__(optimizer)
        self.rho, self.adaptive = rho, adaptive

    @property
    def must_call_closure(self) -> bool:
        """True: the loss is evaluated twice."""
        return True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step with the gradient at the perturbed parameters; return the loss at the parameters."""
        if closure is None:
            raise TypeError("SAM needs a closure: step(closure), where closure() computes loss and gradients")
        with torch.enable_grad():
            loss = closure()
        kept = self._perturb()
        try:
            self.zero_grad()
            with torch.enable_grad():
                closure()
        finally:
            with torch.no_grad():
                for p, old in kept:
                    p.copy_(old)
        self._step_inner()
        return loss

    @torch.no_grad()
    def _perturb(self) -> list[tuple[Tensor, Tensor]]:
        """Climb to the edge of the neighbourhood; return the parameters that moved with their old values."""
        moved = [(p, dense(p.grad)) for p in self.params if p.grad is not None]
        kept = [(p, p.detach().clone()) for p, _ in moved]
        if moved:
            scale = self.rho / (total_norm([p.abs() * g if self.adaptive else g for p, g in moved]) + TINY)
            for p, g in moved:
                p.add_((p.abs().square() * g if self.adaptive else g) * scale.to(p.device))
        return kept


def dense(grad: Tensor) -> Tensor:
    """Return a gradient as a dense tensor."""
    return grad if grad.layout == torch.strided else grad.to_dense()


def total_norm(tensors: list[Tensor]) -> Tensor:
    """Return the 2-norm of all elements, of half-precision ones in float32."""
    parts = [torch.linalg.vector_norm(x.float() if x.dtype.itemsize == 2 else x) for x in tensors]
    return torch.linalg.vector_norm(torch.stack([part.to(parts[0]) for part in parts]))
