"""Any model with one setting more: its activation function, its initialisation, or its dropout."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, Signature, signature
from math import sqrt
from typing import Any

from torch import Tensor, nn
from torch.nn import init

from fallline.studies.study import StudyError
from fallline.tasks.seeding import seeded
from fallline.tasks.settings import model_arguments
from fallline.tasks.task import Task

#: Activation functions that a study tries, by their usual names.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU,
    "softplus": nn.Softplus, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "identity": nn.Identity,
}  # fmt: skip
#: What counts as an activation function of a given model; Identity does not: it is a placeholder.
KNOWN_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.PReLU, nn.RReLU, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid,
    nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
#: Initialisations: what is done to each weight with two dimensions or more; biases become 0.
INITIALIZATIONS: dict[str, Callable[[Tensor], Any]] = {
    "zero": init.zeros_,
    "small": partial(init.normal_, std=0.01),
    "large": partial(init.normal_, std=1.0),
    "lecun": partial(init.kaiming_normal_, nonlinearity="linear"),
    "xavier": init.xavier_normal_,
    "he": partial(init.kaiming_normal_, nonlinearity="relu"),
    "orthogonal": partial(init.orthogonal_, gain=sqrt(2)),
}
#: Parts that keep their initial weights: what they look up or how they normalise has no fan-in.
KEPT = (
    nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d,
    nn.BatchNorm3d, nn.SyncBatchNorm,
)  # fmt: skip
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
#: Parts that have their share of dropout as a number.
WITH_DROPOUT = (nn.MultiheadAttention, nn.RNNBase)
#: Parts whose activation may be a function, not a module.
WITH_ACTIVATION = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
#: The level that leaves a model as it was made.
UNCHANGED = "default"


@dataclass(frozen=True)
class Varied:
    """A maker of models that takes one argument more.

    Args:
        make: the maker.
        argument: the new argument's name.
        change: given the new model and a level, returns the model as it should be; it may change it in place.
        default: the level if none is given.

    Example:
        >>> from functools import partial
        >>> maker = Varied(partial(nn.PReLU, 3), "dropout", with_dropout, 0.0)
        >>> maker(dropout=0.5)
        Sequential(
          (0): PReLU(num_parameters=3)
          (1): Dropout(p=0.5, inplace=False)
        )
    """

    make: Callable[..., nn.Module]
    argument: str
    change: Callable[[nn.Module, Any], nn.Module]
    default: Any

    def __call__(self, **settings: Any) -> nn.Module:
        level = settings.pop(self.argument, self.default)
        return self.change(self.make(**settings), level)

    @property
    def __signature__(self) -> Signature:
        own = Parameter(self.argument, Parameter.KEYWORD_ONLY, default=self.default)
        theirs = [p for p in signature(self.make).parameters.values() if _is_setting(p, self.argument)]
        return Signature([*(p.replace(kind=Parameter.KEYWORD_ONLY) for p in theirs), own])

    @property
    def __name__(self) -> str:
        return getattr(self.make, "__name__", type(self.make).__name__)


def _is_setting(parameter: Parameter, hidden: str) -> bool:
    named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return named and parameter.name != hidden


def varied(task: Task, argument: str, change: Callable[[nn.Module, Any], nn.Module], default: Any) -> Task:
    """Return ``task`` with a model that takes ``argument``, instead of its own of that name."""
    return replace(task, model=Varied(task.model, argument, change, default))


def with_activations(task: Task) -> Task:
    """Return ``task`` with a model whose activation functions are the setting ``activation``.

    Raises:
        StudyError: the model has no activation module, and no argument of that name.
    """
    if _activations(_new(task)):
        return varied(task, "activation", with_activation, UNCHANGED)
    if "activation" in model_arguments(task.model):
        return task
    raise StudyError(_nothing_to_change(task, "activation"))


def with_initializations(task: Task) -> Task:
    """Return ``task`` with a model whose initial weights are the setting ``initialization``.

    Raises:
        StudyError: the model has no weights to draw anew.
    """
    parts = (part for part in _new(task).modules() if not isinstance(part, KEPT))
    if not any(weight.dim() > 1 for part in parts for weight in part.parameters(recurse=False)):
        raise StudyError(
            f"task {task.name!r}: its model has no weights of two dimensions or more to draw anew; "
            "name a task with layers"
        )
    return varied(task, "initialization", with_initialization, UNCHANGED)


def with_dropouts(task: Task) -> Task:
    """Return ``task`` with a model whose share of dropped activations is the setting ``dropout``.

    Raises:
        StudyError: the model has neither a dropout nor an activation module, and no argument of that name.
    """
    if "dropout" in model_arguments(task.model):
        return task
    model = _new(task)
    if _dropouts(model) or _activations(model):
        return varied(task, "dropout", with_dropout, 0.0)
    raise StudyError(_nothing_to_change(task, "dropout"))


def _nothing_to_change(task: Task, argument: str) -> str:
    return (
        f"task {task.name!r}: its model has no activation module, such as torch.nn.ReLU, between its layers; "
        f"let the function that makes it take the argument {argument}"
    )


def _new(task: Task) -> nn.Module:
    with seeded(0):
        return task.new_model()


def with_activation(model: nn.Module, name: str) -> nn.Module:
    """Return ``model`` with every activation between its layers replaced by the one called ``name``."""
    return model if name == UNCHANGED else _each_activation(model, lambda _: ACTIVATIONS[name]())


def with_initialization(model: nn.Module, name: str) -> nn.Module:
    """Return ``model`` with weights of two dimensions or more drawn anew, and the biases beside them zero.

    Embeddings and normalisations stay as they are.
    """
    if name == UNCHANGED:
        return model
    for part in model.modules():
        if not isinstance(part, KEPT):
            _initialize(part, INITIALIZATIONS[name])
    return model


def _initialize(part: nn.Module, fill: Callable[[Tensor], Any]) -> None:
    for key, weight in part.named_parameters(recurse=False):
        if "bias" in key:
            init.zeros_(weight)
        elif weight.dim() > 1:
            fill(weight)


def with_dropout(model: nn.Module, share: float) -> nn.Module:
    """Return ``model`` with ``share`` in all its dropouts; without any, one follows each activation."""
    own = _dropouts(model)
    for part in own:
        setattr(part, "dropout" if isinstance(part, WITH_DROPOUT) else "p", share)
    return model if own else _each_activation(model, lambda old: nn.Sequential(old, nn.Dropout(share)))


def _dropouts(model: nn.Module) -> list[nn.Module]:
    """Return the parts that drop activations: attention always, a recurrent net between its layers."""
    return [
        part
        for part in model.modules()
        if isinstance(part, (*DROPOUTS, *WITH_DROPOUT)) and getattr(part, "num_layers", 2) > 1
    ]


def _each_activation(model: nn.Module, change: Callable[[Any], nn.Module]) -> nn.Module:
    if isinstance(model, KNOWN_ACTIVATIONS):
        return change(model)
    for parent, key in _activations(model):
        setattr(parent, key, change(getattr(parent, key)))
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0  # torch's fast path in evaluation knows these two alone
    return model


def _activations(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return where the activations between layers are: all but one that ends the whole model."""
    if isinstance(model, KNOWN_ACTIVATIONS):
        return [(model, "")]
    places = (place for part in model.modules() for place in _own_activations(part))
    return [place for place in places if place != _end(model)]


def _own_activations(part: nn.Module) -> Iterable[tuple[nn.Module, str]]:
    """Return the places in ``part`` itself, each even where one module is in several."""
    found = [(part, key) for key, child in part._modules.items() if isinstance(child, KNOWN_ACTIVATIONS)]
    is_function = isinstance(part, WITH_ACTIVATION) and not isinstance(part.activation, nn.Module)
    return [*found, (part, "activation")] if is_function else found


def _end(model: nn.Module) -> tuple[nn.Module, str] | None:
    """Return the place of the last module of nested Sequentials; what it does belongs to the output."""
    place = None
    while isinstance(model, nn.Sequential) and len(model):
        place = (model, next(reversed(model._modules)))
        model = model[-1]
    return place
