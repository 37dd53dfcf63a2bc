"""How many tensors of equal shape a rule on whole tensors gets at once."""

import pytest
import torch

import fallline
from fallline import transform
from fallline.backends.whole import Member, apply

GOT = []


@transform(whole=True)
def noted(g):
    GOT.append(tuple(g.shape))
    return 2 * g


@transform(whole="products")
def multiplied(g):
    GOT.append(tuple(g.shape))
    return g @ g


@transform()
def as_it_came(g, grad):
    return g + grad


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
def test_tensors_of_equal_shape_come_together_on_every_backend(flags):
    GOT.clear()
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(2, 3), (4,), (2, 3), (2, 3)]]
    optimizer = fallline.chain(noted(), as_it_came())(params, **flags)
    for i, p in enumerate(params):
        p.grad = torch.full_like(p, float(i))
    optimizer.step()
    assert sorted(GOT) == [(1, 4), (3, 2, 3)]
    for i, p in enumerate(params):
        assert (p == -3.0 * i).all()  # twice the gradient, and the gradient as it came


@pytest.mark.parametrize(
    ("rule", "side", "device", "wanted"),
    [
        (noted, 256, "cpu", [4, 4, 2]),
        (noted, 257, "cpu", [1] * 10),
        (noted, 1024, "meta", [10]),
        (noted, 2048, "meta", [1] * 10),
        (multiplied, 256, "cpu", [4, 4, 2]),
        (multiplied, 2048, "meta", [10]),
        (multiplied, 4096, "meta", [4, 4, 2]),
        (multiplied, 4097, "meta", [1] * 10),
    ],
)
def test_a_gpu_gets_more_at_once_and_most_where_it_multiplies(rule, side, device, wanted):
    """Tensors without values stand for those on any device but the CPU."""
    GOT.clear()
    x = torch.empty(side, side, device=device)
    for _ in apply(rule, [Member({"g": x}, {})] * 10):
        pass
    assert [count for count, *_ in GOT] == wanted
