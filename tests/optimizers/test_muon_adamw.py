"""MuonAdamW: who steps what in the models that people have, and that each part is what it says."""

import pytest
import torch
from torch import nn

import fallline
from fallline.core.errors import UnknownNameError
from fallline.routing import named
from fallline.schedules import linear
from routing.models import give_gradients, make_net


class Attention(nn.Module):
    """Queries, keys and values in one matrix, side by side as in GPT-2 or one below the other."""

    def __init__(self, transposed: bool):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.c_attn = nn.Linear(12, 4) if transposed else nn.Linear(4, 12)
        self.c_proj = nn.Linear(4, 4)


class Vision(nn.Module):
    """A transformer of patches: parameters of its own beside those of layers, and a mixture of experts."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(9, 4))
        self.patches = nn.Conv2d(3, 4, 2)
        self.blocks = nn.ModuleList([Attention(False), Attention(True)])
        self.experts = nn.Parameter(torch.zeros(2, 4, 4))
        self.mixer = nn.Conv1d(4, 4, 3)
        self.head = nn.Linear(4, 10)


def kinds(optimizer):
    return {group["name"]: group["param_names"] for group in optimizer.param_groups}


def test_a_vision_transformer():
    found = kinds(fallline.MuonAdamW(Vision()))
    assert found.pop("norms and biases") == [
        name for name, p in Vision().named_parameters() if p.ndim == 1 and name != "cls_token"
    ]
    assert found == {
        "hidden matrices": ["blocks.0.c_proj.weight", "blocks.1.c_proj.weight", "mixer.weight"],
        "fused QKV": ["blocks.0.c_attn.weight", "blocks.1.c_attn.weight"],
        "first and last layer": ["patches.weight", "head.weight"],
        "embeddings": ["cls_token", "pos_embed", "experts"],
    }


def test_a_language_model_with_a_tied_head():
    found = kinds(fallline.MuonAdamW(make_net()))
    assert found["hidden matrices"] == [f"blocks.{i}.linear.weight" for i in range(3)]
    assert found["embeddings"] == ["embed.weight"]
    assert "first and last layer" not in found


def test_torchs_own_attention_and_a_head_that_is_not_tied():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.ModuleDict({"in": nn.Embedding(9, 4), "layer": layer, "out": nn.Linear(4, 9)})
    found = kinds(fallline.MuonAdamW(model))
    assert found["fused QKV"] == ["layer.self_attn.in_proj_weight"]
    assert found["hidden matrices"] == [
        f"layer.{name}.weight" for name in ("self_attn.out_proj", "linear1", "linear2")
    ]
    assert found["first and last layer"] == ["out.weight"]


@pytest.mark.parametrize("name", ["qkv", "c_attn", "query_key_value", "QKV_proj", "in_proj_weight"])
def test_a_fused_matrix_is_known_by_its_name(name):
    inner = nn.Linear(4, 12, bias=False)
    holder = nn.ModuleDict({name: inner})
    if name == "in_proj_weight":
        holder = nn.Module()
        holder.in_proj_weight = inner.weight
    model = nn.ModuleList([nn.Linear(3, 4, bias=False), holder, nn.Linear(12, 2, bias=False)])
    assert [each.split(".")[1] for each in kinds(fallline.MuonAdamW(model))["fused QKV"]] == [name]


def test_norms_and_biases_of_more_than_one_dimension_are_no_matrices():
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    attention.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))  # as in Swin
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 2), "attention": attention, "head": nn.Linear(4, 9)})
    model["norm"] = nn.LayerNorm((5, 4))
    found = kinds(fallline.MuonAdamW(model))
    assert {name for name in found["norms and biases"] if model.get_parameter(name).ndim > 1} == {
        "attention.relative_position_bias_table", "attention.bias_k", "attention.bias_v",
        "norm.weight", "norm.bias",
    }  # fmt: skip
    assert found["hidden matrices"] == ["attention.out_proj.weight"]
    assert found["first and last layer"] == ["stem.weight", "head.weight"]


def test_where_words_are_looked_up_the_first_matrix_is_hidden_wherever_it_is_registered():
    model = nn.ModuleDict({"mixer": nn.Linear(4, 4), "words": nn.Embedding(9, 4), "head": nn.Linear(4, 9)})
    found = kinds(fallline.MuonAdamW(model))
    assert found["hidden matrices"] == ["mixer.weight"]
    assert found["first and last layer"] == ["head.weight"]


def test_a_model_of_vectors_needs_no_muon():
    assert list(kinds(fallline.MuonAdamW(nn.LayerNorm(4)))) == ["norms and biases"]


def test_every_group_is_stepped_as_by_its_optimizer_alone():
    one, other = make_net(), make_net()
    routed = fallline.MuonAdamW(one, lr=0.01, weight_decay=0.1)
    matrices = [p for name, p in other.named_parameters() if "linear.weight" in name]
    vectors = [p for p in other.parameters() if p.ndim == 1]
    alone = [
        fallline.Muon(matrices, lr=0.01, adjust_lr_fn="match_rms_adamw"),
        fallline.AdamW([other.embed.weight], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)),
        fallline.AdamW(vectors, lr=0.01, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    for step in range(4):
        give_gradients(one, step)
        give_gradients(other, step)
        for optimizer in (routed, *alone):
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("side_by_side", [False, True])
def test_thirds_step_as_three_matrices(side_by_side):
    generator = torch.Generator().manual_seed(0)
    start, grad = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    parts = [nn.Parameter(part.clone()) for part in start]
    for p, g in zip(parts, grad, strict=True):
        p.grad = g.clone()
    apart = fallline.Muon(parts, lr=0.1, adjust_lr_fn="match_rms_adamw")
    apart.step()
    model = nn.ModuleDict(
        {"qkv": nn.Linear(*((12, 4) if side_by_side else (4, 12)), bias=False, dtype=torch.float64)}
    )
    model["head"] = nn.Linear(12, 2, dtype=torch.float64)
    fused = model["qkv"].weight
    fused.data, fused.grad = ((torch.cat(list(x), dim=int(side_by_side))) for x in (start, grad))
    fallline.MuonAdamW(model, lr=0.1, adamw=named("head.weight")).step()
    together = torch.cat([p.detach() for p in parts], dim=int(side_by_side))
    # one stack of three against three stacks of one: rounding, times 3.4445 in each of five iterations
    torch.testing.assert_close(fused.detach(), together, rtol=0, atol=1e-12)


def test_the_layers_for_adamw_can_be_chosen():
    found = kinds(fallline.MuonAdamW(Vision(), adamw=named("mixer.*") | "head.weight"))
    assert found["first and last layer"] == ["mixer.weight", "head.weight"]
    assert "patches.weight" in found["hidden matrices"]


def test_a_choice_of_nothing_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"no parameter matches 'lm_head.\*'; the nearest name"):
        fallline.MuonAdamW(Vision(), adamw="lm_head.*")


def test_parameters_instead_of_a_model_are_refused():
    with pytest.raises(TypeError, match=r"give the nn\.Module"):
        fallline.MuonAdamW(list(Vision().parameters()))


def test_norms_and_biases_do_not_decay_and_matrices_do():
    model = Vision()
    optimizer = fallline.MuonAdamW(model, lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        share = 1.0 if p.ndim == 1 else 0.95
        torch.testing.assert_close(p.detach(), share * before[name])


def test_a_schedule_drives_all_groups_and_a_checkpoint_goes_on():
    def train(model, optimizer, steps):
        for step in steps:
            give_gradients(model, step)
            optimizer.step()

    rate = 0.01 * linear(1.0, 0.1, 10)
    straight, broken, resumed = make_net(), make_net(), make_net()
    train(straight, fallline.MuonAdamW(straight, lr=rate), range(6))
    first = fallline.MuonAdamW(broken, lr=rate)
    train(broken, first, range(3))
    assert {group["lr"] for group in first.param_groups} == {rate(2)}
    second = fallline.MuonAdamW(resumed, lr=rate)
    resumed.load_state_dict(broken.state_dict())
    second.load_state_dict(first.state_dict())
    train(resumed, second, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))
