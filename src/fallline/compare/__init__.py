"""Compare optimizers honestly; `fallline.compare("digits")` is the whole of it."""

import sys
from types import ModuleType

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Comparison, Curve, Plan, Spec, Trial
from fallline.compare.run import compare

__all__ = ["Comparison", "ComparisonError", "Curve", "Plan", "Spec", "Trial", "compare"]


class _CallableModule(ModuleType):
    """`fallline.compare` is this package, as import makes it, and the function too: calling it compares."""

    __call__ = staticmethod(compare)


sys.modules[__name__].__class__ = _CallableModule
