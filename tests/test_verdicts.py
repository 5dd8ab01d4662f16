"""Verdicts, one rule at a time: priors, doubts, limits, several numbers, nominees, holdouts and classes of devices."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray import orders
from autoresearch_ray.events import Published, Refused
from autoresearch_ray.model import (
    MEMORY,
    Also,
    Direction,
    Experiment,
    Failure,
    FailureKind,
    Holdout,
    Measurement,
    Propose,
    Remeasure,
    Replay,
    Resources,
    Rule,
    Status,
    Stop,
)
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.policies.greedy import Greedy
from autoresearch_ray.ports import Case, Judgement, Policy
from tests.game import Game

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER


def value(number: float, seconds: float = 60.0, memory: float | None = None, **also: float) -> Measurement:
    """`memory` in GB."""
    peak = None if memory is None else 1024 * memory
    return Measurement(number, wall_seconds=seconds, resources=Resources(peak_mb=peak), also=also)


def failed(kind: FailureKind) -> Measurement:
    return Measurement(None, Failure(kind, "why"), wall_seconds=60.0)


class Watched(Bayes):
    """The same, and the cases that it was asked about."""

    def __init__(self) -> None:
        self.judged: list[Case] = []
        self.published: list[Case] = []

    def judge(self, case: Case) -> Judgement:
        self.judged.append(case)
        return super().judge(case)

    def publishes(self, case: Case) -> Judgement:
        self.published.append(case)
        return super().publishes(case)


def calibrated(lanes: int = 2, policy: Policy | None = None, base: Measurement | None = None, **words: object) -> Game:
    """The base is known on every lane, as 1.0 give or take 0.001; what else `base` says holds of it too."""
    game = Game.of(lanes, policy=policy or Bayes(), **words)  # type: ignore[arg-type]
    for index in range(max(lanes, game.policy.confirmations)):
        game.turn(f"gpu{index % lanes}", replace(base or value(1.0), value=1.0 + 0.001 * (-1) ** index))
    return game


def sigma(game: Game) -> float:
    found = game.board.evidence.sigma("")
    assert found is not None
    return found


def judged(game: Game, lane: str, outcome: Measurement) -> Experiment:
    """`lane` proposes something that always measures like this, until it has its verdict."""
    number = len(game.board.experiments)
    while not isinstance(game.orders[lane], Propose):
        game.turn(lane, value(1.0, **outcome.also))
    for _ in range(40):
        order = game.orders[lane]
        base = isinstance(order, Remeasure) and order.commit != game.board.experiments[-1].commit
        game.turn(lane, value(1.0, **outcome.also) if base else outcome)
        if game.board.experiments[number].status is not Status.PENDING:
            return game.board.experiments[number]
    raise AssertionError("no verdict")


# --- Priors ----------------------------------------------------------------------------------------------------------


def test_of_a_new_change_so_much_is_expected_as_changes_have_brought() -> None:
    policy = Watched()
    game = calibrated(policy=policy)
    for number in (1.5, 0.998, 1.003, 1.001, 0.9):
        before = len(policy.judged)
        game.turn("gpu0", value(number))
        if len(policy.judged) > before and isinstance(game.orders["gpu0"], Propose):
            assert policy.judged[-1].prior == game.board.effects.prior(sigma(game))
            assert policy.judged[-1].worth == game.board.effects.worth(sigma(game))


def test_of_a_replay_the_sum_of_what_its_changes_did_is_expected() -> None:
    policy = Watched()
    game = calibrated(lanes=3, policy=policy)
    kept = [judged(game, f"gpu{index}", value(1.0 - 3.2 * sigma(game))) for index in range(2)]
    order = game.orders["gpu1"]
    assert [each.status for each in kept] == [Status.KEEP] * 2 and isinstance(order, Replay)
    game.turn("gpu1", value(1.0))
    mean, spread = policy.judged[-1].prior
    likely = sum(each.likely or 0.0 for each in kept)
    assert mean == pytest.approx(likely)
    assert spread == pytest.approx(math.hypot(*(each.spread or 0.0 for each in kept), 0.25 * likely))
    assert policy.judged[-1].gain == pytest.approx(0.0, abs=0.001)


def test_a_closing_run_measures_nothing_again_that_is_too_close_to_call() -> None:
    policy = Watched()
    game = calibrated(policy=policy)
    assert isinstance(game.turn("gpu1", value(1.0 - sigma(game))), Remeasure)
    assert policy.judged[-1].worth < math.inf
    game.record(orders.close(game.board, "enough", game.now))
    game.turn("gpu1", value(1.0))
    assert policy.judged[-1].worth == math.inf
    assert game.board.experiments[-1].status is Status.DISCARD


# --- Doubts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Bayes, Confirm, Greedy])
def test_a_value_that_is_doubted_is_measured_three_times_before_it_is_kept(policy: type[Policy]) -> None:
    game = calibrated(policy=policy())
    order = game.turn("gpu0", value(0.8, seconds=3.0))
    for _ in range(2):
        assert isinstance(order, Remeasure) and order.commit == game.board.experiments[1].commit
        assert "suspicious" in order.why and game.board.experiments[1].status is Status.PENDING
        order = game.turn("gpu0", value(0.8, seconds=3.0))
    experiment = game.board.experiments[1]
    assert experiment.status is Status.KEEP and len(experiment.values) == 3
    assert experiment.reason.startswith("suspicious (ended after 3 s") and experiment.doubts


def test_a_value_that_is_doubted_and_was_luck_is_found_out() -> None:
    game = calibrated(policy=Greedy())
    game.turn("gpu0", value(0.8, seconds=3.0))
    game.turn("gpu0", value(1.4, seconds=3.0))
    assert game.board.experiments[1].status is Status.DISCARD and "suspicious" in game.board.experiments[1].reason


def test_a_value_that_is_bad_enough_is_discarded_with_its_doubt_at_once() -> None:
    game = calibrated()
    game.turn("gpu0", value(2.0, seconds=3.0))
    experiment = game.board.experiments[1]
    assert experiment.status is Status.DISCARD and experiment.reason.startswith("suspicious (")


def test_a_gain_beyond_all_that_was_seen_is_doubted() -> None:
    game = calibrated(lanes=1)
    for number in range(12):
        judged(game, "gpu0", value(1.002 + 0.0005 * (-1) ** number))
    while not isinstance(game.orders["gpu0"], Propose):
        game.turn("gpu0", value(1.0))
    game.turn("gpu0", value(0.2))
    assert any("too good" in each for each in game.board.experiments[-1].doubts)
    assert isinstance(game.orders["gpu0"], Remeasure)


def test_a_device_that_is_faster_is_no_reason_for_doubt() -> None:
    """Like values, times are held to those of the same class."""
    game = Game.of(0, biases={"slow": 0.0, "fast": 0.0})
    for index, name in enumerate(("slow", "slow", "slow", "fast")):
        game.sit(f"gpu{index}", index, name)
        game.turn(f"gpu{index}", value(1.0 + 0.001 * (-1) ** index, seconds=100.0 if name == "fast" else 300.0))
    game.turn("gpu3", value(0.9, seconds=100.0))
    assert game.board.experiments[1].doubts == ()
    game.turn("gpu2", value(0.9, seconds=100.0))
    assert game.board.experiments[2].doubts != ()


# --- Limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("also", "base", "good", "bad", "words"),
    [
        (Also("latency", LOWER, limit=0.1), 10.0, 10.9, 12.0, "latency is 20% worse than the baseline's"),
        (Also("latency", LOWER, limit=0.0), 10.0, 10.0, 10.1, "the limit is 0%"),
        (Also("accuracy", HIGHER, limit=0.1), 0.8, 0.73, 0.6, "accuracy is 25% worse than the baseline's"),
        (Also("latency", LOWER, bound=15.0), 10.0, 14.9, 15.5, "latency is 15.5, and the limit is 15"),
        (Also("accuracy", HIGHER, bound=0.7), 0.8, 0.71, 0.65, "accuracy is 0.65, and the limit is 0.7"),
    ],
)
@pytest.mark.parametrize("policy", [Bayes, Confirm, Greedy])
def test_a_limit_of_another_number_refuses_what_breaks_it_however_good_it_is(
    policy: type[Policy], also: Also, base: float, good: float, bad: float, words: str
) -> None:
    game = calibrated(policy=policy(), base=value(1.0, **{also.name: base}), also=(also,))
    assert judged(game, "gpu0", value(0.8, **{also.name: bad})).status is Status.DISCARD
    assert words in game.board.experiments[1].reason
    fits = calibrated(policy=policy(), base=value(1.0, **{also.name: base}), also=(also,))
    assert judged(fits, "gpu0", value(0.8, **{also.name: good})).status is Status.KEEP


def test_a_number_without_a_limit_refuses_nothing() -> None:
    game = calibrated(base=value(1.0, latency=10.0), also=(Also("latency", LOWER),))
    assert judged(game, "gpu0", value(0.8, latency=99.0)).status is Status.KEEP


def test_memory_has_a_limit_where_the_program_says_so() -> None:
    for also, status in (((Also(MEMORY, LOWER, limit=0.5),), Status.DISCARD), ((), Status.KEEP)):
        game = calibrated(base=value(1.0, memory=10.0), also=also)
        experiment = judged(game, "gpu0", value(0.8, memory=16.0))
        assert experiment.status is status and experiment.also[MEMORY] == pytest.approx(16.0)
        assert not also or "memory_gb is 60% worse" in experiment.reason


def test_a_limit_is_broken_only_beyond_the_noise_of_that_number() -> None:
    game = Game.of(2, policy=Greedy(), also=(Also("latency", LOWER, limit=0.1),))
    game.turn("gpu0", value(1.0, latency=9.0))
    game.turn("gpu1", value(1.0, latency=11.0))  # so the noise of one measurement is 1.4
    assert judged(game, "gpu0", value(0.8, latency=12.0)).status is Status.KEEP
    assert judged(game, "gpu1", value(0.8, latency=15.0)).status is Status.DISCARD


# --- Several numbers -------------------------------------------------------------------------------------------------

SPEED = Also("speed", HIGHER)


def pareto(policy: Policy) -> Game:
    game = Game.of(2, policy=policy, also=(SPEED,), rule=Rule.PARETO)
    for index in range(2):
        game.turn(f"gpu{index}", value(1.0 + 0.001 * (-1) ** index, speed=100.0 + (-1) ** index))
    return game


@pytest.mark.parametrize("policy", [Bayes, Confirm])
def test_what_is_better_in_one_number_and_worse_in_none_is_kept(policy: type[Policy]) -> None:
    faster = judged(pareto(policy()), "gpu0", value(1.0, speed=200.0))
    assert faster.status is Status.KEEP and "speed is better" in faster.reason
    better = judged(pareto(policy()), "gpu0", value(0.8, speed=100.0))
    assert better.status is Status.KEEP and "loss is better" in better.reason


@pytest.mark.parametrize("policy", [Bayes, Confirm])
def test_what_is_worse_in_one_number_is_discarded_whatever_the_metric_says(policy: type[Policy]) -> None:
    slower = judged(pareto(policy()), "gpu0", value(0.5, speed=50.0))
    assert slower.status is Status.DISCARD and "speed gets worse by 50" in slower.reason
    worse = judged(pareto(policy()), "gpu0", value(1.5, speed=500.0))
    assert worse.status is Status.DISCARD and "loss gets worse" in worse.reason


def test_what_is_worse_in_one_number_is_no_near_miss() -> None:
    game = pareto(Bayes())
    judged(game, "gpu0", value(0.5, speed=50.0))
    assert game.board.pool.next_missed(64, ()) == []


def test_what_is_better_in_another_number_alone_becomes_the_best() -> None:
    game = pareto(Confirm())
    faster = judged(game, "gpu0", value(1.0, speed=200.0))
    for lane in ("gpu1", "gpu0") * 4:
        order = game.orders[lane]
        mine = isinstance(order, Remeasure) and order.commit == faster.commit
        game.turn(lane, value(1.0 if mine else 1.5, speed=200.0 if mine else 100.0))
    assert [each.commit for each in game.board.published] == [faster.commit]


def test_a_weighted_sum_adds_up_in_the_direction_of_the_metric() -> None:
    also = (Also("latency", LOWER, weight=0.5), Also("accuracy", HIGHER, weight=2.0), Also("unweighted", LOWER))
    game = Game.of(2, also=also, rule=Rule.WEIGHTED, weight=3.0)
    game.turn("gpu0", value(1.0, latency=4.0, accuracy=0.5, unweighted=1e6))
    assert game.board.score("base").mean == pytest.approx(3 * 1.0 + 0.5 * 4.0 - 2.0 * 0.5)  # type: ignore[union-attr]
    up = Game.of(2, direction=HIGHER, also=also, rule=Rule.WEIGHTED, weight=3.0)
    up.turn("gpu0", value(1.0, latency=4.0, accuracy=0.5, unweighted=1e6))
    assert up.board.score("base").mean == pytest.approx(3 * 1.0 - 0.5 * 4.0 + 2.0 * 0.5)  # type: ignore[union-attr]


def test_a_weighted_sum_decides() -> None:
    game = Game.of(2, policy=Greedy(), also=(Also("latency", LOWER, weight=1.0),), rule=Rule.WEIGHTED)
    for lane in ("gpu0", "gpu1"):
        game.turn(lane, value(1.0, latency=1.0))
    assert judged(game, "gpu0", value(1.2, latency=0.5)).status is Status.KEEP
    assert judged(game, "gpu1", value(0.8, latency=1.5)).status is Status.DISCARD


@pytest.mark.parametrize("rule", [Rule.WEIGHTED, Rule.PARETO])
def test_a_guard_runs_on_every_value_where_another_number_may_make_up_for_the_metric(rule: Rule) -> None:
    for chosen in (rule, Rule.CONSTRAINED):
        game = Game.of(2, also=(Also("latency", LOWER, weight=1.0),), rule=chosen)
        for index, lane in enumerate(("gpu0", "gpu1")):
            game.turn(lane, value(1.0 + 0.001 * index, latency=1.0))
        order = game.orders["gpu1"]
        assert isinstance(order, Propose)
        assert (order.beat is None) == (chosen is rule)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from([Bayes(), Confirm(), Greedy()]),
    rule=st.sampled_from(Rule),
    lanes=st.integers(1, 4),
    biases=st.sampled_from([{"": 0.0}, {"A": 0.0, "B": 0.3}]),
)
def test_what_is_published_keeps_to_the_limits_and_to_the_rule(
    seed: int, policy: Policy, rule: Rule, lanes: int, biases: dict[str, float]
) -> None:
    also = (Also("latency", LOWER, limit=0.1, weight=0.1), Also("accuracy", HIGHER, bound=0.7, weight=0.1))
    game = Game.of(lanes, seed, policy, biases, also=also, rule=rule, experiments=30)
    game.noise = 0.0
    game.propose = lambda game, parent: game.chance.choice([-0.01, 0.0, 0.01])
    moves = {  # of each change: most do nothing to the other numbers
        name: (game.chance.choice([0.0, 0.0, 0.4, -0.4]), game.chance.choice([0.0, 0.0, 0.04, -0.04]))
        for name in (f"commit{number:05d}" for number in range(1500))
    }

    def numbers(commit: str) -> dict[str, float]:
        latencies, accuracies = zip((10.0, 0.8), *(moves[each] for each in game.changes[commit]), strict=True)
        return {"latency": sum(latencies), "accuracy": sum(accuracies)}

    for _ in range(1200):
        if not game.active():
            break
        attempt = game.attempt(game.chance.choice(game.active()))
        if attempt.commit and attempt.measurement.value is not None:
            attempt = replace(attempt, measurement=replace(attempt.measurement, also=numbers(attempt.commit)))
        game.hand_in(attempt)
    assert not game.active()
    bests = ["base", *(each.commit for each in game.board.published)]
    for old, new in itertools.pairwise(bests):
        before, after = numbers(old), numbers(new)
        assert after["latency"] <= 11.0 + 1e-9 and after["accuracy"] >= 0.7 - 1e-9
        gains = [
            game.truth[old] - game.truth[new],
            before["latency"] - after["latency"],
            after["accuracy"] - before["accuracy"],
        ]
        if rule is Rule.PARETO:
            assert min(gains) > -1e-9 and max(gains) > 1e-9
        elif rule is Rule.CONSTRAINED:
            assert gains[0] > 1e-9
        else:
            assert gains[0] + 0.1 * gains[1] + 0.1 * gains[2] > 1e-9


# --- The nominee -----------------------------------------------------------------------------------------------------


def refuse(game: Game, number: float) -> Refused:
    """All that is measured from now on is worth `number`, until the nominee is refused."""
    assert game.board.nominee is not None
    commit = game.board.nominee.commit
    for _ in range(60):
        for lane in game.active():
            order = game.orders[lane]
            mine = isinstance(order, Remeasure) and order.commit == commit
            game.turn(lane, value(number if mine else 1.0 if isinstance(order, Remeasure) else 2.0))
            if commit in game.board.refused:
                return game.board.refused[commit]
    raise AssertionError("it is never refused")


def test_a_nominee_that_does_not_stand_up_is_refused_and_its_change_dropped() -> None:
    game = calibrated(lanes=3)
    lucky = judged(game, "gpu0", value(0.9))
    assert lucky.status is Status.KEEP and game.board.nominee is not None
    refused = refuse(game, 1.3)
    assert refused.commit == lucky.commit and "not better than the best" in refused.reason
    assert game.board.nominee is None and not game.board.published
    assert not game.board.pool.is_kept(lucky.commit or "")
    for _ in range(3):
        for lane in game.active():
            order = game.orders[lane]
            game.turn(lane, value(1.0 if isinstance(order, Remeasure) else 2.0))
    assert all(lane.head == "base" for lane in game.board.lanes.values())


def test_of_a_group_that_is_refused_half_is_tried_next() -> None:
    game = calibrated(lanes=4, holdout="make holdout")
    kept = [judged(game, f"gpu{index}", value(1.0 - 3.2 * sigma(game))) for index in range(2)]
    good = 1.0 - 6 * sigma(game)
    assert isinstance(game.orders["gpu1"], Replay)
    together = judged_replay(game, "gpu1", good)
    assert together.status is Status.KEEP and game.board.nominee is not None
    assert game.board.nominee.commit == together.commit
    while together.commit not in game.board.refused:
        for lane in ("gpu0", "gpu1", "gpu2"):
            order = game.orders[lane]
            if isinstance(order, Holdout):
                game.turn(lane, value(5.1 if order.commit == together.commit else 5.0))
            elif isinstance(order, Remeasure):
                game.turn(lane, value(good if order.commit == together.commit else 1.0))
            elif isinstance(order, Propose):
                game.turn(lane, value(2.0))
    assert all(game.board.pool.is_kept(each.commit or "") for each in kept)
    alone = [each for each in game.orders.values() if isinstance(each, Replay)]
    assert len(game.board.pool.next_kept(64)) == 1 and all(len(each.commits) == 1 for each in alone)
    assert not any(lane.head == together.commit for lane in game.board.lanes.values())


def judged_replay(game: Game, lane: str, number: float) -> Experiment:
    at = len(game.board.experiments)
    for _ in range(40):
        game.turn(lane, value(number))
        if game.board.experiments[at].status is not Status.PENDING:
            return game.board.experiments[at]
    raise AssertionError("no verdict")


def test_what_measures_worse_than_the_best_is_not_published_whatever_was_expected_of_it() -> None:
    """As on a second device, which is there to find out."""
    game = calibrated(lanes=4)
    for index in range(2):
        judged(game, f"gpu{index}", value(1.0 - 3.2 * sigma(game)))
    together = judged_replay(game, "gpu1", 1.0 - 6 * sigma(game))
    assert game.board.nominee is not None and game.board.nominee.commit == together.commit
    assert isinstance(game.turn("gpu0", value(2.0)), Remeasure)
    game.turn("gpu0", value(1.3))
    comparison = game.board.evidence.gain(together.commit or "", "base")
    assert comparison is not None and comparison[0] < -0.1
    assert not game.board.published


@pytest.mark.parametrize("policy", [Bayes, Confirm])
def test_what_was_refused_is_never_published(policy: type[Policy]) -> None:
    game = calibrated(policy=policy())
    judged(game, "gpu0", value(0.9))
    commit = game.board.lanes["gpu0"].head if policy is Confirm else game.board.experiments[1].commit
    refuse(game, 1.3)
    for _ in range(10):
        for lane in game.active():
            order = game.orders[lane]
            game.turn(lane, value(0.5 if isinstance(order, Remeasure) else 2.0))
    assert commit not in [each.commit for each in game.board.published]


# --- The holdout -----------------------------------------------------------------------------------------------------


def held_out(policy: type[Policy] = Confirm, **words: object) -> tuple[Game, str]:
    """A nominee that waits for its holdout, and the lane that measures that of the best before it."""
    game = calibrated(policy=policy(), holdout="make holdout", **words)  # type: ignore[arg-type]
    commit = judged(game, "gpu0", value(0.8)).commit
    for _ in range(20):
        lane = next((name for name in game.active() if isinstance(game.orders[name], Holdout)), None)
        if lane is not None:
            assert game.board.nominee is not None and game.board.nominee.commit == commit
            return game, lane
        for each in game.active():
            order = game.orders[each]
            mine = isinstance(order, Remeasure) and order.commit == commit
            if not any(isinstance(other, Holdout) for other in game.orders.values()):
                game.turn(each, value(0.8 if mine else 1.0 if isinstance(order, Remeasure) else 2.0))
    raise AssertionError("no holdout is ordered")


@pytest.mark.parametrize("policy", [Bayes, Confirm, Greedy])
def test_a_holdout_confirms_what_is_better_there_too(policy: type[Policy]) -> None:
    game, lane = held_out(policy)
    order, nominee = game.orders[lane], game.board.nominee
    assert isinstance(order, Holdout) and order.commit == "base" and nominee is not None
    experiments = len(game.board.experiments)
    order = game.turn(lane, value(5.0))
    assert isinstance(order, Holdout) and order.commit == nominee.commit
    assert not isinstance(game.turn(lane, value(4.9)), Holdout)
    assert [each.commit for each in game.board.published] == [nominee.commit]
    assert game.board.published[0].value == pytest.approx(0.8)  # the holdout's numbers are nobody's value
    assert len(game.board.experiments) == experiments


def test_a_holdout_is_measured_by_one_lane_at_a_time() -> None:
    game, lane = held_out()
    other = next(each for each in game.active() if each != lane)
    assert not isinstance(game.turn(other, value(2.0)), Holdout)


def test_a_holdout_that_is_not_better_after_three_measurements_refuses() -> None:
    game, lane = held_out()
    nominee = game.board.nominee
    order = game.turn(lane, value(5.0))
    for _ in range(3):
        assert isinstance(order, Holdout) and nominee is not None and order.commit == nominee.commit
        order = game.turn(lane, value(5.1))
    assert nominee is not None and nominee.commit in game.board.refused and not game.board.published
    assert "the holdout does not confirm it: 5.1, and 5 for the best" in game.board.refused[nominee.commit].reason
    assert not isinstance(order, Holdout)


def test_a_holdout_that_is_better_on_average_confirms() -> None:
    game, lane = held_out()
    for number in (5.0, 5.1, 4.5):
        game.turn(lane, value(number))
    assert len(game.board.published) == 1


def test_the_best_s_holdout_is_measured_once() -> None:
    game, lane = held_out()
    for number in (5.0, 4.0):
        game.turn(lane, value(number))
    best = game.board.best
    assert best is not None and best.commit is not None and game.board.holdouts[best.commit].n == 1
    assert isinstance(game.orders[lane], Propose)
    better = judged(game, lane, value(0.5))
    asked = []
    for _ in range(12):
        for each in game.active():
            order = game.orders[each]
            if isinstance(order, Holdout):
                asked.append(order.commit)
                game.turn(each, value(3.0))
            else:
                mine = isinstance(order, Remeasure) and order.commit == better.commit
                game.turn(each, value(0.5 if mine else 0.8 if isinstance(order, Remeasure) else 2.0))
    assert asked == [better.commit]
    assert game.board.published[-1].commit == better.commit


@pytest.mark.parametrize("kind", [FailureKind.CRASH, FailureKind.TIMEOUT, FailureKind.NO_METRIC])
def test_a_holdout_that_fails_on_the_candidate_refuses_it(kind: FailureKind) -> None:
    game, lane = held_out()
    nominee = game.board.nominee
    game.turn(lane, value(5.0))
    game.turn(lane, failed(kind))
    assert nominee is not None and kind in game.board.refused[nominee.commit].reason
    assert game.board.closed is None


def test_a_holdout_that_fails_on_the_best_ends_the_run() -> None:
    game, lane = held_out()
    order = game.turn(lane, failed(FailureKind.CRASH))
    assert isinstance(order, Stop) and "the holdout fails on the best" in order.reason
    assert game.board.closed is not None and game.board.closed.hard and game.board.closed.failed


def test_a_machine_that_fails_during_a_holdout_refuses_nothing() -> None:
    game, lane = held_out()
    for expected in ("base", game.board.nominee.commit if game.board.nominee else ""):
        order = game.turn(lane, failed(FailureKind.MACHINE))
        assert isinstance(order, Holdout) and order.commit == expected
        game.turn(lane, value(5.0 if expected == "base" else 4.0))
    assert len(game.board.published) == 1


def test_a_holdout_that_was_left_is_ordered_again() -> None:
    game, lane = held_out()
    order = game.orders[lane]
    assert game.sit(lane, game.board.lanes[lane].seat.worker) == order


def test_holdouts_of_unlike_devices_are_not_compared_as_they_are() -> None:
    """Where values of one class read 2 higher, so do those of the holdout."""
    game = Game.of(2, biases={"A": 0.0, "B": 2.0}, policy=Confirm(), holdout="make holdout")
    values, holdouts = {"base": 1.0}, {"base": 5.0}
    for proposer, number, secret in (("gpu0", 0.8, 4.0), ("gpu1", 0.6, 4.5)):  # the second is worse in secret
        new = None
        for _ in range(30):
            for lane in game.active():
                order, bias = game.orders[lane], game.biases[game.board.lanes[lane].seat.device_class]
                if isinstance(order, Holdout):
                    game.turn(lane, value(bias + holdouts[order.commit]))
                elif isinstance(order, Remeasure):
                    game.turn(lane, value(bias + values[order.commit]))
                else:
                    attempt = game.attempt(lane, value(bias + (number if lane == proposer and new is None else 3.0)))
                    if lane == proposer and new is None:
                        new = attempt.commit or ""
                        values[new], holdouts[new] = number, secret
                    values.setdefault(attempt.commit or "", 3.0)
                    game.hand_in(attempt)
    first, second = list(values)[1:][:1], [each for each, number in values.items() if number == 0.6]
    assert [each.commit for each in game.board.published] == first
    assert set(second) <= game.board.refused.keys()


# --- Classes of devices ----------------------------------------------------------------------------------------------


def test_the_parent_is_measured_on_a_candidate_s_class_before_they_are_compared() -> None:
    game = Game.of(3, biases={"A": 0.0, "B": -0.5}, policy=Confirm(), every=1)
    for lane, number in (("gpu0", 1.0), ("gpu1", 0.5), ("gpu2", 1.001)):
        game.turn(lane, value(number))
    for lane, number in (("gpu0", 0.8), ("gpu0", 0.8), ("gpu1", 3.0), ("gpu1", 0.3)):
        game.turn(lane, value(number))
    (best,) = [each.commit for each in game.board.published]
    game.sit("gpu5", 5, "C")
    while not isinstance(game.orders["gpu5"], Propose):
        game.turn("gpu5", value(7.0))
    game.turn("gpu5", value(9.0))
    order = game.orders["gpu5"]
    assert isinstance(order, Propose) and order.parent == best  # it has fallen behind
    order = game.turn("gpu5", value(6.5))
    assert isinstance(order, Remeasure) and order.commit == best and "parent" in order.why
    assert game.board.experiments[-1].status is Status.PENDING
    game.turn("gpu5", value(6.8))
    assert game.board.evidence.gain(game.board.experiments[-1].commit or "", best) is not None
    assert game.board.evidence.gain(game.board.experiments[-1].commit or "", best)[0] == pytest.approx(0.3)  # type: ignore[index]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from([Bayes(), Confirm(), Greedy()]),
    bias=st.sampled_from([-0.5, -0.01, 0.01, 0.5]),
    lanes=st.integers(2, 5),
)
def test_a_class_that_reads_better_does_not_win_by_that(seed: int, policy: Policy, bias: float, lanes: int) -> None:
    game = Game.of(lanes, seed, policy, {"A": 0.0, "B": bias}, experiments=40)
    game.noise = 1e-5
    game.propose = lambda game, parent: game.chance.choice([-0.003, 0.003])
    game.play(2000)
    assert not game.active()
    bests = ["base", *(each.commit for each in game.board.published)]
    truths = [game.truth[each] for each in bests]
    assert truths == sorted(truths, reverse=True)
    wrong = [
        each
        for each in game.board.experiments[1:]
        if each.status is Status.KEEP and each.commit and game.truth[each.commit] > game.truth[each.parent]
    ]
    assert wrong == []


def test_published_values_read_as_on_the_first_class() -> None:
    for seed in range(6):
        game = Game.of(4, seed, Bayes(), {"A": 0.0, "B": 0.5}, experiments=40)
        game.play(2000)
        for event in [each for line in game.lines for each in line if isinstance(each, Published)]:
            bias = game.biases[game.board.classes[0]]
            assert event.value == pytest.approx(game.truth[event.commit] + bias, abs=5 * game.noise)
