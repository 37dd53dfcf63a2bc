"""Comparisons made up to look like real ones, with a truth that tests know."""

from math import inf

import numpy as np

from fallline.compare.records import Arm, Comparison, Curve, Plan, Spec, Trial

NAMES = [
    "gd",
    "online-sgd",
    "sgd",
    "momentum",
    "nesterov",
    "adagrad",
    "rmsprop",
    "adadelta",
    "adam",
    "adamw",
    "adamax",
    "nadam",
    "radam",
    "proximal-sgd",
    "lookahead",
]
_LEVELS = [0.9, 0.16, 0.2, 0.105, 0.102, 0.125, 0.12, 0.18, 0.1, 0.098, 0.112, 0.1, 0.108, 0.21, 0.15]
_RATES = [0.5, 0.01, 0.3, 0.05, 0.05, 0.03, 0.003, 2, 0.004, 0.004, 0.008, 0.004, 0.006, 0.3, 0.2]
LEVEL = dict(zip(NAMES, _LEVELS, strict=True))
BEST_RATE = dict(zip(NAMES, _RATES, strict=True))


def plan(names=NAMES, trials=8, seeds=3, **changes) -> Plan:
    """Return a plan for ``names`` on digits; ``changes`` replace fields."""
    fields = {
        "task": "digits", "metric_name": "accuracy", "target": 0.15, "target_name": "validation loss <= 0.15",
        "epochs": 15, "trials": trials, "seeds": seeds, "workers": 2,
        "budget_seconds": 60.0,
        "arms": {name: arm(name) for name in names},
        "versions": {"python": "3.11.2", "torch": "2.13.0", "fallline": "0.1.0"},
        "machine": "2 cores, x86_64", "started": "2025-03-01T12:00:00",
        "caveats": ["Batch size is fixed at 32."],
    }  # fmt: skip
    return Plan(**{**fields, **changes})


def arm(name: str, low: float | None = None, high: float | None = None) -> Arm:
    """Return an arm whose learning rate is searched from ``low`` to ``high``; a level may follow a comma."""
    name = name.partition(",")[0]
    low, high = low or _rate(name) / 100, high or _rate(name) * 30
    fixed = {"momentum": 0.9} if name in ("momentum", "nesterov") else {}
    return Arm(name, fixed, {"lr": {"low": low, "high": high, "scale": "log"}})


def _rate(optimizer: str) -> float:
    return BEST_RATE.get(optimizer, 0.01)


def trial(spec: Spec, loss: float, evaluations: int = 20, epochs: float = 15, steps: int = 690) -> Trial:
    """Return a trial whose curve falls to ``loss``; an infinite one diverges after two evaluations."""
    if loss == inf:
        error = "training loss inf, validation loss nan at step 69"
        return Trial(spec, "diverged", _curve(2.0, evaluations, epochs, steps, keep=2), 69, 0.1, error=error)
    curve = _curve(loss, evaluations, epochs, steps)
    hit = next((i for i, x in enumerate(curve.valid_loss) if x <= 0.15), None)
    return Trial(
        spec, "ok", curve, steps, 0.8, min(curve.valid_loss),
        {name: max(values) for name, values in curve.metrics.items()},
        steps_to_target=None if hit is None else curve.step[hit],
        epochs_to_target=None if hit is None else curve.epoch[hit], state_bytes=60_300,
    )  # fmt: skip


def _curve(loss: float, evaluations: int, epochs: float, steps: int, keep: int | None = None) -> Curve:
    at = np.arange(1, evaluations + 1)[:keep] / evaluations
    valid = loss * (1 + np.exp(-6 * at)) + 2.2 * np.exp(-at * 2.6 / max(loss, 0.08))
    accuracy = 1 - 0.3 * valid / (1 + valid)
    return Curve(
        (at * steps).astype(int).tolist(), (at * epochs).tolist(), (0.7 * valid).tolist(), valid.tolist(),
        {"accuracy": accuracy.tolist()},
    )  # fmt: skip


