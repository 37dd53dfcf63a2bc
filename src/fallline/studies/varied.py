"""Any model with one setting more: its activation function, its initialisation, or its dropout."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, Signature, signature
from math import sqrt
from typing import Any

from torch import Tensor, nn
from torch.nn import init

from fallline.tasks.errors import TaskError
from fallline.tasks.settings import model_arguments
from fallline.tasks.task import Task

#: Activation functions that a study tries, by their usual names.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "softplus": nn.Softplus, "identity": nn.Identity,
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
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
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
        named = (p for p in signature(self.make).parameters.values() if p.kind in _NAMED)
        return Signature([*(p.replace(kind=Parameter.KEYWORD_ONLY) for p in named), own])

    @property
    def __name__(self) -> str:
        return getattr(self.make, "__name__", type(self.make).__name__)


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def varied(task: Task, argument: str, change: Callable[[nn.Module, Any], nn.Module], default: Any) -> Task:
    """Return ``task`` with a model that takes ``argument``; one that takes it already is left alone."""
    if argument in model_arguments(task.model):
        return task
    return replace(task, model=Varied(task.model, argument, change, default))


def with_activations(task: Task) -> Task:
    """Return ``task`` with a model whose activation functions are the setting ``activation``.

    Raises:
        TaskError: the model has no activation module, and no argument of that name.
    """
    changed = varied(task, "activation", with_activation, UNCHANGED)
    if changed is not task and not any(isinstance(part, KNOWN_ACTIVATIONS) for part in _new(task).modules()):
        raise TaskError(
            f"task {task.name!r}: its model has no activation module, such as torch.nn.ReLU, to replace; "
            "let the function that makes the model take the argument activation"
        )
    return changed


def with_initializations(task: Task) -> Task:
    """Return ``task`` with a model whose initial weights are the setting ``initialization``."""
    return varied(task, "initialization", with_initialization, UNCHANGED)


def with_dropouts(task: Task) -> Task:
    """Return ``task`` with a model whose share of dropped activations is the setting ``dropout``."""
    return varied(task, "dropout", with_dropout, 0.0)


def with_activation(model: nn.Module, name: str) -> nn.Module:
    """Return ``model`` with every activation module replaced by the one called ``name``."""
    return model if name == UNCHANGED else _replaced(model, KNOWN_ACTIVATIONS, ACTIVATIONS[name])


def with_initialization(model: nn.Module, name: str) -> nn.Module:
    """Return ``model`` with weights of two dimensions or more drawn anew, and the biases beside them zero."""
    if name == UNCHANGED:
        return model
    for part in model.modules():
        for key, weight in part.named_parameters(recurse=False):
            if weight.dim() > 1 and not isinstance(part, nn.Embedding):
                INITIALIZATIONS[name](weight)
            elif "bias" in key:
                init.zeros_(weight)
    return model


def with_dropout(model: nn.Module, share: float) -> nn.Module:
    """Return ``model`` with ``share`` in all its dropouts; without any, one follows each activation."""
    own = [part for part in model.modules() if isinstance(part, DROPOUTS)]
    for part in own:
        part.p = share
    return model if own else _followed(model, KNOWN_ACTIVATIONS, lambda: nn.Dropout(share))


def _new(task: Task) -> nn.Module:
    from fallline.tasks.seeding import seeded

    with seeded(0):
        return task.new_model()


def _replaced(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[[], nn.Module]
) -> nn.Module:
    if isinstance(model, kinds):
        return make()
    for parent, key in _places(model, kinds):
        setattr(parent, key, make())
    return model


def _followed(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[[], nn.Module]
) -> nn.Module:
    if isinstance(model, kinds):
        return nn.Sequential(model, make())
    for parent, key in _places(model, kinds):
        setattr(parent, key, nn.Sequential(getattr(parent, key), make()))
    return model


def _places(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterable[tuple[nn.Module, str]]:
    return [
        (part, key)
        for part in model.modules()
        for key, child in part.named_children()
        if isinstance(child, kinds)
    ]
