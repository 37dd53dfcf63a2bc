"""Adam-mini: Adam with one second moment for each block of a tensor instead of one for each element."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Shape, Slot, per_line, per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import scale_by_adam, with_decoupled_decay
from fallline.optimizers.moments import toward
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay

#: Parts of names by which the authors tell queries and keys, and what is not decayed.
QUERIES_AND_KEYS = ("k_proj", "q_proj", "wq", "wk", "query", "key")
UNDECAYED = ("bias", "norm", "ln")
_BLOCK_ROWS = Hyperparameter("block_rows", 1, "rows of a matrix that are a block; 0: every element", low=0)


def _rows(shape: Shape) -> Shape:
    return (shape[0], 1)


@summed(over="channel")
def squares(g):
    """The squared norm of each row of a matrix, or output channel of a convolution."""
    return g * g


@per_line(Slot("exp_avg_sq", shape=_rows), divisor="channel")
def block_moments(exp_avg_sq, *, channel_squares, shape, step, beta1, beta2, eps, block_rows):
    """The root of the average of the mean squares of each block, both averages corrected."""
    blocks = (channel_squares / max(shape[1], 1)).unflatten(1, (-1, int(block_rows))).mean(2, keepdim=True)
    exp_avg_sq = toward(exp_avg_sq, blocks.expand(-1, -1, int(block_rows), -1).flatten(1, 2), 1 - beta2)
    divisor = ((exp_avg_sq / (1 - beta2**step)).sqrt() + eps) * (1 - beta1**step)
    return dict(exp_avg_sq=exp_avg_sq, divisor=divisor)


@summed(over="tensor")
def block_squares(g):
    """The squared norm of a vector, which is one block."""
    return g * g


@summed(over="tensor")
def block_size():
    """The number of its elements."""
    return 1.0


@per_tensor(exact=True, exp_avg_sq=0.0)
def block_moment(exp_avg_sq, *, block_squares, block_size, step, beta1, beta2, eps):
    """The root of the average of the mean square of a vector, both averages corrected."""
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (block_squares / maximum(block_size, 1.0))
    divisor = (sqrt(exp_avg_sq / (1 - beta2**step)) + eps) * (1 - beta1**step)
    return dict(exp_avg_sq=exp_avg_sq, divisor=divisor)


@transform(slots=("exp_avg",), sums=(block_squares, block_size), per_tensor=block_moment)
def scale_by_vector_moment(g, exp_avg, *, beta1=0.9, beta2=0.999, eps=1e-8, divisor):
    """Divide the average of gradients by the root of the average of mean squares of the vector."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    return exp_avg / divisor, exp_avg


