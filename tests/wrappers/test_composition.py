"""Every ordered pair of wrappers works and resumes bit for bit, or is refused with the way round."""

import copy
import itertools
import pickle

import pytest
import torch
from nest import WRAPPERS, flat, loss, nest, problem, reloaded, train, twin

import fallline

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


MAKERS = {
    "scheduled AdamW": lambda p, lr: fallline.AdamW(p, lr=lr * fallline.schedules.cosine(40)),
    "scheduled SGD": lambda p, lr: fallline.SGD(
        p, lr=fallline.schedules.linear(0.1, 0.0, 40), momentum=0.9 * fallline.schedules.constant()
    ),
    "Adagrad": fallline.Adagrad,
    "NAdam": fallline.NAdam,
    "RAdam, clipped": lambda p, lr: fallline.RAdam(p, lr, before=[fallline.gradients.clip_by_value(0.5)]),
    "torch Adamax": torch.optim.Adamax,
    "torch Adafactor": torch.optim.Adafactor,
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_each_wrapper_resumes_with_other_optimizers_and_schedules(name, maker):
    assert_resumes([name], MAKERS[maker], 3)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("make", [fallline.AdamW, torch.optim.AdamW], ids=["ours", "torchs"])
def test_torchs_schedulers_reach_the_inner_optimizer(name, make):
    """Stepping with the scheduled rate is stepping with the rates written out."""
    courses = []
    for scheduled in (True, False):
        params = problem()
        optimizer = nest([name], params, make)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) if scheduled else None
        for t in range(5):
            train(optimizer, 1, t)
            if scheduler and optimizer.stepped:
                scheduler.step()
            elif optimizer.stepped:
                optimizer.param_groups[0]["lr"] *= 0.5
        courses.append(params)
    assert all(map(torch.equal, *courses))
    assert optimizer.param_groups[0]["lr"] < 0.05


@pytest.mark.parametrize("name", [n for n in WRAPPERS if n not in ("SAM", "ASAM", "GradientRelease")])
def test_gradient_scalers_unscale_for_every_wrapper(name):
    params, plain = problem(dtype=torch.float32), problem(dtype=torch.float32)
    optimizer, reference = nest([name], params), nest([name], plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for t in range(6):
        for p, q in zip(params, plain, strict=True):
            g = torch.sin(q.detach() + t)
            p.grad, q.grad = scaler.scale(g), g
        scaler.step(optimizer)
        scaler.update()
        reference.step()
    assert all(map(torch.equal, params, plain))


@pytest.mark.parametrize("name", [n for n in WRAPPERS if n not in ("Accumulate", "GradientRelease")])
def test_sparse_gradients_pass_through(name):
    """An inner optimizer that takes sparse gradients gets them."""
    embedding = torch.nn.Embedding(6, 2, sparse=True)
    optimizer = WRAPPERS[name](torch.optim.SparseAdam(embedding.parameters()))
    before = embedding.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        embedding(torch.tensor([1, 4])).square().sum().backward()

    for _ in range(4):
        optimizer.step(closure)
    changed = (embedding.weight != before).any(dim=1)
    assert changed.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("name", [n for n in WRAPPERS if n not in ("GradientRelease", "Accumulate")])
def test_a_step_that_the_inner_optimizer_skips_is_none_for_the_wrapper(name):
    """Training with a gradient that is not finite in the middle is training without that step."""

    def make(params, lr):
        return fallline.AdamW(params, lr, skip_nonfinite=True)

    params, plain = problem(), problem()
    optimizer, reference = nest([name], params, make), nest([name], plain, make)
    for each in (optimizer, reference):
        train(each, 3)

    def broken():
        optimizer.zero_grad()
        (loss(params) * float("nan")).backward()

    optimizer.step(broken)
    assert not optimizer.stepped
    for each in (optimizer, reference):
        train(each, 4, 3)
        assert each.stepped
    for p, q in zip(params, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)  # ScheduleFree computes y anew


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
