"""Any sequence of transforms as an optimizer."""

from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, Signature
from typing import Any

from fallline.core.errors import RuleError, UnknownOptionError, suggestion
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Optimizer
from fallline.core.plan import plan
from fallline.core.precision import PRECISION, Precision
from fallline.core.transform import Transform, bare, settings_of


class ChainedOptimizer(Optimizer):
    """An optimizer whose rule was put together by `chain`."""

    def __init__(
        self,
        params: Any,
        transforms: tuple[Transform, ...],
        settings: dict[str, Any],
        skip_nonfinite: bool = False,
        precision: Precision | None = None,
        **flags: Any,
    ):
        self.chain = transforms
        records = {h.name: h for t in transforms for h in t.records}
        plain = {n: Hyperparameter(n, v, f"setting {n} of the chain") for n, v in settings.items()}
        self.hyperparameters = tuple({**plain, **records}.values())
        defaults = {"maximize": False, "foreach": None, "differentiable": False, "fused": None, **flags}
        super().__init__(params, {**settings, **defaults}, skip_nonfinite=skip_nonfinite, precision=precision)

    def rules(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:  # type: ignore[override]
        """The transforms as chained."""
        return self.chain

    def __setstate__(self, state: dict[str, Any]) -> None:
        chained = state.get("chain", self.__dict__.get("chain", ()))
        super().__setstate__({**state, "chain": tuple(map(bare, chained))})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "chain": self.chain}


def chain(*transforms: Transform) -> Callable[..., ChainedOptimizer]:
    """Return a maker of optimizers that apply ``transforms`` one after the other, fused into few passes.

    Each transform maps the update so far to the next one, the gradient being the first; the last update is
    subtracted from the parameter. Transforms of the parameter itself follow the step.

    Args:
        transforms: such as ``scale_by_adam(beta1=0.95)``; settings not given keep the rule's defaults.

    Returns:
        ``make(params, **settings)``: settings given there override those of the transforms, and are the keys
        of the parameter groups; ``maximize``, ``foreach``, ``fused``, ``differentiable`` are as in torch,
        ``skip_nonfinite`` and ``precision`` as in `Optimizer`.

    Raises:
        RuleError: two transforms share a state name or disagree about a setting, or a setting has no value.
        UnknownOptionError: a setting that no transform reads.

    Example:
        >>> import torch
        >>> from fallline.optimizers.adam import scale_by_adam
        >>> from fallline.optimizers.sgd import scale_by_learning_rate
        >>> make = chain(scale_by_adam(beta2=0.99), scale_by_learning_rate(3e-4))
        >>> optimizer = make([torch.nn.Parameter(torch.zeros(3))], lr=1e-3)
        >>> optimizer.param_groups[0]["lr"]
        0.001

    Differs from optax's: the result is an optimizer, and the learning rate is not negated.
    """
    links = tuple(map(bare, transforms))
    plan(links)
    defaults = settings_of(transforms)
    options = {"maximize", "foreach", "differentiable", "fused", "skip_nonfinite", PRECISION}
    _refuse_taken_names(links, options | {"params", "param_names", "name", "before", "after"})

    def make(params: Any, **settings: Any) -> ChainedOptimizer:
        for name in settings:
            if name not in defaults and name not in options:
                raise UnknownOptionError(
                    f"this chain has no option {name!r}{suggestion(name, {*defaults, *options})}"
                )
        flags = {n: v for n, v in settings.items() if n in options}
        values = {**defaults, **{n: v for n, v in settings.items() if n in defaults}}
        missing = [n for t in links for n in t.settings_read if n not in values]
        if missing:
            raise RuleError(
                f"the chain's setting {missing[0]!r} has no value; give {missing[0]}=... to its transform"
            )
        return ChainedOptimizer(params, links, values, **flags)

    make.__signature__ = _signature(links, defaults, sorted(options))  # type: ignore[attr-defined]
    return make


def _refuse_taken_names(links: tuple[Transform, ...], taken: set[str]) -> None:
    for t in links:
        if own := sorted(taken.intersection(t.settings_read)):
            raise RuleError(
                f"{t.name} reads {own[0]!r}, which means something else in parameter groups; use another name"
            )


def _signature(
    links: tuple[Transform, ...], defaults: Mapping[str, Any], options: Iterable[str]
) -> Signature:
    """Return the signature of a class with these settings: a comparison reads there what to search."""
    read = {n: defaults.get(n, Parameter.empty) for t in links for n in t.settings_read}
    named = {**read, **dict.fromkeys(options)}
    keywords = [Parameter(n, Parameter.KEYWORD_ONLY, default=value) for n, value in named.items()]
    return Signature([Parameter("params", Parameter.POSITIONAL_OR_KEYWORD), *keywords])
