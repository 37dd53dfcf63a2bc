"""Settings that are no numbers, or not as many as there must be, are refused with what is wanted."""

import pytest
import torch

import fallline


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (
            lambda p: fallline.SGD(p, lr="0.1"),
            TypeError,
            "Invalid learning rate: '0.1'; lr must be a number in",
        ),
        (
            lambda p: fallline.SGD(p, lr=None),
            TypeError,
            "Invalid learning rate: None; lr must be a number in",
        ),
        (
            lambda p: fallline.EMA(fallline.SGD(p), decay=fallline.schedules.constant(0.5)),
            TypeError,
            "decay must be a number in [0, 1]",
        ),
        (lambda p: fallline.SGD(p, lr=float("inf")), ValueError, "lr must lie in [0, inf)"),
        (lambda p: fallline.Adam(p, betas=0.9), TypeError, "0.9; give 2 numbers, such as (0.9, 0.999)"),
        (lambda p: fallline.Adam(p, betas=(0.9,)), IndexError, "(0.9,); give 2 numbers"),
        (lambda p: fallline.Adam(p, betas=(0.9, 0.99, 0.999)), ValueError, "give 2 numbers"),
    ],
)
def test_what_is_no_number_is_refused_with_what_is_wanted(make, kind, said):
    with pytest.raises(kind) as refused:
        make([torch.nn.Parameter(torch.ones(1))])
    assert said in str(refused.value)


def test_rules_may_have_another_name_for_a_setting():
    record = fallline.Hyperparameter("momentum", 0.9, "how near", read_as="beta1")
    assert record.readers == {"beta1": ("momentum", None)}
