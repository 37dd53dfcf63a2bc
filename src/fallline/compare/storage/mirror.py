"""Trials in a storage of Optuna's as well, where `optuna-dashboard` shows them while a comparison runs."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from fallline.compare.configurations import Configurations
from fallline.compare.errors import ComparisonError
from fallline.compare.records import Arm, Plan, Trial
from fallline.compare.search.distributions import parameters, quiet
from fallline.core.space import dimension

if TYPE_CHECKING:  # Optuna takes 0.3 s to import
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: Seconds after which a lock in front of a journal belongs to nobody: its owner was killed.
LOCK_SECONDS = 5


class Mirror:
    """Copy each trial of one comparison into a storage, in the background.

    Each arm has an Optuna study for each of the comparison's studies, with the tuning trials, and one for
    its finals. ``results.jsonl`` stays the truth: whatever is wrong with the storage later costs no trial.
    A configuration that is trained on several seeds is one trial there, added when it has ended.
    A trial that the storage has is not added again, so that after a resume all trials may be added anew.

    Args:
        url: ``"journal:FILE"`` or a path that ends in ``.log``; or a database: ``"sqlite:///FILE"``,
            ``"postgresql://USER:PASSWORD@HOST/NAME"``.
        plan: of the comparison; names the studies.

    Raises:
        ComparisonError: the storage cannot be opened or written to.

    Example:
        >>> mirror = Mirror("journal:runs/studies.log", plan)
        >>> for trial in comparison.trials:
        ...     mirror.add(trial)
        >>> mirror.close()  # optuna-dashboard runs/studies.log
    """

    def __init__(self, url: str, plan: Plan):
        self.url, self.plan = url, plan
        self._configurations = Configurations(plan)
        self._studies: dict[str, Study] = {}
        self._known: dict[str, set[tuple]] = {}
        self._queue: SimpleQueue[Trial | None] = SimpleQueue()
        self._missing: list[Trial] = []
        self._error = ""
        try:
            self._storage = _opened(url)
            self._study(next(iter(plan.arms)), "study 1")
        except Exception as error:
            raise ComparisonError(
                f"cannot write to the storage {_without_password(url)}: {_first_line(error)}; "
                "name another --storage: journal:FILE, sqlite:///FILE or the address of a database"
            ) from None
        self._thread = Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(self, trial: Trial) -> None:
        """Have ``trial`` written soon; takes no time and cannot fail."""
        if (whole := self._configurations.add(trial)) is not None:
            self._queue.put(whole)

    def close(self) -> str | None:
        """Write what is left; return what went wrong, with the remedy, or None."""
        self._queue.put(None)
        self._thread.join()
        if not self._missing:
            return None
        lacks = f"lacks {len(self._missing)} of the trials: {self._error}"
        return (
            f"the storage {_without_password(self.url)} {lacks}; "
            "results.jsonl has them all, and --resume with the same --storage adds them"
        )

    def _write(self) -> None:
        for trial in iter(self._queue.get, None):
            self._missing = self._left([*self._missing, trial])
        self._missing = self._left(self._missing)

    def _left(self, trials: list[Trial]) -> list[Trial]:
        """Write ``trials`` up to the first that fails; return that and the rest."""
        for i, trial in enumerate(trials):
            try:
                self._add(trial)
            except Exception as error:
                self._error = _first_line(error)
                self._studies.clear()
                return trials[i:]
        return []

    def _add(self, trial: Trial) -> None:
        spec = trial.spec
        study = self._study(spec.arm, "finals" if spec.stage == "final" else f"study {spec.study + 1}")
        known = self._known[study.study_name]
        if _identity(_attributes(trial)) not in known:
            study.add_trial(_frozen(trial, self.plan.arms[spec.arm]))
            known.add(_identity(_attributes(trial)))

    def _study(self, arm: str, part: str) -> "Study":
        import optuna

        name = f"{self.plan.task} {self.plan.started} | {arm} | {part}"
        if name not in self._studies:
            with quiet():
                study = optuna.create_study(storage=self._storage, study_name=name, load_if_exists=True)
                study.set_metric_names([self.plan.judged_by if part == "finals" else "validation loss"])
            self._known[name] = {_identity(each.user_attrs) for each in study.get_trials(deepcopy=False)}
            self._studies[name] = study
        return self._studies[name]


def _opened(url: str) -> "BaseStorage":
    from optuna.storages import RDBStorage

    if url.startswith("journal:") or url.endswith(".log"):
        return _journal(Path(url.removeprefix("journal:")).absolute())
    if "://" not in url:
        raise ValueError("it is neither a journal nor a database")
    with quiet():
        return RDBStorage(url)


def _journal(path: Path) -> "BaseStorage":
    """Open a journal; a line that a killed process left unfinished would make all that follow unreadable."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab"):  # raises if it cannot be written
        lock = JournalFileOpenLock(str(path), grace_period=LOCK_SECONDS)
    with quiet():
        lock.acquire()
        try:
            whole = path.read_bytes().rfind(b"\n") + 1
            with path.open("ab") as file:
                file.truncate(whole)
        finally:
            lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _frozen(trial: Trial, arm: Arm) -> "FrozenTrial":
    """Return ``trial`` as Optuna has it; its times are taken from now, when it has just finished."""
    from optuna.trial import TrialState, create_trial

    space = {name: dimension(each) for name, each in arm.space.items()}
    params, distributions = parameters(space, trial.spec.settings)
    states = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    loss = trial.loss if trial.spec.stage == "final" else trial.valid_loss
    frozen = create_trial(
        state=states.get(trial.status, TrialState.FAIL),
        value=min(trial.curve.valid_loss) if trial.status == "pruned" else loss,
        params=params,
        distributions=distributions,
        user_attrs=_attributes(trial),
        intermediate_values=dict(zip(trial.curve.step, trial.curve.valid_loss, strict=True)),
    )
    frozen.datetime_complete = datetime.now()
    frozen.datetime_start = frozen.datetime_complete - timedelta(seconds=trial.seconds)
    return frozen


def _attributes(trial: Trial) -> dict[str, Any]:
    spec = trial.spec
    attributes = {
        "study": spec.study,
        "stage": spec.stage,
        "index": spec.index,
        "seed": spec.seed,
        "seconds": trial.seconds,
        **trial.metrics,
        **{f"test {name}": value for name, value in trial.test_metrics.items()},
    }
    if trial.test_loss is not None:
        attributes |= {"validation loss": trial.valid_loss, "test loss": trial.test_loss}
    if trial.error:
        attributes["error"] = trial.error.strip().splitlines()[-1]
    return attributes


def _identity(attributes: dict[str, Any]) -> tuple:
    return tuple(attributes.get(name) for name in ("study", "stage", "index", "seed"))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", url)
