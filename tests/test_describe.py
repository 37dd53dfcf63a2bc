"""What is shown of optimizers that are not ours, by the command that shows ours."""

import io

import pytest
from rich.console import Console

from fallline.core.entry import Entry
from fallline.core.registry import find
from fallline.core.space import Choice
from fallline.describe import print_entry, print_list


def shown(entry: Entry) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_entry(entry, console)
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["AdamW", "Adafactor", "Muon", "Rprop", "SparseAdam", "ASGD"])
def test_a_foreign_optimizer_is_shown_with_every_setting_of_its_signature(name):
    entry = find(f"torch.optim.{name}")
    text = " ".join(shown(entry).split())
    assert text.startswith(f"torch.optim.{name}: ")
    for setting in entry.settings:
        assert f" {setting} = " in text


def test_default_and_range_are_shown():
    text = shown(find("torch.optim.AdamW"))
    assert "lr = 0.001; searched from 0.0001 to 0.3, log\n" in text
    assert "amsgrad = off\n" in text


def test_brackets_choices_and_what_is_missing_are_shown():
    def planned(params, steps, mode="[/b]"):
        """Follow a [plan]."""

    entry = Entry("own.py:planned", planned, {"mode": Choice(("[/b]", True))}, "Follow a [plan]")
    assert shown(entry) == (
        "own.py:planned: Follow a [plan]\n"
        "steps = no default\n"
        "mode = [/b]; searched among [/b], on\n"
        "It has no lr: nothing of it is searched unless a space file says so.\n"
    )


def test_the_list_says_how_others_are_named():
    console = Console(file=io.StringIO(), width=80)
    print_list(console)
    assert {"adamw", "torch.optim.Name", "my_file.py:Class"} <= set(console.file.getvalue().split())
