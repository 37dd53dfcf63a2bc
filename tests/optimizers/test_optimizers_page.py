"""The page on optimizers: its table and formulas are made from the optimizers themselves.

    python tests/optimizers/test_optimizers_page.py

writes both anew. Where ``docs/speeds.json`` exists, which a benchmark writes, the table has a column more: it
maps names of classes to the fastest public implementation that was found, and to its time over ours::

    {"AdamW": {"peer": "torch, fused", "ratio": 1.22}}
"""

import inspect
import json
import re
from pathlib import Path

import pytest
import torch

import fallline
from fallline.core.dispatch import Dispatch
from fallline.core.explain import bytes_moved
from fallline.core.plan import WholePass, descend
from fallline.core.registry import entries
from fallline.describe import example

FOLDER = Path(__file__).parents[2] / "docs"
FILE, SPEEDS = FOLDER / "optimizers.md", FOLDER / "speeds.json"
#: The tensor of which bytes are counted: large enough for what is kept per row or column to vanish.
SHAPE = (1024, 1024)
COLUMNS = (
    "class", "names", "what it does", "rule", "looks at", "state", "passes", "moved", "torch's", "source"
)  # fmt: skip
TABLE = re.compile(r"\| class \|.*\n(\|.*\n)+")
FORMULAS = re.compile(r"(?<=\n## Formulas\n).*", re.DOTALL)


def classes():
    """Return every optimizer that has a formula of its own, in the order of the package's imports."""
    named = [each for each in vars(fallline.optimizers).values() if isinstance(each, type)]
    return [each for each in named if each.__name__ in fallline.optimizers.__all__]


def batch_of(cls):
    """Return an optimizer of the class over one tensor, and what is stepped there."""
    settings = {"prox": fallline.prox.L1(0.5)} if "prox" in inspect.signature(cls).parameters else {}
    optimizer = cls([torch.nn.Parameter(torch.zeros(SHAPE))], **settings)
    ((_, batch),) = Dispatch.of_all(optimizer)
    return optimizer, batch


def sentence(cls):
    """Return what the docstring's first sentence says, without the name at its front."""
    first = inspect.getdoc(cls).split("\n\n")[0].replace("\n", " ")
    shown = re.sub(r":math:`(.*?)`", r"$\1$", first)
    name, _, says = shown.rstrip(".").partition(": ")
    return says or name[0].lower() + name[1:]


def looks_at(rule):
    if any(isinstance(one, WholePass) for one in rule.passes):
        return "matrices"
    if rule.line_numbers:
        kinds = dict.fromkeys(rule.line_numbers.values())
        return " and ".join(f"{kind}s" for kind in kinds)
    ranges = {each.over for each in rule.sums}
    return next((over for over in ("model", "group", "tensor") if over in ranges), "elements")


def passes(rule):
    kinds = ["products" if isinstance(one, WholePass) else "sums" if one.sums else "" for one in rule.passes]
    others = [f"{kinds.count(kind)} {kind}" for kind in ("sums", "products") if kind in kinds]
    return f"{len(kinds)}" + (f" ({', '.join(others)})" if others else "")


def moved(optimizer, rule, elements):
    counted = f"{bytes_moved(optimizer) / elements:.0f}"
    return f"{counted} + products" if looks_at(rule) == "matrices" else counted


def source(cls):
    """Return the paper: authors and year, linked where the docstring has an address."""
    text = " ".join(
        re.search(r"^Source: (.*?)(?=^Differs|^torch has|\Z)", inspect.getdoc(cls), re.S | re.M)[1].split()
    )
    who = re.match(r"(.*?\b(?:19|20)\d\d)\b", text)[1]
    address = re.search(r"https?://[^\s;,)]+[^\s;,.)]", text)
    return f"[{who}]({address[0]})" if address else who


def cells(cls, speeds):
    optimizer, batch = batch_of(cls)
    rule, elements = batch.plan, batch.params[0].numel()
    state = sum(x.numel() * x.element_size() for x in batch.states[0].values()) / elements
    theirs = getattr(torch.optim, cls.__name__, None)
    row = [
        f"`{cls.__name__}`",
        ", ".join(f"`{name}`" for name, each in entries().items() if type(example(each)) is cls),
        sentence(cls),
        ", ".join(f"`{t.name}`" for t in rule.transforms if t is not descend),
        looks_at(rule),
        f"{state:.0f}",
        passes(rule),
        moved(optimizer, rule, elements),
        f"`torch.optim.{theirs.__name__}`" if theirs else "",
        source(cls),
    ]
    if speeds is not None:
        found = speeds.get(cls.__name__)
        row.append(f"{found['ratio']:.2f} x {found['peer']}" if found else "")
    return row


def table():
    speeds = json.loads(SPEEDS.read_text()) if SPEEDS.exists() else None
    head = [*COLUMNS, "speed"] if speeds is not None else list(COLUMNS)
    lines = [head, ["---"] * len(head), *(cells(cls, speeds) for cls in classes())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def formula(cls):
    """Return the mathematics of the docstring as GitHub shows it."""
    found = re.findall(r"^\.\. math::(.*\n(?:\s*\n)?(?:[ \t]+\S.*\n?)*)", inspect.getdoc(cls), re.M)
    blocks = [inspect.cleandoc(" " + text) if text.strip() else "" for text in found]
    shown = [f"\\begin{{aligned}}\n{b}\n\\end{{aligned}}" if "&" in b or r"\\" in b else b for b in blocks]
    return "".join(f"\n```math\n{block}\n```\n" for block in shown)


def formulas():
    return "".join(f"\n### {cls.__name__}\n{formula(cls)}" for cls in classes())


def test_the_table_is_that_of_the_optimizers():
    (shown,) = [found.group() for found in TABLE.finditer(FILE.read_text())]
    assert shown == table(), f"write it anew: python tests/optimizers/{Path(__file__).name}"


def test_the_formulas_are_those_of_the_docstrings():
    assert FORMULAS.search(FILE.read_text())[0] == formulas()


@pytest.mark.parametrize("cls", classes())
def test_every_optimizer_has_a_formula_and_a_source_with_its_year(cls):
    assert "```math" in formula(cls)
    assert sentence(cls)
    assert re.search(r"(19|20)\d\d", source(cls))


if __name__ == "__main__":
    text = TABLE.sub(lambda _: table(), FILE.read_text())
    FILE.write_text(FORMULAS.sub(lambda _: formulas(), text))
