"""Configurations that are tuned on several seeds: what they make together, and how they are scheduled."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from math import nan
from statistics import fmean

import pytest
from test_schedule import NAMES, SECONDS, Simulation, plan

from fallline.compare.configurations import Configurations, mean_trial
from fallline.compare.protocol import budget
from fallline.compare.protocol.schedule import Costs, Schedule, shortfalls
from fallline.compare.records import Comparison, Curve, Spec, Trial
from fallline.compare.search.pruning import pruner


def trained(spec, loss, status="ok"):
    if status != "ok":
        return Trial(spec, status, Curve(), 10, 1.0)
    curve = Curve([5, 10], [0.5, 1.0], [9.0, loss / 2], [9.0, loss])
    return Trial(spec, "ok", curve, 10, SECONDS.get(spec.arm, 1.0), loss, {"accuracy": loss})


def spec(index, seed, **more):
    return Spec("sgd", "tune", index, seed, {"lr": 0.1 * (index + 1)}, **more)


def test_the_trainings_of_a_configuration_make_one_trial():
    of = plan(instances=3)
    configurations = Configurations(of)
    made = [trained(replace(spec(0, seed), arm="slow"), loss) for seed, loss in enumerate([1.0, 2.0, 6.0])]
    assert [configurations.add(trial) for trial in made[:2]] == [None, None]
    whole = configurations.add(made[2])
    assert (whole.valid_loss, whole.metrics, whole.steps, whole.seconds) == (3.0, {"accuracy": 3.0}, 30, 24.0)
    assert (whole.curve.valid_loss, whole.curve.train_loss) == ([3.0], [1.5])
    assert (whole.curve.step, whole.curve.epoch) == ([30], [3.0])
    assert Configurations(plan()).add(made[0]) is made[0]
    final = replace(made[0], spec=replace(made[0].spec, stage="final"))
    assert configurations.add(final) is final


@pytest.mark.parametrize(("status", "curve"), [("diverged", []), ("failed", []), ("pruned", [2.0])])
def test_a_configuration_whose_last_training_was_no_success_has_no_loss(status, curve):
    made = [trained(spec(0, 0), 1.0), trained(spec(0, 1), 3.0)]
    of_last = {"pruned": replace(made[1], status="pruned", valid_loss=None, metrics={})}
    last = of_last.get(status, trained(spec(0, 1), nan, status))
    whole = mean_trial([made[0], last])
    assert (whole.status, whole.valid_loss, whole.metrics) == (status, None, {})
    assert (whole.curve.valid_loss, whole.spec) == (curve, last.spec)


def drained(schedule, loss, status=lambda spec: "ok", judge=None):
    while (found := schedule.next()) is not None:
        trial = trained(found, loss(found), status(found))
        if judge is not None:
            trial = judge.decided(trial)
            judge.finished(trial)
        schedule.finished(trial)
    return list(schedule.done.values())


def by_configuration(trials):
    groups = defaultdict(list)
    for trial in trials:
        if trial.spec.stage == "tune":
            groups[trial.spec.arm, trial.spec.study, trial.spec.index].append(trial)
    return groups


def rate_and_luck(spec):
    return spec.settings["lr"] * (1 + spec.seed % 7 / 20)


def test_every_configuration_is_trained_on_the_same_seeds_and_the_lowest_mean_wins():
    """The luckiest single training does not decide."""

    def loss(spec):
        return rate_and_luck(spec) + 10 * (spec.seed % 5 == spec.index % 5)

    of = plan(trials=6, instances=5, studies=2)
    trials = drained(Schedule(of, Costs(SECONDS)), loss)
    groups = by_configuration(trials)
    for study in range(2):
        seeds = {tuple(t.spec.seed for t in each) for key, each in groups.items() if key[1] == study}
        assert len(seeds) == 1
        assert len(set(*seeds)) == 5
        assert not set(*seeds) & {t.spec.seed for t in trials if t.spec.stage == "final"}
    assert all(len({t.spec.settings["lr"] for t in each}) == 1 for each in groups.values())
    for name, study in product(NAMES, range(2)):
        means = {i: fmean(t.valid_loss for t in groups[name, study, i]) for i in range(6)}
        finals = [t for t in trials if (t.spec.arm, t.spec.stage, t.spec.study) == (name, "final", study)]
        assert {t.spec.index for t in finals} == {min(means, key=means.get)}
        assert len(finals) == of.seeds
    assert not shortfalls(of, trials)


def test_a_divergence_or_an_error_ends_its_configuration_which_cannot_win():
    def status(spec):
        return {0: "diverged", 1: "failed"}.get(spec.index, "ok") if spec.seed % 3 == 0 else "ok"

    of = plan(trials=4, instances=8)
    trials = drained(Schedule(of, Costs(SECONDS)), lambda spec: spec.index / 10 + 0.1, status)
    for (_, _, index), each in by_configuration(trials).items():
        bad = [i for i, trial in enumerate(each) if trial.status != "ok"]
        assert bad == ([len(each) - 1] if index < 2 else [])
        assert index < 2 or len(each) == 8
    assert {t.spec.index for t in trials if t.spec.stage == "final"} == {2}
    found = Comparison(of, trials)
    assert [t.status for t in found.tuning("slow")] == ["diverged", "failed", "ok", "ok"]


def test_of_equal_means_the_first_configuration_wins():
    trials = drained(Schedule(plan(instances=5), Costs(SECONDS)), lambda spec: 1.0)
    assert {t.spec.index for t in trials if t.spec.stage == "final"} == {0}


@pytest.mark.parametrize("sampler", ["sobol", "tpe"])
def test_from_wherever_it_was_cut_the_same_trainings_are_made_each_once(sampler):
    of = plan(trials=10, seeds=1, instances=5, sampler=sampler, pruner="wilcoxon")
    of = replace(of, arms={name: of.arms[name] for name in ("slow", "quick")})
    whole = drained(Schedule(of, Costs(SECONDS)), rate_and_luck, judge=pruner("wilcoxon", 5))
    assert sum(t.status == "pruned" for t in whole) >= 4
    for kept in range(1, len(whole), 9):
        judge = pruner("wilcoxon", 5)
        for trial in whole[:kept]:
            judge.finished(trial)
        again = drained(Schedule(of, Costs(SECONDS), whole[:kept]), rate_and_luck, judge=judge)
        assert again[:kept] == whole[:kept]
        assert {t.spec.key: t for t in again} == {t.spec.key: t for t in whole}


def test_an_arm_with_nothing_to_search_is_trained_once():
    of = plan(trials=3, instances=5)
    of = replace(of, arms={**of.arms, "other": replace(of.arms["other"], space={})})
    trials = drained(Schedule(of, Costs(SECONDS)), lambda spec: 1.0)
    assert Counter(t.spec.arm for t in trials if t.spec.stage == "tune") == {
        "slow": 15,
        "quick": 15,
        "other": 1,
    }
    assert len(Comparison(of, trials).tuning("other")) == 1


def test_the_time_of_all_instances_is_expected():
    """One worker: 3 trials of 5 trainings and 2 finals of 8 + 1 + 1 seconds, less what is done."""
    schedule = Schedule(plan(3, 2, workers=1, instances=5), Costs(SECONDS))
    assert schedule.seconds_left() == pytest.approx(17 * 10)
    schedule.finished(trained(schedule.next(), 1.0))
    assert schedule.seconds_left() == pytest.approx(17 * 10 - 8)


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("limit", [100, 200, 300, 400])
def test_a_limit_is_kept_with_instances(limit, slower):
    of = plan(8, 3, instances=5)
    simulation = Simulation(of, {name: slower * cost for name, cost in SECONDS.items()}, limit)
    trials = simulation.run()
    assert simulation.now <= limit
    found = Comparison(of, trials)
    rounds = {(len(found.tuning(name)), len(found.finals(name))) for name in NAMES}
    assert len(rounds) == 1
    tuned, finals = rounds.pop()
    assert 1 <= tuned <= 8
    assert 1 <= finals <= 3
    assert sum(t.spec.stage == "tune" for t in trials) == 5 * 3 * tuned
    assert limit / slower < 300 or len(trials) > 45


def test_a_budget_has_room_for_fewer_trials_when_each_has_five_trainings():
    def fits(available, instances):
        return budget.fitting(lambda share: share, available, (None, None, None), instances)

    for available in (60, 100, 300, 1000):
        one, five = fits(available, 1), fits(available, 5)
        assert five.trials * five.studies < one.trials * one.studies
        assert (5 * five.trials + five.seeds) * five.studies * five.share <= available
