"""Search spaces of the user's own, as TOML, Python or a mapping, and every mistake in them."""

import doctest

import pytest

from fallline.compare.errors import ComparisonError
from fallline.compare.search import space_file
from fallline.compare.search.space_file import SpaceFile, read_levels, read_space
from fallline.core.space import Choice, Range

TOML = """
[task]
batch_size = [16, 32, 64]
dropout = { low = 0.0, high = 0.5, scale = "linear" }
width = { low = 8, high = 64, integer = true }
schedule = "cosine"
kernel = { options = [3, 5], when = { kind = "conv" } }

[optimizers.adamw]
lr = { low = 1e-5, high = 1e-1 }
weight_decay = 0.1

[optimizers."torch.optim.SGD"]
nesterov = [true, false]
momentum = { low = 0.5, high = 0.99, scale = "one_minus_log", when = { nesterov = true } }

[optimizers.all]
eps = 1e-8

[scientific]
activation = ["relu", "tanh"]
"""

MEANT = SpaceFile(
    task={
        "batch_size": Choice((16, 32, 64)),
        "dropout": Range(0.0, 0.5, "linear"),
        "width": Range(8, 64, integer=True),
        "schedule": "cosine",
        "kernel": Choice((3, 5), when={"kind": "conv"}),
    },
    optimizers={
        "adamw": {"lr": Range(1e-5, 1e-1), "weight_decay": 0.1},
        "torch.optim.SGD": {
            "nesterov": Choice((True, False)),
            "momentum": Range(0.5, 0.99, "one_minus_log", when={"nesterov": True}),
        },
        "all": {"eps": 1e-8},
    },
    scientific={"activation": ("relu", "tanh")},
)

PYTHON = """
from fallline.core.space import Choice, Range
MINE = {
    "task": {"batch_size": (16, 32), "dropout": Range(0.1, 0.5)},
    "optimizers": {"sgd": {"lr": Range(0.1, 1)}},
}
SPACE = {"task": {"dropout": 0.1}}
"""


@pytest.fixture
def toml(tmp_path):
    def written(text):
        file = tmp_path / "my.toml"
        file.write_text(text)
        return file

    return written


def parts(space):
    return space.task, space.optimizers, space.scientific


def test_examples():
    result = doctest.testmod(space_file)
    assert result.attempted
    assert result.failed == 0


def test_a_toml_file_says_what_it_says(toml):
    assert parts(read_space(toml(TOML))) == parts(MEANT)


def test_a_mapping_may_have_ranges_or_tables():
    mapping = {
        "task": dict(MEANT.task),
        "optimizers": {
            "adamw": {"lr": {"low": 1e-5, "high": 0.1}, "weight_decay": 0.1},
            "torch.optim.SGD": MEANT.optimizers["torch.optim.SGD"],
            "all": {"eps": 1e-8},
        },
        "scientific": {"activation": ["relu", "tanh"]},
    }
    assert parts(read_space(mapping)) == parts(MEANT)


def test_a_python_file_has_one_or_more(tmp_path):
    file = tmp_path / "my_space.py"
    file.write_text(PYTHON)
    mine = read_space(f"{file}:MINE")
    assert mine.task == {"batch_size": Choice((16, 32)), "dropout": Range(0.1, 0.5)}
    assert mine.optimizers == {"sgd": {"lr": Range(0.1, 1)}}
    assert read_space(file).task == {"dropout": 0.1}


