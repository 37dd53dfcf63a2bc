"""What to try first on a task, told before anything is trained: a prior with its reasons, not a result."""

from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

import torch

from fallline.compare.advice.anatomy import Anatomy, Architecture, anatomy
from fallline.compare.advice.rules import RULES, Candidate, Rule
from fallline.compare.judgement.wording import plural, size
from fallline.compare.trials.trial import state_bytes
from fallline.core.registry import find
from fallline.tasks.task import Task

#: At most so many optimizers are named: each more takes tuning from the others.
MOST = 4
#: How much lower the learning rates are when most parameters are frozen.
FINE_TUNING = 0.1
#: Elements of the parameter that an optimizer's state is measured on.
ELEMENTS = 1024
WIDTH = 80
NAMES: dict[Architecture, str] = {
    "sparse": "a model with sparse embeddings",
    "attention": "an attention model",
    "recurrent": "a recurrent network",
    "convolution": "a convolutional network",
    "linear": "a linear model",
    "mlp": "a network of linear layers",
    "other": "a model of no kind known here",
}


@dataclass(frozen=True)
class Proposal:
    """An optimizer to try: where to start and to search its learning rate, and what it keeps in memory.

    ``state_bytes`` are those of all trained parameters, ``bytes`` those of parameters, gradients and state.
    """

    name: str
    lr: float
    low: float
    high: float
    reason: str
    source: str
    confidence: str
    state_bytes: int
    bytes: int


@dataclass(frozen=True)
class Advice:
    """One piece of advice with its reason, its reference, and how well it is supported."""

    about: str
    advice: str
    reason: str
    source: str
    confidence: str


@dataclass(frozen=True)
class Recommendation:
    """What to try first on ``task``, best supported first, and the command that would test it."""

    task: str
    anatomy: Anatomy
    proposals: tuple[Proposal, ...]
    advice: tuple[Advice, ...]
    command: str

    def to_json(self) -> dict[str, Any]:
        """Return the recommendation as a JSON object."""
        return {**asdict(self), "anatomy": self.anatomy.to_json(), "kind": "a prior, not a result"}


def recommend(task: Task, name: str = "") -> Recommendation:
    """Return what to try first on ``task``, from its model alone; nothing is trained.

    Args:
        task: what would be trained; its model is made once, and called only if it has lazy layers.
        name: how the command line names the task, for the command that would test the advice.

    Raises:
        TaskError: the model cannot be made, or has nothing to train.

    Example:
        >>> [each.name for each in recommend(load("digits")).proposals]
        ['adamw', 'nadam', 'nesterov']
    """
    found = anatomy(task)
    rules = [rule for rule in RULES if rule.holds(found)]
    chosen: dict[str, tuple[Candidate, Rule]] = {}
    for rule in rules:
        for candidate in rule.candidates:
            chosen.setdefault(candidate.name, (candidate, rule))
    proposals = [_proposal(found, *each) for each in list(chosen.values())[:MOST]]
    names = ",".join(each.name for each in proposals)
    return Recommendation(
        task=task.name,
        anatomy=found,
        proposals=tuple(proposals),
        advice=tuple(_advice(found, rule) for rule in rules),
        command=f"fallline compare {name or 'TASK'} --optimizers {names} --budget 10min",
    )


def _proposal(found: Anatomy, candidate: Candidate, rule: Rule) -> Proposal:
    factor = FINE_TUNING if found.frozen > found.trained else 1.0
    state = round(_state_bytes_per_element(candidate, found.dtype) * found.trained)
    return Proposal(
        candidate.name,
        candidate.lr * factor,
        candidate.low * factor,
        candidate.high * factor,
        rule.reason.format(it=found),
        rule.source,
        rule.confidence,
        state,
        found.bytes + found.bytes_per_element * found.trained + state,
    )


def _state_bytes_per_element(candidate: Candidate, dtype: str) -> float:
    """Return what the optimizer keeps for each element, as it does after a step."""
    parameter = torch.nn.Parameter(torch.zeros(ELEMENTS, dtype=getattr(torch, dtype)))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = find(candidate.name).build([parameter], lr=candidate.lr)
    optimizer.step()
    return state_bytes(optimizer) // ELEMENTS


def _advice(found: Anatomy, rule: Rule) -> Advice:
    advice, reason = rule.advice.format(it=found), rule.reason.format(it=found)
    return Advice(rule.about, advice, reason, rule.source, rule.confidence)


def text(recommendation: Recommendation) -> str:
    """Return the recommendation in words, in lines of at most 80 characters."""
    found = recommendation.anatomy
    prior = "A prior from the kind of model, not a result: nothing was trained."
    why = [
        line for each in recommendation.advice if each.about == "optimizer" for line in _advice_lines(each)
    ]
    tried = why + [line for each in recommendation.proposals for line in _proposal_lines(each)]
    rest = [
        line for each in recommendation.advice if each.about != "optimizer" for line in _advice_lines(each)
    ]
    test = ["Test it:", f"  {recommendation.command}"]
    paragraphs = [_facts(recommendation.task, found), [prior], ["Try first:", *tried], ["And:", *rest], test]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if len(lines) > 1 or lines == [prior])


def _facts(task: str, found: Anatomy) -> list[str]:
    kinds = ", ".join(
        f"{kind} {count / found.trained:.0%}".replace("%", " %") for kind, count in found.kinds.items()
    )
    of_model = f"{found.trained:,} parameters in {plural(found.layers, 'layer')}, {found.dtype}: {kinds}"
    apart = [
        f"{count:,} {what}"
        for count, what in (
            (found.biases, "in norms and biases"), (found.tied, "tied"), (found.frozen, "frozen"),
        )
        if count
    ]  # fmt: skip
    samples = "a stream" if found.samples is None else f"{found.samples:,} samples"
    loss = f"; loss {found.loss}" if found.loss else ""
    of_data = f"{samples} in batches of {found.batch_size}, {found.steps:,} steps in all{loss}"
    return [
        *_wrapped(f"{task or 'The task'}: {NAMES[found.architecture]}", ""),
        *_wrapped("; ".join([of_model, *apart])),
        *_wrapped(of_data),
    ]


def _proposal_lines(each: Proposal) -> list[str]:
    head = f"{each.name}, lr {each.lr:g} (search {each.low:g} to {each.high:g})"
    return _wrapped(f"{head}; state {size(each.state_bytes)}, in all {size(each.bytes)}")


def _advice_lines(each: Advice) -> list[str]:
    about = "" if each.about == "optimizer" else f"{each.about}: "
    return _wrapped(f"{about}{each.advice}; {each.reason} ({each.confidence}: {each.source})")


def _wrapped(line: str, indent: str = "  ") -> list[str]:
    return wrap(line, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
