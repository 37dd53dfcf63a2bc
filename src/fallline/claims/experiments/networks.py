"""Experiments that train networks: each is a comparison with the learning rate tuned for every arm."""

from dataclasses import replace
from functools import partial

from fallline.claims.again import curvature, different_units, zeros
from fallline.claims.entries import HERE
from fallline.claims.experiments.experiment import AlsoAtTheEnd, Experiment, Tuned
from fallline.claims.experiments.rates import Rates
from fallline.claims.variants import bright_digits, few_digits, mislabelled_digits, shortened, with_test
from fallline.studies.lab import Effort
from fallline.studies.varied import with_activations, with_dropouts, with_initializations
from fallline.tasks.load import load
from fallline.tasks.task import Task

#: A validation loss on digits that every arm reaches, and one of the convolutional network.
EASY, EASY_CONVOLUTIONAL = 0.25, 0.15
OPTIMIZERS = (
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamax", "nadam", "radam",
    "lookahead", f"{HERE}averaged_adam", f"{HERE}adam_at_default", f"{HERE}adadelta_at_default",
)  # fmt: skip
DECAYS = (
    "sgd", "momentum", "adam", "radam", "lookahead", f"{HERE}averaged_adam", f"{HERE}adam_l2",
    f"{HERE}adam_decoupled", f"{HERE}adam_at_default",
)  # fmt: skip
#: Search spaces of the entries that `fallline list` does not have.
ADAM_RATES, SGD_RATES = {"low": 1e-4, "high": 0.3}, {"low": 1e-3, "high": 10.0}
STRENGTHS = {"low": 1e-5, "high": 1e-2}


def deep() -> Task:
    """Return ten hidden layers of 16 units on digits, somewhat shorter than usual."""
    task = with_test("deep-narrow(depth=10, initialization='xavier')")
    return replace(shortened(task, 0.7), name="ten layers")


def shallow() -> Task:
    """Return digits with a model whose activations and initial weights are settings."""
    return with_initializations(with_activations(with_test("digits", EASY)))


def batches() -> Task:
    """Return digits with time for large batches, too."""
    return shortened(with_test("digits", EASY), 1.5)


def equal_steps() -> Task:
    """Return 200 digits with as many steps at any batch size, enough to learn them by heart."""
    return replace(few_digits(), epochs=None, max_steps=1000)


def small_transformer() -> Task:
    """Return a transformer on text that is trained within a second or two."""
    size = "width=32, layers=1, context=32, steps=300, characters=2000, target=3.7"
    return replace(load(f"text-transformer({size})"), name="small transformer")


def digits_with_dropout() -> Task:
    """Return digits with a share of the hidden units left out in each step."""
    return with_dropouts(with_test("digits", EASY))


def recurrent() -> Task:
    """Return the recurrent network on text, 40 % as long as usual."""
    return shortened(load("text-lstm"), 0.4)


def drift() -> Task:
    """Return digits that change twice on the way, after three passes each."""
    return replace(load("drift(phases=3, passes=3)"), name="drift")


def convolutional() -> Task:
    """Return the convolutional network on digits, half as long as usual."""
    return shortened(with_test("digits-cnn", EASY_CONVOLUTIONAL), 0.5)


PENALTIES = Tuned(
    mislabelled_digits,
    ("sgd", "momentum", "adam", f"{HERE}momentum_l2", f"{HERE}l1_proximal"),
    space={
        "optimizers": {
            f"{HERE}momentum_l2": {"lr": {"low": 1e-4, "high": 1.0}, "l2": {"low": 1e-4, "high": 1e-1}},
            f"{HERE}l1_proximal": {"lr": SGD_RATES, "strength": STRENGTHS},
        }
    },
)


