"""Wilcoxon's pruner: tuning on several seeds, what it gives up, and that all else counts trainings right."""

import json
import signal
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from shutil import copytree
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from test_configurations import by_configuration, spec, trained
from test_pool import alive, wait_until
from test_run import SLOW, children, lines, start

from fallline.compare import ComparisonError, compare
from fallline.compare.exports.export import table
from fallline.compare.judgement.verdict import judge, repeat_seconds, tuned_with
from fallline.compare.planning import prepare
from fallline.compare.protocol.schedule import shortfalls
from fallline.compare.request import Request
from fallline.compare.run import run
from fallline.compare.search.pruning import pruner
from fallline.compare.storage.store import Store

BLOBS = f"{Path(__file__).with_name('small_task.py')}:blobs"
#: Below this learning rate nothing is learnt.
HOPELESS = 1e-3


def tried(judge, index, losses):
    """Train one configuration as a schedule does, until it is over; return its trainings as recorded."""
    made = []
    for seed, loss in enumerate(losses):
        made.append(judge.decided(trained(spec(index, seed), loss)))
        judge.finished(made[-1])
        if made[-1].status != "ok":
            break
    return made


# The test itself


def exact_p(differences):
    """Return the share of all signs whose sum of positive ranks is at least the one seen."""
    ranks = scipy.stats.rankdata(np.abs(differences))
    seen = ranks[np.asarray(differences) > 0].sum()
    sums = [np.dot(ranks, signs) for signs in product([0, 1], repeat=len(ranks))]
    return np.mean([total >= seen - 1e-9 for total in sums])


@pytest.mark.parametrize("instances", [5, 9])
def test_a_configuration_is_given_up_where_the_signed_rank_test_says_so(instances):
    """Against all 2^n signs, and scipy, on losses of equal seeds that go up and down together."""
    rng, judge = np.random.default_rng(3), pruner("wilcoxon", instances)
    luck, best, ends = rng.normal(size=instances), None, Counter()
    for index in range(40):
        losses = (5 + luck + rng.normal(scale=0.5, size=instances) + rng.choice([0, 0.2, 1])).tolist()
        made = tried(judge, index, losses)
        expected = instances
        for n in range(2, instances):
            if best is None:
                break
            differences = np.subtract(losses[:n], best[:n])
            p = exact_p(differences)
            assert p == pytest.approx(scipy.stats.wilcoxon(differences, alternative="greater").pvalue)
            if p < 0.1 and fmean(losses[:n]) > fmean(best):
                expected = n
                break
        assert (len(made), made[-1].status) == (expected, "ok" if expected == instances else "pruned")
        ends[expected] += 1
        if expected == instances and (best is None or fmean(losses) < fmean(best)):
            best = losses
    assert ends[instances] > 3
    assert min(ends) == 4
    assert sum(n for end, n in ends.items() if end < instances) > 10


