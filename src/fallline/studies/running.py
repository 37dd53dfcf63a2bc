"""Make one study or many, each finding on disk as soon as it is found."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from fallline.compare.storage.files import check_room, write_whole
from fallline.core.errors import FalllineError
from fallline.report.finding import Finding
from fallline.report.findings import page
from fallline.studies.lab import Lab, Watch, unwatched
from fallline.studies.study import Study, StudyError
from fallline.tasks.load import load

#: The file that holds a finding, in the folder of its study.
FINDING = "finding.json"


@dataclass(frozen=True)
class Wish:
    """How studies are to be made.

    Args:
        out: the folder of all of them; each has one of its own inside.
        task: measured on in place of each study's own; None for its own.
        quick: small sizes, for a first impression.
        seed: where all random numbers are derived from.
        workers: processes; None for one on each core.
        budget: seconds of wall clock for each study; None for the study's own size.
        resume: go on in ``out``, without making again what is there.
    """

    out: Path
    task: str | None = None
    quick: bool = False
    seed: int = 0
    workers: int | None = None
    budget: float | None = None
    resume: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must agree on for one to go on where the other stopped."""
        return {"task": self.task, "quick": self.quick, "seed": self.seed, "budget": self.budget}


def make(study: Study, wish: Wish, watch: Watch = unwatched) -> Finding:
    """Return the finding of ``study``, measured now, or read if ``wish`` resumes one that is finished.

    Raises:
        StudyError: the study cannot be made on this task, or ``out`` holds another one.
        TaskError: the task cannot be loaded.

    Example:
        >>> make(find("activations"), Wish(Path("studies"), quick=True)).answer
    """
    folder = wish.out / study.name
    file = folder / FINDING
    if file.exists():
        return _stored(file, wish)
    _begin(folder, wish)
    task = load(wish.task or study.task)
    effort = study.quick if wish.quick else study.effort
    lab = Lab(task, folder, effort, wish.quick, wish.seed, wish.workers, wish.budget, watch)
    started = monotonic()
    finding = replace(study.answer(lab), seconds=round(monotonic() - started, 1))
    write_whole(file, json.dumps({"wish": wish.identity, **finding.to_json()}))
    return finding


def _begin(folder: Path, wish: Wish) -> None:
    """Note in ``folder`` what was wished, and raise if something else was before."""
    note = folder / "wish.json"
    if not note.exists():
        check_room(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(note, json.dumps(wish.identity))
        return
    _refuse_another(json.loads(note.read_text()), folder, wish)


def _stored(file: Path, wish: Wish) -> Finding:
    data = json.loads(file.read_text())
    _refuse_another(data.pop("wish"), file.parent, wish)
    return Finding.from_json(data)


def _refuse_another(before: dict[str, Any], folder: Path, wish: Wish) -> None:
    if not wish.resume:
        raise StudyError(f"{folder} holds a study; go on with it by --resume, or choose another --out")
    if before != wish.identity:
        changed = ", ".join(name for name, value in wish.identity.items() if before.get(name) != value)
        raise StudyError(f"{folder} was made with another {changed}; choose another --out")


def make_all(
    studies: Sequence[Study],
    wish: Wish,
    watch: Watch = unwatched,
    told: Callable[[Finding], None] = lambda _: None,
) -> list[Finding]:
    """Make ``studies`` one after the other and write ``report.html`` after each.

    A study that cannot be made on the wished task is named in the report with the reason.

    Arguments:
        studies: what to make.
        wish: how.
        watch: shows how far a comparison is.
        told: is given each finding as it is made.
    """
    findings = []
    for finding in _each(studies, wish, watch):
        findings.append(finding)
        told(finding)
        write_whole(wish.out / "report.html", page(findings))
    return findings


def _each(studies: Iterable[Study], wish: Wish, watch: Watch) -> Iterator[Finding]:
    alone = len(list(studies)) == 1
    for study in studies:
        try:
            yield make(study, wish, watch)
        except FalllineError as error:
            if alone:
                raise
            yield Finding(study.name, study.question, wish.task or study.task, f"not made: {error}")
