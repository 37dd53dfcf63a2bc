"""What to try: seeds and configurations, both a function of the comparison's seed alone."""

from hashlib import blake2b
from typing import Any

import torch
from torch.quasirandom import SobolEngine

from fallline.compare.records import Stage
from fallline.core.space import Space, point


def study_seed(seed: int, study: int) -> int:
    """Return what the seeds and configurations of one study are derived from: of the first, ``seed``."""
    if study == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/study {study}".encode(), digest_size=7).digest())


def training_seed(seed: int, stage: Stage, repeat: int) -> int:
    """Return the seed of one training: equal for all optimizers, so that their results are paired.

    Seeds of the final stage are odd and those of tuning even, so no training is ever judged on a seed
    that it was tuned on.
    """
    digest = blake2b(f"{seed}/{stage}/{repeat}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) // 2 * 2 + (stage == "final")


def configurations(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Return ``count`` settings spread evenly over ``space``: a scrambled Sobol sequence.

    The engine is torch's own: Optuna's and scipy's samplers draw the same sequence but cost another import.
    The first dimension, the learning rate's, takes the same fractions for every optimizer.
    """
    if not space:
        return [{} for _ in range(count)]
    points = SobolEngine(len(space), scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return [point(space, fractions) for fractions in points.tolist()]
