"""What only FTRL-Proximal promises: it is Adagrad without penalties, and a leader with them."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import fallline
from optimizers.cases import on_backend, run

GENERATOR = torch.Generator().manual_seed(9)
START = torch.randn(11, generator=GENERATOR, dtype=torch.float64)
GRADS = torch.randn(20, 11, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_without_penalties_it_is_adagrad(backend):
    """McMahan et al. 2013, section 3: with lambda1 = lambda2 = 0 it is online gradient descent."""
    ftrl, _ = run(fallline.FTRL, {"lr": 0.3, "beta": 0.7}, START, GRADS, backend)
    adagrad, _ = run(fallline.Adagrad, {"lr": 0.3, "eps": 0.7}, START, GRADS, backend)
    torch.testing.assert_close(ftrl, adagrad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("lambda_1", "lambda_2"), [(0.8, 0.0), (0.0, 0.5), (0.8, 0.5)])
def test_it_minimises_what_it_says(lambda_1, lambda_2):
    """Equation 1 of the paper: the sum of g_s w + sigma_s (w - w_s)^2 / 2, and the penalties, by scipy."""
    lr, beta = 0.3, 0.7
    course, _ = run(
        fallline.FTRL,
        {"lr": lr, "beta": beta, "lambda_1": lambda_1, "lambda_2": lambda_2},
        START,
        GRADS,
        "cpu",
    )
    places = np.concatenate([START.numpy()[None], course.numpy()])
    roots = np.sqrt(np.cumsum(GRADS.numpy() ** 2, axis=0))
    sigmas = np.diff(roots, axis=0, prepend=0) / lr
    sigmas[0] += beta / lr
    t = len(GRADS)
    for i in range(len(START)):

        def objective(w, i=i):
            bowls = sigmas[:, i] / 2 * (w - places[:t, i]) ** 2
            return GRADS[:, i].sum().item() * w + bowls.sum() + lambda_1 * abs(w) + lambda_2 / 2 * w * w

        best = minimize_scalar(objective, bounds=(-9, 9), method="bounded", options={"xatol": 1e-10})
        assert places[t, i] == pytest.approx(best.x, abs=1e-6)


def test_small_sums_of_gradients_leave_exact_zeros():
    course, _ = run(fallline.FTRL, {"lambda_1": 5.0}, torch.zeros(11, dtype=torch.float64), GRADS, "cpu")
    assert (course == 0).any()
    assert (course[0] == 0).all()
    free, _ = run(fallline.FTRL, {}, torch.zeros(11, dtype=torch.float64), GRADS, "cpu")
    assert (free != 0).all()


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_a_tensor_whose_first_gradient_comes_later_begins_where_it_is(backend):
    """Beside one that has begun in its group; nothing counts steps, so newness alone tells them apart."""
    params = [torch.nn.Parameter(START.clone()) for _ in range(3)]
    optimizer = on_backend(fallline.FTRL(params), backend)
    for step in range(3):
        params[0].grad, params[2].grad = GRADS[step].clone(), GRADS[step].clone()
        params[1].grad = GRADS[step - 1].clone() if step else None
        optimizer.step()
    alone, _ = run(fallline.FTRL, {}, START, GRADS[:2], backend)
    assert torch.equal(params[1].detach(), alone[-1])
    assert torch.equal(params[0], params[2])


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_an_element_that_nothing_holds_and_nothing_pulls_is_zero(backend):
    """With beta and gradients of 0 all weights are as good: a number, not 0 / 0."""
    grads = torch.tensor([[0.0, 1.0], [0.0, -0.5], [2.0, 0.0]], dtype=torch.float64)
    course, _ = run(
        fallline.FTRL, {"lr": 0.5, "beta": 0.0}, torch.zeros(2, dtype=torch.float64), grads, backend
    )
    assert course[:, 0].tolist() == [0.0, 0.0, -0.5]
    assert course[0, 1].item() == -0.5


def test_a_learning_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match="Invalid learning rate: 0"):
        fallline.FTRL([torch.nn.Parameter(torch.ones(1))], lr=0)
