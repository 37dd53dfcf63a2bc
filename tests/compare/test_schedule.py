"""What runs next: every optimizer gets the same, whatever cuts the comparison short."""

from collections import Counter
from dataclasses import replace
from heapq import heappop, heappush

import pytest

from fallline.compare import planning
from fallline.compare.errors import ComparisonError
from fallline.compare.protocol import budget
from fallline.compare.protocol.schedule import Costs, Growth, Schedule, makespan, shortfalls
from fallline.compare.records import Arm, Curve, Plan, Trial
from fallline.compare.request import Request

NAMES = ["slow", "quick", "other"]
SECONDS = {"slow": 8.0, "quick": 1.0, "other": 1.0}


def plan(trials=4, seeds=2, workers=2, **more):
    space = {"lr": {"low": 1e-4, "high": 1.0, "scale": "log"}}
    return Plan(
        task="t", metric_name="accuracy", target=None, target_name="", epochs=1,
        arms={name: Arm(name, {}, space) for name in NAMES},
        trials=trials, seeds=seeds, workers=workers, budget_seconds=None,
        versions={}, machine="", started="", **more,
    )  # fmt: skip


def result(spec, loss=None, status="ok"):
    loss = spec.settings["lr"] if loss is None else loss
    return Trial(spec, status, Curve(), 1, SECONDS[spec.arm], loss if status == "ok" else None)


def drained(schedule, status="ok"):
    """Run a schedule to its end, without a deadline, one training at a time."""
    while (spec := schedule.next()) is not None:
        schedule.finished(result(spec, status=status))
    return list(schedule.done.values())


class Simulation:
    """Two workers and a clock that jumps to the end of the next training; returns what a limit allows."""

    def __init__(self, plan, seconds, limit, done=()):
        self.now, self.seconds = 0.0, seconds
        self.schedule = Schedule(plan, Costs(SECONDS), done, limit, clock=lambda: self.now)

    def run(self):
        running = []
        while True:
            while len(running) < 2 and (spec := self.schedule.next()) is not None:
                heappush(running, (self.now + self.seconds[spec.arm], spec.key, spec))
            if not running:
                return list(self.schedule.done.values())
            self.now, _, spec = heappop(running)
            self.schedule.finished(replace(result(spec), seconds=self.seconds[spec.arm]))


def counts(trials):
    return Counter((trial.spec.arm, trial.spec.stage) for trial in trials)


def test_everything_planned_is_run_once():
    trials = drained(Schedule(plan(), Costs(SECONDS)))
    assert len({trial.spec.key for trial in trials}) == 18
    assert counts(trials) == {(n, s): k for n in NAMES for s, k in (("tune", 4), ("final", 2))}
    assert not shortfalls(plan(), trials)


def test_all_optimizers_share_seeds_and_the_slowest_starts_first():
    schedule = Schedule(plan(), Costs(SECONDS))
    first = [schedule.next() for _ in NAMES]
    assert first[0].arm == "slow"
    assert len({spec.seed for spec in first}) == 1
    assert len({spec.settings["lr"] for spec in first}) == 1


def test_finals_wait_for_all_of_tuning_and_repeat_the_best():
    schedule = Schedule(plan(trials=2), Costs(SECONDS))
    specs = [schedule.next() for _ in range(6)]
    for spec in specs[:-1]:
        schedule.finished(result(spec))
    assert schedule.next() is None
    schedule.finished(result(specs[-1]))
    best = min(specs, key=lambda spec: spec.settings["lr"])
    final = schedule.next()
    assert (final.stage, final.index, final.settings) == ("final", best.index, best.settings)
    assert final.seed not in {spec.seed for spec in specs}


def test_an_optimizer_that_always_diverges_has_no_finals():
    schedule = Schedule(plan(), Costs(SECONDS))
    assert counts(drained(schedule, status="diverged")) == {(name, "tune"): 4 for name in NAMES}


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("limit", [20, 30, 45, 60, 80, 95, 200])
def test_a_limit_is_kept_and_drops_whole_rounds(limit, slower):
    simulation = Simulation(plan(8, 3), {name: slower * cost for name, cost in SECONDS.items()}, limit)
    trials = simulation.run()
    assert simulation.now <= max(limit, 20 * slower), "only the first two rounds are begun in any case"
    for stage, most in (("tune", 8), ("final", 3)):
        each = {counts(trials)[name, stage] for name in NAMES}
        assert len(each) == 1, "every optimizer has the same number of trials"
        assert 1 <= each.pop() <= most
    assert bool(shortfalls(plan(8, 3), trials)) == (len(trials) < 33)


def test_time_that_is_left_goes_to_more_seeds():
    simulation = Simulation(plan(2, 1), SECONDS, limit=60)
    simulation.schedule.growth = Growth(seeds=8)
    finals = counts(simulation.run())
    assert {finals[name, "tune"] for name in NAMES} == {2}
    assert 5 <= finals["slow", "final"] == finals["quick", "final"] <= 8
    assert simulation.now <= 60


