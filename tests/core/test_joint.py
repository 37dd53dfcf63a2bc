"""Optimizers stepped as one: each ends, to the bit, as if it had stepped alone."""

from types import MethodType

import pytest
import torch

import fallline
from fallline.core.errors import RuleError
from fallline.core.joint import Joint, joinable
from fallline.gradients.clipping import clip_by_global_norm

SHAPES = (3, 5), (7,), (), (300, 250)  # the last is more than a chunk of the kernel
MAKERS = [
    lambda groups: fallline.AdamW(groups, lr=0.01),
    lambda groups: fallline.AdamW(groups, lr=0.03, betas=(0.5, 0.9), weight_decay=0.3),
    lambda groups: fallline.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    lambda groups: fallline.SGD(groups, lr=0.2),
    lambda groups: fallline.SGD(groups, lr=0.2, maximize=True),
    lambda groups: fallline.Lion(groups, lr=0.01),
    lambda groups: fallline.Adagrad(groups, lr=0.02),
    lambda groups: fallline.ASGD(groups, lr=0.02),
]


def optimizers():
    """Return optimizers of two groups each: in the first one parameter stands still, the second is slower."""
    made = []
    for seed, maker in enumerate(MAKERS):
        torch.manual_seed(seed)
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
        params[1].requires_grad_(False)
        made.append(maker([{"params": params[:2]}, {"params": params[2:], "lr": 0.001}]))
    return made


def params(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def differentiate(made, step):
    for seed, optimizer in enumerate(made):
        torch.manual_seed(1000 * step + seed)
        for p in params(optimizer):
            p.grad = torch.randn_like(p) if p.requires_grad else None


def same(one, other):
    mine, others = one.state_dict(), other.state_dict()
    torch.testing.assert_close(mine, others, rtol=0, atol=0)
    return all(map(torch.equal, params(one), params(other)))


def test_each_ends_as_if_it_had_stepped_alone():
    together, alone = optimizers(), optimizers()
    assert all(map(joinable, together))
    joint = Joint(together)
    for step in range(6):
        for made in (together, alone):
            differentiate(made, step)
            for optimizer in made:
                optimizer.param_groups[0]["lr"] *= 0.9  # as a schedule from outside does
        joint.step()
        for optimizer in alone:
            optimizer.step()
        if step == 3:  # what one does in between by itself is seen
            together[0].step()
            alone[0].step()
    assert all(map(same, together, alone))


def test_a_place_among_others_changes_no_bit():
    forward, backward = optimizers(), optimizers()
    for made, joint in ((forward, Joint(forward)), (backward, Joint(backward[:1:-1]))):
        for step in range(3):
            differentiate(made, step)
            joint.step()
    assert all(map(same, forward[2:], backward[2:]))


def test_if_one_cannot_step_none_has():
    together, before = optimizers(), optimizers()
    joint = Joint(together)
    for made in (together, before):
        differentiate(made, 0)
    joint.step()
    for optimizer in before:
        optimizer.step()
    differentiate(together, 1)
    p = params(together[0])[0]
    together[0].state[p]["exp_avg"] = torch.zeros(4)
    with pytest.raises(RuntimeError, match="exp_avg has shape"):
        joint.step()
    assert all(map(same, together[1:], before[1:]))


class Unlisted(fallline.SGD):
    """Has a rule that reads what is none of its hyperparameters."""

    hyperparameters = ()


def test_state_that_was_made_for_a_step_that_none_makes_is_taken_back():
    together = [*optimizers(), Unlisted([torch.nn.Parameter(torch.ones(3))], lr=0.1)]
    before = [optimizer.state_dict() for optimizer in together]  # Adagrad's begins with some
    differentiate(together, 0)
    with pytest.raises(RuleError, match="none of its hyperparameters"):
        Joint(together).step()
    torch.testing.assert_close([each.state_dict() for each in together], before, rtol=0, atol=0)


def test_gradients_are_sparse_or_dense_as_each_optimizer_takes_them():
    def made():
        weights = [torch.nn.Parameter(torch.ones(4, 2)) for _ in range(3)]
        for p in weights[:2]:
            p.grad = torch.sparse_coo_tensor([[1, 3]], torch.ones(2, 2), (4, 2), check_invariants=True)
        weights[2].grad = torch.ones(4, 2)
        dense = fallline.AdamW(weights[2:], lr=0.1)
        return [fallline.SparseAdam(weights[:1], lr=0.1), fallline.SGD(weights[1:2], lr=0.1), dense]

    together, alone = made(), made()
    Joint(together).step()
    for optimizer in alone:
        optimizer.step()
    assert all(map(same, together, alone))
    params(together[0])[0].grad = torch.ones(4, 2)
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        Joint(together).step()
    params(together[2])[0].grad = params(together[1])[0].grad
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        Joint(together[1:]).step()
    assert all(map(same, together, alone))


def one(**options):
    return fallline.AdamW([torch.nn.Parameter(torch.ones(2))], **options)


def hooked():
    optimizer = one()
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def with_a_step_of_its_own():
    optimizer = one()
    optimizer.step = MethodType(lambda self, closure=None: None, optimizer)
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda: one(before=(clip_by_global_norm(1.0),)),
        lambda: one(lr=fallline.schedules.cosine(10)),
        lambda: one(precision=fallline.Precision(state="bf16")),
        lambda: fallline.Lookahead(one()),
        lambda: fallline.LAMB([torch.nn.Parameter(torch.ones(2))]),
        lambda: fallline.Muon([torch.nn.Parameter(torch.ones(2, 2))]),
        lambda: torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]),
        lambda: one(foreach=False, fused=False),
        hooked,
        with_a_step_of_its_own,
    ],
    ids=["sum", "schedule", "precision", "wrapper", "trust ratio", "whole", "torch", "eager", "hook", "own"],
)
def test_what_does_more_than_each_element_by_itself_is_not_joined(make):
    assert not joinable(make())
