"""The page on search spaces: what it shows is read, and means what it says."""

import re
from pathlib import Path

import torch
from torch import nn

from fallline import Task
from fallline.compare.search.arms import arms_of
from fallline.compare.search.space_file import read_space
from fallline.core.space import Choice, Range, dimension
from fallline.tasks.settings import TRAINING

PAGE = (Path(__file__).parents[2] / "docs" / "search_spaces.md").read_text()
TOML, PYTHON = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("toml", "python"))


def model(activation="relu", dropout=0.0, width=16):
    return nn.Linear(2, 2)


DATA = torch.zeros(8, 2), torch.zeros(8).long()
TASK = Task(model, DATA, DATA)


def test_the_toml_file_is_read_as_it_says(tmp_path):
    (tmp_path / "my_space.toml").write_text(TOML)
    arms = arms_of("adamw,torch.optim.SGD", TASK, 20, space=tmp_path / "my_space.toml")
    assert len(arms) == 4
    adamw = arms["adamw, activation=relu"]
    assert adamw.fixed == {"activation": "relu", "weight_decay": 0.1, "eps": 1e-8, "schedule": "cosine"}
    assert {name: dimension(each) for name, each in adamw.space.items()} == {
        "lr": Range(1e-5, 1e-1),
        "beta1": Range(0.5, 0.99, "one_minus_log"),
        "beta2": Range(0.9, 0.9999, "one_minus_log"),
        "batch_size": Choice((16, 32, 64)),
        "dropout": Range(0.0, 0.5, "linear"),
        "width": Range(16, 256, integer=True),
    }
    assert list(arms["torch.optim.SGD, activation=tanh"].space)[:3] == ["lr", "nesterov", "momentum"]


def test_the_python_file_says_a_part_of_the_same(tmp_path):
    (tmp_path / "my_space.py").write_text(PYTHON)
    (tmp_path / "my_space.toml").write_text(TOML)
    python, toml = (read_space(tmp_path / f"my_space.{kind}") for kind in ("py", "toml"))
    assert python.task.items() <= toml.task.items()
    assert python.optimizers["adamw"] == toml.optimizers["adamw"]


def test_it_names_every_setting_of_the_training():
    named = re.search(r"belongs to the training \((.*?)\)", PAGE, re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", named)) == set(TRAINING)
