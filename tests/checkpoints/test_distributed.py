"""Through torch.distributed.checkpoint and back: training goes on as if it had never stopped, bit for bit."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import fallline
from fallline.checkpoints import from_torchao
from fallline.core.errors import CheckpointMismatch
from fallline.penalties.decay import add_independent_decay
from fallline.routing import Route, rest, route
from fallline.schedules import cosine
from optimizers.cases import CASES, IDS

from .test_convert import Quantized

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")

#: The forms in which torch hands out an optimizer's state: nested, or one flat dict.
FORMS = {"nested": StateDictOptions(), "flat": StateDictOptions(flatten_optimizer_state_dict=True)}
each_form = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)

#: Ways to build an optimizer that are not in CASES: names, groups, routes, settings of other types.
WAYS = {
    "names": lambda net: fallline.AdamW(net.named_parameters()),
    "groups": lambda net: fallline.NAdam(
        [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[1:].parameters(), "weight_decay": 0.3}]
    ),
    "routes": lambda net: route(
        net, Route("*.bias", fallline.SGD, momentum=0.9), Route(rest, fallline.AdamW), lr=0.1
    ),
    "tensor": lambda net: fallline.Adam(net.parameters(), lr=torch.tensor(0.1)),
    "schedule": lambda net: fallline.AdamW(net.parameters(), weight_decay=0.1 * cosine(20)),
    "transforms": lambda net: fallline.AdamW(net.parameters(), after=[add_independent_decay(0.1)]),
    "skip": lambda net: fallline.RMSprop(net.parameters(), momentum=0.9, skip_nonfinite=True),
}


def model(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).to(dtype)


def train(net, optimizer, steps, rank=0):
    """Take steps whose batches depend on the number of the step and the rank alone."""
    dtype = next(net.parameters()).dtype
    for step in steps:
        batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(10 * step + rank)).to(dtype)
        net(batch).sin().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def detuned(optimizer):
    """Return the optimizer with other learning rates, that loading must bring back."""
    for group in optimizer.param_groups:
        if "steps" not in group:
            group["lr"] = group["lr"] * 3
    return optimizer


def load(net, optimizer, folder, options):
    """Load the checkpoint in ``folder``, as torch's documentation does."""
    model_state, state = get_state_dict(net, optimizer, options=options)
    target = {"model": model_state, "optimizer": state}
    dcp.load(target, checkpoint_id=folder)
    set_state_dict(
        net,
        optimizer,
        model_state_dict=target["model"],
        optim_state_dict=target["optimizer"],
        options=options,
    )


def save(net, optimizer, folder, options):
    model_state, state = get_state_dict(net, optimizer, options=options)
    dcp.save({"model": model_state, "optimizer": state}, checkpoint_id=folder)


def assert_same(one, other):
    """Assert that two state dicts, or values of wrappers, are equal to the last bit."""
    if isinstance(one, dict):
        assert one["param_groups"] == other["param_groups"]
        torch.testing.assert_close(one["state"], other["state"], rtol=0, atol=0)
    else:
        assert one == other


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def assert_equal(net, optimizer, other_net, other):
    """Assert equal parameters, settings and state, to the last bit and dtype."""
    for p, q in zip(net.parameters(), other_net.parameters(), strict=True):
        assert torch.equal(local(p), local(q))
        assert optimizer.state[p].keys() == other.state[q].keys()
        for key, value in optimizer.state[p].items():
            loaded = local(other.state[q][key])
            assert loaded.dtype == value.dtype, key
            assert torch.equal(local(value), loaded), key
    for group, loaded in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert {**group, "params": None} == {**loaded, "params": None}


def assert_resumes(make, folder, options, dtype=torch.float32):
    net = model(dtype)
    optimizer = make(net)
    train(net, optimizer, range(3))
    save(net, optimizer, folder, options)
    fresh = model(dtype, seed=1)
    other = detuned(make(fresh))
    load(fresh, other, folder, options)
    assert_equal(net, optimizer, fresh, other)
    train(net, optimizer, range(3, 6))
    train(fresh, other, range(3, 6))
    assert_equal(net, optimizer, fresh, other)


@each_form
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_every_optimizer_resumes(cls, settings, options, tmp_path):
    assert_resumes(lambda net: cls(net.parameters(), **settings), tmp_path, options)


@each_form
@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)
def test_every_way_to_build_one_resumes(make, options, tmp_path):
    assert_resumes(make, tmp_path, options)


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_dtype_resumes(dtype, options, tmp_path):
    assert_resumes(lambda net: fallline.NAdam(net.parameters()), tmp_path, options, dtype)


def test_a_scheduled_learning_rate_lets_torch_make_state_by_a_step_with_none(tmp_path):
    assert_resumes(
        lambda net: fallline.AdamW(net.parameters(), lr=0.1 * cosine(20)), tmp_path, FORMS["nested"]
    )


