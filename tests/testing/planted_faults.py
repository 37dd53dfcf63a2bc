"""Optimizers with one fault each, and the check that must find it."""

import copy
from collections import defaultdict
from typing import Any

import torch

import fallline
from fallline.core.parts import Slot, per_tensor
from fallline.core.scalar import single
from fallline.core.transform import transform
from fallline.optimizers.sgd import scale_by_learning_rate


class Momentum(fallline.SGD):
    """SGD with momentum by default; nothing is wrong with it, and the others here break it."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        momentum: float = 0.9,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            lr,
            momentum,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    @property
    def params(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


class WritesGradients(Momentum):
    def step(self, closure=None):
        for p in self.params:
            if p.grad is not None:
                p.grad *= 1.0000001
        return super().step(closure)


class ForgetsState(Momentum):
    def state_dict(self):
        saved = super().state_dict()
        return {**saved, "state": {}}


class CountsThreads(Momentum):
    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.1 / torch.get_num_threads()
        return super().step(closure)


class IgnoresMaximize(Momentum):
    def transforms(self, group):
        return super().transforms({**group, "maximize": False})


class MindsOrder(Momentum):
    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            self.params[0].mul_(1.001)
        return loss


class MindsSize(Momentum):
    def step(self, closure=None):
        grads = [p.grad for p in self.params]
        for p, g in zip(self.params, grads, strict=True):
            p.grad = None if g is None else g / max(p.numel(), 1)
        loss = super().step(closure)
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g
        return loss


@transform(slots=("velocity",))
def creep(g, velocity, *, momentum):
    velocity = momentum * velocity + g
    return velocity + 1e-3, velocity


class Creeps(Momentum):
    @classmethod
    def rules(cls, group):
        return creep, scale_by_learning_rate


class SharesLoadedState(Momentum):
    def load_state_dict(self, state_dict, strict=True):
        super().load_state_dict(state_dict, strict)
        for i, p in enumerate(self.params):
            for name, x in state_dict["state"].get(i, {}).items():
                self.state[p][name] = x


class SwallowsOptions(Momentum):
    def __new__(cls, *args: Any, **options: Any):
        return object.__new__(cls)

    def __init__(self, params, lr=0.1, momentum=0.9, maximize=False, **ignored: Any):
        super().__init__(params, lr, momentum, maximize=maximize)


class TakesAnyValue(Momentum):
    def _check(self, group):
        pass


class HidesItsWrites(Momentum):
    def step(self, closure=None):
        versions = [p._version for p in self.params]
        loss = super().step(closure)
        for p, version in zip(self.params, versions, strict=True):
            torch._C._autograd._unsafe_set_version_counter((p,), (version,))
        return loss


class DiffersOnOneBackend(Momentum):
    def step(self, closure=None):
        loss = super().step(closure)
        if self.param_groups[0]["foreach"] is False:
            with torch.no_grad():
                self.params[0].add_(1e-9)
        return loss


class KeepsStateInDouble(Momentum):
    def step(self, closure=None):
        loss = super().step(closure)
        for state in self.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].double()
        return loss


class CallsTheClosureTwice(Momentum):
    def step(self, closure=None):
        if closure is not None:
            closure()
        return super().step(closure)


class DrawsNumbers(Momentum):
    def step(self, closure=None):
        torch.rand(1)
        return super().step(closure)


class IsNoPickle(Momentum):
    def __getstate__(self):
        return {**super().__getstate__(), "note": lambda: None}


class CopiesShallowly(Momentum):
    def __deepcopy__(self, memo):
        twin = copy.copy(self)
        twin.param_groups = [
            {**g, "params": [copy.deepcopy(p, memo) for p in g["params"]]} for g in self.param_groups
        ]
        both = zip(self.params, twin.params, strict=True)
        twin.state = defaultdict(dict, {q: self.state[p] for p, q in both if p in self.state})
        return twin


class TakesSparseForNothing(Momentum):
    def step(self, closure=None):
        grads = [p.grad for p in self.params]
        for p in self.params:
            if p.grad is not None and p.grad.is_sparse:
                p.grad = torch.zeros_like(p)
        loss = super().step(closure)
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g
        return loss


class SpreadsNaN(Momentum):
    def step(self, closure=None):
        bad = any(p.grad is not None and not p.grad.isfinite().all() for p in self.params)
        return None if bad else super().step(closure)


class MovesIdleTensors(Momentum):
    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for p in self.params:
                if p.grad is None:
                    p.mul_(0.99)
        return loss


class ForgetsItsHooks(Momentum):
    def register_step_post_hook(self, hook):
        return super().register_step_post_hook(lambda *_: None)


@transform(whole=True)
def normalize_all(g):
    return g / g.norm()


@transform(gain=1.0)
def double(g):
    return 2 * g


class TellsAnotherGain(Momentum):
    @classmethod
    def rules(cls, group):
        return double, scale_by_learning_rate


class MixesTensors(Momentum):
    """Its rule takes the tensors of a stack for one."""

    @classmethod
    def rules(cls, group):
        return normalize_all, scale_by_learning_rate


@transform(slots=(Slot("velocity", nonnegative=True),))
def gather(g, velocity, *, momentum):
    velocity = momentum * velocity + g
    return velocity, velocity


class LosesSigns(Momentum):
    @classmethod
    def rules(cls, group):
        return gather, scale_by_learning_rate


@per_tensor()
def coarse(*, lr):
    return dict(rate=single(lr))


@transform(per_tensor=coarse)
def scale_coarsely(g, *, rate):
    return rate * g


class RoundsItsRate(fallline.SGD):
    @classmethod
    def rules(cls, group):
        return (scale_coarsely,)


class AnotherFace(fallline.AdamW):
    def __init__(self, params, lr=1e-3, *, weight_decay=1e-2):
        super().__init__(params, lr, weight_decay=weight_decay)


class OneRateForAll(Momentum):
    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        return super().step(closure)


class LosesItsRate(Momentum):
    def load_state_dict(self, state_dict, strict=True):
        rates = [group["lr"] for group in self.param_groups]
        super().load_state_dict(state_dict, strict)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate


#: What some of them promise and do not keep.
PROMISES = {
    RoundsItsRate: {"settings": {"lr": 0.9}},
    fallline.Adagrad: {"scale_invariant": {"eps": 1e-10}},
    AnotherFace: {"counterpart": torch.optim.AdamW},
}

#: The check that must find each.
FAULTS = {
    WritesGradients: "gradients_are_not_written",
    ForgetsState: "a_state_dict_goes_on_bit_for_bit",
    CountsThreads: "threads_change_no_bit",
    IgnoresMaximize: "maximizing_is_descending_the_negative",
    MindsOrder: "order_of_parameters_does_not_matter",
    MixesTensors: "a_tensor_is_stepped_as_if_alone",
    TellsAnotherGain: "a_told_gain_is_that_of_a_steady_gradient",
    LosesSigns: "nonnegative_state_is_never_negative",
    MindsSize: "a_split_tensor_is_stepped_alike",
    Creeps: "zero_gradients_move_nothing",
    SharesLoadedState: "a_loaded_dict_is_not_shared",
    SwallowsOptions: "unknown_options_are_refused",
    TakesAnyValue: "bad_values_are_refused",
    HidesItsWrites: "backward_through_a_stepped_parameter_raises",
    DiffersOnOneBackend: "follows_its_formula",
    KeepsStateInDouble: "state_lies_with_its_parameter",
    CallsTheClosureTwice: "a_closure_is_called_once_with_gradients_on",
    DrawsNumbers: "steps_draw_nothing_from_torchs_generator",
    IsNoPickle: "a_pickle_goes_on",
    CopiesShallowly: "a_deep_copy_goes_on_alone",
    TakesSparseForNothing: "sparse_gradients_are_taken_or_refused",
    SpreadsNaN: "a_gradient_spoils_no_other_element",
    MovesIdleTensors: "tensors_without_gradient_stay_as_they_are",
    ForgetsItsHooks: "hooks_run_around_each_step",
    RoundsItsRate: "hypergradients_are_those_of_differences",
    fallline.Adagrad: "the_scale_of_gradients_does_not_matter",
    AnotherFace: "its_signature_is_torchs",
    OneRateForAll: "each_group_has_its_own_settings",
    LosesItsRate: "a_state_dict_has_the_settings",
}
