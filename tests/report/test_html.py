"""The page is one file that asks nothing of the network, shows everything, and runs no text of the user's."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from math import inf

import pytest
from plotly import graph_objects

from fallline.compare.judgement.verdict import judge
from fallline.compare.records import Comparison
from fallline.compare.statistics.survival import survival_curve
from fallline.report.figures import _apart, _log_ticks, axis
from fallline.report.html import page
from synthetic import NAMES, comparison, plan

LARGE = {"ranking", "curves", "target", "arrivals"}


class Page(HTMLParser):
    """Collects tags, text outside scripts, and the contents of scripts."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.scripts, self.inside = "", {}, ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts[dict(attrs).get("id", f"script {len(self.scripts)}")] = ""

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[list(self.scripts)[-1]] += data
        elif self.inside != "style":
            self.text += data

    def figure(self, key: str) -> dict:
        return json.loads(self.scripts[f"{key}-data"])

    @property
    def figures(self) -> set[str]:
        return {key.removesuffix("-data") for key in self.scripts if key.endswith("-data")}


@pytest.fixture(scope="module")
def whole_page(whole) -> Page:
    return Page(page(whole))


@pytest.fixture(scope="module")
def trouble_page(trouble) -> Page:
    return Page(page(trouble))


@pytest.mark.parametrize("made", ["whole_page", "trouble_page"])
def test_plotly_knows_every_property_of_the_figures(made, request):
    shown = request.getfixturevalue(made)
    for key in shown.figures:
        graph_objects.Figure(shown.figure(key))  # refuses unknown properties and values


def test_nothing_is_loaded_from_outside(whole_page, trouble_page):
    for tag, attributes in whole_page.tags + trouble_page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "href", "srcset", "data", "action"} & attributes.keys()
    styles = re.findall(r"<style>(.*?)</style>", page(Comparison(plan(), [])), re.DOTALL)
    assert len(styles) == 1
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]


