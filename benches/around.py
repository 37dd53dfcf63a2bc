"""What goes around an optimizer: what it adds to a step, against the bytes that it moves itself."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fallline
from benches.shapes import LARGE, SHAPES, Shape
from benches.timing import ratio, rounds
from fallline import chain, follow_parameters, prox, schedules
from fallline.core.explain import bytes_moved
from fallline.gradients import clip_by_global_norm
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import add_decayed_weights

#: What is added to AdamW without weight decay.
ADDED = {
    "weight decay": {"weight_decay": 0.1},
    "clip": {"before": [clip_by_global_norm(1.0)]},
    "prox": {"after": [prox.L1(1e-9)]},
    "EMA": {"after": [follow_parameters(1e-3)]},
    "skip nonfinite": {"skip_nonfinite": True},
    "all": {
        "weight_decay": 0.1,
        "before": [clip_by_global_norm(1.0)],
        "after": [prox.L1(1e-9), follow_parameters(1e-3)],
        "skip_nonfinite": True,
    },
}


def main() -> None:
    """Print what clipping, decay, proximal steps, averages, schedules and groups cost."""
    for shape in LARGE:
        print(f"\nAdded to AdamW on {shape}: time of the step / AdamW's, over the bytes it moves / AdamW's")
        print(", ".join(f"{name} {share:.2f}" for name, share in _overheads(SHAPES[shape]).items()))
    print("\nClip by the norm of all + Adam + decay + lr as a chain / AdamW alone")
    print(", ".join(f"{shape} {_chained(shapes):.2f}" for shape, shapes in SHAPES.items()))
    print("\nClip + AdamW + EMA: torch's three calls (foreach clip, fused AdamW, foreach EMA) / one chain")
    print(", ".join(f"{shape} {_against_torch(shapes):.2f}" for shape, shapes in SHAPES.items()))
    print("\nAdamW with a schedule for lr, and routed into 12 groups / AdamW with a number, in one group")
    for shape, shapes in SHAPES.items():
        print(f"{shape}: " + ", ".join(f"{name} {value:.3f}" for name, value in _organised(shapes).items()))


def _params(shapes: list[Shape]) -> list[nn.Parameter]:
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def _chained(shapes: list[Shape]) -> float:
    params = _params(shapes)
    links = clip_by_global_norm(1.0), scale_by_adam(), add_decayed_weights(0.01), scale_by_learning_rate(1e-6)
    steps = {"alone": fallline.AdamW(params, lr=1e-6).step, "chain": chain(*links)(params).step}
    seconds = rounds(steps)
    return ratio(seconds["chain"], seconds["alone"])


def _overheads(shapes: list[Shape]) -> dict[str, float]:
    """Return, for each addition, the time it adds to a step beyond the bytes it adds."""
    params = _params(shapes)
    plain = {"lr": 1e-6, "weight_decay": 0.0}
    optimizers = {name: fallline.AdamW(params, **{**plain, **added}) for name, added in ADDED.items()}
    base = fallline.AdamW(params, **plain)
    seconds = rounds({"base": base.step, **{name: o.step for name, o in optimizers.items()}})
    bytes_of = {name: bytes_moved(o) / bytes_moved(base) for name, o in optimizers.items()}
    return {name: ratio(seconds[name], seconds["base"]) / bytes_of[name] for name in ADDED}


def _against_torch(shapes: list[Shape]) -> float:
    params, copies = _params(shapes), _params(shapes)
    ours = fallline.AdamW(params, lr=1e-6, before=[clip_by_global_norm(1.0)], after=[follow_parameters(1e-3)])
    seconds = rounds({"ours": ours.step, "torch": _torch_step(copies)})
    return ratio(seconds["torch"], seconds["ours"])


def _torch_step(params: list[nn.Parameter]) -> Callable[[], None]:
    """Return torch's fastest way to clip, step and average."""
    model = nn.ParameterList(params)
    optimizer = torch.optim.AdamW(params, lr=1e-6, fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    def step() -> None:
        nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()
        average.update_parameters(model)

    return step


def _organised(shapes: list[Shape]) -> dict[str, float]:
    """Return what a schedule costs, and routing into 12 groups, each with a learning rate of its own."""
    params = _params(shapes)
    count = min(12, len(params))
    model = nn.ModuleList(nn.ParameterList(params[i::count]) for i in range(count))
    routes = [fallline.Route(f"{i}.*", fallline.AdamW, lr=1e-6 * (1 + i)) for i in range(count)]
    entries = {
        "plain": fallline.AdamW(params, lr=1e-6).step,
        "schedule": fallline.AdamW(params, lr=1e-6 * schedules.cosine(10**9)).step,
        f"{count} groups": fallline.route(model, *routes).step,
    }
    seconds = rounds(entries)
    return {name: ratio(seconds[name], seconds["plain"]) for name in entries if name != "plain"}
