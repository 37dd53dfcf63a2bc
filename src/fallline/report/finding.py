"""What a study found: an answer with its tables and figures, as plain records that survive JSON unchanged."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers under ``columns``; the first names the row, None is an empty cell."""

    columns: list[str]
    rows: list[list[Any]]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure of Plotly's as JSON, ``plot``, with its title and a line on how to read it."""

    title: str
    about: str
    plot: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """The answer to one question on one task.

    ``answer`` is one sentence, ``sentences`` have the evidence, ``caveats`` are reasons to doubt it.
    ``scale`` says on what data and model it was found, ``facts`` how: protocol, machine, versions.
    """

    name: str
    question: str
    scale: str
    answer: str
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Finding":
        """Return the finding that `to_json` wrote."""
        parts = {
            "tables": [Table(**table) for table in data["tables"]],
            "figures": [Figure(**figure) for figure in data["figures"]],
        }
        return cls(**{**data, **parts})
