"""The base of every optimizer: torch.optim's contract, and the one step loop."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, MethodType
from typing import Any, ClassVar, Self, TypedDict

import torch
from torch.autograd import profiler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fallline.core import capture, checkpoint, compiled, finite
from fallline.core.dispatch import Dispatch, Outcome
from fallline.core.errors import NotSettled, RuleError, UnknownOptionError, suggestion
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.plan import negate, plan
from fallline.core.precision import (
    PRECISION,
    Precision,
    check_precision,
    counting,
)
from fallline.core.schedule import at
from fallline.core.sparsity import Sparse, leaves_the_rest_alone
from fallline.core.timetable import STATES, STEPS, Timetable
from fallline.core.transform import Transform, bare, settings_of

#: How many dispatches an optimizer keeps, for as many patterns of which parameters have a gradient.
DISPATCHES = 4

_log = logging.getLogger("fallline")

#: The key of a group that counts its skipped steps.
SKIPPED = "skipped_steps"

#: Keys that belong in a parameter group whatever the optimizer: torch's own and its schedulers'.
COMMON_KEYS = {
    "params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum",
    "swa_lr", "fused", "capturable", STEPS, SKIPPED, PRECISION,
}  # fmt: skip


class Extra(TypedDict, total=False):
    """The options that every optimizer takes beyond torch's; see `Optimizer`."""

    before: Sequence[Transform]
    after: Sequence[Transform]
    skip_nonfinite: bool
    precision: Precision | None


