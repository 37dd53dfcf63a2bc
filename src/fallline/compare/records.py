"""What a comparison writes and a report reads: plain records that survive JSON unchanged."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

Stage = Literal["tune", "final"]
Status = Literal["ok", "diverged", "failed"]


@dataclass(frozen=True)
class Spec:
    """One training to run: an optimizer's settings, a stage of the protocol and a seed.

    ``index`` counts the configurations of one optimizer; in the final stage it is the tuned winner's.
    """

    optimizer: str
    stage: Stage
    index: int
    seed: int
    settings: dict[str, float]

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What identifies the trial: the same on any executor and after a resume."""
        return self.optimizer, self.stage, self.index, self.seed


@dataclass(frozen=True)
class Curve:
    """What was measured along one training: equal-length lists, one element per evaluation.

    ``epoch`` is fractional: samples seen over training samples. ``metric`` is the task's (accuracy).
    """

    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    """One finished training; a line of ``results.jsonl``.

    ``valid_loss`` is the lowest along the curve, as early stopping would keep it, and ``metric`` the metric
    there; both are None unless ``status`` is ``"ok"``. ``steps_to_target`` and ``epochs_to_target`` are None
    when the target was missed. ``error`` holds the traceback of a failed trial or why it diverged.
    """

    spec: Spec
    status: Status
    curve: Curve
    steps: int
    seconds: float
    valid_loss: float | None = None
    metric: float | None = None
    steps_to_target: int | None = None
    epochs_to_target: float | None = None
    state_bytes: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the trial as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Trial":
        """Return the trial that `to_json` wrote."""
        return cls(**{**data, "spec": Spec(**data["spec"]), "curve": Curve(**data["curve"])})


@dataclass(frozen=True)
class Plan:
    """What a comparison will run, fixed before it starts and stored as ``comparison.json``.

    ``spaces`` maps each optimizer to its searched ranges as ``{name: [low, high, scale]}``;
    ``fixed`` maps it to its fixed settings. ``versions`` and ``machine`` say where it ran. ``seed`` is where
    every training's seed is derived from; ``fingerprint`` and ``data_fingerprint`` say whether the task and
    its data are still the same.
    """

    task: str
    metric_name: str
    target: float | None
    target_name: str
    epochs: float
    optimizers: list[str]
    trials: int
    seeds: int
    workers: int
    budget_seconds: float | None
    spaces: dict[str, dict[str, list[Any]]]
    fixed: dict[str, dict[str, Any]]
    versions: dict[str, str]
    machine: str
    started: str
    caveats: list[str] = field(default_factory=list)
    seed: int = 0
    fingerprint: str = ""
    data_fingerprint: str = ""


@dataclass(frozen=True)
class Comparison:
    """A comparison, complete or not: its plan, the trials finished so far, and each optimizer's step cost.

    ``step_microseconds`` is measured interleaved in one process on the task's model, gradients in place.
    ``interrupted`` says that Ctrl-C ended it just now; it is not stored.
    """

    plan: Plan
    trials: list[Trial]
    step_microseconds: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    def tuning(self, optimizer: str) -> list[Trial]:
        """Return the tuning trials of ``optimizer``, in the order of their configurations."""
        return self._of(optimizer, "tune")

    def finals(self, optimizer: str) -> list[Trial]:
        """Return the trials of the tuned ``optimizer`` on fresh seeds, in the order of seeds."""
        return self._of(optimizer, "final")

    def _of(self, optimizer: str, stage: Stage) -> list[Trial]:
        return list(self._by_stage.get((optimizer, stage), ()))

    @cached_property
    def _by_stage(self) -> dict[tuple[str, Stage], list[Trial]]:
        """A report asks some hundred times; going through 10,000 trials each time would take a second."""
        groups: dict[tuple[str, Stage], list[Trial]] = {}
        for trial in sorted(self.trials, key=lambda t: (t.spec.index, t.spec.seed)):
            groups.setdefault((trial.spec.optimizer, trial.spec.stage), []).append(trial)
        return groups
