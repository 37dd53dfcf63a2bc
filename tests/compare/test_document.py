"""The JSON document is JSON in every state of a comparison, and says what the page says."""

import json

import pytest

from fallline.compare.judgement.document import document
from fallline.compare.judgement.verdict import judge
from fallline.compare.records import Comparison
from synthetic import comparison, plan, troubled


@pytest.mark.parametrize(
    "of",
    [troubled(), Comparison(plan(), []), comparison(["adam", "sgd"], studies=2)],
    ids=["trouble", "empty", "studies"],
)
def test_every_comparison_is_json_without_infinities(of):
    text = json.dumps(document(of), allow_nan=False)
    assert json.loads(text)["headline"] == judge(of).headline


def test_rows_have_evidence_but_no_points_of_curves():
    of = comparison(["adam", "sgd"], studies=3)
    whole, verdict = document(of), judge(of)
    for row, place in zip(whole["ranking"], verdict.places, strict=True):
        assert (row["places"]["best"], row["p_best"]) == (place.places.best, place.p_best)
        assert row["good"]["low"] < row["good"]["high"]
        assert "response" not in row
    assert whole["recommendation"]["code"] == verdict.recommendation.code
    # sgd never arrives: its median is infinite, which JSON writes as null.
    assert next(r for r in whole["ranking"] if r["arm"] == "sgd")["steps"]["time"] is None
