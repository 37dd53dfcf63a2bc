"""What is compared with what, and over which space."""

import doctest
import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

import fallline
from fallline import Task
from fallline.compare.errors import ComparisonError
from fallline.compare.search import arms as module
from fallline.compare.search.arms import arms_of, name_of, usual
from fallline.core import registry
from fallline.core.entry import FULL_SPACE_TRIALS, Entry
from fallline.core.errors import UnknownNameError
from fallline.core.registry import entries, find, register
from fallline.core.space import Choice, Range, dimension
from fallline.tasks.errors import TaskError

MANY = FULL_SPACE_TRIALS

OWN = """
import torch

def planned(params, lr, steps, **others):
    return torch.optim.SGD(params, lr / steps, **others)
"""


def model(activation="relu", dropout=0.0, kind="dense", kernel=3):
    return nn.Linear(2, 2)


def shrunk(k=2):
    return nn.Linear(2, 2)


def made(model=model, **others) -> Task:
    data = torch.zeros(8, 2), torch.zeros(8).long()
    return Task(model, data, data, **others)


TASK = made()


class Outer:
    class Inner(torch.optim.SGD):
        """Named in a class."""


def spaces(optimizers, task=TASK, trials=MANY, **asked):
    """Return the searched dimensions of each arm."""
    arms = arms_of(optimizers, task, trials, **asked)
    return {name: {key: dimension(each) for key, each in arm.space.items()} for name, arm in arms.items()}


def test_examples():
    result = doctest.testmod(module)
    assert result.attempted
    assert result.failed == 0


def test_every_entry_is_an_arm_over_its_published_space():
    for name, searched in spaces(entries()).items():
        assert searched == find(name).space
        assert next(iter(searched)) == "lr"


def test_few_trials_search_the_learning_rate_and_what_was_asked_for():
    asked = {
        "optimizers": {"adamw": {"weight_decay": [0.0, 0.1]}, "all": {"momentum": [0.5, 0.9]}},
        "task": {"dropout": [0.1, 0.2]},
    }
    few = spaces(["adamw", "momentum", "adam"], trials=MANY - 1, space=asked)
    assert {name: list(space) for name, space in few.items()} == {
        "adamw": ["lr", "weight_decay", "dropout"],
        "momentum": ["lr", "momentum", "dropout"],
        "adam": ["lr", "dropout"],
    }
    assert few["adam"]["lr"] == find("adam").space["lr"]


def test_the_users_space_lies_over_the_published_one():
    asked = {
        "optimizers": {
            "adamw": {"eps": [1e-8, 1e-6], "beta1": 0.8, "lr": {"low": 1e-5, "high": 0.1}},
            "all": {"lr": {"low": 0.5, "high": 2.0}, "beta2": 0.99},
        }
    }
    arms = arms_of(["adamw", "sgd"], TASK, MANY, space=asked)
    assert list(arms["adamw"].space) == ["lr", "weight_decay", "eps"]
    assert dimension(arms["adamw"].space["lr"]) == Range(1e-5, 0.1), "its own section counts before all's"
    assert arms["adamw"].fixed == {"beta1": 0.8, "beta2": 0.99}
    assert dimension(arms["sgd"].space["lr"]) == Range(0.5, 2.0)
    assert arms["sgd"].fixed == {}


def test_what_the_task_lets_vary_is_searched_for_every_arm_and_the_file_counts_before_it():
    task = made(search={"dropout": Range(0.1, 0.5), "batch_size": Choice((2, 4))})
    for space in spaces("sgd,adam", task, space={"task": {"dropout": 0.2, "clip": [None, 1.0]}}).values():
        assert space["batch_size"] == Choice((2, 4))
        assert space["clip"] == Choice((None, 1.0))
        assert "dropout" not in space
    arms = arms_of("sgd,adam", task, MANY, space={"task": {"dropout": 0.2}})
    assert {arm.fixed["dropout"] for arm in arms.values()} == {0.2}


def test_an_argument_of_the_model_without_default_may_be_searched():
    task = made(lambda width: nn.Linear(2, width), search={"width": Range(2, 4, integer=True)})
    assert list(spaces("sgd", task)["sgd"]) == ["lr", "width"]


