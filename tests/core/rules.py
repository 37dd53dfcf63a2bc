"""Transforms that exercise sums, whole tensors and the gain."""

from fallline import transform
from fallline.core.parts import summed
from fallline.core.scalar import maximum, sqrt


@summed(over="model")
def model_sum(g):
    return g


@summed(over="group")
def group_sum(g):
    return g


@summed(over="tensor")
def tensor_sum(g):
    return g


@summed(over="tensor")
def stepped_sum(p):
    return p


@summed(over="model", vetoes="it is negative")
def negatives(g):
    return maximum(-g, 0.0)


@transform(sums=(model_sum,))
def divide_by_model_sum(g, *, model_sum):
    return g / model_sum


@transform(sums=(group_sum,))
def divide_by_group_sum(g, *, group_sum):
    return g / group_sum


@transform(sums=(tensor_sum,))
def divide_by_tensor_sum(g, *, tensor_sum):
    return g / tensor_sum


@transform(sums=(stepped_sum,))
def subtract_mean_after_step(p, *, stepped_sum, size):
    return p - stepped_sum / size


@transform(sums=(negatives,))
def veto_negatives(g):
    return g


@transform(whole=True, gain=1.0)
def reverse(g):
    return g.flip(-1)


@transform(whole=True)
def sort_parameter(p):
    return p.sort(-1).values


def _inverse_root(square_avg):
    return 1.0 / sqrt(square_avg)


@transform(slots=("square_avg",), gain=_inverse_root)
def scale_by_root(g, square_avg):
    square_avg = 0.5 * square_avg + 0.5 * (g * g)
    return g / sqrt(square_avg), square_avg


def _rate(*, lr):
    return lr


@transform(gain=_rate)
def scale(g, *, lr):
    return lr * g


@transform()
def subtract_gain(p, gain):
    return p - gain


@transform(whole=True)
def subtract_gain_whole(p, gain):
    return p - gain
