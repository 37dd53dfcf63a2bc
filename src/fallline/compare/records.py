"""What a comparison writes and a report reads: plain records that survive JSON unchanged."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

Stage = Literal["tune", "final"]
Status = Literal["ok", "diverged", "failed", "pruned"]


@dataclass(frozen=True)
class Spec:
    """One training to run: an arm's settings, a study, a stage of it, and a seed.

    ``index`` counts the configurations of one arm in one study; in the final stage it is the tuned winner's.
    Where tuning trains each configuration several times, their specs differ in the seed alone.
    """

    arm: str
    stage: Stage
    index: int
    seed: int
    settings: dict[str, Any]
    study: int = 0

    @property
    def key(self) -> tuple[str, int, str, int, int]:
        """What identifies the trial: the same on any executor and after a resume."""
        return self.arm, self.study, self.stage, self.index, self.seed


@dataclass(frozen=True)
class Curve:
    """What was measured along one training: equal-length lists, one element per evaluation.

    ``epoch`` is fractional: samples seen over training samples. ``metrics`` has a list for each of the task's
    metrics, measured on the validation data; the task's first is the one that tables show.
    """

    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One finished training; a line of ``results.jsonl``.

    ``valid_loss`` is the lowest along the curve, as early stopping would keep it, ``metrics`` the metrics
    there, and ``test_loss`` and ``test_metrics`` those on the test data, if the task has any. Losses are None
    unless ``status`` is ``"ok"``; ``"pruned"`` is a training that a pruner stopped, or after which it gave up
    a configuration that has several. ``steps_to_target`` and ``epochs_to_target`` are None when the target
    was missed. ``error`` holds the traceback of a failed trial or why it diverged.
    """

    spec: Spec
    status: Status
    curve: Curve
    steps: int
    seconds: float
    valid_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    test_loss: float | None = None
    test_metrics: dict[str, float] = field(default_factory=dict)
    steps_to_target: int | None = None
    epochs_to_target: float | None = None
    state_bytes: int = 0
    error: str | None = None

    @property
    def loss(self) -> float | None:
        """The loss that a final run is judged by: on the test data if there are any."""
        return self.valid_loss if self.test_loss is None else self.test_loss

    @property
    def metric(self) -> float | None:
        """The first metric, where the training is judged; None without one."""
        return next(iter((self.test_metrics or self.metrics).values()), None)

    def to_json(self) -> dict[str, Any]:
        """Return the trial as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Trial":
        """Return the trial that `to_json` wrote."""
        return cls(**{**data, "spec": Spec(**data["spec"]), "curve": Curve(**data["curve"])})


@dataclass(frozen=True)
class Arm:
    """What is compared with the other arms: an optimizer with what is fixed and what is searched.

    ``optimizer`` is a name that `fallline.core.registry.find` knows. ``fixed`` has settings of the optimizer,
    the training or the model; ``space`` maps those that are tuned to their dimension, as JSON.
    """

    optimizer: str
    fixed: dict[str, Any] = field(default_factory=dict)
    space: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a comparison will run, fixed before it starts and stored as ``comparison.json``.

    Each of ``studies`` tunes every one of the ``arms`` with ``trials`` configurations, and trains the winner
    again on ``seeds`` fresh seeds, for ``share`` of the task's own length; with ``folds`` each study holds
    another fold out. A verdict may be looked at ``looks`` times. An adaptive ``sampler`` knows the results of
    all but the last ``lag`` configurations; ``pruner`` names what stops poor trainings early. Each
    configuration is tuned on ``instances`` seeds, the same for all, and judged by its mean loss.
    Of ``stacked`` trainings sums are made in another order, so results differ by rounding from single ones.
    ``versions`` and ``machine`` say where it ran. ``seed`` is where every training's seed is derived from;
    ``fingerprint`` and ``data_fingerprint`` say whether the task and its data are still the same, ``origin``
    whether it comes with fallline: the name by which it was loaded, empty of any other, None if not noted.
    """

    task: str
    metric_name: str
    target: float | None
    target_name: str
    epochs: float
    arms: dict[str, Arm]
    trials: int
    seeds: int
    workers: int
    budget_seconds: float | None
    versions: dict[str, str]
    machine: str
    started: str
    caveats: list[str] = field(default_factory=list)
    studies: int = 1
    folds: int | None = None
    looks: int = 1
    judged_by: str = "validation loss"
    share: float = 1.0
    sampler: str = "sobol"
    pruner: str = "none"
    instances: int = 1
    lag: int = 0
    stacked: bool = False
    seed: int = 0
    fingerprint: str = ""
    data_fingerprint: str = ""
    origin: str | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Return the plan that was stored as a JSON object."""
        return cls(**{**data, "arms": {name: Arm(**arm) for name, arm in data["arms"].items()}})

    def instances_of(self, arm: str) -> int:
        """Return how often each configuration of ``arm`` is trained in tuning; once if there is no other."""
        return self.instances if self.instances > 1 and self.arms[arm].space else 1


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison, complete or not: its plan, the trials finished so far, and each arm's step cost.

    ``step_microseconds`` is measured interleaved in one process on the task's model, gradients in place, and
    ``pass_microseconds`` that of a step's forward and backward pass.
    ``interrupted`` says that Ctrl-C ended it just now; it is not stored.
    """

    plan: Plan
    trials: list[Trial]
    step_microseconds: dict[str, float] = field(default_factory=dict)
    pass_microseconds: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    def tuning(self, arm: str, study: int | None = None) -> list[Trial]:
        """Return the tuning trials of ``arm``, of one study or all, in the order of their configurations.

        A configuration that is trained on several seeds is one trial: `mean_trial` of its trainings.
        """
        return self._of(arm, "tune", study)

    def finals(self, arm: str, study: int | None = None) -> list[Trial]:
        """Return the trials of the tuned ``arm`` on fresh seeds, of one study or all, in order of seeds."""
        return self._of(arm, "final", study)

    def _of(self, arm: str, stage: Stage, study: int | None) -> list[Trial]:
        trials = self._by_stage.get((arm, stage), ())
        return [trial for trial in trials if study is None or trial.spec.study == study]

    @cached_property
    def has_positive_losses(self) -> bool:
        """Whether every loss is above zero."""
        losses = (loss for t in self.trials for loss in (t.valid_loss, t.test_loss) if loss is not None)
        return all(loss > 0 for loss in losses)

    @cached_property
    def _by_stage(self) -> dict[tuple[str, Stage], list[Trial]]:
        """A report asks some hundred times; going through 10,000 trials each time would take a second."""
        from fallline.compare.configurations import Configurations

        groups: dict[tuple[str, Stage], list[Trial]] = {}
        configurations = Configurations(self.plan)
        whole = [each for trial in self.trials if (each := configurations.add(trial)) is not None]
        for trial in sorted(whole, key=lambda t: (t.spec.study, t.spec.index, t.spec.seed)):
            groups.setdefault((trial.spec.arm, trial.spec.stage), []).append(trial)
        return groups
