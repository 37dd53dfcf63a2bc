"""What a task settles, measures and refuses: closed forms, and losses written out by hand."""

import copy
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import fallline
from fallline.core.space import Choice, Range
from fallline.tasks import TaskError, accuracy, load
from fallline.tasks.settings import OPTIMIZER, SCHEDULES
from fallline.tasks.target import as_target
from fallline.tasks.task import Task

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(50, 3, generator=GENERATOR)
CLASSES = torch.randint(0, 4, (50,), generator=GENERATOR)
NUMBERS = torch.randn(50, generator=GENERATOR)


def classifier(width=4, dropout=0.0, momentum=0.5):
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(dropout), nn.Linear(width, 4))


def task(model=classifier, train=(X, CLASSES), valid=(X, CLASSES), **more):
    return Task(model, train, valid, **more)


class Pairs(Dataset):
    def __init__(self, *tensors):
        self.tensors_ = tensors

    def __len__(self):
        return len(self.tensors_[0])

    def __getitem__(self, index):
        return tuple(tensor[index] for tensor in self.tensors_)


def test_what_is_not_said_is_settled():
    settled = task()
    assert (settled.name, settled.epochs, settled.batch_size, settled.metric_name) == (
        "classifier", 20, 32, "accuracy",
    )  # fmt: skip
    assert (settled.total_steps, settled.total_epochs, settled.steps_per_epoch) == (40, 20, 2)
    assert task(nn.Identity, train=X, valid=X).metric_name == ""
    assert task(train=DataLoader(Pairs(X, CLASSES), batch_size=7)).batch_size == 7
    assert task(train=DataLoader(TensorDataset(X, CLASSES), batch_size=7), batch_size=9).batch_size == 9


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(3, None, 6), (None, 7, 7), (3, 5, 5), (3, 99, 6)]
)
def test_whichever_ends_first(epochs, max_steps, steps):
    assert task(epochs=epochs, max_steps=max_steps).total_steps == steps


@pytest.mark.parametrize("as_dataset", [False, True])
def test_the_loss_is_the_mean_over_samples_and_the_metric_over_all(as_dataset):
    model = classifier()
    data = Pairs(X, CLASSES) if as_dataset else (X, CLASSES)
    loader = DataLoader(Pairs(X, CLASSES), batch_size=8) if as_dataset else data  # 8 does not divide 50
    one, many = (task(valid=valid).evaluated(model, valid) for valid in (data, loader))
    expected = functional.cross_entropy(model(X), CLASSES).item()
    assert one[0] == expected
    assert many == (pytest.approx(expected, rel=1e-6), {"accuracy": accuracy(model(X), CLASSES)})


def test_evaluation_is_in_evaluation_mode_and_keeps_the_mode_and_the_random_numbers():
    model = classifier(dropout=0.9)
    before = torch.get_rng_state()
    first, second = (task().evaluated(model, (X, CLASSES)) for _ in "ab")
    assert first == second
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert task().evaluated(model, (X, CLASSES), limit=10) == task().evaluated(model, (X[:10], CLASSES[:10]))


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        (torch.zeros(5, 4), torch.zeros(5).long(), torch.tensor(4.0).log()),
        (torch.zeros(5, 7, 4), torch.zeros(5, 7).long(), torch.tensor(4.0).log()),
        (torch.zeros(5, 4, 6, 6), torch.zeros(5, 6, 6).long(), torch.tensor(4.0).log()),
        (torch.zeros(5), torch.full((5,), 3.0), torch.tensor(9.0)),
        (torch.arange(5.0).unsqueeze(1), torch.arange(5.0), torch.tensor(0.0)),
    ],
    ids=["classes", "language model", "segmentation", "regression", "a column against a row"],
)
def test_the_loss_is_inferred_from_the_targets(outputs, targets, expected):
    model = nn.Module()
    model.forward = lambda inputs: outputs
    assert torch.isclose(task().loss_on(model, (X[:5], targets)), expected)


@pytest.mark.parametrize(
    ("outputs", "targets", "told"),
    [
        ((5, 1), torch.zeros(5, 3), "must have one shape"),
        ((5,), torch.zeros(5).long(), "needs an output each"),
    ],
)
def test_outputs_that_do_not_fit_are_told(outputs, targets, told):
    with pytest.raises(TaskError, match=told):
        task().loss(torch.zeros(outputs), targets)


def test_one_tensor_is_reconstructed():
    model = nn.Linear(3, 3)
    expected = functional.mse_loss(model(X), X)
    settled = task(lambda: nn.Linear(3, 3), X, X)
    assert torch.equal(settled.loss_on(model, X), expected)
    assert settled.evaluated(model, X) == (expected.item(), {})


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, a, b):
        return self.linear(a + b)