def test_a_nuisance_parameter_of_some_optimizers_is_searched_for_those():
    searched = spaces("sgd,adam", space={"task": {"amsgrad": [True, False]}})
    assert "amsgrad" not in searched["sgd"]
    assert searched["adam"]["amsgrad"] == Choice((True, False))


def test_an_optimizer_with_batches_of_its_own_has_no_batch_size_to_search():
    searched = spaces("gd,sgd", space={"task": {"batch_size": [2, 4]}})
    assert list(searched["gd"]) == ["lr"]
    assert list(searched["sgd"]) == ["lr", "batch_size"]


def test_each_level_is_an_arm():
    levels = {"dropout": [0.0, 0.2], "activation": ["relu", "tanh"]}
    arms = arms_of(["sgd", "adam"], TASK, MANY, scientific=levels)
    assert list(arms)[:2] == ["sgd, dropout=0.0, activation=relu", "sgd, dropout=0.0, activation=tanh"]
    assert len(arms) == 8
    assert arms["adam, dropout=0.2, activation=tanh"].fixed == {"dropout": 0.2, "activation": "tanh"}
    assert arms["adam, dropout=0.2, activation=tanh"].optimizer == "adam"
    alone = arms_of("momentum", TASK, MANY, scientific={"nesterov": [True, False]})
    assert list(alone) == ["nesterov=true", "nesterov=false"]
    assert [arm.fixed["nesterov"] for arm in alone.values()] == [True, False]


def test_a_scientific_parameter_is_not_searched_nor_fixed_otherwise():
    asked = {
        "task": {"dropout": [0.1, 0.2], "activation": "relu"},
        "scientific": {"weight_decay": [0.0, 0.1]},
    }
    levels = {"dropout": [0.3, 0.4], "activation": ["tanh", "relu"]}
    for arm in arms_of("adamw", TASK, MANY, space=asked, scientific=levels).values():
        assert not {"dropout", "activation", "weight_decay"} & set(arm.space)
        assert arm.fixed["dropout"] in levels["dropout"]
    assert len(arms_of("adamw", TASK, MANY, space=asked, scientific=levels)) == 8


def test_levels_given_beside_the_file_count_before_its():
    asked = {"scientific": {"dropout": [0.1, 0.2, 0.3]}}
    assert list(arms_of("sgd", TASK, MANY, space=asked, scientific={"dropout": [0, 0.5]})) == [
        "dropout=0",
        "dropout=0.5",
    ]


def test_conditions_are_settled_by_levels_and_by_defaults():
    kernel = {"options": [3, 5], "when": {"kind": "conv"}}
    searched = spaces("sgd", space={"task": {"kernel": kernel}}, scientific={"kind": ["conv", "dense"]})
    assert searched["kind=conv"]["kernel"] == Choice((3, 5))
    assert "kernel" not in searched["kind=dense"]
    assert "kernel" not in spaces("sgd", space={"task": {"kernel": kernel}})["sgd"], "the default is dense"
    momentum = {"low": 0.5, "high": 0.9, "scale": "linear", "when": {"nesterov": True}}
    common = spaces("sgd,nesterov", space={"optimizers": {"all": {"momentum": momentum}}})
    assert "momentum" not in common["sgd"]
    assert common["nesterov"]["momentum"] == Range(0.5, 0.9, "linear")


def test_what_is_searched_whatever_else_is_drawn_is_not_fixed():
    assert arms_of("momentum", TASK, MANY)["momentum"].fixed == {}
    assert arms_of("momentum", TASK, 1)["momentum"].fixed == {"momentum": 0.9}
    asked = {"nesterov": [True, False], "momentum": {"low": 0.5, "high": 0.9, "when": {"nesterov": True}}}
    (arm,) = arms_of("momentum", TASK, MANY, space={"optimizers": {"momentum": asked}}).values()
    assert arm.fixed == {"momentum": 0.9}, "where it is not drawn"


def test_an_arm_survives_json():
    asked = {
        "task": {"dropout": {"low": 0.1, "high": 0.5, "scale": "linear"}, "activation": ["relu", "tanh"]}
    }
    arms = arms_of("adamw,torch.optim.SGD", TASK, MANY, space=asked)
    written = {name: asdict(arm) for name, arm in arms.items()}
    assert json.loads(json.dumps(written)) == written


