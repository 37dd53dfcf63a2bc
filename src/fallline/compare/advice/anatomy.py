"""What a task is made of, found without training: the model's layers by kind, and the size of everything."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from fallline.tasks.batches import Batches
from fallline.tasks.data import in_memory, inputs_and_targets, leaves, sample_count
from fallline.tasks.losses import inferred
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task, TaskError

Kind = Literal[
    "sparse embedding", "embedding", "attention", "recurrent", "convolution", "linear", "batch norm", "norm",
    "other",
]  # fmt: skip
Architecture = Literal["sparse", "attention", "recurrent", "convolution", "linear", "mlp", "other"]
#: The share of the parameters from which on attention or recurrent layers decide what the model is.
SHARE = 0.05
#: Samples that the scale of the inputs is read from.
SCALE_SAMPLES = 1000
#: Losses of which a linear model is convex, by the name of torch's function or module.
CONVEX = re.compile(r"cross_?entropy|mse|l1|huber|nll|binary|bce|hinge|margin", re.I)


@dataclass(frozen=True)
class Anatomy:
    """What is known of a task before any training; counts are of elements, and of what is trained.

    ``kinds`` has the parameters by the kind of layer that owns them; ``biases`` are those of at most one
    dimension, wherever they are. ``tied`` counts parameters with more than one name, each once. ``layers``
    counts the trained layers with weights. ``samples`` and ``steps_per_epoch`` are None for a stream.
    ``input_scale`` is the largest of |mean| and standard deviation of inputs in memory, None if not known.
    """

    kinds: dict[Kind, int]
    trained: int
    frozen: int
    biases: int
    tied: int
    layers: int
    dtype: str
    bytes_per_element: int
    loss: str
    batch_size: int
    samples: int | None
    steps_per_epoch: int | None
    steps: int
    schedule: str
    clip: float | None
    input_scale: float | None

    @property
    def architecture(self) -> Architecture:
        """What the model is as far as optimizers are concerned, by what is trained of it."""
        if self.kinds.get("sparse embedding"):
            return "sparse"
        for kind in ("attention", "recurrent"):
            if self.kinds.get(kind, 0) >= SHARE * self.trained:
                return kind
        if self.kinds.get("convolution"):
            return "convolution"
        if self.linear:
            return "linear"
        return "mlp" if self.kinds.get("linear") else "other"

    @property
    def linear(self) -> bool:
        """Whether one linear layer is all that is trained, with a loss of which that is convex."""
        return set(self.kinds) == {"linear"} and self.layers == 1 and bool(CONVEX.search(self.loss))

    @property
    def normalised(self) -> bool:
        """Whether any layer normalises."""
        return bool(self.kinds.get("norm") or self.kinds.get("batch norm"))

    @property
    def bytes(self) -> int:
        """The bytes of all parameters, frozen ones among them."""
        return self.bytes_per_element * (self.trained + self.frozen)

    def to_json(self) -> dict[str, Any]:
        """Return the anatomy as a JSON object."""
        return {**asdict(self), "architecture": self.architecture}


def anatomy(task: Task) -> Anatomy:
    """Return what ``task`` is made of, without training it.

    The model is made on the meta device, where it takes no memory, or on the CPU if that fails. One with
    lazy layers is then given a batch.

    Raises:
        TaskError: the model cannot be made or called, or has no parameters to train.

    Example:
        >>> anatomy(load("digits")).architecture
        'mlp'
    """
    task = task.fold(0)
    model = _made(task)
    layers = reversed(list(model.named_modules()))  # the first owner of tied parameters wins
    owners = {id(p): (module, path) for path, module in layers for p in _own(module)}
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise TaskError("the model has no parameters to train; give one with requires_grad=True")
    kinds = Counter[Kind]()
    for p in trained:
        kinds[_kind(model, *owners[id(p)])] += p.numel()
    names = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return Anatomy(
        kinds=dict(kinds.most_common()),
        trained=sum(kinds.values()),
        frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        biases=sum(p.numel() for p in trained if p.dim() <= 1),
        tied=sum(p.numel() for p in trained if names[id(p)] > 1),
        layers=_layers(model),
        dtype=str(trained[0].dtype).removeprefix("torch."),
        bytes_per_element=trained[0].element_size(),
        **_training(task),
    )


def _made(task: Task) -> nn.Module:
    """Return the model, with shapes at least."""
    try:
        with seeded(0), torch.device("meta"):
            model = task.new_model()
        if not _lazy(model):
            return model
    except Exception:
        pass  # what moves data cannot be made without; if it is wrong, the next attempt says so
    try:
        with seeded(0), torch.no_grad():
            model = task.new_model()
            if _lazy(model):
                task.loss_on(model, next(iter(Batches(task.train, task.batch_size, seed=0))))
    except Exception as error:
        raise TaskError(f"the model of {task.name!r} raised {type(error).__name__}: {error}") from error
    return model


def _lazy(model: nn.Module) -> bool:
    return any(is_lazy(p) for p in model.parameters())


def _own(module: nn.Module) -> Iterator[Tensor]:
    return module.parameters(recurse=False)


def _kind(model: nn.Module, module: nn.Module, path: str) -> Kind:
    """Return the kind of the layer ``module``, which lies at ``path`` in the model."""
    if any(re.search(r"attention|attn", type(each).__name__, re.I) for each in _above(model, path)):
        return "attention"
    for types, kind in _KINDS:
        if isinstance(module, types):
            return "sparse embedding" if kind == "embedding" and module.sparse else kind
    return "norm" if "norm" in type(module).__name__.lower() else "other"


_KINDS: tuple[tuple[Any, Kind], ...] = (
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent"),
    (_ConvNd, "convolution"),
    (_BatchNorm, "batch norm"),
    ((nn.Linear, nn.Bilinear), "linear"),
)


def _above(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """Yield the modules from the one at ``path`` up to the whole model."""
    names = path.split(".")
    for end in range(len(names), -1, -1):
        yield model.get_submodule(".".join(names[:end]))


def _layers(model: nn.Module) -> int:
    """Return how many trained layers with weights there are; each of a stack of recurrent ones counts."""
    return sum(
        getattr(module, "num_layers", 1) if isinstance(module, nn.RNNBase) else 1
        for module in model.modules()
        if any(p.dim() > 1 and p.requires_grad for p in _own(module))
    )


def _training(task: Task) -> dict[str, Any]:
    """Return the fields of an `Anatomy` that are about the training."""
    samples = sample_count(task.train)
    return {
        "loss": _loss_name(task),
        "batch_size": task.batch_size if samples is None else min(task.batch_size, samples),
        "samples": samples,
        "steps_per_epoch": None if samples is None else task.steps_per_epoch,
        "steps": task.total_steps,
        "schedule": task.schedule,
        "clip": task.clip,
        "input_scale": _input_scale(task),
    }


def _loss_name(task: Task) -> str:
    """Return what the loss is called; a task that names none means one that its targets ask for."""
    if task.loss is not None and task.loss is not inferred:
        return getattr(task.loss, "__name__", type(task.loss).__name__)
    target = inputs_and_targets(task.train)[1] if in_memory(task.train) else None
    if not isinstance(target, Tensor):
        return ""
    return "mse_loss" if target.is_floating_point() else "cross_entropy"


def _input_scale(task: Task) -> float | None:
    """Return the largest of |mean| and standard deviation of the first inputs, if they lie in memory."""
    first = next(leaves(task.train)) if in_memory(task.train) else None
    if not isinstance(first, Tensor) or not first.is_floating_point() or first.numel() < 2 or first.is_meta:
        return None
    some = first[:SCALE_SAMPLES].double()
    return max(abs(some.mean().item()), some.std().item())
