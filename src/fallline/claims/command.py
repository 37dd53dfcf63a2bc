"""What the command line does: list claims, or judge them before the user's eyes."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fallline.claims.catalogue import named
from fallline.claims.claim import Claim
from fallline.claims.running import Wish, judge_all
from fallline.claims.view import document, print_judgement, print_table
from fallline.compare.progress import watched
from fallline.report.terminal import WIDTH

if TYPE_CHECKING:
    from rich.console import Console


def show_or_judge(only: Iterable[str], listed: bool, wish: Wish, as_json: bool) -> dict[str, Any]:
    """List the claims that ``only`` names, or judge them and print the outcomes; return them as JSON.

    Arguments:
        only: names, each alone or several with commas; all claims if there are none.
        listed: whether to list them and judge none.
        wish: how to judge.
        as_json: whether the caller prints what is returned, and nothing else belongs on standard output.
    """
    from rich.console import Console

    chosen = named(name.strip() for names in only for name in names.split(","))
    messages, result = Console(stderr=True), Console(file=sys.__stdout__)
    if listed:
        if not as_json:
            print_list(chosen, result)
        return {
            "claims": [{"name": c.name, "statement": c.statement, "origin": c.origin.text} for c in chosen]
        }
    judged = judge_all(
        chosen,
        wish,
        lambda trials, schedule, total: watched(trials, schedule, total, messages),
        lambda judgement: print_judgement(judgement, messages),
    )
    if not as_json:
        print_table(judged, result)
    messages.print(f"{wish.out / 'report.html'}", style="dim", highlight=False)
    return {"claims": [document(each) for each in judged], "folder": str(wish.out)}


def print_list(claims: Sequence[Claim], console: "Console") -> None:
    """Print the claims by name, with where they are said; the addresses are in the report, and in JSON."""
    from rich.padding import Padding
    from rich.text import Text

    for claim in claims:
        lines = Text(claim.name, "bold"), Text(claim.statement), Text(claim.origin.title_and_site, "dim")
        for indent, line in zip((0, 4, 4), lines, strict=True):
            padded = Padding(line, (0, 0, 0, indent), expand=False)
            console.print(padded, width=min(WIDTH, console.width), highlight=False)
