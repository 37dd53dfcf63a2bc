"""Stopping in the middle: state dicts, files, copies and pickles go on as if nothing had happened."""

import copy
import io
import pickle
from typing import Any

import torch

from fallline.testing.check import a_plan, check
from fallline.testing.expectation import expect, expect_same
from fallline.testing.subject import Run, Subject


def through_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return what arrives when it is saved and loaded with nothing executed on the way."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _expect_equal_runs(wanted: Run, got: Run, what: str) -> None:
    expect_same(wanted.values, got.values, f"the parameters of {what}")
    for i, (a, b) in enumerate(zip(wanted.state, got.state, strict=True)):
        expect(a.keys() == b.keys(), f"state {sorted(a)} for tensor {i}", str(sorted(b)))
    expect_same(wanted.kept, got.kept, f"the state of {what}")


def _twin(subject: Subject, run: Run) -> Run:
    """Return a new training over copies of the parameters, without the state."""
    return subject.start(params=run.twins)


@check()
def a_state_dict_goes_on_bit_for_bit(subject: Subject) -> None:
    """Saved as bytes in mid-training and loaded into a new optimizer, a training goes on to the same bits."""
    for dtype in (torch.float32, torch.float64):
        run = subject.start(dtype).train(range(3))
        saved = through_file(run.optimizer.state_dict())
        resumed = _twin(subject, run)  # saving may bring parameters up to date
        resumed.optimizer.load_state_dict(saved)
        for each in (run, resumed):
            each.train(range(3, 6))
        _expect_equal_runs(run, resumed, f"a training without a stop, in {dtype}")


@check()
def a_state_dict_has_the_settings(subject: Subject) -> None:
    """A loaded state dict brings its groups' settings with it."""
    run = subject.start()
    for group in run.optimizer.param_groups:
        if "lr" in group:
            group["lr"] = float(group["lr"]) * 0.75
    resumed = subject.start()
    resumed.optimizer.load_state_dict(through_file(run.optimizer.state_dict()))
    wanted, got = (
        [{n: v for n, v in group.items() if n != "params"} for group in each.optimizer.param_groups]
        for each in (run, resumed)
    )
    expect(wanted == got, str(wanted), str(got))


@check()
def a_loaded_dict_is_not_shared(subject: Subject) -> None:
    """Training on after loading leaves the dict that was loaded as it was."""
    run = subject.start().train(range(2))
    saved = through_file(run.optimizer.state_dict())
    kept = copy.deepcopy(saved)
    resumed = _twin(subject, run)
    resumed.optimizer.load_state_dict(saved)
    resumed.train(range(2, 4))
    expect_same(_tensors(kept), _tensors(saved), "the loaded dict as it was")
    groups, before = (each.get("param_groups") for each in (saved, kept))
    expect(groups == before, f"groups as they were: {before}", str(groups))


def _tensors(saved: Any) -> list[torch.Tensor]:
    """Return every tensor in a nest of dicts and lists."""
    if isinstance(saved, torch.Tensor):
        return [saved]
    values = saved.values() if isinstance(saved, dict) else saved if isinstance(saved, (list, tuple)) else ()
    return [x for value in values for x in _tensors(value)]


@check(a_plan)
def a_state_that_lacks_something_is_refused(subject: Subject) -> None:
    """A state dict of which an entry was lost is refused by that entry's name, and nothing changes."""
    run = subject.start().train(range(2))
    saved = through_file(run.optimizer.state_dict())
    entry = next(iter(saved["state"].values()), {})
    name = next((name for name in entry if name != "step"), None)
    if name is None or len(entry) == 1:  # a tensor without any state is one that has not stepped yet
        return
    del entry[name]
    before = run.kept
    try:
        run.optimizer.load_state_dict(saved)
    except ValueError as error:
        expect(name in str(error), f"a refusal that names {name!r}", str(error))
        expect_same(before, run.kept, "the state that there was")
    else:
        expect(False, f"a refusal that names {name!r}", "it was loaded")


@check()
def a_deep_copy_goes_on_alone(subject: Subject) -> None:
    """A deep copy takes the same course, and does not touch what it was copied from."""
    for steps in (0, 3):
        run = subject.start().train(range(steps))
        optimizer, params = copy.deepcopy((run.optimizer, run.params))
        kept, twin = run.values, Run(optimizer, params, subject.gradient).train(range(steps, 6))
        expect_same(kept, run.params, "the original's parameters where they were")
        _expect_equal_runs(run.train(range(steps, 6)), twin, f"one copied after {steps} steps")


@check()
def a_pickle_goes_on(subject: Subject) -> None:
    """An unpickled optimizer takes the same course, also one that has not stepped yet."""
    for steps, protocol in ((0, 2), (3, 2), (3, pickle.HIGHEST_PROTOCOL)):
        run = subject.start().train(range(steps))
        optimizer, params = pickle.loads(pickle.dumps((run.optimizer, run.params), protocol))
        twin = Run(optimizer, params, subject.gradient).train(range(steps, 6))
        expect(type(optimizer) is type(run.optimizer), type(run.optimizer).__name__, type(optimizer).__name__)
        _expect_equal_runs(run.train(range(steps, 6)), twin, f"one pickled after {steps} steps")
