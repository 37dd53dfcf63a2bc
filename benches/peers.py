"""Public implementations of optimizers, where they are installed: one step of each, as a function of nothing.

They are no dependency of fallline: install them beside it (`pip install -c constraints.txt pytorch_optimizer
torch-optimi torch_optimizer schedulefree adam-mini heavyball torchzero optax opt_einsum`; without the last,
torch contracts the factors of pytorch_optimizer's Kron in an order that takes a minute and more). What is not
there is left out, and said.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

Step = Callable[[], object]
LR = 1e-6
#: Tensors that heavyball is compiled for.
COMPILED = 64
#: Optimizers of which torch has a fused kernel for CPUs.
FUSED = {"SGD", "Adagrad", "Adam", "AdamW"}


def steps(name: str, params: Sequence[Tensor]) -> dict[str, Step]:
    """Return a step of each public implementation of ``name`` that is installed."""
    found = {}
    for kind, named in PEERS.get(name, {}).items():
        try:
            found |= KINDS[kind](named, params)
        except ImportError:
            MISSING.add(kind)
    return found


def _torch(named: str, params: Sequence[Tensor]) -> dict[str, Step]:
    make = getattr(importlib.import_module("torch.optim"), named)
    if named == "Muon":
        return {"torch": make(params, lr=LR).step}
    ways = {"loop": {"foreach": False}, "foreach": {"foreach": True}}
    if named in FUSED:
        ways["fused"] = {"fused": True}
    return {f"torch {way}": make(params, lr=LR, **flags).step for way, flags in ways.items()}


def _class_of(
    package: str, label: str, named: str, params: Sequence[Tensor], **settings: Any
) -> dict[str, Step]:
    settings |= SETTINGS.get(named, {})
    optimizer = getattr(importlib.import_module(package), named)(params, lr=LR, **settings)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return {label: optimizer.step}


def _adam_mini(named: str, params: Sequence[Tensor]) -> dict[str, Step]:
    """The authors' goes by names: these are hidden layers' matrices, and norms."""
    make = getattr(importlib.import_module("adam_mini"), named)
    layers = [(f"{'mlp' if p.dim() == 2 else 'norm'}.{i}.weight", p) for i, p in enumerate(params)]
    return {"adam_mini": make(layers, lr=LR, verbose=False).step}


def _optax(named: str, params: Sequence[Tensor]) -> dict[str, Step]:
    """A jitted step that gives its old parameters and state back, as a training loop in JAX does."""
    jax, optax = importlib.import_module("jax"), importlib.import_module("optax")
    place = optax if hasattr(optax, named) else importlib.import_module("optax.contrib")
    transform = getattr(place, named)(
        **({} if named in ("prodigy", "dadapt_adamw", "dog") else {"learning_rate": LR})
    )

    @partial(jax.jit, donate_argnums=(0, 1))
    def one(values: Any, state: Any, grads: Any) -> Any:
        updates, state = transform.update(grads, state, values)
        return optax.apply_updates(values, updates), state

    grads = [jax.numpy.asarray(p.grad.numpy()) for p in params]  # type: ignore[union-attr]
    values = [jax.numpy.array(p.detach().numpy()) for p in params]
    held = [values, jax.tree.map(jax.numpy.copy, transform.init(values))]

    def step() -> None:
        held[:] = one(*held, grads)
        jax.block_until_ready(held)

    return {"optax jit": step}


def _heavyball(named: str, params: Sequence[Tensor]) -> dict[str, Step]:
    """A step by torch's compiler, which needs a minute for a hundred tensors: more are not measured.

    It takes the gradients away, which other entries need.
    """
    heavyball = importlib.import_module("heavyball")
    if len(params) > COMPILED:
        return {}
    heavyball.utils.compile_mode = "default"
    optimizer, grads = getattr(heavyball, named)(list(params), lr=LR), [p.grad for p in params]
    if hasattr(optimizer, "train"):
        optimizer.train()

    def step() -> None:
        optimizer.step()
        for p, g in zip(params, grads, strict=True):
            p.grad = g

    return {"heavyball": step}


def _torchzero(named: str, params: Sequence[Tensor]) -> dict[str, Step]:
    """A chain of the rule's modules and a learning rate; Shampoo averages and has Adam's length, as ours."""
    torchzero = importlib.import_module("torchzero")
    m = torchzero.m
    rules = {
        "SGD": lambda: (),
        "Shampoo": lambda: (m.Graft(m.Shampoo(beta=0.999, inner=m.EMA(0.9)), magnitude=m.Adam()),),
    }
    rule = rules.get(named, lambda: (getattr(m, named)(),))()
    return {"torchzero": torchzero.Optimizer(list(params), *rule, m.LR(LR)).step}


#: How each package's optimizers are made and stepped.
KINDS: dict[str, Callable[[str, Sequence[Tensor]], dict[str, Step]]] = {
    "torch": _torch,
    "pytorch_optimizer": partial(_class_of, "pytorch_optimizer", "pytorch_optimizer"),
    "optimi": partial(_class_of, "optimi", "optimi", foreach=True),
    "torch_optimizer": partial(_class_of, "torch_optimizer", "torch_optimizer"),
    "schedulefree": partial(_class_of, "schedulefree", "schedulefree", foreach=True),
    "adam_mini": _adam_mini,
    "heavyball": _heavyball,
    "torchzero": _torchzero,
    "optax": _optax,
}

#: What makes a public implementation the same rule as ours, where its defaults do not: roots as often.
SETTINGS = {"ScalableShampoo": {"preconditioning_compute_steps": 10}}

#: Packages that were asked for and are not installed.
MISSING: set[str] = set()


def _named(pytorch_optimizer: str = "", optax: str = "", **others: str) -> dict[str, str]:
    every = {"pytorch_optimizer": pytorch_optimizer, "optax": optax, **others}
    return {kind: name for kind, name in every.items() if name}


#: The public implementations of each optimizer: the package, and the name there.
PEERS = {
    "SGD": _named(torch="SGD", optax="sgd", optimi="SGD", heavyball="SGD", torchzero="SGD"),
    "Adagrad": _named(torch="Adagrad", optax="adagrad", torchzero="Adagrad"),
    "RMSprop": _named(torch="RMSprop", optax="rmsprop", heavyball="RMSprop", torchzero="RMSprop"),
    "Adadelta": _named(torch="Adadelta", optax="adadelta"),
    "Adam": _named(torch="Adam", optax="adam", optimi="Adam", torchzero="Adam"),
    "AdamW": _named(torch="AdamW", optax="adamw", optimi="AdamW", heavyball="AdamW"),
    "Adamax": _named(torch="Adamax", optax="adamax"),
    "NAdam": _named(torch="NAdam", optax="nadam", heavyball="NAdam"),
    "RAdam": _named(torch="RAdam", optax="radam", optimi="RAdam"),
    "ASGD": _named(torch="ASGD"),
    "Rprop": _named(torch="Rprop", optax="rprop", torchzero="Rprop"),
    "Adafactor": _named("AdaFactor", torch="Adafactor"),
    "Muon": _named(torch="Muon", heavyball="Muon"),
    "Lion": _named("Lion", "lion", optimi="Lion", torchzero="Lion"),
    "SignSGD": _named("SignSGD", "sign_sgd", torchzero="Sign"),
    "AdaBelief": _named("AdaBelief", "adabelief", torch_optimizer="AdaBelief"),
    "Yogi": _named("Yogi", "yogi", torch_optimizer="Yogi"),
    "ADOPT": _named("ADOPT", "adopt", heavyball="ADOPT"),
    "Adan": _named("Adan", "adan", optimi="Adan", torchzero="Adan"),
    "AdEMAMix": _named("AdEMAMix", "ademamix", heavyball="AdEMAMix"),
    "NAdamW": _named("", "nadamw"),
    "MARS": _named("MARS"),
    "AdaBound": _named("AdaBound", torch_optimizer="AdaBound"),
    "StableAdamW": _named("StableAdamW", optimi="StableAdamW"),
    "FTRL": _named("FTRL"),
    "LARS": _named("LARS", "lars", torch_optimizer="LARS"),
    "LAMB": _named("Lamb", "lamb", torch_optimizer="Lamb"),
    "NovoGrad": _named("NovoGrad", "novograd", torch_optimizer="NovoGrad"),
    "Prodigy": _named("Prodigy", "prodigy"),
    "DAdaptAdam": _named("DAdaptAdam", "dadapt_adamw"),
    "DoG": _named("", "dog"),
    "CAME": _named("CAME"),
    "AdamMini": _named(adam_mini="Adam_mini"),
    "SOAP": _named("SOAP", heavyball="SOAP", torchzero="SOAP"),
    "Shampoo": _named("ScalableShampoo", torchzero="Shampoo"),
    "PSGDKron": _named("Kron", heavyball="PSGDKron", torchzero="PSGDKronWhiten"),
    "ScheduleFreeSGD": _named("ScheduleFreeSGD", schedulefree="SGDScheduleFree"),
    "ScheduleFreeAdamW": _named("ScheduleFreeAdamW", schedulefree="AdamWScheduleFree", heavyball="SFAdamW"),
}
