"""Cross-validation: which samples are trained on, chosen by and judged by in each study."""

from typing import Any

import torch
from torch import Tensor

from fallline.tasks.data import Data, in_memory, inputs_and_targets, sample_count

SEED = 0


def parts(data: Data, cv: int, study: int) -> tuple[list[int], list[int], list[int]]:
    """Return the samples to train on, to choose settings by, and to judge by: nested cross-validation.

    Samples with integer classes are divided by class where each class has at least ``cv`` samples.
    """
    folds = _folds(data, cv)
    test, valid = study % cv, (study + 1) % cv
    train = [index for number, fold in enumerate(folds) if number not in (test, valid) for index in fold]
    return sorted(train), folds[valid], folds[test]


def _folds(data: Data, cv: int) -> list[list[int]]:
    # sklearn takes a second to import, and only cross-validation needs it.
    from sklearn.model_selection import KFold, StratifiedKFold

    samples, classes = torch.arange(sample_count(data) or 0).numpy(), _classes(data)
    stratified = classes is not None and int(classes.unique(return_counts=True)[1].min()) >= cv
    kind = StratifiedKFold if stratified else KFold
    split = kind(cv, shuffle=True, random_state=SEED).split(samples, classes if stratified else None)
    return [fold.tolist() for _, fold in split]


def _classes(data: Any) -> Tensor | None:
    """Return the class of each sample, if there are any, known without reading all samples."""
    if in_memory(data):
        targets = inputs_and_targets(data)[1]
    else:
        targets = getattr(data, "targets", None)  # as torchvision's datasets have them
        targets = torch.as_tensor(targets) if isinstance(targets, (list, Tensor)) else None
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
        return None
    return targets
