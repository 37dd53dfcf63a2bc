"""How should weights begin? Each initialisation with its own learning rate, also in a deep network."""

from dataclasses import replace

from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import depth
from fallline.studies.measuring.levels import best_beside, sentence
from fallline.studies.measuring.symmetry import equal_units
from fallline.studies.reading import leader
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.studies.varied import INITIALIZATIONS, UNCHANGED, with_initializations
from fallline.tasks import deep_narrow

SETTING, QUICK_LEVELS = "initialization", (UNCHANGED, "zero", "large", "xavier", "he")
#: A second comparison in a deep network: fewer levels, and trainings of a quarter of the length.
DEEP_LEVELS = (UNCHANGED, "small", "large", "xavier", "he", "orthogonal")
DEEP_EPOCHS, DEEP_EFFORT = 5, Effort(4, 2, 3)


def answer(lab: Lab) -> Finding:
    """Compare the initialisations, AdamW's learning rate tuned anew for each; then in 30 layers."""
    levels, known = (
        QUICK_LEVELS if lab.quick else (UNCHANGED, *INITIALIZATIONS),
        lab.task.origin == STUDY.task,
    )
    layers = deep_narrow.make_task(initialization="default") if known else lab.task
    wide, deep = map(with_initializations, (lab.task, layers))
    wanted, twice = {SETTING: levels}, known and not lab.quick
    comparison = lab.compare(
        "initializations", ["adamw"], task=wide, scientific=wanted, share=0.6 if twice else 1.0
    )
    norms = {name: depth.norms_by_layer(deep, {SETTING: name}, lab.seed) for name in levels}
    finding = found(
        STUDY, comparison, lab.task, answer=f"With its own learning rate each, {leader(comparison)}.",
        figures=[depth.figure(norms, SETTING)],
    )  # fmt: skip
    base = f"{SETTING}={UNCHANGED}"
    against = sentence(comparison, base, best_beside(comparison, base))
    said = [*equal_units(comparison, wide, f"{SETTING}=zero"), against, depth.arriving(norms, deep.name)]
    finding = replace(finding, sentences=said)
    if not twice:
        return finding
    shorter, wanted = replace(deep, epochs=DEEP_EPOCHS), {SETTING: DEEP_LEVELS}
    in_depth = lab.compare("deep", ["adamw"], task=shorter, scientific=wanted, effort=DEEP_EFFORT, share=0.4)
    return depth.beside(finding, in_depth)


STUDY = Study("initialization", "Which initial weights train best, and why not zero?", answer)
