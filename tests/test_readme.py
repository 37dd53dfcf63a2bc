"""Text that no test reads goes stale: every snippet is executed, every path and target named exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fallline import cli

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
TASK = next(snippet for snippet in SNIPPETS if "def make_task" in snippet)
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/design.md",
    "docs/from_torch.md",
    "docs/optimizers.md",
    "docs/results.md",
    "docs/studies.md",
    "docs/tasks.md",
    "docs/claims.md",
    "docs/advice.md",
    "docs/search_spaces.md",
    "docs/which_optimizer.md",
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Work in an empty folder with the README's task in it."""
    (tmp_path / "my_file.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_python_snippet_runs(folder):
    """All in one program, as a reader would paste them one after the other."""
    (folder / "program.py").write_text("\n".join(snippet for snippet in SNIPPETS if snippet != TASK))
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "trainings in my_results" in done.stdout
    assert (folder / "my_results" / "results.jsonl").exists()


def test_the_example_is_the_file_in_examples_and_short():
    assert (REPOSITORY / "examples/my_file.py").read_text() == TASK
    assert len(TASK.splitlines()) <= 20


def commands() -> list[str]:
    lines = re.findall(r"^    (.+)$", README, flags=re.MULTILINE) + re.findall(r"`(fallline .+?)`", README)
    return [line.split("  #")[0].strip() for line in lines if line.startswith(("make ", "fallline "))]


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("fallline compare ")])
def test_every_comparison_can_be_planned(folder, command):
    done = subprocess.run(
        [sys.executable, "-m", "fallline.cli", *shlex.split(command)[1:], "--dry-run"],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "same sign" in done.stdout


def named_in_make() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page):
    text = (REPOSITORY / page).read_text()
    targets = set(re.findall(r"(?:^    |`)make ([\w-]+)", text, flags=re.MULTILINE))
    assert targets <= named_in_make()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page):
    text = (REPOSITORY / page).read_text()
    paths = re.findall(r"`((?:src|tests|docs|benches|examples|scripts)/[\w./-]*|[A-Z]+\.md|LICENSE)`", text)
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_subcommand_and_option_exists(page):
    text = (REPOSITORY / page).read_text()
    known = typer.main.get_command(cli.app)
    used = set(re.findall(r"(?:^    |`)fallline ([\w-]+)", text, flags=re.MULTILINE))
    assert used <= set(known.commands)
    options = {o for command in known.commands.values() for p in command.params for o in p.opts}
    assert set(re.findall(r"`(--[\w-]+)`", text)) <= options


def test_make_demo_runs_what_the_readme_says():
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "fallline compare digits --budget 60s" in makefile
