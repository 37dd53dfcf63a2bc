"""A task is the same while its model, settings and data are, in any process; every small change is seen."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_task import blobs
from test_run import SMALL, quick
from torch import nn
from torch.utils.data import Dataset

from fallline.compare import ComparisonError, compare
from fallline.compare.advice.lr_range import recorded_or_swept
from fallline.compare.storage.fingerprint import READ_BYTES, of_data, of_task
from fallline.tasks import load


def changed(at: tuple[int, ...], part: int = 0, side: str = "valid"):
    """Return the blobs with one number changed."""
    task = blobs()
    tensors = [tensor.clone() for tensor in getattr(task, side)]
    tensors[part][at] += 1
    return replace(task, **{side: tuple(tensors)})


@pytest.mark.parametrize("side", ["train", "valid"])
@pytest.mark.parametrize(("part", "at"), [(0, (0, 0)), (0, (29, 1)), (0, (13, 0)), (1, (7,))])
def test_any_number_of_small_data_counts(side, part, at):
    assert of_data(changed(at, part, side)) != of_data(blobs())
    assert of_task(changed(at, part, side)) == of_task(blobs())


def test_the_model_and_the_settings_count_apart_from_the_data():
    for other in (replace(blobs(), model=lambda: nn.Linear(2, 3)), replace(blobs(), epochs=5)):
        assert of_task(other) != of_task(blobs())
        assert of_data(other) == of_data(blobs())


def test_the_order_of_samples_and_the_type_count():
    x, y = blobs().train
    flipped, other = (x.flip(0), y.flip(0)), (x, y.int())
    codes = {of_data(replace(blobs(), train=train)) for train in ((x, y), flipped, other)}
    assert len(codes) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.complex64, torch.float64])
def test_every_type_has_a_code_whatever_its_strides(dtype):
    x, y = blobs().train
    for inputs in (
        x.to(dtype),
        x.to(dtype).t().contiguous().t(),
        x.to(dtype).requires_grad_(dtype.is_complex),
    ):
        assert of_data(replace(blobs(), train=(inputs, y))) == of_data(
            replace(blobs(), train=(x.to(dtype), y))
        )


def test_large_data_is_read_in_blocks_from_the_first_to_the_last():
    x, y = torch.zeros(READ_BYTES, 2), torch.zeros(READ_BYTES)
    before = of_data(replace(blobs(), train=(x, y)))
    for row in (0, -1):
        x[row, 0] = 1
        assert of_data(replace(blobs(), train=(x, y))) != before
        x[row, 0] = 0
    x[READ_BYTES // 25] = 1
    assert of_data(replace(blobs(), train=(x, y))) == before, "it need not read all"


class Samples(Dataset):
    """The blobs as a dataset of dictionaries, with ``noise`` that no seed repeats."""

    def __init__(self, shift=0.0, noise=None, dtype=torch.float32):
        self.inputs, self.targets = blobs().train
        self.shift, self.noise, self.dtype = shift, noise, dtype

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        inputs = self.inputs[index] + self.shift + torch.rand(2)
        if self.noise:
            inputs = inputs + torch.rand(2, generator=self.noise)
        return {"x": inputs.to(self.dtype).numpy(), "y": (int(self.targets[index]), "label")}


def code(**options):
    return of_data(replace(blobs(), train=Samples(**options)))


def test_the_samples_of_a_dataset_count():
    assert code() == code()
    assert code() != code(shift=1e-3)


def test_of_a_dataset_with_noise_only_the_kind_counts():
    first, second = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    assert code(noise=first) == code(noise=second)
    assert code(noise=first) != code(noise=second, dtype=torch.float64)


class Broken(Samples):
    def __getitem__(self, index):
        raise OSError("the disk is gone")


def test_a_dataset_that_cannot_be_read_is_left_to_the_trials():
    assert of_data(replace(blobs(), train=Broken())) == of_data(replace(blobs(), train=Broken()))


def test_the_caller_s_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    code()
    assert torch.rand(1) == expected


def test_another_process_finds_the_same_code():
    program = (
        f"import sys; sys.path[:0] = [{str(SMALL.parent)!r}]\n"
        "from test_fingerprint import code, of_data, of_task, blobs\n"
        "print(code(), of_data(blobs()), of_task(blobs()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [code(), of_data(blobs()), of_task(blobs())]


NAMED = """
from dataclasses import replace
from torch import nn
from fallline.tasks import load

def make_task():
    def model():
        return nn.Sequential(nn.Linear(64, 100), nn.GELU(), nn.Linear(100, 10))
    return replace(load("digits"), model=model)
"""


def test_a_task_of_the_user_s_is_not_taken_for_a_built_in_one_of_the_same_name_and_shapes(tmp_path):
    """Sizes, settings and data are the same: what the model computes has no fingerprint."""
    out, file = tmp_path / "out", tmp_path / "named.py"
    file.write_text(NAMED)
    own, built_in = load(f"{file}:make_task"), load("digits")
    assert (own.name, of_task(own), of_data(own)) == (built_in.name, of_task(built_in), of_data(built_in))
    more = dict(task="digits", optimizers=["sgd"], trials=1, seeds=1, studies=1, workers=0, quiet=True)
    compare(**more, out=out)
    with pytest.raises(ComparisonError, match="its task's origin is fallline, not your own"):
        compare(**{**more, "task": f"{file}:make_task", "out": out, "resume": True})
    assert len(compare(**more, out=out, resume=True).trials) == 2
    with pytest.raises(ComparisonError, match="the task's origin is fallline, not your own"):
        recorded_or_swept(f"{file}:make_task", "sgd", out, 1)


def test_resuming_on_other_data_is_refused_and_nothing_is_written(tmp_path):
    quick(out=tmp_path / "out", task=blobs())
    files = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(ComparisonError, match="holds a different comparison: its task's data is"):
        quick(out=tmp_path / "out", task=changed((29, 1)), resume=True)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == files
