"""SparseAdamW decays all rows at every step, to rounding, though it works on those alone that are touched."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import fallline
from fallline import AdamW, SparseAdamW, schedules
from optimizers.second import SparseAdamW as Second

ROWS, WIDTH = 30, 4
SETTINGS = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}


def table(dtype=torch.float64, kind=nn.Embedding, rows=ROWS):
    start = torch.randn(rows, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return kind.from_pretrained(start.to(dtype), freeze=False, sparse=True)


def words(step, count=5, rows=ROWS):
    """Return rows to read, few in a step and rare ones rarely: some repeat, some wait for long."""
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(step)) ** 4
    return (drawn * rows).long()


def loss(read, step):
    """A loss whose gradient depends on what was read."""
    return (read.sin() * (1 + step % 7)).sum() + read.square().sum()


def watching(embedding, **settings):
    optimizer = SparseAdamW(embedding.parameters(), **{**SETTINGS, **settings})
    optimizer.watch(embedding)
    return optimizer


def train(embedding, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        loss(embedding(words(step)), step).backward()
        optimizer.step()


STEPS = 400
LR = 0.05 * schedules.warmup_cosine(warmup=20, steps=STEPS)
WEIGHT_DECAY = 0.3 * schedules.linear(1.0, 0.1, STEPS)


def test_every_row_that_is_read_is_what_decay_of_all_rows_at_every_step_makes_of_it():
    """To rounding: of each decay on their side, and of the product and its division on ours."""
    embedding = table()
    optimizer = watching(embedding, lr=LR, weight_decay=WEIGHT_DECAY)
    second, dense = Second(betas=(0.8, 0.9), eps=1e-3), embedding.weight.detach().numpy().copy()
    late = 0
    for step in range(STEPS):
        rows = words(step)
        read = embedding(rows)
        tolerance = (step + 1) * 2**-48
        np.testing.assert_allclose(read.detach().numpy(), dense[rows], rtol=tolerance, atol=tolerance)
        theirs = torch.tensor(dense, requires_grad=True)
        loss(nn.functional.embedding(rows, theirs), step).backward()
        optimizer.zero_grad()
        loss(read, step).backward()
        optimizer.step()
        second.lr, second.weight_decay = LR(step), optimizer.param_groups[0]["weight_decay"]
        second.step([dense], [theirs.grad.numpy()])
        late = max(late, np.abs(embedding.weight.detach().numpy() - dense).max())
    assert late > 1  # most rows were left as they were, far from what they are to be
    optimizer.catch_up()
    np.testing.assert_allclose(embedding.weight.detach(), dense, rtol=STEPS * 2**-48, atol=STEPS * 2**-48)


def test_rows_that_nobody_reads_are_not_written():
    embedding = table()
    before = embedding.weight.detach().clone()
    optimizer = watching(embedding)
    train(embedding, optimizer, range(20))
    read = torch.cat([words(step) for step in range(20)]).unique()
    others = torch.tensor([row not in read for row in range(ROWS)])
    assert torch.equal(embedding.weight[others], before[others])
    optimizer.catch_up()
    torch.testing.assert_close(embedding.weight[others], before[others] * (1 - 0.05 * 0.3) ** 20)


def test_where_every_row_is_touched_it_is_adamw():
    embedding, dense = table(), nn.Parameter(table().weight.detach().clone())
    optimizer, reference = watching(embedding), AdamW([dense], **SETTINGS)
    for step in range(10):
        optimizer.zero_grad()
        loss(embedding(torch.arange(ROWS)), step).backward()
        dense.grad = embedding.weight.grad.to_dense()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(embedding.weight.detach(), dense.detach(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("weight_decay", [0.0, 10.0, 20.0, 30.0], ids=["none", "half", "all", "beyond all"])
def test_any_strength_of_decay_is_done_exactly(weight_decay):
    """20 leaves nothing of a parameter, 30 turns it around; 400 times a half is less than 1e-100."""
    embedding = table()
    before = embedding.weight.detach()[ROWS - 1].clone()
    optimizer = watching(embedding, weight_decay=weight_decay)
    for step in range(400):
        optimizer.zero_grad()
        loss(embedding(torch.tensor([step % 3])), step).backward()
        optimizer.step()
    optimizer.catch_up()
    assert torch.equal(embedding.weight[ROWS - 1], before * (1 - 0.05 * weight_decay) ** 400)
    assert embedding.weight.isfinite().all()


def test_decay_goes_on_when_all_before_together_are_less_than_any_number():
    """200 times a thousandth is 0; a row that moves after that decays like any other."""
    embedding = table()
    optimizer = watching(embedding, weight_decay=19.98)
    for step in range(206):
        optimizer.zero_grad()
        rows = torch.tensor([0, 1]) if step == 200 else torch.tensor([0])
        loss(torch.nn.functional.embedding(rows, embedding.weight, sparse=True), step).backward()
        optimizer.step()
        if step == 200:
            moved = embedding.weight.detach()[1].clone()
    assert moved.abs().min() > 1e-6
    read = embedding(torch.tensor([1])).detach()[0]
    torch.testing.assert_close(read, moved * (1 - 0.05 * 19.98) ** 5, rtol=1e-11, atol=0)


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


ORDERS = {
    "weights first": lambda embedding, optimizer: (
        through_file(embedding.state_dict()), through_file(optimizer.state_dict())
    ),
    "optimizer first": lambda embedding, optimizer: (
        through_file(optimizer.state_dict()), through_file(embedding.state_dict())
    )[::-1],
}  # fmt: skip


@pytest.mark.parametrize("save", ORDERS.values(), ids=ORDERS)
def test_going_on_after_a_stop_is_going_on(save):
    embedding = table()
    optimizer = watching(embedding)
    train(embedding, optimizer, range(50))
    weights, state = save(embedding, optimizer)
    assert isinstance(state["state"][0]["step"], int)
    resumed = table()
    loaded = watching(resumed)
    train(resumed, loaded, range(7))  # what this owes is forgotten
    resumed.load_state_dict(weights)
    loaded.load_state_dict(state)
    for one, its in ((embedding, optimizer), (resumed, loaded)):
        train(one, its, range(50, 100))
        its.catch_up()
    assert torch.equal(embedding.weight, resumed.weight)


def test_weights_that_are_loaded_owe_nothing():
    embedding = table()
    optimizer = watching(embedding)
    train(embedding, optimizer, range(50))
    embedding.load_state_dict(table().state_dict())
    optimizer.catch_up()
    assert torch.equal(embedding.weight, table().weight)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda pair: pickle.loads(pickle.dumps(pair))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_owe_what_the_original_owes(copied):
    embedding = table()
    optimizer = watching(embedding)
    train(embedding, optimizer, range(20))
    twin, its = copied((embedding, optimizer))
    for one, other in ((embedding, optimizer), (twin, its)):
        train(one, other, range(20, 40))
        other.catch_up()
    assert torch.equal(embedding.weight, twin.weight)


def test_a_bag_is_watched_too():
    bag = table(kind=nn.EmbeddingBag)
    optimizer = watching(bag)
    for _ in range(10):
        optimizer.zero_grad()
        bag(input=torch.tensor([1, 2, 2, 7]), offsets=torch.tensor([0, 3])).sum().backward()
        optimizer.step()
    read = bag(torch.tensor([[20]], dtype=torch.int32)).detach()
    torch.testing.assert_close(read, table().weight.detach()[20:21] * (1 - 0.05 * 0.3) ** 10)


def test_reading_twice_writes_once():
    embedding = table()
    optimizer = watching(embedding)
    train(embedding, optimizer, range(5))
    with torch.inference_mode():
        embedding(torch.arange(ROWS))
    version = embedding.weight._version
    embedding(torch.arange(ROWS))
    assert embedding.weight._version == version


def test_a_step_that_is_vetoed_decays_nothing():
    embedding = table()
    optimizer = watching(embedding, skip_nonfinite=True)
    train(embedding, optimizer, range(3))
    optimizer.catch_up()
    before = embedding.weight.detach().clone()
    (embedding(torch.tensor([1])) * torch.nan).sum().backward()
    optimizer.step()
    optimizer.catch_up()
    assert optimizer.skipped_steps == 1
    assert torch.equal(embedding.weight, before)


def test_a_parameter_without_gradient_does_not_decay():
    one, other = table(), table()
    optimizer = SparseAdamW([one.weight, other.weight], **SETTINGS)
    train(one, optimizer, range(5))
    optimizer.catch_up()
    assert torch.equal(other.weight, table().weight)


def test_in_bfloat16_a_thousand_small_decays_are_done():
    """Each alone would be rounded away."""
    embedding = table(torch.bfloat16)
    before = embedding.weight.detach()[-1].clone()
    optimizer = watching(embedding, lr=1e-3, weight_decay=0.1)
    for step in range(1000):
        optimizer.zero_grad()
        loss(embedding(torch.tensor([step % 3])), step).backward()
        optimizer.step()
    read = embedding(torch.tensor([ROWS - 1])).detach()[0]
    assert torch.equal(read, (before.float() * np.float32((1 - 1e-4) ** 1000)).bfloat16())


def test_what_cannot_be_watched_is_refused():
    optimizer = SparseAdamW(table().parameters())
    with pytest.raises(TypeError, match="Linear"):
        optimizer.watch(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="none of the parameters"):
        optimizer.watch(table())


def test_gradients_that_are_dense_or_sparse_in_elements_are_refused():
    embedding = table()
    optimizer = watching(embedding)
    train(embedding, optimizer, range(2))
    before = embedding.weight.detach().clone()
    for grad, message in (
        (torch.ones(ROWS, WIDTH), "does not support dense gradients, please consider AdamW"),
        (torch.ones(ROWS, WIDTH).to_sparse(), "got 2 sparse dimensions"),
    ):
        embedding.weight.grad = grad.double()
        with pytest.raises(RuntimeError, match=message):
            optimizer.step()
    assert torch.equal(embedding.weight, before)


def test_it_is_not_routed_where_nobody_would_catch_up():
    model = nn.Sequential(nn.EmbeddingBag(ROWS, WIDTH, sparse=True))
    with pytest.raises(ValueError, match="cannot be routed"):
        fallline.route(model, fallline.Route(nn.EmbeddingBag, SparseAdamW))


MOVING = {
    "before": [fallline.penalties.decay.l2(0.1)],
    "after": [fallline.prox.L1(0.1)],
}


@pytest.mark.parametrize("place", MOVING)
@pytest.mark.parametrize("cls", [fallline.SparseAdam, SparseAdamW])
def test_transforms_that_would_move_other_rows_are_refused(cls, place):
    with pytest.raises(fallline.core.errors.RuleError, match="touched rows alone"):
        cls(table().parameters(), **{place: MOVING[place]})


def test_clipping_goes_with_it():
    embedding = table()
    optimizer = watching(embedding, before=[fallline.gradients.clip_by_global_norm(1e-9)], eps=1.0)
    before = embedding.weight.detach().clone()
    train(embedding, optimizer, range(1))
    optimizer.catch_up()
    torch.testing.assert_close(embedding.weight.detach(), before * (1 - 0.05 * 0.3), rtol=0, atol=1e-9)
