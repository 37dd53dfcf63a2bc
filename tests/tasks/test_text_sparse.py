"""Snippets of the standard library: what they are, and the embedding's gradient."""

import pickle
from zlib import crc32

import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn.functional import cross_entropy

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load
from fallline.tasks.text_sparse import MODULES, WORDS, naive_bayes_accuracy, parts, rows_of, source

ROWS = 20_000


@pytest.fixture(scope="module")
def task():
    return load("text-sparse")


def test_every_module_is_a_class_with_at_least_a_hundred_snippets(task):
    counts = task.train[1].bincount(minlength=len(MODULES))
    assert len(counts) == len(MODULES)
    assert counts.min() >= 100
    assert task.train[0].shape[1] == WORDS


def test_a_word_has_the_row_of_its_checksum():
    assert source("difflib").split()[1] == "Module"
    assert rows_of("difflib", ROWS)[0] == crc32(b"Module") % ROWS


@pytest.mark.parametrize("module", range(len(MODULES)), ids=MODULES)
def test_of_each_ten_snippets_eight_are_trained_on_and_none_is_used_twice(module):
    words = rows_of(MODULES[module], ROWS)
    in_order = words[: len(words) // WORDS * WORDS].view(-1, WORDS)
    given = {part: inputs[targets == module] for part, (inputs, targets) in parts(ROWS).items()}
    assert torch.equal(given["valid"], in_order[8::10])
    assert torch.equal(given["test"], in_order[9::10])
    assert torch.equal(given["train"][:16], torch.cat([in_order[:8], in_order[10:18]]))
    assert sum(map(len, given.values())) == len(in_order)


def test_naive_bayes_is_scikit_learns(task):
    from sklearn.naive_bayes import MultinomialNB

    def counts(words):
        return torch.zeros(len(words), ROWS).scatter_add_(1, words, torch.ones(words.shape)).numpy()

    peer = MultinomialNB().fit(counts(task.train[0]), task.train[1].numpy())
    for part in (task.valid, task.test):
        expected = peer.score(counts(part[0]), part[1].numpy())
        assert naive_bayes_accuracy(task.train, part, ROWS) == pytest.approx(expected, abs=1e-12)
    assert task.reference.value == pytest.approx(peer.score(counts(task.valid[0]), task.valid[1].numpy()))


def test_naive_bayes_says_the_most_frequent_class_where_words_say_nothing():
    words = torch.zeros(3, WORDS).long()
    assert (
        naive_bayes_accuracy((words, torch.tensor([0, 1, 1])), (words, torch.tensor([1, 1, 0])), 1) == 2 / 3
    )


def gradient(sparse, inputs, targets):
    torch.manual_seed(0)
    model = load(f"text-sparse(sparse={sparse})").new_model()
    cross_entropy(model(inputs), targets).backward()
    return model[0].weight.grad


def test_the_sparse_gradient_is_the_dense_one_and_has_only_the_words_that_occur(task):
    inputs, targets = (part[::97] for part in task.train)
    dense, sparse = gradient(False, inputs, targets), gradient(True, inputs, targets)
    assert (dense.layout, sparse.layout) == (torch.strided, torch.sparse_coo)
    assert torch.equal(sparse.coalesce().indices()[0], inputs.unique())
    assert_allclose(sparse.to_dense().numpy(), dense.numpy(), rtol=1e-5, atol=1e-9)
    assert torch.equal(dense.abs().sum(1).nonzero().flatten(), inputs.unique())
    assert len(inputs.unique()) < ROWS / 20


def trained(name, optimizer, rate):
    return run_trial(load(name), Arm(optimizer), Spec(optimizer, "tune", 0, 1, {"lr": rate}))


def test_a_training_on_sparse_gradients_is_the_one_on_dense_ones():
    dense, sparse = (
        trained(f"text-sparse(sparse={sparse}, epochs=1)", "adagrad", 0.3) for sparse in (False, True)
    )
    assert_allclose(sparse.curve.valid_loss, dense.curve.valid_loss, rtol=1e-5)


def test_adamw_reaches_the_target_in_the_task_s_own_length():
    assert trained("text-sparse", "adamw", 0.03).steps_to_target is not None


def test_the_task_is_the_same_each_time_and_draws_no_random_number(task):
    before = torch.get_rng_state()
    again = pickle.loads(pickle.dumps(load("text-sparse")))
    assert torch.equal(torch.get_rng_state(), before)
    for part in ("train", "valid", "test"):
        assert all(map(torch.equal, getattr(again, part), getattr(task, part)))


def test_bad_arguments_are_refused():
    with pytest.raises(TaskError, match="rows must be at least 1, got 0"):
        load("text-sparse(rows=0)")
    with pytest.raises(TaskError, match="this Python has no source of 'zlib'"):
        source("zlib")