@pytest.mark.parametrize("inputs", [(X, X), {"a": X, "b": X}])
def test_several_inputs_are_arguments_and_named_ones_keywords(inputs):
    model = Two()
    settled = task(Two, (inputs, CLASSES), (inputs, CLASSES))
    expected = functional.cross_entropy(model.linear(2 * X), CLASSES)
    assert torch.equal(settled.loss_on(model, (inputs, CLASSES)), expected)
    assert settled.evaluated(model, settled.valid)[0] == expected.item()


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Labelled(Two):
    """A model that computes its own loss, as those of Hugging Face do."""

    def forward(self, a, b, labels=None):
        logits = super().forward(a, b)
        return Output(logits, None if labels is None else 3 * functional.cross_entropy(logits, labels))


def test_a_dict_goes_in_by_name_and_labels_to_a_model_that_takes_them():
    samples = [{"a": x, "b": x, "labels": y} for x, y in zip(X, CLASSES, strict=True)]
    loader = DataLoader(samples, batch_size=8)
    for kind, factor in ((Two, 1), (Labelled, 3)):
        model, settled = kind(), task(kind, loader, loader)
        expected = functional.cross_entropy(model.linear(2 * X), CLASSES).item()
        loss, metrics = settled.evaluated(model, loader)
        assert loss == pytest.approx(factor * expected, rel=1e-6)
        assert metrics == {"accuracy": accuracy(model.linear(2 * X), CLASSES)}


def test_several_losses_are_summed_by_weight_and_each_is_a_metric():
    parts = {"ce": functional.cross_entropy, "size": (0.5, lambda outputs, targets: outputs.square().mean())}
    settled, model = task(loss=parts), classifier()
    ce, size = functional.cross_entropy(model(X), CLASSES), model(X).square().mean()
    assert torch.isclose(settled.loss_on(model, (X, CLASSES)), ce + 0.5 * size)
    loss, metrics = settled.evaluated(model, (X, CLASSES))
    assert settled.metric_names == list(metrics) == ["accuracy", "ce", "size"]
    assert (loss, metrics["ce"], metrics["size"]) == pytest.approx(
        ((ce + 0.5 * size).item(), ce.item(), size.item())
    )


def test_a_training_step_takes_over_and_a_loss_judges_it():
    def own(model, batch):
        return model(batch[0]).square().mean()

    model = classifier()
    for loss, judged in ((None, own(model, (X,))), (functional.cross_entropy,) * 1 + (None,)):
        settled = task(training_step=own, loss=loss)
        assert torch.equal(settled.loss_on(model, (X, CLASSES)), own(model, (X,)))
        expected = functional.cross_entropy(model(X), CLASSES) if judged is None else judged
        assert settled.evaluated(model, (X, CLASSES)) == (expected.item(), {})


def test_an_evaluation_of_one_s_own_takes_over():
    def own(model, batches):
        return sum(len(x) for x, _ in batches), {"f1": torch.tensor(0.5)}

    settled = task(evaluation=own, metrics=["f1"], target="f1 >= 0.4")
    assert settled.evaluated(classifier(), (X, CLASSES)) == (50.0, {"f1": 0.5})
    assert settled.target.reached(9.0, {"f1": 0.5})


def test_precisions():
    model = classifier()
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        settled = task(precision=name)
        made = settled.new_model()
        assert {p.dtype for p in made.parameters()} == {dtype}
        assert settled.loss_on(made, (X, CLASSES)).dtype == dtype
        settled.evaluated(made, (X, CLASSES))
    half = task(precision="bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        expected = functional.cross_entropy(model(X), CLASSES)
    assert torch.equal(half.loss_on(model, (X, CLASSES)), expected)
    assert not torch.equal(expected, functional.cross_entropy(model(X), CLASSES))
    assert half.evaluated(model, (X, CLASSES))[0] == expected.item()


def test_settings_go_to_the_training_to_the_model_and_else_to_the_optimizer():
    settings = {"lr": 0.1, "width": 9, "momentum": 0.9, "batch_size": 10, "clip": 1.0, "speling": 1}
    given, rest = task().given(settings)
    assert (given.batch_size, given.clip, given.new_model()[0].out_features) == (10, 1.0, 9)
    assert rest == {"lr": 0.1, "momentum": 0.9, "speling": 1}, "momentum is the optimizer's, not the model's"
    assert given.name == "classifier"
    again, _ = given.given({"dropout": 0.3})
    assert (again.new_model()[0].out_features, again.new_model()[1].p) == (9, 0.3)
    with pytest.raises(TaskError, match="warmup is a share"):
        task().given({"warmup": 2})


def test_optimizers_own_names_are_known():
    from fallline.core.registry import entries

    names = {name for entry in entries().values() for name in (*entry.space, *entry.fixed)}
    assert names - OPTIMIZER == set()


def test_every_schedule_is_one_of_fallline_schedules():
    assert [name for name in SCHEDULES if not callable(getattr(fallline.schedules, name, None))] == []


@pytest.mark.parametrize(
    ("given", "text", "reached", "missed"),
    [
        (0.5, "validation loss <= 0.5", (0.5, {}), (0.51, {})),
        ("val_loss <= 0.5", "validation loss <= 0.5", (0.4, {}), (0.6, {})),
        ("accuracy >= 0.9", "accuracy >= 0.9", (9, {"accuracy": 0.9}), (0, {"accuracy": 0.89})),
        ("mean error<=3", "mean error <= 3", (9, {"mean error": 3}), (0, {})),
    ],
)
def test_targets(given, text, reached, missed):
    target = as_target(given)
    assert (target.text, target.reached(*reached), target.reached(*missed)) == (text, True, False)


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, CLASSES, strict=True)