@pytest.mark.xfail(
    reason="torch makes state by a step with lr = 0, also when the model is loaded already, and this rule "
    "moves parameters whatever the learning rate",
    raises=AssertionError,
    strict=True,
)
def test_a_rule_that_ignores_the_learning_rate_survives_torchs_step(tmp_path):
    independent = [add_independent_decay(0.1)]
    assert_resumes(
        lambda net: fallline.SGD(net.parameters(), lr=0.1, after=independent), tmp_path, FORMS["nested"]
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: fallline.Lookahead(inner, k=2),
        lambda inner: fallline.EMA(inner, decay=0.9),
        fallline.ScheduleFree,
    ],
    ids=["Lookahead", "EMA", "ScheduleFree"],
)
def test_a_wrapper_resumes_by_its_own_state_dict(wrap, tmp_path):
    """torch's functions know nothing of wrappers; dcp.load fills a state dict, which any step makes whole."""
    net, fresh = model(), model(seed=1)
    optimizer, other = (wrap(fallline.SGD(each.parameters(), lr=0.1, momentum=0.9)) for each in (net, fresh))
    train(net, optimizer, range(3))
    dcp.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=tmp_path)
    train(fresh, other, [7])
    target = {"model": fresh.state_dict(), "optimizer": other.state_dict()}
    dcp.load(target, checkpoint_id=tmp_path)
    fresh.load_state_dict(target["model"])
    other.load_state_dict(target["optimizer"])
    train(net, optimizer, range(3, 6))
    train(fresh, other, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), fresh.parameters(), strict=True))
    for key, part in optimizer.state_dict().items():
        assert_same(part, other.state_dict()[key])


def test_a_checkpoint_of_torch_loads_here(tmp_path):
    net, fresh = model(), model(seed=1)
    optimizer, other = torch.optim.AdamW(net.parameters(), lr=0.1), fallline.AdamW(fresh.parameters())
    train(net, optimizer, range(3))
    save(net, optimizer, tmp_path, FORMS["flat"])
    load(fresh, other, tmp_path, FORMS["flat"])
    assert other.param_groups[0]["lr"] == 0.1
    for p, q in zip(net.parameters(), fresh.parameters(), strict=True):
        for key, value in optimizer.state[p].items():
            assert torch.equal(other.state[q][key], value)


#: Models over several processes.
SPREAD = {
    "DDP": DistributedDataParallel,
    "FSDP2": lambda net: fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),))),
}
OPTIMIZERS = {
    "AdamW": lambda net: fallline.AdamW(net.parameters(), lr=0.1),
    "NAdam by name": lambda net: fallline.NAdam(getattr(net, "module", net).named_parameters()),
    "SGD": lambda net: fallline.SGD(net.parameters(), lr=0.1, momentum=0.9),
}


def resume_in_one_process_of_several(rank, world, folder, how, options):
    """Train, save, load into a fresh model, and go on with both; rank 0 keeps all state in one piece."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        for name, make in OPTIMIZERS.items():
            net, fresh = SPREAD[how](model()), SPREAD[how](model(seed=1))
            optimizer, other = make(net), detuned(make(fresh))
            train(net, optimizer, range(3), rank)
            save(net, optimizer, f"{folder}/{name}", options)
            whole = get_optimizer_state_dict(net, optimizer, options=StateDictOptions(full_state_dict=True))
            if rank == 0:
                torch.save(whole, f"{folder}/{name}.pt")
            load(fresh, other, f"{folder}/{name}", options)
            assert_equal(net, optimizer, fresh, other)
            train(net, optimizer, range(3, 6), rank)
            train(fresh, other, range(3, 6), rank)
            assert_equal(net, optimizer, fresh, other)
        dist.barrier()  # who leaves first takes the connections along that the other may still wait at
    finally:
        dist.destroy_process_group()


@pytest.mark.long
@each_form
@pytest.mark.parametrize("how", SPREAD)
def test_two_processes_resume_and_one_reads_what_they_saved(how, options, tmp_path):
    function = resume_in_one_process_of_several
    mp.start_processes(function, (2, str(tmp_path), how, options), nprocs=2, start_method="spawn")
    for name, make in OPTIMIZERS.items():
        net = model(seed=1)
        optimizer = make(net)
        load(net, optimizer, tmp_path / name, options)
        whole = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert len(whole["state"]) == len(list(net.parameters()))
        for key, p in net.named_parameters():
            for slot, value in whole["state"][key].items():
                assert torch.equal(optimizer.state[p][slot], value)


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Shard(Quantized):
    """A tensor of torchao that DTensor can hold: of its operations it has that one."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert func is torch.ops.aten.view.default
        return cls(vars(args[0]), args[1])


def test_a_shard_of_quantized_state_is_refused_with_the_remedy(alone):
    parts = {"codes": torch.zeros(4, dtype=torch.uint8), "scale": torch.ones(1), "qmap": torch.zeros(256)}
    value = DTensor.from_local(Shard(parts, [4]), alone, run_check=False)
    saved = {"state": {0: {"exp_avg": value}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    with pytest.raises(CheckpointMismatch, match=r"exp_avg of parameter 0 is spread.*full_state_dict=True"):
        from_torchao(saved)
