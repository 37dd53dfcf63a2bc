"""The page on studies: its table has the answer to every question, as a finished run gave it.

    python tests/studies/test_studies_page.py FOLDER

writes the table anew from the FOLDER of a finished `fallline study --all`.
"""

import json
import re
import sys
from pathlib import Path

import pytest

from fallline.report.finding import Finding
from fallline.studies.catalogue import BUILT_IN

FILE = Path(__file__).parents[2] / "docs" / "studies.md"
BEGIN, END = "<!-- answers -->\n", "<!-- end of answers -->\n"
HEAD = "| | question | answer | on |\n|---|---|---|---|\n"


def answers(folder: Path) -> str:
    """Return the stamp and the table of what was found in ``folder``.

    Raises:
        SystemExit: a study is missing there, or asked something else.
    """
    found = [finding(folder, name) for name in BUILT_IN]
    rows = "".join(f"| `{each.name}` | {each.question} | {each.answer} | {each.scale} |\n" for each in found)
    return f"{stamp(folder, found)}\n\n{HEAD}{rows}"


def finding(folder: Path, name: str) -> Finding:
    file = folder / name / "finding.json"
    if not file.exists():
        sys.exit(f"{folder} has no finding of {name!r}; finish `fallline study --all --out {folder}` first")
    found = Finding.from_json(json.loads(file.read_text()))
    if found.question != BUILT_IN[name].question:
        sys.exit(f"{folder} answers another question than {name!r} asks now; make the studies again")
    return found


def stamp(folder: Path, found: list[Finding]) -> str:
    quick = json.loads((folder / found[0].name / "wish.json").read_text())["quick"]
    facts = (dict.fromkeys(each.facts[key] for each in found) for key in ("Machine", "Versions", "Date"))
    machine, versions, dates = (" and ".join(each) for each in facts)
    minutes = sum(each.seconds for each in found) / 60
    return (
        f"`fallline study --all{' --quick' if quick else ''}` on {machine}; {versions}; {dates}; "
        f"{minutes:.0f} minutes."
    )


def shown() -> str:
    return FILE.read_text().partition(BEGIN)[2].partition(END)[0]


def write(folder: Path) -> None:
    before, _, rest = FILE.read_text().partition(BEGIN)
    FILE.write_text(f"{before}{BEGIN}{answers(folder)}{END}{rest.partition(END)[2]}")


def test_the_table_answers_every_question_as_it_is_asked_now():
    rows = [row.strip("| ").split(" | ") for row in shown().splitlines() if row.startswith("| `")]
    asked = [[f"`{name}`", each.question] for name, each in BUILT_IN.items()]
    assert [row[:2] for row in rows] == asked, (
        f"write it anew: python tests/studies/{Path(__file__).name} FOLDER"
    )
    assert all(len(row) == 4 and row[2].endswith(".") for row in rows)


def test_the_stamp_names_size_machine_versions_and_date():
    assert re.match(
        r"`fallline study --all` on .* cores, .*torch \d.*; \d{4}-\d\d-\d\d; \d+ minutes", shown()
    )


def test_a_run_without_a_study_is_no_source_of_the_table(tmp_path):
    with pytest.raises(SystemExit, match="has no finding of 'activations'"):
        answers(tmp_path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
