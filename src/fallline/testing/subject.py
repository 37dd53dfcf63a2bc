"""The optimizer under check: how it is made, what its plan tells, and short trainings of it."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fallline.core.chain import ChainedOptimizer
from fallline.core.optimizer import Optimizer
from fallline.core.parts import PLACE
from fallline.core.plan import Plan, plan
from fallline.testing.traits import DECAYS, Traits

#: Returns an optimizer over ``params``, as a class does, or what `fallline.chain` returns.
Maker = Callable[..., torch.optim.Optimizer]
#: Returns the gradient of a parameter at a step, given its place.
Gradient = Callable[[Tensor, int, int], Tensor]

#: Flags that choose a backend of ours.
EAGER, CPU = {"foreach": False, "fused": False}, {"foreach": None, "fused": None}
#: Where only sparse gradients are taken, parameters are tables of rows.
TABLES = ((6, 3), (9, 2))


def noise(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Return normal numbers that are the same for every dtype but for its rounding."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(tuple(shape), dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dense(p: Tensor, step: int, place: int) -> Tensor:
    """Return a gradient of normal numbers; equal arguments give equal ones."""
    return noise(p.shape, p.dtype, 1000 * (step + 1) + place)


def rows(p: Tensor, step: int, place: int) -> Tensor:
    """Return a sparse gradient that has some rows of the dense one."""
    chosen = torch.arange(step % 2, len(p), 2)
    parts = dense(p, step, place)[chosen]
    return torch.sparse_coo_tensor(chosen[None], parts, p.shape, check_invariants=True)


@dataclass
class Run:
    """A training: an optimizer, its parameters, and where their gradients come from."""

    optimizer: Any
    params: list[Tensor]
    gradient: Gradient = dense

    def train(self, steps: Iterable[int], scale: float = 1.0) -> "Run":
        """Take a step with the gradients of each number in ``steps``."""
        for step in steps:
            self.give(step, scale)
            self.optimizer.step()
        return self

    def give(self, step: int, scale: float = 1.0) -> None:
        """Give every parameter its gradient of a step."""
        for place, p in enumerate(self.params):
            p.grad = scale * self.gradient(p, step, place)

    @property
    def values(self) -> list[Tensor]:
        """Copies of the parameters as they are."""
        return copies(self.params)

    @property
    def twins(self) -> list[Tensor]:
        """New parameters where these are now."""
        return [Parameter(x) for x in self.values]

    @property
    def state(self) -> list[dict[str, Any]]:
        """The state of each parameter, by name; none is made."""
        return [self.optimizer.state.get(p, {}) for p in self.params]

    @property
    def kept(self) -> list[Tensor]:
        """Copies of all tensors of the state."""
        return copies(x for state in self.state for x in state.values() if isinstance(x, Tensor))


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return detached copies."""
    return [x.detach().clone() for x in tensors]


class Subject:
    """An optimizer under check.

    Raises whatever its maker raises when it is made with the settings of ``traits``.
    """

    def __init__(self, make: Maker, traits: Traits | None = None):
        self.make, self.traits = make, traits or Traits()
        self.shapes: Sequence[Sequence[int]] = self.traits.shapes
        self.gradient: Gradient = dense
        self.sample = self.start().optimizer
        self.group = self.sample.param_groups[0]
        self.planned = isinstance(self.sample, Optimizer)
        self.sparse_only = self._refuses_dense()
        if self.sparse_only:
            self.shapes, self.gradient = TABLES, rows

    @property
    def name(self) -> str:
        """The name of the class, or of the function that makes the optimizer."""
        target = self.make.func if isinstance(self.make, partial) else self.make
        return target.__name__ if isinstance(target, type) else type(self.sample).__name__

    def params(
        self, dtype: torch.dtype = torch.float32, shapes: Sequence[Sequence[int]] | None = None
    ) -> list[Tensor]:
        """Return new parameters, of the traits' shapes unless others are given; two calls give equal ones."""
        return [Parameter(noise(s, dtype, i)) for i, s in enumerate(shapes or self.shapes)]

    def start(
        self,
        dtype: torch.dtype = torch.float32,
        shapes: Sequence[Sequence[int]] | None = None,
        params: Sequence[Tensor] | None = None,
        flags: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Run:
        """Return a training that begins; ``flags`` go into the groups, ``settings`` to the maker."""
        params = self.params(dtype, shapes) if params is None else list(params)
        optimizer = self.make(params, **{**self.traits.settings, **settings})
        for group in optimizer.param_groups:
            group.update(flags or {})
        return Run(optimizer, params, self.gradient)

    def takes(self, option: str) -> bool:
        """Tell whether the maker takes an option; one with bare keywords takes what its groups have."""
        bare = any(p.kind is p.VAR_KEYWORD and p.name != "extra" for p in self._parameters.values())
        return option in self._parameters or (bare and option in self.group)

    def group_of(self, params: list[Tensor], **changes: Any) -> dict[str, Any]:
        """Return a parameter group with the settings of the first one, but for ``changes``."""
        own = {n: v for n, v in self.group.items() if n not in ("params", "param_names")}
        named = [(f"late {i}", p) for i, p in enumerate(params)]
        return {**own, **changes, "params": named if "param_names" in self.group else params}

    @property
    def suggests(self) -> bool:
        """Whether a misspelt option meets a class or chain of ours, and so the nearest name is told."""
        target = self.make.func if isinstance(self.make, partial) else self.make
        return self.planned and (isinstance(target, type) or type(self.sample) is ChainedOptimizer)

    @property
    def options(self) -> list[str]:
        """The names of the settings that the maker takes."""
        return [name for name in self.group if name not in ("params", "param_names") and self.takes(name)]

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.make).parameters

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each parameter group; none where the optimizer is not one of ours."""
        groups = self.sample.param_groups if self.planned else ()
        return tuple(plan(self.sample.transforms(group)) for group in groups)

    @property
    def whole(self) -> bool:
        """Whether a rule works on whole tensors, or on lines of them."""
        return any(t.whole or t.per_line for rule in self.plans for t in rule.transforms)

    @property
    def elementwise(self) -> bool:
        """Whether each element is stepped by itself."""
        return self.planned and not self.whole and not any(rule.sums for rule in self.plans)

    @property
    def tensorwise(self) -> bool:
        """Whether each tensor is stepped by itself."""
        return self.planned and all(each.over == "tensor" for rule in self.plans for each in rule.sums)

    @property
    def numbered(self) -> bool:
        """Whether a rule asks for the place of a tensor among all, as drawing random numbers does."""
        return any(PLACE in t.reads for rule in self.plans for t in rule.transforms)

    def _refuses_dense(self) -> bool:
        """Tell whether only sparse gradients are taken."""
        try:
            self.start().train(range(1))
        except RuntimeError as error:
            return "dense" in str(error)
        return False

    @property
    def at_rest(self) -> dict[str, Any]:
        """The settings under which gradients of zero move nothing."""
        none = {name: 0.0 for name in DECAYS if name in self.group and self.takes(name)}
        return {**none, **(self.traits.fixed_point or {})}

    @cached_property
    def counterpart(self) -> type[torch.optim.Optimizer] | None:
        """The class of torch.optim that it replaces: ours of the same name do."""
        if self.traits.counterpart is not None:
            return self.traits.counterpart
        ours = type(self.sample).__module__.startswith("fallline.optimizers.")
        return getattr(torch.optim, self.name, None) if ours else None
