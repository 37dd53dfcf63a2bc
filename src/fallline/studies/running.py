"""Make one study or many, each finding on disk as soon as it is found."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from fallline.compare.storage.files import write_whole
from fallline.core.errors import FalllineError
from fallline.report.finding import Finding
from fallline.report.findings import page
from fallline.studies import wishes
from fallline.studies.lab import Lab, Watch, unwatched
from fallline.studies.study import Study, StudyError
from fallline.tasks.load import load
from fallline.tasks.task import Task

#: The file that holds a finding, in the folder of its study.
FINDING = "finding.json"


@dataclass(frozen=True)
class Wish(wishes.Wish):
    """How studies are to be made; each has a folder of its own in ``out``.

    Args:
        task: measured on in place of each study's own; None for its own.
        budget: seconds of wall clock for each study; None for the study's own size.
    """

    task: str | None = None
    budget: float | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must agree on for one to go on where the other stopped."""
        return {"task": self.task, **super().identity, "budget": self.budget}


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
    wish.check(folder, StudyError)
    if file.exists():
        return _stored(file)
    task = load(wish.task or study.task)
    wish.begin(folder, StudyError)
    started = monotonic()
    found = study.answer(_lab(study, task, wish, watch))
    if not isinstance(found, Finding):
        raise StudyError(f"study {study.name}: answer returned {type(found).__name__}; return a Finding")
    finding = replace(found, seconds=round(monotonic() - started, 1))
    write_whole(file, json.dumps(finding.to_json()))
    return finding


def _lab(study: Study, task: Task, wish: Wish, watch: Watch) -> Lab:
    effort = study.quick if wish.quick else study.effort
    return Lab(task, wish.out / study.name, effort, wish.quick, wish.seed, wish.workers, wish.budget, watch)


def _stored(file: Path) -> Finding:
    try:
        return Finding.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as damage:
        raise StudyError(
            f"{file} is no finding as this version of fallline writes it ({damage}); "
            "remove it to make it anew"
        ) from None


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

    Raises:
        StudyError: ``out`` holds one of the studies already, made in another way or not to be gone on with.
        TaskError: the task cannot be loaded.
    """
    for study in studies:
        wish.check(wish.out / study.name, StudyError)
    if wish.task is not None:
        load(wish.task)
    findings, others = [], _others(studies, wish.out)
    for finding in _each(studies, wish, watch):
        findings.append(finding)
        told(finding)
        write_whole(wish.out / "report.html", page([*findings, *others]))
    return findings


def _others(studies: Sequence[Study], folder: Path) -> list[Finding]:
    """Return the findings in ``folder`` of other studies, which its report has, too, if they can be read."""
    now, found = {study.name for study in studies}, []
    for file in sorted(folder.glob(f"*/{FINDING}")):
        with suppress(StudyError):
            found += [] if file.parent.name in now else [_stored(file)]
    return found


def _each(studies: Sequence[Study], wish: Wish, watch: Watch) -> Iterator[Finding]:
    for study in studies:
        try:
            yield make(study, wish, watch)
        except FalllineError as error:
            if len(studies) == 1:
                raise
            yield Finding(study.name, study.question, wish.task or study.task, f"not made: {error}")
