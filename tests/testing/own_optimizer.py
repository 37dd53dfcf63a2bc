"""An optimizer as a user writes one in their own file: a transform, and a chain."""

from fallline import chain, transform
from fallline.core.scalar import sqrt
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import add_decayed_weights


@transform(slots=("square_avg",))
def scale_by_damped_root(g, square_avg, *, rho=0.9, damping=0.1):
    """Divide by the root of the average square, which damping keeps from zero."""
    square_avg = rho * square_avg + (1 - rho) * (g * g)
    return g / sqrt(square_avg + damping), square_avg


DampedRoot = chain(scale_by_damped_root(), add_decayed_weights(0.1), scale_by_learning_rate(0.05))
