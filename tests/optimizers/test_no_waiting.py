"""Rules on whole tensors, sums and functions of lines look at no value: a GPU's program would wait for it."""

import pytest
import torch
from torch import nn

import fallline
from fallline.optimizers.psgd_kron import balanced, fitted

#: Settings with which no step but the first finds matrices' bases or fits factors anew.
RULES = [
    (fallline.Muon, {}),
    (fallline.Muon, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
    (fallline.NorMuon, {}),
    (fallline.SOAP, {"precondition_frequency": 2}),
    (fallline.Shampoo, {"precondition_frequency": 2, "block_size": 3}),
    (fallline.PSGDKron, {"preconditioner_update_probability": 0.01}),
    (fallline.Adafactor, {}),
    (fallline.CAME, {}),
    (fallline.LAMB, {}),
]
SHAPES = [(4, 6), (6, 4), (4, 6), (5,), (4, 3, 2)]


@pytest.mark.parametrize(("rule", "settings"), RULES, ids=str)
def test_tensors_without_values_are_stepped(rule, settings):
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    optimizer = rule(params, **settings)
    for _ in range(4):
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer.step()
    assert {x.device.type for s in optimizer.state.values() for x in s.values() if x.dim()} == {"meta"}


def test_factors_are_fitted_and_balanced_without_a_look():
    x = torch.empty(2, 4, 6, device="meta")
    factors = torch.empty(2, 4, 4, device="meta"), torch.empty(2, 6, device="meta")
    rows, columns = balanced(fitted(x, torch.empty(4, 6, device="meta"), factors, 0.1))
    assert rows.shape == (2, 4, 4)
    assert columns is not None
    assert columns.shape == (2, 6)
