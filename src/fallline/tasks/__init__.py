"""What can be trained: the built-in tasks, and the adapters for the user's own."""

from fallline.tasks.arrays import from_arrays
from fallline.tasks.catalogue import BUILT_IN
from fallline.tasks.lightning import from_lightning
from fallline.tasks.load import load
from fallline.tasks.reference import Reference
from fallline.tasks.task import Data, Target, Task, TaskError, accuracy

__all__ = [
    "BUILT_IN",
    "Data",
    "Reference",
    "Target",
    "Task",
    "TaskError",
    "accuracy",
    "from_arrays",
    "from_lightning",
    "load",
]