class Optimizer(torch.optim.Optimizer, compiled.Traceable):
    """An update rule as a ``torch.optim.Optimizer``; a subclass gives its hyperparameters and `rules`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        defaults: the settings; each may be a schedule (`fallline.schedules`), and so may each in a group.
        before: transforms of the gradient, such as ``clip_by_global_norm(1.0)``, ahead of the rules.
        after: transforms that follow the rules: of the update, or of the parameter after the step. All are
            fused with the rules where they are elementwise; their settings are keys of the groups.
        skip_nonfinite: leave out a step, with parameters and state untouched, in which any gradient is
            infinite or NaN; `skipped_steps` counts them, and the log names the parameter.
        precision: how state and parameters are stored (`Precision`); it may differ between groups.

    Raises:
        RuleError: the transforms do not fit together.
        ValueError: a setting out of range.
    """

    hyperparameters: tuple[Hyperparameter, ...] = ()
    #: Group keys that checkpoints of older torch versions lack, with the value they stood for.
    added_later: ClassVar[dict[str, Any]] = {"maximize": False, "foreach": None, "differentiable": False}

    before: tuple[Transform, ...] = ()
    after: tuple[Transform, ...] = ()
    _dispatches: tuple[Dispatch, ...] = ()
    #: Dispatches in graphs, which read their tables at each replay.
    _captured: tuple[Dispatch, ...] = ()
    _added: Mapping[str, Any] = MappingProxyType({})

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse options that the constructor does not have, with the nearest name."""
        accepted = inspect.signature(cls.__init__).parameters
        unlisted = {p.name for p in accepted.values() if p.kind is inspect.Parameter.VAR_KEYWORD}
        if unlisted <= {"extra"}:
            known = {*accepted, *(Extra.__annotations__ if unlisted else ())} - {"self", "extra"}
            _refuse_unknown(cls.__name__, options, known)
        return super().__new__(cls)

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        before: Sequence[Transform] = (),
        after: Sequence[Transform] = (),
        skip_nonfinite: bool = False,
        precision: Precision | None = None,
    ):
        self._add_transforms(before, after, skip_nonfinite, set(defaults))
        own = {} if precision is None else {PRECISION: precision}
        self.defaults = {**defaults, **self._added, **own}
        self._timetable = Timetable()
        self._check(_settled(self.defaults, 0))
        super().__init__(params, self.defaults)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Return the chain of transforms for a parameter group with these settings."""
        raise NotImplementedError(f"{cls.__name__} must define rules(group)")

    def takes_sparse(self, group: Mapping[str, Any]) -> Sparse | None:
        """Return what becomes of sparse gradients, or None where they are refused.

        Where a rule leaves elements without a gradient alone, the rows that one touches are all there is to
        do. Other rules may let it be made dense, which changes only the speed.
        """
        return "rows" if leaves_the_rest_alone(plan(self.transforms(group))) else None

    def refuses_dense(self, group: Mapping[str, Any]) -> str | None:
        """Return what to do instead where gradients must be sparse, or None where they may be dense."""
        return None

    def transforms(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Return the whole chain for a parameter group: its `rules`, uphill if it maximizes."""
        rules = (*self.before, *self.rules(group), *self.after, *counting(group))
        return (negate, *rules) if group.get("maximize") else rules

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the loss of ``closure`` if one is given."""
        if torch.compiler.is_compiling():
            alone = closure is None and self._number
            return compiled.step(self) if alone else _step_outside_the_graph(self, closure)
        return self._step_watched(closure) if self._watched() else _step(self, closure)

    step.hooked = True  # type: ignore[attr-defined]  # hooks run when there are any: torch need not wrap it

    def _step_watched(self, closure: Callable[[], Any] | None = None) -> Any:
        return _step_with_hooks(self) if closure is None else _step_with_hooks(self, closure)

    def _watched(self) -> bool:
        """Tell whether a hook or a profiler wants to see the step."""
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or profiler._is_profiler_enabled
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; unknown keys and values out of range are refused before anything changes."""
        steps = max((int(group.get(STEPS, 0)) for group in self.param_groups), default=0)
        if isinstance(param_group, dict):
            self._check(_settled(param_group, steps))
            _refuse_unknown(type(self).__name__, param_group, set(self.defaults) | COMMON_KEYS)
            plan(self.transforms(_settled({**self.defaults, **param_group}, steps)))
        _uncompiled(super().add_param_group)(param_group)
        self._timetable.add(self.param_groups[-1], steps)
        self._dispatches = ()
        self._register()

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Load a state made by `state_dict` of this class or of torch's; dtypes are kept exactly.

        Parameters are matched by name where both sides know names (an optimizer made from ``(name, tensor)``
        pairs does), whatever their order and groups; by position otherwise. A group takes the settings of
        the saved group that its parameters were in.

        Args:
            state_dict: what `state_dict` returned.
            strict: refuse a state dict that does not fit in every respect; otherwise load what fits, leave
                the rest as it is, and warn.

        Raises:
            CheckpointMismatch: it does not fit; all mismatches are named, and nothing was changed.
            TypeError: not a dict.

        Differs from torch's, which matches by position alone and looks at the number of parameters alone.
        """
        self._timetable.fit(self.param_groups)
        checkpoint.load(self, state_dict, _uncompiled(super().load_state_dict), strict)
        self._dispatches = ()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset all gradients to None, or to zero."""
        if set_to_none and torch.compiler.is_compiling():
            compiled.zero_grad(self)
        else:
            _uncompiled(super().zero_grad)(set_to_none)

    def settings_loaded(self, own: Mapping[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a group that had ``own`` ones after loading ``saved`` ones."""
        return saved

    def state_dict(self) -> dict[str, Any]:
        """Return state and groups as torch does; groups with a schedule tell their step and its state."""
        packed = _uncompiled(super().state_dict)()
        self._timetable.fit(self.param_groups)
        self._timetable.plain(packed["param_groups"])
        for group, states in zip(packed["param_groups"], self._timetable.states(), strict=True):
            group.update({STATES: states} if states else {})
            if group.get(PRECISION) is not None:
                group[PRECISION] = group[PRECISION].packed()
        return packed

    def __getstate__(self) -> dict[str, Any]:
        kept = ("before", "after", "hyperparameters", "_added", "_timetable")
        return {**super().__getstate__(), **{n: v for n, v in self.__dict__.items() if n in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        chains = {n: tuple(map(bare, state[n])) for n in ("before", "after") if n in state}
        super().__setstate__({**state, **chains})
        self._dispatches = ()
        for group in self.param_groups:
            for key, value in {**self.added_later, **self._added}.items():
                group.setdefault(key, value)
        checkpoint.tensors_from_numbers(self)
        self._timetable.restore(self.param_groups, checkpoint.steps_made(self))
        self._register()

    def _add_transforms(
        self, before: Sequence[Transform], after: Sequence[Transform], skip: bool, known: set[str]
    ) -> None:
        """Put transforms around the rules; their settings and records join those of the rules."""
        front = (finite.skip_nonfinite, *before) if skip else tuple(before)
        links = (*front, *after)
        known = known | {name for h in self.hyperparameters for name in h.readers}
        self.before, self.after = tuple(map(bare, front)), tuple(map(bare, after))
        settings = settings_of(links)
        for t in links:
            for name in t.settings_read:
                if name in t.settings and name in known:
                    raise RuleError(f"{type(self).__name__} has {name!r} itself; do not give it to {t.name}")
                if name not in known and name not in settings:
                    raise RuleError(f"{t.name} needs a value for {name!r}; give {name}=... to it")
        self._added = {n: v for n, v in settings.items() if n not in known}
        records = {h.name: h for t in links for h in t.records if h.name in self._added}
        if records:
            self.hyperparameters = (*type(self).hyperparameters, *records.values())

    def _advance(self) -> Outcome:
        """Step every batch; a schedule that was put into a group since the last step is taken over first."""
        try:
            outcome = self._dispatches[0].step(self) if self._dispatches else Outcome.STALE
            return self._dispatched() if outcome is Outcome.STALE else outcome
        except NotSettled:
            self._timetable.take_over(self.param_groups)
            self._follow_schedules()
            return self._dispatched()

    def _dispatched(self) -> Outcome:
        """Step every batch, with an earlier dispatch that holds or a new one.

        Several are kept: which parameters have a gradient may change to and fro.
        """
        for dispatch in self._dispatches[1:]:
            outcome = dispatch.step(self)
            if outcome is not Outcome.STALE:
                return self._remember(dispatch, outcome)
        capture.refuse_new_dispatch(self)
        dispatch = Dispatch(self)
        outcome = dispatch.step(self)
        if outcome is Outcome.STALE:
            raise RuntimeError("parameters or state changed during the step; use one thread per optimizer")
        return self._remember(dispatch, outcome)

    def _remember(self, dispatch: Dispatch, outcome: Outcome) -> Outcome:
        earlier = (each for each in self._dispatches if each.has_grad != dispatch.has_grad)
        self._dispatches = (dispatch, *earlier)[:DISPATCHES]
        return outcome

    def _follow_schedules(self) -> None:
        """Give scheduled settings their values at this step, all of them or none."""
        self._timetable.set(
            self.param_groups, self._timetable.values(self.param_groups, self._check_scheduled)
        )

    def _check_scheduled(self, group: dict[str, Any], values: dict[str, Any]) -> None:
        for h in self.hyperparameters_of(group) if values else ():
            if h.name in values:
                h.check(values[h.name])

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """For `torch.amp.GradScaler`: fused steps, as in torch, divide gradients by the scale as they read.

        They leave the gradients as they are. For others the scaler divides them in place.
        """
        return all(group.get("fused") for group in self.param_groups)

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped because of gradients that were not finite."""
        return self.param_groups[0].get(SKIPPED, 0)

    def _note_veto(self) -> None:
        veto, places = self._dispatches[0].veto  # type: ignore[misc]
        for group in self.param_groups:
            group[SKIPPED] = group.get(SKIPPED, 0) + 1
        names = checkpoint.names(self)
        culprits = ", ".join(names[i] for i in places[:3]) + (", ..." if len(places) > 3 else "")
        _log.warning("step skipped (%d in all): %s: %s", self.skipped_steps, veto.vetoes, culprits)

    def hyperparameters_of(self, group: Mapping[str, Any]) -> tuple[Hyperparameter, ...]:
        """Return the records of the settings that a group's rules read."""
        return self.hyperparameters

    def _check(self, group: Mapping[str, Any]) -> None:
        for h in self.hyperparameters_of(group):
            if h.name in group:
                h.check(group[h.name])
        check_precision(group)
        self.check_together({**_settled(self.defaults, 0), **group})

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse settings that are allowed alone but not together."""
        fused, foreach = group.get("fused"), group.get("foreach")
        if fused and group.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`; drop one of them")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _uncompiled(method: Any) -> Callable[..., Any]:
    """Return a bound method of torch's without the guard that keeps it out of compiled graphs.

    The guard imports ``torch._dynamo`` when it is first passed, which takes a second; as long as that is not
    loaded, there is no graph that it could keep the method out of.
    """
    torchs = getattr(torch.optim.Optimizer, method.__name__)
    if "torch._dynamo" in sys.modules or getattr(method, "__func__", None) is not torchs:
        return method
    return MethodType(getattr(torchs, "__wrapped__", torchs), method.__self__)


def _settled(group: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Return the settings with their values at ``step`` in place of schedules."""
    return {key: at(value, step) for key, value in group.items()}


def _refuse_unknown(name: str, options: Iterable[str], known: set[str]) -> None:
    for option in options:
        if option not in known:
            raise UnknownOptionError(f"{name} has no option {option!r}{suggestion(str(option), known)}")


def _step(optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    graph = capture.going_on()
    if graph:
        capture.refuse(optimizer)
    if optimizer._timetable.active:
        optimizer._follow_schedules()
    outcome = optimizer._advance()
    if outcome is Outcome.VETOED:
        optimizer._note_veto()
    elif outcome is Outcome.DONE and optimizer._timetable.active:
        optimizer._timetable.count(optimizer.param_groups, optimizer._dispatches[0].withheld)
    if graph:
        optimizer._captured += (optimizer._dispatches[0],)
    return loss


_step_with_hooks = torch.optim.Optimizer.profile_hook_step(_step)
#: What calls back into the model is no operation of a graph.
_step_outside_the_graph = torch._disable_dynamo(Optimizer.step)  # type: ignore[attr-defined]
