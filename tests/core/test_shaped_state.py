"""State of another shape than its parameter, and none for some tensors: kept, saved, refused."""

import io
from functools import cache

import pytest
import torch

import fallline
from fallline import Slot, chain, functional, transform
from fallline.core.errors import CheckpointMismatch, RuleError
from fallline.transforms import scale_by_learning_rate

BACKENDS = [{}, {"foreach": False, "fused": False}]


def rows(shape):
    return shape[:-1] if len(shape) > 1 else None


def vectors(shape):
    return None if len(shape) > 1 else shape


@transform(whole=True, slots=(Slot("row", 1.0, shape=rows), Slot("lone", 1.0, shape=vectors)))
def scale_by_rows(g, row, lone, *, beta=0.5):
    if lone is not None:
        lone = beta * lone + (1 - beta) * g * g
        return g / lone.sqrt(), None, lone
    row = beta * row + (1 - beta) * (g * g).mean(-1)
    return g / row.sqrt().unsqueeze(-1), row, None


make = chain(scale_by_rows, scale_by_learning_rate(0.1))
SHAPES = [(3, 4), (3, 4), (5,), (2, 3, 4), (0, 2)]


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in SHAPES]
    return [p.requires_grad_() for p in made]


def train(optimizer, steps, first=0):
    for t in range(first, first + steps):
        for i, p in enumerate(optimizer.param_groups[0]["params"]):
            p.grad = torch.sin(torch.arange(p.numel(), dtype=p.dtype).view(p.shape) + t + i) + 0.1
        optimizer.step()


def expected(p, grads):
    axis = -1 if p.dim() > 1 else ()
    kept = torch.ones_like(p[..., 0] if p.dim() > 1 else p)
    for g in grads:
        square = g * g
        kept = 0.5 * kept + 0.5 * (square.mean(axis) if p.dim() > 1 else square)
        p = p - 0.1 * g / (kept.sqrt().unsqueeze(-1) if p.dim() > 1 else kept.sqrt())
    return p, kept


@pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "eager"])
def test_each_tensor_keeps_the_state_of_its_shape(backend):
    params = parameters()
    optimizer = make(params, **backend)
    train(optimizer, 3)
    for i, (p, begun) in enumerate(zip(params, parameters(), strict=True)):
        ramp = torch.arange(p.numel(), dtype=p.dtype).view(p.shape)
        wanted, kept = expected(begun.detach(), [torch.sin(ramp + t + i) + 0.1 for t in range(3)])
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-13, atol=1e-13)
        (name,) = optimizer.state[p]
        assert name == ("row" if p.dim() > 1 else "lone")
        torch.testing.assert_close(optimizer.state[p][name], kept, rtol=1e-13, atol=1e-13)


def test_narrow_parameters_keep_such_state_in_float32():
    params = parameters(torch.bfloat16)
    optimizer = make(params)
    train(optimizer, 1)
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}


def test_it_goes_on_after_saving_to_the_same_bits():
    whole, part = make(parameters()), make(parameters())
    train(whole, 5)
    train(part, 2)
    file = io.BytesIO()
    params = part.param_groups[0]["params"]
    torch.save((params, part.state_dict()), file)
    file.seek(0)
    params, state = torch.load(file)
    resumed = make(params)
    resumed.load_state_dict(state)
    train(resumed, 3, first=2)
    for a, b in zip(whole.param_groups[0]["params"], params, strict=True):
        assert torch.equal(a, b)


def test_the_pure_function_does_the_same():
    params, optimizer = parameters(), make(parameters())
    train(optimizer, 2)
    values = [p.detach() for p in params]
    state = functional.init(make, values)
    assert list(state[0]) == ["row"]
    for t in range(2):
        grads = [
            torch.sin(torch.arange(p.numel(), dtype=p.dtype).view(p.shape) + t + i) + 0.1
            for i, p in enumerate(values)
        ]
        values, state = functional.update(make, values, grads, state)
    for p, q in zip(optimizer.param_groups[0]["params"], values, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-13, atol=1e-13)


def test_state_of_a_wrong_shape_is_refused_on_load_and_at_the_step():
    optimizer, other = make(parameters()), make(parameters())
    train(optimizer, 1)
    state = optimizer.state_dict()
    state["state"][0]["row"] = torch.ones(4, dtype=torch.float64)
    with pytest.raises(CheckpointMismatch, match=r"'row' has shape \(4,\), not \(3,\)"):
        other.load_state_dict(state)
    first = optimizer.param_groups[0]["params"][0]
    optimizer.state[first]["row"] = torch.ones(4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"row has shape \(4,\), not \(3,\)"):
        train(optimizer, 1)


def test_explain_counts_the_bytes_that_are_kept():
    p = torch.nn.Parameter(torch.zeros(10, 100))
    assert "keeps 0.04 bytes of state per element" in str(fallline.explain(make([p])))


def test_only_whole_rules_keep_such_state():
    with pytest.raises(RuleError, match="only a whole-tensor rule"):
        transform(slots=(Slot("row", shape=rows),))(lambda g, row: (g, row))


@cache
def ranked(rank):
    @transform(whole=True, slots=(Slot("sketch", shape=lambda shape: (int(rank), *shape[1:])),))
    def remember(g, sketch):
        return g, sketch + g[:, : sketch.shape[1]]

    return remember


class Ranked(fallline.Optimizer):
    hyperparameters = (fallline.Hyperparameter("rank", 2, "rows that are remembered", low=1),)

    def __init__(self, params, rank=2):
        super().__init__(params, {"rank": rank})

    @classmethod
    def rules(cls, group):
        return (ranked(group["rank"]),)


def test_state_whose_shape_follows_a_setting_loads_under_that_setting():
    def made(rank=3):
        return Ranked([torch.nn.Parameter(torch.zeros(4, 2))], rank=rank)

    optimizer, again = made(), made()
    train(optimizer, 2)
    again.load_state_dict(optimizer.state_dict())
    (state,), (loaded,) = optimizer.state.values(), again.state.values()
    assert torch.equal(state["sketch"], loaded["sketch"])
    state_dict = optimizer.state_dict()
    state_dict["param_groups"][0]["rank"] = 4
    with pytest.raises(CheckpointMismatch, match=r"'sketch' has shape \(3, 2\), not \(4, 2\)"):
        again.load_state_dict(state_dict)
