"""Steps whose settings, schedules and vetoes are on the device, as CUDA graphs need them: run by `test_gpu`.

TRITON_INTERPRET=1 python -m pytest tests/backends/gpu_graph_cases.py
"""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fallline
from backends.gpu_cases import DEVICE, parameters, pytestmark  # noqa: F401 (warnings of the interpreter)
from fallline.core import capture
from fallline.core.backend import choose
from fallline.gradients import clip_by_global_norm
from fallline.schedules import cosine, linear, with_warmup

on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no graphs")

RULES = {
    "adamw": lambda params, lr=1e-2, **flags: fallline.AdamW(params, lr=lr, **flags),
    "sgd": lambda params, lr=1e-2, **flags: fallline.SGD(params, lr=lr, momentum=0.9, dampening=0.5, **flags),
    "clipped": lambda params, lr=1e-2, **flags: fallline.AdamW(
        params, lr=lr, before=[clip_by_global_norm(0.1)], after=[fallline.follow_parameters(0.1)], **flags
    ),
    "lamb": lambda params, lr=1e-2, **flags: fallline.LAMB(params, lr=lr, **flags),
    "adafactor": lambda params, lr=1e-2, **flags: fallline.Adafactor(params, lr=lr, **flags),
    "came": lambda params, lr=1e-2, **flags: fallline.CAME(params, lr=lr, **flags),
    "adam_mini": lambda params, lr=1e-2, **flags: fallline.AdamMini(params, lr=lr, **flags),
}


