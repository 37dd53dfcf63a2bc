"""Loading optimizer state: torch's checkpoints and ours, matched by name, every dtype kept exactly."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain, count, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fallline.core.errors import CheckpointMismatch
from fallline.core.parts import STEP
from fallline.core.plan import plan
from fallline.core.precision import PRECISION
from fallline.core.shards import Spread, elsewhere, is_joint, spread_of
from fallline.core.state import bare, coded, fits, laid
from fallline.core.timetable import STATES

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer

Settings = dict[str, Any]

#: State keys that other packages write, and what turns them into ours.
CONVERTERS = dict.fromkeys(
    ("state1", "state2", "__bnb_optimizer_quant_state__"), "fallline.checkpoints.from_bitsandbytes"
)


class Saved(NamedTuple):
    """A parameter as a state dict knows it: its id there, and the group it was in."""

    id: Any
    group: Settings


class Kept(NamedTuple):
    """The state there may be of a parameter: each key's shape, keys always there, narrow formats."""

    shapes: dict[str, torch.Size]
    always: set[str]
    coded: dict[str, tuple[tuple[int, ...], torch.dtype]]


class Report:
    """Every mismatch between a state dict and an optimizer, those of one kind together."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, problem: str, where: str) -> None:
        """Note ``problem`` at the parameter, group or setting ``where``."""
        self.found.setdefault(problem, []).append(where)

    def __str__(self) -> str:
        return "\n".join(f"{problem}: {_listed(places)}" for problem, places in self.found.items())


def _listed(places: list[str]) -> str:
    more = f" and {len(places) - 10} more" if len(places) > 10 else ""
    return ", ".join(places[:10]) + more


def load(
    optimizer: "Optimizer",
    state_dict: Mapping[str, Any],
    load_as_torch: Callable[[dict[str, Any]], None],
    strict: bool = True,
) -> None:
    """Load ``state_dict`` through torch's own method, then undo its casts and its sharing of tensors.

    The last hook before loading arranges what the user's own hooks left. An error leaves all as it was.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"a {type(state_dict).__name__} is no state dict; give what state_dict() returned")
    before = optimizer.state, optimizer.param_groups, optimizer._timetable.states()
    arranged: dict[str, Any] = {}

    def arrange(_: Any, final: dict[str, Any]) -> dict[str, Any]:
        arranged.update(_arranged(optimizer, final, strict))
        return arranged

    handles = [
        optimizer.register_load_state_dict_pre_hook(arrange),
        optimizer.register_load_state_dict_post_hook(lambda _: _restore(optimizer, arranged), prepend=True),
    ]
    try:
        load_as_torch(dict(state_dict))
    except BaseException:
        _undo(optimizer, *before)
        raise
    finally:
        for handle in handles:
            handle.remove()


def _undo(optimizer: "Optimizer", state: Any, groups: list[Settings], schedules: list[Any]) -> None:
    """Put back what the optimizer and its schedules held before loading."""
    optimizer.state, optimizer.param_groups = state, groups
    for group, states in zip(groups, schedules, strict=True):
        group[STATES] = states
    optimizer._timetable.restore(groups, steps_made(optimizer))


def _arranged(optimizer: "Optimizer", saved: dict[str, Any], strict: bool) -> dict[str, Any]:
    """Return ``saved`` in the order and grouping of ``optimizer``, without what does not fit it."""
    _refuse_malformed(saved)
    numbered = {_number(key): value for key, value in saved["state"].items()}
    saved = {**saved, "state": numbered}
    report = Report()
    rows = _matched(optimizer.param_groups, saved["param_groups"], report)
    groups = _groups(optimizer, saved["param_groups"], rows, report)
    state = _states(optimizer, saved["state"], groups, rows, report)
    ids = {i for group in saved["param_groups"] for i in group["params"]}
    others = {key: value for key, value in saved["state"].items() if key not in ids}
    for key in [key for key in others if isinstance(key, int)]:
        report.add("loaded state dict has state of no parameter", str(key))
        del others[key]
    if report.found and strict:
        raise CheckpointMismatch(f"{report}\nNothing was loaded; strict=False loads what fits.")
    if report.found:
        warnings.warn(f"What fits was loaded of a state dict that differs.\n{report}", stacklevel=2)
    return {**saved, "state": {**others, **state}, "param_groups": groups}


