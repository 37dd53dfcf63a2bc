"""What several processes do together in the tests of sharded parameters: each case raises or does not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import fallline
from fallline.core.errors import CheckpointMismatch
from fallline.core.plan import plan
from fallline.core.shards import shard
from fallline.gradients import clip_by_global_norm
from optimizers.cases import on_backend

STEPS = 4
R = Replicate()
#: Tensors and how they lie, on a mesh in one and in two dimensions; None is a plain tensor in each process.
#: (5, 3) has uneven shards, and of (1,) all processes but one hold nothing.
TENSORS: list[tuple[tuple[int, ...], tuple | None, tuple | None]] = [
    ((5, 3), (Shard(0),), (Shard(0), Shard(1))),
    ((4,), (Shard(0),), (Shard(0), Shard(0))),
    ((1,), (Shard(0),), (R, Shard(0))),
    ((6, 4), (Shard(1),), (Shard(0), R)),
    ((5, 3), (Shard(0),), (Shard(0), Shard(1))),
    ((3, 2), (R,), (R, Shard(1))),
    ((2, 2, 3), (Shard(2),), (Shard(1), Shard(2))),
    ((), (R,), (R, R)),
    ((2, 3), None, None),
]

Case = Callable[["Crew"], None]


class Crew:
    """The processes, and the meshes that they make: all in a line, and in two rows."""

    def __init__(self, folder: Path):
        world = dist.get_world_size()
        self.folder, self.rank = folder, dist.get_rank()
        self.meshes = [init_device_mesh("cpu", (world,)), init_device_mesh("cpu", (2, world // 2))]

    def spread(self, x: Tensor, dims: int, number: int) -> Tensor:
        """Return ``x`` as the tensor of that number lies on the mesh of ``dims`` dimensions."""
        placements = TENSORS[number][dims]
        if placements is None:
            return x.clone()
        return distribute_tensor(x.clone(), self.meshes[dims - 1], placements, src_data_rank=None)


def random(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def starts(dtype: torch.dtype) -> list[Tensor]:
    return [random(shape, i, dtype) for i, (shape, *_) in enumerate(TENSORS)]


def gradients(step: int, dtype: torch.dtype) -> list[Tensor]:
    return [random(shape, 100 * (step + 1) + i, dtype) for i, (shape, *_) in enumerate(TENSORS)]


def whole(x: Tensor) -> Tensor:
    """Return all of a tensor."""
    return x.full_tensor() if isinstance(x, DTensor) else x


class Run:
    """A training along gradients that are known: in shards on a mesh of ``dims`` dimensions, or not (0)."""

    def __init__(self, crew: Crew, make: Callable, dims: int = 0, dtype: torch.dtype = torch.float32):
        self.crew, self.dims, self.dtype = crew, dims, dtype
        self.params = [nn.Parameter(x) for x in self.laid(starts(dtype))]
        self.optimizer = make(self.params)

    def laid(self, tensors: list[Tensor]) -> list[Tensor]:
        spread = self.crew.spread if self.dims else lambda x, dims, i: x.clone()
        return [spread(x, self.dims, i) for i, x in enumerate(tensors)]

    def walk(self, steps=range(STEPS), spoilt: Callable = lambda step, grads: grads) -> "Run":
        for step in steps:
            for p, g in zip(self.params, self.laid(spoilt(step, gradients(step, self.dtype))), strict=True):
                p.grad = g
            self.optimizer.step()
        return self

    @property
    def ends(self) -> list[Tensor]:
        return [whole(p.detach()) for p in self.params]


def assert_equal(one: list[Tensor], other: list[Tensor], tolerance: float = 0.0) -> None:
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, i=i: f"{i}: {text}")


def made(cls: type, settings: dict, backend: str = "cpu") -> Callable:
    return lambda params: on_backend(cls(params, **settings), backend)


def same_as_whole(
    make: Callable,
    crew: Crew,
    dims: int = 1,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 0.0,
    **how,
) -> None:
    """Assert that parameters and state are those of a training of whole tensors in one process."""
    alone, run = (Run(crew, make, each, dtype).walk(**how) for each in (0, dims))
    assert_equal(run.ends, alone.ends, tolerance)
    (group,) = run.optimizer.param_groups
    rule = plan(run.optimizer.transforms(group))
    for p, q in zip(run.params, alone.params, strict=True):
        ours, theirs = run.optimizer.state[p], alone.optimizer.state[q]
        assert ours.keys() == theirs.keys()
        per_element = {slot.name for slot in rule.on(tuple(p.shape)).slots}
        for key, x in theirs.items():
            assert_equal([whole(ours[key])], [x], tolerance)
            assert ours[key].dtype == x.dtype
            assert isinstance(ours[key], DTensor) == (isinstance(p, DTensor) and key in per_element)
            assert not isinstance(ours[key], DTensor) or ours[key].placements == p.placements


def same_as_each_shard(make: Callable, crew: Crew, dtype: torch.dtype) -> None:
    """Assert that each process steps its shards as it would tensors of its own, random bits included."""
    run = Run(crew, make, 1, dtype)
    alone = [nn.Parameter(shard(p.detach()).clone()) for p in run.params]
    optimizer = make(alone)
    for step in range(STEPS):
        run.walk([step])
        for q, p in zip(alone, run.params, strict=True):
            q.grad = shard(p.grad).clone()
        optimizer.step()
    for p, q in zip(run.params, alone, strict=True):
        assert torch.equal(shard(p), q)
        assert run.optimizer.state[p].keys() == optimizer.state[q].keys()
        for key, x in optimizer.state[q].items():
            own = shard(run.optimizer.state[p][key])
            assert torch.equal(own if own.shape == x.shape else own.view(-1)[: len(x)], x)


def steps_that_are_not_finite_are_left_out_by_all(crew: Crew) -> None:
    """One element, in the shard of one process alone, is infinite in one step."""

    def spoilt(step: int, grads: list[Tensor]) -> list[Tensor]:
        if step == 1:
            grads[0][4, 1] = torch.inf
        return grads

    make = made(fallline.AdamW, {"skip_nonfinite": True})
    same_as_whole(make, crew, spoilt=spoilt)
    run = Run(crew, make, 1).walk(spoilt=spoilt)
    assert run.optimizer.skipped_steps == 1


def all_take_scaled_gradients_or_none(crew: Crew) -> None:
    """Gradients of a loss that was scaled by 4 are divided by 4; one infinite element stops every process."""
    for last, end in ((2.0, 0.95), (torch.inf, 1.0)):
        g = torch.full((5, 3), 2.0)
        g[4, 1] = last
        p = nn.Parameter(crew.spread(torch.ones(5, 3), 1, 0))
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(torch.tensor(1.0))
        p.grad = crew.spread(g, 1, 0)
        scaler.step(fallline.SGD([p], lr=0.1))
        assert_equal([whole(p.detach())], [torch.full((5, 3), end)])


def replicas_stay_equal(crew: Crew) -> None:
    run = Run(crew, made(fallline.LAMB, {"before": [clip_by_global_norm(0.5)]}), 2).walk()
    for p in run.params:
        for i, each in enumerate(getattr(p, "placements", ())):
            if each.is_replicate():
                group = crew.meshes[1].get_group(i)
                copies = [torch.empty_like(shard(p)) for _ in range(group.size())]
                dist.all_gather(copies, shard(p).detach().contiguous(), group=group)
                assert all(torch.equal(each, copies[0]) for each in copies)


def one_reduction_is_one_all_reduce(crew: Crew) -> None:
    """LAMB takes the norms of 8 tensors on the mesh in one reduction, clipping that of all in another."""
    run = Run(crew, made(fallline.LAMB, {"before": [clip_by_global_norm(0.5)]}), 1).walk([0])
    for p, g in zip(run.params, run.laid(gradients(1, run.dtype)), strict=True):
        p.grad = g
    with CommDebugMode() as counted:
        run.optimizer.step()
    assert {str(k): n for k, n in counted.get_comm_counts().items() if n} == {"c10d.allreduce_": 2}
    with CommDebugMode() as counted:
        Run(crew, made(fallline.AdamW, {}), 1).optimizer.step()
    assert not counted.get_total_counts()


def gradients_that_lie_otherwise_are_brought_over(crew: Crew) -> None:
    """Sums that are still to be made, and whole ones; the gradients themselves stay as they are."""
    world = dist.get_world_size()
    share = torch.full((5, 3), float(crew.rank + 1))
    for placement, local, g in ((Partial(), share, world * (world + 1) / 2), (R, share * 0 + 2, 2.0)):
        run, alone = (Run(crew, made(fallline.Adam, {}), dims) for dims in (1, 0))
        for _ in range(2):
            grad = DTensor.from_local(local, crew.meshes[0], [placement])
            run.params[0].grad, alone.params[0].grad = grad, torch.full((5, 3), g)
            run.optimizer.step()
            alone.optimizer.step()
            assert run.params[0].grad is grad
            assert torch.equal(shard(grad), local)
        assert_equal(run.ends, alone.ends)


def what_is_elsewhere_is_refused(crew: Crew) -> None:
    run = Run(crew, made(fallline.AdamW, {}), 1)
    before, (p, *_) = run.ends, run.params
    p.grad = distribute_tensor(torch.ones(5, 3), crew.meshes[1], [R, R])
    with pytest.raises(RuntimeError, match=r"a gradient is .* and its parameter .* make the gradient from"):
        run.optimizer.step()
    assert_equal(run.ends, before)
    assert not run.optimizer.state
    p = nn.Parameter(DTensor.from_local(torch.ones(3), crew.meshes[0], [Partial()]))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"a sum still to be made.*redistribute\(placements="):
        fallline.SGD([p]).step()


def what_was_replaced_is_noticed(what: str, crew: Crew) -> None:
    """A shard may lie elsewhere after a step, as `fully_shard` does it, and state be another tensor."""
    run, alone = Run(crew, made(fallline.AdamW, {}), 1), Run(crew, made(fallline.AdamW, {})).walk()
    run.walk(range(2))
    for p in run.params:
        if isinstance(p, DTensor) and what == "shard":
            p._local_tensor = shard(p).clone()
        elif isinstance(p, DTensor):
            run.optimizer.state[p]["exp_avg"] = run.optimizer.state[p]["exp_avg"].clone()
    run.walk(range(2, STEPS))
    assert_equal(run.ends, alone.ends)
    for p, q in zip(run.params, alone.params, strict=True):
        assert torch.equal(whole(run.optimizer.state[p]["exp_avg"]), alone.optimizer.state[q]["exp_avg"])


def a_step_invalidates_what_backward_has_saved(crew: Crew) -> None:
    p = nn.Parameter(crew.spread(random((5, 3), 0), 1, 0))
    optimizer = fallline.SGD([p], lr=0.1)
    loss = (p * p).sum()
    p.grad = crew.spread(random((5, 3), 1), 1, 0)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def state_dicts_go_round(make: Callable, crew: Crew, full: bool, dtype: torch.dtype = torch.float32) -> None:
    """A fresh optimizer goes on from a state dict, of shards or, made in one process, of whole tensors."""
    alone = Run(crew, make, 0, dtype).walk(range(2))
    run = Run(crew, make, 1, dtype).walk(range(2))
    fresh = Run(crew, make, 1, dtype)
    with torch.no_grad():
        for p, q in zip(fresh.params, run.params, strict=True):
            p.copy_(q)
    fresh.optimizer.load_state_dict((alone if full else run).optimizer.state_dict())
    assert_equal(fresh.walk(range(2, 4)).ends, run.walk(range(2, 4)).ends)


def codes_of_another_sharding_are_refused(crew: Crew) -> None:
    make = made(fallline.AdamW, {"precision": fallline.Precision(state="8bit")})
    alone, other, run = Run(crew, make).walk([0]), Run(crew, make, 2).walk([0]), Run(crew, make, 1)
    for state_dict in (alone.optimizer.state_dict(), other.optimizer.state_dict()):
        with pytest.raises(CheckpointMismatch, match="codes belong to one sharding"):
            run.optimizer.load_state_dict(state_dict)


def state_on_another_mesh_is_refused(crew: Crew) -> None:
    make = made(fallline.AdamW, {})
    run, other = Run(crew, make, 1), Run(crew, make, 2).walk([0])
    with pytest.raises(CheckpointMismatch, match=r"exp_avg.* is spread .* torch\.distributed\.checkpoint"):
        run.optimizer.load_state_dict(other.optimizer.state_dict())
    with pytest.raises(CheckpointMismatch, match="full_state_dict=True"):
        Run(crew, make).optimizer.load_state_dict(other.optimizer.state_dict())


def explain_tells_of_shards(crew: Crew) -> None:
    text = fallline.explain(Run(crew, made(fallline.Muon, {}), 1).optimizer)
    assert "backend cpu" in text
    assert "gathered" in text
    text = fallline.explain(Run(crew, made(fallline.LAMB, {}), 1).optimizer)
    assert "all-reduced" in text


def wrapped(make: Callable, crew: Crew) -> None:
    """Assert that a wrapper's parameters, and the averages that it swaps in, are those of whole tensors."""
    alone, run = (Run(crew, make, dims).walk() for dims in (0, 1))
    assert_equal(run.ends, alone.ends)
    if hasattr(run.optimizer, "swap"):
        with run.optimizer.swap(), alone.optimizer.swap():
            assert_equal(run.ends, alone.ends)
        assert_equal(run.ends, alone.ends)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def trained(model: nn.Module, make: Callable, steps=range(STEPS)) -> nn.Module:
    optimizer = make(model)
    for step in steps:
        model(random((6, 3), step)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Return the model in tensor parallel: by rows and columns, and a norm of parts of the batch."""
    plan = {
        "0": ColwiseParallel(output_layouts=Shard(0), use_local_output=False),
        "1": SequenceParallel(sequence_dim=0),
        "2": ColwiseParallel(input_layouts=Shard(0)),
        "4": RowwiseParallel(),
    }
    return parallelize_module(model, mesh, plan)


def fully_sharded_training(make: Callable, crew: Crew) -> None:
    """Every process has the same batch: the mean of equal gradients is what one process has, to the bit."""
    run = trained(fully_shard(net(), mesh=crew.meshes[0]), make)
    ends = list(trained(net(), make).parameters())
    assert_equal([whole(p) for p in run.parameters()], ends, tolerance(make))


def tolerance(make: Callable) -> float:
    """Return what roundings may differ by: sums over lines are made by torch where a tensor is divided."""
    (rule,) = {plan(make(net()).transforms(group)) for group in make(net()).param_groups[:1]}
    return 1e-5 if rule.line_numbers else 0.0


def tensor_parallel_training(make: Callable, crew: Crew) -> None:
    run = trained(parallel(net(), crew.meshes[0]), make)
    assert {type(p) for p in run.parameters()} == {DTensor}
    assert_equal([whole(p) for p in run.parameters()], list(trained(net(), make).parameters()), 1e-5)


def both_ways(make: Callable, crew: Crew) -> None:
    """Tensor parallel in the rows of the mesh and fully sharded over them."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    run = trained(fully_shard(parallel(net(), mesh["tensor"]), mesh=mesh["data"]), make)
    assert_equal([whole(p) for p in run.parameters()], list(trained(net(), make).parameters()), 1e-5)


def written(name: str, model: nn.Module, folder: Path) -> None:
    """Train for half of the steps and save."""
    optimizer = CHECKPOINTED[name](model)
    trained(model, lambda _: optimizer, range(2))
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=str(folder / name))


