"""Which parameters weight decay spares, and how zeros are counted."""

import pytest
import torch
from torch import nn

import fallline
from fallline.penalties import no_decay_on_norms_and_biases, sparsity


class Model(nn.Module):
    """One module of every kind, with a shared weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.rnn = nn.GRU(4, 4)
        self.conv = nn.Conv1d(4, 4, 1)
        self.norms = nn.ModuleList(
            [
                nn.LayerNorm(4),
                nn.BatchNorm1d(4),
                nn.GroupNorm(2, 4),
                nn.RMSNorm(4),
                nn.InstanceNorm1d(4, affine=True),
            ]
        )
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight


class ScaleNorm(nn.Module):
    """A norm of no torch class."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))


class Normalised(nn.Linear):
    """No norm, in spite of its name."""


DECAYED = [
    "embed.weight", "attention.in_proj_weight", "attention.out_proj.weight", "rnn.weight_ih_l0",
    "rnn.weight_hh_l0", "conv.weight",
]  # fmt: skip


def names(model, **options):
    """Return the names of what decays, and of what does not."""
    groups = no_decay_on_norms_and_biases(model, weight_decay=0.1, **options)
    found = {group["weight_decay"]: group["param_names"] for group in groups}
    return found.get(0.1, []), found.get(0.0, [])


def test_weights_decay_and_norms_and_biases_do_not():
    decayed, spared = names(Model())
    assert decayed == DECAYED
    assert sorted(decayed + spared) == sorted(name for name, _ in Model().named_parameters())
    assert {"attention.bias_k", "attention.in_proj_bias", "rnn.bias_hh_l0", "norms.4.weight"} <= set(spared)


def test_embeddings_are_spared_on_demand_where_a_head_shares_them_too():
    assert names(Model(), embeddings=True)[0] == DECAYED[1:]


def test_a_norm_of_another_library_is_known_by_its_name():
    decayed, spared = names(nn.Sequential(ScaleNorm(), Normalised(2, 2)))
    assert (decayed, spared) == (["1.weight"], ["0.gain", "1.bias"])


def test_an_empty_group_is_left_out_and_a_model_without_parameters_refused():
    assert len(no_decay_on_norms_and_biases(nn.LayerNorm(2), weight_decay=0.1)) == 1
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        no_decay_on_norms_and_biases(nn.ReLU(), weight_decay=0.1)


@pytest.mark.parametrize("cls", [fallline.AdamW, torch.optim.AdamW, fallline.SGD, torch.optim.SGD])
def test_only_what_decays_shrinks(cls):
    """Without gradients a step of decoupled decay scales by 1 - lr λ, of coupled decay of SGD likewise."""
    model = Model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = cls(no_decay_on_norms_and_biases(model, weight_decay=0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 0.95 if name in DECAYED else 1.0
        torch.testing.assert_close(p.detach(), factor * before[name], rtol=1e-6, atol=0)


def test_state_of_torchs_optimizer_over_these_groups_loads_by_name():
    model = Model()
    theirs = torch.optim.AdamW(no_decay_on_norms_and_biases(model, weight_decay=0.5))
    ours = fallline.AdamW(model.named_parameters(), weight_decay=0.5)
    with pytest.raises(fallline.core.errors.CheckpointMismatch, match="weight_decay"):
        ours.load_state_dict(theirs.state_dict())
    fallline.AdamW(no_decay_on_norms_and_biases(model, weight_decay=0.1)).load_state_dict(theirs.state_dict())


def test_zeros_are_counted_exactly():
    """Soft thresholds at 0.5 leave as many zeros as there are elements within; -0.0 is one, NaN is none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 1))
    small = {name: int((p.abs() <= 0.1).sum()) for name, p in model.named_parameters()}
    optimizer = fallline.ProximalSGD(model.parameters(), lr=1.0, prox=fallline.prox.L1(0.1))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    found = sparsity(model)
    assert {t.name: t.zeros for t in found.tensors} == small
    assert found.share == sum(small.values()) / 221
    assert found["0.weight"] == small["0.weight"] / 200
    with torch.no_grad():
        model[1].weight[0, :3] = torch.tensor([-0.0, float("nan"), 1e-45])
        model[1].weight[0, 3:] = 1
    assert sparsity(model)["1.weight"] == 0.1


def test_a_shared_tensor_is_counted_once():
    assert "head.weight" not in str(sparsity(Model()))
    assert sparsity(Model()).total.elements == sum(p.numel() for p in Model().parameters())


def test_the_table():
    model = nn.Linear(1000, 2)
    with torch.no_grad():
        model.weight[0] = 0
        model.weight[1] = 1
        model.bias.fill_(1)
    assert str(sparsity(model)).splitlines() == [
        "tensor  elements  zeros  share",
        "weight     2,000  1,000  50.0%",
        "bias           2      0   0.0%",
        "all        2,002  1,000  50.0%",
    ]


@pytest.mark.parametrize("count", [sparsity, lambda m: no_decay_on_norms_and_biases(m, weight_decay=0.1)])
def test_parameters_in_place_of_a_model_are_refused(count):
    with pytest.raises(TypeError, match="Invalid model: generator; give the nn"):
        count(nn.Linear(3, 2).parameters())
