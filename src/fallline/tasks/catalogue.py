"""The built-in tasks by name: where each is made, what it is, and how long one training of it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

#: How long one training takes on one core: under 0.1 s, under 1 s, under 10 s, or longer.
Cost = Literal["instant", "second", "seconds", "minutes"]


@dataclass(frozen=True)
class Listed:
    """A built-in task as `fallline list` shows it, known before anything of it is loaded.

    Args:
        module: inside `fallline.tasks`; it has ``maker``.
        summary: one line on data and model.
        cost: how long one training of it takes.
        maker: the function that returns the task; its arguments have defaults and may be given with the
            name, as in ``"quadratic(kappa=1000)"``.
    """

    module: str
    summary: str
    cost: Cost
    maker: str = "make_task"


#: Every built-in task, in the order of `fallline list`.
BUILT_IN: Mapping[str, Listed] = MappingProxyType(
    {
        "digits": Listed(
            "digits", "scikit-learn's digits, 8x8 pixels, 10 classes; an MLP 64-100-10", "second"
        ),
        "digits-cnn": Listed(
            "digits_cnn", "digits with a small convolutional network with batch normalisation", "seconds"
        ),
        "digits-autoencoder": Listed(
            "digits_autoencoder", "digits through 8 numbers and back; an MLP 64-128-8-128-64", "second"
        ),
        "noisy-labels": Listed(
            "noisy_labels", "digits, a fifth of whose training labels are wrong; an MLP 64-256-10", "second"
        ),
        "drift": Listed(
            "drift", "digits in 4 phases, each with other pixels and names, judged by the last", "second"
        ),
        "transfer": Listed(
            "transfer", "100 digits from 5 to 9 for an MLP that knows 0 to 4; layers can be frozen", "second"
        ),
        "adversarial": Listed(
            "adversarial", "digits under attack (PGD), in training and when judged", "seconds"
        ),
        "wine-tabular": Listed("wine_tabular", "178 wines, 13 measurements, 3 growers; an MLP", "instant"),
        "deep-narrow": Listed(
            "deep_narrow",
            "digits through 30 layers of 16 units; depth, activation, initialization",
            "seconds",
        ),
        "cancer-logistic": Listed(
            "cancer_logistic", "logistic regression on breast cancer: how far above the minimum", "second"
        ),
        "diabetes-linear": Listed(
            "diabetes_linear", "least squares on diabetes: how far above the minimum", "second"
        ),
        "quadratic": Listed(
            "functions", "a convex bowl of condition number kappa, in 20 dimensions", "second", "quadratic"
        ),
        "rosenbrock": Listed(
            "functions", "Rosenbrock's curved valley, nearly flat along its bottom", "second", "rosenbrock"
        ),
        "beale": Listed("functions", "Beale's plateau between steep walls", "second", "beale"),
        "rastrigin": Listed(
            "functions", "Rastrigin's many minima, from a basin that is not the lowest", "second", "rastrigin"
        ),
        "saddle": Listed(
            "functions", "the way off a saddle point, from beside the line into it", "instant", "saddle"
        ),
        "sparse-recovery": Listed(
            "sparse_recovery", "which 8 of 200 coefficients are not zero? for proximal methods", "second"
        ),
        "matrix-factorisation": Listed(
            "matrix_factorisation",
            "half of a 60x40 matrix of rank 4 with noise; two embeddings of 4",
            "second",
        ),
        "text-sparse": Listed(
            "text_sparse", "which of 12 modules is this source from? 20,000 words, few in a step", "second"
        ),
        "text-transformer": Listed(
            "text_transformer", "the next character of CPython's documentation; a decoder", "minutes"
        ),
        "text-lstm": Listed(
            "text_lstm", "the next character of CPython's documentation; LSTM or GRU", "seconds"
        ),
    }
)