def gone_on(name: str, model: nn.Module, folder: Path) -> list[Tensor]:
    """Load what was saved, train for the other half, and return the parameters."""
    optimizer = CHECKPOINTED[name](model)
    weights, state = get_state_dict(model, optimizer)
    saved = {"model": weights, "optimizer": state}
    dcp.load(saved, checkpoint_id=str(folder / name))
    set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    trained(model, lambda _: optimizer, range(2, STEPS))
    return [whole(p.detach()) for p in model.parameters()]


def a_checkpoint_is_written(name: str, crew: Crew) -> None:
    written(name, fully_shard(net(), mesh=crew.meshes[0]), crew.folder)


def a_checkpoint_is_read(name: str, crew: Crew) -> None:
    """Who wrote it does not matter, these processes or one alone."""
    ends = gone_on(name, fully_shard(net(), mesh=crew.meshes[0]), crew.folder)
    run = trained(fully_shard(net(), mesh=crew.meshes[0]), CHECKPOINTED[name])
    assert_equal(ends, [whole(p.detach()) for p in run.parameters()], tolerance(CHECKPOINTED[name]))


#: What goes through `torch.distributed.checkpoint`; the last one to as many processes only.
CHECKPOINTED = {
    "AdamW": lambda model: fallline.AdamW(model.parameters(), lr=0.1),
    "LAMB": lambda model: fallline.LAMB(model.named_parameters(), lr=0.1),
    "Adafactor": lambda model: fallline.Adafactor(model.parameters(), lr=0.1),
    "Muon": lambda model: fallline.Muon(model.parameters(), lr=0.1),
    "8bit": lambda model: fallline.AdamW(
        model.parameters(), lr=0.1, precision=fallline.Precision(state="8bit")
    ),
}
