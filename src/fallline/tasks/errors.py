"""What goes wrong with a task."""

from fallline.core.errors import FalllineError


class TaskError(FalllineError, ValueError):
    """A task that cannot be loaded, or that is put together wrongly."""
