"""Seeds: functions of the comparison's seed, equal for all optimizers."""

from itertools import product

from fallline.compare.protocol.seeds import study_seed, training_seed


def test_no_training_is_judged_on_a_seed_it_was_tuned_on():
    tune = {training_seed(0, "tune", i) for i in range(500)}
    final = {training_seed(0, "final", i) for i in range(500)}
    assert len(tune) == len(final) == 500
    assert not tune & final
    assert {seed % 2 for seed in tune} == {0}
    assert training_seed(1, "tune", 0) != training_seed(0, "tune", 0)


def test_no_two_studies_share_a_seed_and_the_first_has_the_comparisons_own():
    studies = [study_seed(0, study) for study in range(20)]
    assert studies[0] == 0
    seeds = [training_seed(seed, "final", i) for seed, i in product(studies, range(20))]
    assert len(set(seeds)) == len(seeds)
