"""How deep in a model a parameter lies, and learning rates that decay with the distance from the head."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fallline.core.errors import UnknownNameError, suggestion
from fallline.core.schedule import Schedule


@dataclass(frozen=True)
class Depths:
    """The depth of each parameter by name: 0 before the layers, 1 to n in them, ``top`` = n + 1 after."""

    of: dict[str, int]
    top: int


@dataclass(frozen=True)
class LayerwiseDecay:
    """A learning rate for each parameter: ``base * decay ** (top - depth)``; ``base`` is that of the head."""

    decay: float
    depths: Depths
    base: float | Schedule | None = None

    def at(self, name: str) -> Any:
        """Return the learning rate of the parameter called ``name``."""
        if self.base is None:
            raise ValueError("layerwise_decay has no learning rate; multiply: lr=1e-3 * layerwise_decay(...)")
        return self.decay ** (self.depths.top - self.depth_of(name)) * self.base

    def depth_of(self, name: str) -> int:
        """Return the depth of the parameter called ``name``."""
        if name not in self.depths.of:
            raise UnknownNameError(
                f"layerwise_decay has no parameter {name!r} in its model; give it the model that is routed"
            )
        return self.depths.of[name]

    def __mul__(self, base: float | Schedule) -> "LayerwiseDecay":
        return replace(self, base=base if self.base is None else base * self.base)

    __rmul__ = __mul__


def layerwise_decay(model: nn.Module, decay: float, *, blocks: str | Iterable[str] = ()) -> LayerwiseDecay:
    r"""Return learning rates for fine-tuning: the nearer to the input a layer is, the less it changes.

    .. math::
        \eta_d = \eta\, \gamma^{\,n + 1 - d}

    with :math:`d = 0` for the stem (whatever comes before the layers, such as embeddings),
    :math:`d = 1, \dots, n` for the layers and :math:`d = n + 1` for the head (whatever comes after).

    Args:
        model: its longest ``Sequential`` or ``ModuleList`` holds the layers; parts without parameters do not
            count.
        decay: :math:`\gamma` in (0, 1].
        blocks: the name of the list of layers instead, or several names, whose layers follow each other.

    Returns:
        What, times the head's learning rate :math:`\eta` (a number or a schedule), is the ``lr`` of a
        `Route`.

    Raises:
        TypeError: not a module.
        ValueError: ``decay`` out of range, or the model has no list of layers.
        UnknownNameError: there is no module called ``blocks``.

    Example:
        >>> from torch import nn
        >>> from fallline.routing import layerwise_decay
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> lr = 1e-3 * layerwise_decay(model, 0.5)
        >>> lr.at("0.weight"), lr.at("2.weight")
        (0.00025, 0.0005)

    Source: Clark et al. 2020 (ELECTRA), https://arxiv.org/abs/2003.10555; He et al. 2021 (MAE),
    https://arxiv.org/abs/2111.06377. torch has no such function.
    """
    require_module(model)
    if not 0 < decay <= 1:
        raise ValueError(f"Invalid decay value: {decay}; decay must lie in (0, 1]")
    found = depths(model, (blocks,) if isinstance(blocks, str) else tuple(blocks))
    if found is None:
        raise ValueError("the model has no Sequential or ModuleList of layers; name one: blocks='...'")
    return LayerwiseDecay(decay, found)


def require_module(model: nn.Module) -> None:
    """Refuse what is not a module, such as its parameters."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"Invalid model: {type(model).__name__}; give the nn.Module, whose parts have names")


def depths(model: nn.Module, blocks: Iterable[str] = ()) -> Depths | None:
    """Return the depth of every parameter by each of its names; None where there is no list of layers."""
    layers = _named_layers(model, blocks) or _longest_list(model)
    if not layers:
        return None
    places = {f"{layer}.": i for i, layer in enumerate(layers, 1)}
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    found, last = {}, 0
    for name in names:
        inside = next((i for layer, i in places.items() if name.startswith(layer)), None)
        last = max(last, inside or 0)
        found[name] = inside or (len(layers) + 1 if last else 0)
    return Depths(found, len(layers) + 1)


def _named_layers(model: nn.Module, blocks: Iterable[str]) -> list[str]:
    modules = dict(model.named_modules())
    for block in blocks:
        if block not in modules:
            raise UnknownNameError(f"the model has no module called {block!r}{suggestion(block, modules)}")
    return [layer for block in blocks for layer in _layers(block, modules[block])]


def _longest_list(model: nn.Module) -> list[str]:
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Sequential, nn.ModuleList))]
    return max((_layers(name, module) for name, module in lists), key=len, default=[])


def _layers(name: str, module: nn.Module) -> list[str]:
    """Return the names of a module's children that have parameters."""
    prefix = f"{name}." if name else ""
    return [prefix + n for n, child in module.named_children() if any(True for _ in child.parameters())]
