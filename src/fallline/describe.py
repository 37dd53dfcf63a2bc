"""What `fallline list` and `fallline show` print, read off the entries themselves."""

import ast
import inspect
import re
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import torch

from fallline.core.entry import MISSING
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.registry import Entry, entries
from fallline.core.space import Choice, Dimension, middle
from fallline.studies.catalogue import BUILT_IN as STUDIES
from fallline.tasks.catalogue import BUILT_IN

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Paragraphs of a docstring that say where an algorithm comes from.
REFERENCES = ("Source:", "References:", "Differs")


def print_list(console: "Console") -> None:
    """Print every optimizer that can be compared, every built-in task and every study."""
    ours = ((entry.name, entry.summary) for entry in entries().values())
    optimizers = _grid(*ours, ("torch.optim.Name", "torch's"), ("my_file.py:Class", "your own"))
    built_in = ((name, listed.cost, listed.summary) for name, listed in BUILT_IN.items())
    tasks = _grid(*built_in, ("my_file.py:make_task", "", "your own"))
    studies = _grid(
        *((name, listed.question) for name, listed in STUDIES.items()), ("my_study.py", "your own")
    )
    console.print("[bold]optimizers[/bold]", optimizers, "\n[bold]tasks[/bold]", tasks)
    console.print("\n[bold]studies[/bold]", studies)


def print_entry(entry: Entry, console: "Console") -> None:
    """Print an optimizer's formula, hyperparameters and references; a foreign one's signature."""
    from rich.padding import Padding
    from rich.syntax import Syntax

    if entry.name not in entries():
        _print_foreign(entry, console)
        return
    optimizer = example(entry)
    console.print(f"[bold]{entry.name}[/bold]: {entry.summary} ({type(optimizer).__name__})")
    for part in formulas(optimizer):
        formula = Syntax(formula_source(part), "python", background_color="default", word_wrap=True)
        console.print(Padding(formula, (1, 0)))
    for part in formulas(optimizer):
        for record in part.hyperparameters:
            _print_setting(record, part.param_groups[0].get(record.name), entry, console)
    console.print("", references(type(optimizer)), sep="\n", highlight=False)


def _print_foreign(entry: Entry, console: "Console") -> None:
    from rich.markup import escape

    console.print(f"[bold]{escape(entry.name)}[/bold]: {escape(entry.summary)}")
    for name, default in entry.settings.items():
        given = "no default" if default is MISSING else _short(default)
        searched = _searched(entry.space.get(name))
        console.print(f"[bold]{name}[/bold] = {escape(given + searched)}")
    if "lr" not in entry.space:
        console.print("It has no lr: nothing of it is searched unless a space file says so.")


def example(entry: Entry) -> Any:
    """Return the optimizer of ``entry`` over one parameter; only the learning rate may lack a default."""
    settings = middle(dict(list(entry.space.items())[:1]))
    return entry.build([torch.nn.Parameter(torch.zeros(1))], **settings)


def formulas(optimizer: Any) -> list[Any]:
    """Return what has rules of its own: the optimizer, or the halves of a wrapper."""
    return [part for part in (optimizer, *vars(optimizer).values()) if hasattr(part, "transforms")]


def formula_source(optimizer: Any) -> str:
    """Return the source of the scalar rules that the optimizer applies, in their order."""
    chain = optimizer.transforms(optimizer.param_groups[0])
    functions = [function for part in chain for function in _functions(part)]
    return "\n\n".join(_source(function) for function in functions)


def _functions(part: Any) -> list[Any]:
    once = [part.per_tensor.function] if part.per_tensor else []
    return [*once, part.rule]


def _source(function: Any) -> str:
    """Return a function's code alone, without decorator and docstring, which say what the table says."""
    lines = dedent(inspect.getsource(function)).splitlines()
    definition = ast.parse("\n".join(lines)).body[0]
    assert isinstance(definition, ast.FunctionDef)
    first = definition.body[1] if ast.get_docstring(definition) else definition.body[0]
    return "\n".join(lines[definition.lineno - 1 : definition.body[0].lineno - 1] + lines[first.lineno - 1 :])


def _print_setting(record: Hyperparameter, value: Any, entry: Entry, console: "Console") -> None:
    for part, given in _scalars(record, value):
        default = part.default if part.name in entry.space else given
        allowed = "on or off" if isinstance(part.default, bool) else f"in {part.interval}"
        searched = _searched(entry.space.get(part.name))
        console.print(f"{part.symbol:2} [bold]{part.name}[/bold] = {_short(default)}, {allowed}{searched}")
        console.print(f"   [dim]{part.meaning}{'; ' * bool(part.unit)}{part.unit}[/dim]", highlight=False)


def _scalars(record: Hyperparameter, value: Any) -> list[tuple[Hyperparameter, Any]]:
    value = record.default if value is None else value
    return list(zip(record.parts, value, strict=True)) if record.parts else [(record, value)]


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _searched(searched: Dimension | None) -> str:
    if searched is None:
        return ""
    if isinstance(searched, Choice):
        return f"; searched among {', '.join(map(_short, searched.options))}"
    scale = {"log": ", log", "one_minus_log": ", log of 1 - x", "linear": ""}[searched.scale]
    return f"; searched from {searched.low:g} to {searched.high:g}{scale}"


def references(optimizer: type) -> str:
    """Return the paragraphs of the docstring that name sources and differences."""
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(optimizer) or "")
    chosen = [p for p in paragraphs if p.startswith(REFERENCES)]
    return re.sub(r"\n(?!Differs)", " ", "\n".join(chosen))


def _grid(*rows: tuple[str, ...]) -> "Table":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row("  " + row[0], *row[1:])
    return grid
