"""The page on tasks: its table is made from the tasks themselves, and what it shows runs.

    python tests/tasks/test_tasks_page.py

writes the table anew.
"""

import importlib
import re
from inspect import signature
from pathlib import Path

import pytest

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import BUILT_IN, Task, load

FILE = Path(__file__).parents[2] / "docs" / "tasks.md"
HEAD = (
    "| task | what it is | arguments | a training takes | target | reference |\n|---|---|---|---|---|---|\n"
)
TABLE = re.compile(re.escape(HEAD) + r"(\|.*\n)+")
TAKES = {"instant": "under 0.1 s", "second": "under 1 s", "seconds": "under 10 s", "minutes": "longer"}


def row(name):
    """Return the table's row of a task."""
    listed, task = BUILT_IN[name], load(name)
    make = getattr(importlib.import_module(f"fallline.tasks.{listed.module}"), listed.maker)
    arguments = ", ".join(f"{each.name}={each.default!r}" for each in signature(make).parameters.values())
    known = task.reference
    cells = (
        f"`{name}`",
        listed.summary,
        arguments and f"`{arguments}`",
        TAKES[listed.cost],
        task.target.text if task.target else "",
        f"{known.name}: {known.method}" if known else "",
    )
    return f"| {' | '.join(cells)} |\n"


def table():
    return HEAD + "".join(map(row, BUILT_IN))


def test_the_table_is_that_of_the_built_in_tasks():
    (shown,) = [found.group() for found in TABLE.finditer(FILE.read_text())]
    assert shown == table(), f"write it anew: python tests/tasks/{Path(__file__).name}"


def test_every_task_that_the_page_names_can_be_loaded():
    names = set(re.findall(r'fallline compare "?([a-z-]+(?:\([^)]*\))?)"? ', FILE.read_text()))
    assert len(names) >= 2
    assert all(isinstance(load(name), Task) for name in names)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", FILE.read_text(), re.DOTALL))
def test_the_examples_of_own_tasks_can_be_trained(block, tmp_path):
    (tmp_path / "mine.py").write_text(block)
    task = load(f"{tmp_path / 'mine.py'}:make_task")
    trial = run_trial(task, Arm("sgd"), Spec("", "tune", 0, 0, {"lr": 1e-3}), share=0.1)
    assert trial.status == "ok", trial.error


if __name__ == "__main__":
    FILE.write_text(TABLE.sub(lambda _: table(), FILE.read_text()))
