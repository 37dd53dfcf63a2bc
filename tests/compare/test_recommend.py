"""Each kind of model gets its own advice and not that of others, before anything is trained."""

import doctest
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import fallline
from fallline import Task
from fallline.compare.advice import anatomy as anatomy_module
from fallline.compare.advice import recommend as recommend_module
from fallline.compare.advice.anatomy import anatomy
from fallline.compare.advice.recommend import ELEMENTS, recommend, text
from fallline.compare.advice.rules import RULES
from fallline.core.registry import entries, find
from fallline.tasks import TaskError

IMAGES = (torch.randn(400, 1, 8, 8), torch.randint(0, 10, (400,)))
VECTORS = (torch.randn(2000, 20), torch.randint(0, 2, (2000,)))
WORDS = (torch.randint(0, 50, (300, 12)), torch.randint(0, 50, (300,)))


class Last(nn.Module):
    """The output of a recurrent network at the last step."""

    def __init__(self):
        super().__init__()
        self.words, self.lstm = nn.Embedding(50, 16), nn.LSTM(16, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, words):
        return self.head(self.lstm(self.words(words))[0][:, -1])


class Encoder(nn.Module):
    """A transformer encoder whose head shares the weights of its embedding."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.words.weight
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

    def forward(self, words):
        return self.head(self.layers(self.words(words)).mean(dim=1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def bag() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(50, 16, sparse=True), nn.Linear(16, 50))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))


def task(model, data=VECTORS, **settings) -> Task:
    return Task(model, data, data, **{"name": "t", "epochs": 40, **settings})


TASKS = {
    "mlp": task(mlp),
    "convolution": task(convolutional, IMAGES),
    "recurrent": task(Last, WORDS),
    "attention": task(Encoder, WORDS),
    "sparse": task(bag, WORDS),
    "linear": task(lambda: nn.Linear(20, 2), loss=functional.cross_entropy),
}
#: A word of the advice that each kind, and no other, must get; the first optimizer, and one it must not get.
CHARACTERISTIC = {
    "mlp": ("Schmidt, Schneider & Hennig 2021", "adamw", "momentum"),
    "convolution": ("Wilson et al. 2017", "momentum", "adagrad"),
    "recurrent": ("Pascanu, Mikolov & Bengio 2013", "adam", "momentum"),
    "attention": ("Zhang et al. 2020", "adamw", "momentum"),
    "sparse": ("Adagrad first", "adagrad", "adamw"),
    "linear": ("L-BFGS", "nesterov", "adamw"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_each_kind_gets_its_own_advice_and_not_that_of_others(kind):
    found = recommend(TASKS[kind], "t.py")
    told = text(found)
    plain = " ".join(told.split())
    assert found.anatomy.architecture == kind
    assert CHARACTERISTIC[kind][0] in plain
    assert not [other for other in TASKS if other != kind and CHARACTERISTIC[other][0] in plain]
    names = [each.name for each in found.proposals]
    assert names[0] == CHARACTERISTIC[kind][1]
    assert CHARACTERISTIC[kind][2] not in names
    assert found.command == f"fallline compare t.py --optimizers {','.join(names)} --budget 10min"
    assert max(map(len, told.splitlines())) <= 80
    assert "a prior" in plain.lower()


@pytest.mark.parametrize("kind", TASKS)
def test_every_proposal_can_be_entered_and_makes_a_step(kind):
    """Two to four, each a name that `compare` knows, which steps this very model."""
    proposals = recommend(TASKS[kind]).proposals
    assert 2 <= len(proposals) <= 4
    for each in proposals:
        assert each.low < each.lr < each.high
        model = TASKS[kind].model()
        optimizer = find(each.name).build(list(model.parameters()), lr=each.lr)
        inputs, targets = TASKS[kind].train
        functional.cross_entropy(model(inputs[:8]), targets[:8]).backward()
        before = [p.clone() for p in model.parameters()]
        optimizer.step()
        assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", TASKS)
def test_parameters_are_counted_as_torch_does(kind):
    found, model = anatomy(TASKS[kind]), TASKS[kind].model()
    assert sum(found.kinds.values()) == found.trained == sum(p.numel() for p in model.parameters())
    assert found.bytes == 4 * found.trained


def test_kinds_are_those_of_the_layers():
    found = anatomy(TASKS["convolution"])
    assert found.kinds == {"linear": 1290, "convolution": 80 + 584, "batch norm": 32}
    assert (found.layers, found.biases) == (3, 8 + 8 + 32 + 10)
    found = anatomy(TASKS["recurrent"])
    lstm = nn.LSTM(16, 32, num_layers=2)
    assert found.kinds["recurrent"] == sum(p.numel() for p in lstm.parameters())
    assert found.layers == 1 + 2 + 1
    found = anatomy(TASKS["attention"])
    assert found.kinds["attention"] == 2 * sum(p.numel() for p in nn.MultiheadAttention(16, 2).parameters())
    assert (found.tied, found.kinds["embedding"], found.kinds["norm"]) == (800, 800, 4 * 32)


def test_attention_written_by_hand_is_known_by_the_name_of_its_class():
    class CausalSelfAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    found = anatomy(task(lambda: nn.Sequential(nn.Linear(20, 16), CausalSelfAttention())))
    assert found.kinds == {"attention": 17 * 48 + 17 * 16, "linear": 21 * 16}
    assert found.architecture == "attention"


def test_state_is_what_each_optimizer_keeps():
    """Momentum keeps one number for each parameter, Adam two, plain SGD none (their definitions)."""
    found = recommend(TASKS["convolution"])
    kept = {each.name: each.state_bytes / found.anatomy.trained for each in found.proposals}
    assert kept == {"momentum": 4, "nesterov": 4, "adamw": 8}
    assert found.proposals[0].bytes == 12 * found.anatomy.trained
    sparse = {each.name: each.state_bytes for each in recommend(TASKS["sparse"]).proposals}
    assert sparse["sgd"] == 0 < ELEMENTS


def test_a_large_model_on_the_meta_device_takes_no_memory_and_is_told_of_memory():
    def large():
        with torch.device("meta"):
            return nn.Sequential(*(nn.Linear(10_000, 10_000) for _ in range(2)))

    found = recommend(task(large))
    assert found.anatomy.trained == 200_020_000
    assert [each.source for each in found.advice if each.about == "memory"] == ["Shazeer & Stern 2018"]
    assert found.proposals[0].bytes == 200_020_000 * 16
    assert not [each for kind in TASKS for each in recommend(TASKS[kind]).advice if each.about == "memory"]


def test_a_model_that_cannot_be_made_on_the_meta_device_is_made_on_the_cpu():
    def reads_numbers():
        scale = torch.ones(1).item()  # impossible without data
        return nn.Linear(20, int(scale) + 1)

    assert anatomy(task(reads_numbers)).trained == 42


def test_lazy_layers_get_their_shapes_from_a_batch():
    found = anatomy(task(lambda: nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(2))))
    assert found.trained == 21 * 32 + 33 * 2
    assert found.architecture == "mlp"


def test_frozen_parameters_count_apart_and_lower_the_rates():
    def tuned():
        model = convolutional()
        for p in model[:7].parameters():
            p.requires_grad = False
        model.append(nn.ReLU()).append(nn.Linear(10, 10))
        model[7].requires_grad_(False)
        return model

    found = recommend(task(tuned, IMAGES, loss=functional.cross_entropy))
    assert (found.anatomy.frozen, found.anatomy.trained) == (1986, 110)
    assert found.anatomy.architecture == "linear"
    from_scratch = recommend(TASKS["linear"]).proposals
    assert [each.lr for each in found.proposals] == pytest.approx([each.lr / 10 for each in from_scratch])
    assert "Howard & Ruder 2018" in {each.source for each in found.advice}


def raises() -> nn.Module:
    raise ValueError("no such layer")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (raises, "the model of 't' raised ValueError: no such layer"),
        (nn.ReLU, "the model has no parameters to train"),
        (lambda: nn.Linear(20, 2).requires_grad_(False), "the model has no parameters to train"),
        (lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(4, 2)), "the model of 't' raised RuntimeError"),
    ],
)
def test_a_model_that_cannot_be_trained_is_said(model, told):
    with pytest.raises(TaskError, match=f"^{told}"):
        recommend(task(model))


@pytest.mark.parametrize(
    ("changed", "source", "given"),
    [
        (task(mlp, batch_size=1000), "McCandlish et al. 2018", True),
        (task(mlp, batch_size=32), "McCandlish et al. 2018", False),
        (task(convolutional, IMAGES, batch_size=4), "Wu & He 2018", True),
        (task(convolutional, IMAGES, batch_size=32), "Wu & He 2018", False),
        (task(mlp, batch_size=4), "Wu & He 2018", False),
        (task(mlp, (100 + VECTORS[0], VECTORS[1])), "LeCun et al. 1998, Efficient BackProp", True),
        (task(mlp), "LeCun et al. 1998, Efficient BackProp", False),
        (task(mlp, epochs=1), "Kingma & Ba 2015", True),
        (task(mlp, epochs=40), "Kingma & Ba 2015", False),
        (task(lambda: mlp().bfloat16()), "Micikevicius et al. 2018", True),
        (task(mlp), "Micikevicius et al. 2018", False),
        (task(lambda: nn.Sequential(*(nn.Linear(20, 20) for _ in range(20)))),
         "He et al. 2016; Zhang, Dauphin & Ma 2019", True),
        (task(lambda: nn.Sequential(*(nn.Linear(20, 20) for _ in range(19)))),
         "He et al. 2016; Zhang, Dauphin & Ma 2019", False),
    ],
)  # fmt: skip
def test_advice_on_data_and_length_depends_on_them(changed, source, given):
    assert (source in {each.source for each in recommend(changed).advice}) is given


def test_every_rule_is_complete_and_some_task_gets_it():
    assert len(RULES) >= 12
    for rule in RULES:
        assert re.search(r"\b(19|20)\d\d\b", rule.source), rule.advice
        assert {each.name for each in rule.candidates} <= set(entries())
        assert (rule.about == "optimizer") == bool(rule.candidates)


def test_what_the_advice_tells_to_write_exists():
    told = " ".join(f"{rule.advice} {rule.reason}" for rule in RULES)
    arguments = {
        name for call in re.findall(r"Task\(([^)]*)\)", told) for name in re.findall(r"(\w+)=", call)
    }
    assert arguments == {"warmup", "schedule", "clip", "precision"}
    assert arguments <= {field.name for field in fields(Task)}
    assert re.findall(r"fallline\.[\w.]+", told) == [
        "fallline.penalties.no_decay_on_norms_and_biases",
        "fallline.route",
    ]
    assert callable(fallline.penalties.no_decay_on_norms_and_biases)
    assert callable(fallline.route)
    assert {"OffloadState", "GradientRelease"} <= set(fallline.__all__)
    assert find("torch.optim.Adafactor").space["lr"]


def test_making_the_advice_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    recommend(TASKS["recurrent"])
    assert torch.equal(torch.rand(3), expected)


def test_it_is_told_as_json_and_on_the_command_line(monkeypatch, capsys):
    from fallline import cli

    file = f"{Path(__file__).with_name('small_task.py')}:blobs"
    monkeypatch.setattr("sys.argv", ["fallline", "recommend", file, "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "a prior, not a result"
    assert document["command"].startswith(f"fallline compare {file} --optimizers adamw,")
    assert document["anatomy"]["trained"] == 51


@pytest.mark.parametrize("module", [anatomy_module, recommend_module])
def test_examples_in_docstrings(module):
    from fallline.tasks import load

    assert doctest.testmod(module, extraglobs={"load": load}).failed == 0
