"""What studies found as one HTML page that needs no network, and in a terminal."""

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fallline.compare.judgement.wording import duration
from fallline.report.finding import Figure, Finding, Table
from fallline.report.html import document, drawn
from fallline.report.sections import cell, grid, prose
from fallline.report.terminal import WIDTH

if TYPE_CHECKING:
    from rich.console import Console


def page(findings: Sequence[Finding], title: str = "What we measured") -> str:
    """Return the findings as a whole page of HTML, with a list of all answers on top if there are several.

    Example:
        >>> Path("report.html").write_text(page(findings), encoding="utf-8")
    """
    if len(findings) == 1:
        return document(findings[0].question, _section(findings[0], "h1"))
    items = "".join(
        f'<dt><a href="#{escape(f.name)}">{escape(f.question)}</a></dt><dd>{prose(f.answer)}</dd>'
        for f in findings
    )
    head = f'<header><h1>{escape(title)}</h1></header><dl class="answers">{items}</dl>'
    return document(title, head + "".join(_section(finding, "h2") for finding in findings))


def _section(finding: Finding, heading: str) -> str:
    sentences = "".join(f"<li>{prose(sentence)}</li>" for sentence in finding.sentences)
    name = escape(finding.name)
    return (
        f'<section id="{name}"><p class="task">{prose(finding.scale)}</p>'
        f'<{heading}>{escape(finding.question)}</{heading}><p class="lead">{prose(finding.answer)}</p>'
        f'<ul class="findings">{sentences}</ul>'
        + "".join(map(_table, finding.tables))
        + "".join(_figure(f"{name}-{i}", figure) for i, figure in enumerate(finding.figures))
        + _caveats(finding)
        + _facts(finding)
        + "</section>"
    )


def _table(table: Table) -> str:
    words = [head for place, head in enumerate(table.columns) if _is_words(table, place)]
    body = "".join(f"<tr>{''.join(_cells(row, table, words))}</tr>" for row in table.rows)
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    note = f'<p class="about">{prose(table.note)}</p>' if table.note else ""
    return title + grid(table.columns, body, words) + note


def _is_words(table: Table, place: int) -> bool:
    """Say whether a column is of words: the first, and those in which no cell begins with a number."""
    cells = [str(row[place]) for row in table.rows if row[place] not in (None, "")]
    return place == 0 or not any(text.lstrip("−-+×< ")[:1].isdigit() for text in cells)


def _cells(row: Sequence[Any], table: Table, words: Sequence[str]) -> list[str]:
    kinds = ["name", *("settings" if head in words else "" for head in table.columns[1:])]
    return [cell("" if value is None else str(value), kind) for value, kind in zip(row, kinds, strict=True)]


def _figure(key: str, figure: Figure) -> str:
    about = f'<p class="about">{prose(figure.about)}</p>' if figure.about else ""
    return f"<h3>{escape(figure.title)}</h3>{about}" + drawn(key, json.dumps(figure.plot), figure.title)


def _caveats(finding: Finding) -> str:
    items = "".join(f"<li>{prose(caveat)}</li>" for caveat in finding.caveats)
    return (
        f"<details><summary>Reasons to doubt ({len(finding.caveats)})</summary><ul>{items}</ul></details>"
        if items
        else ""
    )


def _facts(finding: Finding) -> str:
    took = {"Took": duration(finding.seconds)} if finding.seconds else {}
    items = "".join(f"<dt>{escape(k)}</dt><dd>{prose(v)}</dd>" for k, v in {**finding.facts, **took}.items())
    return f"<details><summary>How it was measured</summary><dl>{items}</dl></details>" if items else ""


def print_finding(finding: Finding, console: "Console") -> None:
    """Print the answer, its evidence and its tables; figures are in the page."""
    from rich.text import Text

    width = min(WIDTH, console.width)
    console.print(Text(finding.question, "bold"), Text(finding.scale, "dim"), sep="\n", width=width)
    for table in finding.tables:
        console.print(_grid(table), width=width)
        if table.note:
            console.print(Text(table.note, "dim"), "", sep="\n", width=width)
    for line in (finding.answer, *finding.sentences):
        console.print(Text(line, "bold" if line is finding.answer else ""), width=width)
    for caveat in finding.caveats:
        console.print(Text(f"Note: {caveat}", "dim"), width=width)
    console.print()


def _grid(table: Table) -> Any:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        collapse_padding=True,
        title=table.title or None,
        title_justify="left",
    )
    for place, head in enumerate(table.columns):
        words = _is_words(table, place)
        grid.add_column(head, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text("" if value is None else str(value)) for value in row))
    return grid
