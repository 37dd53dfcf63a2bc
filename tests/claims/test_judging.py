"""Claims judged from the command line, gone on with, and refused."""

import json
import re
import subprocess
import sys

import pytest

from fallline.claims.catalogue import named
from fallline.claims.claim import ClaimError
from fallline.claims.running import Wish, judge_all

FAST = ["too-large-diverges", "momentum-in-ravines"]


def claims(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fallline.cli", "claims", *arguments],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "claims"
    return folder, judge_all(named(FAST), Wish(folder, quick=True))


def test_each_claim_is_on_disk_with_its_numbers(judged):
    folder, judgements = judged
    for judgement in judgements:
        stored = json.loads((folder / f"{judgement.claim.name}.json").read_text())
        assert (stored["statement"], stored["outcome"]) == (judgement.claim.statement, "supported")
        for contrast in stored["contrasts"]:
            assert contrast["low"] < contrast["difference"] < contrast["high"]
            assert contrast["says"] == "for"
            assert contrast["scale"]


def test_the_page_has_every_statement_and_asks_the_network_for_nothing(judged):
    folder, judgements = judged
    page = (folder / "report.html").read_text()
    assert all(judgement.claim.statement in page for judgement in judgements)
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?http", body)


def test_going_on_reads_what_was_measured(judged):
    folder, judgements = judged
    file = folder / "experiments" / "ravine" / "samples.json"
    changed = json.loads(file.read_text())
    for row in changed["values"]["steps"]["gd"]:
        row[2] = 2 * row[2]
    file.write_text(json.dumps(changed))
    before, after = (
        {e.effect.task: e.effect.values[1] for e in each[1].evidence}
        for each in (judgements, judge_all(named(FAST), Wish(folder, quick=True, resume=True)))
    )
    assert after["condition 100"] == pytest.approx(2 * before["condition 100"])


def test_another_size_is_not_mixed_in(judged):
    with pytest.raises(ClaimError, match="another quick; choose another --out"):
        judge_all(named(FAST), Wish(judged[0], resume=True))
    with pytest.raises(ClaimError, match="go on with them by --resume"):
        judge_all(named(FAST), Wish(judged[0], quick=True))


def test_the_same_seed_gives_the_same_numbers(judged, tmp_path):
    folder, _ = judged
    judge_all(named(FAST[:1]), Wish(tmp_path / "again", quick=True))
    name = f"{FAST[0]}.json"
    assert (tmp_path / "again" / name).read_text() == (folder / name).read_text()


@pytest.mark.long
def test_the_command_prints_a_table_of_eighty_columns_and_json(tmp_path):
    done = claims("--quick", "--only", ",".join(FAST), "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert "Momentum speeds up" in done.stdout
    assert "supported" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = claims("--quick", "--json", "--resume", "--only", FAST[0], "--out", str(tmp_path / "a"))
    assert [claim["name"] for claim in json.loads(done.stdout)["claims"]] == FAST[:1]


@pytest.mark.long
def test_the_list_has_every_claim_and_an_unknown_one_is_refused_with_the_nearest():
    done = claims("--list")
    shown = " ".join(done.stdout.split())
    assert all(
        f"{claim.name} {claim.statement} {claim.origin.title_and_site}" in shown for claim in named([])
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = claims("--only", "adam-fastest")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown claim 'adam-fastest'; did you mean 'adam-faster'?")
