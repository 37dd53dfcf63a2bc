"""The recurrent network on text: its memory, its metric, what it reaches."""

import pickle
from math import log

import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn.functional import cross_entropy

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load
from fallline.tasks.text import BITS, parts
from fallline.tasks.text_lstm import Recurrent


@pytest.fixture(scope="module")
def task():
    return load("text-lstm")


@pytest.fixture(params=["lstm", "gru"])
def model(request):
    torch.manual_seed(0)
    return Recurrent(symbols=11, cell=request.param, width=8)


def codes(*shape):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(0))


def test_no_memory_goes_from_one_window_to_another(model):
    windows = codes(3, 7)
    together = model(windows)
    for i in (2, 0, 1):
        assert_allclose(model(windows[i : i + 1])[0].detach(), together[i].detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(model(windows), together)


def test_a_later_character_changes_no_earlier_output_and_all_later_ones(model):
    before, after = codes(1, 9), codes(1, 9)
    after[0, 4] = (after[0, 4] + 1) % 11
    same = (model(before) == model(after)).all(dim=-1)[0]
    assert same.tolist() == [True] * 4 + [False] * 5


def test_the_lstm_is_its_equations():
    torch.manual_seed(0)
    model = Recurrent(symbols=11, width=8).double()
    w = {name.removesuffix("_l0"): p for name, p in model.recurrent.named_parameters()}
    h = c = torch.zeros(8).double()
    window = codes(1, 5)
    for x in model.embedding(window)[0]:
        gates = w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]
        i, f, g, o = gates.split(8)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    assert_allclose(model(window)[0, -1].detach(), model.output(h).detach(), rtol=1e-12)


def test_bits_per_character_are_the_loss_over_the_logarithm_of_two(task):
    torch.manual_seed(0)
    model = task.new_model()
    loss, metrics = task.evaluated(model, task.valid)
    assert metrics[BITS] == pytest.approx(loss / log(2), rel=1e-6)
    by_hand = cross_entropy(model(task.valid[0]).transpose(1, 2), task.valid[1]).item()
    assert loss == pytest.approx(by_hand, rel=1e-6)


def test_the_task_s_windows_are_of_the_text(task):
    train = parts()["train"]
    assert torch.equal(task.train[0].flatten(), train[: task.train[0].numel()])
    assert torch.equal(task.train[1].flatten(), train[1 : task.train[0].numel() + 1])
    assert 3900 <= task.valid[0].numel() <= 4100


def test_the_task_is_the_same_each_time_and_draws_no_random_number(task):
    before = torch.get_rng_state()
    again = pickle.loads(pickle.dumps(load("text-lstm")))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        map(torch.equal, (*again.train, *again.valid, *again.test), (*task.train, *task.valid, *task.test))
    )


def test_width_and_cell_can_be_searched(task):
    wider, rest = task.given({"width": 16, "cell": "gru", "lr": 0.1})
    assert rest == {"lr": 0.1}
    assert wider.new_model().recurrent.weight_hh_l0.shape == (3 * 16, 16)


@pytest.mark.long
def test_tuned_adam_reaches_the_target_and_the_training_is_the_seed_s(task):
    trials = [run_trial(task, Arm("adam"), Spec("adam", "tune", 0, 1, {"lr": 0.02})) for _ in range(2)]
    assert trials[0].steps_to_target <= 450
    assert trials[0].curve == trials[1].curve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("cell='gur'", "unknown cell 'gur'; did you mean 'gru'"),
        ("context=1", "context must be at least 2 characters, got 1"),
        ("characters=31", "characters must be at least the context 32, got 31"),
        ("width=0", "width must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(TaskError, match=message):
        load(f"text-lstm({arguments})").new_model()
