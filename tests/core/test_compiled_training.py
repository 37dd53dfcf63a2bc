"""Optimizers inside a training step that torch.compile compiles."""

import os
import subprocess
import sys

import pytest
import torch

import fallline
from fallline.schedules import cosine

#: What selects each backend on CPU tensors.
BACKENDS = {"cpu": {}, "eager": {"foreach": False, "fused": False}}

pytestmark = pytest.mark.filterwarnings("default")  # dynamo warns about its own workings


def train(compile_step, make=lambda params: fallline.AdamW(params, lr=0.1), group=None, steps=5):
    """Return the losses, the parameters and the optimizer of a small training with a compiled step."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    optimizer = make(model.parameters())
    optimizer.param_groups[0].update(group or {})
    run = compile_step(model, optimizer)
    losses = [run(torch.full((3, 4), float(i + 1))).item() for i in range(steps)]
    return losses, [p.detach() for p in model.parameters()], optimizer


def plain(model, optimizer):
    def step(x):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()  # traced backward uses up the graph of what is returned

    return step


def whole(**how):
    """Return what compiles the whole training step."""
    return lambda model, optimizer: torch.compile(plain(model, optimizer), **how)


def step_alone(**how):
    """Return what compiles the optimizer's step alone."""

    def make(model, optimizer):
        compiled = torch.compile(lambda: optimizer.step(), fullgraph=True, **how)

        def step(x):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            compiled()
            return loss

        return step

    return make


class Graphs(list):
    """A compiler that runs each graph as it is and notes the operations in it."""

    def __call__(self, graph, inputs):
        self.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward


def same(one, other):
    return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))


def test_losses_are_those_of_the_uncompiled_step():
    assert same(train(whole(backend="eager")), train(plain))


@pytest.mark.parametrize("group", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_a_step_is_a_graph_without_breaks(group, how):
    assert same(train(step_alone(backend=how), group=group), train(plain, group=group))


@pytest.mark.long
def test_a_step_is_a_graph_of_inductors():
    assert same(train(step_alone(backend="inductor")), train(plain))


def test_a_step_is_one_operation_and_compiled_once_whatever_a_schedule_does():
    graphs = Graphs()
    make = lambda params: fallline.AdamW(params, lr=0.1 * cosine(20))  # noqa: E731
    compiled = train(step_alone(backend=graphs), make, steps=12)
    assert same(compiled, train(plain, make, steps=12))
    (operations,) = graphs
    assert operations.count(torch.ops.fallline.step.default) == 1
    assert compiled[2].param_groups[0]["steps"] == 12


@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch cannot trace backward"
)
@pytest.mark.long
@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch cannot trace backward"
)
def test_forward_backward_and_step_are_one_graph():
    """In a process of its own: traced backward leaves a source on None, which later graphs read."""
    code = "from core.test_compiled_training import check_one_graph; check_one_graph()"
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})


def check_one_graph():
    for how in ("eager", "aot_eager"):
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            assert same(train(whole(backend=how, fullgraph=True)), train(plain))


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_the_graph_sees_what_the_step_does_and_the_step_what_the_graph_did(how):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fallline.SGD([p], lr=0.5)

    @torch.compile(backend=how, fullgraph=True)
    def step():
        with torch.no_grad():
            p.mul_(2)
        optimizer.step()
        return p + 1

    assert step().tolist() == [2.5] * 3
    assert p.tolist() == [1.5] * 3
    assert p.grad.tolist() == [1.0] * 3


def test_each_optimizer_steps_its_own_parameters():
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    first, second = (fallline.SGD([p], lr=0.5) for p in params)
    run = torch.compile(lambda optimizer: optimizer.step(), backend="eager", fullgraph=True)
    for p in params:
        p.grad = torch.ones(2)
    run(second)
    assert [p[0].item() for p in params] == [1.0, 0.5]
    run(first)
    run(first)
    assert [p[0].item() for p in params] == [0.0, 0.5]


def test_hooks_run_and_parameters_without_a_gradient_stay():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    p.grad = torch.ones(2)
    optimizer, seen = fallline.SGD([p, q], lr=0.5), []
    optimizer.register_step_post_hook(lambda *_: seen.append(p[0].item()))
    torch.compile(lambda: optimizer.step(), backend="aot_eager", fullgraph=True)()
    assert seen == [0.5]
    assert q.tolist() == [1.0, 1.0]


def test_what_a_compiled_step_cannot_do_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fallline.SGD([p], lr=0.5)
    p.grad = torch.ones(2)
    run = torch.compile(lambda: optimizer.step(), backend="eager", fullgraph=True)
    optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(RuntimeError, match=r"use fallline\.functional"):
        run()
    optimizer.param_groups[0] |= {"differentiable": False, "params": [torch.nn.Parameter(torch.ones(2))]}
    with pytest.raises(RuntimeError, match="make a new optimizer"):
        run()
    assert torch.is_grad_enabled()


def test_a_closure_is_called_outside_the_graph():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fallline.SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert torch.compile(lambda: optimizer.step(closure), backend="eager")().item() == 2.0
    assert p.tolist() == [0.0, 0.0]
