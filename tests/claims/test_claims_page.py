"""The page on claims: its example runs and says what it prints, its table has every claim.

    python tests/claims/test_claims_page.py FOLDER

writes the table anew from the FOLDER of a finished `fallline claims`.
"""

import json
import re
import sys
from pathlib import Path

import pytest

from fallline.claims import built_in
from fallline.claims.claim import Claim
from fallline.claims.measures import MEASURES
from fallline.claims.view import LEGEND, SIGNS, SIGNS_SAY
from fallline.compare.records import Plan
from fallline.compare.run import read

FILE = Path(__file__).parents[2] / "docs" / "claims.md"
BEGIN, END = "<!-- outcomes -->\n", "<!-- end of outcomes -->\n"
HEAD = "| it is said | outcome | measured |\n|---|---|---|\n"


def outcomes(folder: Path) -> str:
    """Return the stamp, the table and the scales of what was judged in ``folder``.

    Raises:
        SystemExit: a claim is missing there, or was judged as it is no longer claimed.
    """
    found = [judged(folder, claim) for claim in built_in()]
    rows = "".join(f"| {' | '.join(cells(document))} |\n" for document in found)
    scales = dict.fromkeys(
        (contrast["experiment"], contrast["scale"]) for each in found for contrast in each["contrasts"]
    )
    said = "".join(f"- **{name}**: {scale}\n" for name, scale in scales)
    return f"{stamp(folder)} {SIGNS_SAY} {LEGEND}\n\n{HEAD}{rows}\nThe experiments and their scale:\n\n{said}"


def judged(folder: Path, claim: Claim) -> dict:
    file = folder / f"{claim.name}.json"
    document = json.loads(file.read_text()) if file.exists() else {}
    contrasts = [(each["less"], each["more"], each["measure"]) for each in document.get("contrasts", [])]
    claimed = [(each.less, each.more, each.measure) for each in claim.contrasts]
    same = contrasts == claimed or (not contrasts and document.get("reason"))
    if not same or document["statement"] != claim.statement:
        sys.exit(f"{folder} has no judgement of {claim.name!r} as it is claimed now; judge all claims again")
    return document


def cells(document: dict) -> tuple[str, str, str]:
    origin = document["origin"]
    source = f"[{origin['title']}]({origin['address']})" if origin["address"] else "often said"
    measured = "<br>".join(map(line, document["contrasts"])) or document["reason"]
    note = f"<br>*{document['note']}*" if document["note"] else ""
    return f"{document['statement']} ({source})", f"**{document['outcome']}**", f"{measured}{note}"


def line(contrast: dict) -> str:
    words = MEASURES[contrast["measure"]].text
    low, high = (words(contrast[end], unit=False) for end in ("low", "high"))
    where = f"{contrast['task']}, {contrast['label']}" if contrast["label"] else contrast["task"]
    difference = f"{words(contrast['difference'])} ({low} to {high})"
    return f"{SIGNS[contrast['says']]} {where}: {contrast['measure']} {difference}"


def stamp(folder: Path) -> str:
    """Return machine, versions and date of the comparisons that the claims were judged on."""
    plans = [read(file.parent).plan for file in sorted(folder.glob("experiments/*/*/comparison.json"))]
    machines = sorted(
        {f"{plan.machine}; {', '.join(map(' '.join, plan.versions.items()))}" for plan in plans}
    )
    days = sorted(plan.started[:10] for plan in plans)
    quick = json.loads((folder / "wish.json").read_text())["quick"]
    size = "`fallline claims --quick`" if quick else "`fallline claims`"
    return f"{size} on {' and on '.join(machines)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."


def _versions(plan: Plan) -> str:
    return ", ".join(f"{name} {version}" for name, version in plan.versions.items())


def shown() -> str:
    return FILE.read_text().partition(BEGIN)[2].partition(END)[0]


def write(folder: Path) -> None:
    before, _, rest = FILE.read_text().partition(BEGIN)
    FILE.write_text(f"{before}{BEGIN}{outcomes(folder)}{END}{rest.partition(END)[2]}")


def test_the_example_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", FILE.read_text(), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.strip() == code.rsplit("# ", 1)[1].strip()


def test_the_table_has_every_claim_as_it_is_claimed_now():
    rows = [row.split(" | ") for row in shown().splitlines() if row.startswith("| ")][1:]
    assert len(rows) == len(built_in()), f"write it anew: python tests/claims/{Path(__file__).name} FOLDER"
    for row, claim in zip(rows, built_in(), strict=True):
        assert row[0].startswith(f"| {claim.statement} (")
        assert re.fullmatch(r"\*\*(supported|refuted|not settled|depends on .*)\*\*", row[1])
        lines = [each for each in row[2].split("<br>") if each[0] in SIGNS.values()]
        assert len(lines) in (0, len(claim.contrasts))
        assert all(f": {c.measure} " in each for each, c in zip(lines, claim.contrasts, strict=False))
        assert claim.note in row[2]


def test_the_stamp_names_machine_versions_and_date():
    assert re.match(r"`fallline claims` on .* cores, .*torch \d.*; \d{4}-\d\d-\d\d", shown())


def test_a_line_has_the_sign_the_place_and_the_interval_of_its_contrast():
    contrast = {
        "measure": "test loss", "task": "digits", "label": "SGD", "says": "against",
        "difference": 0.0, "low": -0.6931471805599453, "high": 0.6931471805599453,
    }  # fmt: skip
    assert line(contrast) == "✗ digits, SGD: test loss × 1.00 (0.500 to 2.00)"


def test_a_run_without_a_claim_is_no_source_of_the_table(tmp_path):
    with pytest.raises(SystemExit, match="has no judgement of"):
        outcomes(tmp_path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