class NothingIsReadOrUploaded(TorchDispatchMode):
    """Refuse what makes the host wait for a device, and what brings it anything but other types."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero}
        brings = {torch.ops.aten.lift_fresh}
        assert function.overloadpacket not in waits | brings, function
        if function.overloadpacket == torch.ops.aten._to_copy:
            assert (kwargs or {}).get("device") is None
        if function.overloadpacket == torch.ops.aten.copy_:
            assert args[1].device.type == DEVICE
            assert args[1].dtype != torch.int64  # the tables
        return function(*args, **(kwargs or {}))


def begin(make, lr=1e-2, dtype=torch.float32, **flags):
    params = parameters(dtype)
    optimizer = make([{"params": params[:3]}, {"params": params[3:]}], lr=lr)
    for group in optimizer.param_groups:
        group.update(flags, fused=True)
    assert choose(optimizer.param_groups[0], params[0])[0].name == "gpu"
    return params, optimizer


def give_gradients(params, step):
    generator = torch.Generator().manual_seed(step)
    for p in params:
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(DEVICE, p.dtype)
        if p.grad is None:
            p.grad = grad
        else:
            p.grad.copy_(grad)


def train(params, optimizer, steps):
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def same(ours, theirs):
    return all(map(torch.equal, ours, theirs))


SCHEDULES = {
    "ends": 1e-2 * with_warmup(cosine(20), 3),
    "held": 1e-2 * linear(1.0, 0.5, 3).hold(),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("name", RULES)
def test_schedules_on_the_device_give_the_bits_of_those_on_the_host(name, schedule):
    ours, a = begin(RULES[name], lr=schedule, capturable=True)
    theirs, b = begin(RULES[name], lr=schedule)
    train(ours, a, range(6))
    train(theirs, b, range(6))
    assert same(ours, theirs)
    mine, other = ([{**g, "capturable": None} for g in o.state_dict()["param_groups"]] for o in (a, b))
    assert mine == other


def test_a_learning_rate_that_is_a_tensor_is_read_at_each_step():
    rate = torch.tensor(1e-2, device=DEVICE)
    ours, a = begin(RULES["adamw"], lr=rate, capturable=True)
    theirs, b = begin(RULES["adamw"], lr=float(rate))
    for step in range(4):
        rate.fill_(1e-2 / (step + 1))
        for group in b.param_groups:
            group["lr"] = float(rate)
        train(ours, a, [step])
        train(theirs, b, [step])
    assert same(ours, theirs)


def test_a_learning_rate_of_zero_takes_the_place_of_a_tensor():
    params, optimizer = begin(RULES["sgd"], lr=torch.tensor(1e-2, device=DEVICE))
    train(params, optimizer, range(2))
    before = [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(params, optimizer, range(2, 4))
    assert same(params, before)


@pytest.mark.parametrize("name", RULES)
def test_a_second_step_reads_nothing_from_the_device_and_brings_nothing_to_it(name):
    params, optimizer = begin(RULES[name], lr=SCHEDULES["ends"], capturable=True)
    train(params, optimizer, range(2))
    give_gradients(params, 2)
    optimizer.found_inf = torch.zeros((), device=DEVICE)
    optimizer.grad_scale = torch.full((), 8.0, device=DEVICE)
    optimizer.step()
    with NothingIsReadOrUploaded():
        optimizer.step()


@pytest.mark.parametrize("name", RULES)
def test_the_default_device_changes_nothing(name):
    """What is on ``meta`` has no numbers, and memory there cannot be pinned."""
    (ours, a), (theirs, b) = (begin(RULES[name], lr=SCHEDULES["ends"], capturable=True) for _ in range(2))
    for step in range(2):
        give_gradients(ours, step)
        with torch.device("meta"):
            a.step()
        train(theirs, b, [step])
    assert same(ours, theirs)


def test_that_check_finds_a_host_that_looks():
    params, optimizer = begin(RULES["adamw"], lr=SCHEDULES["ends"])
    train(params, optimizer, range(2))
    optimizer.found_inf = torch.zeros((), device=DEVICE)
    with pytest.raises(AssertionError), NothingIsReadOrUploaded():
        optimizer.step()


@pytest.mark.parametrize("name", RULES)
def test_a_withheld_step_leaves_everything_as_it_is(name):
    params, optimizer = begin(RULES[name], lr=SCHEDULES["ends"], capturable=True)
    train(params, optimizer, range(2))
    before, state = copy.deepcopy((params, optimizer.state_dict()))
    optimizer.found_inf, optimizer.grad_scale = (torch.ones((), device=DEVICE) for _ in range(2))
    train(params, optimizer, [2])
    assert same(params, before)
    after = optimizer.state_dict()
    assert after["param_groups"][1]["steps"] == state["param_groups"][1]["steps"] == 2
    for x, y in zip(after["state"].values(), state["state"].values(), strict=True):
        assert all(torch.equal(x[key], y[key]) for key in y)


@pytest.mark.parametrize("name", RULES)
def test_steps_under_a_scaler_are_those_without_some_of_them_left_out(name):
    (ours, a), (theirs, b) = (begin(RULES[name]) for _ in range(2))
    scaler = torch.amp.GradScaler(DEVICE, init_scale=64.0)
    for step in range(5):
        broken = step in (0, 3)
        give_gradients(ours, step)
        give_gradients(theirs, step)
        scale = scaler.scale(torch.ones((), device=DEVICE)).item()
        for p in ours:
            p.grad.mul_(scale)
        if broken:
            ours[0].grad[0, 0] = float("inf")
        kept = [p.grad.clone() for p in ours]
        scaler.step(a)
        scaler.update()
        assert same([p.grad for p in ours], kept)
        if not broken:
            b.step()
    assert scaler.get_scale() == 16.0
    assert same(ours, theirs)


def test_beyond_its_end_a_schedule_withholds_steps():
    params, optimizer = begin(RULES["sgd"], lr=linear(1e-2, 0.0, 3), capturable=True)
    train(params, optimizer, range(3))
    before = [p.detach().clone() for p in params]
    train(params, optimizer, range(3, 5))
    assert same(params, before)
    assert optimizer.state_dict()["param_groups"][0]["steps"] == 3


def test_training_goes_on_from_a_state_dict_and_from_a_copy():
    params, optimizer = begin(RULES["adamw"], lr=SCHEDULES["ends"], capturable=True)
    train(params, optimizer, range(3))
    others, again = begin(RULES["adamw"], lr=SCHEDULES["ends"], capturable=True)
    again.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    third, copied = copy.deepcopy((params, optimizer))
    for each in ((params, optimizer), (others, again), (third, copied)):
        train(*each, range(3, 6))
    assert same(params, others)
    assert same(params, third)


def test_a_group_can_leave_and_take_another_schedule():
    ours, a = begin(RULES["adamw"], lr=SCHEDULES["ends"], capturable=True)
    theirs, b = begin(RULES["adamw"], lr=SCHEDULES["ends"])
    for params, optimizer in ((ours, a), (theirs, b)):
        train(params, optimizer, range(2))
        optimizer.param_groups[0]["lr"] = SCHEDULES["held"]
        train(params, optimizer, range(2, 4))
    for group in a.param_groups:
        group["capturable"] = False
    for params, optimizer in ((ours, a), (theirs, b)):
        train(params, optimizer, range(4, 6))
    assert same(ours, theirs)
    assert a.param_groups[0]["steps"] == 6


def test_values_that_a_setting_cannot_have_are_refused_before_anything_is_done():
    betas = (2.0 * linear(0.0, 1.0, 9), 0.999)
    params, optimizer = begin(lambda params, lr: fallline.AdamW(params, lr, betas), capturable=True)
    give_gradients(params, 0)
    with pytest.raises(ValueError, match="Invalid beta"):
        optimizer.step()
    assert not optimizer.state


@pytest.mark.filterwarnings("default")
def test_a_compiled_step_runs_the_kernels():
    (ours, a), (theirs, b) = (begin(RULES["clipped"], lr=SCHEDULES["ends"]) for _ in range(2))
    run = torch.compile(lambda: a.step(), backend="aot_eager", fullgraph=True)
    for step in range(3):
        give_gradients(ours, step)
        run()
        train(theirs, b, [step])
    assert same(ours, theirs)


@pytest.mark.parametrize("name", ["came", "adam_mini"])
def test_functions_of_lines_read_schedules_on_the_device(name):
    betas = (0.9, 0.5 * linear(1.0, 1.5, 9), 0.99)[: 3 if name == "came" else 2]
    (ours, a), (theirs, b) = (begin(RULES[name], capturable=each) for each in (True, False))
    for optimizer in (a, b):
        for group in optimizer.param_groups:
            group["betas"] = betas
    train(ours, a, range(4))
    train(theirs, b, range(4))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_sums_over_lines_are_captured_unless_they_are_torch_operations():
    _, optimizer = begin(RULES["adafactor"], capturable=True)
    capture.refuse(optimizer)
    optimizer.param_groups[0].update(foreach=False, fused=False)
    with pytest.raises(RuntimeError, match="gpu: foreach=False and fused=False"):
        capture.refuse(optimizer)


def captured(model, optimizer, inputs, scaler=None):
    """Return a graph of a whole training step and the inputs that it reads, after steps on another stream."""

    def step():
        loss = model(inputs).square().mean()
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.zero_grad()
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        step()
    return graph


def small_model(name="clipped", lr=1e-2, capturable=False):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(33, 65), torch.nn.Tanh(), torch.nn.Linear(65, 3)).to(DEVICE)
    optimizer = RULES[name](model.parameters(), lr=lr)
    for group in optimizer.param_groups:
        group.update(fused=True, capturable=capturable)
    return model, optimizer


@on_gpu
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("lr", [1e-2, SCHEDULES["ends"]], ids=["constant", "schedule"])
@pytest.mark.parametrize("name", ["clipped", "adafactor", "came", "adam_mini"])
def test_a_replayed_training_step_is_the_ordinary_one(name, lr, scaled):
    inputs = torch.randn(17, 33, device=DEVICE)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=64.0) if scaled else None
    model, optimizer = small_model(name, lr, capturable=True)
    graph = captured(model, optimizer, inputs, scaler)
    other, theirs = small_model(name, lr)
    for step in range(3 + 9):
        if step >= 3:
            inputs.normal_(generator=torch.Generator(DEVICE).manual_seed(step))
            graph.replay()
        theirs.zero_grad()
        other(inputs).square().mean().backward()
        theirs.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    if lr is not SCHEDULES["ends"]:
        return
    assert optimizer.state_dict()["param_groups"][0]["steps"] == 12


@on_gpu
@pytest.mark.parametrize("name", ["clipped", "came"])
def test_ordinary_steps_between_replays_disturb_nothing(name):
    inputs = torch.randn(17, 33, device=DEVICE)
    model, optimizer = small_model(name, capturable=True)
    graph = captured(model, optimizer, inputs)
    other, theirs = small_model(name)
    kept = [p.grad for p in model.parameters()]
    for step in range(3 + 6):
        if step >= 3 and step % 2:
            graph.replay()
        elif step >= 3:
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
            for p, g in zip(model.parameters(), kept, strict=True):
                p.grad = g
        theirs.zero_grad()
        other(inputs).square().mean().backward()
        theirs.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@on_gpu
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_what_cannot_be_captured_is_refused():
    inputs = torch.randn(17, 33, device=DEVICE)
    for how, complaint in (({}, "capturable is False"), ({"capturable": True}, "has made no step yet")):
        model, optimizer = small_model(lr=1e-2, **how)
        model(inputs).square().mean().backward()
        with pytest.raises(RuntimeError, match=complaint), torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()