def test_requests_are_forbidden_by_policy(whole_page):
    (policy,) = [
        a["content"] for tag, a in whole_page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_plotly_is_inside(whole_page):
    assert any(script.lstrip().startswith("/**\n* plotly.js") for script in whole_page.scripts.values())


def test_text_of_users_cannot_become_markup(trouble_page):
    ours = {"html", "head", "meta", "title", "style", "body", "main", "script"}
    seen = {tag for tag, _ in trouble_page.tags}
    assert "b" not in seen
    assert sum(tag == "script" for tag, _ in trouble_page.tags) == len(trouble_page.figures) + 2
    assert ours <= seen
    for expected in ("<script>alert('task')</script>", "<script>alert(1)</script>", "<b>mine</b> & co"):
        assert expected in trouble_page.text


def test_plotly_reads_names_as_text(trouble_page):
    names = {y for trace in trouble_page.figure("ranking")["data"] for y in trace["y"]}
    assert "&lt;b&gt;mine&lt;/b&gt; &amp; co" in names
    assert not any("<" in name for name in names)


def test_verdict_and_caveats_are_on_the_page(whole, whole_page):
    verdict, text = judge(whole), whole_page.text.replace("\u00a0", " ")
    for sentence in (
        verdict.headline,
        *verdict.sentences,
        *verdict.caveats,
        *(c.text for c in verdict.cautions),
    ):
        assert sentence in text


def test_all_figures_are_there_with_finite_numbers(whole_page):
    assert {*LARGE, *(f"bowl{i}" for i in range(15))} == whole_page.figures
    for key in whole_page.figures:
        for trace in whole_page.figure(key)["data"]:
            assert None not in [*trace["x"], *trace["y"]]
            assert len(trace["x"]) == len(trace["y"])


def test_ranking_shows_mean_and_interval(whole, whole_page):
    best = judge(whole).places[0]
    trace = whole_page.figure("ranking")["data"][0]
    assert trace["y"] == [best.arm]
    assert trace["x"] == [best.loss.mean]
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(best.loss.high)
    assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(best.loss.low)


def test_curves_are_medians_with_bands_for_six_and_can_be_drawn_over_steps(whole_page):
    data = whole_page.figure("curves")["data"]
    assert {trace["name"] for trace in data if "name" in trace} == set(NAMES)
    assert sum(trace.get("fill") == "toself" for trace in data) == 6
    line = next(trace for trace in data if trace.get("name") == "adamw")
    assert (line["x"][-1], line["customdata"][-1]) == (15, 690)


def test_arrivals_are_one_minus_kaplan_and_meiers_curve():
    of = comparison(["adam", "online-sgd", "gd"], studies=4)
    lines = {trace["name"]: trace for trace in Page(page(of)).figure("arrivals")["data"]}
    finals = of.finals("online-sgd")
    times = [t.epochs_to_target for t in finals]
    assert 0 < times.count(None) < len(times)
    curve = survival_curve([inf if t is None else t for t in times], [t is not None for t in times])
    line = lines["online-sgd"]
    for time, surviving in zip(curve.times, curve.surviving, strict=True):
        last = max(i for i, x in enumerate(line["x"]) if x <= time)
        assert line["y"][last] == pytest.approx(1 - surviving)
    assert (line["x"][-1], line["customdata"][-1]) == (15, 690)
    assert "gd" not in lines


def test_seeds_are_told_apart_by_study():
    of = comparison(["adam", "sgd"], studies=3)
    shown = Page(page(of))
    ticks = [t for t in shown.figure("ranking")["data"] if t["marker"].get("symbol") == "line-ns"]
    assert [len(trace["x"]) for trace in ticks] == [6, 6, 6]
    assert len({trace["marker"]["line"]["color"] for trace in ticks}) == 3
    for study, trace in enumerate(ticks):
        assert sorted(trace["x"]) == sorted(t.loss for arm in ("adam", "sgd") for t in of.finals(arm, study))
    assert "8 trials and 3 fresh seeds in each of 3 studies" in shown.text


def test_the_table_has_places_and_chances_of_being_the_best(whole, whole_page):
    assert "P(best)" in whole_page.text
    cells = [(p.places.best, p.places.worst) for p in judge(whole).places]
    assert all((f"{a}–{b}" if a < b else f"{a}") in whole_page.text for a, b in cells)


def test_the_recommendation_is_shown_with_its_line(whole, whole_page):
    chosen = judge(whole).recommendation
    assert chosen.reason in whole_page.text.replace("\u00a0", " ")
    assert chosen.code in whole_page.text


def test_arms_are_called_so_when_they_are_not_just_optimizers():
    of = comparison(["adam, dropout=0.2", "adam, dropout=0"])
    plan = replace(of.plan, arms={name: replace(a, optimizer="adam") for name, a in of.plan.arms.items()})
    text = Page(page(Comparison(plan, of.trials))).text
    assert "2 arms, " in text
    assert "adam, dropout=0.2" in text
    assert "2 optimizers, " in Page(page(comparison(["adam", "sgd"]))).text


def test_tests_losses_are_named(whole):
    tested = [replace(t, test_loss=t.valid_loss) for t in whole.trials]
    text = Page(page(Comparison(replace(whole.plan, judged_by="test loss"), tested))).text
    assert "The test loss of each tuned optimizer" in text
    assert "has the lowest test loss" in text


def test_missed_targets_are_told(trouble_page):
    missed = trouble_page.figure("target")["data"][-1]
    assert dict(zip(missed["y"], missed["text"], strict=True))["gd"] == "3 of 3 missed"
    assert dict(zip(missed["y"], missed["text"], strict=True))["momentum"] == "1 of 3 missed"


def test_bowls_show_every_tuning_trial(whole, whole_page):
    for key in sorted(whole_page.figures - LARGE):
        trials = [t for t in whole_page.figure(key)["data"] if t["mode"] == "markers"]
        assert sum(len(trace["x"]) for trace in trials) == 8


@pytest.mark.parametrize(
    "of",
    [
        Comparison(plan(), []),
        comparison(["adam"]),
        comparison(["adam", "sgd"], seeds=1),
        comparison(["adam", "sgd"], studies=2),
        Comparison(plan(["adam", "sgd"], studies=3), comparison(["adam", "sgd"]).trials),
        comparison(["adam", "sgd"], target=None, target_name=""),
        Comparison(plan(["adam"]), comparison(["adam"]).trials[:3]),
    ],
)
def test_incomplete_comparisons_have_a_page(of):
    assert judge(of).headline in Page(page(of)).text.replace("\u00a0", " ")


def test_labels_move_apart_but_keep_their_order():
    moved = _apart([0.0, 0.001, 0.002, 0.9], [-1.0, 1.0])
    assert all(b - a >= 0.0959 for a, b in pairwise(moved))
    assert sum(moved) == pytest.approx(0.903)


def test_a_short_log_axis_leaves_its_ticks_to_plotly():
    assert axis([0.0937, 0.0958], "log", "")["tickvals"] is None


@pytest.mark.parametrize(("low", "high", "most"), [(-1, 0, 9), (-6, 2, 4), (-0.2, 0.1, 9), (1, 5, 9)])
def test_log_axes_have_a_few_round_numbers(low, high, most):
    ticks = _log_ticks(low, high, most)
    assert 2 <= len(ticks) <= most + 1
    assert all(f"{tick:.0e}".split("e")[0] in "123457" for tick in ticks)
