"""Symmetric products on a GPU or, without one, in Triton's interpreter: run by `test_gpu_products`.

TRITON_INTERPRET=1 python -m pytest tests/backends/gpu_products_cases.py
"""

import pytest
import torch

import fallline
from fallline.backends import products
from fallline.backends.gpu import interpreted
from fallline.backends.gpu_products import COLUMNS, launch, product
from fallline.backends.products import triangle
from fallline.optimizers.muon import newton_schulz

DEVICE = "cpu" if interpreted() else "cuda"
#: Matrices, rows, columns: smaller and larger than a tile, on its border, wide and tall, of one row.
SHAPES = [(2, 8, 16), (1, 256, 64), (3, 264, 72), (2, 136, 48), (1, 392, 8), (1, 520, 136), (2, 16, 520)]
#: The interpreter cuts bfloat16 off where a GPU rounds to nearest.
ROUNDING = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-7 if interpreted() else 2**-8}


@pytest.fixture
def however_small(monkeypatch):
    """The kernel for matrices of which whole ones would be computed at once, too."""
    monkeypatch.setattr(products, "_processors", lambda device: 1)


each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


def random(shape, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / max(shape[-1], 1) ** 0.5).to(DEVICE, dtype)


def largest_square(x):
    return x.abs().max().square() if x.numel() else 0.0


def assert_rounded_once(got, wanted, largest, length):
    """Assert that ``got`` is ``wanted`` rounded after sums of ``length`` summands up to ``largest``."""
    within = ROUNDING[got.dtype] * 1.01 * wanted.abs() + (length + 2) * 2**-23 * largest
    assert ((got.double() - wanted).abs() <= within).all()


@each_dtype
@each_shape
def test_a_product_with_its_own_transpose_is_rounded_once(shape, dtype):
    x = random(shape, dtype)
    wide = x.double()
    assert_rounded_once(product(x), wide @ wide.mT, largest_square(wide), shape[-1])


@each_dtype
@pytest.mark.parametrize("size", [8, 256, 392])
def test_a_multiple_of_a_symmetric_matrix_is_added_before_rounding(size, dtype):
    a = random((2, size, size), dtype)
    a = (a + a.mT) / 2
    got, wide = product(a, a, alpha=2.0315, beta=-4.775), a.double()
    assert_rounded_once(got, 2.0315 * wide @ wide - 4.775 * wide, 5 * (1 + largest_square(wide)), size)


@pytest.mark.parametrize(("size", "blocks"), [(256, 1), (264, 3), (512, 3), (640, 6)])
def test_only_one_triangle_of_blocks_is_computed_and_nothing_twice(size, blocks):
    """Each block is two tiles; a program adds what none before it has stored, and the last is needed."""
    x = random((1, size, 8))
    filled = [filled_by(x, count) for count in range(triangle(size) + 1)]
    assert triangle(size) == 2 * blocks
    assert filled[-1] == size * size > filled[-3]
    # blocks that end within the matrix: of the diagonal two tiles, below it two tiles and their mirror images
    tile = COLUMNS * COLUMNS // 2
    assert filled[:3] == [0, tile, 2 * tile]
    if size % COLUMNS == 0 and blocks > 1:
        assert filled[:5] == [0, tile, 2 * tile, 4 * tile, 6 * tile]


def filled_by(x, count):
    """Return how many elements the first programs have stored."""
    out = torch.full((1, x.shape[1], x.shape[1]), torch.nan, device=DEVICE)
    launch(x, None, out, 1.0, 0.0, count)
    return int(out.isfinite().sum())


@pytest.mark.parametrize("shape", [(2, 512, 600), (2, 600, 512), (1, 520, 520)], ids=str)
def test_newton_and_schulz_bring_every_singular_value_near_one(shape, however_small):
    """Jordan 2024: all land in [0.7, 1.2] if none is below 1/500 of the norm; bfloat16 adds 1 in 128."""
    x = random(shape)
    narrow = x if shape[1] <= shape[2] else x.mT
    assert products.halved(narrow.bfloat16().contiguous())
    y = newton_schulz(x, 3.4445, -4.7750, 2.0315, 1e-7, 5).double().cpu()
    s, whole = torch.linalg.svdvals(y), torch.linalg.svdvals(x.double().cpu())
    s = s[whole > torch.linalg.matrix_norm(x.double().cpu())[:, None] / 500]
    assert s.min() > 0.65
    assert s.max() < 1.25


