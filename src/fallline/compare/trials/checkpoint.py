"""Where a long training saves itself: one file for each trial, whole or ignored, gone when the trial ends."""

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
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


class Checkpoints:
    """The files in a folder from which trainings of one task go on, and when they are written.

    Args:
        folder: where the files are; made when the first is saved.
        task, share: what is trained, and how long, as a share of the task's own length.
        seconds: from one save to the next.
        stacked: whether trainings are made together: sums are then made in another order.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        share: float = 1.0,
        seconds: float = CHECKPOINT_SECONDS,
        stacked: bool = False,
    ):
        self.folder, self.seconds = Path(folder), seconds
        self._task, self._way = task, {"share": share, "stacked": stacked}
        self._stretch = 1
        self._saved = self._looked = time.monotonic()

    def of(self, arm: Arm, spec: Spec) -> "Checkpoint":
        """Return the file of one training."""
        return Checkpoint(self, arm, spec)

    def stretches(self, steps: int, save: Callable[[], None]) -> Iterator[int]:
        """Divide ``steps``; call ``save`` after each part by whose end it is time to."""
        while steps > 0:
            part = min(steps, self._stretch)
            yield part
            self._tick(save)
            steps -= part

    def _tick(self, save: Callable[[], None]) -> None:
        """Save if it is time to; the clock is looked at after so many steps that it does not count."""
        now = time.monotonic()
        if now - self._saved >= self.seconds:
            save()
            now = self._saved = time.monotonic()
        elif now - self._looked < self.seconds / LOOKS:
            self._stretch *= 2
        else:
            self._stretch = max(1, self._stretch // 2)
        self._looked = now

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for any training to go on: task, data, and who wrote the state."""
        before = random_state()  # `seeded` does not put back those of a GPU
        with seeded(0):
            codes = [fingerprint.of_task(self._task), fingerprint.of_data(self._task)]
        set_random_state(before)
        versions = {package: version(package) for package in ("fallline", "torch")}
        return {**self._way, "task": codes, "versions": versions}


class Checkpoint:
    """The file from which one training goes on, whatever killed its process.

    Args:
        common: the folder, and what its trainings have in common.
        arm, spec: what the training is of; a file of anything else is removed.
    """

    def __init__(self, common: Checkpoints, arm: Arm, spec: Spec):
        self.path = common.folder / file_name(spec)
        self._common, self._own, self._spec = common, {"arm": asdict(arm), "spec": asdict(spec)}, spec

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved, or None; a damaged file, or one of something else, is removed."""
        if not self.path.exists():
            return None
        with suppress(CorruptCheckpoint, OSError, LookupError, TypeError, ValueError):
            content = load(self.path)
            if content["identity"] == self._identity:
                return content["state"]
        self.remove()
        return None

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write ``state()``; a full disk, or a state that fits into no file, must not end the training."""
        with suppress(Exception):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save({"identity": self._identity, "state": state()}, self.path)
            previous(self.path).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the file, and what a process left that was killed while it wrote."""
        discard(self.path.parent, [self._spec])

    @property
    def _identity(self) -> dict[str, Any]:
        return {**self._common.identity, **self._own}


def discard(folder: Path, specs: Iterable[Spec]) -> None:
    """Remove from ``folder`` all that was written of the trainings of ``specs``."""
    with suppress(OSError):
        written = list(folder.iterdir())
        names = [file_name(spec) for spec in specs] if written else []
        for path in written:
            if any(name in path.name for name in names):
                path.unlink(missing_ok=True)


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
