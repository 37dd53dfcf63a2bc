"""Optimizers as pure functions: parameters, gradients and state go in, new parameters and state come out.

Nothing is written in place, so gradients flow through any number of steps, to settings, starting parameters
and gradients alike, and `torch.func` works: `grad` of a training, or `vmap` over many configurations at once.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fallline.backends.eager import evaluate
from fallline.core.errors import UnknownOptionError, suggestion
from fallline.core.optimizer import Optimizer
from fallline.core.parts import FRESH, PLACE, ROUNDING, STEP, Slot, Sum, keywords
from fallline.core.plan import Plan, plan
from fallline.core.precision import AS_TORCH, precision_of
from fallline.core.reduction import rounds
from fallline.core.refusals import refuse_complex
from fallline.core.schedule import follows
from fallline.core.state import scalar_dtype
from fallline.core.timetable import STEPS

#: An optimizer class, a made optimizer of one group, or what `fallline.chain` returns.
Rule = Optimizer | Callable[..., Any]
#: One tensor, or a list, tuple or dict of tensors.
Tensors = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def init(rule: Rule, params: Tensors, **settings: Any) -> Any:
    """Return the state with which `update` begins.

    Args:
        rule: an optimizer class, a made optimizer of one group, whose settings count, or a chain.
        params: a tensor, or a list, tuple or dict of tensors.
        settings: as for `update`; give those that decide which state there is, such as ``momentum``.

    Returns:
        For each parameter a dict of tensors, by name, in a container like that of ``params``.

    Raises:
        TypeError, ValueError: as `update`.

    Example:
        >>> import torch, fallline
        >>> state = fallline.functional.init(fallline.AdamW, {"weight": torch.zeros(2)})
        >>> sorted(state["weight"])
        ['exp_avg', 'exp_avg_sq', 'step']

    Differs from torch's: there is no such function in torch; optax has one of this form.
    """
    recipe = _recipe(rule, settings)
    return _like(params, [recipe.on(p).complete({}, p) for p in _leaves(params)])


def update(rule: Rule, params: Tensors, grads: Any, state: Any, **settings: Any) -> tuple[Any, Any]:
    r"""Return parameters and state after one step.

    .. math::
        (p_t, s_t) = U(p_{t-1},\, g_t,\, s_{t-1};\, \theta)

    as the optimizer itself would compute it, with ``params`` :math:`p`, ``grads`` :math:`g`, ``state``
    :math:`s` and ``settings`` :math:`\theta`. Settings given as tensors, which `vmap` and `grad` may follow,
    are always in use, even at 0: a weight decay of ``torch.tensor(0.0)`` has a derivative.

    Args:
        rule: an optimizer class, a made optimizer of one group, whose settings count, or a chain.
        params: a tensor, or a list, tuple or dict of tensors.
        grads: their gradients, in the same form; a parameter whose gradient is None stays as it is.
        state: what `init` or the last `update` returned.
        settings: such as ``lr``, over the rule's own: numbers or tensors of one element, on which the result
            depends differentiably. Units and ranges are those of the optimizer.

    Returns:
        The new parameters and the new state, in the same form.

    Raises:
        TypeError: ``rule`` is not an optimizer of fallline's, or it has no such setting.
        ValueError: a setting is out of range, or gradients or state do not fit the parameters.

    Example:
        The best learning rate for one step on p²/2 from p = 3, by its own gradient:

        >>> import torch, fallline
        >>> from fallline.functional import init, update
        >>> def loss_after(lr):
        ...     p = torch.tensor([3.0])
        ...     p, _ = update(fallline.SGD, p, p, init(fallline.SGD, p), lr=lr)
        ...     return (p * p / 2).sum()
        >>> torch.func.grad(loss_after)(torch.tensor(0.5)).item()
        -4.5
        >>> torch.vmap(loss_after)(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [4.5, 1.125, 0.0]

    Source: hypergradients, Maclaurin, Duvenaud and Adams 2015, https://arxiv.org/abs/1502.03492; the form
    is optax's. Differs from torch's ``torch.optim._functional``: nothing is written in place.
    """
    recipe = _recipe(rule, settings)
    rows = zip(_leaves(params), _alike("grads", grads, params), _alike("state", state, params), strict=True)
    tensors = [recipe.on(row[0]).begin(place, *row) for place, row in enumerate(rows)]
    stepped = [one for one in tensors if one.takes_part]
    vetoes = _run(stepped)
    for one in stepped:
        one.finish(vetoes)
    return _like(params, [one.p for one in tensors]), _like(params, [one.state for one in tensors])


@dataclass
class _Tensor:
    """One parameter in the course of a step: what it was, its values so far, the numbers its rules read."""

    p: Tensor
    state: dict[str, Tensor]
    values: dict[str, Any]
    numbers: dict[str, Any]
    plan: Plan
    takes_part: bool = True

    def reductions(self) -> Iterator[tuple[Sum, ...]]:
        """Run all passes, and wait at each for which the totals of sums are to be added up."""
        for one in self.plan.passes:
            self.values = evaluate(one, self.values, self.numbers)
            if one in self.plan.reductions:
                yield one.sums  # type: ignore[union-attr]

    def finish(self, vetoes: Sequence[Tensor]) -> None:
        """Take over the new values, unless the step is vetoed."""
        new = {**self.values, STEP: self.numbers.get(STEP), FRESH: 0.0}
        kept = self.plan.shapes(tuple(self.p.shape)).keys() | ({FRESH} & set(self.state))
        state = {name: _as(self.state[name], new[name]) for name in kept}
        p = _as(self.p, self.values["p"])
        for veto in vetoes:
            p = torch.where(veto, self.p, p)
            state = {name: torch.where(veto, self.state[name], value) for name, value in state.items()}
        self.p, self.state = p, {**self.state, **state}


@dataclass(frozen=True)
class _Recipe:
    """What a rule and its settings say: the plan, and the numbers that it reads."""

    plan: Plan
    numbers: dict[str, Any]

    def on(self, p: Tensor) -> "_Recipe":
        """Return the recipe for a tensor of that shape."""
        refuse_complex(self.plan, p)
        return replace(self, plan=self.plan.on(tuple(p.shape)))

    def complete(self, state: Mapping[str, Tensor], p: Tensor) -> dict[str, Tensor]:
        """Return the state with whatever the plan needs and is not there."""
        shapes = self.plan.shapes(tuple(p.shape))
        every = (*self.plan.slots, *self.plan.shaped_slots)
        state, missing = dict(state), [s for s in every if s.name in shapes and s.name not in state]
        for slot in self.plan.scalar_slots:
            if slot.name not in state:
                first = torch.zeros((), dtype=scalar_dtype(slot)) + self._initial(slot)
                state[slot.name] = first.to(scalar_dtype(slot))
        for slot in missing:
            like = p.new_zeros(shapes[slot.name], dtype=torch.promote_types(p.dtype, torch.float32))
            like = p if slot.shape is None and not slot.wide else like
            state[slot.name] = p.clone() if slot.initial == "p" else _full(like, self._initial(slot))
        if missing and _reads_fresh(self.plan):
            state[FRESH] = torch.ones(())
        return state

    def begin(self, place: int, p: Tensor, g: Tensor | None, state: Mapping[str, Tensor]) -> _Tensor:
        """Return one parameter with the values and numbers with which its step begins."""
        if g is None and self.plan.uses_grad:
            return _Tensor(p, dict(state), {}, {}, self.plan, takes_part=False)
        state = self.complete(state, p)
        stored = {"p": p, **{slot.name: state[slot.name] for slot in self.plan.slots}}
        if g is not None:
            stored["g"] = g if g.layout == torch.strided else g.to_dense()
        _refuse_other_shapes(p, stored)
        shaped = bool(self.plan.shaped_slots)
        values: dict[str, Any] = {n: _element_values(x, p.dtype, shaped) for n, x in stored.items()}
        values |= {slot.name: state.get(slot.name) for slot in self.plan.shaped_slots}
        numbers = {**self.numbers, FRESH: 0.0, PLACE: place, ROUNDING: torch.finfo(p.dtype).eps}
        if FRESH in state:
            numbers[FRESH] = _number(state[FRESH], exact=True)
        for slot in self.plan.scalar_slots:
            if slot.name == STEP:
                numbers[STEP] = _number(state[STEP], exact=True) + 1
            else:
                values[slot.name] = _number(state[slot.name], exact=not self.followed)
        return _Tensor(p, state, values, numbers, self.plan)

    @property
    def followed(self) -> bool:
        """Whether a derivative may flow to a setting."""
        return any(isinstance(number, Tensor) for number in self.numbers.values())

    def _initial(self, slot: Slot) -> Any:
        return self.numbers[slot.initial] if isinstance(slot.initial, str) else slot.initial


def _recipe(rule: Rule, settings: Mapping[str, Any]) -> _Recipe:
    """Return the plan of ``rule`` under ``settings``, and the numbers that it reads.

    A tensor does not decide what the rule consists of: a number stands in for it.
    """
    plain = {name: _stand_in(value) for name, value in settings.items()}
    made = _made(rule, plain)
    group = {**made.param_groups[0], **plain} if made is rule else made.param_groups[0]
    if made is rule:
        _check(made, group, plain)
    if precision_of(group) != AS_TORCH:
        raise ValueError("a pure function rounds nothing, and keeps state in full; leave precision out")
    if STEPS in group or any(follows(value) for value in group.values()):
        raise ValueError(
            "a schedule has no steps to follow in a pure function; give an optimizer's class, and the value "
            "at each step: update(AdamW, ..., lr=schedule(t))"
        )
    values = {**group, **{n: v for n, v in settings.items() if plain[n] is not v}}
    places = {name: place for h in made.hyperparameters_of(group) for name, place in h.readers.items()}
    read = plan(made.transforms(group))
    numbers = {n: values[key] if i is None else values[key][i] for n, (key, i) in places.items()}
    wanted = {name for variant in read.variants for name in variant.settings}
    wanted |= {s.initial for v in read.variants for s in (*v.slots, *v.shaped_slots, *v.scalar_slots)}
    return _Recipe(read, {n: _setting(v) for n, v in numbers.items() if n in wanted})


def _made(rule: Rule, options: Mapping[str, Any]) -> Optimizer:
    """Return an optimizer that ``rule`` makes, or ``rule`` if it is one."""
    if isinstance(rule, Optimizer):
        if len(rule.param_groups) > 1:
            raise ValueError(
                f"this {type(rule).__name__} has {len(rule.param_groups)} groups, and a pure "
                f"function has one rule for all; give an optimizer of one group, or update each by itself"
            )
        return rule
    known = not isinstance(rule, type) or issubclass(rule, Optimizer)
    if not (known and callable(rule)):
        name = rule.__name__ if isinstance(rule, type) else type(rule).__name__
        raise TypeError(
            f"{name} has no functional form; give a fallline optimizer, its class, or a fallline.chain(...)"
        )
    return rule([torch.zeros(1)], **options)


def _check(made: Optimizer, group: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse options that a made optimizer does not have or allow."""
    known = {*made.defaults, *(h.name for h in made.hyperparameters_of(group))}
    for name in options:
        if name not in known:
            raise UnknownOptionError(f"{type(made).__name__} has no option {name!r}{suggestion(name, known)}")
    for h in made.hyperparameters_of(group):
        if h.name in options:
            h.check(options[h.name])
    made.check_together(group)


def _stand_in(value: Any) -> Any:
    """Return a plain number for a tensor, and for those in a tuple; anything else as it is."""
    if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
        return tuple(_stand_in(part) for part in value)
    if not isinstance(value, Tensor):
        return value
    # A setting that is 0 may leave out its transform, and with it the derivative; many have no one value.
    return _plain(value) or 0.5


def _plain(x: Tensor) -> float | None:
    """Return the value of a tensor of one element; None inside `vmap`, where it has many."""
    if x.numel() != 1:
        raise ValueError(
            f"a setting must have 1 element, got shape {tuple(x.shape)}; use vmap for many at once"
        )
    try:
        return float(x.item())
    except RuntimeError:
        return None


def _setting(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.squeeze().double()
    return math.nan if value is None else float(value)


def _number(x: Tensor, exact: bool) -> Any:
    """Return scalar state, if ``exact`` as the Python float that the backends compute with."""
    value = _plain(x) if exact and not x.requires_grad else None
    return x.double() if value is None else value


def _run(tensors: Sequence[_Tensor]) -> list[Tensor]:
    """Run all passes; return for each sum that may veto the step whether it does."""
    vetoes, courses = [], [each.reductions() for each in tensors]
    waiting = [next(course, ()) for course in courses]
    for turn in rounds([each.plan for each in tensors]):
        for taken in dict.fromkeys(one for i in turn for one in waiting[i]):
            total = _sum(taken, [tensors[i] for i in turn if taken in waiting[i]])
            vetoes += [total != 0] if taken.vetoes else []
        for i in turn:
            waiting[i] = next(courses[i], ())
    return vetoes


def _sum(taken: Sum, tensors: Sequence[_Tensor]) -> Tensor:
    """Let each tensor read the sum over itself, or over all; return the sum over all."""
    own = [_total(each.values.pop(taken.name), each.values["p"]) for each in tensors]
    total = torch.stack(own).sum() if len(own) > 1 else own[0]
    for each, part in zip(tensors, own, strict=True):
        each.numbers[taken.name] = part if taken.over == "tensor" else total
    return total


def _total(summand: Any, p: Tensor) -> Tensor:
    """Return the sum over the elements of ``p`` of what may be one number for all of them."""
    return torch.as_tensor(summand, device=p.device).expand(p.shape).sum(dtype=torch.float64)


def _reads_fresh(plan: Plan) -> bool:
    return any(FRESH in keywords(function) for t in plan.transforms for function in t.functions)


def _full(p: Tensor, value: Any) -> Tensor:
    """Return a tensor like ``p`` full of ``value``, in both parts of complex numbers."""
    return _as(p, torch.zeros_like(_element_values(p, p.dtype)) + value)


def _element_values(x: Tensor, of: torch.dtype, shaped: bool = False) -> Tensor:
    """Return real numbers, in the dtype in which a parameter of dtype ``of`` is computed.

    They are never 0-d, since arithmetic of 0-d tensors with numbers per tensor would take place in the
    numbers' float64; but for rules with state that is ``shaped``, which follows the parameter's own shape.
    """
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    real = x if shaped else torch.atleast_1d(x)
    return real.to(torch.float64 if of in (torch.float64, torch.complex128) else torch.float32)


def _as(old: Tensor, value: Tensor | float) -> Tensor:
    """Return what was computed as a tensor like ``old``."""
    if not isinstance(value, Tensor):
        return torch.full_like(old, value, requires_grad=False)
    own = torch.view_as_complex(value) if old.is_complex() else value.reshape(old.shape)
    return own.to(old.dtype)


def _refuse_other_shapes(p: Tensor, tensors: Mapping[str, Tensor]) -> None:
    for name, x in tensors.items():
        if x.shape != p.shape:
            what = "a gradient" if name == "g" else f"the state {name!r}"
            raise ValueError(f"{what} has shape {tuple(x.shape)} and its parameter {tuple(p.shape)}")


def _leaves(params: Tensors) -> list[Tensor]:
    """Return the tensors of ``params`` in order."""
    values = [params] if isinstance(params, Tensor) else params
    if isinstance(values, Mapping):
        values = list(values.values())
    if not isinstance(values, (list, tuple)) or not all(isinstance(p, Tensor) for p in values):
        raise TypeError(
            f"params must be a tensor, or a list, tuple or dict of tensors, got {type(params).__name__}"
        )
    return list(values)


def _alike(name: str, given: Any, params: Tensors) -> list[Any]:
    """Return the parts of ``given`` in the order of ``params``, whose form it must have."""
    if isinstance(params, Tensor):
        return [given]
    if isinstance(params, Mapping):
        if isinstance(given, Mapping) and set(given) == set(params):
            return [given[key] for key in params]
    elif isinstance(given, (list, tuple)) and len(given) == len(params):
        return list(given)
    form = (
        f"a dict with the keys {list(params)}" if isinstance(params, Mapping) else f"{len(params)} in a list"
    )
    raise ValueError(f"{name} must have the form of params: {form}")


def _like(params: Tensors, parts: Iterable[Any]) -> Any:
    """Return ``parts`` in a container of the form of ``params``."""
    if isinstance(params, Tensor):
        (only,) = parts
        return only
    if isinstance(params, Mapping):
        return dict(zip(params, parts, strict=True))
    return tuple(parts) if isinstance(params, tuple) else list(parts)
