"""The importance of settings in words, in a table and as a heat map."""

from collections.abc import Mapping
from typing import Any

from fallline.compare.judgement.wording import listing, setting
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import bars, heat
from fallline.studies.measuring.importance import Importance, grid, total
from fallline.studies.reading import percent

CAVEATS = [
    "Importance belongs to the ranges that were searched: over a narrower range a setting matters less.",
    "It says how much a setting changes the loss, not in which direction, and not how to set it.",
    "The forest is coarse with so few trials: small shares, and what three settings do together, are lost.",
]


#: A share below this is hardly worth a search.
IDLE = 0.02


def told(task: str, everywhere: Importance, among_good: Importance) -> str:
    """Return the most important setting over the whole space, and among good trials, as one sentence."""
    first, second = _most(everywhere), _most(among_good)
    alone, good = percent(everywhere.single[first]), percent(among_good.single[second])
    return (
        f"On {task} {first} explains {alone} of the variance of the loss over the whole space; "
        f"among the better half of the trials {second} explains most, {good}."
    )


def _most(found: Importance) -> str:
    return max(found.single, key=lambda name: found.single[name].mean)


def sentences(everywhere: Importance, among_good: Importance, trials: int) -> list[str]:
    """Return what pairs add, which settings could not be shown to matter, and how much is explained."""
    pair = max(everywhere.pairs, key=lambda names: everywhere.pairs[names].mean)
    idle = [name for name, each in everywhere.single.items() if (each.low or 0) < IDLE]
    return [
        f"The strongest interaction is of {' and '.join(pair)}: {percent(everywhere.pairs[pair])}.",
        f"Not shown to explain {IDLE:.0%} or more by themselves: {listing(idle) or 'none'}.".replace(
            "%", " %", 1
        ),
        f"Of the variance of trials that it was not fitted to the forest foretells {_share(everywhere)}, "
        f"among the better half {_share(among_good)}; {trials} trials.",
    ]


def _share(found: Importance) -> str:
    return f"{100 * max(0.0, found.explained):.0f} %"


def table(everywhere: Importance, among_good: Importance, space: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the share of each setting, the most important first."""
    ranked = sorted(everywhere.single, key=lambda name: -everywhere.single[name].mean)
    body = [
        [
            name,
            f"{setting(space[name]['low'])} to {setting(space[name]['high'])}",
            *_cells(everywhere.single[name]),
            f"{100 * total(everywhere, name):.1f}",
            *_cells(among_good.single[name]),
        ]
        for name in ranked
    ]
    note = "%: of the variance of the loss. With pairs: its pairs counted too. Good: among the better half."
    return Table(["setting", "searched", "%", "95 %", "with pairs", "good %", "95 %"], body, note=note)


def _cells(share: Interval) -> list[str]:
    low, high = share.ends or (0.0, 1.0)
    return [f"{100 * share.mean:.1f}", f"{100 * low:.0f}–{100 * high:.0f}"]


def figures(found: Importance) -> list[Figure]:
    """Return the shares as bars, and with all pairs as a heat map."""
    ranked = sorted(found.single, key=lambda name: -found.single[name].mean)
    shares = {name: found.single[name].mean for name in ranked}
    ends = {name: each.ends for name, each in found.single.items() if each.ends}
    names = list(found.single)
    return [
        Figure(
            "What each setting explains by itself",
            "Share of the variance of the loss, with 95 % interval.",
            bars(shares, "share of the variance", ends),
        ),
        Figure(
            "What pairs add",
            "Share of the variance of the loss that two settings explain together, beyond what each does.",
            heat(grid(found), names, names, ("", "", "share")),
        ),
    ]
