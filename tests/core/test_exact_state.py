"""State of one number per tensor that is kept in float64: small addends vanish beside a float32 sum."""

import pytest
import torch

from fallline import chain, functional, per_tensor, transform
from optimizers.cases import on_backend


@per_tensor(exact=True, total=2.0**24)
def count(total):
    return dict(total=total + 1, counted=total + 1)


@per_tensor(seen=2.0**24)
def count_in_float32(seen):
    return dict(seen=seen + 1)


@transform(per_tensor=count)
def scale_by_count(g, *, counted):
    return g * (counted - 16777216.0)


@transform(per_tensor=count_in_float32)
def keep(g):
    return g


make = chain(scale_by_count, keep)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_an_exact_count_goes_on_where_float32_stands_still(backend):
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = on_backend(make([p]), backend)
    for _ in range(3):
        p.grad = torch.ones(1)
        optimizer.step()
    assert p.item() == -1 - 2 - 3
    state = optimizer.state[p]
    assert (state["total"].dtype, state["total"].item()) == (torch.float64, 2**24 + 3)
    assert (state["seen"].dtype, state["seen"].item()) == (torch.float32, 2**24)


def test_it_stays_exact_in_the_pure_function_and_when_loaded():
    p, state = torch.zeros(1), functional.init(make, torch.zeros(1))
    for _ in range(3):
        p, state = functional.update(make, p, torch.ones(1), state)
    assert state["total"].item() == 2**24 + 3
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = make([param])
    param.grad = torch.ones(1)
    optimizer.step()
    again = make([param])
    again.load_state_dict(optimizer.state_dict())
    assert (again.state[param]["total"].dtype, again.state[param]["total"].item()) == (
        torch.float64,
        2**24 + 1,
    )
