"""A LightningModule as a task: against Lightning's own Trainer, number by number."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from fallline.core.space import Range
from fallline.tasks import TaskError, from_lightning
from fallline.tasks.batches import Batches

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")
    from torchmetrics.classification import MulticlassF1Score

X = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(2))


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


class InOrder(SequentialSampler):
    """A sampler of the user's own, whose order counts in both."""


class Net(lightning.LightningModule):
    def __init__(self, width=4, lr=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 4))
        self.f1 = MulticlassF1Score(4)
        self.lr = lr

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = functional.cross_entropy(self.layers(inputs), targets)
        self.log("train_loss", loss)
        return {"loss": loss}

    def on_validation_epoch_start(self):
        self.batches = 0

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self.layers(inputs)
        self.batches += 1
        self.f1(outputs, targets)
        self.log_dict({"val_loss": functional.cross_entropy(outputs, targets), "f1": self.f1})
        self.log("highest", outputs.max(), reduce_fx="max")

    def on_validation_epoch_end(self):
        self.log("batches", float(self.batches))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loader(**more):
    return DataLoader(Pairs(), batch_size=8, **more)


class Module(lightning.LightningDataModule):
    def setup(self, stage):
        self.stage = stage

    def train_dataloader(self):
        return loader(sampler=InOrder(Pairs()))

    def val_dataloader(self):
        return [loader()]


class WithTest(Module):
    def test_dataloader(self):
        assert self.stage == "test"
        return loader()


def trainer(**more):
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **more,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_a_few_steps_are_the_trainer_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = Net()
    fitting = trainer(max_steps=9)
    fitting.fit(theirs, datamodule=Module())
    expected = {
        name: float(value) for name, value in fitting.validate(theirs, loader(), verbose=False)[0].items()
    }
    task = from_lightning(Net, Module(), max_steps=9)
    ours = task.new_model()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for _, batch in zip(range(task.total_steps), Batches(task.train, 8, seed=0), strict=False):
        task.loss_on(ours, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, their)
    loss, metrics = task.evaluated(ours, task.valid)
    assert {"val_loss": loss, **metrics} == pytest.approx(expected, rel=1e-5)
    assert task.evaluated(ours, task.valid)[1]["f1"] == metrics["f1"], "metrics begin anew"
    assert ours.training


def test_what_it_logs_are_the_metrics_and_its_arguments_can_be_searched():
    task = from_lightning(Net, WithTest(), search={"width": Range(2, 9, integer=True)}, target="f1 >= 0.9")
    assert sorted(task.metric_names) == ["batches", "f1", "highest"]
    assert (task.name, task.batch_size, task.parts) == ("Net", 8, ["train", "valid", "test"])
    given, rest = task.given({"width": 7, "lr": 0.3})
    assert given.new_model().layers[0].out_features == 7
    assert rest == {"lr": 0.3}, "the learning rate is the optimizer's"


def test_the_loss_may_be_returned_or_named():
    class Returns(Net):
        def validation_step(self, batch):
            return functional.cross_entropy(self.layers(batch[0]), batch[1])

    class Named(Net):
        def validation_step(self, batch, batch_idx):
            self.log("mine", 2.0, batch_size=len(batch[0]))

    pair = loader(), loader()
    model = Returns()
    loss, metrics = from_lightning(Returns, pair).evaluated(model, pair[1])
    expected = functional.cross_entropy(model.layers(X), Y).item()
    assert (loss, metrics) == (pytest.approx(expected, rel=1e-6), {"batches": 0.0} | metrics)
    assert from_lightning(Named, pair, monitor="mine").evaluated(Named(), pair[1])[0] == 2.0
    with pytest.raises(TaskError, match=r"logs no validation loss, but mine, batches; .* name it by monitor"):
        from_lightning(Named, pair)


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class NeedsTrainer(Net):
    def validation_step(self, batch, batch_idx):
        return self.trainer.max_epochs


@pytest.mark.parametrize(
    ("make", "data", "told"),
    [
        (Manual, Module(), "one that steps its own optimizers cannot be compared"),
        (lambda: nn.Linear(3, 4), Module(), "Linear is no LightningModule"),
        (
            NeedsTrainer,
            Module(),
            "first validation batch fails: RuntimeError: .* must work without a Trainer",
        ),
        (Net, (loader(),), r"data has 1 loaders; give \(train, valid\)"),
        (Net(), Module(), "each training needs new initial weights"),
    ],
)
def test_what_does_not_work_is_told_before_anything_runs(make, data, told):
    with pytest.raises(TaskError, match=told):
        from_lightning(make, data)


def test_two_validation_sets_are_refused():
    class Twice(Module):
        def val_dataloader(self):
            return [loader(), loader()]

    with pytest.raises(TaskError, match="val_dataloader must return one loader"):
        from_lightning(Net, Twice())