def test_nothing_is_an_empty_space_and_what_is_read_stays():
    assert read_space(None) == SpaceFile()
    assert read_space(MEANT) is MEANT


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[optimizer.sgd]\nlr = 1.0", "my.toml: unknown section 'optimizer'; did you mean 'optimizers'"),
        ("[optimizers.sdg]\nlr = 1.0", r"\[optimizers.sdg\]: unknown optimizer 'sdg'; did you mean 'sgd'"),
        (
            "[optimizers.torch.optim.SGD]\nlr = 1.0",
            r"unknown optimizer 'torch'.*a name with dots needs quotes",
        ),
        (
            "[optimizers.adamw]\nweightdecay = 1.0",
            "adamw. weightdecay: not a .* adamw; did you mean 'weight_decay'",
        ),
        ("[optimizers.adamw]\nbetas = [0.9, 0.99]", "did you mean 'beta2'"),
        (
            "[optimizers.sgd]\nlr = {low = 1, high = 1}",
            r"\[optimizers.sgd\] lr: Invalid range: low 1 must be below",
        ),
        ("[optimizers.sgd]\nlr = {low = 1, hihg = 2}", "lr: unknown key 'hihg'; did you mean 'high'"),
        ("[optimizers.sgd]\nlr = {low = 1}", "lr: incomplete range .* give low and high"),
        (
            "[optimizers.sgd]\nlr = {low = '1', high = 2}",
            "lr: Invalid range: '1' to 2; both ends must be numbers",
        ),
        ("[optimizers.sgd]\nlr = {low = 1, high = 2, scale = 'lin'}", "lr: Invalid scale: 'lin'; use 'log'"),
        ("[optimizers.sgd]\nlr = {low = 1, high = 2, when = 3}", "lr when: 3 is not a table"),
        (
            "[optimizers.sgd]\nlr = {low = -1, high = 2, scale = 'linear'}",
            r"lr: Invalid learning rate: -1.0; lr must",
        ),
        ("[optimizers.adam]\nbeta2 = [0.9, 1.5]", r"beta2: Invalid beta parameter at index 1: 1.5"),
        ("[optimizers.adam]\namsgrad = 'yes'", "amsgrad: Invalid amsgrad value: 'yes'; use True or False"),
        ("[task]\nbatch_size = [16]", r"\[task\] batch_size: Invalid choice: .* at least two options"),
        ("[task]\nbatch_size = [16, 16]", "all different"),
        ("[task]\nkind = {options = 'conv'}", "kind: 'conv' is not a list"),
        ("[task]\nday = 2020-01-01", "day: .* is neither a number, a word, a list nor a table"),
        ("task = 3", r"my.toml: \[task\]: 3 is not a table of settings"),
        ("[scientific]\nactivation = 'relu'", r"\[scientific\] activation: 'relu' is not a list"),
        ("[scientific]\nactivation = ['relu']", r"\[scientific\] activation: Invalid choice"),
        ("[task\n", r"my.toml: .*\(at line 1, column 6\)"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_to_write(toml, text, told):
    with pytest.raises(ComparisonError, match=told):
        read_space(toml(text))


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    for name, content in {"odd.yaml": "", "bad.py": "1 / 0\n", "empty.py": "SPICE = {}\n"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name, told in {
        "missing.toml": "no file '.*missing.toml' of search spaces; name a .toml or .py file",
        "odd.yaml": "search spaces are a .toml or a .py file",
        "bad.py": r"bad.py: ZeroDivisionError: division by zero \(bad.py, line 1\)",
        "empty.py": "no 'SPACE' in empty.py; did you mean 'SPICE'",
        "binary.toml": "binary.toml: 'utf-8' codec",
    }.items():
        with pytest.raises(ComparisonError, match=told):
            read_space(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "name", "levels"),
    [
        ("activation=relu,tanh", "activation", ["relu", "tanh"]),
        (" dropout = 0, 1e-3 ,.5", "dropout", [0, 1e-3, ".5"]),
        ("clip=none,1.0", "clip", [None, 1.0]),
        ("bias=True,false", "bias", [True, False]),
        ("depth=1,2,3,", "depth", [1, 2, 3]),
    ],
)
def test_levels_are_read_from_the_command_line(text, name, levels):
    assert read_levels(text) == (name, levels)
    assert [type(level) for level in read_levels(text)[1]] == [type(level) for level in levels]


@pytest.mark.parametrize("text", ["", "activation", "activation=", "=relu,tanh", ","])
def test_levels_that_are_none_are_refused(text):
    with pytest.raises(
        ComparisonError, match=r"cannot read the levels .*; write them as activation=relu,tanh"
    ):
        read_levels(text)


def test_a_single_level_is_refused():
    with pytest.raises(ComparisonError, match=r"activation=relu is a single level.*give two or more"):
        read_levels("activation=relu")