def test_a_stream_needs_its_length_and_is_one_epoch():
    stream = task(train=Stream(), valid=Stream(), max_steps=5)
    assert (stream.total_steps, stream.total_epochs, stream.metric_name) == (5, 1, "accuracy")
    assert stream.evaluated(classifier(), stream.valid, limit=10)[0] > 0


def own_sampler():
    from torch.utils.data import BatchSampler, SequentialSampler

    kind = type("Own", (BatchSampler,), {})
    return DataLoader(Pairs(X, CLASSES), batch_sampler=kind(SequentialSampler(X), 5, False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": nn.Linear(3, 4)}, "each training needs new initial weights; .* `lambda: Linear"),
        ({"model": "blobs"}, "model must be a function or class"),
        (
            {"model": lambda clip=1: nn.Linear(3, 4)},
            "'clip' is an argument of the model and a setting of the",
        ),
        ({"train": (X.numpy(), CLASSES)}, "train holds ndarray instead of tensors; use torch.as_tensor"),
        ({"valid": (X, CLASSES[:9])}, r"valid must be .* of one length, .* got \(50, 3\), \(9,\)"),
        ({"valid": None}, "valid is missing; give the validation data, or cv=5"),
        ({"train": 5}, "train is int; give tensors"),
        ({"train": DataLoader(Pairs(X, CLASSES), batch_size=None)}, "without batches; give it a batch_size"),
        ({"train": own_sampler(), "batch_size": 7}, "batch_sampler decides on the batches"),
        ({"train": Stream()}, "whose length is unknown; give max_steps"),
        ({"train": Stream(), "max_steps": 3, "epochs": 1}, "has no epochs; give max_steps alone"),
        ({"cv": 5}, "leave valid and test out"),
        ({"valid": None, "cv": 2}, "cv must be at least 3"),
        ({"valid": None, "cv": 99}, "needs as many samples; train has 50"),
        ({"loss": 3}, "loss must be a function"),
        ({"loss": {"a": (1, 2, 3)}}, "loss 'a' must be a function or"),
        ({"metrics": 3}, "metrics must be a function"),
        ({"target": "accuracy > 3"}, "write 'accuracy >= 0.97'"),
        ({"target": "acuracy >= 3"}, r"names no metric; there are \['validation loss', 'accuracy'\]"),
        ({"target": float("nan")}, "target must be a finite number"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"warmup": 1.0}, "warmup is a share of the steps"),
        ({"clip": 0}, "clip must be positive"),
        ({"patience": 1.5}, "patience must be positive, a whole number"),
        ({"search": {"droput": Range(0.1, 0.5)}}, "search has 'droput'; did you mean 'dropout'"),
        ({"search": {"dropout": 0.5}}, "must be a Range or a Choice"),
        (
            {"train": DataLoader(Pairs(X, CLASSES), drop_last=True), "batch_size": 51},
            "no whole batch, and drop_last leaves out the rest; lower batch_size",
        ),
        ({"training_step": 5}, "training_step must be a function"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(changes, message):
    with pytest.raises(TaskError, match=message):
        task(**changes)


def test_what_can_be_searched_is_accepted():
    space = {
        "dropout": Range(0.1, 0.5, "linear"),
        "batch_size": Choice((8, 16)),
        "schedule": Choice(("cosine", "step")),
    }
    assert task(search=space).search == space
    assert task(lambda: copy.deepcopy(nn.Linear(3, 4))).name == "task"


def test_a_task_is_pickled_and_replaced():
    settled = task(target="accuracy >= 0.5", loss={"ce": functional.cross_entropy})
    again = pickle.loads(pickle.dumps(replace(settled, epochs=3)))
    assert (again.epochs, again.target, again.metric_names) == (3, settled.target, ["accuracy", "ce"])


@pytest.mark.parametrize(
    ("function", "name"),
    [("make_task", "spam"), ("make_mails", "mails"), ("mails_task", "mails"), ("named", "own")],
)
def test_a_task_without_a_name_has_its_function_s(tmp_path, function, name):
    (tmp_path / "spam.py").write_text(
        "import torch\nfrom fallline import Task\n"
        "def task(name=''):\n"
        "    data = torch.zeros(4, 2), torch.zeros(4).long()\n"
        "    return Task(lambda: torch.nn.Linear(2, 2), data, data, name=name)\n"
        "def named():\n    return task('own')\n"
        "make_task = make_mails = mails_task = task\n"
    )
    assert load(f"{tmp_path / 'spam.py'}:{function}").name == name
