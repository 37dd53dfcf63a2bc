"""SparseAdamW: AdamW for embeddings, whose decay of all rows is done when a row is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from fallline.core.dispatch import Outcome
from fallline.core.optimizer import Extra
from fallline.core.transform import Transform
from fallline.optimizers.adam import scale_by_adam, with_decoupled_decay
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, weight_decay
from fallline.optimizers.sparse_adam import OfRows

#: Rows that are brought up to date at once: what is gathered for them stays small.
ROWS = 1 << 16
#: When all decays together leave less than this of a parameter, all rows are brought up to date.
LITTLE = 1e-100


@dataclass
class Decay:
    """How far the rows of a parameter have been decayed.

    ``left`` is the share of a parameter that all decays so far leave, the product of 1 - ηλ; ``done[row]``
    what it was when the row was last brought up to date. Both are float64.
    """

    left: float
    done: Tensor

    def catch_up(self, p: Tensor, rows: Tensor) -> None:
        """Bring ``rows`` of ``p`` up to date; a row may be named more than once."""
        for some in rows.split(ROWS):
            done = self.done.index_select(0, some)
            late = done != self.left
            if not late.all():
                some, done = some[late], done[late]
            if len(some):
                share = (self.left / done).to(torch.promote_types(p.dtype, torch.float32))
                share = share.reshape(-1, *[1] * (p.dim() - 1))
                p.index_copy_(0, some, (p.index_select(0, some) * share).to(p.dtype))
                self.done.index_fill_(0, some, self.left)

    def begin_anew(self, p: Tensor) -> None:
        """Bring all rows up to date, and forget the past."""
        self.catch_up(p, torch.arange(len(p), device=p.device))
        self.left = 1.0
        self.done.fill_(1.0)

    def go_on(self, p: Tensor, share: float, rows: Tensor) -> None:
        """Note a step that has left ``share`` of ``rows``, which were up to date, and owes it to others."""
        self.left *= share
        self.done.index_fill_(0, rows, self.left)
        if abs(self.left) < LITTLE:
            self.begin_anew(p)


class SparseAdamW(OfRows):
    r"""SparseAdamW: Adam's step on the rows that a sparse gradient touches, and AdamW's decay of all rows.

    .. math::
        p_t = (1 - \eta\lambda)\, p_{t-1} - \eta\, \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    in touched rows, with :math:`\hat m_t, \hat v_t` as in `Adam`, but of the steps that touched the row; all
    other rows are :math:`(1 - \eta\lambda)\, p_{t-1}`. That product is owed: it is done, for all steps
    together, when the row is next touched, read or saved. So a step costs as much as it has rows, and every
    row that is read is, to rounding, what decaying all rows at every step makes of it.

    For that, let `watch` know the embeddings, and call `catch_up` before the weights are read otherwise.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs; what an ``nn.Embedding(sparse=True)`` has.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in units of the gradient.
        weight_decay: :math:`\lambda \ge 0`; all rows shrink by the share :math:`\eta\lambda` in each step.
        maximize: climb instead of descend.

    State: as `SparseAdam`; besides, 8 bytes for each row, which are not saved, since `state_dict` catches up.

    Raises:
        ValueError: a setting out of range; a parameter that is complex or sparse itself.
        RuleError: transforms around the rule that would move other rows.
        RuntimeError: a gradient, at the step, that is dense or sparse in more than its rows.

    Example:
        >>> import torch, fallline
        >>> words = torch.nn.Embedding(1000, 8, sparse=True)
        >>> optimizer = fallline.SparseAdamW(words.parameters(), lr=0.25, weight_decay=0.1)
        >>> optimizer.watch(words)
        >>> before = words.weight.detach().clone()
        >>> for _ in range(10):
        ...     optimizer.zero_grad()
        ...     words(torch.tensor([5, 7, 5])).sum().backward()
        ...     optimizer.step()
        >>> _ = words(torch.tensor([2]))  # before it is read, row 2 is brought up to date
        >>> torch.allclose(words.weight[2], (1 - 0.025) ** 10 * before[2])
        True

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.
    Differs from torch's `SparseAdam` with a decay of touched rows, as others have it: there a rare row hardly
    decays. torch has no such optimizer.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(1e-2),
        MAXIMIZE,
    )
    of_all_rows = "AdamW"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        **extra: Unpack[Extra],
    ):
        self._decays: dict[Tensor, Decay] = {}
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)
        super().__init__(params, defaults, **extra)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_adam)

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse a route: what is owed to the rows is kept here, and `watch` and `catch_up` are here."""
        super().check_together(group)
        if "rule" in group:
            raise ValueError("SparseAdamW cannot be routed; make it for the embeddings, beside the other")

    def watch(self, embedding: nn.Embedding | nn.EmbeddingBag) -> None:
        """From now on bring rows up to date before ``embedding`` reads them, and all before it is saved.

        Raises:
            TypeError: it is no embedding.
            ValueError: its weight is not among the parameters.
        """
        if not isinstance(embedding, (nn.Embedding, nn.EmbeddingBag)):
            raise TypeError(
                f"watch() takes an nn.Embedding or nn.EmbeddingBag, got {type(embedding).__name__}"
            )
        if all(embedding.weight is not p for group in self.param_groups for p in group["params"]):
            raise ValueError("the weight of the embedding is none of the parameters; add it, then watch")
        embedding.register_forward_pre_hook(self._before_reading, with_kwargs=True)
        embedding.register_state_dict_pre_hook(self._before_saving)
        embedding.register_load_state_dict_post_hook(self._after_loading)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring every row up to date."""
        for p, decay in self._decays.items():
            decay.begin_anew(p)

    def state_dict(self) -> dict[str, Any]:
        """Bring every row up to date, then return state and groups."""
        self.catch_up()
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_decays": self._decays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle, or a checkpoint: nothing was owed when that was made."""
        super().__setstate__({"_decays": {}, **state})

    @torch.no_grad()
    def _advance(self) -> Outcome:
        """Bring touched rows up to date, step them, and note the decay of all."""
        touched = [
            (group, p, _rows(p.grad))
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and p.grad.is_sparse
        ]
        for _, p, rows in touched:
            if p in self._decays:
                self._decays[p].catch_up(p, rows)
        outcome = super()._advance()
        for group, p, rows in touched if outcome is Outcome.DONE else ():
            if share := float(group["lr"]) * float(group["weight_decay"]):
                self._decay_of(p).go_on(p, 1 - share, rows)
        return outcome

    def _decay_of(self, p: Tensor) -> Decay:
        if p not in self._decays:
            self._decays[p] = Decay(1.0, torch.ones(len(p), dtype=torch.float64, device=p.device))
        return self._decays[p]

    @torch.no_grad()
    def _before_reading(self, embedding: nn.Embedding, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = args[0] if args else kwargs["input"]
        if embedding.weight in self._decays:
            self._decays[embedding.weight].catch_up(embedding.weight, rows.flatten().long())

    @torch.no_grad()
    def _before_saving(self, embedding: nn.Embedding, *_: Any) -> None:
        if embedding.weight in self._decays:
            self._decays[embedding.weight].begin_anew(embedding.weight)

    def _after_loading(self, embedding: nn.Embedding, _: Any) -> None:
        """Owe nothing to weights that were loaded: they had been brought up to date."""
        self._decays.pop(embedding.weight, None)


def _rows(g: Tensor) -> Tensor:
    if g.sparse_dim() != 1:
        raise RuntimeError(
            f"SparseAdamW takes gradients that are sparse in their rows, got {g.sparse_dim()} sparse "
            f"dimensions; use nn.Embedding(sparse=True)"
        )
    return g._indices()[0]