@pytest.mark.parametrize("cls", [fallline.Muon, fallline.NorMuon])
def test_a_step_is_orthogonal_whatever_else_is_stepped(cls, however_small):
    shapes = [(512, 520), (520, 512), (512, 520), (3, 2)]
    starts = [random(shape, seed=i) for i, shape in enumerate(shapes)]
    params = [torch.nn.Parameter(x.clone()) for x in starts]
    optimizer = cls(params, lr=1.0, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["fused"] = True
    for i, p in enumerate(params):
        p.grad = random(p.shape, seed=10 + i)
    optimizer.step()
    for p, start in zip(params, starts, strict=True):
        moved, grad = (start - p).detach().double(), p.grad.double()
        overlap = (moved * grad).sum() / torch.linalg.matrix_norm(grad, "nuc")
        assert 0.6 < overlap < 1.25  # a sum of cosines weighted by singular values; noise has 0


def test_what_must_be_seen_by_others_or_cannot_be_copied_is_multiplied_by_torch(however_small):
    x = random((2, 512, 520), torch.bfloat16)
    assert products.halved(x)
    for other in (x[:, :504], x.float(), x[..., :516].contiguous(), x.mT, x.clone().requires_grad_()):
        assert not products.halved(other)
    with torch.no_grad():
        assert products.halved(x.clone().requires_grad_())


def test_function_transforms_and_autograd_see_a_product_of_torchs(however_small):
    x = random((2, 512, 512), torch.bfloat16)
    together = torch.vmap(products.gram)(torch.stack([x, x]))
    torch.testing.assert_close(together[1], x @ x.mT)
    leaf = x.clone().requires_grad_()
    products.gram(leaf).sum().backward()
    wanted = 2 * x.double().sum(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(leaf.grad.double(), wanted, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("rule", [fallline.SOAP, fallline.PSGDKron, fallline.Shampoo])
def test_the_step_is_known_after_somebody_else_has_written_it(rule):
    """The host counts along with the device, which it does not ask."""
    one, two = (walked(rule, flags) for flags in ({"fused": True}, {"foreach": False, "fused": False}))
    for p, q in zip(one, two, strict=True):
        torch.testing.assert_close(p, q, rtol=2**-16, atol=2**-16)


def walked(rule, flags):
    """Return matrices after three steps, and three more that count from 20."""
    params = [torch.nn.Parameter(random((4, 6), seed=i)) for i in range(2)]
    optimizer = rule(params, lr=0.1)
    for group in optimizer.param_groups:
        group.update(flags)
    for t in range(6):
        for i, p in enumerate(params):
            p.grad = random(p.shape, seed=10 * t + i)
        if t == 3:
            for state in optimizer.state.values():
                state["step"].fill_(20.0)
        optimizer.step()
    return params


@pytest.mark.skipif(interpreted(), reason="in the interpreter there is nothing to wait for")
@pytest.mark.parametrize(
    "rule", [fallline.Muon, fallline.NorMuon, fallline.SOAP, fallline.PSGDKron, fallline.Shampoo]
)
def test_no_step_waits_for_the_gpu(rule):
    """But those that find eigenvectors: LAPACK's functions tell the program whether they have found them."""
    params = [torch.nn.Parameter(random((40, 60), seed=i)) for i in range(3)]
    optimizer = rule(params)
    for group in optimizer.param_groups:
        group["fused"] = True
    for t in range(6):
        for i, p in enumerate(params):
            p.grad = random(p.shape, seed=10 * t + i)
        torch.cuda.set_sync_debug_mode("default" if t < 3 else "error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
