"""Cross-entropy, linear layers and normalised batches: torch's own, under `vmap` too; the rest is torch's."""

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional

from fallline.compare.trials.gathered import Gathered
from test_packaging import after_import

OUTPUTS = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 4, (3, 6), generator=torch.Generator().manual_seed(1))
IGNORED = TARGETS.where(torch.arange(6) % 3 > 0, -100)
OPTIONS = {
    "usual": {},
    "weighted": {"weight": torch.arange(1.0, 5.0, dtype=torch.float64)},
    "sum": {"reduction": "sum"},
    "smoothed": {"label_smoothing": 0.1},
    "ignoring another": {"ignore_index": 2},
}


def gathered(outputs, targets, **options):
    with Gathered():
        return functional.cross_entropy(outputs, targets, **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("targets", [TARGETS, IGNORED, TARGETS.byte()], ids=["all", "some ignored", "bytes"])
def test_losses_and_gradients_are_torch_s(options, targets):
    if "ignore_index" in options:
        targets = TARGETS
    for x, y in zip(OUTPUTS, targets, strict=True):
        ours, theirs = (grad(f)(x, y, **options) for f in (gathered, functional.cross_entropy))
        assert torch.allclose(ours, theirs, rtol=1e-14, atol=1e-16)
        expected = functional.cross_entropy(x, y, **options)
        assert torch.allclose(gathered(x, y, **options), expected, rtol=1e-14)


@pytest.mark.parametrize("targets", [TARGETS, IGNORED, TARGETS.byte()], ids=["all", "some ignored", "bytes"])
def test_many_at_once_are_as_one_by_one(targets):
    together = vmap(grad(gathered))(OUTPUTS, targets)
    each = [grad(functional.cross_entropy)(x, y) for x, y in zip(OUTPUTS, targets, strict=True)]
    assert torch.allclose(together, torch.stack(each), rtol=1e-14, atol=1e-16)


def test_what_is_ignored_may_be_infinite():
    outputs = OUTPUTS[0].clone()
    outputs[0, 0] = -torch.inf  # where the target is ignored, class 0 is gathered
    assert IGNORED[0, 0] == -100
    assert torch.allclose(gathered(outputs, IGNORED[0]), functional.cross_entropy(outputs, IGNORED[0]))


def test_shares_of_classes_and_pixels_are_left_to_torch():
    shares = OUTPUTS[0].softmax(1)
    assert torch.equal(gathered(OUTPUTS[0], shares), functional.cross_entropy(OUTPUTS[0], shares))
    pixels = OUTPUTS.transpose(1, 2)
    assert torch.equal(gathered(pixels, TARGETS), functional.cross_entropy(pixels, TARGETS))


@pytest.mark.long
def test_a_stack_does_not_load_torchs_compiler():
    program = (
        "from fallline.compare.records import Arm, Spec\n"
        "from fallline.compare.trials.stacking import run_stacked\n"
        "from fallline.tasks import load\n"
        "specs = [Spec('sgd', 'tune', i, i, {'lr': 0.1}) for i in range(2)]\n"
        "list(run_stacked(load('digits'), {'sgd': Arm('sgd')}, specs, share=0.01))"
    )
    assert "sympy" not in after_import(program)


def linear(inputs, weight, bias):
    with Gathered():
        return functional.linear(inputs, weight, bias).square().sum()


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 2, 6, 4)], ids=["vectors", "sequences"])
def test_linear_layers_of_several_models_are_torch_s(shape):
    generator = torch.Generator().manual_seed(2)
    shapes = shape, (3, 5, 4), (3, 5)
    several = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    ours = vmap(grad(linear, (0, 1, 2)))(*several)
    for i, one in enumerate(zip(*several, strict=True)):
        theirs = grad(lambda *given: functional.linear(*given).square().sum(), (0, 1, 2))(*one)
        for mine, expected in zip(ours, theirs, strict=True):
            assert torch.allclose(mine[i], expected, rtol=1e-14)


def test_a_linear_layer_has_the_precision_that_autocast_gives_it():
    layer, inputs = torch.nn.Linear(4, 3), torch.ones(2, 4)
    with torch.autocast("cpu", torch.bfloat16), Gathered():
        assert layer(inputs).dtype == torch.bfloat16


def normalised(inputs, layer):
    """Return the gradients of a sum of cubes, and the buffers, after one step in training."""
    inputs = inputs.clone().requires_grad_()
    layer(inputs).pow(3).sum().backward()
    return [inputs.grad, *(each.grad for each in layer.parameters()), *layer.buffers()]


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 1, 1)], ids=["vectors", "pooled images"])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3}]
)
def test_batches_are_normalised_as_by_torch(shape, options):
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    inputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    theirs = normalised(inputs, kind(3, dtype=torch.float64, **options))
    with Gathered():
        ours = normalised(inputs, kind(3, dtype=torch.float64, **options))
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-12, atol=1e-14)


def test_a_single_sample_and_evaluations_are_left_to_torch():
    layer = torch.nn.BatchNorm1d(3)
    with Gathered():
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            layer(torch.ones(1, 3))
        assert torch.equal(layer.eval()(torch.ones(1, 3)), torch.ones(1, 3) / (1 + layer.eps) ** 0.5)


def test_no_bit_of_a_normalised_batch_depends_on_how_many_models_there_are():
    """Of all columns side by side torch sums up most in one order, and the last ones in another."""
    generator = torch.Generator().manual_seed(4)
    inputs, weight, bias = (torch.randn(16, *shape, generator=generator) for shape in ((7, 9), (9,), (9,)))

    def loss(inputs, weight, bias):
        with Gathered():
            return functional.batch_norm(inputs, None, None, weight, bias, True).pow(3).sum()

    gradients = vmap(grad(loss, (0, 1, 2)))
    for count in (2, 3, 5, 8):
        for some in (slice(count), slice(16 - count, 16)):
            fewer = gradients(inputs[some], weight[some], bias[some])
            for these, all_of_them in zip(fewer, gradients(inputs, weight, bias), strict=True):
                assert torch.equal(these, all_of_them[some])