def _number(key: Any) -> Any:
    """Return the number of a parameter that JSON has made text of."""
    return int(key) if isinstance(key, str) and key.isdigit() else key


def _refuse_malformed(saved: Mapping[str, Any]) -> None:
    inner = [key for key, value in saved.items() if isinstance(value, Mapping) and "param_groups" in value]
    hint = f"; its entry {inner[0]!r} looks like one" if inner else "; give what state_dict() returned"
    lacking = {"state", "param_groups"} - set(saved)
    if lacking:
        raise CheckpointMismatch(f"this is no state dict of an optimizer: it lacks {sorted(lacking)}{hint}")
    state, groups = saved["state"], saved["param_groups"]
    if not isinstance(state, Mapping) or not all(isinstance(g, Mapping) and "params" in g for g in groups):
        raise CheckpointMismatch(f"this is no state dict of an optimizer: a group has no 'params'{hint}")
    for i, group in enumerate(groups):
        if len(group.get("param_names", group["params"])) != len(group["params"]):
            raise CheckpointMismatch(
                f"saved group {i} has not as many 'param_names' as 'params'; "
                f"delete its 'param_names' to match by position"
            )
        for key in group["params"]:
            if not isinstance(state.get(key, {}), Mapping):
                raise CheckpointMismatch(f"the state of parameter {key!r} is no dict{hint}")


def _matched(groups: list[Settings], saved: list[Settings], report: Report) -> list[list[Saved | None]]:
    """Return, for each group of the optimizer, the saved counterparts of its parameters."""
    ours, theirs = _names(groups), _names(saved)
    if ours is None or theirs is None:
        return _by_position(groups, saved, report)
    return _by_name(ours, theirs, saved, report)


def _names(groups: list[Settings]) -> list[list[str]] | None:
    """Return each group's parameter names, or None unless all are known and different."""
    names = [list(group.get("param_names", group["params"])) for group in groups]
    flat = list(chain.from_iterable(names))
    known = all(isinstance(name, str) for name in flat) and len(set(flat)) == len(flat)
    return names if known else None


def _by_name(
    ours: list[list[str]], theirs: list[list[str]], saved: list[Settings], report: Report
) -> list[list[Saved | None]]:
    found = {
        name: Saved(i, group)
        for names, group in zip(theirs, saved, strict=True)
        for name, i in zip(names, group["params"], strict=True)
    }
    here = list(chain.from_iterable(ours))
    missing = [name for name in here if name not in found]
    unexpected = [name for name in found if name not in set(here)]
    hint = _prefix(missing, unexpected)
    for name in missing:
        report.add(f"loaded state dict lacks parameters that are here{hint}", repr(name))
    for name in unexpected:
        report.add(f"loaded state dict has parameters that are not here{hint}", repr(name))
    return [[found.get(name) for name in names] for names in ours]


def _prefix(missing: list[str], unexpected: list[str]) -> str:
    """Return the remedy where all names differ by what a wrapped module puts before them."""
    for prefix in ("module.", "_orig_mod."):
        if missing and {prefix + name for name in missing} == set(unexpected):
            return f" (the saved names begin with {prefix!r}: take it off)"
        if missing and {prefix + name for name in unexpected} == set(missing):
            return f" (the saved names lack {prefix!r}: name the parameters of the inner module)"
    return ""


def _by_position(groups: list[Settings], saved: list[Settings], report: Report) -> list[list[Saved | None]]:
    """Match groups of the same place and size; those of another size have no counterpart."""
    if len(groups) != len(saved):
        sizes = f"{len(saved)} saved, {len(groups)} here"
        report.add("loaded state dict has a different number of parameter groups", sizes)
    return [_row(i, *each, report) for i, each in enumerate(zip_longest(groups, saved[: len(groups)]))]


def _row(i: int, group: Settings, other: Settings | None, report: Report) -> list[Saved | None]:
    wanted = len(group["params"])
    if other is None:
        return [None] * wanted
    if len(other["params"]) != wanted:
        report.add(
            "loaded state dict contains a parameter group that doesn't match the size of optimizer's group",
            f"group {i} ({len(other['params'])} saved, {wanted} here)",
        )
        return [None] * wanted
    return [Saved(key, other) for key in other["params"]]


