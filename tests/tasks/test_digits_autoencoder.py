"""The autoencoder: what goes through it, and the best that a linear one can do."""

import pytest
import torch
from sklearn.decomposition import PCA

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load
from fallline.tasks.digits_autoencoder import principal_loss


@pytest.fixture(scope="module")
def task():
    return load("digits-autoencoder")


@pytest.mark.parametrize("code", [2, 8, 20])
def test_the_reference_is_scikit_learns_pca(task, code):
    fitted = PCA(code, svd_solver="full").fit(task.train.double().numpy())
    images = task.valid.double().numpy()
    error = ((fitted.inverse_transform(fitted.transform(images)) - images) ** 2).mean()
    assert load(f"digits-autoencoder(code={code})").reference.value == pytest.approx(error, rel=1e-12)


def test_no_other_linear_code_is_better_on_the_data_it_was_made_for(task):
    x, generator = task.train.double(), torch.Generator().manual_seed(0)
    mean = x.mean(0)
    best = principal_loss(x, x, 8)
    start = torch.linalg.svd(x - mean, full_matrices=False).Vh[:8].T
    for size in (1e-3, 1e-1, 10.0):
        basis = torch.linalg.qr(start + size * torch.randn(64, 8, generator=generator, dtype=x.dtype)).Q
        assert ((x - mean) - (x - mean) @ basis @ basis.T).square().mean() > best
    assert principal_loss(x, x, 64) < 1e-25


def test_everything_goes_through_the_code(task):
    model = task.given({"code": 3, "hidden": 10})[0].new_model()
    jacobian = torch.autograd.functional.jacobian(model, task.valid[0])
    assert torch.linalg.matrix_rank(jacobian, atol=1e-5) <= 3
    assert task.metric_names == []


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("code=65", "code must be 1 to 64 numbers, got 65"),
        ("hidden=0", "hidden must be at least 1, got 0"),
    ],
)
def test_a_code_wider_than_the_image_and_no_units_are_refused(argument, told):
    with pytest.raises(TaskError, match=told):
        load(f"digits-autoencoder({argument})")


def test_a_tuned_optimizer_beats_principal_components(task):
    trial = run_trial(task, Arm("adamw"), Spec("adamw", "tune", 0, 1, {"lr": 0.003}))
    assert trial.valid_loss < 0.7 * task.reference.value
    assert trial.steps_to_target < 0.67 * task.total_steps
