"""Statements that tutorials on optimizers repeat, each judged by measurement."""

from fallline.claims.catalogue import built_in
from fallline.claims.claim import Claim, ClaimError, Contrast, Origin
from fallline.claims.effect import Effect
from fallline.claims.outcome import Evidence, Judgement, judge
from fallline.claims.samples import Samples

__all__ = [
    "Claim", "ClaimError", "Contrast", "Effect", "Evidence", "Judgement", "Origin", "Samples", "built_in",
    "judge",
]  # fmt: skip
