"""What can be trained: the built-in tasks, and the adapters for the user's own."""

from fallline.tasks.arrays import from_arrays
from fallline.tasks.lightning import from_lightning
from fallline.tasks.load import BUILT_IN, load
from fallline.tasks.task import Data, Target, Task, TaskError, accuracy

__all__ = [
    "BUILT_IN",
    "Data",
    "Target",
    "Task",
    "TaskError",
    "accuracy",
    "from_arrays",
    "from_lightning",
    "load",
]
