"""What is known in advance about training models of a kind, as data: rules with reasons and references.

To add a rule, append it to `RULES`; the more specific stand first, since the first optimizers named win.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fallline.compare.advice.anatomy import Anatomy, Architecture, Kind

About = Literal[
    "optimizer",
    "learning rate",
    "schedule",
    "beta2",
    "clipping",
    "weight decay",
    "batch size",
    "memory",
    "data",
]
#: How well a piece of advice is supported: found again and again, or usually right.
Confidence = Literal["well supported", "often right"]

#: From so many parameters on, memory decides as much as speed.
LARGE = 100_000_000
#: Below so many steps Adam's average of squares, over 1/(1 - 0.999) steps, is hardly full.
SHORT = 1000


@dataclass(frozen=True)
class Candidate:
    """An optimizer to try: its name in `fallline list`, the learning rate to start at and where to search."""

    name: str
    lr: float
    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """A piece of advice for the models that ``holds`` is true of.

    ``advice`` and ``reason`` are formats of ``it``, the `Anatomy`. ``candidates`` are what to try because
    of it.
    """

    about: About
    holds: Callable[[Anatomy], bool]
    advice: str
    reason: str
    source: str
    confidence: Confidence
    candidates: tuple[Candidate, ...] = ()


def _is(*architectures: Architecture) -> Callable[[Anatomy], bool]:
    return lambda it: it.architecture in architectures


def _has(kind: Kind, share: float = 0.0) -> Callable[[Anatomy], bool]:
    return lambda it: it.kinds.get(kind, 0) > share * it.trained


def _dense(it: Anatomy) -> bool:
    return it.architecture != "sparse"


RULES = (
    Rule(
        "optimizer", _is("sparse"),
        "Adagrad first, plain SGD as its control",
        "rare rows get larger steps, and both take sparse gradients, which Adam's family refuses",
        "Duchi, Hazan & Singer 2011", "well supported",
        (Candidate("adagrad", 0.05, 1e-3, 1.0), Candidate("sgd", 0.5, 1e-2, 10.0)),
    ),
    Rule(
        "optimizer", _is("attention"),
        "Adam's family: AdamW, NAdam and RAdam",
        "gradients of attention models are heavy-tailed, which adaptive steps withstand and SGD does not",
        "Zhang et al. 2020, Why are adaptive methods good for attention models?", "well supported",
        (Candidate("adamw", 1e-3, 3e-5, 1e-2), Candidate("nadam", 1e-3, 3e-5, 1e-2),
         Candidate("radam", 1e-3, 3e-5, 1e-2)),
    ),
    Rule(
        "optimizer", _is("recurrent"),
        "Adam and RMSprop, with Nesterov's momentum as the control",
        "gradients through time differ in size from weight to weight; a momentum method needs care there, "
        "but can keep up",
        "Sutskever et al. 2013; Kingma & Ba 2015", "often right",
        (Candidate("adam", 2e-3, 1e-4, 3e-2), Candidate("rmsprop", 1e-3, 1e-4, 1e-2),
         Candidate("nesterov", 0.1, 1e-2, 3.0)),
    ),
    Rule(
        "optimizer", lambda it: it.architecture == "convolution" and _has("batch norm")(it),
        "momentum, Nesterov's too, against AdamW",
        "networks with convolutions and batch normalisation are where SGD with momentum generalises best; "
        "tuned as well, AdamW need not lose",
        "He et al. 2016; Wilson et al. 2017; Choi et al. 2019", "well supported",
        (Candidate("momentum", 0.1, 3e-3, 1.0), Candidate("nesterov", 0.1, 3e-3, 1.0),
         Candidate("adamw", 1e-3, 1e-4, 3e-2)),
    ),
    Rule(
        "optimizer", lambda it: it.architecture == "convolution" and not _has("batch norm")(it),
        "AdamW against Nesterov's momentum",
        "without batch normalisation the scale of gradients differs between layers, which Adam evens out",
        "Choi et al. 2019", "often right",
        (Candidate("adamw", 1e-3, 1e-4, 3e-2), Candidate("nesterov", 0.02, 1e-3, 0.3),
         Candidate("adam", 1e-3, 1e-4, 3e-2)),
    ),
    Rule(
        "optimizer", _is("linear"),
        "Nesterov's momentum, Adagrad and Adam; all find the same minimum",
        "one linear layer with this loss is convex, so that only speed is compared; for data that fits into "
        "memory a quasi-Newton method such as L-BFGS is faster still",
        "Nesterov 1983; Bottou, Curtis & Nocedal 2018", "well supported",
        (Candidate("nesterov", 0.1, 1e-2, 10.0), Candidate("adagrad", 0.1, 1e-2, 1.0),
         Candidate("adam", 1e-2, 1e-3, 0.3)),
    ),
    Rule(
        "optimizer", _is("mlp", "other"),
        "several at once: AdamW, NAdam and Nesterov's momentum",
        "no optimizer wins on models like this one; trying a few is worth as much as tuning one",
        "Schmidt, Schneider & Hennig 2021", "well supported",
        (Candidate("adamw", 1e-3, 1e-4, 3e-2), Candidate("nadam", 1e-3, 1e-4, 3e-2),
         Candidate("nesterov", 0.05, 1e-3, 1.0)),
    ),
    Rule(
        "learning rate", lambda it: it.frozen > it.trained,
        "start ten times lower than for a training from scratch, as the rates above do",
        "{it.frozen:,} parameters are frozen: in fine-tuning large steps undo what is learned",
        "Howard & Ruder 2018", "often right",
    ),
    Rule(
        "learning rate", lambda it: it.architecture == "convolution" and it.batch_size >= 1024,
        "with momentum scale the rate with the batch, 0.1 for 256 samples, and warm up",
        "averaging over more samples makes a larger step safe, up to a few thousand of them",
        "Goyal et al. 2017", "often right",
    ),
    Rule(
        "schedule", lambda it: it.architecture == "attention" and it.steps >= 20,
        'Task(warmup=0.05, schedule="cosine")',
        "the first steps of attention models diverge at rates that are good later, above all with layer "
        "norms behind the residual sum",
        "Vaswani et al. 2017; Xiong et al. 2020", "well supported",
    ),
    Rule(
        "schedule", lambda it: it.architecture != "attention" and not it.linear and it.steps >= 20,
        'Task(schedule="cosine") or "linear"',
        "a rate that falls to zero at the end of a budget fixed in advance beats a constant one",
        "Loshchilov & Hutter 2017; Defazio et al. 2023", "well supported",
    ),
    Rule(
        "beta2", lambda it: it.steps < SHORT and not it.linear and _dense(it),
        "search it too, down to 0.9",
        "Adam's average of squares spans 1/(1 - 0.999) = 1000 steps, and the training has {it.steps:,}",
        "Kingma & Ba 2015", "often right",
    ),
    Rule(
        "clipping", _is("recurrent"),
        "Task(clip=1.0): the global norm of the gradient",
        "gradients through many time steps explode now and then; clipping keeps one batch from undoing many",
        "Pascanu, Mikolov & Bengio 2013", "well supported",
    ),
    Rule(
        "clipping", _is("attention"),
        "Task(clip=1.0), or a search over it",
        "it costs little and bounds the harm of a rare bad batch; large language models are trained so",
        "Brown et al. 2020", "often right",
    ),
    Rule(
        "weight decay", lambda it: _dense(it) and it.biases > 0 and not it.linear,
        "decay weights, but not the {it.biases:,} norms and biases: "
        "fallline.penalties.no_decay_on_norms_and_biases",
        "they are few and cannot overfit much, and their scale carries meaning",
        "Jia et al. 2018; He et al. 2019", "often right",
    ),
    Rule(
        "weight decay", lambda it: _dense(it) and not it.linear,
        "search AdamW's between 0.001 and 0.3; with momentum try 1e-4 to 5e-4",
        "decoupled decay can be tuned apart from the learning rate",
        "Loshchilov & Hutter 2019; He et al. 2016", "often right",
    ),
    Rule(
        "weight decay", _is("sparse"),
        "none on the embeddings",
        "decay touches every row in every step, so that a sparse step becomes a dense one",
        "Duchi, Hazan & Singer 2011", "often right",
    ),
    Rule(
        "batch size", lambda it: it.steps_per_epoch is not None and it.steps_per_epoch < 10,
        "try a quarter of the batch of {it.batch_size} too, for the same number of epochs",
        "an epoch has only {it.steps_per_epoch} steps; beyond the size where gradient noise is small, "
        "larger batches waste samples",
        "McCandlish et al. 2018", "often right",
    ),
    Rule(
        "batch size", lambda it: it.batch_size < 8 and _has("batch norm")(it),
        "larger batches, or group instead of batch normalisation",
        "mean and variance over {it.batch_size} samples are too noisy",
        "Wu & He 2018", "well supported",
    ),
    Rule(
        "memory", lambda it: it.trained >= LARGE,
        "weigh the optimizer's state: momentum keeps 1 number for each parameter, Adam 2, Adafactor "
        '(enter "torch.optim.Adafactor") far less than 1',
        "at {it.trained:,} parameters state is a large part of memory; OffloadState and GradientRelease "
        "reduce it for any optimizer",
        "Shazeer & Stern 2018", "well supported",
    ),
    Rule(
        "memory", lambda it: _dense(it) and _has("embedding", 0.5)(it),
        "try sparse=True in the embeddings, with SparseAdam, Adagrad or SGD for them (fallline.route)",
        "more than half of the parameters are embeddings, of which a batch touches few rows",
        "Duchi, Hazan & Singer 2011", "often right",
    ),
    Rule(
        "memory", lambda it: it.dtype in ("float16", "bfloat16"),
        "keep parameters in float32 and compute in {it.dtype}: Task(precision=...)",
        "steps smaller than the parameter's last bit are lost",
        "Micikevicius et al. 2018", "well supported",
    ),
    Rule(
        "data", lambda it: it.input_scale is not None and not 0.1 <= it.input_scale <= 10,
        "bring inputs to mean 0 and standard deviation 1 before anything else",
        "they are of size {it.input_scale:.3g}; the good learning rate, and how well conditioned the "
        "first layer is, follow from that",
        "LeCun et al. 1998, Efficient BackProp", "well supported",
    ),
    Rule(
        "data", lambda it: it.layers >= 20 and not it.normalised,
        "add normalisation, or initialise so that residual branches begin at zero",
        "{it.layers} layers without any normalisation train slowly or diverge whatever the optimizer",
        "He et al. 2016; Zhang, Dauphin & Ma 2019", "often right",
    ),
)  # fmt: skip
