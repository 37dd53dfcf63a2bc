"""Theorems and published numbers that the classic optimizers must reproduce."""

import numpy as np
import pytest
import torch
from torch import nn

import fallline

L, MU = 100.0, 1.0
KAPPA = L / MU


def _spectral_radius(**settings):
    """Return the contraction on quadratics with curvature from MU to L: the step is a linear map."""
    curvature = torch.linspace(MU, L, 400, dtype=torch.float64)
    columns = []
    for position, velocity in ((1.0, 0.0), (0.0, 1.0)):
        p = nn.Parameter(torch.full_like(curvature, position))
        optimizer = fallline.SGD([p], **settings)
        optimizer.state[p]["momentum_buffer"] = torch.full_like(curvature, velocity)
        p.grad = curvature * p.detach()
        optimizer.step()
        columns.append(torch.stack([p.detach(), optimizer.state[p]["momentum_buffer"]], dim=-1))
    maps = torch.stack(columns, dim=-1)
    return torch.linalg.eigvals(maps).abs().max().item()


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"lr": 1 / L}, 0.99),
        ({"lr": 2 / (L + MU)}, 0.980198),
        (
            {"lr": 4 / (L**0.5 + MU**0.5) ** 2, "momentum": ((KAPPA**0.5 - 1) / (KAPPA**0.5 + 1)) ** 2},
            0.818182,
        ),
        ({"lr": 1 / L, "momentum": (KAPPA**0.5 - 1) / (KAPPA**0.5 + 1), "nesterov": True}, 0.9),
        (
            {
                "lr": 4 / (3 * L + MU),
                "momentum": ((3 * KAPPA + 1) ** 0.5 - 2) / ((3 * KAPPA + 1) ** 0.5 + 2),
                "nesterov": True,
            },
            0.884722,
        ),
    ],
    ids=["GD 1/L", "GD 2/(L+mu)", "heavy ball", "Nesterov 1/L", "Nesterov tuned"],
)
def test_contraction_on_a_quadratic(settings, rate):
    """Nesterov 2018, Introductory Lectures; Lessard, Recht and Packard 2016, table 1."""
    momentum = settings.get("momentum", 0.0)
    if momentum == 0.0:
        p = nn.Parameter(torch.ones(400, dtype=torch.float64))
        curvature = torch.linspace(MU, L, 400, dtype=torch.float64)
        p.grad = curvature.clone()
        fallline.SGD([p], **settings).step()
        assert p.detach().abs().max().item() == pytest.approx(rate, abs=5e-7)
    else:
        # at a double root rounding in the map moves the eigenvalue by its square root, 1e-8
        assert _spectral_radius(**settings) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize(("amsgrad", "end"), [(False, 1.0), (True, -1.0)])
def test_adam_goes_up_where_amsgrad_goes_down(amsgrad, end):
    """Reddi et al. 2018, section 3: f_t = 3x if t mod 3 = 1 else -x, best at -1."""
    p = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = fallline.Adam([p], lr=0.5, betas=(0.0, 0.1), amsgrad=amsgrad)
    for t in range(1, 6001):
        optimizer.param_groups[0]["lr"] = 0.5 / t**0.5
        p.grad = torch.tensor(3.0 if t % 3 == 1 else -1.0, dtype=torch.float64)
        optimizer.step()
        p.data.clamp_(-1, 1)
    assert p.item() == pytest.approx(end, abs=0.02)


def test_a_momentum_that_rounds_to_zero_is_sgd_exactly():
    ends = []
    for settings in ({}, {"momentum": 1e-300}):
        p = nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = fallline.SGD([p], lr=0.1, **settings)
        for t in range(5):
            p.grad = torch.cos(p.detach() + t)
            optimizer.step()
        ends.append(p.detach().clone())
    assert torch.equal(*ends)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(
    ("optimizer", "peer", "loss"),
    [
        (
            lambda p: fallline.SGD(p, lr=0.2),
            {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.2},
            0.243802,
        ),
        (
            lambda p: fallline.SGD(p, lr=0.2, momentum=0.9),
            {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False, "learning_rate_init": 0.2},
            0.041297,
        ),
        (
            lambda p: fallline.SGD(p, lr=0.2, momentum=0.9, nesterov=True),
            {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": True, "learning_rate_init": 0.2},
            0.042898,
        ),
        (lambda p: fallline.Adam(p, lr=0.01), {"solver": "adam", "learning_rate_init": 0.01}, 0.045934),
    ],
    ids=["sgd", "momentum", "nesterov", "adam"],
)
def test_scikit_learns_published_losses_on_digits(optimizer, peer, loss):
    """scikit-learn's example plot_mlp_training_curves: its weights, batches and penalty, our optimizer."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import MinMaxScaler

    x, y = load_digits(return_X_y=True)
    x = MinMaxScaler().fit_transform(x)
    theirs = MLPClassifier(random_state=0, max_iter=15, **peer).fit(x, y)
    assert theirs.loss_ == pytest.approx(loss, abs=5e-7)
    assert _train_like_scikit_learn(optimizer, x, y) == pytest.approx(loss, abs=5e-7)


def _train_like_scikit_learn(make, x, y, epochs=15, batch=200, alpha=1e-4):
    from sklearn.utils import shuffle

    rng = np.random.RandomState(0)
    layers = []
    for fan_in, fan_out in ((64, 100), (100, 10)):
        bound = (6 / (fan_in + fan_out)) ** 0.5
        layers.append([rng.uniform(-bound, bound, (fan_in, fan_out)), rng.uniform(-bound, bound, fan_out)])
    params = [nn.Parameter(torch.tensor(value)) for layer in layers for value in layer]
    optimizer = make(params)
    inputs, labels, order = torch.tensor(x), torch.tensor(y), np.arange(len(x))
    step = 0
    for _ in range(epochs):
        order = shuffle(order, random_state=rng)
        total = 0.0
        for i in range(0, len(x), batch):
            chosen = torch.tensor(order[i : i + batch])
            hidden = torch.relu(inputs[chosen] @ params[0] + params[1])
            loss = nn.functional.cross_entropy(hidden @ params[2] + params[3], labels[chosen])
            penalty = alpha / 2 * sum((w * w).sum() for w in (params[0], params[2])) / len(chosen)
            optimizer.zero_grad()
            (loss + penalty).backward()
            step += 1
            if "eps" in optimizer.defaults:  # scikit-learn adds epsilon before it corrects the bias
                optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**step) ** 0.5
            optimizer.step()
            total += (loss + penalty).item() * len(chosen)
    return total / len(x)
