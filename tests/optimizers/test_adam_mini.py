"""Adam-mini's blocks: those of its authors, by name; and what a block is, by kind."""

import json

import pytest
import torch
from torch import nn

import fallline
from optimizers import named_transformer
from optimizers.cases import on_backend

D = torch.float64


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def walked(start, block_rows=1, cls=fallline.AdamMini, **settings):
    """Return the tensor after five steps; the gradients' elements depend on the step alone."""
    p = nn.Parameter(start.clone())
    group = {"params": [p], **({"block_rows": block_rows} if cls is fallline.AdamMini else {})}
    optimizer = cls([group], **settings)
    for t in range(5):
        p.grad = random(p.numel(), seed=t).view(p.shape)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_named_parameters_take_the_authors_course(backend):
    recording = json.loads(named_transformer.RECORDING.read_text())
    named = named_transformer.parameters()
    settings = {**named_transformer.SETTINGS, "head_dim": named_transformer.HEAD_DIM}
    optimizer = on_backend(fallline.AdamMini(named, **settings), backend)
    ours = named_transformer.course(optimizer, named)
    # 13 digits are recorded, and 8 steps of a few roundings each
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(recording["course"]), rtol=1e-11, atol=1e-12)


def test_groups_tell_the_blocks_of_named_parameters():
    optimizer = fallline.AdamMini(named_transformer.parameters(), head_dim=3, weight_decay=0.1)
    found = {
        (group["block_rows"], group["weight_decay"]): [
            name.removeprefix("layers.0.").removesuffix(".weight") for name in group["param_names"]
        ]
        for group in optimizer.param_groups
    }
    assert found == {
        (1, 0.1): [
            "embed_tokens", "self_attn.v_proj", "self_attn.o_proj", "mlp.up", "gain", "LM_head"
        ],
        (1, 0.0): ["input_norm"],
        (3, 0.1): ["self_attn.q_proj", "self_attn.k_proj"],
        (0, 0.0): ["self_attn.q_proj.bias", "mlp.up.bias"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "block_rows", "decays"),
    [
        ("attention.wq.weight", (6, 4), 3, True),
        ("attention.wk.weight", (6, 4), 3, True),
        ("attention.QUERY.weight", (6, 4), 3, True),
        ("attention.key.weight", (6, 4), 3, True),
        ("attention.key.bias", (6,), 0, False),
        ("attention.wv.weight", (6, 4), 1, True),
        ("h.0.ln_1.weight", (6,), 1, False),
        ("final_norm.weight", (6,), 1, False),
        ("queries.keys", (6, 4, 2), 1, True),  # the authors' heads are those of matrices
        ("query_scale", (6,), 1, True),
    ],
)
def test_a_name_tells_block_and_decay(name, shape, block_rows, decays):
    optimizer = fallline.AdamMini([(name, nn.Parameter(torch.zeros(shape)))], head_dim=3, weight_decay=0.1)
    (group,) = optimizer.param_groups
    assert (group["block_rows"], group["weight_decay"]) == (block_rows, 0.1 * decays)


def test_a_block_of_rows_is_one_row_of_a_flatter_matrix():
    start = random(6, 4)
    flat = walked(start.view(2, 12))
    torch.testing.assert_close(walked(start, block_rows=3).view(2, 12), flat, rtol=0, atol=1e-14)


def test_the_filters_of_a_convolution_are_rows():
    start = random(4, 3, 2, 2)
    assert torch.equal(walked(start).view(4, 12), walked(start.view(4, 12)))


def test_a_vector_is_one_block_and_so_is_a_row():
    start = random(7)
    assert torch.equal(walked(start), walked(start.view(1, 7)).view(7))


@pytest.mark.parametrize("shape", [(5, 1), (), (1,)], ids=str)
def test_blocks_of_one_element_are_adamws(shape):
    ours = walked(random(*shape), weight_decay=0.1, lr=0.1)
    adamw = walked(random(*shape), cls=fallline.AdamW, weight_decay=0.1, lr=0.1)
    torch.testing.assert_close(ours, adamw, rtol=0, atol=1e-14)


def test_where_every_element_is_a_block_it_is_adamw():
    ours = walked(random(4, 3), block_rows=0, weight_decay=0.1)
    assert torch.equal(ours, walked(random(4, 3), cls=fallline.AdamW, weight_decay=0.1))


def test_the_second_moment_takes_next_to_no_memory():
    optimizer = fallline.AdamMini([nn.Parameter(torch.zeros(10, 1000))])
    assert "keeps 4.004 bytes of state per element" in str(fallline.explain(optimizer))


def test_tensors_of_equal_shape_step_together_as_each_alone():
    params = [nn.Parameter(random(4, 6, seed=i)) for i in range(3)]
    optimizer = fallline.AdamMini(params, lr=0.1)
    for p in params:
        p.grad = random(24, seed=0).view(4, 6)
    optimizer.step()
    for i, p in enumerate(params):
        alone = nn.Parameter(random(4, 6, seed=i))
        alone.grad = random(24, seed=0).view(4, 6)
        fallline.AdamMini([alone], lr=0.1).step()
        torch.testing.assert_close(p.detach(), alone.detach(), rtol=0, atol=1e-15)


def test_empty_tensors_step():
    params = [nn.Parameter(torch.zeros(shape)) for shape in [(0,), (3, 0), (0, 3), (2, 2)]]
    optimizer = fallline.AdamMini(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert params[-1].isfinite().all()


def test_without_head_dim_queries_go_by_rows():
    optimizer = fallline.AdamMini(named_transformer.parameters())
    assert {group["block_rows"] for group in optimizer.param_groups} == {0, 1}


@pytest.mark.parametrize("pairs", [True, False])
def test_rows_that_are_no_whole_number_of_heads_are_refused(pairs):
    w = nn.Parameter(torch.zeros(6, 4))
    given = [("q_proj.weight", w)] if pairs else [{"params": [w], "block_rows": 4}]
    with pytest.raises(ValueError, match=r"shape \(6, 4\) has no whole number of blocks of 4 rows; give"):
        fallline.AdamMini(given, head_dim=4)


def test_settings_of_a_group_are_kept_but_for_the_decay_of_norms():
    group = {"params": named_transformer.parameters(), "lr": 0.5, "weight_decay": 0.2, "block_rows": 1}
    optimizer = fallline.AdamMini([group], head_dim=3)
    assert {g["lr"] for g in optimizer.param_groups} == {0.5}
    assert {g["block_rows"] for g in optimizer.param_groups} == {1}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 0.2}


def test_it_resumes_by_name():
    straight, broken, resumed = (named_transformer.parameters() for _ in range(3))
    optimizers = [fallline.AdamMini(named, head_dim=3) for named in (straight, broken, resumed[::-1])]
    for optimizer, named in zip(optimizers[:2], (straight, broken), strict=True):
        named_transformer.course(optimizer, named)
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    for (_, p), (_, q) in zip(broken, resumed, strict=True):
        q.data = p.data.clone()
    assert named_transformer.course(optimizers[2], resumed) == named_transformer.course(
        optimizers[0], straight
    )
