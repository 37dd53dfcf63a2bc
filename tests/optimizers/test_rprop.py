"""What Rprop alone promises: steps by signs, sizes that grow and shrink."""

import pytest
import torch

import fallline


def course(gradients, **settings):
    p = torch.nn.Parameter(torch.zeros(len(gradients[0]), dtype=torch.float64))
    optimizer = fallline.Rprop([p], **settings)
    passed = []
    for g in gradients:
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        passed.append(p.detach().clone())
    return torch.stack(passed)


def test_sizes_grow_by_the_second_factor_while_the_sign_stays():
    passed = course([[2.0, -3.0]] * 4, lr=1.0, etas=(0.5, 1.5))
    walked = torch.tensor([1.0, 2.5, 4.75, 8.125], dtype=torch.float64)
    assert torch.equal(passed[:, 0], -walked)
    assert torch.equal(passed[:, 1], walked)


def test_after_a_change_of_sign_one_step_is_left_out_and_the_next_is_smaller():
    passed = course([[1.0], [-1.0], [-1.0], [-1.0]], lr=1.0, etas=(0.5, 1.5))
    assert passed.ravel().tolist() == [-1.0, -1.0, -0.5, 0.25]


def test_sizes_stay_within_their_bounds():
    passed = course([[1.0]] * 4, lr=1.0, etas=(0.5, 3.0), step_sizes=(0.5, 2.0))
    assert passed.ravel().tolist() == [-1.0, -3.0, -5.0, -7.0]


@pytest.mark.parametrize("scale", [2.0**60, 2.0**-600])
def test_the_scale_of_each_gradient_does_not_matter(scale):
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    scales = torch.tensor([1.0, scale] * 3, dtype=torch.float64)
    assert torch.equal(course(gradients.tolist()), course((gradients * scales).tolist()))


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="the first bound must not exceed the second"):
        fallline.Rprop([torch.zeros(1)], step_sizes=(2.0, 1.0))


def test_a_factor_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"Invalid eta values: 1.0; eta_minus must lie in \(0, 1\)"):
        fallline.Rprop([torch.zeros(1)], etas=(1.0, 1.2))
