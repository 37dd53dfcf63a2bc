"""Does the noise of SGD help it out of poor places? On functions, and by small batches on the task."""

from functools import partial

from torch import Tensor

from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring import batch_noise, escape
from fallline.studies.measuring.escape import Landscape
from fallline.studies.study import Study
from fallline.studies.summary import found


def is_in_lowest_basin(points: Tensor) -> Tensor:
    """Say which points are nearer to 0 than to any other minimum of Rastrigin's function."""
    return (points.abs() < 0.5).all(dim=1)


def has_left_saddle(points: Tensor) -> Tensor:
    """Say which points are nearer to one of the two minima than to the saddle between them."""
    return points[:, 1].abs() > 0.5


#: Up to three times the steepest slope of the function's waves, 20 π; 0 is gradient descent.
WAVES = (0.0, 16.0, 31.0, 47.0, 63.0, 94.0, 126.0, 188.0)
GRAINS = (0.0, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 1e-2, 0.1)
_on_waves = partial(Landscape, rate=0.004, steps=2000, noises=WAVES, is_out=is_in_lowest_basin, fades=True)
LANDSCAPES = (
    _on_waves("in the lowest basin, 1 coordinate", "rastrigin(dimensions=1)", (2.9,)),
    _on_waves("in the lowest basin, 2 coordinates", "rastrigin(dimensions=2)", (2.9, -1.9)),
    Landscape("off the saddle", "saddle", (1.0, 0.0), 0.1, 100, GRAINS, has_left_saddle),
)


def answer(lab: Lab) -> Finding:
    """Let runs with noise wander on functions, then train the task with batches and with the whole set."""
    runs = 100 if lab.quick else 400
    shares = {place.title: place.shares(runs, lab.seed) for place in LANDSCAPES}
    comparison, task = batch_noise.measured(lab)
    sharp = batch_noise.sharpnesses(comparison, task)
    return found(
        STUDY,
        comparison,
        task,
        answer=f"{escape.told(shares)}; {batch_noise.told(comparison, sharp)}.",
        sentences=escape.sentences(shares),
        tables=[escape.table(shares, runs), batch_noise.table(comparison, sharp)],
        figures=[*escape.figures(shares), batch_noise.figure(comparison.plan, sharp)],
    )


STUDY = Study("noise", "Does the noise of SGD help it escape poor places?", answer)
