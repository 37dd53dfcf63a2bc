"""Skipping a step whose gradient is not finite."""

import math

from fallline.core.parts import summed
from fallline.core.scalar import where
from fallline.core.transform import transform

_INFINITY = math.inf


@summed(over="model", vetoes="its gradient is not finite")
def nonfinite(g):
    """Count the elements that are infinite or NaN."""
    return where(abs(g) < _INFINITY, 0.0, 1.0)


@transform(sums=(nonfinite,), gain=1.0)
def skip_nonfinite(g):
    """Leave out a step, with parameters and state untouched, if any element of any gradient is not finite."""
    return g