def _groups(
    optimizer: "Optimizer", saved: list[Settings], rows: list[list[Saved | None]], report: Report
) -> list[Settings]:
    """Return the optimizer's groups with the settings saved for their parameters."""
    numbers, groups = count(), []
    for i, (group, row) in enumerate(zip(optimizer.param_groups, rows, strict=True)):
        origins = {id(s.group): s.group for s in row if s} if row else dict(enumerate(saved[i : i + 1]))
        settings = _settings(optimizer, i, list(origins.values()), report)
        names = group.get("param_names") or next((g.get("param_names") for g in origins.values()), None)
        named = {"param_names": list(names)} if names is not None and len(names) == len(row) else {}
        groups.append({**settings, **named, "params": [next(numbers) for _ in row]})
    return groups


def _settings(optimizer: "Optimizer", i: int, origins: list[Settings], report: Report) -> Settings:
    """Return the settings of group ``i``: those of the saved group that its parameters were in.

    Where they were in several that disagree about a setting, and where none is saved, the group's own stays.
    """
    own = _without_params(optimizer.param_groups[i])
    if not origins:
        return own
    settings, *others = [_in_precision_of(own, _without_params(origin)) for origin in origins]
    for other in others:
        for key in [k for k, value in settings.items() if k in own and not _same(value, other.get(k))]:
            report.add(
                f"parameters of group {i} were saved in groups that disagree",
                f"{key} {settings[key]} and {other.get(key)}",
            )
            settings[key] = own[key]
    filled_in = {*optimizer.added_later, *optimizer._added}
    for key in sorted(set(optimizer.defaults) - set(settings) - filled_in):
        report.add(f"loaded state dict lacks settings of {type(optimizer).__name__}", f"{key} in group {i}")
        settings[key] = own[key]
    try:
        settings = optimizer.settings_loaded(own, settings)
        optimizer._check({**own, **settings})
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        report.add(str(error), f"group {i}")
        return own
    return settings


def _without_params(group: Settings) -> Settings:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _in_precision_of(own: Settings, saved: Settings) -> Settings:
    """Return saved settings, but for the precision, which is that of the optimizer: state is converted."""
    kept = {PRECISION: own[PRECISION]} if PRECISION in own else {}
    return {key: value for key, value in saved.items() if key != PRECISION} | kept


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return bool(a == b)


def _states(
    optimizer: "Optimizer",
    saved: Mapping[Any, Any],
    groups: list[Settings],
    rows: list[list[Saved | None]],
    report: Report,
) -> dict[int, Any]:
    """Return the state of each parameter by its number here: the saved one if it fits, or its present one."""
    state: dict[int, Any] = {}
    for ours, group, row in zip(optimizer.param_groups, groups, rows, strict=True):
        kept_by_shape = _kept(optimizer, {**ours, **group})
        for number, label, p, match in zip(group["params"], _labels(group), ours["params"], row, strict=True):
            entry = saved.get(match.id, {}) if match else {}
            name, kept = type(optimizer).__name__, kept_by_shape(p.shape, spread_of(p))
            faults = list(_faults(name, entry, kept, p))
            for fault in (*faults, *_gaps(name, entry, kept)):
                report.add(fault, label)
            if match is None or faults:
                entry = optimizer.state.get(p, {})
            if entry:
                state[number] = entry
    return state


def _labels(group: Settings) -> list[str]:
    names = group.get("param_names")
    return [repr(name) for name in names] if names else [f"parameter {n}" for n in group["params"]]


def _kept(optimizer: "Optimizer", group: Settings) -> Callable[[torch.Size, Spread | None], Kept]:
    """Return the state there may be, by a parameter's shape, under ``group`` or with one setting switched.

    A setting may be switched in mid-training, and the state of the time before is saved along.
    """
    switches = [h for h in optimizer.hyperparameters_of(group) if isinstance(h.default, (bool, int, float))]
    values = {h.name: (False, True) if isinstance(h.default, bool) else (0.0, 0.5) for h in switches}
    group = {**group, PRECISION: None}
    variants = [*({**group, name: value} for name, pair in values.items() for value in pair), group]
    plans = [plan(optimizer.transforms(each)) for each in variants]

    @cache
    def kept(shape: torch.Size, spread: Spread | None) -> Kept:
        rules = [each.on(tuple(shape)) for each in plans]
        shapes = [each.shapes(tuple(shape)) for each in rules]
        every = {STEP: torch.Size()} | {n: torch.Size(s) for each in shapes for n, s in each.items()}
        codes = {key: found for each in rules for key, found in coded(each, tuple(shape), spread).items()}
        return Kept(every, set.intersection(*map(set, shapes)), codes)

    return kept