@pytest.mark.parametrize(
    ("studies", "asked", "growth"),
    [(1, {}, (8, 10)), (3, {}, (8, 5)), (1, {"seeds": 4}, (8, 2)), (3, {"studies": 3}, (3, 5))],
)
def test_a_budget_lets_what_was_not_asked_for_grow(studies, asked, growth):
    found = planning._growth(Request("digits", budget=60, **asked), plan(studies=studies), 60.0)
    assert (found.studies, found.seeds) == growth


def test_a_limit_is_used():
    simulation = Simulation(plan(8, 3), SECONDS, limit=45)
    simulation.run()
    assert simulation.now > 45 - 2 * 8


def test_a_resumed_schedule_runs_what_is_missing_and_nothing_else():
    whole = drained(Schedule(plan(), Costs(SECONDS)))
    for kept in range(len(whole)):
        schedule = Schedule(plan(), Costs(SECONDS), done=whole[:kept])
        again = []
        while (spec := schedule.next()) is not None:
            again.append(spec.key)
            schedule.finished(result(spec))
        assert sorted(again) == sorted(trial.spec.key for trial in whole[kept:])


def test_tuning_stays_closed_once_finals_exist():
    short = Simulation(plan(8, 2), SECONDS, limit=30).run()
    rounds = counts(short)["slow", "tune"]
    assert rounds < 8
    resumed = drained(Schedule(plan(8, 2), Costs(SECONDS), done=short))
    assert counts(resumed) == {(n, s): k for n in NAMES for s, k in (("tune", rounds), ("final", 2))}
    assert len({trial.spec.settings["lr"] for trial in resumed if trial.spec.stage == "final"}) == 1


def test_a_resume_with_little_time_chooses_among_all_that_was_tuned():
    tuned = [trial for trial in drained(Schedule(plan(8, 2), Costs(SECONDS))) if trial.spec.stage == "tune"]
    resumed = Simulation(plan(8, 2), SECONDS, limit=17, done=tuned).run()
    assert counts(resumed) == {(n, s): k for n in NAMES for s, k in (("tune", 8), ("final", 2))}
    finals = {trial.spec.settings["lr"] for trial in resumed if trial.spec.stage == "final"}
    assert finals == {min(trial.spec.settings["lr"] for trial in tuned)}


def test_costs_learn_from_finished_trainings():
    costs = Costs({"slow": 1.0, "quick": 0.1, "other": 0.1})
    spec = Schedule(plan(), costs).next()
    costs.record(result(spec))
    assert costs.of("slow") == 8.0
    assert costs.of("quick") == pytest.approx(0.8), "the others are as much slower than the pilot thought"
    costs.record(result(spec, status="diverged"))
    assert costs.of("slow") == 8.0


def test_makespan_of_a_queue():
    assert makespan([8, 1, 1, 1], workers=2) == 8
    assert makespan([1, 1, 1, 8], workers=2) == 9
    assert makespan([2, 2], workers=0) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60s", 60),
        ("10 min", 600),
        ("1h", 3600),
        ("1.5 hours", 5400),
        ("2 minutes", 120),
        (45, 45),
        ("7", 7),
        ("2 hrs", 7200),
    ],
)
def test_budgets_are_read(text, expected):
    assert budget.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-3s", "0", "10 parsecs", "nan", "100ms", "1ss"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ComparisonError, match="write it as 60s, 10min or 1h"):
        budget.seconds(text)


@pytest.mark.parametrize("available", [7, 10, 20, 50, 100, 1000])
def test_the_plan_that_fits_is_the_largest_that_fits(available):
    size = budget.fitting(in_proportion, available, (None, None, None))
    assert size.rounds <= available
    assert size.share == 1
    larger = budget.fitting(in_proportion, available * 3, (None, None, None))
    assert larger.trials >= size.trials


def in_proportion(share):
    return share


def test_evaluations_that_do_not_become_fewer_count_when_epochs_are_cut():
    size = budget.fitting(lambda share: 0.4 * share + 0.6, 4.5, (None, None, None))
    assert (size.rounds, size.share) == (6, 0.37)


def test_a_tight_budget_cuts_epochs_and_a_hopeless_one_is_refused():
    assert budget.fitting(in_proportion, 3.0, (None, None, None)) == budget.Size(4, 2, 1, 0.5)
    with pytest.raises(ComparisonError, match="too small; raise it or name fewer --optimizers"):
        budget.fitting(in_proportion, 0.1, (None, None, None))


def test_numbers_that_the_user_gave_are_upper_bounds():
    assert budget.fitting(in_proportion, 1000, (5, 2, None)) == budget.Size(5, 2, 8)
    assert budget.fitting(in_proportion, 1000, (100, 20, 1)) == budget.Size(100, 20, 1)
    assert budget.fitting(in_proportion, 9, (8, 3, None)).trials <= 8


