"""Judge claims: run each experiment once, and write each claim as soon as all that it needs is measured."""

import json
from collections.abc import Callable, Iterator, Sequence

from fallline.claims.claim import Claim, ClaimError
from fallline.claims.effect import effect_of
from fallline.claims.experiments.catalogue import EXPERIMENTS
from fallline.claims.outcome import Judgement, judge
from fallline.claims.samples import Samples
from fallline.claims.view import document, page
from fallline.compare.storage.files import write_whole
from fallline.core.errors import FalllineError
from fallline.studies.lab import USUAL, Lab, Watch, unwatched
from fallline.studies.wishes import Wish
from fallline.tasks.load import load

#: What an experiment measured, in its folder.
SAMPLES = "samples.json"
#: Why an experiment has no samples.
Failure = FalllineError


def judge_all(
    claims: Sequence[Claim],
    wish: Wish,
    watch: Watch = unwatched,
    told: Callable[[Judgement], None] = lambda _: None,
) -> list[Judgement]:
    """Return the judgement of each of ``claims``, in their order.

    Each claim is written to ``out`` as ``NAME.json`` when it is judged, and ``report.html`` after each
    experiment. A claim whose experiment cannot be made, or does not have what it needs, is not settled, with
    the reason.

    Arguments:
        claims: what to judge.
        wish: how.
        watch: shows how far an experiment is.
        told: is given each judgement as it is made.

    Raises:
        ClaimError: ``out`` holds claims that were judged in another way, or ``wish`` does not resume them.
    """
    wish.begin(wish.out, ClaimError)
    measured: dict[str, Samples | Failure] = {}
    judged: dict[str, Judgement] = {}
    for name in _needed(claims):
        measured[name] = _measured(name, wish, watch)
        for judgement in _ready(claims, measured, judged):
            write_whole(wish.out / f"{judgement.claim.name}.json", json.dumps(document(judgement)))
            judged[judgement.claim.name] = judgement
            told(judgement)
        write_whole(wish.out / "report.html", page(_in_order(claims, judged)))
    return _in_order(claims, judged)


def _in_order(claims: Sequence[Claim], judged: dict[str, Judgement]) -> list[Judgement]:
    return [judged[claim.name] for claim in claims if claim.name in judged]


def _needed(claims: Sequence[Claim]) -> list[str]:
    """Return the experiments that ``claims`` need, in the order of the catalogue."""
    wanted = {name for claim in claims for name in claim.experiments}
    return [name for name in EXPERIMENTS if name in wanted]


def _measured(name: str, wish: Wish, watch: Watch) -> Samples | Failure:
    """Return the samples of an experiment: what is on disk, or what is measured now."""
    folder = wish.out / "experiments" / name.replace(" ", "-")
    file = folder / SAMPLES
    if file.exists():
        return Samples.from_json(json.loads(file.read_text()))
    lab = Lab(load("digits"), folder, USUAL, wish.quick, wish.seed, wish.workers, watch=watch)
    try:
        samples = EXPERIMENTS[name].measure(lab)
    except FalllineError as error:
        return error
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(samples.to_json()))
    return samples


def _ready(
    claims: Sequence[Claim], measured: dict[str, Samples | Failure], judged: dict[str, Judgement]
) -> Iterator[Judgement]:
    """Yield the judgement of each claim that is not judged yet and of which everything is measured."""
    for claim in claims:
        if claim.name not in judged and set(claim.experiments) <= set(measured):
            yield judgement_of(claim, measured)


def judgement_of(claim: Claim, measured: dict[str, Samples | Failure]) -> Judgement:
    """Return the judgement of ``claim`` by the samples of its experiments, or why there are none."""
    try:
        effects = [
            effect_of(contrast, _samples(measured[contrast.experiment])) for contrast in claim.contrasts
        ]
    except FalllineError as error:
        return Judgement(claim, "not settled", [], str(error))
    return judge(claim, effects)


def _samples(measured: Samples | Failure) -> Samples:
    if isinstance(measured, Failure):
        raise measured
    return measured
