"""Sparse gradients, as ``nn.Embedding(sparse=True)`` makes them, move what they move in torch."""

import pytest
import torch

import fallline
from drop_in.pairs import PAIRS, SETTINGS, Pair, assert_same_course, noise, outcome, values
from drop_in.test_checkpoints import through_file
from drop_in.test_state import described
from fallline.testing.counterpart import signature

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's own Adagrad warns of them

TAKING = {"SGD", "Adagrad"}
#: Takes no other gradients.
SPARSE_ADAM = Pair(fallline.SparseAdam, torch.optim.SparseAdam)
SPARSE_ADAMS = [
    {},
    {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
    {"lr": torch.tensor(0.1).double(), "maximize": True},
]
RUNS = [
    (pair, settings)
    for pair in PAIRS
    if str(pair) in TAKING
    for settings in SETTINGS[str(pair)]
    if not settings.get("weight_decay")
]
each_run = pytest.mark.parametrize(
    ("pair", "settings"), RUNS + [(SPARSE_ADAM, settings) for settings in SPARSE_ADAMS], ids=str
)
each_sparse_adam = pytest.mark.parametrize("settings", SPARSE_ADAMS, ids=str)

ROWS, WIDTH, STEPS = 12, 3, 6


def gradient(step: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a gradient with some rows, one of them in two parts that are to be added up."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randperm(ROWS, generator=generator)[:4]
    rows = torch.cat([rows, rows[:1]])
    parts = noise((5, WIDTH), dtype, 100 + step)
    return torch.sparse_coo_tensor(rows[None], parts, (ROWS, WIDTH), check_invariants=True)


def trained(cls, settings, dtype):
    table = noise((ROWS, WIDTH), dtype, 0).requires_grad_()
    optimizer = cls([table], **settings)
    go_on(optimizer, table, range(STEPS))
    return table, optimizer


def go_on(optimizer, table, steps):
    for step in steps:
        table.grad = gradient(step, table.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_run
def test_courses_are_torchs(pair, settings, dtype):
    (ours, _), (theirs, _) = (trained(cls, settings, dtype) for cls in (pair.ours, pair.theirs))
    assert_same_course([ours], [theirs], [noise((ROWS, WIDTH), dtype, 0)], STEPS)


@each_run
def test_state_is_dense_and_torchs(pair, settings):
    sides = [trained(cls, settings, torch.float64) for cls in (pair.ours, pair.theirs)]
    ours, theirs = (optimizer.state.get(table, {}) for table, optimizer in sides)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name == "step":
            assert int(value) == int(theirs[name])
            continue
        assert value.layout == torch.strided
        torch.testing.assert_close(value, theirs[name].to_dense(), rtol=1e-14, atol=1e-14)


@each_run
def test_the_gradient_is_not_written_and_stays_sparse(pair, settings):
    table = noise((ROWS, WIDTH), torch.float64, 0).requires_grad_()
    table.grad = gradient(0, torch.float64)
    kept = values([table.grad])[0]
    pair.ours([table], **settings).step()
    assert table.grad.layout == torch.sparse_coo
    assert torch.equal(table.grad.to_dense(), kept.to_dense())


@pytest.mark.parametrize(("pair", "settings"), RUNS, ids=str)
def test_sparse_and_dense_gradients_may_take_turns(pair, settings):
    sides = []
    for dense in (False, True):
        table = noise((ROWS, WIDTH), torch.float64, 0).requires_grad_()
        optimizer = pair.ours([table], **settings)
        for step in range(STEPS):
            g = gradient(step, torch.float64)
            table.grad = g.to_dense() if dense or step % 2 else g
            optimizer.step()
        sides.append(table)
    assert_same_course(sides[:1], sides[1:], [noise((ROWS, WIDTH), torch.float64, 0)], STEPS)


def test_sparse_adam_looks_like_torchs():
    assert signature(SPARSE_ADAM.ours) == signature(SPARSE_ADAM.theirs)
    assert signature(SPARSE_ADAM.ours.__init__) == signature(SPARSE_ADAM.theirs.__init__)
    assert SPARSE_ADAM.ours.__name__ == SPARSE_ADAM.theirs.__name__


@each_sparse_adam
def test_defaults_groups_and_repr_are_torchs(settings):
    ours, theirs = (cls([noise((ROWS, WIDTH), torch.float32, 0)], **settings) for cls in both(SPARSE_ADAM))
    assert ours.defaults == theirs.defaults
    assert repr(ours) == repr(theirs)
    assert ours.state_dict() == theirs.state_dict()


def both(pair):
    return pair.ours, pair.theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@each_sparse_adam
def test_a_state_dict_has_torchs_keys_types_and_shapes(settings, dtype):
    kinds = []
    for cls in both(SPARSE_ADAM):
        table, optimizer = trained(cls, settings, dtype)
        optimizer.state = optimizer.state_dict()["state"]
        kinds.append(described(optimizer, [0]))
        assert optimizer.state[0]["step"] == STEPS
        assert len(optimizer.state) == 1
        assert table.dtype == dtype
    assert kinds[0] == kinds[1]


DIRECTIONS = [both(SPARSE_ADAM), both(SPARSE_ADAM)[::-1], [SPARSE_ADAM.ours] * 2]


@pytest.mark.parametrize(("first", "second"), DIRECTIONS, ids=["to torch", "from torch", "to itself"])
@each_sparse_adam
def test_checkpoints_pass_both_ways(first, second, settings):
    table, optimizer = trained(first, settings, torch.float64)
    resumed = table.detach().clone().requires_grad_()
    loaded = second([resumed])
    loaded.load_state_dict(through_file(optimizer.state_dict()))
    before = values([table])
    go_on(optimizer, table, range(STEPS, 2 * STEPS))
    go_on(loaded, resumed, range(STEPS, 2 * STEPS))
    assert_same_course([resumed], [table], before, STEPS)
    ours, theirs = optimizer.state_dict(), loaded.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"][0].keys() == theirs["state"][0].keys()
    if first is second:
        assert torch.equal(resumed, table)


def test_a_gradient_without_rows_is_a_step_as_in_torch():
    sides = []
    for cls in both(SPARSE_ADAM):
        table = noise((ROWS, WIDTH), torch.float64, 0).requires_grad_()
        optimizer = cls([table], lr=0.1)
        for step in range(STEPS):
            g = gradient(step, torch.float64)
            table.grad = torch.zeros_like(table).to_sparse(1) if step == 2 else g
            optimizer.step()
        sides.append(table)
    assert_same_course(sides[:1], sides[1:], [noise((ROWS, WIDTH), torch.float64, 0)], STEPS)


def test_single_elements_may_be_sparse_as_in_torch():
    sides = []
    for cls in both(SPARSE_ADAM):
        table = noise((ROWS, WIDTH), torch.float64, 0).requires_grad_()
        optimizer = cls([table], lr=0.1)
        for step in range(STEPS):
            g = noise((ROWS, WIDTH), torch.float64, 50 + step)
            table.grad = g.where(g > 0, 0).to_sparse(2)
            optimizer.step()
        sides.append(table)
    assert_same_course(sides[:1], sides[1:], [noise((ROWS, WIDTH), torch.float64, 0)], STEPS)


def test_dense_gradients_are_refused_at_any_step_as_in_torch():
    for steps in (0, 2):
        kinds = []
        for cls in both(SPARSE_ADAM):
            table = noise((ROWS, WIDTH), torch.float32, 0)
            optimizer = cls([table])
            go_on(optimizer, table, range(steps))
            table.grad = torch.ones_like(table)
            kinds.append(outcome(optimizer.step))
        assert kinds[0] == kinds[1]
        assert kinds[0][0] is RuntimeError


#: Parameters that it does not step: torch refuses them in the constructor.
UNFIT = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "complex": lambda: torch.zeros(3, 2, dtype=torch.complex64),
}


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
def test_parameters_that_torch_refuses_are_refused_in_its_words(make):
    ours, theirs = (outcome(lambda c=cls: c([torch.zeros(2), make()])) for cls in both(SPARSE_ADAM))
    assert ours == theirs
    assert ours[0] is ValueError
    optimizer = SPARSE_ADAM.ours([torch.zeros(2)])
    with pytest.raises(ValueError, match="SparseAdam"):
        optimizer.add_param_group({"params": [("name", make())]})
    assert len(optimizer.param_groups) == 1


CANDIDATES = [
    {"lr": 0},
    {"lr": -1.0},
    {"lr": torch.tensor([0.1, 0.2])},
    {"eps": 0.0},
    {"eps": -1e-8},
    {"betas": (1.0, 0.9)},
    {"betas": (0.9, -0.1)},
    {"betas": (0.9,)},
]


@pytest.mark.parametrize("settings", CANDIDATES, ids=str)
def test_settings_that_torch_refuses_are_refused_in_its_words(settings):
    table = noise((ROWS, WIDTH), torch.float32, 0)
    ours, theirs = (outcome(lambda c=cls: c([table], **settings)) for cls in both(SPARSE_ADAM))
    assert issubclass(ours[0], theirs[0])
    assert theirs[0] is not ValueError or ours[1].startswith(theirs[1])


def test_a_schedule_may_begin_and_end_at_0():
    table = noise((ROWS, WIDTH), torch.float32, 0)
    lr = 0.1 * fallline.schedules.warmup_cosine(warmup=2, steps=5)
    go_on(SPARSE_ADAM.ours([table], lr=lr), table, range(5))