def _faults(name: str, entry: Mapping[str, Any], kept: Kept, p: Tensor) -> Iterator[str]:
    """Yield why the saved state ``entry`` cannot be that of ``p`` in the optimizer called ``name``."""
    held = {key: value for key, value in entry.items() if value is not None}
    for key, value in held.items():
        if key in CONVERTERS:
            yield f"{key} is of another package; convert the state dict with {CONVERTERS[key]}"
        elif key in kept.coded:
            yield from _misfits(key, value, *kept.coded[key], p=p)
        elif key not in kept.shapes:
            keys = ", ".join(sorted(kept.shapes))
            yield f"state {key!r} is none of {name}'s ({keys}); it was saved by another optimizer"
        else:
            yield from _misfits(key, value, kept.shapes[key], p=p)


def _gaps(name: str, entry: Mapping[str, Any], kept: Kept) -> Iterator[str]:
    """Yield what the saved state lacks; the rest of it is right, and what is missing starts anew."""
    held = {each for key, value in entry.items() if value is not None for each in (key, bare(key))}
    for key in sorted(kept.always - held) if held else ():
        yield f"state lacks {key!r}, which {name} needs"


def _misfits(
    key: str, value: Any, wanted: tuple[int, ...], coded_as: torch.dtype | None = None, *, p: Tensor
) -> Iterator[str]:
    if not isinstance(value, Tensor):
        if wanted or isinstance(value, bool) or not isinstance(value, (int, float)):
            yield f"state {key!r} is a {type(value).__name__}, not a tensor"
    elif hasattr(value, "codes"):
        yield f"state {key!r} is quantized; convert the state dict with fallline.checkpoints.from_torchao"
    elif value.shape != wanted:
        remedy = "; codes belong to one sharding: save with precision=None after a step" if coded_as else ""
        yield f"state {key!r} has shape {tuple(value.shape)}, not {tuple(wanted)}{remedy}"
    elif is_joint(value) and elsewhere(spread_of(p), value):
        yield (
            f"state {key!r} is spread over processes, and not those of its parameter; load it with "
            f"torch.distributed.checkpoint, which places it, or save it with full_state_dict=True"
        )
    elif not fits(value, p, coded_as):
        yield f"state {key!r} is {value.dtype}, which does not fit a parameter of {p.dtype}"


def _restore(optimizer: "Optimizer", arranged: dict[str, Any]) -> None:
    rows = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    for i, (group, p) in enumerate(rows):
        for key, value in arranged["state"].get(i, {}).items():
            if isinstance(value, Tensor):
                device = value.device if value.dim() == 0 and not p.is_cpu else p.device
                value = laid(key, value, plan(optimizer.transforms(group)).on(tuple(p.shape)), p)
                optimizer.state[p][key] = value.detach().to(device, copy=True)


def tensors_from_numbers(optimizer: "Optimizer") -> None:
    """Turn the plain numbers that old checkpoints hold (``step``, ``mu_product``) into 0-d tensors."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    for state in optimizer.state.values():
        for key, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                state[key] = torch.tensor(float(value), dtype=dtype)


def names(optimizer: "Optimizer") -> list[str]:
    """Return the name of every parameter in order, or its number where names are not known."""
    numbers = count()
    groups = [{**g, "params": [next(numbers) for _ in g["params"]]} for g in optimizer.param_groups]
    return [label for group in groups for label in _labels(group)]


def steps_made(optimizer: "Optimizer") -> int:
    """Return the highest step counter in the state, 0 where nothing counts."""
    counters = [state.get(STEP, 0) for state in optimizer.state.values() if isinstance(state, dict)]
    return max((int(counter) for counter in counters), default=0)
