"""Where a long training saves itself: one file for each trial, whole or ignored, gone when the trial ends."""

import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fallline.checkpoints.files import load, previous, save
from fallline.compare.records import Arm, Spec
from fallline.compare.storage import fingerprint
from fallline.core.errors import CorruptCheckpoint
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task

#: A training is saved when so much time has passed since it began, or since it was last saved.
CHECKPOINT_SECONDS = 60.0
#: The clock is looked at about so many times between two saves.
LOOKS = 20


class Checkpoint:
    """The file in ``folder`` from which this one training goes on, whatever killed its process.

    Args:
        folder: where the files of all trainings are; made when the first is saved.
        task, arm, spec, share: what the training is of; a file of anything else is removed.
        seconds: from one save to the next.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        arm: Arm,
        spec: Spec,
        share: float = 1.0,
        seconds: float = CHECKPOINT_SECONDS,
    ):
        self.path = Path(folder) / file_name(spec)
        self.seconds = seconds
        #: Optimizer steps until the clock is looked at again.
        self.stretch = 1
        self._task, self._identity = task, {"arm": asdict(arm), "spec": asdict(spec), "share": share}
        self._saved = self._looked = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved, or None; a damaged file, or one of something else, is removed."""
        if not self.path.exists():
            return None
        with suppress(CorruptCheckpoint, OSError, LookupError, TypeError, ValueError):
            content = load(self.path)
            if content["identity"] == self.identity:
                return content["state"]
        self.remove()
        return None

    def tick(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save ``state()`` if it is time to."""
        now = time.monotonic()
        if now - self._saved >= self.seconds:
            self._save(state)
            now = self._saved = time.monotonic()
        elif now - self._looked < self.seconds / LOOKS:
            self.stretch *= 2
        else:
            self.stretch = max(1, self.stretch // 2)
        self._looked = now

    def remove(self) -> None:
        """Remove the file, and what a process left that was killed while it wrote."""
        with suppress(OSError):
            for path in (self.path, previous(self.path), *self.path.parent.glob(f".{self.path.name}.*.tmp")):
                path.unlink(missing_ok=True)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on: task, data, arm, spec, and who wrote the state."""
        before = random_state()  # `seeded` does not put back those of a GPU
        with seeded(0):
            codes = [fingerprint.of_task(self._task), fingerprint.of_data(self._task)]
        set_random_state(before)
        versions = {package: version(package) for package in ("fallline", "torch")}
        return {**self._identity, "task": codes, "versions": versions}

    def _save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the file; a full disk, or a state that has no place in a file, must not end the training."""
        with suppress(Exception):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save({"identity": self.identity, "state": state()}, self.path)
            previous(self.path).unlink(missing_ok=True)


def file_name(spec: Spec) -> str:
    """Return the name of the file of a trial: readable, and of this trial alone."""
    readable = re.sub(r"[^\w.-]+", "-", "-".join(map(str, spec.key)))[-80:]
    return f"trial-{readable}-{blake2b(repr(spec.key).encode(), digest_size=4).hexdigest()}.safetensors"


def random_state() -> dict[str, Any]:
    """Return where the random numbers of torch, numpy and `random` are, as something that can be saved."""
    _, keys, *place = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), *place],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers where `random_state` was taken."""
    keys, *place = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *place))
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
