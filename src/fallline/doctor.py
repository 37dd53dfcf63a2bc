"""What `fallline doctor` checks: versions, backends, threads, the kernel cache, and one real step."""

import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = (
    "fallline",
    "torch",
    "llvmlite",
    "triton",
    "numpy",
    "scipy",
    "optuna",
    "scikit-learn",
    "plotly",
    "rich",
)

#: Both backends round differently; one step of size 1e-3 may differ by this much.
TOLERANCE = 1e-6


def checks() -> dict[str, Callable[[], str]]:
    """Return the checks by name; each returns what it found, or raises."""
    return {
        "python": lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": _packages,
        "backends": _backends,
        "threads": lambda: f"{torch.get_num_threads()} (torch.set_num_threads changes it)",
        "kernel cache": _cache,
        "self-test": _self_test,
    }


def diagnose() -> list[tuple[str, bool, str]]:
    """Return for each check its name, whether it passed and what it found."""
    return [(name, *_outcome(check)) for name, check in checks().items()]


def _outcome(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"


def _packages() -> str:
    return ", ".join(f"{name} {_version(name)}" for name in PACKAGES)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _backends() -> str:
    from fallline.core import backend

    return ", ".join(make.__name__ for make in backend.available)


def _cache() -> str:
    from fallline.backends import kernel_cache

    problem = kernel_cache.usable()
    return problem or str(kernel_cache.folder())


def _self_test() -> str:
    """Make one step of AdamW on each backend from the same start, and compare every element."""
    started = time.perf_counter()
    fast = _stepped()
    seconds = time.perf_counter() - started
    slow = _stepped(foreach=False, fused=False)
    difference = (fast - slow).abs().max().item()
    if not difference <= TOLERANCE:
        raise AssertionError(
            f"a step of AdamW differs by {difference:g} between the fastest backend and eager"
        )
    return f"a step of AdamW agrees on both backends to {difference:.1g}; the first took {seconds:.2f} s"


def _stepped(**flags: Any) -> torch.Tensor:
    import fallline

    values = torch.linspace(-2, 2, 1000)
    parameter = torch.nn.Parameter(values.clone())
    parameter.grad = values.sin()
    fallline.AdamW([parameter], lr=1e-3, **flags).step()
    return parameter.detach()