def test_classes_are_named_so_that_another_process_finds_them():
    arms = arms_of([torch.optim.Adam, fallline.SGD, find("adam")], TASK, MANY)
    assert [find(arm.optimizer).make for arm in arms.values()] == [
        torch.optim.Adam,
        fallline.SGD,
        fallline.Adam,
    ]
    assert list(arms) == ["torch.optim.Adam", "fallline.SGD", "adam"]
    assert find(name_of(Outer.Inner)).make is Outer.Inner
    with pytest.raises(ComparisonError, match="cannot be named in another process; define it in a module"):
        name_of(lambda params, lr: torch.optim.SGD(params, lr))


def test_an_optimizer_may_need_what_the_file_gives(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    name = f"{file}:planned"
    with pytest.raises(ComparisonError, match=rf'needs steps, which nobody gives.*"{name}"\] steps = ...'):
        arms_of(name, TASK, MANY)
    (arm,) = arms_of(name, TASK, MANY, space={"optimizers": {name: {"steps": 100}}}).values()
    assert arm.fixed == {"steps": 100}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"space": {"task": {"droput": [0.1, 0.2]}}},
            "space: 'droput' is a setting of neither.*mean 'dropout'",
        ),
        (
            {"space": {"task": {"droput": 0.1}}},
            "'droput' is a setting of neither training, model nor sgd, gd",
        ),
        ({"space": {"optimizers": {"all": {"beta1": 0.1}}}}, "all. beta1: no optimizer has it"),
        ({"space": {"optimizers": {"all": {"batch_size": 4}}}}, "all. batch_size: no optimizer has it"),
        (
            {"task": made(lambda width: nn.Linear(2, width))},
            r"model needs width, which nobody .* \[task\] width =",
        ),
        ({"space": {"task": {"batch_size": [4, -1]}}}, "batch_size must be positive"),
        ({"scientific": {"momentun": [0.1, 0.2]}}, "scientific: 'momentun' .* did you mean 'momentum'"),
        ({"optimizers": "sgd,adam", "scientific": {"nesterov": [True, False]}}, "'nesterov' .* nor adam;"),
        ({"scientific": {"batch_size": [2, 4]}}, "scientific: gd has a batch size of its own"),
        ({"scientific": {"dropout": [0.1]}}, "scientific dropout: Invalid choice"),
        ({"scientific": {"dropout": 0.1}}, "scientific dropout: 0.1 is not a list"),
        ({"scientific": {"dropout": [i / 100 for i in range(51)]}}, "102 arms are more than 100"),
        ({"scientific": {"kernel": [3, "3"]}}, "two arms have the same name"),
        ({"optimizers": "sgd, sgd"}, "optimizer 'sgd' is named twice"),
        ({"optimizers": " , "}, "no optimizer named"),
        ({"optimizers": []}, "no optimizer named"),
        (
            {
                "task": made(shrunk),
                "optimizers": "lookahead",
                "space": {"optimizers": {"lookahead": {"k": [3, 5]}}},
            },
            "'k' is a setting both of the task and",
        ),
        (
            {"space": {"task": {"kernel": {"options": [3, 5], "when": {"knid": "conv"}}}}},
            "space: sgd: the condition of kernel asks for an unknown 'knid'; did you mean 'kind'",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(asked, told):
    arguments = {"optimizers": "sgd,gd", "task": TASK, "trials": MANY, **asked}
    with pytest.raises((ComparisonError, TaskError), match=told):
        arms_of(**arguments)


def test_an_unknown_optimizer_is_told():
    with pytest.raises(UnknownNameError, match="did you mean 'adam'"):
        arms_of("adamm", TASK, MANY)


def test_without_names_the_classic_ones_and_the_users_own_are_compared():
    names = usual()
    assert names[:15] == list(module.CLASSIC)
    assert set(names) <= set(entries())
    register(Entry("mine of this test", torch.optim.SGD, {"lr": Range(1e-3, 1e-1)}, "my own"))
    try:
        assert usual() == [*names, "mine of this test"]
    finally:
        del registry._entries["mine of this test"], registry._origins["mine of this test"]


def test_all_is_every_registered_optimizer():
    data = torch.zeros(8, 2), torch.zeros(8).long()
    assert list(arms_of("all", Task(lambda: nn.Linear(2, 2), data, data), 8)) == list(entries())
