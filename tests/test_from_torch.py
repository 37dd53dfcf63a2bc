"""The page about moving from torch: both versions run and compute the same."""

import re
from pathlib import Path

import pytest
import torch

import fallline

PAGE = (Path(__file__).parents[1] / "docs/from_torch.md").read_text()
COMMON, THEIRS, OURS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def run(code):
    scope = {}
    exec(COMMON + code, scope)
    return scope


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield run(THEIRS), run(OURS), folder


def test_the_losses_are_the_same(both):
    theirs, ours, _ = both
    torch.testing.assert_close(
        torch.tensor(ours["losses"]), torch.tensor(theirs["losses"]), rtol=2e-5, atol=1e-7
    )
    assert ours["losses"][:3] == pytest.approx(theirs["losses"][:3], rel=1e-6)
    assert ours["evaluated"] == pytest.approx(theirs["evaluated"], rel=1e-3)


def test_ours_is_shorter(both):
    assert len(OURS.splitlines()) < 0.85 * len(THEIRS.splitlines())


def test_ours_makes_two_passes(both):
    text = fallline.explain(both[1]["optimizer"])
    assert "pass 2" in text
    assert "pass 3" not in text


def test_the_checkpoint_goes_on_bit_for_bit(both):
    _, ours, folder = both
    again = run(OURS.split("losses = []")[0])
    state = fallline.load(folder / "checkpoint.safetensors")
    again["model"].load_state_dict(state["model"])
    again["optimizer"].load_state_dict(state["optimizer"])
    for step in range(state["step"] + 1, 200):
        again["optimizer"].zero_grad()
        loss = again["loss_of"](again["model"], step)
        loss.backward()
        again["optimizer"].step()
        assert loss.item() == ours["losses"][step]
