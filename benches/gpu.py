"""One step on an NVIDIA GPU: beside a copy of as many bytes, and beside torch's fused and foreach steps."""

from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor, nn

import fallline
from benches import graphs
from benches.library import MATRICES, bytes_moved
from benches.peers import PEERS
from benches.precision import PARAMS, STATES
from benches.shapes import Shape, resnet50
from benches.steps import DROP_INS
from benches.timing import ratio
from fallline import Precision
from fallline.gradients import clip_by_global_norm

ROUNDS, LR = 10, 1e-6
#: Optimizers of which torch has a fused kernel.
FUSED = {"SGD", "Adagrad", "Adam", "AdamW"}


def transformer(width: int = 2048, layers: int = 24, words: int = 50304) -> list[Shape]:
    """Return the shapes of a decoder of 1.3 billion parameters."""
    block: list[Shape] = [
        (width,),
        (3 * width, width),
        (width, width),
        (width,),
        (4 * width, width),
        (width, 4 * width),
    ]
    return [(words, width), *(block * layers), (width,)]


SHAPES: dict[str, list[Shape]] = {
    "1 x 1 G": [(1 << 30,)],
    "transformer, 1.3 B": transformer(),
    "ResNet-50": resnet50(),
    "1000 x 256": [(256,)] * 1000,
}


#: What Muon steps: matrices of one shape, and those between a decoder's embedding and its last norm.
MATRICES_OF = {
    "64 x 1024x1024": [(1024, 1024)] * 64,
    "the transformer's matrices": [shape for shape in transformer()[1:] if len(shape) == 2],
}


def main() -> None:
    """Print a table for each list of parameters, and one of Muon on matrices."""
    if not torch.cuda.is_available():
        print("no GPU is here")
        return
    print(torch.cuda.get_device_name(), torch.version.cuda)
    for name, shapes in SHAPES.items():
        params = _parameters(shapes)
        roof = _roof()
        print(f"\n{name}: a copy moves {roof / 1e12:.2f} TB/s")
        print("| optimizer | ms | of the roof | fused / fallline | foreach / fallline | extra memory |")
        print("|---|---|---|---|---|---|")
        for each in (
            name for name in (*DROP_INS, *PEERS) if hasattr(fallline, name) and name not in MATRICES
        ):
            print(_row(each, params, roof), flush=True)
        print(_three_calls(params))
        print(_compared("AdamW in a CUDA graph", _rounds(graphs.in_a_graph(params))))
        print(_compared("AdamW by the clock, Python included", graphs.by_the_clock(params)))
        print(_precisions("float32 parameters", params, [Precision(each) for each in STATES], roof))
        half = _parameters(shapes, torch.bfloat16)
        print(_precisions("bfloat16 parameters", half, [Precision("8bit", each) for each in PARAMS], roof))
        del params
    print("\n| Muon on | ms | TFLOP/s of all products | torch / fallline |\n|---|---|---|---|")
    for name, shapes in MATRICES_OF.items():
        print(_muon(name, shapes), flush=True)


