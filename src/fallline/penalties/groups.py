"""Which tensors a penalty is for, and what it has done to them: exact zeros."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

#: torch's norms; one of another library is known by the name of its class, such as LlamaRMSNorm.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NAME_OF_A_NORM = re.compile(r"Norm(\d?d)?$")
#: ``bias``, ``in_proj_bias``, ``bias_hh_l0``.
_NAME_OF_A_BIAS = re.compile(r"(^|_)bias(_|$)")


def no_decay_on_norms_and_biases(
    model: nn.Module, *, weight_decay: Any, embeddings: bool = False
) -> list[dict[str, Any]]:
    r"""Return parameter groups with weight decay :math:`\lambda` for weights and 0 for norms and biases.

    Weight decay keeps weights small where only their direction counts or where they could overfit. The scale
    and shift of a norm, and biases, are few and have no such scale; decay pulls them from where they belong.

    Args:
        model: gives the parameters, each once, under the first of its names.
        weight_decay: :math:`\lambda \ge 0` of the weights, in the units of the optimizer; or a schedule, if
            it is one of fallline's.
        embeddings: leave out the weights of ``nn.Embedding`` too, also where a head shares them.

    Returns:
        Group dicts with ``params``, ``param_names`` and ``weight_decay``, for any optimizer, fallline's or
        torch's: first what decays, then what does not; a group without parameters is left out.

    Raises:
        TypeError: not a module.
        ValueError: the model has no parameters.

    Example:
        >>> import fallline
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        >>> groups = no_decay_on_norms_and_biases(model, weight_decay=0.1)
        >>> [(group["weight_decay"], group["param_names"]) for group in groups]
        [(0.1, ['0.weight']), (0.0, ['0.bias', '1.weight', '1.bias'])]
        >>> optimizer = fallline.AdamW(groups, lr=1e-3)

    Source: Jia et al. 2018, https://arxiv.org/abs/1807.11205 (no decay on biases and
    batch norms). torch has no such function.
    """
    _require_module(model)
    spared = {p for name, p, owner in _parameters(model) if _spared(name, owner, embeddings)}
    groups: dict[bool, dict[str, Any]] = {
        decays: {"params": [], "param_names": [], "weight_decay": weight_decay if decays else 0.0}
        for decays in (True, False)
    }
    for name, p in model.named_parameters():
        group = groups[p not in spared]
        group["params"].append(p)
        group["param_names"].append(name)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ValueError(f"{type(model).__name__} has no parameters; give a model that has some")
    return filled


def _require_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"Invalid model: {type(model).__name__}; give the nn.Module, whose parts have names")


def _parameters(model: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Yield every parameter at each place where it is: the name it has there, itself, and the module."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            yield name, p, module


def _spared(name: str, owner: nn.Module, embeddings: bool) -> bool:
    norm = isinstance(owner, NORMS) or _NAME_OF_A_NORM.search(type(owner).__name__)
    embedding = embeddings and isinstance(owner, (nn.Embedding, nn.EmbeddingBag))
    return bool(norm or embedding or _NAME_OF_A_BIAS.search(name))


@dataclass(frozen=True)
class Zeros:
    """How many elements of a tensor are exactly zero."""

    name: str
    zeros: int
    elements: int

    @property
    def share(self) -> float:
        """Zeros per element; 0 for a tensor without elements."""
        return self.zeros / self.elements if self.elements else 0.0


@dataclass(frozen=True)
class Sparsity:
    """Exact zeros by tensor and in all; it prints as a table, and ``sparsity[name]`` is a tensor's share."""

    tensors: tuple[Zeros, ...]

    @property
    def total(self) -> Zeros:
        """All tensors together."""
        return Zeros("all", sum(t.zeros for t in self.tensors), sum(t.elements for t in self.tensors))

    @property
    def share(self) -> float:
        """Zeros per element, in all."""
        return self.total.share

    def __getitem__(self, name: str) -> float:
        return {t.name: t.share for t in self.tensors}[name]

    def __str__(self) -> str:
        rows = [("tensor", "elements", "zeros", "share")]
        rows += [
            (t.name, f"{t.elements:,}", f"{t.zeros:,}", f"{t.share:.1%}") for t in (*self.tensors, self.total)
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
        )


def sparsity(model: nn.Module) -> Sparsity:
    """Return the share of exact zeros of each parameter of ``model``, and in all.

    Args:
        model: gives the parameters, each once, under the first of its names.

    Returns:
        ``share`` in all, ``sparsity[name]`` of a tensor, ``tensors`` with all counts; printed, a table.

    Raises:
        TypeError: not a module.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(3, 1)
        >>> _ = nn.init.zeros_(model.bias)
        >>> sparsity(model)["bias"], sparsity(model).share
        (1.0, 0.25)

    torch has no such function.
    """
    _require_module(model)
    return Sparsity(
        tuple(Zeros(name, int((p == 0).sum()), p.numel()) for name, p in model.named_parameters())
    )
