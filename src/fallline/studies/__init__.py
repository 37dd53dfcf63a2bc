"""Ready questions of the field, each answered by measurement on a built-in task or on the user's own."""

from fallline.report.finding import Figure, Finding, Table
from fallline.studies.catalogue import BUILT_IN
from fallline.studies.lab import Effort, Lab
from fallline.studies.study import Study, StudyError, find

__all__ = ["BUILT_IN", "Effort", "Figure", "Finding", "Lab", "Study", "StudyError", "Table", "find"]
