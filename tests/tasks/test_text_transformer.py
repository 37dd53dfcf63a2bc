"""The decoder on text: it looks back only, its metric, what it reaches beside n-grams."""

import pickle
from math import log

import pytest
import torch
from numpy.testing import assert_allclose

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load
from fallline.tasks.settings import TRAINING, model_arguments
from fallline.tasks.text import BITS
from fallline.tasks.text_transformer import HEAD, Decoder


@pytest.fixture(scope="module")
def task():
    return load("text-transformer")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Decoder(symbols=11, context=9, width=32).double()


def codes(*shape):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("changed", [0, 4, 8])
def test_a_later_character_changes_no_earlier_output_and_all_later_ones(model, changed):
    before, after = codes(1, 9), codes(1, 9)
    after[0, changed] = (after[0, changed] + 1) % 11
    same = (model(before) == model(after)).all(dim=-1)[0]
    assert same.tolist() == [i < changed for i in range(9)]


def test_a_shorter_text_is_the_beginning_of_a_longer_one(model):
    window = codes(2, 9)
    assert_allclose(model(window[:, :4]).detach(), model(window)[:, :4].detach(), rtol=1e-12, atol=1e-14)


def test_attention_is_its_equation(model):
    block, x = model.blocks[0], torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)).double()
    queries, keys, values = block.queries_keys_values(x)[0].split(32, dim=-1)
    for head in range(2):
        mine = slice(head * HEAD, (head + 1) * HEAD)
        scores = queries[:, mine] @ keys[:, mine].T / HEAD**0.5
        weights = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf")).softmax(-1)
        expected = weights @ values[:, mine]
        assert_allclose(block.attended(x)[0, :, mine].detach(), expected.detach(), rtol=1e-10, atol=1e-12)


def test_bits_per_character_are_the_loss_over_the_logarithm_of_two(task):
    torch.manual_seed(0)
    loss, metrics = task.evaluated(task.new_model(), task.valid)
    assert metrics[BITS] == pytest.approx(loss / log(2), rel=1e-6)


def test_the_ngrams_are_the_target(task):
    assert task.target.name == task.reference.name == BITS
    assert task.target.value == round(task.reference.value, 2)
    assert load("text-transformer(target=3)").target.value == 3


def test_the_task_is_the_same_each_time_and_draws_no_random_number(task):
    before = torch.get_rng_state()
    again = pickle.loads(pickle.dumps(load("text-transformer")))
    assert torch.equal(torch.get_rng_state(), before)
    for part in ("train", "valid", "test"):
        assert all(map(torch.equal, getattr(again, part), getattr(task, part)))


def test_what_can_be_searched_is_the_model_s(task):
    assert model_arguments(task.model) == {"width", "layers", "dropout"}
    assert not model_arguments(task.model) & set(TRAINING)
    deeper, rest = task.given({"width": 32, "layers": 3, "dropout": 0.5, "lr": 0.1})
    assert rest == {"lr": 0.1}
    assert len(deeper.new_model().blocks) == 3


def test_dropout_is_of_trainings_alone():
    torch.manual_seed(0)
    model = Decoder(symbols=11, context=9, width=32, dropout=0.5)
    window = codes(1, 9)
    assert not torch.equal(model(window), model(window))
    model.eval()
    assert torch.equal(model(window), model(window))


@pytest.mark.long
def test_it_beats_the_ngrams_within_its_own_length(task):
    trial = run_trial(task, Arm("adamw"), Spec("adamw", "tune", 0, 1, {"lr": 0.01}))
    assert trial.steps_to_target < task.total_steps
    assert trial.metrics[BITS] < task.reference.value
    assert trial.test_metrics[BITS] < task.reference.value


@pytest.mark.long
def test_a_training_is_a_function_of_its_seed():
    task = load("text-transformer(width=32, layers=1, context=32, steps=40, characters=2000, dropout=0.1)")
    trials = [run_trial(task, Arm("adamw"), Spec("adamw", "tune", 0, s, {"lr": 0.02})) for s in (1, 1, 2)]
    assert trials[0].curve == trials[1].curve != trials[2].curve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("width=40", "width must be a multiple of 16, got 40"),
        ("width=0", "width must be a multiple of 16, got 0"),
        ("layers=0", "layers must be at least 1, got 0"),
        ("dropout=1", "dropout must be at least 0 and below 1, got 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(TaskError, match=message):
        load(f"text-transformer({arguments})").new_model()
