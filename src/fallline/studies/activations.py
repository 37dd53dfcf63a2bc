"""Which activation function? Each with its own learning rate, on one network, and then in a deep one."""

from dataclasses import replace
from math import log

from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison
from fallline.report.finding import Finding, Table
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import depth
from fallline.studies.measuring.levels import clause, sentence
from fallline.studies.reading import leader
from fallline.studies.study import Study
from fallline.studies.summary import found, level
from fallline.studies.varied import ACTIVATIONS, with_activations
from fallline.tasks import deep_narrow

QUICK_LEVELS = ("relu", "gelu", "tanh", "sigmoid")
#: A second comparison in a deep network: fewer levels, and trainings of half the length.
DEEP_LEVELS, DEEP_EPOCHS, DEEP_EFFORT = ("relu", "tanh", "sigmoid"), 10, Effort(4, 2, 3)


def answer(lab: Lab) -> Finding:
    """Compare the activation functions, AdamW's learning rate tuned anew for each; then in 30 layers."""
    levels, known = QUICK_LEVELS if lab.quick else tuple(ACTIVATIONS), lab.task.origin == STUDY.task
    wide, deep = map(with_activations, (lab.task, deep_narrow.make_task() if known else lab.task))
    wanted, twice = {"activation": levels}, known and not lab.quick
    comparison = lab.compare(
        "activations", ["adamw"], task=wide, scientific=wanted, share=0.6 if twice else 1.0
    )
    norms = {name: depth.norms_by_layer(deep, {"activation": name}, lab.seed) for name in levels}
    finding = found(
        STUDY, comparison, lab.task, answer=f"With its own learning rate each, {leader(comparison)}.",
        tables=[costs(comparison)], figures=[depth.figure(norms, "activation function")],
    )  # fmt: skip
    said = [sentence(comparison, "activation=sigmoid", "activation=relu"), depth.arriving(norms, deep.name)]
    finding = replace(finding, sentences=said)
    if not twice:
        return finding
    shorter = replace(deep, epochs=DEEP_EPOCHS)
    wanted = {"activation": DEEP_LEVELS}
    in_depth = lab.compare("deep", ["adamw"], task=shorter, scientific=wanted, effort=DEEP_EFFORT, share=0.4)
    against = clause(in_depth, "activation=sigmoid", "activation=tanh")
    guessing = f"There {against}; guessing among ten digits has a loss of ln 10 = {number(log(10))}."
    return depth.beside(finding, in_depth, guessing)


def costs(comparison: Comparison) -> Table:
    """Return what a forward and backward pass costs with each activation function."""
    ranked = sorted(comparison.pass_microseconds.items(), key=lambda each: each[1])
    rows = [[level(arm, comparison.plan), number(us), f"{us / ranked[0][1]:.2f}"] for arm, us in ranked]
    return Table(["activation", "µs", "ratio"], rows, note="A forward and backward pass over one batch.")


STUDY = Study("activations", "Which activation function trains best?", answer)
