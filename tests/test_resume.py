"""Stop anywhere, resume, and nothing shows: optimizer x transforms x wrappers x schedule x way to keep it."""

import copy
import itertools
import pickle
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fallline
from fallline import follow_parameters, prox
from fallline.gradients import add_noise, clip_by_global_norm, clip_by_quantile
from optimizers.cases import CASES

sys.path += [str(Path(__file__).parent / folder) for folder in ("wrappers", "schedules")]
from every_schedule import SCHEDULES
from nest import WRAPPERS, problem, reloaded, train, twin

EXTRAS = [
    {},
    {"before": [clip_by_global_norm(0.5)], "after": [follow_parameters(0.1)], "skip_nonfinite": True},
    {"before": [add_noise(0.01), clip_by_quantile(0.9)]},
    {"after": [prox.Box(-1.5, 1.5)]},
]
#: Of those, what needs all gradients at once, which a released one is gone for.
OF_ALL_GRADIENTS = (1, 2)
#: Nests of one and of two.
NESTS = [
    (),
    *((name,) for name in WRAPPERS),
    ("EMA", "Lookahead"),
    ("SAM", "Accumulate"),
    ("Lookahead", "SWA"),
]


def through_file(state, folder):
    fallline.save(state, folder / "checkpoint")
    return fallline.load(folder / "checkpoint")


def loaded(make, optimizer, params, state):
    """Return a fresh optimizer over copies of the parameters, with ``state`` loaded."""
    copies = twin(params)
    again = make(copies)
    again.load_state_dict(state)
    return again, copies


WAYS = {
    "state_dict": lambda make, o, p, _: loaded(make, o, p, copy.deepcopy(o.state_dict())),
    "torch.save": lambda make, o, p, _: loaded(make, o, p, reloaded(o.state_dict())),
    "fallline.save": lambda make, o, p, folder: loaded(make, o, p, through_file(o.state_dict(), folder)),
    "pickle": lambda make, o, p, _: pickle.loads(pickle.dumps((o, p))),
    "deepcopy": lambda make, o, p, _: copy.deepcopy((o, p)),
}


def assert_resumes(case, extra, nest, schedule, way, stop, more, dtype, folder):
    cls, given_settings = CASES[case]
    extra = 0 if "GradientRelease" in nest and extra in OF_ALL_GRADIENTS else extra
    if hasattr(cls, "eval"):  # it refuses those: its eval() would not reach the parameters
        nest = [name for name in nest if name != "OffloadState"]
    lr = given_settings.get("lr", 0.01) * copy.deepcopy(SCHEDULES[schedule])

    def make(params):
        optimizer = cls(params, **{**given_settings, "lr": copy.deepcopy(lr)}, **EXTRAS[extra])
        for name in reversed(nest):
            optimizer = WRAPPERS[name](optimizer)
        return optimizer

    whole, parts = problem(dtype=dtype), problem(dtype=dtype)
    train(make(whole), stop + more)
    optimizer = make(parts)
    train(optimizer, stop)
    resumed, params = WAYS[way](make, optimizer, parts, folder)
    train(resumed, more, stop)
    for p, q in zip(whole, params, strict=True):
        assert torch.equal(p, q)


@settings(max_examples=40, deadline=None)
@given(
    case=st.integers(0, len(CASES) - 1),
    extra=st.integers(0, len(EXTRAS) - 1),
    nest=st.sampled_from(NESTS),
    schedule=st.integers(0, len(SCHEDULES) - 1),
    way=st.sampled_from(list(WAYS)),
    stop=st.integers(0, 7),
    more=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_going_on_is_as_not_having_stopped(
    case, extra, nest, schedule, way, stop, more, dtype, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("resume")
    assert_resumes(case, extra, nest, schedule, way, stop, more, dtype, folder)


@pytest.mark.long
@pytest.mark.parametrize("nest", NESTS, ids="-".join)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_whole_matrix(case, nest, tmp_path):
    ways, stops = itertools.cycle(WAYS), itertools.cycle(range(1, 6))
    for schedule in range(len(SCHEDULES)):
        extra = schedule % len(EXTRAS)
        assert_resumes(case, extra, nest, schedule, next(ways), next(stops), 3, torch.float32, tmp_path)
