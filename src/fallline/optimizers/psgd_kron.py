"""PSGD Kron: momentum preconditioned by two triangular factors, fitted by gradient descent itself."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, Unpack

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Shape, Slot
from fallline.core.registry import Entry, register
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.muon import matrices
from fallline.optimizers.preconditioning import Factors, matrix_shape
from fallline.optimizers.settings import MAXIMIZE, learning_rate, momentum, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate

MAX_SIZE = 8192
#: The annealed probability of a fit: 1 up to this step, then falling by this rate to this least value.
FLAT, FALL, LEAST = 500, 1e-3, 0.03
#: How many steps it falls for.
FALLING = math.floor(-math.log(LEAST) / FALL)
#: The factors are brought to equal size at each fit that is a multiple of this.
FITS_PER_BALANCING = 100
#: The root mean square that an update may have.
MAX_RMS = 1.1
#: Noise added to the matrix of a fit, relative to its elements.
DAMPING = 2.0**-11.5


def factor(axis: int, limit: int, shape: Shape) -> Shape | None:
    """Return the shape of one side's factor: triangular, or diagonal for vectors and long or single sides."""
    if axis == 1 and len(shape) < 2:
        return None
    n = matrix_shape(shape)[axis]
    return (n, n) if len(shape) > 1 and 1 < n <= limit else (n,)


def slots(limit: int) -> tuple[Slot, ...]:
    """Return the state of `scale_by_kron` with triangular factors of sides up to ``limit``."""
    rows, columns = (partial(factor, axis, limit) for axis in (0, 1))
    return Slot("momentum_buffer"), Slot("factor_rows", shape=rows), Slot("factor_columns", shape=columns)


@transform(whole="products", slots=slots(MAX_SIZE))
def scale_by_kron(
    g, p, momentum_buffer, factor_rows, factor_columns, *, b1=0.9, weight_decay=0.0,
    preconditioner_update_probability=None, precond_lr=0.1, precond_init_scale=1.0, step, fresh,
):  # fmt: skip
    """Multiply the velocity by the preconditioner, which it fits first at some steps; limit its size."""
    if not g.numel():
        return g, momentum_buffer, factor_rows, factor_columns
    momentum_buffer = b1 * momentum_buffer + (1 - b1) * g
    x = matrices(momentum_buffer / (1 - b1**step))
    factors = factor_rows, factor_columns
    if fresh:
        factors = begun(factors, precond_init_scale)
    before, after = (fits_due(t, preconditioner_update_probability) for t in (int(step) - 1, int(step)))
    if after > before:
        if after // FITS_PER_BALANCING > before // FITS_PER_BALANCING:
            factors = balanced(factors)
        v = probe(x, int(step))
        x = x + DAMPING * x.abs().mean((1, 2), keepdim=True) * v
        factors = fitted(x, v, factors, precond_lr)
    whitened = on_sides(applied_twice, factors, x)
    rms = whitened.square().mean((1, 2), keepdim=True).sqrt()
    update = (whitened * (MAX_RMS / (rms + 1e-12)).clamp(max=1)).reshape(g.shape)
    return update + weight_decay * p if p.dim() > 2 else update, momentum_buffer, *factors


def fits_due(steps: int, probability: float | None) -> int:
    """Return how many fits the first ``steps`` have: the whole part of the sum of their probabilities.

    A probability that is None, or NaN as that arrives in rules, is annealed.
    """
    if probability is not None and probability > 0:
        return math.floor(steps * probability)
    flat, falling = min(steps, FLAT + 1), min(max(steps - FLAT - 1, 0), FALLING)
    return math.floor(
        flat - math.expm1(-FALL * falling) / math.expm1(FALL) + LEAST * (steps - flat - falling)
    )


def probe(x: Tensor, step: int) -> Tensor:
    """Return a random direction, a function of the step, the shape and the kind of device alone."""
    generator = torch.Generator(x.device).manual_seed(step)
    return torch.randn(x.shape[1:], generator=generator, dtype=x.dtype, device=x.device)


def begun(factors: Factors, scale: float) -> Factors:
    """Return the first factors, multiples of the identity, whose product is ``scale`` times it."""
    rows, columns = factors
    if columns is None:
        return torch.full_like(rows, scale), None
    return _identity(rows, scale**0.5), _identity(columns, scale**0.5)


def _identity(q: Tensor, scale: float) -> Tensor:
    if q.dim() == 2:
        return torch.full_like(q, scale)
    return scale * torch.eye(q.shape[-1], dtype=q.dtype, device=q.device).expand_as(q)


