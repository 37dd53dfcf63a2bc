"""A comparison, or its plan, as one JSON document: the verdict, the ranking and what they came from."""

from dataclasses import asdict
from math import isfinite
from typing import Any

from fallline.compare.planning import Prepared
from fallline.compare.records import Comparison


def document(comparison: Comparison) -> dict[str, Any]:
    """Return ``comparison`` as a JSON object; what is not known, or infinite, is null.

    Example:
        >>> document(compare("digits", budget="30s"))["ranking"][0]["arm"]
    """
    from fallline.compare.judgement.verdict import judge
    from fallline.report.summary import rows

    verdict = judge(comparison)
    return _plain(
        {
            "headline": verdict.headline,
            "sentences": verdict.sentences,
            "best_set": verdict.best_set,
            "cautions": [asdict(caution) for caution in verdict.cautions],
            "caveats": verdict.caveats,
            "recommendation": verdict.recommendation and asdict(verdict.recommendation),
            "ranking": [_row(row) for row in rows(comparison, verdict)],
            "plan": asdict(comparison.plan),
            "step_microseconds": comparison.step_microseconds,
            "trials": [trial.to_json() for trial in comparison.trials],
        }
    )


def _row(row: Any) -> dict[str, Any]:
    """Return a row with the good learning rates, without the points of the curve that they come from."""
    known = asdict(row)
    curve = known.pop("response")
    return {**known, "good": curve and curve["good"]}


def plan_document(prepared: Prepared) -> dict[str, Any]:
    """Return what would be run as a JSON object: the plan, the trainings it has, and seconds they will take.

    Example:
        >>> plan_document(prepare(Request("digits", budget="30s")))["trainings"]
    """
    return _plain(
        {
            "plan": asdict(prepared.plan),
            "trainings": prepared.trainings,
            "finished": len(prepared.done),
            "seconds": prepared.seconds,
            "training_seconds": prepared.training_seconds,
            "step_microseconds": prepared.cost.step_microseconds,
            "folder": str(prepared.store.folder),
        }
    )


def _plain(tree: Any) -> Any:
    """Replace numbers that JSON does not have."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and not isfinite(tree) else tree
