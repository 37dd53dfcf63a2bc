"""Timing what competes in turns, so that noise and warm caches fall on all alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

import torch

#: Each entry runs this long in a round, or once.
SECONDS = 0.02


def medians(entries: Mapping[str, Callable[[], object]], rounds: int = 9) -> dict[str, float]:
    """Return seconds per call of each entry: medians over rounds in which each has its turn."""
    repeats = {name: _repeats(call) for name, call in entries.items()}
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, call in entries.items():
            seconds[name].append(_time(call, repeats[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def stamp() -> str:
    """Return where and when this is measured."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "CPU")
    versions = f"torch {torch.__version__}, numba {version('numba')}"
    threads = f"{torch.get_num_threads()} threads"
    return f"{model}, {threads}, {platform.system()}, {versions}, {time.strftime('%Y-%m-%d')}"


def _repeats(call: Callable[[], object]) -> int:
    call()
    call()
    return max(1, int(SECONDS / _time(call, 1)))


def _time(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
