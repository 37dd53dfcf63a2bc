"""What weights lose that are stored in bfloat16: the share of their movement that survives rounding.

So it is with each way to round that `Precision` has.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from fallline.compare.statistics.pairs import Interval, mean_interval
from fallline.core.precision import Params, Precision
from fallline.core.registry import find
from fallline.report.finding import Figure
from fallline.studies.drawing import Axis, lines
from fallline.studies.measuring.levels import line
from fallline.tasks.batches import Batches
from fallline.tasks.seeding import derived, seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: Steps of AdamW over which the movement is measured.
STEPS = 200


def movements_kept(
    task: Task, rates: Sequence[float], seeds: int, seed: int, params: Params | None = None
) -> dict[float, Interval]:
    """Return `kept` at each learning rate: the mean over ``seeds``, with its interval."""
    plain = replace(task, precision="float32")
    with one_thread():
        return {
            rate: mean_interval([kept(plain, rate, derived(seed, i), params) for i in range(seeds)])
            for rate in rates
        }


def kept(task: Task, rate: float, seed: int, params: Params | None = None) -> float:
    r"""Return the share of AdamW's movement that is left where weights are stored in bfloat16.

    .. math:: \frac{\langle \Delta_{16}, \Delta_{32} \rangle}{\lVert \Delta_{32} \rVert^2}

    with :math:`\Delta` the weights after 200 steps less those before, stored in bfloat16 and in float32. Both
    begin at the same numbers, which bfloat16 can hold, and see the same batches. Gradients are computed in
    float32 from the weights as stored, so all that is lost is lost by storing.

    Arguments:
        task: whose model and data, in float32.
        rate: the learning rate.
        seed: of initial weights and batches.
        params: how the stored weights are rounded, as in `Precision`; None to the nearest.

    Example:
        >>> from fallline.tasks import load
        >>> kept(load("digits"), 1e-6, seed=0) < 0.01 < kept(load("digits"), 1e-2, seed=0)
        True
    """
    before, whole = moved(task, rate, seed, torch.float32)
    _, rounded = moved(task, rate, seed, torch.bfloat16, Precision(params=params, seed=seed))
    whole, rounded = whole - before, rounded - before
    return (rounded @ whole / (whole @ whole)).item()


def moved(
    task: Task, rate: float, seed: int, dtype: torch.dtype, precision: Precision | None = None
) -> tuple[Tensor, Tensor]:
    """Return all weights before and after the steps of AdamW, stored as ``dtype``."""
    with seeded(seed):
        model = task.new_model()
        weights = [each for each in model.parameters() if each.requires_grad]
        stored = [nn.Parameter(each.detach().bfloat16().to(dtype)) for each in weights]
        before = _flat(stored)
        optimizer = find("adamw").build(stored, lr=rate, precision=precision)
        for batch in islice(Batches(task.train, task.batch_size, seed), STEPS):
            _read(stored, weights)
            task.loss_on(model, batch).backward()
            _give(weights, stored)
            optimizer.step()
    return before, _flat(stored)


@torch.no_grad()
def _read(stored: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    for kept_as, weight in zip(stored, weights, strict=True):
        weight.copy_(kept_as)


def _give(weights: Sequence[Tensor], stored: Sequence[Tensor]) -> None:
    for weight, kept_as in zip(weights, stored, strict=True):
        kept_as.grad = None if weight.grad is None else weight.grad.to(kept_as.dtype)
        weight.grad = None


def _flat(stored: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.detach().double().flatten() for each in stored])


def figure(shares: dict[float, Interval]) -> Figure:
    """Return the share that is left over the learning rate."""
    about = (
        f"Weights stored in bfloat16: the share of the movement in float32 that is left after {STEPS} steps "
        "of AdamW. A weight stays where it is if a step is less than half of the gap to the next number."
    )
    drawn = {"kept": line(list(shares), list(shares.values()))}
    axes = Axis("learning rate", log=True), Axis("share of the movement")
    return Figure("What is left of the movement", about, lines(drawn, *axes))
