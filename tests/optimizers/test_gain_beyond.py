"""The gains of the optimizers beyond torch's, measured as those of the classic ones are."""

import pytest
import torch

import fallline
from optimizers.test_gain import GRADIENTS, updates_and_gains

#: Optimizers whose gain is the ratio at every step.
EXACT = [
    (fallline.AdaBelief, {}),
    (fallline.Yogi, {}),
    (fallline.Adan, {"betas": (0.9, 0.8, 0.99)}),
    (fallline.NAdamW, {"weight_decay": 0.0}),
    (fallline.AdaBound, {}),
    (fallline.AdaBound, {"gamma": 1.0, "final_lr": 1e-3}),
]
#: Optimizers whose gain is the ratio once all averages have become the gradient.
STATIONARY = [
    (fallline.ADOPT, {"betas": (0.9, 0.9)}),
    (fallline.AdEMAMix, {"betas": (0.9, 0.9, 0.8), "alpha": 3.0, "alpha_warmup": 10, "beta3_warmup": 10}),
]


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("cls", "settings"), EXACT)
def test_the_gain_is_the_ratio_of_update_to_gradient(cls, settings, backend):
    updates, gains = updates_and_gains(cls, settings, backend, 20)
    torch.testing.assert_close(gains, (updates / GRADIENTS).abs(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("cls", "settings"), STATIONARY)
def test_the_gain_is_the_ratio_at_rest(cls, settings, backend):
    updates, gains = updates_and_gains(cls, settings, backend, 300)
    # an average with rate 0.9 lacks 0.9**250 = 4e-12 of its limit
    torch.testing.assert_close(gains[250:], (updates / GRADIENTS).abs()[250:], rtol=1e-10, atol=0)
