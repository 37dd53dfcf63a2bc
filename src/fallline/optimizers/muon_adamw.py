"""MuonAdamW: Muon for a model's hidden matrices and AdamW for all else, told apart by kind."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fallline.core.schedule import Schedule
from fallline.core.transform import Transform, transform
from fallline.optimizers.adamw import AdamW
from fallline.optimizers.muon import Muon, orthogonalize_matching_adamw
from fallline.routing import Route, Routed, Selector, route
from fallline.routing.depth import require_module
from fallline.routing.select import Place, selector

HIDDEN, FUSED, ENDS = "hidden matrices", "fused QKV", "first and last layer"
EMBEDDINGS, VECTORS = "embeddings", "norms and biases"

_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_CONVOLUTIONS = nn.modules.conv._ConvNd
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_NAME_OF_AN_EMBEDDING = re.compile(r"embed|token", re.IGNORECASE)
_NAME_OF_A_BIAS = re.compile(r"bias", re.IGNORECASE)
_NAME_OF_A_FUSED_QKV = re.compile(r"qkv|in_proj_weight|c_attn|query_key_value", re.IGNORECASE)


@transform(whole="products")
def orthogonalize_thirds(g, *, ns_a, ns_b, ns_c, eps, ns_steps):
    """Make each of three square matrices orthogonal that lie one below the other, or side by side."""
    below = g.shape[1] > g.shape[2]
    squares = (g if below else g.mT).unflatten(1, (3, -1)).flatten(0, 1)
    made = orthogonalize_matching_adamw.rule(
        squares, ns_a=ns_a, ns_b=ns_b, ns_c=ns_c, eps=eps, ns_steps=ns_steps
    )
    stack = made.unflatten(0, (-1, 3)).flatten(1, 2)
    return stack if below else stack.mT


class MuonOfThirds(Muon):
    """Muon for queries, keys and values in one matrix: each third is made orthogonal by itself."""

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Muon's chain with the thirds in place of the whole."""
        whole = orthogonalize_matching_adamw
        return tuple(orthogonalize_thirds if t is whole else t for t in super().rules(group))


class Ends(Selector):
    """The last matrix of a model, also where it is tied, and the first if there are no lookups."""

    may_be_empty = True

    def __init__(self, model: nn.Module):
        every = model.named_parameters(remove_duplicate=False)
        names = [name for name, p in every if _maps(name, p, [model.get_submodule(name.rpartition(".")[0])])]
        lookups = any(isinstance(module, _LOOKUPS) for module in model.modules())
        self._names = {*names[-1:], *([] if lookups else names[:1])}

    def holds(self, place: Place) -> bool:
        """Tell whether it is one of the two."""
        return not self._names.isdisjoint(place.names)


class OfKind(Selector):
    """Parameters of a kind; ``ends`` selects the first and last layers."""

    may_be_empty = True

    def __init__(self, kind: str, ends: Selector):
        self.kind, self.ends = kind, ends

    def holds(self, place: Place) -> bool:
        """Tell whether it is of the kind."""
        return _kind(place, self.ends) == self.kind

    def parts(self) -> Iterator[Selector]:
        """Yield what must be true of some parameter."""
        yield from self.ends.parts()

    def __repr__(self) -> str:
        return self.kind


