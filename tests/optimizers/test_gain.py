"""The gain that each rule declares: the ratio of update to gradient where the gradient stays the same."""

import pytest
import torch

import fallline
from fallline import transform, transforms
from fallline.core.plan import ElementPass
from optimizers.cases import on_backend

GRADIENTS = torch.tensor([3.0, -0.5, 1e-3, -40.0], dtype=torch.float64)

#: Settings that reach every gain; weight decay is left out: it makes the gradient change.
CASES = [
    (fallline.SGD, {"lr": 0.1}),
    (fallline.SGD, {"lr": 0.1, "maximize": True}),
    (fallline.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    (fallline.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (fallline.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    (fallline.RMSprop, {}),
    (fallline.RMSprop, {"momentum": 0.9, "centered": True, "eps": 1e-2, "alpha": 0.5}),
    (fallline.Adadelta, {}),
    (fallline.Adadelta, {"rho": 0.0}),
    (fallline.Adam, {}),
    (fallline.Adam, {"amsgrad": True}),
    (fallline.AdamW, {"weight_decay": 0.0}),
    (fallline.Adamax, {}),
    (fallline.NAdam, {}),
    (fallline.RAdam, {}),
    (fallline.ASGD, {"lr": 0.1, "lambd": 0.0}),
    (fallline.Adam, {"before": [fallline.gradients.clip_by_value(1.0)]}),
    (fallline.SGD, {"lr": 0.1, "before": [fallline.gradients.clip_by_global_norm(1.0)]}),
    (fallline.Adam, {"before": [fallline.gradients.clip_by_norm(1.0)]}),
    (fallline.SGD, {"lr": 0.1, "before": [fallline.gradients.clip_by_quantile(0.5)]}),
    (fallline.SGD, {"lr": 0.1, "before": [transforms.clip_update_by_rms(0.25)]}),
]
IDS = [f"{cls.__name__}-{settings}" for cls, settings in CASES]

#: Whose early steps go less far than the stationary gain tells: the velocity grows first.
GROWING = ("momentum", "nesterov")


@transform()
def put_gain(p, gain):
    return gain


def updates_and_gains(cls, settings, backend, steps):
    """Return the updates of a parameter under constant gradients, and the gains that the plan told."""
    told, walker = (torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(2))
    after = [*settings.get("after", ()), put_gain]
    measuring = on_backend(cls([told], **{**settings, "after": after}), backend)
    walking = on_backend(cls([walker], **settings), backend)
    updates, gains = [], []
    for _ in range(steps):
        walker.data.zero_()
        told.grad, walker.grad = GRADIENTS.clone(), GRADIENTS.clone()
        measuring.step()
        walking.step()
        updates.append(-walker.detach().clone())
        gains.append(told.detach().clone())
    return torch.stack(updates), torch.stack(gains)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_the_gain_is_the_ratio_of_update_to_gradient(cls, settings, backend):
    updates, gains = updates_and_gains(cls, settings, backend, 300)
    ratio = (updates / GRADIENTS).abs()
    stationary = slice(250, None) if any(name in settings for name in GROWING) else slice(None)
    # a velocity of momentum 0.9 lacks 0.9**250 = 4e-12 of its limit; NAdam keeps a product in float32
    tolerance = 1e-6 if cls is fallline.NAdam else 1e-10
    torch.testing.assert_close(gains[stationary], ratio[stationary], rtol=tolerance, atol=0)
    assert (gains > 0).all()


def test_a_gain_that_nobody_reads_is_not_computed():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fallline.SGD([p], lr=0.1, momentum=1.0, foreach=False)
    optimizer.param_groups[0]["fused"] = False
    p.grad = torch.ones(3)
    optimizer.step()  # the stationary gain 1 / (1 - momentum) does not exist
    assert p.tolist() == pytest.approx([0.9] * 3)


def test_the_gain_takes_no_pass_of_its_own():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fallline.Adam([p], after=[fallline.prox.L1(1.0)])
    passes = fallline.core.plan.plan(optimizer.transforms(optimizer.param_groups[0])).passes
    assert len(passes) == 1
    assert isinstance(passes[0], ElementPass)
