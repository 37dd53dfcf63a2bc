"""SophiaG: steps divided by an estimate of the curvature, and limited."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Unpack

from torch import Tensor

from fallline.core.dispatch import Outcome
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import G, Slot, Sum
from fallline.core.precision import counting
from fallline.core.scalar import maximum, minimum
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.settings import MAXIMIZE, decay_rates, learning_rate, weight_decay

#: Keeps the ratio finite where no curvature has been estimated; the authors' value.
_TINY = 1e-15


HESSIAN = Slot("hessian", nonnegative=True)


@transform(slots=("exp_avg", HESSIAN))
def scale_by_sophia(g, exp_avg, hessian, *, beta1=0.965, rho=0.04, bs=5120):
    """Divide the average of gradients by the curvature, and limit each element to 1."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    return maximum(minimum(exp_avg / (rho * bs * hessian + _TINY), 1.0), -1.0), exp_avg, hessian


@transform(slots=("exp_avg", HESSIAN))
def track_hessian(p, g, exp_avg, hessian, *, beta2):
    """Average the squares of an estimator's gradients; parameter and average stay as they are."""
    return p, exp_avg, beta2 * hessian + (1 - beta2) * (g * g)


@cache
def _tracking(vetoes: tuple[Sum, ...]) -> Transform:
    """Return `track_hessian` with sums of the gradient by which an estimate is left out."""
    return replace(track_hessian, sums=vetoes)


class SophiaG(Optimizer):
    r"""SophiaG: a second-order step whose curvature is estimated now and then (Gauss-Newton-Bartlett).

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
        p_t &= p_{t-1} - \eta \left( \operatorname{clip}\left( \frac{m_t}{\rho\, B\, h}, 1 \right)
             + \lambda p_{t-1} \right)

    and in `update_hessian` :math:`h \leftarrow \beta_2 h + (1 - \beta_2)\, \hat g^2`, where :math:`\hat g` is
    the gradient of the loss on labels drawn from the model's own predictions. Until it has been called, every
    step is that of `Signum`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; how far an element moves at most in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        rho: :math:`\rho \ge 0`; larger values leave more elements below the limit.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        bs: :math:`B`, how many labels the estimator's loss is the mean of, such as batch size times context.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``exp_avg``, ``hessian``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model, x = torch.nn.Linear(3, 5), torch.ones(8, 3)
        >>> y = torch.zeros(8, dtype=torch.long)
        >>> optimizer = fallline.SophiaG(model.parameters(), lr=1e-3, bs=8)
        >>> for step in range(20):
        ...     if step % 10 == 0:
        ...         drawn = torch.distributions.Categorical(logits=model(x)).sample()
        ...         torch.nn.functional.cross_entropy(model(x), drawn).backward()
        ...         optimizer.update_hessian()
        ...         optimizer.zero_grad()
        ...     torch.nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()

    Source: Liu et al. 2023, https://arxiv.org/abs/2305.14342, algorithm 3.
    Differs from the authors': ``bs`` is a setting, which ``step(bs=...)`` changes; there is no ``step`` in
    the state. It cannot be compared by name, since a training loop must call `update_hessian`.
    """

    hyperparameters = (
        learning_rate(1e-4, 1e-5, 1e-2),
        decay_rates((0.965, "average of gradients"), (0.99, "average of curvatures")),
        Hyperparameter("rho", 0.04, "scale of the curvature", "ρ", "", low=0),
        weight_decay(0.1),
        Hyperparameter("bs", 5120, "labels that the estimator's loss is the mean of", "B", "labels", low=0),
        MAXIMIZE,
    )
    _estimates = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0.1,
        bs: int = 5120,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, rho=rho, weight_decay=weight_decay, bs=bs, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_sophia)

    def transforms(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Return the whole chain for a parameter group; of an estimate, that alone and what may veto it."""
        if not self._estimates:
            return super().transforms(group)
        vetoes = (each for t in self.before for each in t.sums if each.vetoes and each.inputs == (G,))
        return _tracking(tuple(vetoes)), *counting(group)

    def step(self, closure: Callable[[], Any] | None = None, bs: int | None = None) -> Any:
        """Update every parameter that has a gradient, from now on with ``bs`` if it is given."""
        for group in self.param_groups if bs is not None else ():
            group["bs"] = bs
        return super().step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # the step within runs the hooks

    def update_hessian(self) -> None:
        """Take the gradients of a loss on labels drawn from the model into the estimate of the curvature.

        They are taken as they are: transforms ``before`` the rules, such as clipping, are for the gradients
        of steps. With ``skip_nonfinite`` an estimate from gradients that are not finite is left out, and
        counted in `skipped_steps`.
        """
        self._estimates = True
        try:
            if self._advance() is Outcome.VETOED:
                self._note_veto()
        finally:
            self._estimates = False