NETWORKS = (
    Experiment(
        "optimizers",
        "optimizers on digits, an MLP",
        Tuned(
            partial(with_test, "digits", EASY),
            OPTIMIZERS,
            space={"optimizers": {f"{HERE}averaged_adam": {"lr": ADAM_RATES}}},
            timed=("sgd", "momentum", "nesterov", "adam", "nadam"),
            looks={"sharpness": curvature},
            looked_at=("adam", "lookahead"),
        ),
    ),
    Experiment(
        "few samples",
        "optimizers and weight decay on 200 digits, where every network fits the training data",
        Tuned(
            few_digits,
            DECAYS,
            space={
                "optimizers": {
                    f"{HERE}averaged_adam": {"lr": ADAM_RATES},
                    f"{HERE}adam_l2": {"lr": ADAM_RATES, "l2": {"low": 1e-5, "high": 1e-1}},
                    f"{HERE}adam_decoupled": {"lr": ADAM_RATES, "decay": {"low": 1e-3, "high": 10.0}},
                }
            },
            timed=("sgd", "momentum", "adam"),
            looks={"sharpness": curvature},
            looked_at=("adam", "lookahead"),
        ),
    ),
    Experiment(
        "convolutional",
        "optimizers on digits, a convolutional network",
        Tuned(
            convolutional,
            ("sgd", "momentum", "adam"),
            timed=("sgd", "momentum", "adam"),
        ),
    ),
    Experiment(
        "deep",
        "sigmoid and ReLU in ten hidden layers",
        Tuned(
            deep,
            ("sgd", "momentum", "rmsprop", "adam"),
            {"activation": ("relu", "sigmoid")},
        ),
    ),
    Experiment(
        "deep initialization",
        "initial weights of ten hidden layers of ReLUs",
        Tuned(deep, ("momentum",), {"initialization": ("normal", "xavier", "he", "orthogonal")}),
    ),
    Experiment(
        "zero initialization",
        "zero as initial weights of one hidden layer",
        Tuned(
            shallow,
            ("momentum",),
            {"initialization": ("zero", "xavier"), "activation": ("relu", "tanh", "sigmoid")},
            effort=Effort(5, 2, 4),
            looks={"different units": different_units},
            looked_at=tuple(
                f"initialization={i}, activation={a}"
                for i in ("zero", "xavier")
                for a in ("relu", "tanh", "sigmoid")
            ),
        ),
    ),
    Experiment(
        "activations",
        "activation functions of one hidden layer",
        Tuned(
            shallow,
            ("adam",),
            {"activation": ("relu", "sigmoid", "tanh", "gelu")},
            timed=("activation=relu", "activation=sigmoid"),
        ),
    ),
    Experiment(
        "batch size",
        "batch sizes with a learning rate for each",
        Tuned(
            batches,
            ("momentum",),
            {"batch_size": (8, 32, 128, 1000)},
            timed=("batch_size=8", "batch_size=32", "batch_size=128"),
        ),
    ),
    Experiment(
        "batch size, equal steps",
        "batch sizes on 200 digits, each with as many steps",
        Tuned(
            equal_steps,
            ("momentum",),
            {"batch_size": (5, 20, 200)},
            looks={"sharpness": curvature},
            looked_at=("batch_size=5", "batch_size=20", "batch_size=200"),
        ),
    ),
    Experiment(
        "dropout",
        "shares of dropped units on digits",
        Tuned(digits_with_dropout, ("adam",), {"dropout": (0.0, 0.2, 0.5)}),
    ),
    Experiment(
        "dropout with wrong labels",
        "shares of dropped units on digits with a fifth of the training labels wrong",
        Tuned(mislabelled_digits, ("adam",), {"dropout": (0.0, 0.2, 0.5)}),
    ),
    Experiment(
        "regularization",
        "penalties on digits with a fifth of the training labels wrong",
        AlsoAtTheEnd(
            PENALTIES,
            run_on=("sgd", "adam"),
            to_the_end=("sgd", "momentum", "momentum_l2", "l1_proximal"),
        ),
    ),
    Experiment(
        "sparsity",
        "an L1 penalty of 0.001, by subgradient and by proximal steps",
        Tuned(
            partial(with_test, "digits", EASY),
            (f"{HERE}l1_subgradient", f"{HERE}l1_proximal"),
            space={
                "optimizers": {
                    f"{HERE}l1_subgradient": {"lr": SGD_RATES, "strength": 1e-3},
                    f"{HERE}l1_proximal": {"lr": SGD_RATES, "strength": 1e-3},
                }
            },
            looks={"zeros": zeros},
            looked_at=("l1_subgradient", "l1_proximal"),
        ),
    ),
    Experiment(
        "schedules",
        "decay and warm-up of the learning rate",
        Tuned(
            partial(with_test, "digits", EASY),
            ("momentum", "adam"),
            {"schedule": ("constant", "cosine"), "warmup": (0.0, 0.1)},
        ),
    ),
    Experiment(
        "large gradients",
        "digits of which some are 30 times as bright, with and without clipping",
        Tuned(bright_digits, ("sgd", "adam", "adamax"), {"clip": (None, 1.0)}),
    ),
    Experiment(
        "warm-up of a transformer",
        "warm-up with Adam, a transformer on text",
        Tuned(small_transformer, ("adam",), {"warmup": (0.0, 0.1)}, effort=Effort(6, 1, 6)),
    ),
    Experiment(
        "learning rates",
        "a sweep over the learning rate",
        Rates(partial(with_test, "digits", EASY), ("sgd", "momentum", "adagrad", "rmsprop", "adam")),
    ),
    Experiment(
        "width",
        "networks of 8 to 512 hidden units on 200 digits",
        AlsoAtTheEnd(
            Tuned(few_digits, ("adam",), {"hidden": (8, 32, 128, 512)}),
            run_on=(),
            to_the_end=("hidden=32", "hidden=512"),
        ),
    ),
    Experiment(
        "recurrent",
        "optimizers on text, an LSTM",
        Tuned(recurrent, ("sgd", "momentum", "adam"), effort=Effort(5, 1, 6), quick=Effort(2, 1, 2)),
    ),
    Experiment(
        "sparse",
        "optimizers on words, of which each step sees few",
        Tuned(
            partial(load, "text-sparse"),
            ("sgd", "momentum", "adagrad", "adadelta", "adam"),
        ),
    ),
    Experiment(
        "drift",
        "digits whose pixels and labels change on the way",
        Tuned(
            drift,
            ("sgd", "adagrad", "rmsprop", "adam"),
        ),
    ),
)
