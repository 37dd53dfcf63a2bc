"""What every second implementation shares: a step count and a state for each parameter."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Second:
    """An optimizer in plain NumPy: ``update`` returns the new value of one parameter.

    ``self.t`` counts steps from 1; ``s`` is the parameter's state, empty at first.
    """

    t: int = field(default=0, init=False)
    state: dict[int, dict] = field(default_factory=dict, init=False)

    def step(self, params: list[np.ndarray], grads: list[np.ndarray]) -> None:
        self.t += 1
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            p[...] = self.update(p, g, self.state.setdefault(i, {}))

    def update(self, p: np.ndarray, g: np.ndarray, s: dict) -> np.ndarray:
        raise NotImplementedError


def average(s: dict, name: str, value, beta: float):
    """Keep ``name`` in ``s`` as the exponential moving average of ``value``, from zero, and return it."""
    s[name] = beta * s.get(name, 0.0) + (1 - beta) * value
    return s[name]
