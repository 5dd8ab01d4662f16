"""What each policy promises of its verdicts. The contract that all of them keep is in `test_house.py`."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoresearch_ray.noise import cumulative
from autoresearch_ray.policies.bayes import Bayes, posterior
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.policies.greedy import Greedy
from autoresearch_ray.ports import Case, Policy

POLICIES = [Bayes(), Confirm(), Greedy()]


def case(gain: float = 0.0, error: float = 1.0, **fields: object) -> Case:
    """Of a candidate that was measured once and stands against a parent that is well known."""
    words = {"n": 1, "sigma": 1.0, "prior": (0.0, 1.0), "worth": 0.05, "lead": None, "lines": 0, **fields}
    return Case(gain, error, **words)  # type: ignore[arg-type]


sizes = st.floats(0.01, 1.0) | st.floats(1.0, 5.0)
gains = st.floats(-3.0, 3.0) | st.floats(-20.0, 20.0)
cases = st.builds(
    Case,
    gain=gains,
    error=sizes,
    n=st.integers(1, 30),
    sigma=sizes,
    prior=st.tuples(st.floats(-5.0, 5.0), sizes),
    worth=st.floats(0.0, 1.0) | st.just(math.inf),
    lead=st.none() | gains,
    lines=st.integers(-20, 20),
)
without_noise = st.builds(lambda case: replace(case, sigma=0.0, error=0.0), cases)


# --- All of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@given(case=without_noise)
def test_without_noise_a_value_is_what_it_is(policy: Policy, case: Case) -> None:
    wanted = "keep" if case.gain > 0 or (case.gain == 0 and case.lines < 0) else "discard"
    assert policy.judge(replace(case, n=3)).call == wanted
    assert policy.publishes(replace(case, n=6)).call == wanted or case.gain == 0


@pytest.mark.parametrize("policy", POLICIES)
@given(case=cases)
def test_a_verdict_is_found_where_the_squares_of_all_numbers_are_zero_for_a_float(policy: Policy, case: Case) -> None:
    tiny = 2.0**-540
    words = {"sigma": case.sigma * tiny, "prior": (case.prior[0] * tiny, case.prior[1] * tiny)}
    scaled = replace(case, gain=case.gain * tiny, error=case.error * tiny, **words)  # type: ignore[arg-type]
    assert {policy.judge(scaled).call, policy.publishes(scaled).call} <= {"keep", "discard", "again"}


@pytest.mark.parametrize("policy", POLICIES)
@given(case=cases, more=st.floats(0.0, 20.0))
def test_more_gain_never_turns_a_keep_into_a_discard(policy: Policy, case: Case, more: float) -> None:
    better = replace(case, gain=case.gain + more)
    if policy.judge(case).call == "keep":
        assert policy.judge(better).call != "discard"
    if policy.publishes(case).call == "keep":
        assert policy.publishes(better).call == "keep"


@pytest.mark.parametrize("policy", POLICIES)
@given(case=cases)
def test_a_loss_is_never_kept_unless_the_code_is_simpler_and_never_published(policy: Policy, case: Case) -> None:
    plain = replace(case, gain=-abs(case.gain), lines=abs(case.lines), prior=(0.0, case.prior[1]))
    assert policy.judge(plain).call != "keep"
    assert policy.publishes(plain).call != "keep"


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=300)
@given(case=cases | without_noise)
def test_what_measures_no_better_than_the_best_is_never_published_whatever_was_expected(
    policy: Policy, case: Case
) -> None:
    assert policy.publishes(replace(case, gain=-abs(case.gain), lines=abs(case.lines))).call != "keep"


# --- bayes -----------------------------------------------------------------------------------------------------------


@given(case=cases)
def test_what_is_to_be_expected_lies_between_what_was_and_what_is_measured(case: Case) -> None:
    mean, spread = posterior(case)
    before, unsure = case.prior
    precision = 1 / unsure**2 + 1 / case.error**2
    assert mean == pytest.approx((before / unsure**2 + case.gain / case.error**2) / precision, abs=1e-9)
    assert spread == pytest.approx(precision**-0.5)
    assert min(before, case.gain) - 1e-9 <= mean <= max(before, case.gain) + 1e-9
    assert 0 < spread <= min(unsure, case.error) * (1 + 1e-12)


@given(case=cases)
def test_bayes_says_what_it_expects_and_how_sure_it_is(case: Case) -> None:
    policy = Bayes()
    for judgement in (policy.judge(case), policy.publishes(case)):
        assert (judgement.likely, judgement.spread) == posterior(case)


@given(case=cases)
def test_bayes_keeps_only_what_is_better_for_sure_or_simpler_and_no_worse(case: Case) -> None:
    policy = Bayes()
    judgement = policy.judge(case)
    assert judgement.likely is not None and judgement.spread is not None
    if judgement.call == "keep" and case.lines >= 0:
        assert cumulative(judgement.likely / judgement.spread) >= policy.sure
    elif judgement.call == "keep":
        assert cumulative((judgement.likely + case.sigma / 2) / judgement.spread) >= policy.sure
    elif judgement.call == "discard":
        assert cumulative(judgement.likely / judgement.spread) < policy.sure or case.gain <= 0
    if policy.publishes(case).call == "keep":
        assert cumulative(judgement.likely / judgement.spread) >= policy.surer


@given(case=cases)
def test_bayes_never_measures_beyond_its_most(case: Case) -> None:
    policy = Bayes()
    last = replace(case, n=max(case.n, policy.most))
    assert policy.judge(last).call != "again" and policy.publishes(last).call != "again"


@given(case=cases)
def test_bayes_measures_nothing_again_where_no_gain_is_worth_it_and_what_is_worth_more_no_less(case: Case) -> None:
    policy = Bayes()
    assert policy.judge(replace(case, worth=math.inf)).call != "again"
    if policy.judge(case).call != "again":
        assert policy.judge(replace(case, worth=2 * case.worth)).call != "again"


def test_bayes_measures_again_what_is_close_and_not_what_is_clear() -> None:
    policy = Bayes()
    assert policy.judge(case(0.5)).call == "again"
    assert policy.judge(case(8.0)).call == "keep"
    assert policy.judge(case(-8.0)).call == "discard"
    assert policy.judge(case(0.5, worth=10.0)).call == "discard"  # the time is better spent on something new


def test_bayes_believes_a_gain_the_less_the_rarer_gains_are() -> None:
    policy = Bayes()
    usual, rare = case(2.5, prior=(0.0, 3.0), worth=math.inf), case(2.5, prior=(-1.0, 0.5), worth=math.inf)
    assert policy.judge(usual).call == "keep" and policy.judge(rare).call == "discard"


def test_bayes_gives_a_tie_to_the_simpler_code() -> None:
    tie = case(0.0, error=0.1, n=16)
    assert Bayes().judge(replace(tie, lines=-5)).call == "keep"
    assert Bayes().judge(tie).call == Bayes().judge(replace(tie, lines=5)).call == "discard"


def test_bayes_asks_for_more_of_what_would_be_the_best_while_it_may_be_better() -> None:
    policy = Bayes()
    assert policy.publishes(case(1.0, n=2)).call == "again"
    assert policy.publishes(case(-1.0, n=2)).call == "discard"
    assert policy.publishes(case(4.0, error=0.5, n=2)).call == "keep"
    assert policy.publishes(case(1.0, n=16)).call == "discard"


def test_bayes_is_right_about_how_sure_it_is() -> None:
    """Of changes that are as the prior says, `sure` of those that are kept are better, and more."""
    chance, policy = random.Random(0), Bayes()
    kept = good = 0
    for _ in range(20_000):
        true = chance.gauss(-0.3, 1.0)
        judged = case(chance.gauss(true, 0.7), 0.7, prior=(-0.3, 1.0), worth=math.inf)
        if policy.judge(judged).call == "keep":
            kept, good = kept + 1, good + (true > 0)
    assert kept > 500 and good / kept >= policy.sure


# --- confirm ---------------------------------------------------------------------------------------------------------


@given(case=cases)
def test_confirm_keeps_what_stands_out_of_the_noise_and_decides_after_three(case: Case) -> None:
    judgement, policy = Confirm().judge(case), Confirm()
    if judgement.call == "keep" and case.lines >= 0:
        assert case.gain > 2 * case.error or (case.n >= policy.most and case.gain > case.error)
    if case.n >= policy.most:
        assert judgement.call != "again"
    elif 0 < case.gain <= 2 * case.error:
        assert judgement.call == "again"
    if case.n >= 2 and case.gain > 2 * case.error:
        assert judgement.call == "keep"


@given(case=cases)
def test_confirm_publishes_beyond_three_errors_and_asks_no_more_than_six_times(case: Case) -> None:
    judgement = Confirm().publishes(case)
    assert (judgement.call == "keep") == (case.gain > 3 * case.error)
    assert (judgement.call == "again") == (0 < case.gain <= 3 * case.error and case.n < 6)


def test_confirm_measures_twice_what_would_be_the_best() -> None:
    assert Confirm().judge(case(9.0, lead=5.0)).call == "again"
    assert Confirm().judge(case(9.0, lead=-5.0)).call == "keep"


# --- greedy and moves ------------------------------------------------------------------------------------------------


@given(case=cases)
def test_greedy_believes_every_value(case: Case) -> None:
    assume(case.gain != 0)
    assert Greedy().judge(case).call == ("keep" if case.gain > 0 else "discard")
    assert Greedy().publishes(case).call == ("keep" if case.gain > 0 else "discard")


@given(lanes=st.integers(1, 64), every=st.integers(1, 9), hand_ins=st.integers(0, 30), data=st.data())
def test_the_worse_half_moves_where_nothing_is_gathered(
    lanes: int, every: int, hand_ins: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, lanes - 1))
    worse = rank >= (lanes + 1) // 2
    for policy in (Confirm(), Greedy()):
        assert policy.moves(rank, lanes, hand_ins, every) == ("replay" if worse and hand_ins >= every else "stay")
    assert Bayes().moves(rank, lanes, hand_ins, every) == "stay" and Bayes().gathers
