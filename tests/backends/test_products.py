"""Symmetric products where there is no kernel for them, and when one is worth it."""

import pytest
import torch

from fallline.backends.products import gram, halved, pays_off, quadratic, triangle


def test_without_a_gpu_torch_multiplies():
    x = torch.randn(3, 600, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not halved(x.bfloat16())
    torch.testing.assert_close(gram(x), torch.einsum("nik,njk->nij", x, x))
    a = gram(x.mT)
    wanted = torch.stack([-4.775 * one + 2.0315 * torch.linalg.matrix_power(one, 2) for one in a])
    torch.testing.assert_close(quadratic(a, -4.775, 2.0315), wanted)


@pytest.mark.parametrize(
    ("count", "size", "processors", "wanted"),
    [
        (64, 1024, 132, True),  # 1280 of 2048 tiles: 10 rounds, not 16
        (1, 1024, 132, False),  # 20 of 32: all are computed at once
        (1, 2048, 132, False),  # 72 of 128
        (4, 2048, 132, True),  # 288 of 512: 3 rounds, not 4
        (1000, 256, 132, False),  # one block has no other triangle
        (64, 1024, 0, False),  # there is no kernel
    ],
)
def test_a_triangle_pays_off_where_it_takes_fewer_rounds(count, size, processors, wanted):
    assert pays_off(count, size, processors) == wanted


def test_a_triangle_is_half_of_large_matrices_and_never_less():
    for side in range(1, 40):
        assert triangle(256 * side) * 2 == 2 * side * (side + 1)
        assert triangle(256 * side - 255) == triangle(256 * side)
