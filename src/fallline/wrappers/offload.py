"""Offloaded state: any optimizer works on copies of the parameters, on another device or in another dtype."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fallline.core.parts import Slot
from fallline.core.transform import Transform, transform
from fallline.optimizers.schedule_free import TwoModes
from fallline.wrappers.twin import follow_schedules, take_settings, twin_of
from fallline.wrappers.wrapper import (
    Companion,
    Wrapper,
    load_into,
    refuse_closures,
    refuse_released,
    refuse_wrappers,
)


def _refuse_modes(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an inner optimizer that would exchange its copies for their average, and not the parameters."""
    if isinstance(optimizer, TwoModes):
        raise ValueError(
            f"OffloadState cannot go around {type(optimizer).__name__}, whose eval() would not reach the "
            f"parameters; put ScheduleFree around OffloadState"
        )


@transform(slots=(Slot("master", "p"),))
def take_master(p, master):
    """Let the parameter be its copy."""
    return master, master


class Masters(Companion):
    """The copies that step in place of the parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(optimizer, {})

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Take the copies over."""
        return (take_master,)


class OffloadState(Wrapper):
    r"""Offloaded state: any optimizer steps copies of the parameters, whose memory lies elsewhere.

    At each step gradients are copied to ``device``, the inner optimizer steps its copies there, and the
    parameters are copied back. The values are exactly those of stepping the parameters themselves. With
    ``dtype=torch.float32`` the copies of half-precision parameters are float32 master weights: steps too
    small for half precision are not lost. A parameter that is changed from outside, as by
    ``model.load_state_dict``, is noticed; where it still is its rounded copy, the copy keeps its bits.

    Args:
        optimizer: any plain ``torch.optim.Optimizer``, whose state moves; other wrappers go around this one.
        device: where copies and state lie.
        dtype: the least dtype of the copies, floating-point; None keeps each parameter's.

    State: the inner optimizer's, and with a ``dtype`` the copies, as ``master``.

    Raises:
        TypeError: ``optimizer`` is not an optimizer, or ``dtype`` not floating-point.
        ValueError: an inner optimizer that is a wrapper, evaluates the loss itself or has an eval mode.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1).bfloat16()
        >>> optimizer = fallline.OffloadState(fallline.AdamW(model.parameters()), dtype=torch.float32)
        >>> model(torch.ones(2, 3).bfloat16()).sum().backward()
        >>> optimizer.step()
        >>> {master.dtype for master in optimizer.copies.values()}
        {torch.float32}

    Source: Ren et al. 2021 (ZeRO-Offload), https://arxiv.org/abs/2101.06840; master weights: Micikevicius et
    al. 2018, https://arxiv.org/abs/1710.03740. torch has no such optimizer.
    """

    without_gradients = "use either without the other"

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ):
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"Invalid dtype: {dtype}; give a floating-point torch.dtype or None")
        refuse_released(OffloadState, optimizer)
        refuse_wrappers("OffloadState", optimizer)
        refuse_closures("OffloadState", optimizer)
        _refuse_modes(optimizer)
        super().__init__(optimizer)
        self.device, self.dtype = torch.device(device), dtype
        self.masters = Masters(optimizer)
        for p in self.params:
            self.masters.state[p]["master"] = self._copy_of(p)
        self.offloaded = twin_of(optimizer, self._groups())
        if optimizer.state:
            self.offloaded.load_state_dict(optimizer.state_dict())
            optimizer.state = defaultdict(dict)
        self._known: dict[Tensor, tuple[int, int]] = {}

    @property
    def owned(self) -> tuple[str, ...]:  # type: ignore[override]
        """The copies, if they hold more than the parameters."""
        return ("masters",) if self.dtype is not None else ()

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, ...]:
        """The optimizer of the copies."""
        return (self.offloaded,)

    @property
    def copies(self) -> dict[Tensor, Tensor]:
        """The copy of each parameter."""
        return {p: self.masters.state[p]["master"] for p in self.params}

    @property
    def inner_state(self) -> Mapping[Tensor, Any]:
        """The state of each parameter's copy."""
        state = self.offloaded.state
        return {p: state[master] for p, master in self.copies.items() if master in state}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the copies, and copy them back; return the loss of ``closure``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        copies = self.copies
        follow_schedules(self.optimizer, self.offloaded)
        self._share_settings(self.optimizer, self.offloaded)
        try:
            for p, master in copies.items():
                self._refresh(p, master)
                master.grad = None if p.grad is None else p.grad.to(master.device, master.dtype)
            self._step_inner()
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # for torch's schedulers on it
        finally:
            for master in copies.values():
                master.grad = None
        self._share_settings(self.offloaded, self.optimizer)
        for p, master in copies.items():
            p.copy_(master)
            self._known[p] = p._version, p.data_ptr()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, with copies of its parameters."""
        self.optimizer.add_param_group(param_group)
        group = self.param_groups[-1]
        self.masters.add_param_group({key: group[key] for key in ("params", "param_names") if key in group})
        for p in group["params"]:
            self.masters.state[p]["master"] = self._copy_of(p)
        self.offloaded.add_param_group(self._groups()[-1])

    @property
    def _stepping(self) -> torch.optim.Optimizer:
        return self.offloaded

    def _copy_of(self, p: Tensor) -> Tensor:
        dtype = p.dtype if self.dtype is None else torch.promote_types(p.dtype, self.dtype)
        return p.detach().to(self.device, dtype, copy=True)

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups with the copies in place of the parameters."""
        return [
            {**group, "params": [self.masters.state[p]["master"] for p in group["params"]]}
            for group in self.param_groups
        ]

    def _share_settings(self, source: torch.optim.Optimizer, target: torch.optim.Optimizer) -> None:
        for theirs, ours in zip(source.param_groups, target.param_groups, strict=True):
            take_settings(ours, theirs)

    def _refresh(self, p: Tensor, master: Tensor) -> None:
        """Take over what was changed from outside; where the parameter is the rounded copy, that stays."""
        if self._known.get(p) != (p._version, p.data_ptr()):
            now = p.detach().to(master.device)
            master.copy_(torch.where(master.to(p.dtype) == now, master, now.to(master.dtype)))

    def _save(self, name: str) -> Any:
        saved = super()._save(name)
        return {**saved, "state": self.offloaded.state_dict()["state"]} if name == "optimizer" else saved

    def _load(self, name: str, value: Any, strict: bool) -> None:
        if name == "optimizer":
            load_into(self.offloaded, value, strict)
            load_into(self.optimizer, {**value, "state": {}}, strict)
        else:
            super()._load(name, value, strict)
            self._reconnect()
        self._known = {}

    def _reconnect(self) -> None:
        """Let the inner optimizer's state be that of copies which were loaded."""
        for own in self.masters.state.values():
            own["master"] = own["master"].to(self.device)
        before = self.offloaded
        self.offloaded = twin_of(before, self._groups())
        for old, new in zip(before.param_groups, self.offloaded.param_groups, strict=True):
            for p, q in zip(old["params"], new["params"], strict=True):
                if p in before.state:
                    self.offloaded.state[q] = before.state[p]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._known = {}
