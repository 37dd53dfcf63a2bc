"""Averages of the iterates of any optimizer, for evaluation: EMA, Polyak's mean, SWA."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Optimizer
from fallline.core.parts import Slot
from fallline.core.transform import Transform, transform
from fallline.wrappers.wrapper import Companion, Wrapper, check_count

SHARE = Hyperparameter("share", 1.0, "share of the parameters in the new average", "w", low=0, high=1)
DECAY = Hyperparameter("decay", 0.999, "share of the old average in the new one", "β", low=0, high=1)


@transform(slots=(Slot("average", "p"),), hyperparameters=(SHARE,))
def follow_parameters(p, average, *, share):
    """Move the average by ``share`` of the way towards the parameter, and leave the parameter.

    At the end of a chain, ``AdamW(params, after=[follow_parameters(1e-3)])``, this is an exponential moving
    average with the decay 1 - share that costs no pass of its own; evaluate with it inside `averaged`. The
    average starts as the parameter before the first step.
    """
    return p, average + share * (p - average)


@contextmanager
def averaged(optimizer: Optimizer | Wrapper) -> Iterator[None]:
    """Let parameters hold the averages of `follow_parameters` in a ``with`` block.

    They have their exact old bits again after it. Wrappers around the optimizer may be given as well.

    Raises:
        ValueError: the optimizer keeps no averages.
        RuntimeError: a step, or another such block, inside.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.SGD([p], lr=0.5, after=[fallline.follow_parameters(0.5)])
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> with fallline.averaged(optimizer):
        ...     p.item()
        0.5
        >>> p.item()
        0.0
    """

    def refuse(*_: Any) -> None:
        raise RuntimeError("the parameters hold the average: leave the `averaged` block before a step")

    if getattr(optimizer, "_averaged", False):
        raise RuntimeError("the parameters hold the average already: leave the `averaged` block first")
    state = optimizer.inner_state if isinstance(optimizer, Wrapper) else optimizer.state
    if not any("average" in own for own in state.values()):
        raise ValueError(
            "the optimizer keeps no averages yet; give it after=[follow_parameters(1e-3)] and step"
        )
    guard = optimizer.register_step_pre_hook(refuse)
    try:
        optimizer._averaged = True  # type: ignore[attr-defined]
        with _holding_averages(state):
            yield
    finally:
        guard.remove()
        del optimizer._averaged  # type: ignore[attr-defined]


@contextmanager
def _holding_averages(state: Mapping[Tensor, Mapping[str, Tensor]]) -> Iterator[None]:
    held = [(p, own["average"]) for p, own in state.items() if "average" in own]
    kept = [p.detach().clone() for p, _ in held]
    try:
        _copy(held)
        yield
    finally:
        _copy([(p, old) for (p, _), old in zip(held, kept, strict=True)])


class Averages(Companion):
    """The averages of all parameters, in float32 for those of half precision: they would stand still."""

    hyperparameters = (SHARE,)

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(optimizer, {"share": 1.0})

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Follow the parameters."""
        return (follow_parameters,)

    def follow(self, share: float) -> None:
        """Move every average by ``share`` of the way to its parameter; a new average starts there."""
        for group in self.param_groups:
            group["share"] = share
            for p in group["params"]:
                if p.dtype in (torch.float16, torch.bfloat16) and not self.state[p]:
                    self.state[p]["average"] = p.detach().float()
        self.step()


class Averaging(Wrapper):
    """A wrapper that keeps an average of the parameters; a subclass says by the `share` of each step how."""

    owned = ("average", "steps")
    _swapped = False

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(optimizer)
        self.average, self.steps = Averages(optimizer), 0

    def share(self) -> float | None:
        """Return the share of the parameters in the new average, None if they are not averaged now."""
        raise NotImplementedError(f"{type(self).__name__} must define share()")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the inner optimizer, then average; return the loss of ``closure``."""
        if self._swapped:
            raise RuntimeError("the parameters hold the average: leave the `swap()` block before a step")
        loss = self._step_inner(closure)
        self.steps += self.stepped
        share = self.share() if self.stepped else None
        if share is not None:
            self.average.follow(share)
        return loss

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Let the parameters hold their averages inside a ``with`` block, and their exact old bits after it.

        Parameters without an average so far stay as they are. Running statistics of BatchNorm belong to the
        parameters that they were taken with; ``torch.optim.swa_utils.update_bn`` takes them anew.

        Raises RuntimeError inside another such block.
        """
        if self._swapped:
            raise RuntimeError("the parameters hold the average already: leave the `swap()` block first")
        try:
            self._swapped = True
            with _holding_averages(self.average.state):
                yield
        finally:
            self._swapped = False


