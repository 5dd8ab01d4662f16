"""Estimates from measurements: the noise, what changes usually do, gains across classes of devices, and suspicion."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autoresearch_ray.evidence import Evidence
from autoresearch_ray.model import Direction, Experiment, Measurement, Resources
from autoresearch_ray.noise import Effects, Noise, cumulative, expected_excess
from autoresearch_ray.ports import Score
from autoresearch_ray.suspicion import doubts

numbers = st.floats(-100.0, 100.0)
CLASSES = ("H100", "H200", "B200")
COMMITS = ("base", "a", "b", "c")


def noise_of(commits: list[list[float]]) -> Noise:
    noise = Noise()
    for values in commits:
        for n, value in enumerate(values):
            noise.add(value, n, statistics.fmean(values[:n]) if n else 0.0)
    return noise


# --- Noise -----------------------------------------------------------------------------------------------------------


@given(commits=st.lists(st.lists(numbers, min_size=1, max_size=6), max_size=6))
def test_the_noise_is_the_pooled_standard_deviation_of_the_textbook(commits: list[list[float]]) -> None:
    noise = noise_of(commits)
    freedom = sum(len(values) - 1 for values in commits)
    assert noise.degrees_of_freedom == freedom
    if not freedom:
        assert noise.sigma is None and Noise().cautious(noise) is None
        return
    squares = sum((len(values) - 1) * statistics.variance(values) for values in commits if len(values) > 1)
    assert noise.sigma == pytest.approx(math.sqrt(squares / freedom), rel=1e-6, abs=1e-9)


@given(commits=st.lists(st.lists(numbers, min_size=2, max_size=6), min_size=1, max_size=6))
def test_while_little_is_known_the_noise_is_taken_to_be_larger(commits: list[list[float]]) -> None:
    pooled = noise_of(commits)
    assert pooled.sigma is not None
    alone, unknown = pooled.cautious(pooled), Noise().cautious(pooled)
    assert alone is not None and alone >= pooled.sigma
    assert unknown == pytest.approx(alone)  # a class that has measured nothing twice is taken to be as all are


@pytest.mark.parametrize(("freedom", "ratio"), [(3, 1.569), (5, 1.288), (10, 1.127), (30, 1.039), (100, 1.011)])
def test_the_noise_is_larger_as_student_s_t_is_than_the_normal(freedom: int, ratio: float) -> None:
    """At 97 %, of tables; with one and two degrees of freedom, where t is far out, it is less."""
    pooled = noise_of([[0.0, 1.0]] * freedom)
    cautious, sigma = pooled.cautious(pooled), pooled.sigma
    assert cautious is not None and sigma is not None
    assert cautious / sigma == pytest.approx(ratio, rel=0.04)
    few = [noise_of([[0.0, 1.0]] * number) for number in (1, 2, freedom)]
    factors = [(each.cautious(each) or 0.0) / (each.sigma or 1.0) for each in few]
    assert factors == sorted(factors, reverse=True)


def test_much_that_is_known_of_a_class_counts_more_than_what_is_known_of_all() -> None:
    chance = random.Random(0)
    loud = [[chance.gauss(0, 3.0), chance.gauss(0, 3.0)] for _ in range(300)]
    quiet = [[chance.gauss(0, 1.0), chance.gauss(0, 1.0)] for _ in range(300)]
    pooled = noise_of(loud + quiet)
    few, many = noise_of(quiet[:2]).cautious(pooled), noise_of(quiet).cautious(pooled)
    assert pooled.sigma == pytest.approx(math.sqrt((9 + 1) / 2), rel=0.1)
    assert few is not None and many is not None and pooled.sigma is not None
    assert 1.0 < many < 1.2 and 1.7 < few < pooled.sigma
    assert noise_of(loud).cautious(pooled) == pytest.approx(3.0, rel=0.1)


def test_a_noise_that_is_beyond_what_a_float_can_square_raises_nothing() -> None:
    noise = noise_of([[1e200, -1e200]])
    assert noise.sigma == math.inf


# --- Effects ---------------------------------------------------------------------------------------------------------


@given(sigma=st.floats(1e-6, 1e3))
def test_of_a_program_that_nothing_is_known_of_changes_are_as_likely_good_as_bad(sigma: float) -> None:
    assert Effects().prior(sigma) == (0.0, pytest.approx(2 * sigma))
    assert 0 < Effects().worth(sigma) < expected_excess(0.0, 2 * sigma)


@given(gains=st.lists(st.floats(-5.0, 50.0), min_size=1, max_size=60))
def test_the_mean_of_the_gains_is_shrunk_to_nothing_the_more_the_fewer_they_are(gains: list[float]) -> None:
    effects = Effects()
    for gain in gains:
        effects.add(gain, 1.0)
    fading = [0.99**age for age in range(len(gains))][::-1]
    n, total = sum(fading), sum(weight * gain for weight, gain in zip(fading, gains, strict=True))
    mean, spread = effects.prior(1.0)
    assert effects.n == pytest.approx(n)
    assert mean == pytest.approx(total / (n + 6), abs=1e-9)
    assert abs(mean) <= abs(total / n) + 1e-9
    assert spread >= 0.1
    assert 0 < effects.worth(1.0) <= expected_excess(mean, spread)


def test_what_the_noise_explains_is_not_taken_for_a_difference_between_changes() -> None:
    chance, true, noisy = random.Random(1), Effects(), Effects()
    for _ in range(3000):
        true.add(chance.gauss(0.5, 2.0) + chance.gauss(0, 1.0), 1.0)
        noisy.add(chance.gauss(0, 1.0), 1.0)
    assert true.prior(1.0)[1] == pytest.approx(2.0, rel=0.25)
    assert noisy.prior(1.0)[1] < 0.8 and abs(noisy.prior(1.0)[0]) < 0.4


def test_a_disaster_says_no_more_than_a_bad_change_does() -> None:
    broken, bad = Effects(), Effects()
    for each, gain in ((broken, -1e9), (bad, -6.0)):
        each.add(gain, 1.0)
        each.add(0.5, 1.0)
    assert broken.prior(1.0) == bad.prior(1.0)


def test_what_was_found_long_ago_fades() -> None:
    effects = Effects()
    for gain in [10.0] * 300 + [1.0] * 500:
        effects.add(gain, 0.1)
    assert effects.prior(0.1)[0] == pytest.approx(1.0, rel=0.1)


@given(mean=st.floats(-5, 5), spread=st.floats(0, 5))
def test_the_expected_excess_is_what_a_normal_number_is_above_nothing(mean: float, spread: float) -> None:
    steps = [(each + 0.5) / 2000 for each in range(2000)]
    normal = statistics.NormalDist()
    sampled = statistics.fmean(max(0.0, mean + spread * normal.inv_cdf(each)) for each in steps)
    assert expected_excess(mean, spread) == pytest.approx(sampled, abs=0.01)
    assert expected_excess(mean, spread) >= max(0.0, mean) - 1e-12
    assert expected_excess(mean, spread) - expected_excess(-mean, spread) == pytest.approx(mean, abs=1e-9)


@given(z=st.floats(-30, 30))
def test_the_normal_distribution_function_is_that_of_the_standard_library(z: float) -> None:
    assert cumulative(z) == pytest.approx(statistics.NormalDist().cdf(z), rel=1e-6, abs=1e-12)


# --- Evidence --------------------------------------------------------------------------------------------------------

Values = list[tuple[str, str, float]]  # commit, class, value
measured = st.lists(st.tuples(st.sampled_from(COMMITS), st.sampled_from(CLASSES), numbers), max_size=25)


def evidence_of(values: Values, direction: Direction = Direction.LOWER) -> Evidence:
    evidence = Evidence("base", direction)
    for commit, device_class, value in values:
        evidence.add(commit, device_class, value)
    return evidence


@given(values=measured, direction=st.sampled_from(Direction))
def test_a_gain_the_other_way_round_is_a_loss_as_sure(values: Values, direction: Direction) -> None:
    evidence = evidence_of(values, direction)
    for one in COMMITS:
        for other in COMMITS:
            there, back = evidence.gain(one, other), evidence.gain(other, one)
            assert (there is None) == (back is None)
            if there and back:
                assert there[0] == pytest.approx(-back[0], abs=1e-9) and there[1] == pytest.approx(back[1])


@given(values=measured, direction=st.sampled_from(Direction))
def test_lower_and_higher_are_mirror_images(values: Values, direction: Direction) -> None:
    mirrored = evidence_of([(commit, where, -value) for commit, where, value in values], Direction.HIGHER)
    for one in COMMITS:
        lower, higher = evidence_of(values).gain(one, "base"), mirrored.gain(one, "base")
        assert (lower is None) == (higher is None)
        assert lower is None or higher is None or lower == pytest.approx(higher)


# Beside a constant, differences in the last bits of a number are gone: 2.2e-16 and 0 become equal.
printed = measured.map(lambda values: [(commit, each, round(value, 6)) for commit, each, value in values])


@given(values=printed, where=st.sampled_from(CLASSES), constant=st.floats(-10.0, 10.0))
def test_a_constant_on_all_values_of_one_class_changes_no_gain(values: Values, where: str, constant: float) -> None:
    plain = evidence_of(values)
    shifted = evidence_of([(commit, each, value + constant * (each == where)) for commit, each, value in values])
    assume(not plain.noise.sigma or plain.noise.sigma > 1e-3)  # else rounding looks like noise
    for one in COMMITS:
        for other in COMMITS:
            before, after = plain.gain(one, other), shifted.gain(one, other)
            assert (before is None) == (after is None)
            if before and after and plain.noise.sigma:
                assert after == pytest.approx(before, rel=1e-5, abs=1e-6)


@given(values=measured, where=st.sampled_from(CLASSES), constant=st.floats(-10.0, 10.0))
def test_a_constant_on_all_values_of_one_class_changes_no_ranking(values: Values, where: str, constant: float) -> None:
    based = [("base", each, 1.0) for each in CLASSES] + values
    plain = evidence_of(based)
    shifted = evidence_of([(commit, each, value + constant * (each == where)) for commit, each, value in based])
    for commit in COMMITS:
        before, after = plain.score(commit), shifted.score(commit)
        assert (before is None) == (after is None)
        if before and after:  # it reads as on the first class
            assert after.n == before.n
            assert after.mean == pytest.approx(before.mean + constant * (where == CLASSES[0]), abs=1e-6)


@given(values=st.lists(st.tuples(st.sampled_from(COMMITS), numbers), min_size=1, max_size=25))
def test_on_one_class_the_score_is_the_plain_mean(values: list[tuple[str, float]]) -> None:
    evidence = evidence_of([(commit, "H100", value) for commit, value in values])
    assert evidence.classes == ("H100",)
    for commit in COMMITS:
        own = [value for each, value in values if each == commit]
        score, there = evidence.score(commit), evidence.on(commit, "H100")
        assert (score is None) == (there is None) == (not own)
        assert there == (Score(len(own), pytest.approx(statistics.fmean(own), abs=1e-9)) if own else None)
        assert score == (Score(len(own), pytest.approx(statistics.fmean(own), abs=1e-9)) if own else None)


@given(values=measured)
def test_each_class_has_its_own_noise_and_all_have_one_together(values: Values) -> None:
    evidence = evidence_of(values)
    by_class = {name: evidence_of([each for each in values if each[1] == name]).noise for name in CLASSES}
    for name, alone in by_class.items():
        assert evidence.noise_of(name) == (None if alone.sigma is None else pytest.approx(alone.sigma, abs=1e-9))
    assert evidence.noise.degrees_of_freedom == sum(each.degrees_of_freedom for each in by_class.values())
    assert all((evidence.sigma(name) is None) == (evidence.noise.sigma is None) for name in CLASSES)


def test_where_no_class_has_measured_both_there_is_no_gain() -> None:
    evidence = evidence_of([("base", "H100", 1.0), ("a", "H200", 0.9)])
    assert evidence.gain("a", "base") is None
    evidence.add("base", "H200", 1.2)
    assert evidence.gain("a", "base") == (pytest.approx(0.3), 0.0)


def test_the_class_that_knows_more_says_more() -> None:
    sure = [("base", "H100", 1.0 + 0.01 * (-1) ** each) for each in range(8)]
    sure += [("a", "H100", 0.9 + 0.01 * (-1) ** each) for each in range(8)]
    evidence = evidence_of([*sure, ("base", "H200", 1.0), ("a", "H200", 0.7)])
    gain = evidence.gain("a", "base")
    assert gain is not None and 0.1 < gain[0] < 0.13
    sigma = evidence.sigma("H200")
    assert sigma is not None and 0 < gain[1] < sigma / 2


def test_the_error_of_a_gain_is_nothing_while_the_noise_is_not_known() -> None:
    evidence = evidence_of([("base", "H100", 1.0), ("a", "H100", 0.9)])
    assert evidence.gain("a", "base") == (pytest.approx(0.1), 0.0)
    evidence.add("base", "H100", 1.02)
    gain, sigma = evidence.gain("a", "base"), evidence.sigma("H100")
    assert gain is not None and sigma is not None
    assert gain == (pytest.approx(0.11), pytest.approx(sigma * math.sqrt(1 + 1 / 2)))


def test_a_class_that_lacks_the_base_says_nothing_of_the_rank() -> None:
    evidence = evidence_of([("base", "H100", 1.0), ("a", "H100", 0.9), ("a", "H200", 5.0)])
    assert evidence.score("a") == Score(1, pytest.approx(0.9))
    evidence.add("base", "H200", 5.3)
    assert evidence.score("a") == Score(2, pytest.approx((0.9 + 0.7) / 2))


@pytest.mark.parametrize("values", [[("a", "H200", 5.0), ("base", "H100", 1.0)], [("base", "H100", 1.0)]])
def test_the_base_has_its_rank_wherever_it_was_measured(values: Values) -> None:
    assert evidence_of(values).score("base") == Score(1, 1.0)


@given(values=measured, more=measured)
def test_a_fork_sees_all_and_keeps_its_own_to_itself(values: Values, more: Values) -> None:
    evidence, both = evidence_of(values), evidence_of(values + more)

    def answers(asked: Evidence) -> list[object]:
        pairs = [(one, other) for one in COMMITS for other in COMMITS]
        return [
            asked.classes,
            [asked.sigma(each) for each in CLASSES],
            [asked.on(each, name) for each in COMMITS for name in CLASSES],
            [asked.score(each) for each in COMMITS],
            [asked.gain(*each) for each in pairs],
        ]

    before = answers(evidence)
    fork = evidence.fork()
    assert answers(fork) == before
    for each in more:
        fork.add(*each)
    assert answers(fork) == answers(both)
    assert answers(evidence) == before


# --- What is less steady than the rest -------------------------------------------------------------------------------

seeds = st.integers(0, 10**6)


def steady(seed: int, commits: int, sigma: float = 0.001) -> list[list[float]]:
    """Measurements of so many commits, two or three of each, around values of their own; the base is the first."""
    chance = random.Random(seed)
    truths = [1.0] + [chance.gauss(1.0, 0.01) for _ in range(commits - 1)]
    return [[chance.gauss(truth, sigma) for _ in range(chance.choice([2, 3]))] for truth in truths]


def taken(commits: list[list[float]], odd: list[float] | None = None, at: int = 0) -> Evidence:
    """Evidence of these commits, which are measured one after the other, and of an odd one that comes between."""
    evidence = Evidence("0", Direction.LOWER)
    named = [(str(name), values) for name, values in enumerate(commits)]
    named[at:at] = [("odd", odd)] if odd else []
    for name, values in named:
        for value in values:
            evidence.add(name, "H100", value)
    return evidence


@given(seed=seeds, sigma=st.floats(1e-9, 1e3))
def test_the_noise_of_commits_that_are_all_alike_is_that_of_the_textbook(seed: int, sigma: float) -> None:
    commits = steady(seed, 60, sigma)
    textbook = noise_of(commits).sigma
    assert taken(commits).noise.sigma == pytest.approx(textbook, rel=0.25)  # one in 700 is left out by chance


@given(first=numbers, second=numbers)
def test_the_first_two_measurements_of_the_base_are_the_noise_whatever_they_are(first: float, second: float) -> None:
    noise = taken([[first, second], [5.0]]).noise
    assert noise.degrees_of_freedom == 1 and noise.sigma == pytest.approx(abs(first - second) / math.sqrt(2), abs=1e-12)


@given(seed=seeds, at=st.integers(1, 12), luck=st.floats(0.1, 1e12), times=st.integers(2, 16))
def test_one_unsteady_commit_makes_the_noise_of_nobody_else_larger(seed: int, at: int, luck: float, times: int) -> None:
    commits = steady(seed, 12)
    odd = [1.0 - luck] + [random.Random(seed).gauss(1.0, 0.001) for _ in range(times - 1)]
    without, beside = taken(commits), taken(commits, odd, at)
    # Of twelve commits two may look odd by chance, once the odd one makes three of them: then they count again.
    assert without.noise.sigma and 0.5 < (beside.noise.sigma or 0) / without.noise.sigma < 2.5
    alone, same = without.gain("3", "0"), beside.gain("3", "0")
    assert alone and same and same[0] == pytest.approx(alone[0], rel=0.6) and same[1] < 2.5 * alone[1]


@given(seed=seeds, at=st.integers(1, 12), luck=st.floats(0.1, 1e12), times=st.integers(2, 16))
def test_one_unsteady_commit_is_as_unsure_as_its_own_scatter_makes_it(
    seed: int, at: int, luck: float, times: int
) -> None:
    odd = [1.0 - luck] + [random.Random(seed).gauss(1.0, 0.001) for _ in range(times - 1)]
    evidence = taken(steady(seed, 12), odd, at)
    gain, deviation = evidence.gain("odd", "0"), evidence.deviation("odd")
    assert gain and deviation == pytest.approx(statistics.stdev(odd), rel=1e-6)
    assert gain[1] >= deviation / math.sqrt(times) and gain[0] < 1.5 * gain[1]
    others = [evidence.deviation(str(each)) for each in range(12)]
    assert all(each is not None and each < 0.01 for each in others)


@given(seed=seeds, quiet=st.floats(0.0, 1e-9))
def test_a_base_that_was_quiet_by_chance_does_not_keep_the_noise_small(seed: int, quiet: float) -> None:
    commits = steady(seed, 12)
    sigma = taken([[1.0, 1.0 + quiet], *commits]).noise.sigma
    assert sigma == pytest.approx(noise_of(commits).sigma, rel=0.6)  # one of twelve that lies far out is set apart


@given(seed=seeds, digits=st.sampled_from([2, 3]))
def test_a_metric_with_few_digits_that_often_reads_the_same_is_not_taken_for_one_without_noise(
    seed: int, digits: int
) -> None:
    commits = [[round(each, digits) for each in values] for values in steady(seed, 40, 0.4 * 10**-digits)]
    textbook = noise_of(commits).sigma
    assert textbook and taken(commits).noise.sigma == pytest.approx(textbook, rel=0.35)


@given(seed=seeds, rounding=st.sampled_from([0.0, 1e-15, 1e-13]), more=st.integers(5, 20))
def test_without_noise_one_unsteady_commit_changes_nothing_for_others(seed: int, rounding: float, more: int) -> None:
    chance = random.Random(seed)
    commits = [[each, each * (1 + rounding * chance.random())] for each in (chance.random() for _ in range(more))]
    evidence = taken(commits, [0.7, 1.0, 1.0], 1)
    sigma, own = evidence.noise.sigma, evidence.gain("odd", "0")
    assert sigma is not None and sigma <= 1e-12 and own and own[1] > 0.1
    exact = evidence.gain("2", "0")
    assert exact and exact[1] <= 1e-11


@given(seed=seeds, at=st.integers(0, 12), scale=st.floats(1e-6, 1e6))
def test_in_another_unit_all_is_the_same(seed: int, at: int, scale: float) -> None:
    commits, odd = steady(seed, 12), [0.7, 1.0, 1.0]
    plain = taken(commits, odd, at)
    scaled = taken([[each * scale for each in values] for values in commits], [each * scale for each in odd], at)
    for each in ("odd", "5"):
        before, after = plain.gain(each, "0"), scaled.gain(each, "0")
        assert before and after and after == pytest.approx((before[0] * scale, before[1] * scale), rel=1e-6)


def test_what_is_unsteady_on_devices_of_one_class_is_not_believed_on_those_of_another() -> None:
    evidence = taken(steady(1, 12), [0.7, 1.0, 1.0])
    for commit, value in (("0", 1.5), ("0", 1.501), ("odd", 1.2), ("1", 1.5)):
        evidence.add(commit, "H200", value)
    assert (evidence.sigma("H200", "odd") or 0) > 0.1 > 10 * (evidence.sigma("H200", "1") or 1)


# --- Suspicion -------------------------------------------------------------------------------------------------------

PARENT = Experiment(
    1,
    "gpu0-1",
    "gpu0",
    "propose",
    "base",
    "c1",
    "a parent",
    0.0,
    (1.0, 1.0),
    seconds=600.0,
    resources=Resources(utilisation_percent=90.0),
)


def history(gains: int) -> Effects:
    effects = Effects()
    for _ in range(gains):
        effects.add(0.0, 0.001)
    return effects


def suspected(gain: float | None = 0.0, gains: int = 20, **fields: object) -> tuple[str, ...]:
    words = {"wall_seconds": 300.0, "resources": Resources(utilisation_percent=88.0), **fields}
    return doubts(Measurement(1.0, **words), gain, history(gains), 0.001, PARENT, 300.0)  # type: ignore[arg-type]


def test_an_ordinary_measurement_is_not_doubted() -> None:
    assert suspected() == ()
    assert suspected(gain=0.003, wall_seconds=160.0) == suspected(gain=-50.0) == suspected(gain=None) == ()


def test_a_gain_far_beyond_all_that_was_seen_is_doubted_once_enough_was_seen() -> None:
    assert any("too good" in each for each in suspected(gain=0.5))
    assert suspected(gain=0.5, gains=3) == ()


def test_a_measurement_that_ended_far_before_its_parent_is_doubted() -> None:
    (said,) = suspected(wall_seconds=140.0)
    assert "140 s" in said and "300 s" in said


def test_a_measurement_that_left_the_gpu_idle_is_doubted() -> None:
    (said,) = suspected(resources=Resources(utilisation_percent=0.5))
    assert "idle" in said and "90 %" in said
    assert suspected(resources=Resources()) == ()  # not known is not idle
    light = replace(PARENT, resources=Resources(utilisation_percent=5.0))
    idle = Measurement(1.0, wall_seconds=300.0, resources=Resources(utilisation_percent=0.5))
    assert doubts(idle, 0.0, history(20), 0.001, light, 300.0) == ()


def test_a_metric_that_is_given_more_often_than_the_parent_gives_it_is_doubted() -> None:
    (said,) = suspected(printed=3)
    assert "3 times" in said
    often = replace(PARENT, printed=3)
    usual = Measurement(1.0, wall_seconds=300.0, printed=3)
    assert doubts(usual, 0.0, history(20), 0.001, often, 300.0) == ()


def test_what_has_no_parent_to_be_held_to_is_doubted_for_its_gain_alone() -> None:
    early = Measurement(1.0, wall_seconds=1.0, printed=9)
    for parent in (None, replace(PARENT, values=())):
        assert doubts(early, 0.0, history(20), 0.001, parent, None) == ()
        assert len(doubts(early, 0.5, history(20), 0.001, parent, None)) == 1


def test_all_that_is_suspicious_is_said() -> None:
    assert len(suspected(gain=0.5, wall_seconds=1.0, printed=2, resources=Resources(utilisation_percent=0.0))) == 4
