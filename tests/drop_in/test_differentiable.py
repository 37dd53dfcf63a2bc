"""With ``differentiable=True`` gradients flow through steps to parameters, gradients and hyperparameters."""

import pytest
import torch
from torch.autograd import gradcheck

from drop_in.pairs import each_adam, each_pair, having, noise

STEPS = 3


#: How wide differences are taken. torch keeps ASGD's rate in float32; narrow ones would see its rounding.
WIDTHS = {"ASGD": 1e-3}


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def unrolled(cls, start, grads, settings):
    """Return the parameter after a step with each of ``grads``, as a function of everything given."""
    param = start.clone()
    optimizer = cls([param], **settings, differentiable=True)
    for grad in grads:
        param.grad = grad
        optimizer.step()
    return param


def inputs():
    start = noise((4,), torch.float64, 0).requires_grad_()
    grads = [noise((4,), torch.float64, seed).requires_grad_() for seed in range(1, STEPS + 1)]
    return start, grads


@each_pair
def test_gradients_reach_parameters_and_gradients(pair):
    start, grads = inputs()
    settings = {key: value for key, value in pair.rich.items() if key != "amsgrad"}
    assert gradcheck(lambda p, *g: unrolled(pair.ours, p, [x * 1 for x in g], settings), (start, *grads))


@each_pair
def test_gradients_reach_the_learning_rate(pair):
    """torch gives them for SGD, Adam, AdamW and RAdam only."""
    start, grads = inputs()
    settings = {key: value for key, value in pair.rich.items() if key != "lr"}

    def final(lr):
        return unrolled(pair.ours, start.detach(), [g.detach() for g in grads], {**settings, "lr": lr})

    lr = tensor(0.1)
    assert final(lr).requires_grad
    assert gradcheck(final, (lr,), eps=WIDTHS.get(str(pair), 1e-6))


@each_adam
def test_gradients_reach_the_betas_where_torch_takes_tensors(pair):
    start, grads = inputs()

    def final(beta1, beta2):
        betas = (beta1, beta2)
        return unrolled(pair.ours, start.detach(), [g.detach() for g in grads], {"lr": 0.1, "betas": betas})

    betas = tensor(0.8), tensor(0.9)
    assert gradcheck(final, betas)


@having("dampening")
def test_gradients_reach_the_weight_decay_where_torch_takes_a_tensor(pair):
    start, grads = inputs()

    def final(decay):
        settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": decay}
        return unrolled(pair.ours, start.detach(), [g.detach() for g in grads], settings)

    assert gradcheck(final, (tensor(0.2),))


@each_pair
def test_hypergradient_through_a_training(pair):
    """d loss / d lr of three steps on a quadratic, against central differences."""
    target = noise((5,), torch.float64, 9)

    def loss_after(lr):
        param = torch.zeros(5, dtype=torch.float64, requires_grad=True) * 1
        optimizer = pair.ours([param], lr=lr, differentiable=True)
        for _ in range(STEPS):
            loss = (param - target).square().sum()
            param.grad = torch.autograd.grad(loss, param, create_graph=True)[0]
            optimizer.step()
        return (param - target).square().sum()

    lr, h = tensor(0.05), WIDTHS.get(str(pair), 1e-6)
    (slope,) = torch.autograd.grad(loss_after(lr), lr)
    difference = (loss_after(lr.detach() + h) - loss_after(lr.detach() - h)) / (2 * h)
    # Central differences err by h^2 f''' and by 1e-16 f / h, both about 1e-9 here; the wide ones by 1e-5.
    assert slope.item() == pytest.approx(difference.item(), rel=max(1e-6, h / 10), abs=1e-7)


@each_pair
def test_a_leaf_that_requires_grad_is_refused_as_by_torch(pair):
    for cls in (pair.theirs, pair.ours):
        param = torch.ones(3, requires_grad=True)
        optimizer = cls([param], differentiable=True)
        param.grad = torch.ones(3)
        with pytest.raises(RuntimeError, match="leaf"):
            optimizer.step()
