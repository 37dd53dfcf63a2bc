"""A lab in a folder of its own, small and without worker processes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fallline.studies import Effort, Lab
from fallline.tasks.load import load
from fallline.tasks.task import Task

TINY = Effort(2, 2, 1)
SMALL = f"{Path(__file__).parents[1]}/compare/small_task.py:blobs"


@pytest.fixture(scope="module")
def new_lab(tmp_path_factory) -> Callable[..., Lab]:
    """Return a maker of labs on a task, three blobs unless another is given."""

    def make(task: Task | str = SMALL, effort: Effort = TINY, quick: bool = True) -> Lab:
        task = load(task) if isinstance(task, str) else task
        return Lab(task, tmp_path_factory.mktemp("lab"), effort, quick, workers=0)

    return make
