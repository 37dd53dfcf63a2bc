"""The folder of a comparison: ``comparison.json``, the plan, and ``results.jsonl``, a line for each trial."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Comparison, Plan, Trial
from fallline.compare.storage.files import write_whole


class Store:
    """Write and read one comparison's folder; a trial counts as finished once `append` has returned.

    Arguments:
        folder: where the files are; made by `open`.

    Example:
        >>> store = Store("runs/digits")
        >>> store.open(plan, step_microseconds={}, pass_microseconds={})
        >>> store.append(trial)
        >>> Store("runs/digits").comparison().trials == [trial]
        True
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.plan_file = self.folder / "comparison.json"
        self.results_file = self.folder / "results.jsonl"
        self.checkpoints = self.folder / "checkpoints"

    def exists(self) -> bool:
        """Say whether the folder holds a comparison."""
        return self.plan_file.exists()

    def finished(self) -> int:
        """Return how many trials are on the disk, without reading them."""
        return self.results_file.read_bytes().count(b"\n") if self.results_file.exists() else 0

    def check_free(self) -> None:
        """Raise unless a new comparison may be written here."""
        if self.results_file.exists() and not self.exists():
            raise ComparisonError(
                f"{self.folder} holds results.jsonl without {self.plan_file.name}; choose another --out"
            )
        if self.exists():
            raise ComparisonError(
                f"{self.folder} already holds a comparison; add --resume to continue it, or change --out"
            )

    def open(
        self, plan: Plan, step_microseconds: dict[str, float], pass_microseconds: dict[str, float]
    ) -> None:
        """Make the folder ready for results: write the plan, and mend what a killed process left."""
        measured = {"step_microseconds": step_microseconds, "pass_microseconds": pass_microseconds}
        head = {"plan": asdict(plan), **measured}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._cut_torn_line()
            write_whole(self.plan_file, json.dumps(head, indent=1) + "\n")
        except OSError as error:
            raise ComparisonError(
                f"cannot write to {self.folder}: {error.strerror}; choose another --out"
            ) from None

    def append(self, trial: Trial) -> None:
        """Add a finished trial and wait until it is on the disk; a full disk leaves no part of it."""
        line = json.dumps(trial.to_json(), allow_nan=False, separators=(",", ":")) + "\n"
        try:
            with self.results_file.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise ComparisonError(
                f"{self.folder} was removed while the comparison ran; start it again"
            ) from None
        except OSError as error:
            with suppress(OSError):
                self._cut_torn_line()
            raise ComparisonError(
                f"cannot write to {self.folder}: {error.strerror}; "
                "what is finished is kept, --resume continues when there is room"
            ) from None

    def _cut_torn_line(self) -> None:
        """Remove a last line that a killed process left unfinished; its trial will run again."""
        if self.results_file.exists():
            whole = self.results_file.read_bytes().rfind(b"\n") + 1
            os.truncate(self.results_file, whole)

    def comparison(self) -> Comparison:
        """Read everything; an unfinished last line is left out."""
        head = self._json(self.plan_file.read_text(encoding="utf-8"), self.plan_file, 1)
        try:
            plan = Plan.from_json(head["plan"])
            measured = head["step_microseconds"], head["pass_microseconds"]
            return Comparison(plan, self._trials(), *measured)
        except (KeyError, TypeError, AttributeError) as error:
            raise ComparisonError(
                f"{self.plan_file} is not a comparison's plan as this version of fallline writes it "
                f"({error}); choose another --out"
            ) from None

    def _trials(self) -> list[Trial]:
        if not self.results_file.exists():
            return []
        *lines, _torn = self.results_file.read_bytes().split(b"\n")
        return [self._trial(line.decode(errors="replace"), i) for i, line in enumerate(lines, 1)]

    def _trial(self, text: str, line: int) -> Trial:
        try:
            return Trial.from_json(self._json(text, self.results_file, line))
        except (KeyError, TypeError) as error:
            raise ComparisonError(
                f"{self.results_file}, line {line} is not a trial as this version of fallline writes it "
                f"({error}); remove the line or choose another --out"
            ) from None

    def _json(self, text: str, file: Path, line: int) -> dict:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ComparisonError(
                f"{file}, line {line} is damaged: {error}; remove the line or choose another --out"
            ) from None
