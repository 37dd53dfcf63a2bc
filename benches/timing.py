"""Timing what competes in turns, so that noise and warm caches fall on all alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

import torch

#: Each entry runs this long in a round, or once.
SECONDS = 0.02


def rounds(
    entries: Mapping[str, Callable[[], object]], count: int = 15, least: int = 1
) -> dict[str, list[float]]:
    """Return seconds per call of each entry, round by round; in each round every entry has its turn.

    A turn is ``least`` calls or more.
    """
    repeats = {name: max(least, _repeats(call)) for name, call in entries.items()}
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(count):
        for name, call in entries.items():
            seconds[name].append(_time(call, repeats[name]))
    return seconds


def ratio(slower: list[float], faster: list[float]) -> float:
    """Return the median, over rounds, of the ratio of two entries: what drifts falls on both alike."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def stamp() -> str:
    """Return where and when this is measured."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "CPU")
    versions = f"torch {torch.__version__}, llvmlite {version('llvmlite')}"
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
