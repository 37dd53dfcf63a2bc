"""What `explain` says where kernels cannot run."""

import pytest
import torch

import fallline
from fallline.backends.gpu import missing


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Let CPU tensors count as a GPU's, as in the tests of kernels."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def explained(**settings):
    return fallline.explain(fallline.AdamW([torch.nn.Parameter(torch.ones(3))], **settings)).splitlines()


@pytest.mark.skipif(missing() is None, reason="Triton is here")
def test_it_is_said_that_triton_is_missing(as_on_a_gpu):
    assert "    not gpu: Triton is not installed" in explained()


def test_every_reason_is_said_in_the_order_of_backends():
    lines = explained(foreach=False, fused=False)
    assert lines[1].endswith("backend eager")
    assert lines[2:4] == [
        "    not gpu: the parameter is on cpu",
        "    not cpu: foreach=False and fused=False",
    ]