def balanced(factors: Factors) -> Factors:
    """Return factors with the same product and equal largest elements."""
    rows, columns = factors
    if columns is None:
        return factors
    ratio = (columns.abs().flatten(1).amax(1) / rows.abs().flatten(1).amax(1)).sqrt()
    return _scaled(rows, ratio), _scaled(columns, 1 / ratio)


def _scaled(q: Tensor, by: Tensor) -> Tensor:
    return q * by.reshape(-1, *[1] * (q.dim() - 1))


def fitted(x: Tensor, v: Tensor, factors: Factors, rate: float) -> Factors:
    """Return the factors after one step towards whitening: that ``x`` be as random as ``v``.

    Where ``x`` is 0 they stay as they are: they would grow without end.
    """
    v = v * x.abs().amax((1, 2), keepdim=True).sign()
    a, b = on_sides(applied, factors, x), on_sides(unapplied, factors, v)
    rows, columns = factors
    return fitted_side(rows, a, b, rate), None if columns is None else fitted_side(columns, a.mT, b.mT, rate)


def fitted_side(q: Tensor, a: Tensor, b: Tensor, rate: float) -> Tensor:
    """Return the factor of the rows after one step of relative length ``rate``."""
    tiny = torch.finfo(q.dtype).tiny
    if q.dim() == 2:
        up, down = a.square().sum(-1), b.square().sum(-1)
        return q - rate * (up - down) / (up + down).amax(-1, keepdim=True).clamp(min=tiny) * q
    up, down = a @ a.mT, b @ b.mT
    return q - rate * (up - down).triu() / norm_bound(up + down).clamp(min=tiny) @ q


def norm_bound(a: Tensor) -> Tensor:
    """Return a lower bound of the norm of symmetric matrices: a power step from the largest column."""
    tiny = torch.finfo(a.dtype).tiny
    largest = a.abs().amax((1, 2), keepdim=True).clamp(min=tiny)
    a = a / largest
    place = a.square().sum(1).argmax(-1).reshape(-1, 1, 1)
    column = a @ a.take_along_dim(place, 2)
    column = column / torch.linalg.vector_norm(column, dim=1, keepdim=True).clamp(min=tiny)
    return largest * torch.linalg.vector_norm(a @ column, dim=1, keepdim=True)


def on_sides(act: Callable[[Tensor, Tensor], Tensor], factors: Factors, x: Tensor) -> Tensor:
    """Return ``x`` after ``act`` by the first factor on its rows, and by the second on its columns."""
    rows, columns = factors
    x = act(rows, x)
    return x if columns is None else act(columns, x.mT).mT


def applied(q: Tensor, x: Tensor) -> Tensor:
    """Return the product of the factor and ``x``."""
    return q.unsqueeze(-1) * x if q.dim() == 2 else q @ x


def applied_twice(q: Tensor, x: Tensor) -> Tensor:
    """Return the product of the preconditioner, which is the factor's transpose times itself, and ``x``."""
    return q.square().unsqueeze(-1) * x if q.dim() == 2 else q.mT @ (q @ x)


def unapplied(q: Tensor, x: Tensor) -> Tensor:
    """Return the product of the inverse of the factor's transpose and ``x``."""
    return x / q.unsqueeze(-1) if q.dim() == 2 else torch.linalg.solve_triangular(q.mT, x, upper=False)


@cache
def whitening(limit: int) -> Transform:
    """Return `scale_by_kron` with triangular factors of sides up to ``limit``."""
    return replace(scale_by_kron, slots=slots(limit))


