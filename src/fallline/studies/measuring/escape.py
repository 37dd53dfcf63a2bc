"""Gradient descent with noise on functions with several minima, many runs at once: who gets out?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline import SGD
from fallline.compare.judgement.wording import number, setting
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.schedules import constant, linear
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.reading import percent, share
from fallline.tasks.functions import Function
from fallline.tasks.load import load
from fallline.tasks.threads import one_thread


@dataclass(frozen=True)
class Landscape:
    """A function, where runs start on it, and what counts as having got out.

    Args:
        title: for a reader.
        task: the task whose function it is.
        start: the coordinates before the first step.
        rate: the learning rate; ``fades`` lets it fall to 0 over the steps.
        steps: of each run.
        noises: standard deviations of the noise on the gradient.
        is_out: given the last points, a row for each run, says which are where they should be.
    """

    title: str
    task: str
    start: tuple[float, ...]
    rate: float
    steps: int
    noises: Sequence[float]
    is_out: Callable[[Tensor], Tensor]
    fades: bool = False

    def shares(self, runs: int, seed: int) -> dict[float, Interval]:
        """Return the share of ``runs`` that got out at each noise, with Wilson's interval.

        Without noise all runs are one and the same, and their share has no interval.
        """
        noise = torch.tensor(self.noises).double().repeat_interleave(runs)
        value = function(self.task).value
        points = wander(value, self.start, noise, self.rate, self.steps, seed, self.fades)
        out = self.is_out(points).view(len(self.noises), runs).sum(dim=1).tolist()
        return {
            sigma: share(count, runs) if sigma else Interval(count / runs)
            for sigma, count in zip(self.noises, out, strict=True)
        }


def function(name: str) -> Function:
    """Return the function that a built-in task follows downhill.

    >>> function("saddle").minima.tolist()
    [[0.0, 1.0], [0.0, -1.0]]
    """
    found = getattr(load(name).training_step, "__self__", None)
    assert isinstance(found, Function)
    return found


def wander(
    value: Callable[[Tensor], Tensor],
    start: Sequence[float],
    noise: Tensor,
    rate: float,
    steps: int,
    seed: int,
    fades: bool = False,
) -> Tensor:
    r"""Return where SGD ends, :math:`x \leftarrow x - \eta (\nabla f(x) + \sigma z)`, a row for each run.

    Arguments:
        value: :math:`f`, of the coordinates of one point.
        start: of every run.
        noise: :math:`\sigma` of each run.
        rate: :math:`\eta`.
        steps: of each run.
        seed: of the normal numbers :math:`z`.
        fades: whether :math:`\eta` falls to 0, in equal steps.

    Example:
        >>> wander(lambda x: x @ x / 2, [1.0], torch.zeros(2), 0.5, 3, seed=0).tolist()
        [[0.125], [0.125]]
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.tensor([start] * len(noise), dtype=torch.float64, requires_grad=True)
    optimizer, factor = SGD([points], lr=rate), linear(1.0, 0.0, steps) if fades else constant()
    with one_thread():
        for step in range(steps):
            torch.vmap(value)(points).sum().backward()
            assert points.grad is not None
            points.grad += noise[:, None] * torch.randn(points.shape, generator=generator).double()
            optimizer.param_groups[0]["lr"] = rate * factor(step)
            optimizer.step()
            optimizer.zero_grad()
    return points.detach()


#: The share that got out, by the noise, by the landscape's title.
Shares = Mapping[str, Mapping[float, Interval]]


def told(shares: Shares) -> str:
    """Return the best share of each landscape beside that without noise, as a part of a sentence."""
    parts = [f"{title} {percent(_best(of)[1])}, without {percent(of[0.0])}" for title, of in shares.items()]
    return f"With the best noise runs end {'; '.join(parts)}"


def _best(of: Mapping[float, Interval]) -> tuple[float, Interval]:
    return max(of.items(), key=lambda item: item[1].mean)


def sentences(shares: Shares) -> list[str]:
    """Return at which noise most get out, and what more noise does."""
    told = []
    for title, of in shares.items():
        noise, best = _best(of)
        most = max(of)
        worse = (
            f"; with {number(most)}, the most that was tried, {percent(of[most])}" if most != noise else ""
        )
        told.append(f"{title.capitalize()}: most runs at a noise of {number(noise)}, {percent(best)}{worse}.")
    return told


def table(shares: Shares, runs: int) -> Table:
    """Return the share at each noise."""
    body = [
        [title if not place else "", setting(noise), f"{interval.mean:.1%}".replace("%", ""), _ends(interval)]
        for title, of in shares.items()
        for place, (noise, interval) in enumerate(of.items())
    ]
    note = (
        f"Noise: standard deviation on each part of the gradient. {runs} runs each, Wilson's intervals; "
        "without noise all runs are the same."
    )
    return Table(["runs end", "noise", "%", "95 %"], body, "Where runs end on functions", note)


def _ends(interval: Interval) -> str:
    return "–".join(f"{100 * end:.1f}" for end in interval.ends or ())


def figures(shares: Shares) -> list[Figure]:
    """Return the share over the noise: of landscapes with the same noises in one figure."""
    grouped: dict[tuple[float, ...], dict[str, Line]] = {}
    for title, of in shares.items():
        kept = {noise: interval for noise, interval in of.items() if noise > 0}
        grouped.setdefault(tuple(kept), {})[title] = _line(kept)
    return [
        Figure(
            f"Share of runs that end {next(iter(named)).partition(',')[0]}",
            "With 95 % intervals. Noise: standard deviation on each part of the gradient.",
            lines(named, Axis("noise", log=True), Axis("share")),
        )
        for named in grouped.values()
    ]


def _line(of: Mapping[float, Interval]) -> Line:
    ends = [interval.ends or (0.0, 1.0) for interval in of.values()]
    return Line(list(of), [interval.mean for interval in of.values()], *map(list, zip(*ends, strict=True)))
