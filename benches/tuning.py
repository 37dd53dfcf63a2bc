"""Trials per minute on digits in two processes: a comparison, and the same trials by hand on a tuner."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from benches.timing import ratio

BY_HAND = Path(__file__).with_name("by_hand")
WORKERS = 2
#: Ways of ours to make the same trainings.
OURS = {"fallline": "processes", "fallline, stacked": "stacked"}


#: How many trials, and how many rounds of them: of few, much of the time is imports and the report.
SIZES = {100: 3, 400: 1}


def main() -> None:
    """Print how many trials a minute each program makes, from its start to its end, and the ratios."""
    for trials, rounds in SIZES.items():
        _compared(trials, rounds)


def _compared(trials: int, rounds: int) -> None:
    print(f"\nTuning: AdamW on digits, {trials} trials, {WORKERS} processes, whole programs in turns")
    programs = _programs()
    seconds = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            seconds[name].append(_seconds_per_trial(command, trials))
    for name, each in seconds.items():
        ratios = " and ".join(f"{ratio(each, seconds[ours]):.2f}" for ours in OURS)
        factor = "" if name in OURS else f", {ratios} times fallline's times"
        print(f"{name:20s}{60 / median(each):8.1f} trials a minute{factor}")


def _programs() -> dict[str, Callable[[str, int], list[str]]]:
    """Return the command of each program, from a folder and the number of trials."""
    by_hand = {"Optuna": "with_optuna.py"}
    if importlib.util.find_spec("pandas") and importlib.util.find_spec("pyarrow"):
        by_hand["Ray Tune"] = "with_ray_tune.py"
    else:
        print("Ray Tune is not installed: pip install 'ray[tune]'")
    return {name: partial(_ours, executor) for name, executor in OURS.items()} | {
        f"{tuner}, {kind}": lambda folder, trials, file=file, kind=kind: [
            sys.executable, str(BY_HAND / file), folder, str(trials), kind,
        ]
        for tuner, file in by_hand.items()
        for kind in ("loader", "tensors")
    }  # fmt: skip


def _ours(executor: str, folder: str, trials: int) -> list[str]:
    """Return the command for as many trainings in all: the last is the winner's, on a fresh seed."""
    sizes = dict(trials=trials - 1, seeds=1, studies=1, workers=WORKERS, executor=executor)
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    options += ["--out", f"{folder}/run"]
    return [sys.executable, "-m", "fallline.cli", "compare", "digits", "--optimizers", "adamw", *options]


def _seconds_per_trial(command: Callable[[str, int], list[str]], trials: int) -> float:
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        subprocess.run(command(folder, trials), check=True, capture_output=True, env=os.environ | quiet)
        return (perf_counter() - start) / trials
