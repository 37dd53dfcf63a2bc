"""How a user wishes something measured, and the note of it in the folder that takes the results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline.compare.storage.files import check_room, write_whole
from fallline.core.errors import FalllineError

#: The note, in the folder of what is measured.
NOTE = "wish.json"


@dataclass(frozen=True)
class Wish:
    """How something is to be measured.

    Args:
        out: the folder of results.
        quick: small sizes, for a first impression.
        seed: where all random numbers are derived from.
        workers: processes; None for one on each core.
        resume: go on in ``out``, without making again what is there.
    """

    out: Path
    quick: bool = False
    seed: int = 0
    workers: int | None = None
    resume: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must agree on for one to go on where the other stopped."""
        return {"quick": self.quick, "seed": self.seed}

    def check(self, folder: Path, error: type[FalllineError]) -> None:
        """Raise ``error`` unless ``folder`` is free, or holds measurements that this goes on with."""
        note = folder / NOTE
        if not note.exists():
            return
        if not self.resume:
            raise error(f"{folder} holds measurements; go on with them by --resume, or choose another --out")
        before = _read(note, error)
        if before != self.identity:
            changed = ", ".join(name for name, value in self.identity.items() if before.get(name) != value)
            raise error(f"{folder} was made with another {changed}; choose another --out")

    def begin(self, folder: Path, error: type[FalllineError]) -> None:
        """Note in ``folder`` what is wished; raise as `check` does, or if there is no room."""
        self.check(folder, error)
        if not (folder / NOTE).exists():
            check_room(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / NOTE, json.dumps(self.identity))


def _read(note: Path, error: type[FalllineError]) -> dict[str, Any]:
    try:
        return dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as damage:
        raise error(f"{note} is damaged ({damage}); choose another --out") from None