def _parameters(shapes: list[Shape], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    params = [nn.Parameter(torch.randn(shape, device="cuda", dtype=dtype)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def _roof() -> float:
    """Return the bytes per second of a device copy, read and written."""
    x = torch.empty(1 << 30, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.nbytes / median(_rounds({"copy": lambda: y.copy_(x)})["copy"])


def _row(name: str, params: list[nn.Parameter], roof: float) -> str:
    ours = _on_gpu(getattr(fallline, name)(params, lr=LR))
    steps: dict[str, Callable[[], object]] = {"ours": ours.step}
    theirs = getattr(torch.optim, name, None)
    if theirs:
        steps["foreach"] = theirs(params, lr=LR, foreach=True).step
    if name in FUSED:
        steps["fused"] = theirs(params, lr=LR, fused=True).step
    seconds = _rounds(steps)
    floor = bytes_moved(ours) / roof / median(seconds["ours"])
    cells = [
        f"{ratio(seconds[kind], seconds['ours']):.2f}" if kind in seconds else ""
        for kind in ("fused", "foreach")
    ]
    share = f"{floor:.2f}" if floor else ""
    columns = [name, f"{median(seconds['ours']) * 1e3:.3f}", share, *cells, f"{_extra(ours, params):.2%}"]
    return f"| {' | '.join(columns)} |"


def _muon(name: str, shapes: list[Shape]) -> str:
    """Compare Muon with torch's; both count as if they multiplied whole matrices five times three."""
    params = _parameters(shapes)
    ours, theirs = _on_gpu(fallline.Muon(params, lr=LR)), torch.optim.Muon(params, lr=LR)
    seconds = _rounds({"ours": ours.step, "theirs": theirs.step}, calls=1)
    sides = [sorted(shape) for shape in shapes]
    operations = sum(5 * (4 * m * m * n + 2 * m**3) for m, n in sides)
    took, faster = median(seconds["ours"]), ratio(seconds["theirs"], seconds["ours"])
    return f"| {name} | {took * 1e3:.3f} | {operations / took / 1e12:.0f} | {faster:.2f} |"


def _extra(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> float:
    """Return the memory that a step needs at its peak, over that of the parameters."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    optimizer.step()
    return (torch.cuda.max_memory_allocated() - before) / sum(p.nbytes for p in params)


def _three_calls(params: list[nn.Parameter]) -> str:
    """Compare clipping, AdamW and an average in one chain with torch's three calls."""
    around = dict(before=[clip_by_global_norm(1.0)], after=[fallline.follow_parameters(1e-3)])
    chain = _on_gpu(fallline.AdamW(params, lr=LR, **around))
    adamw = torch.optim.AdamW(params, lr=LR, fused=True)
    average: list[Tensor] = [p.detach().clone() for p in params]

    def three() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adamw.step()
        torch._foreach_lerp_(average, [p.detach() for p in params], 1e-3)

    seconds = _rounds({"ours": chain.step, "theirs": three})
    faster = ratio(seconds["theirs"], seconds["ours"])
    return f"clip + AdamW + average, torch's three calls / one chain: {faster:.2f}"


def _compared(what: str, seconds: Mapping[str, list[float]]) -> str:
    theirs, ours = seconds["theirs"], seconds["ours"]
    return f"{what}: {median(ours) * 1e3:.3f} ms, torch fused / fallline {ratio(theirs, ours):.2f}"


def _precisions(title: str, params: list[nn.Parameter], precisions: list[Precision], roof: float) -> str:
    """Compare the formats of AdamW's state and parameters with the first: bytes not moved are time saved."""
    optimizers = {each: _on_gpu(fallline.AdamW(params, lr=LR, precision=each)) for each in precisions}
    seconds = _rounds({str(each): optimizer.step for each, optimizer in optimizers.items()})
    first = seconds[str(precisions[0])]
    lines = [f"\nAdamW, {title}", "| state | parameters | ms | of the roof | speed |", f"|{'---|' * 5}"]
    for each, optimizer in optimizers.items():
        own = seconds[str(each)]
        share = bytes_moved(optimizer) / roof / median(own)
        columns = [each.state, each.params, f"{median(own) * 1e3:.3f}", f"{share:.2f}"]
        lines.append(f"| {' | '.join(map(str, columns))} | {ratio(first, own):.2f} |")
    return "\n".join(lines)


def _on_gpu(optimizer: fallline.Optimizer) -> fallline.Optimizer:
    for group in optimizer.param_groups:
        group["fused"] = True
    return optimizer


def _rounds(steps: Mapping[str, Callable[[], object]], calls: int = 10) -> dict[str, list[float]]:
    """Return seconds per call by device events, in turns, of so many ``calls`` that small steps are seen."""
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                step()
            end.record()
            end.synchronize()
            seconds[name].append(begin.elapsed_time(end) / 1e3 / calls)
    return seconds
