"""Parameters that several processes hold together are stepped as in one; see `sharded` for what they do."""

import json
from pathlib import Path

import pytest
import sharded
import sharded_cases
import torch
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict


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


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("name", sharded.CHECKPOINTED)
def test_one_process_goes_on_from_what_two_saved(name, two):
    model = sharded.net()
    optimizer = sharded.CHECKPOINTED[name](model)
    weights, state = get_state_dict(model, optimizer)
    saved = {"model": weights, "optimizer": state}
    dcp.load(saved, checkpoint_id=str(two / name))
    set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    sharded.trained(model, lambda _: optimizer, range(2, 4))
    alone = sharded.trained(sharded.net(), sharded.CHECKPOINTED[name], range(4))
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(p, q)
