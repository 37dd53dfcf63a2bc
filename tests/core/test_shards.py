"""Parameters that several processes hold together are stepped as in one; see `sharded` for what they do."""

import json
from pathlib import Path

import pytest
import sharded
import sharded_cases
import torch.multiprocessing as mp

from fallline.tasks.threads import one_thread


def worked(world: int, names: list[str], folder: Path) -> Path:
    """Let processes run the cases, and return the folder in which they wrote what came of them."""
    mp.start_processes(sharded_cases.work, (world, str(folder), names), nprocs=world, start_method="spawn")
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return worked(2, list(sharded_cases.CASES_BY_NAME), tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    return worked(4, list(sharded_cases.CASES_BY_NAME), tmp_path_factory.mktemp("four"))


def came(folder: Path, name: str) -> list[str]:
    """Return what came of a case in each process: nothing, or where it failed."""
    return [json.loads(path.read_text()).get(name, "not reached") for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize("name", sharded_cases.CASES_BY_NAME)
def test_two_processes(name, two):
    assert came(two, name) == [""] * 2


@pytest.mark.long
@pytest.mark.parametrize("name", sharded_cases.CASES_BY_NAME)
def test_four_processes(name, four):
    assert came(four, name) == [""] * 4


NAMES = list(sharded.CHECKPOINTED)[:-1]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("name", NAMES)
def test_one_process_goes_on_from_what_two_saved(name, two):
    with one_thread():  # as in each of the two; products of matrices may be summed up otherwise by more
        alone = sharded.trained(sharded.net(), sharded.CHECKPOINTED[name])
        ends = sharded.gone_on(name, sharded.net(), two)
    sharded.assert_equal(ends, list(alone.parameters()), sharded.tolerance(sharded.CHECKPOINTED[name]))


@pytest.mark.long
def test_the_interpreted_kernels_of_the_gpu_backend(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    kinds = "elements AdamW", "sums LAMB", "sums Prodigy {}", "fully sharded AdamW", "replicas"
    cases = [name for name in sharded_cases.CASES_BY_NAME if name.startswith(kinds)]
    worked(2, cases, tmp_path)
    assert {name: came(tmp_path, name) for name in cases} == dict.fromkeys(cases, [""] * 2)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_four_processes_go_on_from_what_one_saved(tmp_path):
    with one_thread():
        for name in NAMES:
            sharded.written(name, sharded.net(), tmp_path)
    cases = [f"read {name}" for name in NAMES]
    worked(4, cases, tmp_path)
    assert {name: came(tmp_path, name) for name in cases} == dict.fromkeys(cases, [""] * 4)
