"""What is compared: each optimizer at each level of the scientific parameters, over one space."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate, product
from math import prod
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Arm
from fallline.compare.search.conditions import settled
from fallline.compare.search.space_file import ALL, SpaceFile, check_levels, extremes, read_space
from fallline.core.entry import MISSING, Entry
from fallline.core.errors import suggestion
from fallline.core.registry import entries, find, of_the_user
from fallline.core.space import Choice, Range
from fallline.tasks.settings import TRAINING, model_arguments
from fallline.tasks.task import Task

#: More arms than this are a mistake: each costs as much as tuning an optimizer.
MOST_ARMS = 100
#: What is compared when nobody names optimizers, beside the user's own: those that textbooks have.
CLASSIC = (
    "gd", "online-sgd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw",
    "adamax", "nadam", "radam", "proximal-sgd", "lookahead",
)  # fmt: skip
#: The word that stands for every registered optimizer.
EVERY = "all"


def arms_of(
    optimizers: str | Iterable[str | Callable[..., Any]],
    task: Task,
    trials: int,
    *,
    space: Any = None,
    scientific: Mapping[str, Sequence[Any]] | None = None,
) -> dict[str, Arm]:
    """Return the arms of a comparison by name: every optimizer at every combination of scientific levels.

    The space of an arm is what the optimizer publishes (its learning rate alone when trials are few),
    overlaid by what the user asked for, and what the task and the user let vary in training and model
    (nuisance parameters, tuned anew for each arm). What has a level or a fixed value is not searched.

    Args:
        optimizers: names that `find` knows, separated by commas or one by one, or classes of a module;
            ``"all"`` is every registered one.
        task: takes the settings of training and model; what it does not take is the optimizer's.
        trials: how many configurations of each arm are tried.
        space: what `read_space` reads.
        scientific: levels of parameters that are compared, beside those of ``space``.

    Raises:
        ComparisonError: a setting that nobody takes, or two take; a missing one; a condition that cannot be
            checked; an optimizer named twice; more than 100 arms.
        UnknownNameError: an optimizer that does not exist.

    Example:
        >>> import torch
        >>> data = torch.zeros(8, 2), torch.zeros(8).long()
        >>> task = Task(lambda: torch.nn.Linear(2, 2), data, data)
        >>> arms = arms_of("sgd,adamw", task, trials=8, scientific={"batch_size": [16, 32]})
        >>> list(arms)
        ['sgd, batch_size=16', 'sgd, batch_size=32', 'adamw, batch_size=16', 'adamw, batch_size=32']
        >>> arms["sgd, batch_size=16"].space
        {'lr': {'low': 0.001, 'high': 10.0, 'scale': 'log'}}
    """
    file = read_space(space)
    levels = {**file.scientific, **check_levels("scientific", scientific or {})}
    chosen = _chosen(optimizers)
    count = len(chosen) * prod(map(len, levels.values()))
    if count > MOST_ARMS:
        raise ComparisonError(f"{count} arms are more than {MOST_ARMS}; compare fewer optimizers or levels")
    recipe = _Recipe(task, file, levels, trials)
    recipe.refuse_unknown(chosen)
    arms = {
        _name(entry, level, len(chosen)): recipe.arm(entry, level)
        for entry in chosen
        for level in _combinations(levels)
    }
    if len(arms) < count:
        raise ComparisonError(f"two arms have the same name; these differ: {', '.join(arms)}")
    return arms


def name_of(optimizer: str | Callable[..., Any]) -> str:
    """Return the name under which a worker process, too, finds the optimizer; a class's is the shortest.

    >>> import torch
    >>> name_of("adamw"), name_of(torch.optim.AdamW)
    ('adamw', 'torch.optim.AdamW')
    """
    if isinstance(optimizer, str):
        return optimizer.strip()
    if isinstance(optimizer, Entry):
        return optimizer.name
    module, name = getattr(optimizer, "__module__", ""), getattr(optimizer, "__qualname__", "<")
    if not callable(optimizer) or "<" in name:
        raise ComparisonError(f"{optimizer!r} cannot be named in another process; define it in a module")
    packages = accumulate(module.split("."), "{}.{}".format)
    public = (each for each in packages if getattr(sys.modules.get(each), name, None) is optimizer)
    return f"{next(public, module)}{'.' if '.' not in name else ':'}{name}"


def usual() -> list[str]:
    """Return the names of what is compared when nobody names optimizers."""
    return [*CLASSIC, *of_the_user()]


def _chosen(optimizers: str | Iterable[str | Callable[..., Any]]) -> list[Entry]:
    given = optimizers.split(",") if isinstance(optimizers, str) else optimizers
    names = [name for name in map(name_of, given) if name]
    if names == [EVERY]:
        return list(entries().values())
    if not names:
        raise ComparisonError("no optimizer named; `fallline list` shows them all")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ComparisonError(f"optimizer {twice!r} is named twice; name it once")
    return [find(name) for name in names]


def _combinations(levels: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(levels, values, strict=True)) for values in product(*levels.values())]


def _name(entry: Entry, level: Mapping[str, Any], optimizers: int) -> str:
    parts = [f"{name}={_word(value)}" for name, value in level.items()]
    return ", ".join(parts if parts and optimizers == 1 else [entry.name, *parts])


def _word(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class _Recipe:
    """What all arms of a comparison have in common."""

    task: Task
    file: SpaceFile
    levels: Mapping[str, tuple[Any, ...]]
    trials: int

    def arm(self, entry: Entry, level: Mapping[str, Any]) -> Arm:
        """Return the arm of ``entry`` at ``level``."""
        own = {**entry.searched(self.trials), **self._asked(entry)}
        self._refuse_shared(entry, own)
        given = {**own, **self._nuisance_of(entry)}
        varied = {name: each for name, each in given.items() if _varies(each) and name not in level}
        fixed = {**entry.fixed, **{name: each for name, each in given.items() if not _varies(each)}, **level}
        ordered = {name: varied[name] for name in sorted(varied, key=lambda name: name != "lr")}
        space = settled(ordered, self._standing(entry, fixed), f"{self.file.source}: {entry.name}")
        certain = {name for name, each in space.items() if not each.when}
        self._refuse_missing(entry, {*fixed, *certain})
        return Arm(
            entry.name,
            {name: value for name, value in fixed.items() if name not in certain},
            {name: each.to_json() for name, each in space.items()},
        )

    def refuse_unknown(self, chosen: Sequence[Entry]) -> None:
        """Raise ComparisonError for a setting that neither the task nor an optimizer takes."""
        own = {setting for entry in chosen for setting in entry.settings}
        for name, each in self._nuisance.items():
            if name not in own and not self._task_takes(name, each):
                raise ComparisonError(f"{self.file.source}: {self._unknown(name, chosen)}")
        for name in self.file.optimizers.get(ALL, {}).keys() - own:
            hint = suggestion(name, own)
            raise ComparisonError(f"{self.file.source}: [optimizers.all] {name}: no optimizer has it{hint}")
        for name, options in self.levels.items():
            if self._task_takes(name, Choice(options)):
                _refuse_own_batches(name, chosen)
            elif not_taking := [entry for entry in chosen if not entry.takes(name)]:
                raise ComparisonError(f"scientific: {self._unknown(name, not_taking)}")

    @property
    def _nuisance(self) -> dict[str, Any]:
        return {**self.task.search, **self.file.task}

    def _asked(self, entry: Entry) -> dict[str, Any]:
        """Return what the user says about settings of ``entry``."""
        common = self.file.optimizers.get(ALL, {})
        common = {name: each for name, each in common.items() if name in entry.settings}
        return {**common, **self.file.optimizers.get(entry.name, {})}

    def _nuisance_of(self, entry: Entry) -> dict[str, Any]:
        """Return what varies in training and model; an entry with its own batches has no batch size."""
        own = {"batch_size"} if entry.batch_size else set()
        return {
            name: each
            for name, each in self._nuisance.items()
            if name not in own and (name in entry.settings or self._task_takes(name, each))
        }

    def _task_takes(self, name: str, each: Any) -> bool:
        rests = [self.task.given({name: value})[1] for value in extremes(each)]
        return any(name not in rest for rest in rests)

    def _refuse_shared(self, entry: Entry, own: Mapping[str, Any]) -> None:
        for name, each in {**entry.fixed, **own}.items():
            if self._task_takes(name, each):
                raise ComparisonError(
                    f"{name!r} is a setting both of the task and of optimizer {entry.name!r}; "
                    "rename the argument of the model"
                )

    def _standing(self, entry: Entry, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return what every setting is that is not searched."""
        training = {name: getattr(self.task, name) for name in TRAINING}
        defaults = {**training, **self._model, **entry.settings}
        return {**{name: value for name, value in defaults.items() if value is not MISSING}, **fixed}

    @property
    def _model(self) -> dict[str, Any]:
        """The model's arguments with their defaults."""
        arguments = model_arguments(self.task.model)
        return {name: signature(self.task.model).parameters[name].default for name in arguments}

    def _refuse_missing(self, entry: Entry, known: set[str]) -> None:
        sources = (
            ("model", self._model, "[task]"),
            (entry.name, entry.settings, f'[optimizers."{entry.name}"]'),
        )
        for what, settings, section in sources:
            missing = [name for name, default in settings.items() if default is MISSING and name not in known]
            if missing:
                raise ComparisonError(
                    f"{what} needs {', '.join(missing)}, which nobody gives; say it in a space file: "
                    f"{section} {missing[0]} = ..."
                )

    def _unknown(self, name: str, chosen: Sequence[Entry]) -> str:
        own = {setting for entry in chosen for setting in entry.settings}
        known = {*TRAINING, *self._model, *own}
        names = ", ".join(entry.name for entry in chosen)
        return f"{name!r} is a setting of neither training, model nor {names}{suggestion(name, known)}"


def _varies(each: Any) -> bool:
    return isinstance(each, (Range, Choice))


def _refuse_own_batches(name: str, chosen: Sequence[Entry]) -> None:
    own = [entry.name for entry in chosen if name == "batch_size" and entry.batch_size]
    if own:
        raise ComparisonError(f"scientific: {', '.join(own)} has a batch size of its own; leave it out")