@transform(slots=("exp_avg",), sums=(squares,), per_line=block_moments, vectors=scale_by_vector_moment)
def scale_by_adam_mini(g, exp_avg, divisor, *, beta1=0.9, beta2=0.999, eps=1e-8, block_rows=1):
    """Divide the average of gradients by the root of the average of mean squares over blocks of rows."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    return exp_avg / divisor, exp_avg


class AdamMini(Optimizer):
    r"""Adam-mini: AdamW with one second moment per neuron, token or head, in half of Adam's memory.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        v_t^b = \beta_2 v_{t-1}^b + (1 - \beta_2) \operatorname{mean}_{i \in b} g_{t,i}^2 \\
        p_t &= p_{t-1} - \eta \left( \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t^b / (1 - \beta_2^t)} + \epsilon}
        + \lambda p_{t-1} \right)

    with blocks :math:`b`: the rows of matrices, which are the output neurons of layers and the tokens of
    embeddings and heads; a convolution's output channels; all of a vector. ``(name, tensor)`` pairs, such as
    ``model.named_parameters()``, tell more, as with the authors, without regard to case:

    ==================================================  ==================================================
    name contains                                       what follows
    ==================================================  ==================================================
    bias                                                every element is a block: plain Adam
    q_proj, k_proj, wq, wk, query, key, if a matrix     each ``head_dim`` rows, an attention head, are one
    bias, norm, ln                                      no weight decay
    ==================================================  ==================================================

    Args:
        params: ``(name, tensor)`` pairs, tensors or group dicts.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        head_dim: rows of an attention head: the authors' ``dim // n_heads``. None: queries and keys go by
            rows, too.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; the mean square of a vector is a sum, which nothing
            is differentiated through.

    Each group has a setting ``block_rows``: how many rows of a matrix are a block, 0 where every element is
    one. Parameters given by name are sorted into groups by it.

    State: ``step``, ``exp_avg`` of each parameter's shape, ``exp_avg_sq`` of shape (rows, 1), in float32 for
    narrower parameters, and of vectors one number in float64; both as in `Adam` where every element is a
    block.

    Raises:
        ValueError: a setting out of range, or rows that are no whole number of blocks.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> w = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = fallline.AdamMini([("mlp.weight", w)], lr=0.1)
        >>> w.grad = torch.tensor([[3.0, 4.0], [0.6, 0.8]])
        >>> optimizer.step()
        >>> [[round(x, 4) for x in row] for row in w.tolist()]  # each row is as long as the other
        [[-0.0849, -0.1131], [-0.0849, -0.1131]]

    Source: Zhang et al. 2024, https://arxiv.org/abs/2406.16793.
    Differs from the authors' package, with whose blocks we agree for the names that it knows: a matrix of
    another name goes by rows (there it is one block, with a warning), and heads are told by ``head_dim``.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(0.0),
        _BLOCK_ROWS,
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        head_dim: int | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params if isinstance(params, Tensor) else list(_sorted(params, head_dim)),
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, block_rows=1, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as it is: names are looked at by the constructor alone."""
        if isinstance(param_group, dict):
            param_group = {**param_group, "params": _listed(param_group["params"])}
            rows = param_group.get("block_rows", self.defaults["block_rows"])
            _BLOCK_ROWS.check(rows)
            for member in param_group["params"]:
                _refuse_part_of_a_block(member[1] if isinstance(member, tuple) else member, rows)
        super().add_param_group(param_group)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Adam's scaling by blocks, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_adam_mini if group["block_rows"] else scale_by_adam)


def _sorted(params: Iterable[Any], head_dim: int | None) -> Iterator[Any]:
    """Yield ``params``, those that have names in groups by the blocks that the names tell."""
    for each in _groups(list(params)):
        members = _listed(each["params"]) if isinstance(each, dict) else []
        if members and isinstance(members[0], tuple):
            yield from _by_blocks({**each, "params": members}, head_dim)
        else:
            yield {**each, "params": members} if isinstance(each, dict) else each


def _by_blocks(group: Mapping[str, Any], head_dim: int | None) -> Iterator[dict[str, Any]]:
    """Yield a group for each kind of parameter in ``group``, whose parameters have names."""
    kinds = defaultdict(list)
    for name, p in group["params"]:
        kinds[_block_rows(name, p, head_dim), _decays(name)].append((name, p))
    for (rows, decays), chosen in kinds.items():
        undecayed = {} if decays else {"weight_decay": 0.0}
        yield {"block_rows": rows, **group, **undecayed, "params": chosen}


def _groups(params: list[Any]) -> list[Any]:
    """Return group dicts as they are, named tensors as one group, and others as they are."""
    return [{"params": params}] if params and isinstance(params[0], tuple) else params


def _listed(members: Any) -> list[Any]:
    return [members] if isinstance(members, Tensor) else list(members)


def _block_rows(name: str, p: Tensor, head_dim: int | None) -> int:
    if "bias" in name.lower():
        return 0
    of_heads = head_dim and p.dim() == 2 and any(part in name.lower() for part in QUERIES_AND_KEYS)
    return head_dim if of_heads else 1  # type: ignore[return-value]


def _refuse_part_of_a_block(p: Tensor, rows: int) -> None:
    if rows and p.dim() > 1 and (p.shape[0] % rows or rows != int(rows)):
        raise ValueError(
            f"a matrix of shape {tuple(p.shape)} has no whole number of blocks of {rows} rows; give the "
            f"head_dim of its layer, or put it into a group with block_rows=1"
        )


def _decays(name: str) -> bool:
    return not any(part in name.lower() for part in UNDECAYED)


register(
    Entry("adam_mini", AdamMini, space(AdamMini, "lr", "weight_decay", "beta1", "beta2"), "AdamW by blocks")
)
