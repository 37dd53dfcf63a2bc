"""What to try next: the settings of a trial, from its number and what the trials before it came to."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from math import inf, isfinite
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.quasirandom import SobolEngine

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Trial
from fallline.compare.search.distributions import inside, parameters, quiet, suggested
from fallline.core.space import Space, point
from fallline.tasks.threads import one_thread

if TYPE_CHECKING:  # Optuna takes 0.3 s to import
    from optuna import Study
    from optuna.samplers import BaseSampler

#: Trials spread evenly before there is something to learn from.
STARTUP = 8
#: Points of a sequence that are drawn at least; more are drawn by doubling.
FEWEST_POINTS = 64


class Sampler(Protocol):
    """Chooses settings; `ask` is a pure function of its arguments, in any process.

    ``adaptive`` says whether it looks at the trials that were tried.
    """

    @property
    def adaptive(self) -> bool: ...

    def ask(self, space: Space, index: int, tried: Sequence[Trial], seed: int) -> dict[str, Any]:
        """Return the settings of trial number ``index`` of a study.

        Args:
            space: what is searched.
            index: the number of the trial in its study, from 0.
            tried: those trials of the study that have finished and may be learnt from; the others up
                to ``index`` are taken to be running.
            seed: of the study.
        """
        ...


def sampler(name: str) -> Sampler:
    """Return a sampler by its name.

    ``"sobol"`` (Sobol 1967, scrambled as by Owen 1998) and ``"halton"`` (Halton 1960) spread trials evenly,
    ``"random"`` draws them independently (Bergstra and Bengio 2012). The others learn from trials that have
    finished: ``"tpe"`` (tree-structured Parzen estimator, Bergstra et al. 2011), ``"gp"`` (a Gaussian
    process with expected improvement, Jones et al. 1998; it takes some tenths of a second) and
    ``"cmaes"`` (Hansen 2016), all by Optuna.

    Args:
        name: one of the names above.

    Raises:
        ComparisonError: there is no such sampler, or ``"cmaes"`` without the package ``cmaes``.

    Example:
        >>> from fallline.core.space import Range
        >>> sampler("sobol").ask({"lr": Range(1e-4, 1e-2)}, index=0, tried=[], seed=0)
        {'lr': 0.0008916910056171505}
    """
    if name not in SAMPLERS:
        raise ComparisonError(f"unknown sampler {name!r}; use one of {', '.join(SAMPLERS)}")
    if name == "cmaes" and find_spec("cmaes") is None:
        raise ComparisonError("sampler 'cmaes' needs the package cmaes: pip install cmaes")
    return SAMPLERS[name]


@dataclass(frozen=True)
class Spread:
    """Trials from a sequence of points in the unit cube: ``sequence(dimensions, seed, count)``.

    More points begin with the same ones. The first dimension, the learning rate's, takes the same fractions
    for every arm.
    """

    sequence: Callable[[int, int, int], list[list[float]]]
    adaptive: bool = False

    def ask(self, space: Space, index: int, tried: Sequence[Trial], seed: int) -> dict[str, Any]:
        """Return the settings of trial number ``index``; ``tried`` does not matter."""
        if not space:
            return {}
        count = max(FEWEST_POINTS, 1 << index.bit_length())
        return point(space, self.sequence(len(space), seed, count)[index])


@lru_cache(maxsize=64)
def sobol(dimensions: int, seed: int, count: int) -> list[list[float]]:
    """Return the first points of a scrambled Sobol sequence.

    The engine is torch's own: Optuna's and scipy's samplers draw the same sequence but cost another import.
    """
    return SobolEngine(dimensions, scramble=True, seed=seed).draw(count, dtype=torch.float64).tolist()


@lru_cache(maxsize=64)
def halton(dimensions: int, seed: int, count: int) -> list[list[float]]:
    """Return the first points of a Halton sequence with permuted digits."""
    from scipy.stats.qmc import Halton

    return Halton(dimensions, rng=_derived(seed)).random(count).tolist()


@lru_cache(maxsize=64)
def independent(dimensions: int, seed: int, count: int) -> list[list[float]]:
    """Return points drawn independently and uniformly, each from a generator of its own."""
    generators = (torch.Generator().manual_seed(_derived(seed, i)) for i in range(count))
    return [torch.rand(dimensions, generator=g, dtype=torch.float64).tolist() for g in generators]


@dataclass(frozen=True)
class Learning:
    """Trials by one of Optuna's samplers, which is given all that was tried and asked once.

    Until `STARTUP` trials have finished they are those of the Sobol sequence. Trials that still run are asked
    for as well and left open, so that those that run at the same time differ.

    Args:
        make: Optuna's sampler from a seed.
        tell: adds a finished trial to the study.
    """

    make: Callable[[int], "BaseSampler"]
    tell: Callable[["Study", Space, Trial, float], None]
    adaptive: bool = True

    def ask(self, space: Space, index: int, tried: Sequence[Trial], seed: int) -> dict[str, Any]:
        """Return the settings of trial number ``index`` from those of ``tried`` that lie in ``space``."""
        known = sorted((t for t in tried if inside(space, t.spec.settings)), key=lambda t: t.spec.index)
        if not space or len(known) < STARTUP:
            return SAMPLERS["sobol"].ask(space, index, tried, seed)
        with quiet(), one_thread():
            study = self._study(_derived(seed, len(tried)))
            for trial, value in zip(known, values(known), strict=True):
                self.tell(study, space, trial, value)
            suggestions = [
                suggested(study.ask(), space) for _ in range(len(tried), max(index, len(tried)) + 1)
            ]
        return suggestions[-1]

    def _study(self, seed: int) -> "Study":
        import optuna

        return optuna.create_study(sampler=self.make(seed))


def values(trials: Sequence[Trial]) -> list[float]:
    """Return what a sampler is told about each trial: the normal score of its rank, lower is better.

    TPE and CMA-ES use no more than ranks, and a Gaussian process would see all good losses as one beside a
    loss of 1e6 (Salinas, Shen and Perrone 2020 transform losses in the same way). A trial that diverged or
    failed has the worst rank, for it must keep samplers away: Optuna's ignore trials that failed, and only
    TPE reads pruned ones. A pruned trial has the lowest loss it had shown, above which it cannot end;
    of a configuration that was given up it is the mean over its seeds so far.
    """
    losses = [_loss(trial) for trial in trials]
    ranked, count = sorted(losses), len(losses)
    middles = ((bisect_left(ranked, loss) + bisect_right(ranked, loss)) / 2 for loss in losses)
    return [NormalDist().inv_cdf(middle / count) for middle in middles]


def _loss(trial: Trial) -> float:
    seen = trial.curve.valid_loss if trial.status == "pruned" else [trial.valid_loss]
    return min((loss for loss in seen if loss is not None and isfinite(loss)), default=inf)


def _add(study: "Study", space: Space, trial: Trial, value: float) -> None:
    from optuna.trial import create_trial

    params, distributions = parameters(space, trial.spec.settings)
    study.add_trial(create_trial(value=value, params=params, distributions=distributions))


def _replay(study: "Study", space: Space, trial: Trial, value: float) -> None:
    """Ask for the trial again, then tell its value: CMA-ES keeps its state in the trials it was asked for."""
    study.enqueue_trial(parameters(space, trial.spec.settings)[0])
    asked = study.ask()
    _ = asked.relative_params  # the sampler is asked when this is read, which fixed values leave out
    suggested(asked, space)
    study.tell(asked, value)


def _tpe(seed: int) -> "BaseSampler":
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=STARTUP)


def _gp(seed: int) -> "BaseSampler":
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)


def _cmaes(seed: int) -> "BaseSampler":
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _derived(*numbers: int) -> int:
    """Return a seed of 32 bits, as numpy's generators want it."""
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=4).digest())


SAMPLERS: dict[str, Sampler] = {
    "sobol": Spread(sobol),
    "halton": Spread(halton),
    "random": Spread(independent),
    "tpe": Learning(_tpe, tell=_add),
    "gp": Learning(_gp, tell=_add),
    "cmaes": Learning(_cmaes, tell=_replay),
}
