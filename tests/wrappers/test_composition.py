"""Every ordered pair of wrappers works and resumes bit for bit, or is refused with the way round."""

import copy
import itertools
import pickle

import pytest
import torch
from nest import flat, problem, reloaded, train, twin

import fallline

WRAPPERS = {
    "Lookahead": lambda o: fallline.Lookahead(o, k=2),
    "EMA": lambda o: fallline.EMA(o, decay=0.9, warmup=True),
    "Polyak": lambda o: fallline.Polyak(o, start=1),
    "SWA": lambda o: fallline.SWA(o, start=1, every=2),
    "SAM": lambda o: fallline.SAM(o, rho=0.1),
    "ASAM": lambda o: fallline.SAM(o, rho=0.5, adaptive=True),
    "ScheduleFree": fallline.ScheduleFree,
    "Accumulate": lambda o: fallline.Accumulate(o, steps=2),
    "GradientRelease": lambda o: fallline.GradientRelease(o, max_norm=1.0),
    "OffloadState": lambda o: fallline.OffloadState(o, dtype=torch.float64),
}

#: What an outer wrapper cannot hold, as (outer, inner), and what the error says to do.
REFUSED = {
    ("SAM", "SAM"): "use an optimizer that takes gradients as they are",
    ("SAM", "ASAM"): "use an optimizer that takes gradients as they are",
    ("ASAM", "SAM"): "use an optimizer that takes gradients as they are",
    ("ASAM", "ASAM"): "use an optimizer that takes gradients as they are",
    ("SAM", "GradientRelease"): "use either without the other",
    ("ASAM", "GradientRelease"): "use either without the other",
    ("ScheduleFree", "SAM"): "put SAM around ScheduleFree",
    ("ScheduleFree", "ASAM"): "put SAM around ScheduleFree",
    ("ScheduleFree", "Accumulate"): "put Accumulate around ScheduleFree",
    ("ScheduleFree", "GradientRelease"): "use either without the other",
    ("Accumulate", "SAM"): "put SAM around Accumulate",
    ("Accumulate", "ASAM"): "put SAM around Accumulate",
    ("Accumulate", "GradientRelease"): "with release.accumulating",
    **{("GradientRelease", n): f"put {n.replace('ASAM', 'SAM')} around GradientRelease" for n in WRAPPERS},
    **{("OffloadState", n): f"put {n.replace('ASAM', 'SAM')} around OffloadState" for n in WRAPPERS},
    ("GradientRelease", "GradientRelease"): "one is enough",
    ("OffloadState", "OffloadState"): "one is enough",
    ("GradientRelease", "OffloadState"): "use either without the other",
    ("OffloadState", "GradientRelease"): "use either without the other",
    ("GradientRelease", "SAM"): "use either without the other",
    ("GradientRelease", "ASAM"): "use either without the other",
    ("GradientRelease", "ScheduleFree"): "use either without the other",
    ("GradientRelease", "Accumulate"): "accumulating",
}

PAIRS = list(itertools.product(WRAPPERS, WRAPPERS))
ALLOWED = [pair for pair in PAIRS if pair not in REFUSED]


def nest(names, params, make=fallline.AdamW):
    """Return an optimizer in wrappers, named from the outermost to the innermost."""
    optimizer = make(params, lr=0.05)
    for name in reversed(names):
        optimizer = WRAPPERS[name](optimizer)
    return optimizer


def assert_resumes(names, make, stop):
    params = problem(dtype=torch.float32)
    optimizer = nest(names, params, make)
    train(optimizer, stop)
    again = nest(names, twin(params), make)
    again.load_state_dict(reloaded(optimizer.state_dict()))
    copies = [again, pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)]
    train(optimizer, 5, stop)
    for each in copies:
        train(each, 5, stop)
        assert all(map(torch.equal, optimizer.params, each.params))
        assert flat(each.state_dict()) == flat(optimizer.state_dict())


@pytest.mark.parametrize("make", [fallline.AdamW, torch.optim.AdamW], ids=["ours", "torchs"])
@pytest.mark.parametrize("pair", ALLOWED, ids=" around ".join)
def test_a_pair_resumes_bit_for_bit(pair, make):
    for stop in (1, 4):
        assert_resumes(pair, make, stop)


@pytest.mark.parametrize("pair", ALLOWED, ids=" around ".join)
def test_a_pair_moves_the_parameters_and_is_explained(pair):
    params = problem()
    before = [p.detach().clone() for p in params]
    optimizer = nest(pair, params)
    train(optimizer, 8)
    assert not any(map(torch.equal, params, before))
    assert all(p.isfinite().all() for p in params)
    text = fallline.explain(optimizer)
    assert text.count("AdamW: 1 batch") == 1
    assert len([line for line in text.splitlines() if line[0] != " "]) == sum(
        len(w.parts) - 1 for w in (optimizer, optimizer.optimizer)
    ) + 1  # fmt: skip


@pytest.mark.parametrize("pair", REFUSED, ids=" around ".join)
def test_a_pair_that_cannot_work_is_refused_with_the_way_round(pair):
    inner = nest(pair[1:], problem())
    with pytest.raises(ValueError, match=REFUSED[pair]):
        WRAPPERS[pair[0]](inner)


def remedied(pairs):
    """The pairs whose error says to nest them the other way round."""
    return [pair for pair in pairs if "around" in REFUSED[pair]]


@pytest.mark.parametrize("pair", remedied(REFUSED), ids=" around ".join)
def test_the_way_round_that_an_error_names_is_allowed(pair):
    nest(pair[::-1], problem())


DEEP = ["SAM", "EMA", "Accumulate", "Lookahead", "ScheduleFree", "Polyak", "OffloadState"]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_deep_nest_resumes_bit_for_bit(stop):
    assert_resumes(DEEP, fallline.AdamW, stop)


def test_refusals_look_through_wrappers_in_between():
    with pytest.raises(ValueError, match="put SAM around Accumulate"):
        nest(["Accumulate", "EMA", "SAM"], problem())
    with pytest.raises(ValueError, match="leaves none"):
        nest(["SAM", "EMA", "GradientRelease"], problem())
    with pytest.raises(ValueError, match="put Accumulate around"):
        nest(["ScheduleFree", "Lookahead", "Accumulate"], problem())


@pytest.mark.long
@pytest.mark.parametrize("triple", list(itertools.product(WRAPPERS, repeat=3)), ids=" ".join)
def test_triples_resume_bit_for_bit(triple):
    pairs = {(a, b) for i, a in enumerate(triple) for b in triple[i + 1 :]}
    if pairs & set(REFUSED):
        with pytest.raises(ValueError, match=r"; (put|use|one|accumulate) "):
            nest(triple, problem())
    else:
        assert_resumes(triple, fallline.AdamW, 3)
