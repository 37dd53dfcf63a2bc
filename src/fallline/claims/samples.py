"""What an experiment measured: for each quantity and arm a value by study and seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fallline.compare.statistics.cells import Cells


@dataclass(frozen=True)
class Samples:
    """The results of an experiment.

    Args:
        values: for each measure and arm the value by (study, seed).
        task: the short name of what it was measured on.
        scale: the size of model and data, the length of a training, the number of runs, in words.

    Example:
        >>> samples = Samples({"test loss": {"adam": {(0, 1): 0.5}}}, "digits", "7510 parameters")
        >>> Samples.from_json(samples.to_json()) == samples
        True
    """

    values: Mapping[str, Mapping[str, Cells]]
    task: str
    scale: str

    def to_json(self) -> dict[str, Any]:
        """Return the samples as a JSON object."""
        values = {
            measure: {arm: [[*cell, value] for cell, value in cells.items()] for arm, cells in arms.items()}
            for measure, arms in self.values.items()
        }
        return {"task": self.task, "scale": self.scale, "values": values}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Samples":
        """Return the samples that `to_json` wrote."""
        values = {
            measure: {arm: {(study, seed): x for study, seed, x in rows} for arm, rows in arms.items()}
            for measure, arms in data["values"].items()
        }
        return cls(values, data["task"], data["scale"])

    def having(self, more: Mapping[str, Mapping[str, Cells]]) -> "Samples":
        """Return the same with other measures, or other arms of the same ones, besides."""
        joined = {
            measure: {**self.values.get(measure, {}), **more.get(measure, {})}
            for measure in {**self.values, **more}
        }
        return Samples(joined, self.task, self.scale)
