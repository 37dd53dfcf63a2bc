"""Tools to prove that an optimizer does what its formula says, for ours and for your own."""

from fallline.testing.conformance import check_optimizer
from fallline.testing.oracle import trajectory
from fallline.testing.report import ConformanceError, Failure, Report
from fallline.testing.traits import Traits

__all__ = ["ConformanceError", "Failure", "Report", "Traits", "check_optimizer", "trajectory"]