def test_equal_losses_are_never_given_up():
    judge = pruner("wilcoxon", 6)
    assert [len(tried(judge, index, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) for index in range(3)] == [6, 6, 6]


def test_a_tie_on_a_seed_says_nothing():
    """Four seeds that differ are needed, whether or not another is equal."""
    judge = pruner("wilcoxon", 6)
    tried(judge, 0, [1.0] * 6)
    assert len(tried(judge, 1, [2.0, 3.0, 1.0, 4.0, 5.0, 6.0])) == 5


def test_a_low_mean_is_never_given_up_whatever_the_test_says():
    """Higher on every seed so far, and yet lower than the mean of the best, which has a bad last one."""
    judge = pruner("wilcoxon", 5)
    tried(judge, 0, [1.0, 1.0, 1.0, 1.0, 100.0])
    assert len(tried(judge, 1, [2.0, 2.1, 2.2, 2.3, 1.0])) == 5


def test_other_arms_and_studies_and_finals_are_not_compared():
    judge = pruner("wilcoxon", 5)
    tried(judge, 0, [1.0] * 5)
    for other in ({"study": 1}, {"arm": "adam"}, {"stage": "final"}):
        for seed in range(4):
            trial = trained(replace(spec(0, seed), **other), 5.0)
            assert judge.decided(trial) == trial
            judge.finished(trial)


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_what_went_wrong_is_no_best_and_disturbs_nobody(status):
    judge = pruner("wilcoxon", 5)
    for seed, how in enumerate(["ok", status]):
        trial = trained(spec(0, seed), 0.1, how)
        assert judge.decided(trial) == trial
        judge.finished(trial)
    assert len(tried(judge, 1, [5.0] * 5)) == 5
    assert len(tried(judge, 2, [4.0] * 5)) == 5
    assert len(tried(judge, 3, [6.0] * 5)) == 4


def test_a_pruner_that_is_told_what_is_recorded_decides_as_the_one_before():
    rng = np.random.default_rng(0)
    losses = [(1 + 0.2 * i % 3 + rng.normal(scale=0.3, size=6)).tolist() for i in range(20)]
    whole = pruner("wilcoxon", 6)
    made = [tried(whole, index, each) for index, each in enumerate(losses)]
    flat = [trial for each in made for trial in each]
    assert 4 <= sum(trial.status == "pruned" for trial in flat) < 20
    for cut in range(0, len(flat), 7):
        judge = pruner("wilcoxon", 6)
        for trial in flat[:cut]:
            judge.finished(trial)
        for trial in flat[cut:]:
            anew = trained(trial.spec, trial.curve.valid_loss[-1])
            assert judge.decided(anew) == trial
            judge.finished(trial)


# Real comparisons


def asked(out, pruner="wilcoxon", **more):
    options = {"trials": 8, "seeds": 2, "studies": 1, "workers": 0, **more}
    space = {"optimizers": {"sgd": {"lr": {"low": 1e-6, "high": 0.5}}}}
    return prepare(Request(BLOBS, "sgd", out=out, space=space, pruner=pruner, **options))


def made(prepared):
    return run(prepared, lambda trials, schedule: trials)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A comparison over rates most of which are hopeless."""
    folder = tmp_path_factory.mktemp("wilcoxon") / "run"
    prepared = asked(folder)
    return folder, prepared, made(prepared)


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory):
    prepared = asked(tmp_path_factory.mktemp("wilcoxon") / "whole")
    return made(replace(prepared, plan=replace(prepared.plan, pruner="none")))


def test_the_decisions_that_are_recorded_are_those_of_scipy_on_the_recorded_losses(pruned):
    """Trained one by one, so that what is recorded before a training is what was known."""
    *_, comparison = pruned
    losses, best, decisions = defaultdict(dict), None, Counter()
    for trial in (t for t in comparison.trials if t.spec.stage == "tune"):
        own = losses[trial.spec.index]
        own[trial.spec.seed] = min(trial.curve.valid_loss)
        if best is not None and 2 <= len(own) < 5:
            differences = [own[seed] - best[seed] for seed in own]
            p = scipy.stats.wilcoxon(differences, alternative="greater").pvalue
            gives_up = p < 0.1 and fmean(own.values()) > fmean(best.values())
            assert (trial.status == "pruned") == gives_up
            decisions[gives_up] += 1
        else:
            assert trial.status == "ok"
        if len(own) == 5 and (best is None or fmean(own.values()) < fmean(best.values())):
            best = own
    assert min(decisions[True], decisions[False]) >= 2


def test_a_hopeless_rate_is_given_up_before_its_last_seed_and_the_winner_stays(pruned, unpruned):
    *_, comparison = pruned
    stopped = [t for t in comparison.tuning("sgd") if t.status == "pruned"]
    tried = [t for t in comparison.tuning("sgd") if t.spec.settings["lr"] < HOPELESS and t.spec.index > 1]
    assert tried
    assert {t.status for t in tried} == {"pruned"}
    last = [t for t in comparison.trials if t.status == "pruned"]
    assert len(last) == len(stopped)
    assert {(t.loss, t.metric, t.steps_to_target) for t in last} == {(None, None, None)}
    assert len(comparison.trials) == len(unpruned.trials) - len(stopped)
    keys = {t.spec.key: t for t in unpruned.trials}
    for trial in comparison.trials:  # what was trained is what would have been
        assert trial.curve == keys[trial.spec.key].curve
    best = min((t for t in unpruned.tuning("sgd")), key=lambda t: t.valid_loss)
    assert {t.spec.settings["lr"] for t in comparison.finals("sgd")} == {best.spec.settings["lr"]}
    assert [t.loss for t in comparison.finals("sgd")] == [t.loss for t in unpruned.finals("sgd")]


def test_the_plan_counts_five_trainings_for_each_configuration(pruned, unpruned):
    _, prepared, comparison = pruned
    assert prepared.trainings == len(unpruned.trials) == 8 * 5 + 2
    assert prepared.seconds == pytest.approx(42 * prepared.training_seconds["sgd"])
    assert asked(Path("unused"), instances=7).trainings == 8 * 7 + 2
    assert asked(Path("unused"), pruner="none").trainings == 8 + 2
    seconds = fmean(t.seconds for t in comparison.trials if t.status == "ok")
    assert repeat_seconds(comparison, "study") == pytest.approx(42 * seconds)
    assert repeat_seconds(comparison, "seed") == pytest.approx(seconds)


@pytest.mark.parametrize("kept", [33, 35])
def test_wherever_it_was_cut_a_comparison_goes_on_to_the_same_decisions(kept, pruned, tmp_path):
    """Between two configurations, and in the middle of one, which is given up."""
    folder, _, comparison = pruned
    copytree(folder, tmp_path / "cut")
    results = tmp_path / "cut" / "results.jsonl"
    results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:kept]) + b'{"spec": {"arm"')
    again = made(asked(tmp_path / "cut", resume=True))
    assert list(map(measured, again.trials)) == list(map(measured, comparison.trials))


def measured(trial):
    return trial.spec, trial.status, trial.curve, trial.valid_loss


def test_of_what_is_resumed_trainings_that_were_given_up_are_not_to_come(pruned):
    folder, _, comparison = pruned
    again = asked(folder, resume=True)
    assert again.trainings == len(comparison.trials) < 42
    assert again.seconds == 0
    assert replace(again, done=again.done[:-2]).trainings == len(comparison.trials)
    assert replace(again, done=again.done[:3]).trainings == 42


def test_reports_count_configurations_and_tables_have_a_row_for_each_training(pruned):
    folder, _, comparison = pruned
    stopped = sum(t.status == "pruned" for t in comparison.trials)
    assert len(comparison.tuning("sgd")) == 8
    assert tuned_with(comparison) == "8 trials each, each on 5 seeds"
    said = f"The pruner stopped {stopped} of 8 tuning trials early; settings that do better on further seeds"
    assert any(said in caveat for caveat in judge(comparison).caveats)
    page = (folder / "report.html").read_text()
    assert "wilcoxon pruner; each configuration is trained on 5 seeds" in page
    _, rows = table(comparison)
    assert len(rows) == len(comparison.trials)
    tuning = Counter(row["configuration"] for row in rows if row["role"] == "tuning")
    assert sorted(tuning) == list(range(8))
    assert set(tuning.values()) == {4, 5}
    assert Store(folder).comparison().trials == comparison.trials


def test_an_optuna_storage_has_a_trial_for_each_configuration(tmp_path):
    import optuna

    url = f"sqlite:///{tmp_path}/studies.db"
    for resume in (False, True):  # which adds nothing
        comparison = made(asked(tmp_path / "run", trials=4, storage=url, resume=resume))
    names = optuna.get_all_study_names(url)
    (name,) = [name for name in names if name.endswith("study 1")]
    found = optuna.load_study(study_name=name, storage=url).trials
    tuned = comparison.tuning("sgd")
    assert sorted(t.value for t in found) == sorted(min(t.curve.valid_loss) for t in tuned)
    assert Counter(t.state.name for t in found)["COMPLETE"] == sum(t.status == "ok" for t in tuned)


@pytest.mark.long
def test_workers_make_the_trainings_that_one_process_makes(unpruned, tmp_path):
    prepared = asked(tmp_path / "run", workers=2)
    found = made(replace(prepared, plan=replace(prepared.plan, pruner="none")))
    assert {t.spec.key: t.curve for t in found.trials} == {t.spec.key: t.curve for t in unpruned.trials}


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_kill_9_and_resume_repeat_no_finished_instance_and_lose_none(tmp_path):
    folder = tmp_path / "killed"
    process = start(folder, "--pruner", "wilcoxon")
    wait_until(lambda: lines(folder) >= 7, seconds=60)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = (folder / "results.jsonl").read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    wait_until(lambda: not any(map(alive, workers)), seconds=15)
    resumed = start(folder, "--resume", "--json", "--quiet")
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert (folder / "results.jsonl").read_bytes().startswith(kept)
    found = Store(folder).comparison()
    assert len(json.loads(out)["trials"]) == len(found.trials)
    assert max(Counter(t.spec.key for t in found.trials).values()) == 1
    assert not shortfalls(found.plan, found.trials)
    for each in by_configuration(found.trials).values():
        assert len(each) == 5 or each[-1].status != "ok"
        assert all(t.status == "ok" for t in each[:-1])
    whole = compare(
        SLOW, ["sgd", "adam"], trials=3, seeds=1, studies=1, workers=0, quiet=True,
        pruner="wilcoxon", out=tmp_path / "whole",
    )  # fmt: skip
    curves = {t.spec.key: t.curve for t in whole.trials}
    assert all(t.curve == curves[t.spec.key] for t in found.trials if t.spec.key in curves)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruner": "wilcoxon", "instances": 4}, "4 instances are too few: .* needs 4 pairs .* use 5"),
        ({"pruner": "wilcoxon", "instances": 0}, "instances must be at least 1"),
        ({"pruner": "wilcoxon", "instances": 5.5}, "instances must be a whole number"),
        ({"instances": 5}, "--instances is for --pruner wilcoxon; add it"),
        ({"pruner": "median", "instances": 5}, "--instances is for --pruner wilcoxon"),
        ({"pruner": "wilcoxon", "executor": "stacked"}, "leave out --pruner"),
    ],
)  # fmt: skip
def test_instances_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ComparisonError, match=message):
        Request("digits", **options)


def test_a_resume_with_other_instances_is_refused(pruned):
    folder, *_ = pruned
    with pytest.raises(ComparisonError, match="its instances are 5, not 6"):
        asked(folder, instances=6, resume=True)
    assert asked(folder, pruner=None, resume=True).plan.instances == 5
