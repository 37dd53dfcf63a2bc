"""Layer-wise optimizers: rules that say which parameters are stepped by what, with which settings."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.errors import FalllineError, UnknownOptionError, suggestion
from fallline.core.optimizer import Extra, Optimizer
from fallline.routing.depth import LayerwiseDecay, depths, require_module
from fallline.routing.routed import RULE, FrozenRow, Routed
from fallline.routing.select import Place, Selector, refuse_empty, says_rest, selector


class RoutingError(FalllineError, ValueError):
    """Some parameters are taken by no rule, or by more than one."""


class Route:
    """A rule of `route`: the optimizer of the parameters that a selector selects.

    Args:
        select: a selector, a name pattern such as ``"*.bias"``, or a module type such as ``nn.LayerNorm``.
        optimizer: a fallline optimizer class, or what `fallline.chain` returns.
        settings: its settings, over the defaults given to `route`; ``lr`` may be
            ``1e-3 * layerwise_decay(model, 0.75)``.

    Raises:
        TypeError: not a selector, or not an optimizer that can be routed.
    """

    def __init__(self, select: Selector | str | type, optimizer: Callable[..., Any], **settings: Any):
        _refuse_unroutable(optimizer)
        self.select, self.optimizer, self.settings = selector(select), optimizer, settings

    def __repr__(self) -> str:
        return f"Route({self.select!r}, {getattr(self.optimizer, '__name__', 'chain')})"


class Frozen:
    """A rule of `route`: parameters that the optimizer does not hold; their ``requires_grad`` stays as it is.

    Args:
        select: as for `Route`.
    """

    def __init__(self, select: Selector | str | type):
        self.select = selector(select)

    def __repr__(self) -> str:
        return f"Frozen({self.select!r})"


def route(model: nn.Module, *rules: Route | Frozen, **defaults: Any) -> Routed:
    """Return one optimizer that steps different parameters of a model by different rules.

    Args:
        model: each of its parameters must be taken by exactly one rule; a shared one counts once, under all
            its names.
        rules: `Route` and `Frozen`; their order does not matter. ``rest`` selects what no rule takes that
            does not say ``rest``.
        defaults: settings of every route whose optimizer has them.

    Returns:
        An optimizer with a group for each route and setting, named by its selector; the groups know the names
        of their parameters, so that state is saved and loaded by name.

    Raises:
        RoutingError: parameters are taken by no rule or by two; all are listed, with the rules.
        UnknownNameError: a selector is true of no parameter; the nearest name is told.
        UnknownOptionError: no optimizer has such a setting.
        ValueError: a setting out of range.
        TypeError: ``model`` is not a module, or a rule none of `Route` and `Frozen`.

    Example:
        >>> from torch import nn
        >>> from fallline import SGD, AdamW, Route, route
        >>> from fallline.routing import ndim, rest
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        >>> optimizer = route(
        ...     model, Route(nn.Embedding, SGD, momentum=0.9), Route(rest & ndim(2), AdamW),
        ...     Route(rest & ndim(1), AdamW, weight_decay=0), lr=1e-3,
        ... )
        >>> [group["name"] for group in optimizer.param_groups]
        ['Embedding', 'rest & ndim(2)', 'rest & ndim(1)']

    Differs from torch's parameter groups: groups may have different optimizers, and none is forgotten.
    """
    require_module(model)
    for rule in rules:
        if not isinstance(rule, (Route, Frozen)):
            raise TypeError(f"{rule!r} is no rule; give Route(select, optimizer, ...) or Frozen(select)")
    taken = _assigned(_places(model), rules)
    routes = [rule for rule in rules if isinstance(rule, Route) and taken[rule]]
    _refuse_unused(defaults, routes)
    makers: dict[str, Optimizer] = {}
    groups = [group for one in routes for group in _groups(one, taken[one], defaults, makers)]
    if not groups:
        raise RoutingError("no parameter is left to optimize; add a Route")
    frozen = [rule for rule in rules if isinstance(rule, Frozen)]
    return Routed(groups, makers, [_frozen_row(rule, taken[rule]) for rule in frozen])


def _places(model: nn.Module) -> list[Place]:
    """Return every parameter once, with all its names and the modules around it."""
    names: dict[Tensor, list[str]] = defaultdict(list)
    for name, p in model.named_parameters(remove_duplicate=False):
        names[p].append(name)
    modules, found = dict(model.named_modules(remove_duplicate=False)), depths(model)
    return [
        Place(p, tuple(own), tuple(_around(modules, own)), found.of[own[0]] if found else None)
        for p, own in names.items()
    ]


def _around(modules: Mapping[str, nn.Module], names: Sequence[str]) -> list[nn.Module]:
    paths = {name[:i] for name in names for i, letter in enumerate(name) if letter == "."} | {""}
    return [modules[path] for path in sorted(paths)]


def _assigned(places: Sequence[Place], rules: Sequence[Route | Frozen]) -> dict[Route | Frozen, list[Place]]:
    """Return what each rule takes; refuse rules that do not share out the parameters."""
    for rule in rules:
        refuse_empty(rule.select, places)
    firm = [rule for rule in rules if not says_rest(rule.select)]
    seen = [
        Place(p.tensor, p.names, p.modules, p.depth, any(rule.select.holds(p) for rule in firm))
        for p in places
    ]
    takers = {place: [rule for rule in rules if rule.select.holds(place)] for place in seen}
    _refuse_unshared(takers, rules)
    return {rule: [place for place, by in takers.items() if rule in by] for rule in rules}


def _refuse_unshared(
    takers: Mapping[Place, Sequence[Route | Frozen]], rules: Sequence[Route | Frozen]
) -> None:
    lines = []
    for place, by in takers.items():
        if len(by) != 1:
            who = " and ".join(map(repr, by)) if by else "no rule"
            lines.append(f"  {' = '.join(place.names)}: {who}")
    if lines:
        shown = lines[:20] + ([f"  and {len(lines) - 20} more"] if len(lines) > 20 else [])
        raise RoutingError(
            "each parameter must be taken by exactly one rule; narrow the selectors, or add Route(rest, ...) "
            "or Frozen(rest):\n" + "\n".join([*shown, f"rules: {', '.join(map(repr, rules))}"])
        )


def _groups(
    one: Route, places: Sequence[Place], defaults: Mapping[str, Any], makers: dict[str, Optimizer]
) -> list[dict[str, Any]]:
    """Return a group for each setting that the parameters of a route have."""
    known = _options(one)
    options = {**{n: v for n, v in defaults.items() if n in known}, **one.settings}
    decays = [value for value in options.values() if isinstance(value, LayerwiseDecay)]
    alike: dict[tuple[int, ...], list[Place]] = defaultdict(list)
    for place in places:
        alike[tuple(each.depth_of(place.name) for each in decays)].append(place)
    groups = []
    for depth, members in sorted(alike.items(), key=lambda item: item[0]):
        maker = one.optimizer([torch.zeros(1)], **_settled(options, members[0].name))
        name = ", ".join([repr(one.select), *(f"depth {d}" for d in depth[:1])])
        params = {"params": [m.tensor for m in members], "param_names": [m.name for m in members]}
        groups.append({**maker.defaults, **params, RULE: _add(maker, makers), "name": name})
    return groups


def _settled(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of the parameter called ``name``."""
    return {n: v.at(name) if isinstance(v, LayerwiseDecay) else v for n, v in options.items()}