@pytest.mark.parametrize("available", range(12, 21))
def test_a_budget_never_plans_a_full_space_for_few_trials(available):
    assert budget.fitting(in_proportion, available, (None, None, None)).trials < 10


def test_every_study_tunes_anew_on_seeds_and_settings_of_its_own():
    trials = drained(Schedule(plan(studies=3), Costs(SECONDS)))
    each = Counter((t.spec.arm, t.spec.study, t.spec.stage) for t in trials)
    assert each == {(n, k, s): c for n in NAMES for k in range(3) for s, c in (("tune", 4), ("final", 2))}
    seeds = {k: {t.spec.seed for t in trials if t.spec.study == k} for k in range(3)}
    rates = {k: {t.spec.settings["lr"] for t in trials if t.spec.study == k} for k in range(3)}
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not seeds[a] & seeds[b]
        assert not rates[a] & rates[b]
    for trial in trials:
        if trial.spec.stage == "final":
            own = [t for t in trials if t.spec.stage == "tune" and t.spec.study == trial.spec.study]
            best = min((t for t in own if t.spec.arm == trial.spec.arm), key=lambda t: t.valid_loss)
            assert trial.spec.settings == best.spec.settings


def test_the_first_of_several_studies_is_the_same_as_a_single_one():
    alone = {t.spec.key for t in drained(Schedule(plan(), Costs(SECONDS)))}
    several = {t.spec.key for t in drained(Schedule(plan(studies=3), Costs(SECONDS))) if t.spec.study == 0}
    assert alone == several


def test_a_resumed_schedule_of_several_studies_runs_what_is_missing_and_nothing_else():
    whole = drained(Schedule(plan(studies=2), Costs(SECONDS)))
    for kept in range(0, len(whole), 5):
        done = {trial.spec.key for trial in whole[:kept]}
        again = {t.spec.key for t in drained(Schedule(plan(studies=2), Costs(SECONDS), done=whole[:kept]))}
        assert again == {trial.spec.key for trial in whole}
        assert done <= again


@pytest.mark.parametrize("limit", [60, 120, 250, 400, 600])
def test_a_limit_leaves_whole_studies(limit):
    simulation = Simulation(plan(4, 2, studies=3), SECONDS, limit)
    trials = simulation.run()
    assert simulation.now <= limit
    for study in {t.spec.study for t in trials} - {0}:
        own = Counter((t.spec.arm, t.spec.stage) for t in trials if t.spec.study == study)
        assert own == {(n, s): c for n in NAMES for s, c in (("tune", 4), ("final", 2))}
    assert bool(shortfalls(plan(4, 2, studies=3), trials)) == (len(trials) < 3 * 3 * 6)


def test_time_that_is_left_goes_to_more_studies_at_least_three_in_all():
    for limit in range(40, 400, 20):
        simulation = Simulation(plan(4, 2), SECONDS, limit)
        simulation.schedule.growth = Growth(studies=5)
        trials = simulation.run()
        assert len({t.spec.study for t in trials}) != 2
        assert simulation.now <= limit
    assert len({t.spec.study for t in trials}) == 5


def test_studies_are_added_until_it_is_settled():
    looked = []

    def is_settled(done):
        looked.append(len({trial.spec.study for trial in done}))
        assert len(done) == looked[-1] * 3 * 6, "a look is at whole studies"
        return looked[-1] >= 8

    growth = Growth(looks=(3, 5, 8, 12), is_settled=is_settled)
    trials = drained(Schedule(plan(studies=3), Costs(SECONDS), growth=growth))
    assert len({t.spec.study for t in trials}) == 8
    assert sorted(set(looked)) == [3, 5, 8]


def test_it_is_looked_at_no_more_often_than_agreed():
    growth = Growth(looks=(3, 5), is_settled=lambda done: False)
    trials = drained(Schedule(plan(studies=3), Costs(SECONDS), growth=growth))
    assert len({t.spec.study for t in trials}) == 5


def test_a_space_moves_beyond_its_edge_with_the_same_number_of_trials_for_all():
    """The result is the learning rate itself, so the lowest is the best: the space goes down, twice."""
    trials = drained(Schedule(plan(trials=8), Costs(SECONDS)))
    assert {counts(trials)[name, "tune"] for name in NAMES} == {8}
    rates = [t.spec.settings["lr"] for t in trials if t.spec.arm == "slow" and t.spec.stage == "tune"]
    assert min(rates[:4]) >= 1e-4 > min(rates[4:6]) > min(rates[6:])


@pytest.mark.parametrize("lag", [0, 2])
def test_an_adaptive_sampler_waits_for_all_but_the_last_results(lag):
    schedule = Schedule(plan(trials=5, sampler="tpe", lag=lag), Costs(SECONDS))
    begun = []
    while (spec := schedule.next()) is not None:
        begun.append(spec)
    assert Counter(spec.arm for spec in begun) == dict.fromkeys(NAMES, 1 + lag)
