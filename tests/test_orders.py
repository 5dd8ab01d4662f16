"""The rules, one by one, and what must hold whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger, orders
from autoresearch_ray.board import Board
from autoresearch_ray.board import replay as replayed
from autoresearch_ray.model import (
    Closed,
    Direction,
    Failure,
    FailureKind,
    Judged,
    Measured,
    Measurement,
    Moved,
    Propose,
    Published,
    Remeasure,
    Replay,
    Resumed,
    Status,
    Stop,
    Usage,
)
from autoresearch_ray.orders import lanes_wanted
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.policies.greedy import Greedy
from tests.game import Game, program


def value(number: float) -> Measurement:
    return Measurement(number, wall_seconds=60.0)


def failed(kind: FailureKind, tail: str = "") -> Measurement:
    return Measurement(None, Failure(kind, "why", tail))


def calibrated(lanes: int = 2, policy: object = None, **options: object) -> Game:
    """Every lane has measured the baseline as 1.0 give or take 0.001."""
    game = Game.of(lanes, policy=policy, **options)  # type: ignore[arg-type]
    for index in range(lanes):
        game.turn(f"gpu{index}", value(1.0 + 0.001 * (-1) ** index))
    return game


# --- Beginning -------------------------------------------------------------------------------------------------------


def test_every_slot_measures_the_base_first_and_all_at_once() -> None:
    game = Game.of(4)
    assert all(isinstance(order, Remeasure) and order.commit == "base" for order in game.orders.values())
    assert len({order.seed for order in game.orders.values() if isinstance(order, Remeasure)}) == 4
    game.turn("gpu0", value(1.0))
    assert isinstance(game.orders["gpu0"], Propose)
    assert game.board.baseline is not None and game.board.baseline.value == 1.0


def test_a_second_lane_of_a_slot_proposes_while_the_first_measures_the_base() -> None:
    game = Game.of(2)
    assert isinstance(game.sit("gpu0b", 0), Propose)


def test_one_lane_confirms_its_baseline_before_it_proposes() -> None:
    game = Game.of(1)
    assert isinstance(game.turn("gpu0", value(1.0)), Remeasure)
    assert isinstance(game.turn("gpu0", value(1.01)), Propose)
    assert game.board.noise == pytest.approx(0.01 / 2**0.5)


def test_a_baseline_that_fails_everywhere_ends_the_run_with_its_tail() -> None:
    game = Game.of(2)
    assert isinstance(game.turn("gpu0", failed(FailureKind.CRASH, "first")), Remeasure)
    order = game.turn("gpu1", failed(FailureKind.CRASH, "Traceback: the tail"))
    assert isinstance(order, Stop) and "the tail" in order.reason
    assert game.board.closed is not None and game.board.closed.failed
    assert isinstance(game.turn("gpu0", value(1.0)), Stop)


def test_a_baseline_that_fails_on_one_slot_alone_costs_only_that_slot() -> None:
    game = Game.of(2)
    game.turn("gpu0", value(1.0))
    for _ in range(2):
        assert isinstance(game.turn("gpu1", failed(FailureKind.CRASH)), Remeasure)
    assert isinstance(game.turn("gpu1", failed(FailureKind.CRASH)), Stop)
    assert game.board.closed is None
    assert isinstance(game.turn("gpu0", value(0.9)), Remeasure)


# --- Verdicts --------------------------------------------------------------------------------------------------------


def test_a_clear_gain_that_would_be_the_best_is_measured_twice_and_published() -> None:
    game = calibrated()
    order = game.turn("gpu0", value(0.9))
    assert isinstance(order, Remeasure) and order.commit == game.board.experiments[1].commit
    assert not game.board.published
    assert isinstance(game.turn("gpu0", value(0.902)), Propose)
    best = game.board.best
    assert best is not None and best.status is Status.KEEP and best.values == (0.9, 0.902)
    assert game.board.published[-1].measurements == 2
    assert game.board.lanes["gpu0"].head == best.commit


def test_a_lucky_first_measurement_is_found_out() -> None:
    game = calibrated()
    game.turn("gpu0", value(0.9))
    game.turn("gpu0", value(1.2))
    assert game.board.experiments[1].status is Status.DISCARD
    assert game.board.lanes["gpu0"].head == "base" and not game.board.published


def test_a_gain_within_the_noise_is_measured_at_most_three_times() -> None:
    game = calibrated()
    orders = [game.turn("gpu0", value(0.9995)) for _ in range(3)]
    assert [type(order) for order in orders] == [Remeasure, Remeasure, Propose]
    assert game.board.experiments[1].status is not Status.PENDING
    assert len(game.board.experiments[1].values) == 3


def test_a_tie_goes_to_the_simpler_code_and_only_to_that() -> None:
    shorter, longer = calibrated(), calibrated()
    for game, lines in ((shorter, -12), (longer, 12)):
        while game.board.counted == 0:
            game.turn("gpu0", value(1.0), lines=lines)
    assert shorter.board.experiments[1].status is Status.KEEP
    assert longer.board.experiments[1].status is Status.DISCARD


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FailureKind.CRASH, Status.CRASH),
        (FailureKind.TIMEOUT, Status.CRASH),
        (FailureKind.OOM, Status.CRASH),
        (FailureKind.NO_METRIC, Status.CRASH),
        (FailureKind.NOT_FINITE, Status.CRASH),
        (FailureKind.OUT_OF_SCOPE, Status.DISCARD),
        (FailureKind.NO_CHANGE, Status.DISCARD),
        (FailureKind.GUARD, Status.DISCARD),
        (FailureKind.AGENT, Status.LOST),
        (FailureKind.MACHINE, Status.LOST),
    ],
)
def test_a_failure_is_a_verdict_with_its_reason_and_never_a_number(kind: FailureKind, status: Status) -> None:
    game = calibrated()
    order = game.turn("gpu0", failed(kind))
    experiment = game.board.experiments[1]
    assert experiment.status is status and kind in experiment.reason and experiment.value is None
    assert isinstance(order, Propose) and order.parent == "base"


def test_every_failure_kind_has_a_verdict() -> None:
    for kind in FailureKind:
        game = calibrated()
        game.turn("gpu0", failed(kind))
        assert game.board.experiments[1].status is not Status.PENDING


def test_a_machine_that_fails_while_measuring_again_does_not_score_the_idea() -> None:
    game = calibrated()
    game.turn("gpu0", value(0.9))
    assert isinstance(game.turn("gpu0", failed(FailureKind.MACHINE)), Remeasure)
    game.turn("gpu0", value(0.9))
    assert game.board.experiments[1].status is Status.KEEP


def test_candidates_that_feign_a_sick_machine_cost_the_lane_one_look_at_the_base() -> None:
    game = calibrated()
    for _ in range(3):
        game.turn("gpu0", failed(FailureKind.MACHINE))
    assert isinstance(game.turn("gpu0", value(1.0)), Propose)


def test_a_base_that_fails_later_on_is_not_measured_for_ever() -> None:
    game = Game.of(1)
    game.turn("gpu0", value(1.0))
    given = [game.turn("gpu0", failed(FailureKind.CRASH)) for _ in range(3)]
    assert isinstance(given[-1], Propose)


def test_a_candidate_that_crashes_when_measured_again_is_a_crash() -> None:
    game = calibrated()
    game.turn("gpu0", value(0.9))
    game.turn("gpu0", failed(FailureKind.CRASH))
    assert game.board.experiments[1].status is Status.CRASH


def test_a_machine_that_fails_again_and_again_loses_its_seat_and_the_last_one_ends_the_run() -> None:
    game = calibrated()
    for lane in ("gpu0", "gpu1"):
        given = [game.turn(lane, failed(FailureKind.MACHINE)) for _ in range(4)]
        assert isinstance(given[-2], Remeasure) and given[-2].commit == "base"  # which is known to work
        assert isinstance(given[-1], Stop)
    assert game.board.closed is not None and game.board.closed.failed


# --- Moving onto the best --------------------------------------------------------------------------------------------


def test_a_loser_replays_its_own_commits_onto_the_best_and_never_inherits_a_number() -> None:
    game = calibrated(every=2)
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    game.turn("gpu1", value(0.95))  # kept at once: it is not the best
    own = game.board.lanes["gpu1"].head
    assert own != "base"
    order = game.turn("gpu1", value(2.0))
    best = game.board.best
    assert best is not None
    assert isinstance(order, Replay) and order.parent == best.commit and order.commits == (own,)
    attempt = game.attempt("gpu1", value(0.75))
    assert game.board.score(attempt.commit) is None
    assert isinstance(game.hand_in(attempt), Remeasure)
    game.turn("gpu1", value(0.75))
    assert game.board.best is not None and game.board.best.kind == "replay"
    assert game.board.lanes["gpu1"].own == (attempt.commit,)


@pytest.mark.parametrize("outcome", [value(0.9), failed(FailureKind.CONFLICT), failed(FailureKind.CRASH)])
def test_a_replay_that_does_not_pay_stands_on_the_best(outcome: Measurement) -> None:
    game = calibrated(every=2)
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    game.turn("gpu1", value(0.95))
    assert isinstance(game.turn("gpu1", value(2.0)), Replay)
    game.turn("gpu1", outcome)
    lane, best = game.board.lanes["gpu1"], game.board.best
    assert best is not None and (lane.head, lane.own) == (best.commit, ())


def test_a_replay_that_the_machine_lost_leaves_the_lane_where_it_stood() -> None:
    game = calibrated(every=2)
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    game.turn("gpu1", value(0.95))
    before = game.board.lanes["gpu1"].head, game.board.lanes["gpu1"].own
    assert isinstance(game.turn("gpu1", value(2.0)), Replay)
    game.turn("gpu1", failed(FailureKind.MACHINE))
    assert (game.board.lanes["gpu1"].head, game.board.lanes["gpu1"].own) == before


def test_a_head_that_leads_because_the_best_was_luck_is_confirmed_before_it_is_published() -> None:
    game = calibrated(every=50)
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    game.turn("gpu1", value(0.95))
    head = game.board.lanes["gpu1"].head
    for _ in range(2):
        order = game.turn("gpu0", failed(FailureKind.AGENT))
    assert isinstance(order, Remeasure) and order.commit != head
    game.turn("gpu0", value(1.6))  # the best was luck: its mean is worse than what gpu1 stands on
    order = game.turn("gpu1", value(3.0))
    assert isinstance(order, Remeasure) and order.commit == head


def test_a_loser_with_nothing_of_its_own_just_stands_on_the_best() -> None:
    game = calibrated(every=1)
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    order = game.turn("gpu1", value(2.0))
    best = game.board.best
    assert best is not None and isinstance(order, Propose) and order.parent == best.commit
    assert best.value is not None and order.beat == pytest.approx(best.value + 3 * (game.board.noise or 0.0))


def test_the_leader_never_moves() -> None:
    game = calibrated(lanes=3, every=1)
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    head = game.board.lanes["gpu0"].head
    for _ in range(5):
        game.turn("gpu0", value(2.0))
    assert game.board.lanes["gpu0"].head == head


# --- Ending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_exactly_so_many_experiments_are_run(lanes: int) -> None:
    game = Game.of(lanes, experiments=17, seed=lanes)
    game.play(2000)
    assert not game.active()
    assert game.board.counted == 17 and game.board.counts[Status.PENDING] == 0


def test_what_others_lose_on_the_way_does_not_close_the_run_early() -> None:
    game = Game.of(8, experiments=8)
    for index in range(8):
        game.turn(f"gpu{index}", value(1.0 + 0.001 * (-1) ** index))
    for index in range(7):
        game.turn(f"gpu{index}", failed(FailureKind.MACHINE))
    game.play(500)
    assert game.board.counted == 8 and not game.active()


def test_a_lane_whose_worker_was_given_up_holds_nothing_up() -> None:
    game = calibrated(lanes=2, experiments=4)
    game.record(orders.vacate(game.board, 1, "its node is gone", game.now))
    del game.orders["gpu1"]
    game.play(100)
    assert game.board.counted == 4 and game.board.closed is not None and game.board.closed.finished


@pytest.mark.parametrize("limit", [{"experiments": 3}, {"hours": 0.001}])
def test_what_was_left_unfinished_is_not_ordered_again_past_a_limit(limit: dict[str, float]) -> None:
    game = calibrated(lanes=8)
    for index in range(2):
        game.turn(f"gpu{index}", value(2.0))
    game.record([Resumed(game.now + 10, program(**limit), "0")])
    game.now += 20
    game.orders.clear()
    for index in range(8):
        game.sit(f"gpu{index}", index)
    game.play(100)
    assert game.board.counted == (3 if "experiments" in limit else 2)


def test_where_no_change_does_anything_hardly_a_night_publishes_one() -> None:
    published = 0
    for seed in range(30):
        game = Game.of(4, seed, experiments=60)
        game.propose = lambda game, parent: 0.0
        game.play(2000)
        published += bool(game.board.published)
    assert published <= 7  # 3 of these 30; a rule of one standard error publishes in most


def test_what_was_lost_does_not_count_as_an_experiment() -> None:
    game = calibrated(experiments=2)
    game.turn("gpu0", failed(FailureKind.MACHINE))
    assert game.board.counted == 0 and isinstance(game.orders["gpu0"], Propose)


def test_hours_stop_even_what_is_undecided_and_do_not_count_the_time_between_sessions() -> None:
    game = calibrated(hours=1.0)
    game.turn("gpu0", value(0.9))
    game.now = 3600.0
    assert isinstance(game.turn("gpu0", value(0.9)), Stop)
    short, long = calibrated(hours=1.0), 1_000_000.0
    short.now = 1000.0
    short.turn("gpu0", value(2.0))
    short.record([Resumed(long, program(hours=1.0), "0")])
    assert short.board.elapsed_seconds(long) == pytest.approx(1001.0)


def test_a_target_that_is_confirmed_ends_the_run() -> None:
    game = calibrated(target=0.9)
    assert isinstance(game.turn("gpu0", value(0.89)), Remeasure)
    order = game.turn("gpu0", value(0.89))
    assert isinstance(order, Stop) and "target" in order.reason


def test_a_plateau_ends_the_run_and_a_new_best_puts_it_off() -> None:
    game = calibrated(plateau=3)
    game.turn("gpu0", value(2.0))
    game.turn("gpu1", value(2.0))
    game.turn("gpu0", value(0.8))
    assert isinstance(game.turn("gpu0", value(0.8)), Propose)
    for _ in range(2):
        assert isinstance(game.turn("gpu0", value(2.0)), Propose)
    assert isinstance(game.turn("gpu0", value(2.0)), Stop)


def test_money_that_is_spent_ends_the_run() -> None:
    game = calibrated(cost_usd=1.0)
    assert isinstance(game.turn("gpu0", value(2.0), usage=Usage(cost_usd=0.6)), Propose)
    assert isinstance(game.turn("gpu0", value(2.0), usage=Usage(cost_usd=0.6)), Stop)


def test_agents_that_always_fail_end_the_run_and_their_gpus_work_meanwhile() -> None:
    game = calibrated(lanes=2)
    kinds = []
    while game.active():
        order = game.orders[game.active()[0]]
        kinds.append(type(order))
        outcome = value(1.0) if isinstance(order, Remeasure) else failed(FailureKind.AGENT)
        game.turn(game.active()[0], outcome)
    assert game.board.closed is not None and game.board.closed.failed and "why" in game.board.closed.reason
    assert Remeasure in kinds and len(kinds) < 20


def test_one_failing_agent_among_many_does_not_end_the_run() -> None:
    game = calibrated(lanes=2)
    for _ in range(20):
        if isinstance(game.orders["gpu0"], Propose):
            game.turn("gpu0", failed(FailureKind.AGENT))
        else:
            game.turn("gpu0", value(1.0))
        game.turn("gpu1", value(2.0))
    assert game.board.closed is None


# --- Faults ----------------------------------------------------------------------------------------------------------


def test_a_hand_in_that_comes_twice_counts_once_and_gets_the_order_that_stands() -> None:
    game = calibrated()
    attempt = game.attempt("gpu0", value(2.0))
    first = game.hand_in(attempt)
    attempts, lines = game.board.attempts, len(game.lines)
    assert game.hand_in(attempt) == first
    assert (game.board.attempts, len(game.lines)) == (attempts, lines)


def test_a_hand_in_of_an_earlier_sitting_is_told_to_stop_and_not_counted() -> None:
    game = calibrated()
    late = game.attempt("gpu0", value(0.5))
    order = game.orders["gpu0"]
    assert game.sit("gpu0", 0) == order
    attempts = game.board.attempts
    assert isinstance(game.hand_in(late), Stop)
    assert game.board.attempts == attempts and game.orders["gpu0"] == order
    assert not isinstance(game.turn("gpu0", value(0.9)), Stop)


def test_a_run_that_is_taken_up_goes_on_where_it_was_and_does_not_measure_the_baseline_again() -> None:
    game = calibrated(experiments=4)
    game.turn("gpu0", value(0.9))
    pending = game.orders["gpu0"]
    game.record([Resumed(game.now, program(experiments=4), "0")])
    assert game.sit("gpu0", 0) == pending
    game.turn("gpu0", value(0.9))
    game.play(100)
    assert game.board.counted == 4 and game.board.score("base") is not None
    assert game.board.score("base").n == 2  # type: ignore[union-attr]


def test_lanes_that_nobody_sits_on_any_more_hold_nothing_up() -> None:
    game = calibrated(lanes=4, experiments=6)
    game.record([Resumed(game.now, program(experiments=6), "0")])
    game.orders.clear()
    game.sit("gpu0", 0)
    game.play(200)
    assert game.board.counted == 6


# --- What holds whatever happens -------------------------------------------------------------------------------------

MISHAPS = (
    None,
    *(failed(kind) for kind in FailureKind if kind not in (FailureKind.AGENT, FailureKind.MACHINE)),
    failed(FailureKind.AGENT),
    failed(FailureKind.MACHINE),
)


def state(board: Board) -> dict[str, object]:
    """All of a board, in a form that compares."""
    plain = {name: each for name, each in vars(board).items() if name != "_noise"}
    return {**plain, "noise": vars(board._noise)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lanes=st.integers(1, 5),
    every=st.integers(1, 6),
    direction=st.sampled_from(Direction),
    policy=st.sampled_from([Confirm(), Greedy()]),
    noise=st.sampled_from([0.0, 0.001, 0.02]),
    mishaps=st.floats(0.0, 0.6),
)
def test_invariants_of_random_runs(
    seed: int, lanes: int, every: int, direction: Direction, policy: object, noise: float, mishaps: float
) -> None:
    game = Game.of(lanes, seed, policy, direction=direction, every=every, experiments=40)  # type: ignore[arg-type]
    game.noise = noise
    heads = dict.fromkeys(game.orders, "base")
    for _ in range(120):
        if not game.active():
            break
        lane = game.chance.choice(game.active())
        before, seen = state(game.board), len(game.lines)
        attempt = game.attempt(lane, game.chance.choice(MISHAPS) if game.chance.random() < mishaps else None)
        if game.chance.random() < 0.1:
            game.sit(lane, game.board.lanes[lane].seat.worker)
            attempt = game.attempt(lane) if not isinstance(game.orders[lane], Stop) else attempt
        else:
            assert state(game.board) == before  # making an attempt and deciding on it change nothing by themselves
        game.hand_in(attempt)
        if game.chance.random() < 0.1:
            game.hand_in(attempt)
        for event in [each for line in game.lines[seen:] for each in line]:
            if isinstance(event, Moved):
                heads[event.lane] = event.head
            if isinstance(event, Moved | Judged | Measured):
                who = event.attempt.lane if isinstance(event, Measured) else event.lane
                assert who == lane  # only a lane's own hand-in moves its branch
        for name, each in game.board.lanes.items():
            assert each.head == heads[name]
            assert game.board.at(each.head) is not None
    board = game.board
    assert state(replayed(game.lines)) == state(board)
    assert [ledger.decode(ledger.encode(line)) for line in game.lines] == [tuple(line) for line in game.lines]
    for event in [each for line in game.lines for each in line if isinstance(each, Published)]:
        score = board.at(event.commit)
        assert score is not None and event.measurements >= game.policy.confirmations
    measured = [each for line in game.lines for each in line if isinstance(each, Measured)]
    assert len({each.attempt.id for each in measured}) == len(measured) == board.attempts
    judged = [each.id for line in game.lines for each in line if isinstance(each, Judged)]
    assert len(set(judged)) == len(judged)
    assert sum(isinstance(each, Closed) for line in game.lines for each in line) <= 2
    assert sum(board.counts.values()) == len(board.experiments) - 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), lanes=st.integers(1, 6))
def test_without_noise_the_published_best_never_gets_worse(seed: int, lanes: int) -> None:
    game = Game.of(lanes, seed, experiments=60)
    game.noise = 0.0
    game.play(400)
    values = [each.value for each in game.board.published]
    assert values == sorted(values, reverse=True)
    assert all(game.truth[each.commit] == pytest.approx(each.value) for each in game.board.published)


def test_decide_looks_and_changes_nothing() -> None:
    game = calibrated(lanes=3)
    game.play(30)
    game.orders["gpu0"] = game.board.lanes["gpu0"].order or game.orders["gpu0"]
    attempt = game.attempt("gpu0")
    before = repr(state(game.board))
    first = orders.decide(game.board, attempt, 99.0, game.policy)
    assert repr(state(game.board)) == before
    assert orders.decide(game.board, attempt, 99.0, game.policy) == first


def test_seeds_differ_between_attempts_and_follow_from_the_tag() -> None:
    game, other = Game.of(2, experiments=30), Game.of(2, experiments=30)
    game.play(200)
    other.play(200)
    seeds = [each.attempt.measurement.seed for line in game.lines for each in line if isinstance(each, Measured)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [
        each.attempt.measurement.seed for line in other.lines for each in line if isinstance(each, Measured)
    ]


def test_auto_lanes_follow_from_agent_and_evaluation_seconds() -> None:
    game = Game.of(1)
    game.board.program = program(lanes="auto")
    assert lanes_wanted(game.board) == 1  # nothing is known yet
    game.turn("gpu0", value(1.0))
    game.turn("gpu0", value(1.0))
    for seconds, lanes in ((1.0, 1), (30.0, 2), (100.0, 3), (10_000.0, 4)):
        game.board.agent_seconds = seconds
        assert lanes_wanted(game.board) == lanes


def test_replay_beats_no_sharing_on_additive_worlds() -> None:
    """What the losers found adds up on the best."""

    def world(game: Game, parent: str) -> float:
        return (
            -game.chance.expovariate(1 / 0.0015) if game.chance.random() < 0.2 else game.chance.expovariate(1 / 0.004)
        )

    def gain(every: int) -> float:
        total = 0.0
        for seed in range(4):
            game = Game.of(16, seed, experiments=400, every=every)
            game.propose = world
            game.play(4000)
            assert game.board.best is not None and game.board.best.commit is not None
            total += 1.0 - game.truth[game.board.best.commit]
        return total

    assert gain(every=4) > 1.5 * gain(every=10_000)
