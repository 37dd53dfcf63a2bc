"""What a user waits for: the import, and the first step with a cold and with a warm kernel cache."""

import os
import statistics
import subprocess
import sys
import tempfile

from benches.steps import DROP_INS

_FIRST_STEP = """
import time, torch, fallline, sys
p = torch.nn.Parameter(torch.zeros(64)); p.grad = torch.ones(64)
optimizer = getattr(fallline, sys.argv[1])([p])
start = time.perf_counter(); optimizer.step(); print(time.perf_counter() - start)
"""
_IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def main() -> None:
    """Print import times and first steps."""
    _imports()
    print("\nFirst step, seconds: with a cold and with a warm kernel cache")
    for name in DROP_INS:
        with tempfile.TemporaryDirectory() as folder:
            cold = _run(_FIRST_STEP, name, cache=folder)
            warm = statistics.median(_run(_FIRST_STEP, name, cache=folder) for _ in range(3))
        print(f"{name:10s} cold {cold:.2f}  warm {warm:.2f}")


def _imports() -> None:
    seconds: dict[str, list[float]] = {"torch": [], "fallline": []}
    for _ in range(7):
        for module, values in seconds.items():
            values.append(_run(_IMPORT.format(module)))
    torch, fallline = (statistics.median(values) for values in seconds.values())
    print(f"\nimport torch {torch:.2f} s, import fallline {fallline:.2f} s, ratio {fallline / torch:.2f}")


def _run(code: str, *arguments: str, cache: str = "") -> float:
    environment = {**os.environ, **({"FALLLINE_CACHE_DIR": cache} if cache else {})}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)
