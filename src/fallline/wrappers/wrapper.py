"""The base of every wrapper: an optimizer around another, which keeps its parameters and its state."""

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ClassVar

import torch

from fallline.core.errors import CheckpointMismatch
from fallline.core.optimizer import Optimizer
from fallline.core.sparsity import Sparse

#: What torch's schedulers and scalers set on an optimizer; it belongs to this one and to no copy.
SET_FROM_OUTSIDE = {"step", "grad_scale", "found_inf"}


class Companion(Optimizer):
    """The fused half of a wrapper: a rule of its own, and its state beside each parameter."""

    added_later = {}

    def __init__(self, optimizer: torch.optim.Optimizer, defaults: dict[str, Any]):
        groups = [unset(group) for group in optimizer.param_groups]
        super().__init__(groups, {**defaults, "differentiable": False})  # torch adds it to what it loads

    def takes_sparse(self, group: Mapping[str, Any]) -> Sparse:
        """Make them dense: most rules of wrappers look at no gradient."""
        return "dense"


class Wrapper(torch.optim.Optimizer):
    """An optimizer around any other; a subclass has a `step`, and state of its own.

    Parameter groups, defaults and gradients are those of ``optimizer``: schedulers and gradient scalers
    work on either. The settings given to the constructor can be read under their names.
    """

    #: The attributes that are this wrapper's own state: each a `Companion` or a plain value.
    owned: ClassVar[tuple[str, ...]] = ()
    #: What to do if this wrapper needs gradients after backward and `GradientRelease` leaves none.
    without_gradients: ClassVar[str] = ""
    _skipped = False

    def __init_subclass__(cls) -> None:
        if "step" in vars(cls):
            cls.step = _outside_graphs(cls.step)  # type: ignore[method-assign]

    def __init__(self, optimizer: torch.optim.Optimizer):
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"{type(self).__name__} goes around an optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        super().__setstate__({})  # torch's hooks, without parameters of this object's own

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, ...]:
        """The inner optimizer and this wrapper's companions, for `explain` and `show_kernel`."""
        own = (getattr(self, name) for name in self.owned)
        return self.optimizer, *(value for value in own if isinstance(value, torch.optim.Optimizer))

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's defaults."""
        return self.optimizer.defaults

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The inner optimizer's parameter groups."""
        return self.optimizer.param_groups

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:  # type: ignore[override]
        """This wrapper's own state by parameter, or the inner optimizer's if it keeps none."""
        return self.parts[-1].state

    @property
    def inner_state(self) -> Mapping[torch.Tensor, Any]:
        """The innermost optimizer's own state by parameter."""
        inner = self.optimizer
        return inner.inner_state if isinstance(inner, Wrapper) else inner.state

    @property
    def params(self) -> list[torch.Tensor]:
        """All parameters, in the order of their groups."""
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def stepped(self) -> bool:
        """Whether the last call of `step` made one; `Accumulate` and ``skip_nonfinite`` leave some out."""
        return not self._skipped and getattr(self.optimizer, "stepped", True)

    def _step_inner(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the inner optimizer, and note whether it skipped the step."""
        inner = self._stepping
        before = getattr(inner, "skipped_steps", 0)
        loss = inner.step(closure) if closure is not None else inner.step()
        self._skipped = getattr(inner, "skipped_steps", 0) != before
        return loss

    @property
    def _stepping(self) -> torch.optim.Optimizer:
        """The optimizer that does the inner step."""
        return self.optimizer

    @property
    def must_call_closure(self) -> bool:
        """Whether `step` evaluates the loss itself and so needs a closure."""
        return must_call_closure(self.optimizer)

    @property
    def releases_gradients(self) -> bool:
        """Whether the gradients are used up within backward, and `step` finds none."""
        return getattr(self.optimizer, "releases_gradients", False)

    @property
    def skips_steps(self) -> bool:
        """Whether some calls of `step` move nothing."""
        return getattr(self.optimizer, "skips_steps", False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the inner optimizer, with state of this wrapper's own."""
        self.optimizer.add_param_group(param_group)
        for part in self.parts[1:]:
            part.add_param_group(unset(self.param_groups[-1]))

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state under ``optimizer``, and this wrapper's own by name."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state = {name: self._save(name) for name in ("optimizer", *self.owned)}
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Load what `state_dict` returned; when that fails, nothing has changed.

        With ``strict=False`` what fits is loaded, with a warning about the rest.

        Raises CheckpointMismatch when it is the state of another optimizer or wrapper.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"a {type(state_dict).__name__} is no state dict; give what state_dict() returned"
            )
        state = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state = before(self, state) or state
        self._compare(state, strict)
        with _unchanged_on_error(self):
            for name in [n for n in ("optimizer", *self.owned) if n in state]:
                self._load(name, state[name], strict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _save(self, name: str) -> Any:
        own = getattr(self, name)
        return own.state_dict() if isinstance(own, torch.optim.Optimizer) else own

    def _load(self, name: str, value: Any, strict: bool) -> None:
        own = getattr(self, name)
        if isinstance(own, torch.optim.Optimizer):
            load_into(own, value, strict)
        elif type(value) is not type(own):
            raise CheckpointMismatch(
                f"{name} is {value!r} in the state; {type(self).__name__} needs {type(own).__name__}"
            )
        else:
            setattr(self, name, value)

    def _compare(self, state: dict[str, Any], strict: bool) -> None:
        """Refuse the state of something else, or warn of it."""
        missing = sorted({"optimizer", *self.owned} - set(state))
        unknown = sorted(set(state) - {"optimizer", *self.owned})
        if not (missing or unknown):
            return
        problem = f"not a state of {type(self).__name__}: missing {missing}, unknown {unknown}"
        if strict:
            raise CheckpointMismatch(
                f"{problem}; load it where it was saved, in the same wrappers, or a part of it in the inner "
                f"optimizer; strict=False loads what fits"
            )
        warnings.warn(f"What fits was loaded: {problem}", stacklevel=3)

    def __getstate__(self) -> dict[str, Any]:
        kept = vars(self).items()
        return {n: v for n, v in kept if not n.startswith("_") and n not in SET_FROM_OUTSIDE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__setstate__({})

    def __repr__(self) -> str:
        arguments = list(inspect.signature(type(self).__init__).parameters)[2:]
        settings = "".join(f"{n}={getattr(self, n)!r}, " for n in arguments if hasattr(self, n))
        return f"{type(self).__name__}({settings}{self.optimizer!r})"


def _outside_graphs(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``step`` with torch's hooks, and outside the graph of a compiled training step."""
    hooked = torch.optim.Optimizer.profile_hook_step(step)
    outside = torch._disable_dynamo(hooked)  # type: ignore[attr-defined]

    @wraps(step)
    def run(*arguments: Any, **options: Any) -> Any:
        return (outside if torch.compiler.is_compiling() else hooked)(*arguments, **options)

    run.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it
    return run


def load_into(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any], strict: bool) -> None:
    """Load a state in any optimizer; torch's own know no ``strict``."""
    if isinstance(optimizer, (Optimizer, Wrapper)):
        optimizer.load_state_dict(state_dict, strict)
    else:
        optimizer.load_state_dict(state_dict)


def unset(group: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter group without its settings: the parameters, and their names if known."""
    return {key: group[key] for key in ("params", "param_names") if key in group}


def must_call_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether ``optimizer.step`` evaluates the loss itself, as LBFGS and SAM do."""
    if isinstance(optimizer, Wrapper):
        return optimizer.must_call_closure
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def refuse_closures(outer: str, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an inner optimizer that must evaluate the loss itself, for wrappers that do not let it."""
    if isinstance(optimizer, torch.optim.Optimizer) and must_call_closure(optimizer):
        inner = type(_last(optimizer, must_call_closure)).__name__
        around = isinstance(_last(optimizer, must_call_closure), Wrapper) and inner != outer
        remedy = (
            f"put {inner} around {outer}" if around else "use an optimizer that takes gradients as they are"
        )
        raise ValueError(f"{outer} cannot go around {inner}, which must evaluate the loss itself; {remedy}")


def refuse_released(outer: type[Wrapper], optimizer: torch.optim.Optimizer) -> None:
    """Refuse an inner optimizer that leaves no gradients behind, for wrappers that need them."""
    if getattr(optimizer, "releases_gradients", False):
        raise without_gradients(outer)


def without_gradients(wrapper: type[Wrapper]) -> ValueError:
    """Return the error for a wrapper that needs gradients together with one that leaves none."""
    return ValueError(
        f"{wrapper.__name__} needs gradients after backward, and GradientRelease leaves none; "
        f"{wrapper.without_gradients}"
    )


def refuse_skipping(outer: str, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an inner optimizer that does not step each time, for wrappers that step along with it."""
    if getattr(optimizer, "skips_steps", False):
        raise ValueError(f"{outer} cannot go around Accumulate; put Accumulate around {outer}")


def check_count(name: str, value: Any, low: int) -> None:
    """Refuse a count that is not a whole number, or too small."""
    if type(value) is not int or value < low:
        raise ValueError(f"Invalid {name} value: {value!r}; {name} must be a whole number of at least {low}")


def refuse_wrappers(outer: str, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a wrapper inside, for wrappers that step copies of the innermost optimizer."""
    if isinstance(optimizer, Wrapper):
        inner = type(optimizer).__name__
        remedy = f"put {inner} around {outer}" if inner != outer else "one is enough"
        raise ValueError(f"{outer} goes around a plain optimizer, not around {inner}; {remedy}")


def _last(
    optimizer: torch.optim.Optimizer, holds: Callable[[torch.optim.Optimizer], bool]
) -> torch.optim.Optimizer:
    """Return the innermost optimizer of a nest for which ``holds``."""
    while isinstance(optimizer, Wrapper) and holds(optimizer.optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _nest(optimizer: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    yield optimizer
    held = vars(optimizer).values() if isinstance(optimizer, Wrapper) else ()
    for part in [value for value in held if isinstance(value, torch.optim.Optimizer)]:
        yield from _nest(part)


@contextmanager
def _unchanged_on_error(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put every optimizer of the nest back if the block fails: loading replaces, it does not write."""
    before = [(each, dict(vars(each))) for each in _nest(optimizer)]
    try:
        yield
    except BaseException:
        for each, attributes in before:
            vars(each).clear()
            vars(each).update(attributes)
        raise
