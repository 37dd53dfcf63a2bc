"""What the machinery costs around a training whose steps take a millisecond."""

import tempfile
from collections.abc import Callable
from itertools import count, pairwise
from statistics import median

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fallline
from benches.timing import ratio, rounds
from fallline.compare.records import Arm, Spec
from fallline.compare.search.sampling import sampler
from fallline.compare.storage.store import Store
from fallline.compare.trials.trial import run_trial
from fallline.core.registry import find
from fallline.tasks.task import Task

SAMPLES, VALID, FEATURES, CLASSES, BATCH_SIZE, EPOCHS, EVALUATIONS = 12_800, 1024, 256, 10, 64, 2, 20

#: Hidden layers with which a step takes about a millisecond.
HIDDEN = (256, 256)


def main(turns: int = 15) -> None:
    """Print how much longer a trial with its sampler and store takes than the same training by hand."""
    every = torch.get_num_threads()
    torch.set_num_threads(1)
    task = _task()
    with tempfile.TemporaryDirectory() as folder:
        seconds = rounds({"trial": _trial(task, Store(folder)), "by hand": lambda: _by_hand(task)}, turns)
    steps = EPOCHS * SAMPLES // BATCH_SIZE
    print(f"\nMachinery: {steps} steps of {median(seconds['by hand']) / steps * 1e3:.2f} ms, 1 thread")
    factor = ratio(seconds["trial"], seconds["by hand"])
    print(f"a trial with sampler and store takes {factor:.3f} times as long as a plain loop")
    torch.set_num_threads(every)


def _task() -> Task:
    inputs = torch.randn(SAMPLES + VALID, FEATURES, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :CLASSES].argmax(dim=1)
    parts = (inputs[:SAMPLES], targets[:SAMPLES]), (inputs[SAMPLES:], targets[SAMPLES:])
    return Task(_model, *parts, name="a millisecond", batch_size=BATCH_SIZE, epochs=EPOCHS)


def _model() -> nn.Module:
    sizes = (FEATURES, *HIDDEN)
    hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], CLASSES))


def _trial(task: Task, store: Store) -> Callable[[], None]:
    """Return what asks the sampler, trains and stores, as a comparison does for each of its trials."""
    space, numbers, ask = find("adamw").space, count(), sampler("sobol").ask
    arm = Arm("adamw")

    def call() -> None:
        number = next(numbers)
        settings = ask(space, number, [], 0)
        trial = run_trial(task, arm, Spec("adamw", "tune", number, number, settings))
        assert trial.status == "ok", trial.error
        store.append(trial)

    return call


def _by_hand(task: Task) -> None:
    """Train as often and evaluate as often, with the same optimizer, in a plain loop."""
    model = _model()
    optimizer = fallline.AdamW(model.parameters(), lr=1e-3)
    inputs, targets = task.train
    between = EPOCHS * SAMPLES // BATCH_SIZE // EVALUATIONS
    step = 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(SAMPLES).split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            step += 1
            if step % between == 0:
                _evaluate(model, inputs[:VALID], targets[:VALID])
                _evaluate(model, *task.valid)


@torch.no_grad()
def _evaluate(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    model.eval()
    outputs = model(inputs)
    model.train()
    return cross_entropy(outputs, targets).item(), (outputs.argmax(1) == targets).float().mean().item()
