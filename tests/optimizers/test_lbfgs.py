"""LBFGS is torch's own, under fallline's name, loaded when it is asked for."""

import pickle

import torch

import fallline


def test_it_is_torchs_own():
    assert fallline.LBFGS is torch.optim.LBFGS
    assert "LBFGS" in fallline.__all__
    assert pickle.loads(pickle.dumps(fallline.LBFGS)) is torch.optim.LBFGS
