"""What to try: seeds and configurations, both a function of the comparison's seed alone."""

from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch.quasirandom import SobolEngine

from fallline.compare.records import Stage
from fallline.core.hyperparameter import Range


def training_seed(seed: int, stage: Stage, repeat: int) -> int:
    """Return the seed of one training: equal for all optimizers, so that their results are paired.

    Seeds of the final stage are odd and those of tuning even, so no training is ever judged on a seed
    that it was tuned on.
    """
    digest = blake2b(f"{seed}/{stage}/{repeat}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) // 2 * 2 + (stage == "final")


def configurations(space: Mapping[str, Range], count: int, seed: int) -> list[dict[str, float]]:
    """Return ``count`` settings spread evenly over ``space``: a scrambled Sobol sequence.

    The engine is torch's own: Optuna's and scipy's samplers draw the same sequence but cost another import.
    The first dimension, the learning rate's, takes the same fractions for every optimizer.
    """
    if not space:
        return [{} for _ in range(count)]
    points = SobolEngine(len(space), scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return [
        {name: bounds.at(fraction) for (name, bounds), fraction in zip(space.items(), point, strict=True)}
        for point in points.tolist()
    ]
