"""The studies by name: the question that each answers, and where it is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Listed:
    """A study as `fallline list` shows it, before anything is loaded; ``module`` has ``STUDY``."""

    module: str
    question: str


#: Every study that comes with fallline, in the order of a report of all.
BUILT_IN: Mapping[str, Listed] = MappingProxyType(
    {
        "activations": Listed("activations", "Which activation function trains best?"),
        "algorithms": Listed(
            "algorithms", "Which gradient-descent algorithm is best, by samples, steps and time?"
        ),
        "schedules": Listed(
            "schedules", "Which learning-rate schedule trains best, and does a warm-up help?"
        ),
        "batch-size": Listed(
            "batch_size", "Do larger batches save steps, epochs or time, and up to which size?"
        ),
        "regularization": Listed(
            "regularization", "Which penalty lowers the validation loss, and which makes weights zero?"
        ),
        "dropout": Listed("dropout", "Does dropout lower the validation loss, and at what price?"),
        "initialization": Listed("initialization", "Which initial weights train best, and why not zero?"),
        "optimizers": Listed("optimizers", "Which optimizer is best, on one task and over several?"),
        "workers": Listed("workers", "Is training on several processes faster?"),
        "hyperparameters": Listed(
            "hyperparameters", "Which settings of AdamW matter, and which work together?"
        ),
        "clipping": Listed("clipping", "Does clipping the gradient widen the range of good learning rates?"),
        "learning-rate": Listed(
            "learning_rate", "What does the learning rate do: too small, good, too large?"
        ),
        "noise": Listed("noise", "Does the noise of SGD help it escape poor places?"),
        "early-stopping": Listed(
            "early_stopping", "Does early stopping help, and how much patience does it need?"
        ),
        "sparse": Listed("sparse", "Do sparse data want adaptive methods?"),
        "drift": Listed("drift", "Which optimizers and memories cope when the data change?"),
        "layer-wise": Listed("layer_wise", "Do layers want learning rates of their own?"),
        "cross-validation": Listed(
            "cross_validation", "How far is the verdict of one hold-out from that of cross-validation?"
        ),
        "precision": Listed("precision", "Which precision: float32, bfloat16 or float64?"),
    }
)
