"""Gradient release: each parameter steps within backward, and its gradient is freed at once."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Optimizer
from fallline.core.parts import PLACE, keywords
from fallline.core.transform import Transform
from fallline.wrappers.sharpness import dense, total_norm
from fallline.wrappers.twin import follow_schedules, take_settings, twin_of
from fallline.wrappers.wrapper import Wrapper, refuse_closures, refuse_wrappers, without_gradients

MAX_NORM = Hyperparameter(
    "max_norm", 1.0, "largest norm of all gradients", unit="loss per parameter unit", low=0, open_low=True
)


class GradientRelease(Wrapper):
    r"""Gradient release: any optimizer steps each parameter within backward, and few gradients exist at once.

    As soon as a gradient is complete, its parameter steps and the gradient is freed: ``p.grad`` is None after
    backward. Without clipping, the parameters are those of ordinary training, bit for bit. `step` marks the
    end of a pass: schedulers and counters need it. With several backward passes to a step, do all but the
    last inside ``with release.accumulating():``, where gradients add up as usual.

    Clipping cannot wait for the norm of all gradients; each is multiplied by

    .. math::
        \min\!\left(1, \frac{\mathrm{max\_norm}}{\max(n_{t-1}, n_t)}\right)

    with :math:`n_{t-1}` the norm of the whole pass before, and :math:`n_t` that of this pass so far, so that
    a sudden large gradient is clipped too. ``DistributedDataParallel`` averages gradients after this has
    stepped; do not use both.

    Args:
        optimizer: any plain ``torch.optim.Optimizer`` that treats each parameter by itself; wrappers such as
            `Lookahead` and `EMA` go around this one.
        max_norm: the norm above which gradients are clipped, above 0; None clips nothing.
        scaler: the ``torch.amp.GradScaler`` of the loss. Gradients are unscaled in backward; a tensor whose
            gradient is not finite is left out, and the scaler knows of it. Go on calling ``scaler.update()``.

    State: ``norm``, that of the pass before. Each parameter's state is the inner optimizer's own.

    Raises:
        TypeError: ``optimizer`` is not an optimizer, or ``scaler`` not a scaler.
        ValueError: ``max_norm`` out of range, or an optimizer that needs all gradients at once.
        RuntimeError: a step while accumulating.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.GradientRelease(fallline.AdamW(model.parameters(), lr=1e-3), max_norm=1.0)
        >>> model(torch.ones(2, 3)).sum().backward()  # the parameters have moved
        >>> model.weight.grad is None
        True
        >>> optimizer.step()

    Source: fused backward passes are described in Lv et al. 2023 (LOMO), https://arxiv.org/abs/2306.09782.
    Differs from torch's tutorial on optimizer steps in backward: one optimizer object with one state_dict,
    and with clipping, accumulation, gradient scalers and schedulers.
    """

    owned = ("norm",)

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,  # type: ignore[attr-defined]
    ):
        if max_norm is not None:
            MAX_NORM.check(max_norm)
        if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):  # type: ignore[attr-defined]
            raise TypeError(f"Invalid scaler: {type(scaler).__name__}; give a torch.amp.GradScaler or None")
        if isinstance(optimizer, Wrapper) and optimizer.without_gradients:
            raise without_gradients(type(optimizer))
        refuse_wrappers("GradientRelease", optimizer)
        refuse_closures("GradientRelease", optimizer)
        _refuse_needing_all(optimizer)
        super().__init__(optimizer)
        self.max_norm, self.scaler, self.norm = max_norm, scaler, 0.0
        self._start()

    @property
    def releases_gradients(self) -> bool:
        """True: `step` finds none."""
        return True

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """For ``scaler.step``: the gradients it would unscale are gone."""
        return self.scaler is not None

    def _start(self) -> None:
        self._accumulating, self._begun, self._squares = False, False, None
        self._rows: dict[Tensor, int] = {}
        self._twins: dict[Tensor, torch.optim.Optimizer] = {}
        self._hooks: dict[Tensor, Any] = {}
        self._watch()

    def _watch(self) -> None:
        """Hook every parameter that has come to require gradients."""
        self._rows = {p: i for i, group in enumerate(self.param_groups) for p in group["params"]}
        for p in self._rows:
            if p.requires_grad and p not in self._hooks:
                self._hooks[p] = p.register_post_accumulate_grad_hook(self._release)

    def remove(self) -> None:
        """Take the hooks off the parameters; the inner optimizer goes on as any other, with all its state."""
        for hook in self._hooks.values():
            hook.remove()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """End a pass: step what still has a gradient, and count; return the loss of ``closure``."""
        if self._accumulating:
            raise RuntimeError("gradients are being accumulated: leave `accumulating()` before a step")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p in self.params:
            if p.grad is not None:
                self._release(p)
        self.optimizer.step()  # no gradients are left: it counts, follows schedules and runs hooks
        if self._squares is not None:
            self.norm = self._squares.sqrt().item()
        self._begun, self._squares = False, None
        self._watch()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, whose parameters step within backward too."""
        super().add_param_group(param_group)
        self._watch()

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Let gradients add up in a ``with`` block instead of stepping."""
        self._accumulating, before = True, self._accumulating
        try:
            yield
        finally:
            self._accumulating = before

    @torch._disable_dynamo  # type: ignore[attr-defined]  # backward is called from compiled code too
    @torch.no_grad()
    def _release(self, p: Tensor) -> None:
        """Step one parameter and free its gradient; what autograd calls."""
        if self._accumulating:
            return
        twin = self._twin(p)
        if self.scaler is not None:
            self.scaler.unscale_(twin)
        if self.max_norm is not None:
            p.grad = self._clipped(p.grad, self.max_norm)  # type: ignore[arg-type]
        if self.scaler is not None:
            self.scaler.step(twin)
        else:
            twin.step()
        p.grad = None
        if twin.state.get(p):
            self.optimizer.state[p] = twin.state[p]

    def _twin(self, p: Tensor) -> torch.optim.Optimizer:
        """Return the optimizer of ``p`` alone, with the settings and state that it has now."""
        if not self._begun:
            follow_schedules(self.optimizer)
            self._begun = True
        if p not in self._twins:
            self._twins[p] = twin_of(self.optimizer, [{"params": [p]}])
            self._twins[p]._optimizer_step_pre_hooks = OrderedDict()  # they run once a pass, in `step`
            self._twins[p]._optimizer_step_post_hooks = OrderedDict()
        twin = self._twins[p]
        take_settings(twin.param_groups[0], self.param_groups[self._rows[p]])
        twin.state.clear()
        if p in self.optimizer.state:
            twin.state[p] = self.optimizer.state[p]
        return twin

    def _clipped(self, grad: Tensor, max_norm: float) -> Tensor:
        """Return the gradient clipped by the norm of the pass before or of this one so far."""
        square = torch.nan_to_num(total_norm([dense(grad)]).square(), nan=0.0, posinf=0.0)
        self._squares = square if self._squares is None else self._squares + square.to(self._squares.device)
        norm = self._squares.sqrt().clamp(min=self.norm)
        return grad * (max_norm / norm).clamp(max=1.0).to(grad.device)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start()


def _refuse_needing_all(optimizer: torch.optim.Optimizer) -> None:
    groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else []
    for t in (t for group in groups for t in optimizer.transforms(group)):  # type: ignore[attr-defined]
        if needs := _needs_all(t):
            raise ValueError(
                f"GradientRelease steps each parameter by itself, and {t.name} {needs}; leave it out, and "
                f"clip or skip with GradientRelease(..., max_norm=..., scaler=...)"
            )


def _needs_all(t: Transform) -> str:
    """Say what a transform needs beyond its own parameter, if anything."""
    if any(each.over in ("group", "model") for each in t.sums):
        return "sums over many"
    return "depends on its place" if any(PLACE in keywords(f) for f in t.functions) else ""
