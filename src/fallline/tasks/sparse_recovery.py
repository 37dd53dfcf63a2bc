"""Sparse recovery: few of many coefficients are not zero; which ones?"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fallline.tasks.data import Batch
from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: Samples that a model is judged by, and the seed of all data.
VALID_SAMPLES, DATA_SEED = 1000, 0
#: The size of the coefficients that are not zero: strengths of 0.0004 to 0.01 then find them.
PLANTED = 0.1


def make_task(features: int = 200, samples: int = 120, support: int = 8, noise: float = 0.001) -> Task:
    r"""Return the task of finding the few coefficients of a linear model that are not zero.

    .. math:: y = A w^* + \sigma e, \qquad L(w) = \frac{1}{2n} \lVert A w - y \rVert^2

    :math:`A` and :math:`e` are standard normal numbers; :math:`w^*` is 0.1 or -0.1 on the planted
    support, else 0. The loss is the data's alone. A penalty :math:`\lambda \lVert w \rVert_1` is the
    optimizer's: ``proximal-sgd`` with ``strength``, whose :math:`\lambda` is ``alpha`` of scikit-learn's
    ``Lasso`` (there, too, the squares are divided by :math:`2n`). A step sees all samples, unless
    ``batch_size`` says otherwise.

    The validation loss is that of least squares on the support that the model has, its weights that are not
    exactly 0, if they are fewer than the samples; otherwise that of the weights as they are, which is also
    the metric "data loss". So the lowest one belongs to the right support: the penalty whose own weights
    predict best keeps too many of them (Meinshausen and Bühlmann 2006).

    Arguments:
        features: the number of coefficients :math:`p`.
        samples: the number of samples :math:`n`; the lasso finds the support where there are more than about
            :math:`2 k \log(p - k) + k + 1`, 93 for the defaults.
        support: how many coefficients :math:`k` are not zero; fewer than samples.
        noise: :math:`\sigma \ge 0`; the penalty's strength has to be above about
            :math:`\sigma \sqrt{2 \log(p) / n}`.

    Raises:
        TaskError: an argument out of its range.

    Example:
        >>> task = make_task()
        >>> task.metric_names
        ['exact support', 'support F1', 'zeros', 'data loss']
        >>> task.evaluated(task.new_model(), task.valid)[1]["zeros"]
        1.0

    Source: Wainwright 2009 (when the lasso finds the support); Belloni and Chernozhukov 2013 (least squares
    after it).
    """
    _check(features, samples, support, noise)
    inputs, targets, planted = _data(features, samples + VALID_SAMPLES, support, noise)
    train, valid = ((inputs[part], targets[part]) for part in (slice(samples), slice(samples, None)))
    oracle = half_mean_square(valid[0] @ refitted(planted, *train), valid[1])
    return Task(
        name="sparse-recovery",
        model=partial(linear, features),
        train=train,
        valid=valid,
        loss=half_mean_square,
        evaluation=Recovery(planted != 0, *train).judged,
        metrics=("exact support", "support F1", "zeros", "data loss"),
        batch_size=samples,
        max_steps=1000,
        precision="float64",
        target="exact support >= 1",
        reference=Reference(oracle.item(), "least squares on the planted support"),
    )


def linear(features: int) -> nn.Module:
    """Return a linear model without bias, all of whose weights are 0.

    >>> linear(3).weight.tolist()
    [[0.0, 0.0, 0.0]]
    """
    model = nn.Linear(features, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def half_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return half of the mean of the squared errors."""
    return (outputs.flatten() - targets).square().mean() / 2


def refitted(weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the coefficients of least squares on the weights that are not 0, if samples determine them.

    >>> refitted(torch.tensor([0.5, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 3.0]))
    tensor([2., 0.])
    """
    kept = weights != 0
    if not 0 < kept.sum() < len(targets):
        return weights
    fitted = torch.zeros_like(weights)
    fitted[kept] = torch.linalg.lstsq(inputs[:, kept], targets[:, None]).solution.squeeze(1)
    return fitted


@dataclass(frozen=True)
class Recovery:
    """What was planted, and the samples it is looked for in.

    Args:
        planted: for each coefficient, whether it is not zero.
        inputs: the training samples.
        targets: the training targets.
    """

    planted: Tensor
    inputs: Tensor
    targets: Tensor

    def judged(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss after least squares on the model's support, and how good the support is."""
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        weights = next(model.parameters())[0]
        kept = weights != 0
        both = (kept & self.planted).sum().item()
        return half_mean_square(inputs @ refitted(weights, self.inputs, self.targets), targets), {
            "exact support": torch.equal(kept, self.planted),
            "support F1": 2 * both / (kept.sum().item() + self.planted.sum().item()),
            "zeros": 1 - kept.double().mean(),
            "data loss": half_mean_square(inputs @ weights, targets),
        }


def _data(features: int, samples: int, support: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets and the planted coefficients."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    inputs = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    planted = torch.zeros(features, dtype=torch.float64)
    places = torch.randperm(features, generator=generator)[:support]
    planted[places] = PLANTED * (2.0 * torch.randint(2, (support,), generator=generator).double() - 1)
    errors = torch.randn(samples, generator=generator, dtype=torch.float64)
    return inputs, inputs @ planted + noise * errors, planted


def _check(features: Any, samples: Any, support: Any, noise: Any) -> None:
    for name, value in (("features", features), ("samples", samples), ("support", support)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TaskError(f"{name} must be a whole number, at least 1; got {value!r}")
    if support > features or support >= samples:
        raise TaskError(
            f"support must be at most the {features} features and below the {samples} samples; got {support}"
        )
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < float("inf"):
        raise TaskError(f"noise must be a finite number, at least 0 (none); got {noise!r}")
