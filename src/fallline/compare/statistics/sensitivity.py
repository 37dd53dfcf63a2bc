"""How much tuning an arm needs: its loss over the learning rate, its expected best of n trials."""

from collections.abc import Sequence
from math import exp, inf

import numpy as np
from scipy.special import gammaln

from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.pairs import Scale
from fallline.compare.statistics.rate_response import Response, rate_response


def tuning_losses(comparison: Comparison, arm: str) -> tuple[list[float], list[float]]:
    """Return the learning rates tried in all studies, ascending, and the losses that they led to."""
    tried = [t for t in comparison.tuning(arm) if t.status != "failed" and "lr" in t.spec.settings]
    tried.sort(key=lambda t: t.spec.settings["lr"])
    return [t.spec.settings["lr"] for t in tried], [loss_reached(t) for t in tried]


def loss_reached(trial: Trial) -> float:
    """Return the validation loss that a trial led to.

    It is infinite for a divergence, and for a pruned trial the lowest before it was stopped: more training
    would have lowered it, but the pruner saw others do better by then. Of a configuration that is trained on
    several seeds it is the mean, of one that was given up over those that it had.
    """
    if trial.status == "pruned":
        return min(trial.curve.valid_loss, default=inf)
    return inf if trial.valid_loss is None else trial.valid_loss


def response(comparison: Comparison, arm: str, scale: Scale) -> Response | None:
    """Return the expected tuning loss of ``arm`` over its learning rate, None if too few were tried."""
    rates, losses = tuning_losses(comparison, arm)
    return rate_response(rates, losses, scale=scale) if rates and min(rates) > 0 else None


def best_of(comparison: Comparison, arm: str, counts: Sequence[int], scale: Scale) -> list[float | None]:
    """Return the expected lowest tuning loss of each count of trials, None where fewer were run.

    On the scale "log" it is a geometric mean.
    """
    losses = [loss_reached(t) for t in comparison.tuning(arm) if t.status != "failed"]
    if scale == "log":
        logs = np.log(losses).tolist()
        return [exp(expected_best(logs, n)) if n <= len(logs) else None for n in counts]
    return [expected_best(losses, n) if n <= len(losses) else None for n in counts]


def expected_best(losses: Sequence[float], n: int) -> float:
    """Return the expected lowest loss of ``n`` configurations drawn without replacement from those tried.

    With N sorted ``losses`` x_i it is Σ_i x_i C(N - i, n - 1)/C(N, n). An infinite loss (a divergence) makes
    it infinite as long as n trials could all diverge. Source: Dodge et al., Show Your Work, EMNLP 2019;
    without replacement as in Tang et al., Showing Your Work Doesn't Always Work, ACL 2020.

    >>> round(expected_best([1.0, 2.0, 3.0], 2), 6)
    1.333333
    """
    x, total = np.sort(np.asarray(losses, dtype=float)), len(losses)
    lowest = np.arange(1, total - n + 2)
    weights = np.exp(_log_choose(total - lowest, n - 1) - _log_choose(np.array(total), n))
    return float(np.sum(x[: total - n + 1] * weights))


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