class PSGDKron(Optimizer):
    r"""PSGD Kron: the average gradient of a matrix, whitened by a preconditioner fitted as training goes on.

    .. math::
        M_t &= \beta M_{t-1} + (1 - \beta)\, G_t, \qquad \hat M_t = M_t / (1 - \beta^t) \\
        A &= Q_L \hat M_t Q_R^\top, \qquad B = Q_L^{-\top} V Q_R^{-1}, \qquad V \sim \mathcal N(0, 1) \\
        Q_L &\leftarrow Q_L - \mu\, \frac{\operatorname{triu}(A A^\top - B B^\top)}
            {\lVert A A^\top + B B^\top \rVert}\, Q_L, \qquad
        Q_R \leftarrow Q_R - \mu\, \frac{\operatorname{triu}(A^\top A - B^\top B)}
            {\lVert A^\top A + B^\top B \rVert}\, Q_R \\
        U_t &= Q_L^\top Q_L \hat M_t Q_R^\top Q_R, \qquad
        p_t = p_{t-1} - \eta\left( U_t \min\left(1, \frac{1.1}{\operatorname{rms} U_t}\right)
            + \lambda p_{t-1} \right)

    with upper triangular :math:`Q_L, Q_R`, in which the preconditioner comes to be that whose product with
    :math:`\hat M` has the identity for covariance. Not every step fits it: step :math:`t` does if the sum of
    the probabilities up to it passes a whole number. The random matrix :math:`V` is a function of the step,
    the shape and the kind of device: neither a random number of the program nor the order of the parameters
    matters.

    A tensor of shape :math:`(r, d_1, d_2, \dots)` counts as a matrix of :math:`r` rows and
    :math:`d_1 d_2 \cdots` columns. Vectors, sides of one element and those above ``max_size_triangular``
    have a diagonal factor.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step, at most 1.1 times.
        b1: :math:`\beta` in [0, 1).
        weight_decay: :math:`\lambda \ge 0`, decoupled; vectors do not decay.
        preconditioner_update_probability: of a fit at a step, in (0, 1]; None anneals it from 1, for 500
            steps, to 0.03 at step 4000.
        max_size_triangular: a longer side has a diagonal factor.
        precond_lr: :math:`\mu > 0`, relative length of a fit's step.
        precond_init_scale: multiple of the identity that :math:`Q_L` and :math:`Q_R` begin with, together.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``momentum_buffer`` of the parameter's shape and dtype; ``factor_rows`` and
    of matrices ``factor_columns``, square or one number for each element of a side, in float32 at least.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> w = torch.nn.Parameter(torch.zeros(2, 3))
        >>> optimizer = fallline.PSGDKron([w], lr=0.1, b1=0.0)
        >>> for _ in range(200):
        ...     w.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1e-3, 0.0]])
        ...     optimizer.step()
        >>> bool(w[1, 1] / w[0, 0] > 0.1)  # it would be 1 in 3000 in SGD
        True

    Source: Li 2018, https://arxiv.org/abs/1512.04202; Pooladzandi and Li 2024,
    https://arxiv.org/abs/2402.04553; as ``kron_torch`` has it: momentum first, the fit to the momentum,
    whose damping stays in that step.
    Differs from ``kron_torch``: random numbers and balancing (each hundredth fit) are functions of the step;
    a probability that is no whole fraction is kept on average; tensors of more than two dimensions are
    outputs by the rest, where that takes whichever of two matrices is nearer to a square; factors stay where
    the momentum is 0, and grow there beyond all numbers; there is no ``memory_save_mode``. Equal shapes are
    multiplied together.
    """

    hyperparameters = (
        learning_rate(3e-4, 1e-4, 1e-1),
        replace(momentum(0.9), name="b1", symbol="β", high=1, open_high=True),
        weight_decay(0.0),
        Hyperparameter(
            "preconditioner_update_probability", None, "probability of a fit at a step; None anneals it", "",
            "per step", low=0, high=1, open_low=True,
        ),
        Hyperparameter(
            "max_size_triangular", MAX_SIZE, "longest side with a triangular factor", "", "elements", low=0
        ),
        Hyperparameter(
            "precond_lr", 0.1, "relative length of a fit's step", "μ", "", low=0, open_low=True,
            search=Range(1e-2, 1.0, "log"),
        ),
        Hyperparameter(
            "precond_init_scale", 1.0, "scale of the first preconditioner's root", "", "", low=0,
            open_low=True,
        ),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 3e-4,
        b1: float = 0.9,
        weight_decay: float = 0.0,
        preconditioner_update_probability: float | None = None,
        max_size_triangular: int = MAX_SIZE,
        precond_lr: float = 0.1,
        precond_init_scale: float = 1.0,
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
                lr=lr, b1=b1, weight_decay=weight_decay,
                preconditioner_update_probability=preconditioner_update_probability,
                max_size_triangular=max_size_triangular, precond_lr=precond_lr,
                precond_init_scale=precond_init_scale, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The whitening with its decay, the learning rate."""
        return whitening(group["max_size_triangular"]), scale_by_learning_rate


register(
    Entry(
        "psgd-kron",
        PSGDKron,
        space(PSGDKron, "lr", "weight_decay", "b1", "precond_lr"),
        "momentum whitened by triangular factors",
    )
)