def failed(spec: Spec) -> Trial:
    """Return a trial that raised an error whose text is not friendly to HTML."""
    error = (
        'Traceback (most recent call last):\n  File "task.py", line 3\nValueError: <script>alert(1)</script>'
    )
    return Trial(spec, "failed", Curve(), 0, 0.1, error=error)


def comparison(
    names=NAMES, trials=8, seeds=3, noise=0.03, seed=0, studies=1, between=0.1, **changes
) -> Comparison:
    """Return a complete comparison: loss is a bowl over log learning rate and diverges far above the best.

    ``noise`` is the luck of a seed, ``between`` that of tuning: one draw for each optimizer and study.
    """
    rng = np.random.default_rng(seed)
    made = [
        t
        for i in range(studies)
        for t in _study(i, names, trials, seeds, noise, between * (studies > 1), rng)
    ]
    cost = {o: 8.0 + 2.5 * i for i, o in enumerate(names)}
    return Comparison(plan(names, trials, seeds, studies=studies, **changes), made, cost)


def _study(study, names, trials, seeds, noise, between, rng: np.random.Generator) -> list[Trial]:
    made = [t for o in names for t in _tuning(study, o, trials, noise, rng)]
    luck, tuned = rng.normal(0, noise, seeds), {o: rng.normal(0, between) if between else 0.0 for o in names}
    return made + [
        trial(
            Spec(o, "final", 3, 1000 * study + 2 * i + 1, {"lr": _rate(o) * (1 + 0.1 * study)}, study),
            _noisy(o, noise, rng, luck[i] + tuned[o]),
        )
        for o in names
        for i in range(seeds)
    ]


def finals(losses: np.ndarray, **changes) -> Comparison:
    """Return a comparison that has final losses only: by study, seed and arm, named a, b, c and so on."""
    studies, seeds, count = losses.shape
    names = [chr(ord("a") + i) for i in range(count)]
    made = [
        Trial(
            Spec(name, "final", 0, 100 * i + j, {"lr": 0.1}, i),
            "ok",
            Curve(),
            10,
            2.0,
            float(losses[i, j, k]),
        )
        for i in range(studies)
        for j in range(seeds)
        for k, name in enumerate(names)
    ]
    aimless = {"target": None, "target_name": "", "trials": 8, "seeds": seeds, "studies": studies}
    return Comparison(plan(names, **{**aimless, **changes}), made)


def _tuning(study: int, optimizer: str, trials: int, noise: float, rng: np.random.Generator) -> list[Trial]:
    space = np.log10(np.array([0.01, 30.0]))
    offsets = space[0] + (space[1] - space[0]) * (rng.permutation(trials) + rng.random(trials)) / trials
    return [
        trial(
            Spec(optimizer, "tune", i, 1000 * study + 2 * i, {"lr": float(_rate(optimizer) * 10**x)}, study),
            inf if x > 1.2 else _noisy(optimizer, noise, rng, 0.8 * x * x),
        )
        for i, x in enumerate(offsets)
    ]


def _noisy(optimizer: str, noise: float, rng: np.random.Generator, shift: float) -> float:
    return LEVEL.get(optimizer, 0.2) * float(np.exp(shift + rng.normal(0, noise)))


def troubled() -> Comparison:
    """Return a comparison in which much went wrong: errors, divergences, missing finals, hostile names."""
    whole = comparison([*NAMES[:12], "<b>mine</b> & co", "broken"], task="<script>alert('task')</script>")
    kept = [t for t in whole.trials if not (t.spec.arm == "nadam" and t.spec.stage == "final")]
    kept = [failed(t.spec) if t.spec.arm == "broken" else t for t in kept]
    kept = [t for t in kept if not (t.spec.arm == "broken" and t.spec.stage == "final")]
    finals = [t for t in kept if t.spec.arm == "momentum" and t.spec.stage == "final"]
    kept = [trial(t.spec, inf) if t is finals[0] else t for t in kept]
    return Comparison(whole.plan, kept, dict(list(whole.step_microseconds.items())[:9]))
