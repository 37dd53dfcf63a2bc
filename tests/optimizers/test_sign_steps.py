"""What only optimizers promise that step with a sign: Lion, SignSGD, Signum."""

import pytest
import torch

import fallline
from optimizers.cases import run

GENERATOR = torch.Generator().manual_seed(5)
START = torch.randn(23, generator=GENERATOR, dtype=torch.float64)
GRADS = torch.randn(12, 23, generator=GENERATOR, dtype=torch.float64)


def test_lion_with_equal_betas_is_signum():
    """Chen et al. 2023, section 3.2: Lion with one beta is the sign of momentum."""
    lion, one = run(fallline.Lion, {"lr": 0.1, "betas": (0.7, 0.7)}, START, GRADS, "cpu")
    signum, two = run(fallline.Signum, {"lr": 0.1, "momentum": 0.7}, START, GRADS, "cpu")
    assert torch.equal(lion, signum)
    (a,), (b,) = one.state.values(), two.state.values()
    assert torch.equal(a["exp_avg"], b["momentum_buffer"])


def test_signum_without_momentum_is_signsgd():
    signum, _ = run(fallline.Signum, {"lr": 0.1, "momentum": 0.0}, START, GRADS, "cpu")
    assert torch.equal(signum, run(fallline.SignSGD, {"lr": 0.1}, START, GRADS, "cpu")[0])
    torch.testing.assert_close(signum[-1], START - 0.1 * GRADS.sign().sum(0), rtol=1e-14, atol=1e-14)


def test_lion_steps_with_one_beta_and_remembers_with_the_other():
    """By hand, beta1 1/2 and beta2 3/4: m1 = 1, c2 = 1/2 - 1 < 0 though m2 = 3/4 - 1/2 > 0."""
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = fallline.Lion([p], lr=1.0, betas=(0.5, 0.75))
    for g, at, average in ((4.0, 1.0, 1.0), (-2.0, 2.0, 0.25), (0.0, 1.0, 0.1875)):
        p.grad = torch.tensor([g])
        optimizer.step()
        assert (p.item(), optimizer.state[p]["exp_avg"].item()) == (at, average)


@pytest.mark.parametrize("cls", [fallline.Lion, fallline.Signum])
def test_decay_bounds_the_weights_by_its_inverse(cls):
    """Chen et al. 2024, https://arxiv.org/abs/2310.05898: Lion keeps weights within 1 / weight_decay."""
    p = torch.nn.Parameter(torch.tensor([5.0, -0.1], dtype=torch.float64))
    optimizer = cls([p], lr=0.1, weight_decay=2.0)
    for _ in range(200):
        p.grad = torch.tensor([-3.0, 1e-3], dtype=torch.float64)
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.5, -0.5], dtype=torch.float64))


@pytest.mark.parametrize("cls", [fallline.Lion, fallline.SignSGD, fallline.Signum])
def test_a_proximal_operator_refuses_to_follow_a_sign(cls):
    with pytest.raises(fallline.core.errors.RuleError, match="needs to know how far a step goes"):
        cls([torch.nn.Parameter(torch.ones(2))], after=[fallline.prox.L1(0.1)])