def _add(maker: Optimizer, makers: dict[str, Optimizer]) -> str:
    """Return the name in ``makers`` of the rules of ``maker``, after adding them if they are new."""
    names = [name for name, other in makers.items() if _code(other) == _code(maker)]
    if names:
        return names[0]
    own = type(maker).__name__
    count = sum(type(other) is type(maker) for other in makers.values())
    name = f"{own} {count + 1}" if count else own
    makers[name] = maker
    return name


def _code(maker: Optimizer) -> tuple[Any, ...]:
    """What of an optimizer is not settings of its groups."""
    return type(maker), maker.before, maker.after, getattr(maker, "chain", ())


def _options(one: Route) -> set[str]:
    """Return the names of the settings that the optimizer of a route has."""
    accepted = inspect.signature(getattr(one.optimizer, "__init__", one.optimizer)).parameters
    if isinstance(one.optimizer, type):
        return {*accepted, *Extra.__annotations__} - {"self", "params", "extra"}
    settings = {n: v for n, v in one.settings.items() if not isinstance(v, LayerwiseDecay)}
    return {*one.optimizer([torch.zeros(1)], **settings).defaults, *Extra.__annotations__}


def _refuse_unused(defaults: Mapping[str, Any], routes: Sequence[Route]) -> None:
    known = {name for one in routes for name in _options(one)}
    for name in defaults:
        if name not in known:
            raise UnknownOptionError(f"no optimizer here has an option {name!r}{suggestion(name, known)}")


def _refuse_unroutable(optimizer: Any) -> None:
    """Refuse torch's optimizers, wrappers, and whatever has a step loop of its own."""
    if not isinstance(optimizer, type):
        name, fits = type(optimizer).__name__, callable(optimizer) and not isinstance(optimizer, Optimizer)
    else:
        name = f"{optimizer.__module__.split('.')[0]}'s {optimizer.__name__}"
        fits = issubclass(optimizer, Optimizer) and optimizer.step is Optimizer.step
    if not fits:
        raise TypeError(
            f"{name} cannot be routed; give a class such as fallline.AdamW, or what fallline.chain returns, "
            f"and put wrappers around the optimizer that route returns"
        )


def _frozen_row(rule: Frozen, places: Sequence[Place]) -> FrozenRow:
    return FrozenRow(repr(rule.select), len(places), sum(place.tensor.numel() for place in places))