class EMA(Averaging):
    r"""EMA: an exponential moving average of the parameters, beside any optimizer.

    .. math::
        a \leftarrow \beta_t\, a + (1 - \beta_t)\,\theta, \qquad
        \beta_t = \beta \ \text{ or, warming up, }\ \min\!\left(\beta, \frac{1 + t}{10 + t}\right)

    where :math:`t` counts the steps before; the average starts as the parameters after the first step.

    Args:
        optimizer: any ``torch.optim.Optimizer``; its parameter groups are this optimizer's.
        decay: :math:`\beta` in [0, 1]; the average looks back over about 1 / (1 - β) steps.
        warmup: let the average forget its start faster, by the smaller :math:`\beta_t`.

    State: ``average`` of each parameter, in float32 if that is in half precision, and the count of steps.

    Raises:
        TypeError: ``optimizer`` is not an optimizer.
        ValueError: ``decay`` out of range.
        RuntimeError: a step or another swap inside `swap`.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        >>> data = [torch.randn(8, 2) for _ in range(4)]
        >>> optimizer = fallline.EMA(fallline.AdamW(model.parameters()), decay=0.99)
        >>> for inputs in data:
        ...     optimizer.zero_grad()
        ...     model(inputs).square().mean().backward()
        ...     optimizer.step()
        >>> with optimizer.swap():
        ...     torch.optim.swa_utils.update_bn(data, model)  # only a model with BatchNorm needs this
        ...     averaged = model.eval()(data[0])

    Source: Polyak and Juditsky 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage.
    Differs from ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn``: no copy of the model,
    the average is part of the optimizer's state, and it does not stand still in half precision.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float = 0.999, warmup: bool = False):
        DECAY.check(decay)
        super().__init__(optimizer)
        self.decay, self.warmup = decay, warmup

    def share(self) -> float:
        """1 - β, or more while warming up."""
        t = self.steps - 1
        return 1 - min(self.decay, (1 + t) / (10 + t) if self.warmup else 1.0)


class SWA(Averaging):
    r"""Stochastic weight averaging: the mean of every ``every``-th iterate after ``start`` steps.

    .. math::
        a \leftarrow a + \frac{\theta_t - a}{n} \qquad \text{at } t = \mathrm{start} + n \cdot \mathrm{every},
        \quad n = 1, 2, \dots

    Args:
        optimizer: any ``torch.optim.Optimizer``; its parameter groups are this optimizer's.
        start: steps before averaging begins, at least 0; about three quarters of the training.
        every: steps from one averaged iterate to the next, at least 1; the length of an epoch or cycle.

    State: ``average`` of each parameter, in float32 if that is in half precision, and the count of steps.

    Raises:
        TypeError: ``optimizer`` is not an optimizer.
        ValueError: ``start`` or ``every`` out of range.
        RuntimeError: a step or another swap inside `swap`.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([0.0]))
        >>> optimizer = fallline.SWA(fallline.SGD([p], lr=1.0), start=2, every=2)
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([-1.0])
        ...     optimizer.step()
        >>> with optimizer.swap():
        ...     print(p.item())  # the mean of 4 and 6
        5.0

    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407.
    Differs from ``torch.optim.swa_utils.AveragedModel``: no copy of the model, and the average is part of the
    optimizer's state. ``SWALR`` and ``update_bn`` work with it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, start: int, every: int):
        check_count("start", start, 0)
        check_count("every", every, 1)
        super().__init__(optimizer)
        self.start, self.every = start, every

    def share(self) -> float | None:
        """One over the number of iterates averaged, this one included."""
        n, rest = divmod(self.steps - self.start, self.every)
        return 1 / n if n > 0 and rest == 0 else None


class Polyak(SWA):
    r"""Polyak averaging: the mean of all iterates after ``start`` steps.

    .. math::
        a_t = \frac{1}{t - \mathrm{start}} \sum_{i = \mathrm{start} + 1}^{t} \theta_i

    Args:
        optimizer: any ``torch.optim.Optimizer``; its parameter groups are this optimizer's.
        start: steps before averaging begins, at least 0.

    State: ``average`` of each parameter, in float32 if that is in half precision, and the count of steps.

    Raises:
        TypeError: ``optimizer`` is not an optimizer.
        ValueError: ``start`` out of range.
        RuntimeError: a step or another swap inside `swap`.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([0.0]))
        >>> optimizer = fallline.Polyak(fallline.SGD([p], lr=1.0))
        >>> for _ in range(3):
        ...     p.grad = torch.tensor([-1.0])
        ...     optimizer.step()
        >>> with optimizer.swap():
        ...     print(p.item())  # the mean of 1, 2 and 3
        2.0

    Source: Polyak and Juditsky 1992, https://doi.org/10.1137/0330046.
    Differs from ``torch.optim.ASGD``: around any optimizer, and without a schedule of its own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, start: int = 0):
        super().__init__(optimizer, start, every=1)


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.copy_(source)
