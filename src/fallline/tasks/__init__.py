"""What can be trained: the built-in tasks, and the adapter for the user's own."""

from fallline.tasks.load import BUILT_IN, load
from fallline.tasks.task import Data, Task, TaskError, accuracy

__all__ = ["BUILT_IN", "Data", "Task", "TaskError", "accuracy", "load"]