def MuonAdamW(  # noqa: N802 - reads as the optimizer that it makes
    model: nn.Module,
    lr: float | Tensor | Schedule = 1e-3,
    weight_decay: float | Schedule = 0.1,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    adamw: Selector | str | type[nn.Module] | None = None,
) -> Routed:
    r"""Return an optimizer that steps a model's hidden matrices by Muon and all else by AdamW.

    =======================  =========  ==================================================================
    kind                     steps by   which
    =======================  =========  ==================================================================
    hidden matrices          Muon       matrices, and convolutions as outputs by all the rest
    fused QKV                Muon       ``in_proj_weight`` of ``nn.MultiheadAttention``, ``qkv``, ``c_attn``
                                        and such, if they are three squares: each by itself
    first and last layer     AdamW      the last matrix, and the first in a model without ``nn.Embedding``
    embeddings               AdamW      weights of ``nn.Embedding``, heads tied to them, ``pos_embed``,
                                        ``cls_token`` and such, and stacks that are no convolutions
    norms and biases         AdamW      what has at most one dimension, and those of more, such as
                                        ``relative_position_bias_table``; without weight decay
    =======================  =========  ==================================================================

    One learning rate and decay fit both, since Muon's updates have the root mean square of AdamW's
    (``adjust_lr_fn="match_rms_adamw"``). ``print(optimizer)`` shows who steps what.

    Args:
        model: its parameters, in the order of registration.
        lr: learning rate of both, :math:`\ge 0`; about the change of an element in one step, times 0.2 in
            matrices. It may be a schedule.
        weight_decay: :math:`\ge 0`, decoupled; of matrices and embeddings.
        momentum, nesterov, ns_steps: as in `Muon`.
        betas, eps: as in `AdamW`.
        adamw: a selector of the layers that AdamW is to step, in place of the first and the last; for models
            that register their head elsewhere: ``"lm_head.*"``.

    Returns:
        A `fallline.routing.Routed` optimizer with a group for each kind there is, named as above.

    Raises:
        TypeError: not a module.
        ValueError: a setting out of range.
        UnknownNameError: ``adamw`` is true of no parameter.

    Example:
        >>> import fallline
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> print(fallline.MuonAdamW(model))
        rule   name                  tensors  elements  lr     weight_decay
        Muon   hidden matrices             1       256  0.001  0.1
        AdamW  first and last layer        2       192  0.001  0.1
        AdamW  norms and biases            3        36  0.001  0

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ (which parameters); Liu et al.
    2025, https://arxiv.org/abs/2502.16982 (one learning rate).
    torch has no such optimizer; its Muon takes matrices that one has picked by hand.
    """
    require_module(model)
    ends = Ends(model) if adamw is None else selector(adamw)
    muon = dict(
        lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    adam = dict(lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)
    return route(
        model,
        Route(OfKind(HIDDEN, ends), Muon, **muon),
        Route(OfKind(FUSED, ends), MuonOfThirds, **muon),
        Route(OfKind(ENDS, ends), AdamW, **adam),
        Route(OfKind(EMBEDDINGS, ends), AdamW, **adam),
        Route(OfKind(VECTORS, ends), AdamW, **{**adam, "weight_decay": 0.0}),
    )


def _kind(place: Place, ends: Selector) -> str:
    x = place.tensor
    if x.ndim < 2 or any(_adds_or_scales(name, place.modules) for name in place.names):
        return VECTORS
    lookup = any(isinstance(module, _LOOKUPS) for module in place.modules)
    if lookup or not all(_maps(name, x, place.modules) for name in place.names):
        return EMBEDDINGS
    if ends.holds(place):
        return ENDS
    fused = x.ndim == 2 and max(x.shape) == 3 * min(x.shape) and _NAME_OF_A_FUSED_QKV.search(place.name)
    return FUSED if fused else HIDDEN


def _maps(name: str, x: Tensor, modules: Sequence[nn.Module]) -> bool:
    """Tell by what is around it whether ``x`` maps activations, as a matrix or a convolution does."""
    own = name.rpartition(".")[-1]
    convolution = any(isinstance(module, _CONVOLUTIONS) for module in modules)
    is_matrix = x.ndim == 2 or (x.ndim > 2 and convolution)
    return is_matrix and not (_NAME_OF_AN_EMBEDDING.search(own) or _adds_or_scales(name, modules))


def _adds_or_scales(name: str, modules: Sequence[nn.Module]) -> bool:
    """Tell by what is around it whether a parameter is that of a norm, or a bias."""
    norm = any(isinstance(module, _NORMS) for module in modules)
    return norm or bool(_NAME_OF_A_BIAS.search(name.rpartition(".")[-1]))
