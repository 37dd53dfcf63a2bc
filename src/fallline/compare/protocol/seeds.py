"""The seeds of studies and trainings: functions of the comparison's seed alone."""

from hashlib import blake2b

from fallline.compare.records import Stage


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
