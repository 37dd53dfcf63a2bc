"""Noise on gradients, annealed."""

import torch

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.space import Range
from fallline.core.transform import transform

NOISE_VARIANCE = Hyperparameter(
    "noise_variance", 0.01, "variance of the noise at the first step", "η", "squared gradient units", low=0,
    search=Range(1e-3, 1.0, "log"),
)  # fmt: skip
NOISE_DECAY = Hyperparameter(
    "noise_decay", 0.55, "power of the step by which the variance falls", "γ", "", low=0
)
NOISE_SEED = Hyperparameter("noise_seed", 0, "seed of the noise", "", "", low=0, high=2**32 - 1)

#: Odd numbers that spread the bits of seed, step and place over 64 bits (Steele et al. 2014, SplitMix64).
_SEED, _STEP, _PLACE = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@transform(whole=True, gain=1.0, hyperparameters=(NOISE_VARIANCE, NOISE_DECAY, NOISE_SEED))
def add_noise(g, *, noise_variance=0.01, noise_decay=0.55, noise_seed=0, step, place):
    r"""Add normal noise whose variance falls with the step.

    .. math:: g \leftarrow g + \mathcal N\left(0,\; \frac{\eta}{(1 + t)^\gamma}\right), \qquad t = 0, 1, \dots

    ``noise_variance`` is :math:`\eta \ge 0`, in squared gradient units, ``noise_decay`` :math:`\gamma \ge 0`
    and ``noise_seed`` a whole number below 2^32. The noise is a function of seed, step and the parameter's
    place among all parameters: it does not depend on threads, devices, other random numbers or when training
    was stopped and resumed.

    Source: Neelakantan et al. 2015, https://arxiv.org/abs/1511.06807.
    """
    generator = torch.Generator().manual_seed(_mixed(int(noise_seed), int(step), int(place)))
    noise = torch.randn(g.shape, generator=generator, dtype=g.dtype).to(g.device)
    return g + noise * (noise_variance / step**noise_decay) ** 0.5


def _mixed(seed: int, step: int, place: int) -> int:
    """Return 64 bits of which about half change when any argument does (SplitMix64's finish)."""
    bits = (seed * _SEED + step * _STEP + place * _PLACE) % 2**64
    bits = (bits ^ bits >> 30) * _STEP % 2**64
    bits = (bits ^ bits >> 27) * _PLACE % 2**64
    return bits ^ bits >> 31
