"""The rules, one by one. Verdicts have a file of their own, `test_verdicts.py`, and so has what holds whatever
happens, `test_invariants.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray import orders
from autoresearch_ray.events import Closed, Event, Ordered, Resumed
from autoresearch_ray.model import (
    Also,
    Direction,
    Experiment,
    FailureKind,
    Measurement,
    Propose,
    Remeasure,
    Replay,
    Status,
    Stop,
    Usage,
    Wait,
)
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.policies.greedy import Greedy
from autoresearch_ray.ports import Policy
from benchmarks.world import EVALUATION_SECONDS, Landscape, Run
from tests.game import Game, calibrated, events, failed, program, value

POLICIES = [Bayes, Confirm, Greedy]


def led(**words: object) -> tuple[Game, str]:
    """gpu0 stands on the published best, worth 0.8; gpu1 has been on it once, and stands on the base."""
    game = calibrated(**words)  # type: ignore[arg-type]
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    commit = game.board.lanes["gpu0"].head
    assert game.board.nominee is not None and game.board.nominee.commit == commit
    game.turn("gpu1", failed(FailureKind.MACHINE))
    game.turn("gpu1", value(0.8))
    assert [each.commit for each in game.board.published] == [commit]
    return game, commit


def counted(game: Game) -> list[Experiment]:
    statuses = (Status.KEEP, Status.DISCARD, Status.CRASH)
    return [each for each in game.board.experiments[1:] if each.status in statuses]


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


def test_at_most_sixteen_slots_of_a_class_measure_the_base() -> None:
    game = Game.of(20)
    kinds = [type(order) for order in game.orders.values()]
    assert kinds == [Remeasure] * 16 + [Propose] * 4
    two = Game.of(40, biases={"A": 0.0, "B": 0.3})
    by_class = {
        name: sum(
            isinstance(two.orders[lane], Remeasure)
            for lane, each in two.board.lanes.items()
            if each.seat.device_class == name
        )
        for name in two.biases
    }
    assert by_class == {"A": 16, "B": 16}


def test_a_slot_that_sits_down_when_sixteen_have_measured_the_base_proposes() -> None:
    game = calibrated(lanes=16)
    assert isinstance(game.sit("gpu16", 16), Propose)


def test_one_lane_confirms_its_baseline_before_it_proposes() -> None:
    game = Game.of(1, policy=Confirm())
    assert isinstance(game.turn("gpu0", value(1.0)), Remeasure)
    assert isinstance(game.turn("gpu0", value(1.01)), Propose)
    assert game.board.noise == pytest.approx(0.01 / 2**0.5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_the_base_is_measured_on_every_slot_and_as_often_as_a_best(lanes: int, policy: Callable[[], Policy]) -> None:
    game = calibrated(lanes, policy())
    assert all(isinstance(order, Propose) for order in game.orders.values())
    assert game.board.evaluations == max(lanes, game.policy.confirmations)


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


def test_a_class_on_which_the_baseline_fails_does_not_hold_up_the_others() -> None:
    game = Game.of(0, biases={"A": 0.0, "B": 0.0})
    game.sit("gpu0", 0, "A")
    game.sit("gpu1", 1, "B")
    assert isinstance(game.sit("gpu0b", 0, "A"), Propose)
    game.turn("gpu0b", value(0.9))  # the first value of all, and its class will never have the base's
    for lane in ("gpu0", "gpu0b"):
        for _ in range(20):
            if lane in game.active():
                game.turn(lane, failed(FailureKind.CRASH))
    given = [game.turn("gpu1", value(1.0 + 0.001 * number)) for number in range(4)]
    assert Propose in map(type, given)


# --- Verdicts --------------------------------------------------------------------------------------------------------


def test_a_clear_gain_that_would_be_the_best_is_measured_on_a_second_device_before_it_is_published() -> None:
    game = calibrated()
    order = game.turn("gpu0", value(0.9))
    commit = game.board.experiments[1].commit
    assert isinstance(order, Remeasure) and order.commit == commit
    assert game.board.nominee is None
    assert isinstance(game.turn("gpu0", value(0.902)), Propose)
    assert game.board.nominee is not None and game.board.nominee.commit == commit
    assert not game.board.published and game.board.lanes["gpu0"].head == commit
    order = game.turn("gpu1", value(2.0))
    assert isinstance(order, Remeasure) and order.commit == commit and "another device" in order.why
    assert isinstance(game.turn("gpu1", value(0.904)), Propose)
    best = game.board.best
    assert best is not None and best.status is Status.KEEP and best.values == (0.9, 0.902, 0.904)
    assert best.commit == commit and game.board.published[-1].measurements == 3
    assert game.board.published[-1].value == pytest.approx(0.902) and game.board.nominee is None
    assert game.board.lanes["gpu1"].head == "base"  # only a lane's own hand-in moves its branch


def test_one_device_alone_confirms_the_best_by_itself() -> None:
    game = calibrated(lanes=1)
    assert isinstance(game.turn("gpu0", value(0.9)), Remeasure)
    assert isinstance(game.turn("gpu0", value(0.9)), Propose)
    assert game.board.published[-1].measurements == 2


def test_a_second_lane_of_the_same_slot_is_no_second_device() -> None:
    game = calibrated()
    game.sit("gpu0b", 0)
    game.turn("gpu0", value(0.9))
    game.turn("gpu0", value(0.9))
    assert isinstance(game.turn("gpu0b", value(2.0)), Propose)
    assert not game.board.published
    game.turn("gpu1", value(2.0))
    game.turn("gpu1", value(0.9))
    assert game.board.published


def test_a_device_that_was_given_up_is_not_waited_for() -> None:
    game = calibrated()
    game.turn("gpu0", value(0.9))
    game.turn("gpu0", value(0.9))
    game.vacate(1)
    game.turn("gpu0", value(2.0))
    assert game.board.published


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
        (FailureKind.NO_EFFECT, Status.DISCARD),
        (FailureKind.DUPLICATE, Status.DISCARD),
        (FailureKind.GUARD, Status.DISCARD),
        (FailureKind.AGENT, Status.LOST),
        (FailureKind.MACHINE, Status.LOST),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_failure_is_a_verdict_with_its_reason_and_never_a_number(
    policy: Callable[[], Policy], kind: FailureKind, status: Status
) -> None:
    game = calibrated(policy=policy())
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


# --- A guard that was broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_what_breaks_the_guard_is_made_once_more_twice_and_then_given_up(policy: Callable[[], Policy]) -> None:
    game = calibrated(policy=policy(), guard="make guard")
    first = game.turn("gpu0", failed(FailureKind.GUARD, "assert 1 == 2"))
    broken = game.board.experiments[1]
    assert isinstance(first, Propose) and first.rework is not None
    assert (first.rework.id, first.rework.commit, first.rework.fault) == (broken.id, broken.commit, "assert 1 == 2")
    assert first.rework.times == 1 and first.parent == "base"
    second = game.turn("gpu0", failed(FailureKind.GUARD, "assert 2 == 3"))
    assert isinstance(second, Propose) and second.rework is not None and second.rework.times == 2
    assert second.rework.commit == game.board.experiments[2].commit and second.parent == "base"
    third = game.turn("gpu0", failed(FailureKind.GUARD))
    assert isinstance(third, Propose) and third.rework is None
    assert [each.status for each in game.board.experiments[1:]] == [Status.DISCARD] * 3


def test_a_rework_that_holds_is_a_candidate_like_any_other() -> None:
    game = calibrated(guard="make guard")
    game.turn("gpu0", failed(FailureKind.GUARD))
    game.turn("gpu0", value(0.9))
    game.turn("gpu0", value(0.9))
    assert game.board.experiments[2].status is Status.KEEP and game.board.experiments[2].parent == "base"
    order = game.turn("gpu0", failed(FailureKind.GUARD))
    assert isinstance(order, Propose) and order.rework is not None and order.rework.times == 1  # of another idea


def test_nothing_is_mended_in_a_run_that_ends() -> None:
    game = calibrated(lanes=1, guard="make guard", experiments=1)
    assert isinstance(game.turn("gpu0", failed(FailureKind.GUARD)), Stop)
    late = calibrated(lanes=1, guard="make guard")
    late.record(orders.close(late.board, "enough", late.now))
    assert isinstance(late.turn("gpu0", failed(FailureKind.GUARD)), Stop)


# --- Moving onto the best --------------------------------------------------------------------------------------------


def test_a_loser_replays_its_own_commits_onto_the_best_and_never_inherits_a_number() -> None:
    game, best = led(every=3)
    game.turn("gpu1", value(0.95))  # kept at once: it is not the best
    own = game.board.lanes["gpu1"].head
    assert own not in ("base", best)
    order = game.turn("gpu1", value(2.0))
    assert isinstance(order, Replay) and order.parent == best and order.commits == (own,)
    attempt = game.attempt("gpu1", value(0.75))
    assert attempt.commit is not None and game.board.score(attempt.commit) is None
    assert isinstance(game.hand_in(attempt), Remeasure)
    game.turn("gpu1", value(0.75))
    assert game.board.lanes["gpu1"].own == (attempt.commit,)
    assert game.board.best is not None and game.board.best.commit == best
    game.turn("gpu0", value(2.0))
    game.turn("gpu0", value(0.75))
    assert game.board.best.kind == "replay" and game.board.best.commit == attempt.commit


@pytest.mark.parametrize("outcome", [value(0.9), failed(FailureKind.CONFLICT), failed(FailureKind.CRASH)])
def test_a_replay_that_does_not_pay_stands_on_the_best(outcome: Measurement) -> None:
    game, best = led(every=3)
    game.turn("gpu1", value(0.95))
    assert isinstance(game.turn("gpu1", value(2.0)), Replay)
    game.turn("gpu1", outcome)
    lane = game.board.lanes["gpu1"]
    assert (lane.head, lane.own) == (best, ())


def test_a_replay_that_the_machine_lost_leaves_the_lane_where_it_stood() -> None:
    game, _ = led(every=3)
    game.turn("gpu1", value(0.95))
    before = game.board.lanes["gpu1"].head, game.board.lanes["gpu1"].own
    assert isinstance(game.turn("gpu1", value(2.0)), Replay)
    game.turn("gpu1", failed(FailureKind.MACHINE))
    assert (game.board.lanes["gpu1"].head, game.board.lanes["gpu1"].own) == before


def test_a_head_that_leads_because_the_best_was_luck_is_confirmed_before_it_is_published() -> None:
    game, best = led(every=50)
    game.turn("gpu1", value(0.95))
    head = game.board.lanes["gpu1"].head
    assert head not in ("base", best) and game.board.nominee is None
    for _ in range(2):
        order = game.turn("gpu0", failed(FailureKind.AGENT))
    assert isinstance(order, Remeasure) and order.commit == best
    game.turn("gpu0", value(1.9))  # the best was luck: its mean is worse than what gpu1 stands on
    order = game.turn("gpu1", value(3.0))
    assert isinstance(order, Remeasure) and order.commit == head
    assert game.board.nominee is not None and game.board.nominee.commit == head
    assert [each.commit for each in game.board.published] == [best]


def test_a_loser_with_nothing_of_its_own_just_stands_on_the_best() -> None:
    game, best = led(every=1)
    order = game.turn("gpu1", value(2.0))
    assert game.board.lanes["gpu1"].head == best
    assert isinstance(order, Propose) and order.parent == best
    sigma = game.board.evidence.sigma("")
    assert sigma is not None and order.beat == pytest.approx(0.8 + 3 * sigma)


def test_the_leader_never_moves() -> None:
    game = calibrated(lanes=3, every=1)
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    head = game.board.lanes["gpu0"].head
    game.turn("gpu1", value(2.0))
    game.turn("gpu1", value(0.8))
    assert game.board.best is not None and game.board.best.commit == head
    for _ in range(5):
        game.turn("gpu0", value(2.0))
    assert game.board.lanes["gpu0"].head == head


# --- The nominee -----------------------------------------------------------------------------------------------------


def test_the_best_is_measured_on_another_class_where_there_is_one() -> None:
    game = Game.of(3, biases={"A": 0.0, "B": 0.5, "C": 0.7}, policy=Confirm())
    for lane, number in (("gpu0", 1.0), ("gpu0", 1.001), ("gpu1", 1.5), ("gpu2", 1.7)):
        game.turn(lane, value(number))
    game.sit("gpu3", 3, "A")
    game.turn("gpu3", value(1.001))
    game.turn("gpu0", value(0.8))
    game.turn("gpu0", value(0.8))
    assert isinstance(game.turn("gpu3", value(2.0)), Propose)  # of the same class: it would tell less
    assert not game.board.published
    order = game.turn("gpu2", value(2.7))
    assert isinstance(order, Remeasure) and order.commit == game.board.lanes["gpu0"].head
    assert isinstance(game.turn("gpu1", value(2.5)), Propose)  # one other class is enough, and gpu2 is at it
    game.turn("gpu2", value(1.5))
    assert game.board.published[-1].value == pytest.approx(0.8, abs=0.001)  # as it reads on the first class


@pytest.mark.parametrize("policy", [Bayes, Confirm])
def test_what_would_be_the_best_and_does_not_run_on_the_other_device_is_refused(policy: Callable[[], Policy]) -> None:
    game = calibrated(policy=policy(), experiments=6, every=50)
    game.turn("gpu0", value(0.8))
    nominee = game.board.experiments[1].commit
    assert nominee is not None
    for _ in range(100):
        if not game.active():
            break
        lane = game.active()[game.board.attempts % len(game.active())]
        order = game.orders[lane]
        if not isinstance(order, Remeasure):
            outcome = value(2.0)
        elif order.commit == nominee:
            outcome = failed(FailureKind.OOM) if lane == "gpu1" else value(0.8)
        else:
            outcome = value(1.0)
        game.turn(lane, outcome)
    assert not game.active(), "it is measured there for ever"
    assert nominee in game.board.refused and not game.board.published


@pytest.mark.parametrize("policy", [Bayes, Confirm])
def test_a_device_that_fails_whatever_it_measures_does_not_keep_a_run_from_ending(policy: Callable[[], Policy]) -> None:
    game = calibrated(policy=policy(), experiments=6, every=50)
    for _ in range(100):
        if not game.active():
            break
        lane = game.active()[game.board.attempts % len(game.active())]
        order = game.orders[lane]
        good = value(0.8 if not isinstance(order, Remeasure) or order.commit != "base" else 1.0)
        game.turn(lane, failed(FailureKind.CRASH) if lane == "gpu1" else good)
    assert not game.active(), "it is measured there for ever"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_run_that_is_taken_up_on_devices_of_another_class_goes_on(policy: Callable[[], Policy], lanes: int) -> None:
    game = Game.of(0, 5, policy(), {"A": 0.0, "B": 0.5}, experiments=20)
    for index in range(lanes):
        game.sit(f"gpu{index}", index, "A")
    game.play(15)
    known = len(game.board.published)
    game.resume()
    for index in range(lanes):
        game.sit(f"gpu{index}", index, "B")
    game.propose = lambda game, parent: -0.01
    game.play(600)
    assert not game.active() and len(game.board.published) > known
    assert game.board.evidence.on("base", "B") is not None  # without it, no value of the class has a place


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_lane_on_whose_device_the_best_does_not_run_does_not_build_on_it_for_ever(
    policy: Callable[[], Policy], own: bool
) -> None:
    """Neither by proposing on it nor, with `own` changes that were kept, by replaying these onto it."""
    game = Game.of(3, 0, policy(), {"A": 0.0, "B": 0.0, "C": 0.0}, every=1)
    for index in range(3):
        game.turn(f"gpu{index}", value(1.0 + 0.001 * index))
    while own and game.board.counted == 0:
        game.turn("gpu2", value(0.99))
    values = {**dict.fromkeys(game.truth, 0.99), "base": 1.0}
    for turn in range(60):
        lane = f"gpu{turn % 2}"
        attempt = game.attempt(lane, value(1.0))
        number = values.setdefault(attempt.commit or "", 0.8 if lane == "gpu0" else 2.0)
        game.hand_in(replace(attempt, measurement=value(number)))
        if game.board.published and game.board.published[-1].value < 0.9:
            break
    best = game.board.published[-1].commit
    heavy = game.changes[best][-1]
    assert game.board.evidence.on(best, "C") is None
    given = []
    for _ in range(60):
        order = game.orders["gpu2"]
        if isinstance(order, Stop):
            return
        given.append(order)
        fits = not isinstance(order, Remeasure) or heavy not in game.changes[order.commit]
        game.turn("gpu2", value(1.5) if fits else failed(FailureKind.OOM))
    assert [order for order in given[-20:] if isinstance(order, Propose | Replay) and order.parent == best] == []


# --- Gathering -------------------------------------------------------------------------------------------------------


def gathered(lanes: int = 2, **words: object) -> Game:
    """The base is known on every lane, as 1.0; sigma is taken to be about 0.005 at first."""
    return calibrated(lanes, Bayes(), **words)


def keeps(game: Game, lane: str, gain: float) -> str:
    """`lane` proposes a change of this gain, which is kept. Its commit."""
    number = len(game.board.experiments)
    order = game.orders[lane]
    assert isinstance(order, Propose)
    parent = game.board.score(order.parent)
    assert parent is not None
    for _ in range(40):
        game.turn(lane, value(parent.mean - gain))
        if game.board.experiments[number].status is not Status.PENDING:
            break
    kept = game.board.experiments[number]
    assert kept.status is Status.KEEP and kept.commit is not None
    return kept.commit


def small(game: Game) -> float:
    """A gain that is kept and not enough to be gathered."""
    return 3.2 * (game.board.evidence.sigma("") or 0.0)


def test_a_kept_change_that_is_all_there_is_becomes_the_best_without_a_replay() -> None:
    game = gathered()
    game.turn("gpu0", value(0.9))
    kept = game.board.experiments[1]
    assert kept.status is Status.KEEP and game.board.nominee is not None
    assert game.board.nominee.commit == kept.commit
    order = game.orders["gpu0"]
    assert isinstance(order, Remeasure) and order.commit == kept.commit
    game.turn("gpu1", value(2.0))
    game.turn("gpu1", value(0.9))
    game.turn("gpu0", value(0.9))
    assert game.board.best is not None and game.board.best.commit == kept.commit
    assert not any(isinstance(each, Ordered) and isinstance(each.order, Replay) for each in events(game))
    assert game.board.pool.next_kept(64) == []


def test_kept_changes_are_brought_together_when_they_are_enough_to_be_told_from_the_noise() -> None:
    game = gathered(lanes=3)
    first = keeps(game, "gpu0", small(game))
    assert game.board.lanes["gpu0"].head == "base"  # lanes stand on the best, and that is still the base
    assert isinstance(game.orders["gpu0"], Propose) and game.board.nominee is None
    second = keeps(game, "gpu1", small(game))
    order = game.orders["gpu1"]
    assert isinstance(order, Replay) and order.parent == "base" and set(order.commits) == {first, second}
    game.turn("gpu1", value(1.0 - 2 * small(game)))
    together = game.board.experiments[-1]
    assert together.status is Status.KEEP and together.picked == order.commits
    assert game.board.nominee is not None and game.board.nominee.commit == together.commit
    assert game.board.contains(together.commit or "") == {first, second}


def test_only_one_lane_at_a_time_brings_changes_together() -> None:
    game = gathered(lanes=4)
    for lane in ("gpu0", "gpu1"):
        keeps(game, lane, small(game))
    assert isinstance(game.orders["gpu1"], Replay)
    for lane in ("gpu2", "gpu3", "gpu0"):
        keeps(game, lane, small(game))
        assert isinstance(game.orders[lane], Propose)
    assert game.board.nominee is None  # it would lack what is being brought together


@pytest.mark.parametrize("how", ["given up", "taken up"])
def test_only_one_lane_gathers_when_the_one_that_did_comes_back(how: str) -> None:
    game = gathered(lanes=3)
    for lane in ("gpu0", "gpu1"):
        keeps(game, lane, small(game))
    assert isinstance(game.orders["gpu1"], Replay)
    if how == "given up":
        game.vacate(1)
        game.turn("gpu0", value(2.0))
    else:
        game.resume()
        game.sit("gpu0", 0)
        game.turn("gpu0", value(2.0))
    game.sit("gpu1", 1)
    replays = [each.commits for each in game.orders.values() if isinstance(each, Replay)]
    assert len(replays) == 1


def test_a_group_that_brings_nothing_is_halved_until_the_change_that_does_harm_is_alone() -> None:
    game = gathered(lanes=5)
    kept = [keeps(game, f"gpu{index}", small(game)) for index in range(2)]
    tried = game.orders["gpu1"]
    assert isinstance(tried, Replay) and set(tried.commits) == set(kept)
    game.turn("gpu1", value(1.2))
    assert game.board.experiments[-1].status is Status.DISCARD
    assert game.board.lanes["gpu1"].head == "base"
    assert [len(game.board.pool.next_kept(64))] == [1]  # one at a time from now on
    assert all(game.board.pool.is_kept(each) for each in kept)


def test_a_group_of_which_nothing_can_be_picked_is_dropped() -> None:
    game = gathered(lanes=3)
    kept = [keeps(game, f"gpu{index}", small(game)) for index in range(2)]
    order = game.orders["gpu1"]
    assert isinstance(order, Replay)
    attempt = game.attempt("gpu1", failed(FailureKind.CONFLICT))
    game.hand_in(replace(attempt, commit=None, line=(), picked=(), left_out=order.commits))
    assert not any(game.board.pool.is_kept(each) for each in kept)
    assert game.board.lanes["gpu1"].head == "base"


def test_what_conflicts_stays_out_of_what_is_brought_together() -> None:
    game = gathered(lanes=3)
    kept = [keeps(game, f"gpu{index}", small(game)) for index in range(2)]
    attempt = game.attempt("gpu1", value(1.0 - 2 * small(game)))
    game.hand_in(replace(attempt, line=attempt.line[:1], picked=attempt.picked[:1], left_out=attempt.picked[1:]))
    assert game.board.experiments[-1].status is Status.KEEP
    assert game.board.contains(attempt.commit or "") == {attempt.picked[0]}
    assert [game.board.pool.is_kept(each) for each in kept] == [each == attempt.picked[0] for each in kept]


def test_a_gathering_that_the_machine_lost_is_tried_again_as_it_was() -> None:
    game = gathered(lanes=3)
    kept = [keeps(game, f"gpu{index}", small(game)) for index in range(2)]
    order = game.turn("gpu1", failed(FailureKind.MACHINE))
    assert isinstance(order, Replay) and set(order.commits) == set(kept)


class Hasty(Bayes):
    """Decides on the first value: so near misses are made in one turn."""

    most = 1


def near(lanes: int, groups: int) -> Game:
    """`lanes` lanes, and as many near misses as make that many groups."""
    game = calibrated(lanes, Hasty())
    for _ in range(200):
        if sum(isinstance(each, Replay) for each in game.orders.values()) >= groups:
            return game
        lane = next(name for name, each in game.orders.items() if not isinstance(each, Replay))
        order = game.orders[lane]
        game.turn(lane, value(1.0 if isinstance(order, Remeasure) else 0.9985))
    raise AssertionError("no group came together")


def test_near_misses_are_tried_in_groups_several_at_once_and_no_change_in_two_of_them() -> None:
    game = near(4, 2)
    groups = [each for each in game.orders.values() if isinstance(each, Replay)]
    assert len(groups) == 2 and all(len(each.commits) >= 2 and "near misses" in each.why for each in groups)
    tried = [commit for each in groups for commit in each.commits]
    assert len(tried) == len(set(tried))
    assert not any(game.board.pool.is_kept(each) for each in tried)


def test_near_misses_of_a_group_that_was_kept_are_kept_and_become_the_best_together() -> None:
    game = near(2, 1)
    lane, order = next((name, each) for name, each in game.orders.items() if isinstance(each, Replay))
    game.turn(lane, value(0.9))
    assert all(game.board.pool.is_kept(each) for each in order.commits)
    assert game.board.nominee is not None and game.board.at(game.board.nominee.commit).picked == order.commits  # type: ignore[union-attr]


def test_near_misses_of_a_group_that_brings_nothing_are_tried_in_smaller_groups() -> None:
    game = near(2, 1)
    lane, order = next((name, each) for name, each in game.orders.items() if isinstance(each, Replay))
    game.turn(lane, value(1.5))
    again = game.board.pool.next_missed(16, ())
    fresh = [each for each in again if each.commit not in order.commits]
    assert fresh or len(again) <= len(order.commits) // 2


def test_a_group_that_was_kept_before_is_nominated_and_not_measured_once_more() -> None:
    game = near(4, 1)
    trying, order = next((name, each) for name, each in game.orders.items() if isinstance(each, Replay))
    others = [name for name in game.orders if name != trying]
    while not any(isinstance(game.orders[name], Replay) for name in others):
        for name in others:
            while not isinstance(game.orders[name], Propose | Replay):
                game.turn(name, value(1.0))
            if not any(isinstance(game.orders[each], Replay) for each in others):
                keeps(game, name, small(game))
    gathering = next(name for name in others if isinstance(game.orders[name], Replay))
    game.turn(trying, value(0.9))
    together = game.board.experiments[-1]
    assert together.status is Status.KEEP and game.board.nominee is None  # another lane is bringing changes together
    game.turn(gathering, value(1.5))
    assert game.board.experiments[-1].status is Status.DISCARD
    again = [each for each in game.orders.values() if isinstance(each, Replay) and each.commits == order.commits]
    assert again == []
    assert game.board.nominee is not None and game.board.nominee.commit == together.commit


def test_what_breaks_a_limit_is_no_near_miss() -> None:
    game = gathered(also=(Also("latency", Direction.LOWER, limit=0.1),))
    for lane in ("gpu0", "gpu1"):
        game.board.others["latency"].add("base", "", 10.0)
        game.turn(lane, replace(value(0.8), also={"latency": 20.0}))
    assert [each.status for each in game.board.experiments[1:]] == [Status.DISCARD] * 2
    assert game.board.pool.next_missed(16, ()) == []


def test_what_many_are_compared_with_is_measured_by_the_root_of_their_number() -> None:
    game = gathered(lanes=1)
    asked = 0
    while game.board.counted < 60:
        order = game.orders["gpu0"]
        asked += isinstance(order, Remeasure)
        game.turn("gpu0", value(1.0 if isinstance(order, Remeasure) else 2.0))
        score = game.board.evidence.on("base", "")
        assert score is not None
        if isinstance(game.orders["gpu0"], Propose):
            assert score.n**2 >= game.board.compared("base", "") > (score.n - 1) ** 2 or score.n == 2
    assert game.board.evidence.on("base", "").n == math.isqrt(59) + 1 == asked + 2  # type: ignore[union-attr]


def test_several_lanes_do_not_measure_a_vague_parent_more_often_than_one_does() -> None:
    game = Game.of(8, policy=Bayes(), experiments=200)
    game.propose = lambda game, parent: 1.0
    game.play(2000)
    assert not game.active()
    assert game.board.evidence.on("base", "").n <= math.sqrt(200) + 2  # type: ignore[union-attr]


# --- Ending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lanes", [1, 2, 5, 8])
def test_exactly_so_many_experiments_are_run(lanes: int, policy: Callable[[], Policy]) -> None:
    """What a run that ends brings together comes on top: nothing else does."""
    for seed in range(8):
        game = Game.of(lanes, seed, policy(), experiments=17)
        game.play(3000)
        assert not game.active() and game.board.counts[Status.PENDING] == 0
        line = next(at for at, each in enumerate(game.lines) if any(isinstance(event, Closed) for event in each))
        ordered = {each.order.id for each in _ordered(game.lines[: line + 1], closing=False)}
        on_top = [each for each in counted(game) if each.id not in ordered]
        assert game.board.counted - len(on_top) == 17
        assert all(each.kind == "replay" for each in on_top)
        assert not on_top or game.policy.gathers


def _ordered(lines: list[list[Event]], *, closing: bool) -> list[Ordered]:
    """Orders but for Stop that were given before the run closed, or after that."""
    closed, found = False, []
    for each in (each for line in lines for each in line):
        closed = closed or isinstance(each, Closed)
        if isinstance(each, Ordered) and not isinstance(each.order, Stop) and closed is closing:
            found.append(each)
    return found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lanes", [1, 2, 6])
def test_a_run_that_ends_proposes_nothing_more_and_leaves_nothing_open(
    lanes: int, policy: Callable[[], Policy]
) -> None:
    for seed in range(6):
        game = Game.of(lanes, seed, policy(), experiments=60)
        game.propose = lambda game, parent: game.chance.choice([-0.002, -0.001, 0.002])
        game.play(5000)
        board = game.board
        assert not game.active() and board.closed is not None and not board.closed.hard
        assert not any(isinstance(each.order, Propose) for each in _ordered(game.lines, closing=True))
        assert board.nominee is None and board.counts[Status.PENDING] == 0
        assert not game.policy.gathers or board.pool.next_kept(64) == [] or board.fruitless["kept"] >= 8
        if board.published:
            score = board.score(board.published[-1].commit)
            wanted = min(game.policy.claims, game.policy.confirmations + board.counted // 25)
            assert score is not None and score.n >= wanted


def test_what_was_kept_by_chance_is_not_brought_together_for_ever_when_a_run_ends() -> None:
    for seed in range(4):
        game = Game.of(4, seed, experiments=300)
        game.propose = lambda game, parent: 0.0
        game.play(4000)
        replays = [each for each in _ordered(game.lines, closing=True) if isinstance(each.order, Replay)]
        assert not game.active() and len(replays) <= 16  # 8 groups of each kind; it was 19


@pytest.mark.parametrize(("lanes", "seed"), [(4, 0), (4, 1), (4, 2), (32, 0), (32, 1)])
def test_what_a_slow_lane_finds_becomes_the_best_whatever_others_have_brought_together_for_nothing(
    lanes: int, seed: int
) -> None:
    game = Game.of(lanes, seed, plateau=200)
    game.propose = lambda game, parent: 0.0
    while game.board.closed is None:
        game.turn(game.chance.choice(game.active()))
    slow = next(lane for lane, order in game.orders.items() if isinstance(order, Propose))
    for _ in range(20 * lanes):
        others = [each for each in game.active() if each != slow]
        if others:
            game.turn(game.chance.choice(others))
    assert isinstance(game.orders[slow], Propose)
    game.propose = lambda game, parent: -0.05
    game.turn(slow)
    game.play(5000)
    best = game.board.best
    assert not game.active() and best and best.commit and game.truth[best.commit] == pytest.approx(0.95, abs=0.005)


def test_the_longer_a_run_was_the_more_often_its_best_is_measured_in_the_end() -> None:
    counts = []
    for experiments in (5, 100, 400):
        game = Game.of(4, policy=Bayes(), experiments=experiments)
        game.propose = lambda game, parent: -0.05 if parent == "base" else 1.0
        game.play(4000)
        score = game.board.score(game.board.published[-1].commit)
        assert not game.active() and score is not None
        counts.append(score.n)
    assert counts == sorted(counts) and counts[1] >= 6 and counts[2] >= 18


@pytest.mark.parametrize("kind", ["propose", "replay"])
def test_a_lane_that_dies_while_a_run_ends_leaves_nothing_that_was_kept_behind(kind: str) -> None:
    game = gathered(lanes=1, experiments=2)
    kept = [keeps(game, "gpu0", small(game)) for _ in range(2 if kind == "replay" else 1)]
    if kind == "propose":
        game.record(orders.close(game.board, "enough", game.now))
    assert game.board.closed is not None and game.orders["gpu0"].kind == kind
    game.sit("gpu0", 0)
    while game.active():
        order = game.orders["gpu0"]
        base = isinstance(order, Remeasure) and order.commit == "base"
        game.turn("gpu0", value(1.0 if base else 1.0 - len(kept) * small(game)))
    assert game.board.best is not None and game.board.contains(game.board.best.commit or "") == set(kept)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("lanes", "limit"), [(1, 60), (8, 160), (64, 400)])
def test_evaluations_end_a_run_when_so_many_were_made(lanes: int, limit: int, policy: Callable[[], Policy]) -> None:
    for seed in range(2):
        run = Run.of(Landscape(), seed, lanes, policy(), evaluations=limit).play()
        assert limit - 16 <= run.board.evaluations <= limit


@settings(max_examples=60, deadline=None)
@given(
    lanes=st.sampled_from([1, 2, 3, 8, 16]),
    limit=st.integers(1, 80),
    noise=st.sampled_from([0.0, 0.001, 0.01]),
    fails=st.sampled_from([0.0, 0.2]),
    biases=st.sampled_from([{"": 0.0}, {"H100": 0.0, "H200": 0.01}]),
    seed=st.integers(0, 10**6),
)
def test_a_limit_of_evaluations_is_strict_and_nothing_is_left_open_at_it(
    lanes: int, limit: int, noise: float, fails: float, biases: dict[str, float], seed: int
) -> None:
    game = Game.of(lanes, seed, Bayes(), biases, evaluations=limit)
    game.noise, game.fails = noise, fails
    while game.active():
        game.turn(game.chance.choice(game.active()))
        working = sum(each.active and not isinstance(each.order, Wait) for each in game.board.lanes.values())
        assert game.board.evaluations + working <= limit
    board = game.board
    assert board.closed is not None
    if not board.closed.failed:  # the base may crash, which is for a human to see
        assert board.closed.finished and board.nominee is None and board.counts[Status.PENDING] == 0


def test_of_few_evaluations_not_all_are_spent_on_the_base() -> None:
    game = Game.of(16, evaluations=20)
    game.play(1000)
    assert game.board.evidence.times("base") <= 8 and game.board.counted >= 8


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lanes", [1, 8])
def test_hours_end_a_run_when_they_are_over(lanes: int, policy: Callable[[], Policy]) -> None:
    for seed in range(3):
        run = Run.of(Landscape(crashes=0.0), seed, lanes, policy(), hours=3.0).play()
        assert 0.9 * 3 * 3600 < run.now < 3 * 3600 + 5 * EVALUATION_SECONDS
        assert all(isinstance(each.order, Stop) for each in run.board.lanes.values())


def test_a_run_proposes_nothing_more_shortly_before_its_hours_are_over() -> None:
    for seed in range(3):
        run = Run.of(Landscape(), seed, 4, Bayes(), hours=6.0).play()
        first = next(each for line in run.lines for each in line if isinstance(each, Closed))
        assert "soon" in first.reason and not first.hard and first.finished
        assert 6 * 3600 - first.at <= 5 * EVALUATION_SECONDS < 0.1 * 6 * 3600
        assert not any(isinstance(each.order, Propose) for each in _ordered(run.lines, closing=True))


def test_a_short_run_spares_a_tenth_of_its_hours_at_most() -> None:
    run = Run.of(Landscape(), 1, 4, Bayes(), hours=1.0).play()
    first = next(each for each in (each for line in run.lines for each in line) if isinstance(each, Closed))
    assert 3600 - first.at <= 360


def test_what_others_lose_on_the_way_does_not_close_the_run_early() -> None:
    game = Game.of(8, experiments=8, policy=Confirm())
    for index in range(8):
        game.turn(f"gpu{index}", value(1.0 + 0.001 * (-1) ** index))
    for index in range(7):
        game.turn(f"gpu{index}", failed(FailureKind.MACHINE))
    game.play(500)
    assert game.board.counted == 8 and not game.active()


def test_a_lane_whose_worker_was_given_up_holds_nothing_up() -> None:
    game = calibrated(lanes=2, experiments=4)
    game.vacate(1)
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


def nights_of_nothing(policy: Policy) -> list[Game]:
    games = [Game.of(4, seed, policy, experiments=60) for seed in range(30)]
    for game in games:
        game.propose = lambda game, parent: 0.0
        game.play(4000)
        assert not game.active()
    return games


def test_where_no_change_does_anything_hardly_a_night_publishes_one() -> None:
    published = sum(bool(game.board.published) for game in nights_of_nothing(Confirm()))
    assert published <= 7  # 3 of these 30; a rule of one standard error publishes in most


def test_where_no_change_does_anything_the_best_claims_little_more_than_the_base() -> None:
    claims = []
    for game in nights_of_nothing(Bayes()):
        best = game.board.best
        assert best is not None and best.commit is not None
        score, base = game.board.score(best.commit), game.board.score("base")
        assert score is not None and base is not None
        claims.append((base.mean - score.mean) / game.noise)
    assert max(claims) < 2.5 and sum(claims) / len(claims) < 0.5  # in standard deviations of one measurement


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
    assert isinstance(game.turn("gpu0", value(0.89)), Propose)  # it is not confirmed yet
    game.turn("gpu1", value(2.0))
    game.turn("gpu1", value(0.89))
    assert game.board.closed is not None and "target" in game.board.closed.reason
    assert game.board.closed is not None and game.board.closed.finished


def test_a_plateau_ends_the_run_and_a_new_best_puts_it_off() -> None:
    game = calibrated(plateau=3)
    game.turn("gpu0", value(2.0))
    game.turn("gpu0", value(0.8))
    assert isinstance(game.turn("gpu0", value(0.8)), Propose)
    game.turn("gpu1", failed(FailureKind.MACHINE))
    assert isinstance(game.turn("gpu1", value(0.8)), Propose)
    assert game.board.published and game.board.verdicts_since_best == 0
    for _ in range(2):
        assert isinstance(game.turn("gpu0", value(2.0)), Propose)
    game.turn("gpu0", value(2.0))
    assert game.board.closed is not None and "no new best" in game.board.closed.reason


def test_money_that_is_spent_ends_the_run() -> None:
    game = calibrated(lanes=1, cost_usd=1.0)
    assert isinstance(game.turn("gpu0", value(2.0), usage=Usage(cost_usd=0.6)), Propose)
    assert isinstance(game.turn("gpu0", value(2.0), usage=Usage(cost_usd=0.6)), Stop)


@pytest.mark.parametrize("policy", POLICIES)
def test_agents_that_always_fail_end_the_run_and_their_gpus_work_meanwhile(policy: Callable[[], Policy]) -> None:
    game = calibrated(lanes=2, policy=policy())
    kinds = []
    while game.active():
        order = game.orders[game.active()[0]]
        kinds.append(type(order))
        outcome = value(1.0) if isinstance(order, Remeasure) else failed(FailureKind.AGENT)
        game.turn(game.active()[0], outcome)
    assert game.board.closed is not None and game.board.closed.failed
    assert game.board.closed.reason.endswith("proposals came to nothing: agent: why")
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
    other = game.orders["gpu1"]
    game.resume(experiments=4)
    assert game.sit("gpu0", 0) == pending and game.sit("gpu1", 1) == other
    game.turn("gpu0", value(0.9))
    game.play(100)
    assert game.board.counted == 4
    asked = [each.order for each in events(game) if isinstance(each, Ordered) and isinstance(each.order, Remeasure)]
    assert sum("baseline" in each.why for each in asked) == 2  # one on each slot, when it sat down first


def test_lanes_that_nobody_sits_on_any_more_hold_nothing_up() -> None:
    game = calibrated(lanes=4, experiments=6)
    game.resume()
    game.sit("gpu0", 0)
    game.play(200)
    assert game.board.counted == 6


def test_a_measurement_whose_worker_dies_three_times_is_the_machines_failure_and_the_lane_goes_on() -> None:
    game = calibrated()
    order = game.orders["gpu0"]
    for _ in range(2):
        game.vacate(0)
        assert game.sit("gpu0", 0) == order
    game.vacate(0)
    after = game.sit("gpu0", 0)
    lost = game.board.experiments[-1]
    assert lost.id == order.id and lost.status is Status.LOST and lost.failure
    assert lost.failure.kind is FailureKind.MACHINE and "3 times" in lost.failure.message
    assert isinstance(after, Propose) and after.id != order.id
    assert game.board.lanes["gpu0"].interruptions == 0 and game.board.counted == 0


def test_a_run_that_was_stopped_interrupts_nothing_and_one_that_died_does() -> None:
    game = calibrated()
    order = game.orders["gpu0"]
    for _ in range(5):
        game.record(orders.close(game.board, "stopped", game.now, hard=True))
        game.resume()
        assert game.sit("gpu0", 0) == order
    assert game.board.lanes["gpu0"].interruptions == 0
    for times in (1, 2):
        game.resume()
        assert game.board.lanes["gpu0"].interruptions == times and game.sit("gpu0", 0) == order
    game.resume()
    assert game.sit("gpu0", 0) != order


def test_a_lane_that_would_rest_does_so_when_nothing_but_a_proposal_is_wanted() -> None:
    game = Game.of(1)
    game.sit("gpu0b", 0)
    game.turn("gpu0", value(1.0))
    game.turn("gpu0b", value(1.0))
    game.turn("gpu0b", value(1.0))
    assert isinstance(game.turn("gpu0b", value(0.9), rests=True), Remeasure)  # it owes a verdict
    while isinstance(game.orders["gpu0b"], Remeasure):
        order = game.turn("gpu0b", value(0.9), rests=True)
    assert isinstance(order, Stop) and "rests" in order.reason and not order.hard
    assert game.board.lanes["gpu0b"].pending is None
    assert "gpu0b" not in orders.unfinished(game.board, 0)
    game.turn("gpu0", value(1.1), rests=True)
    assert not isinstance(game.orders["gpu0"], Stop)  # nobody else would work on its slot
    assert not isinstance(game.sit("gpu0b", 0), Stop)
    assert game.board.lanes["gpu0b"].sitting == 2


def test_a_lane_does_not_rest_while_only_other_slots_work() -> None:
    game = Game.of(2)
    for lane in ("gpu0", "gpu1", "gpu0", "gpu1"):
        game.turn(lane, value(1.0))
    assert not isinstance(game.turn("gpu0", value(2.0), rests=True), Stop)


def test_a_worker_that_comes_back_is_told_which_of_its_lanes_left_something_undone() -> None:
    game = Game.of(2)
    game.sit("gpu0b", 0)
    assert orders.unfinished(game.board, 0) == ("gpu0", "gpu0b")
    game.turn("gpu0", value(1.0))
    game.resume()
    assert orders.unfinished(game.board, 0) == ("gpu0", "gpu0b")


def test_only_a_stop_that_ends_the_run_at_once_is_hard() -> None:
    game = Game.of(2, hours=1.0)
    for lane in ("gpu0", "gpu1"):
        game.turn(lane, value(1.0))
    game.now = 3700.0
    order = game.turn("gpu0", value(1.0))
    assert isinstance(order, Stop) and order.hard
    order = game.turn("gpu1", value(1.0))
    assert isinstance(order, Stop) and order.hard
