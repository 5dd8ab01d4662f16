"""The breaker by itself, and the rules that heed it: who asks, who waits, and what is measured meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger
from autoresearch_ray.board import replay as replayed
from autoresearch_ray.breaker import (
    ASKED_SECONDS,
    FAILURES,
    FIRST_SECONDS,
    GIVE_UP_OPENINGS,
    GIVE_UP_SECONDS,
    LONGEST_SECONDS,
    THE_PROVIDER,
    Breaker,
    backoff_seconds,
)
from autoresearch_ray.events import Measured, Ordered
from autoresearch_ray.model import (
    Ablate,
    Attempt,
    Failure,
    FailureKind,
    Holdout,
    Measurement,
    Propose,
    Remeasure,
    Replay,
    Status,
    Stop,
    Trouble,
    TroubleKind,
    Usage,
    Wait,
)
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.ports import Policy
from tests.game import Game, events

LIMITED = Trouble(TroubleKind.RATE_LIMITED)
ENDS = [None, *(Trouble(kind, after) for kind in TroubleKind for after in (None, 5.0))]  # of a proposal
SAYS_GONE = [Trouble(kind) for kind in THE_PROVIDER | {TroubleKind.AUTH, TroubleKind.CRASHED}]


def opened(times: int = 1, trouble: Trouble = LIMITED) -> Breaker:
    """A breaker that opened so often in a row, the last time at second 0."""
    breaker = Breaker()
    for number in range(FAILURES):
        breaker = breaker.answered(f"gpu{number}-1", trouble, 0.0, 0.5)
    for number in range(times - 1):
        breaker = breaker.asked(f"gpu0-{number}").answered(f"gpu0-{number}", trouble, 0.0, 0.5)
    return breaker


# --- The breaker -----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["ask", "answer", "answer", "wait"]), st.integers(0, 5), st.data())))
def test_while_it_is_open_nobody_asks_too_early_and_never_two_at_once(steps: Sequence[tuple[str, int, object]]) -> None:
    """Lanes ask whenever they may, answers come in any order, and time goes on."""
    breaker, now, number = Breaker(), 0.0, 0
    asking: dict[str, bool] = {}  # by order: whether it was open when it was given
    for step, lane, data in steps:
        draw = data.draw  # type: ignore[attr-defined]
        if step == "ask" and not breaker.blocks(now):
            number += 1
            order = f"gpu{lane}-{number}"
            assert breaker.until is None or now >= breaker.until
            asking[order] = breaker.is_open
            breaker = breaker.asked(order)
        elif step == "answer" and asking:
            order = draw(st.sampled_from(sorted(asking)))
            del asking[order]
            breaker = breaker.answered(order, draw(st.sampled_from(ENDS)), now, draw(st.floats(0, 1)))
            if not breaker.is_open:
                asking = dict.fromkeys(asking, False)  # they may overlap with what is asked from now on
        elif step == "wait":
            now += draw(st.floats(0, 10))
        assert sum(asking.values()) <= 1
        assert breaker.is_open or not breaker.probe


@given(
    trouble=st.sampled_from(SAYS_GONE), chances=st.lists(st.floats(0, 1), min_size=2, max_size=40), late=st.booleans()
)
def test_each_time_that_a_probe_fails_it_opens_for_longer_up_to_a_limit(
    trouble: Trouble, chances: list[float], late: bool
) -> None:
    breaker, before, now = opened(trouble=trouble), 0.0, 0.0
    for number, chance in enumerate(chances):
        assert breaker.until is not None
        seconds, now = breaker.until - now, breaker.until
        assert seconds > before or seconds >= LONGEST_SECONDS - 1e-6  # a difference of two times
        assert seconds <= 1.25 * LONGEST_SECONDS + 1e-6
        before = min(seconds, LONGEST_SECONDS)
        breaker = breaker.asked(f"gpu0-{number}")
        if late:
            assert breaker.answered("gpu9-1", trouble, now, chance) == breaker  # it was asked before
        breaker = breaker.answered(f"gpu0-{number}", trouble, now, chance)
        assert breaker.openings == number + 2


@pytest.mark.parametrize("kind", [None, TroubleKind.NO_EDIT, TroubleKind.REJECTED])
def test_it_closes_when_the_probe_is_answered_whatever_came_of_the_edit(kind: TroubleKind | None) -> None:
    breaker = opened(5).asked("gpu1-7")
    assert breaker.answered("gpu1-7", Trouble(kind) if kind else None, 99.0, 0.5) == Breaker()


def test_a_success_of_what_was_asked_before_is_no_answer_to_whether_it_works_now() -> None:
    breaker = opened().asked("gpu1-7")
    assert breaker.answered("gpu2-3", None, 1.0, 0.5) == breaker


@given(
    after=st.floats(0, 2 * ASKED_SECONDS),
    times=st.integers(0, 12),
    chance=st.floats(0, 1),
    kind=st.sampled_from(sorted(THE_PROVIDER)),
)
def test_a_provider_that_says_when_to_come_back_is_believed_at_once_and_at_least(
    after: float, times: int, chance: float, kind: TroubleKind
) -> None:
    breaker = opened(times).asked("gpu0-99") if times else Breaker()
    breaker = breaker.answered("gpu0-99", Trouble(kind, after), 100.0, chance)
    assert breaker.until is not None and breaker.until >= 100.0 + min(after, ASKED_SECONDS)
    assert breaker.until <= 100.0 + 1.25 * max(ASKED_SECONDS, LONGEST_SECONDS)
    late = breaker.answered("gpu5-1", Trouble(kind, after + 60), 150.0, chance)
    assert late.until is not None and late.until >= 150.0 + min(after + 60, ASKED_SECONDS)
    assert late.openings == breaker.openings


def test_a_few_failures_and_timeouts_do_not_open_it() -> None:
    breaker = Breaker()
    for number in range(20):
        breaker = breaker.answered("gpu0-1", Trouble(TroubleKind.TIMEOUT), 0.0, 0.5)
        breaker = breaker.answered("gpu0-1", LIMITED if number % FAILURES else None, 0.0, 0.5)
    assert not breaker.is_open
    waiting = opened().asked("gpu0-9")
    assert waiting.answered("gpu0-9", Trouble(TroubleKind.TIMEOUT), 9.0, 0.5).openings == 2  # still nothing heard


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1e6))
def test_backing_off_is_never_shorter_than_the_first_time(times: int, chance: float, first: float) -> None:
    assert first <= backoff_seconds(times, chance, first) <= 1.25 * max(first, LONGEST_SECONDS)


def test_a_probe_whose_lane_is_gone_or_does_something_else_is_free_for_another() -> None:
    breaker = opened().asked("gpu1-7")
    assert breaker.blocks(1e9) and breaker.released("gpu11").blocks(1e9)
    assert not breaker.released("gpu1").blocks(1e9)


def test_what_waiting_does_not_mend_is_given_up_soon_and_what_it_may_after_a_day() -> None:
    wrong = Trouble(TroubleKind.AUTH)
    assert not opened(GIVE_UP_OPENINGS - 1, wrong).hopeless(60.0)
    assert opened(GIVE_UP_OPENINGS, wrong).hopeless(60.0)
    assert not opened(50).hopeless(GIVE_UP_SECONDS - 1) and opened(50).hopeless(GIVE_UP_SECONDS)
    mixed = opened(50).asked("gpu0-9").answered("gpu0-9", wrong, 9.0, 0.5)
    assert not mixed.hopeless(9.0), "one refusal among many limits is no reason"
    again = opened(GIVE_UP_OPENINGS, wrong).resumed(60.0)
    assert not again.hopeless(60.0) and not again.blocks(60.0)  # somebody has looked: one lane tries at once


# --- The rules -------------------------------------------------------------------------------------------------------


def lost(trouble: Trouble) -> Measurement:
    return Measurement(None, Failure(FailureKind.AGENT, f"it said: {trouble.kind}"))


class Night:
    """A game whose provider is down for a while: then every proposal is lost. Lanes come in the order of their time."""

    def __init__(self, lanes: int, seed: int, policy: Policy, down: tuple[float, float], trouble: Trouble) -> None:
        self.game = Game.of(lanes, seed, policy, experiments=30)
        self.game.propose = lambda game, parent: game.chance.choice([-0.002, -0.001, 0.002])
        self.down, self.trouble = down, trouble
        self.times = dict.fromkeys(self.game.orders, 0.0)  # when each lane hands in
        self.asked: list[tuple[float, str]] = []
        self.during: list[object] = []  # orders that were given while it was down

    def takes(self, lane: str) -> float:
        order = self.game.orders[lane]
        return order.seconds if isinstance(order, Wait) else 70.0 if isinstance(order, Propose) else 60.0

    def play(self) -> Night:
        game = self.game
        ends = {lane: self.takes(lane) for lane in game.active()}
        for _ in range(20_000):
            if not ends:
                return self
            lane = min(ends, key=lambda each: (ends[each], each))
            now, order = ends.pop(lane), game.orders[lane]
            fails = isinstance(order, Propose) and self.down[0] <= now < self.down[1]
            more = {"trouble": self.trouble, "usage": Usage(seconds=2.0)} if fails else {}
            attempt = game.attempt(lane, lost(self.trouble) if fails else None, **more)
            game.now = now - (order.seconds if isinstance(order, Wait) else 1.0)  # which the game adds
            given = game.hand_in(attempt)
            if isinstance(given, Propose):
                assert not self.probes() - {lane}, "never two probes at once"
            if game.board.breaker("gpu0").is_open:
                self.during.append(given)
            if not isinstance(given, Stop):
                ends[lane] = now + self.takes(lane)
        raise AssertionError("this run does not end")

    def probes(self) -> set[str]:
        probe = self.game.board.breaker("gpu0").probe
        return {name for name, each in self.game.orders.items() if probe and getattr(each, "id", "") == probe}


nights = st.fixed_dictionaries(
    {
        "lanes": st.integers(1, 6),
        "seed": st.integers(0, 1000),
        "policy": st.sampled_from([Bayes()]),
        "down": st.tuples(st.floats(0, 2000), st.floats(0, 4000)).map(lambda each: (each[0], sum(each))),
        "trouble": st.sampled_from([LIMITED, Trouble(TroubleKind.UNAVAILABLE, 120.0)]),
    }
)


@settings(max_examples=25, deadline=None)
@given(words=nights)
def test_a_run_outlasts_a_provider_that_is_down_and_the_ledger_tells_the_same(words: dict[str, object]) -> None:
    night = Night(**words).play()  # type: ignore[arg-type]
    game, board = night.game, night.game.board
    assert board.closed is not None and board.closed.finished and board.counted >= 30
    again = replayed([ledger.decode(ledger.encode(line)) for line in game.lines])
    assert again.breakers == board.breakers and again.lanes == board.lanes and again.turn == board.turn
    lines = [each for line in game.lines for each in line]
    lengthy = [each for each in lines if isinstance(each, Measured) and each.attempt.kind == "wait"]
    assert not lengthy, "waiting writes nothing"
    waits = [each for each in lines if isinstance(each, Ordered) and isinstance(each.order, Wait)]
    tries = [each for each in lines if isinstance(each, Measured) and each.attempt.trouble]
    assert len(waits) <= len(board.lanes) * (2 + 2 * len(tries)), "one line for each wait, however long"


def test_while_a_provider_is_down_for_hours_it_is_asked_rarely_and_little_is_measured() -> None:
    night = Night(4, 3, Bayes(), (300.0, 14_000.0), LIMITED).play()
    tries = [
        each.at
        for line in night.game.lines
        for each in line
        if isinstance(each, Measured) and each.attempt.trouble and each.at > 400
    ]
    assert 10 <= len(tries) <= 30  # one in 15 minutes or so, and the first ones sooner
    work = [each for each in night.during if isinstance(each, Remeasure | Replay | Ablate | Holdout)]
    assert 0 < len(work) < 60, "four slots could have made 900 evaluations of nothing"
    assert any(isinstance(each, Replay | Ablate) for each in work) and any(
        isinstance(each, Wait) for each in night.during
    )


def kept(game: Game, lane: str, gain: float) -> str:
    """One change that is kept, and published if it may be."""
    game.propose = lambda game, parent: -gain
    while not isinstance(game.orders[lane], Propose):
        game.turn(lane)
    game.turn(lane)
    return game.board.experiments[-1].commit or ""


def published(game: Game, lane: str, *gains: float) -> list[str]:
    """The best has these changes in it, and enough was tried for each of them to be tried without."""
    changes = [kept(game, lane, each) for each in gains]
    for _ in range(200):
        there = game.board.best and game.board.contains(game.board.best.commit or "") >= set(changes)
        if there and game.board.counted >= 10 * len(changes):
            return changes
        game.propose = lambda game, parent: 0.01
        game.turn(lane)
    raise AssertionError("they were not published")


def out(game: Game, lane: str, trouble: Trouble = LIMITED) -> None:
    """The provider is gone, as `lane` finds."""
    while not game.board.breaker("gpu0").is_open:
        trouble_at = isinstance(game.orders[lane], Propose)
        game.turn(lane, lost(trouble) if trouble_at else None, **({"trouble": trouble} if trouble_at else {}))


def test_a_best_is_tried_without_each_of_its_changes_while_there_is_nothing_better_to_do() -> None:
    game = Game.of(1)
    game.noise = 0.0002
    changes = published(game, "gpu0", 0.02, 0.01, 0.03)
    out(game, "gpu0", Trouble(TroubleKind.RATE_LIMITED, 3600.0))
    tried = []
    for _ in range(60):
        if isinstance(game.orders["gpu0"], Ablate):
            tried.append(game.orders["gpu0"].commit)
        if isinstance(game.orders["gpu0"], Wait):
            break
        game.turn("gpu0")
    assert isinstance(game.orders["gpu0"], Wait)
    assert tried == [changes[1], changes[0], changes[2]]  # what is expected to bring least comes first
    ablated = [each for each in game.board.experiments if each.kind == "ablate"]
    assert {each.status for each in ablated} == {Status.DISCARD}, "each of them is worth something"
    assert [each.left_out for each in ablated] == [(each,) for each in tried]
    assert game.board.best is not None and game.board.contains(game.board.best.commit or "") == set(changes)


def test_a_change_that_does_harm_in_company_is_taken_out_of_the_best() -> None:
    game = Game.of(1)
    game.noise = 0.0005
    changes = published(game, "gpu0", 0.02, 0.01)
    harmful = game.board.at(changes[1])
    assert harmful is not None and harmful.commit is not None
    # As after a group that was kept: nobody knows which of its changes brought it, and this one did not.
    game.board.experiments[harmful.number] = replace(harmful, likely=0.0003, spread=0.0006)
    game.effects[harmful.commit] = 0.004
    out(game, "gpu0", Trouble(TroubleKind.RATE_LIMITED, 3600.0))
    while not isinstance(game.orders["gpu0"], Wait):
        game.turn("gpu0")
    without = next(each for each in game.board.experiments if each.left_out == (harmful.commit,))
    assert without.kind == "ablate" and without.status is Status.KEEP, without.reason
    best = game.board.best
    assert best is not None and without.commit in game.board.contains(best.commit or ""), "as any other change would be"


def test_a_run_whose_dollars_are_spent_still_does_what_needs_no_model() -> None:
    game = Game.of(2, cost_usd=15.0)
    game.propose = lambda game, parent: -0.02 if len(game.changes[parent]) < 3 else 0.01
    while game.active():
        lane = game.chance.choice(game.active())
        proposes = isinstance(game.orders[lane], Propose)
        game.turn(lane, **({"usage": Usage(seconds=6.0, cost_usd=0.5)} if proposes else {}))
    board = game.board
    assert board.closed is not None and "dollars" in board.closed.reason and (board.money.known_usd or 0.0) >= 15.0
    told = events(game)
    after = [each.order.kind for each in told[told.index(board.closed) :] if isinstance(each, Ordered)]
    assert "ablate" in after and "propose" not in after and "wait" not in after
    assert board.best is not None and len(board.contains(board.best.commit or "")) >= 2
    ablated = [each for each in board.experiments if each.kind == "ablate"]
    assert {each.left_out[0] for each in ablated} <= board.contains(board.best.commit or "")
    assert board.counts[Status.PENDING] == 0 and board.nominee is None


def test_lanes_of_a_large_run_begin_to_ask_one_after_another() -> None:
    game = Game.of(64)
    for lane in list(game.orders):
        if isinstance(game.orders[lane], Remeasure):
            game.now = 300.0 - 1.0
            game.turn(lane)
    begins = []
    for lane, order in game.orders.items():
        seconds = order.seconds if isinstance(order, Wait) else 0.0
        at = next(each.at for each in reversed(events(game)) if isinstance(each, Ordered) and each.lane == lane)
        begins.append(at + seconds)
        if isinstance(order, Wait):
            game.now = at
            assert not isinstance(game.turn(lane), Wait)
    for second in {int(each) for each in begins}:
        assert sum(second <= each < second + 1 for each in begins) <= 17
    assert max(begins) - 300.0 < 8.0


def test_one_lane_whose_agent_does_nothing_backs_off_alone() -> None:
    game = Game.of(2)
    pauses = []
    for _ in range(200):
        order = game.orders["gpu0"]
        if isinstance(order, Propose):
            idle = Measurement(None, Failure(FailureKind.NO_CHANGE, "no file was changed"))
            game.turn("gpu0", idle, trouble=Trouble(TroubleKind.NO_EDIT))
            pauses.append(game.board.lanes["gpu0"].backs_off_until - game.now)
        else:
            game.turn("gpu0")
        game.now -= order.seconds if isinstance(order, Wait) else 0.0
        game.turn("gpu1")
        assert not game.board.breaker("gpu0").is_open and not isinstance(game.orders["gpu1"], Wait)
    assert pauses[0] <= 0 and all(one < other for one, other in itertools.pairwise(pauses[1:8]))
    assert game.board.closed is None and len(pauses) < 20


def test_a_worker_that_dies_as_the_probe_leaves_it_to_the_next() -> None:
    game = Game.of(2)
    out(game, "gpu0", LIMITED)
    game.now += 10.0
    while not game.board.breaker("gpu0").probe:
        lane = next(name for name in game.active() if isinstance(game.orders[name], Wait | Remeasure))
        game.turn(lane)
    probing = game.board.breaker("gpu0").probe.rpartition("-")[0]
    other = "gpu1" if probing == "gpu0" else "gpu0"
    while not isinstance(game.orders[other], Wait):
        idle = isinstance(game.orders[other], Propose)
        game.turn(other, lost(LIMITED) if idle else None, **({"trouble": LIMITED} if idle else {}))
    game.vacate(0 if probing == "gpu0" else 1)
    order = game.turn(other)
    while isinstance(order, Remeasure | Wait):
        order = game.turn(other)
    assert isinstance(order, Propose) and game.board.breaker("gpu0").probe == order.id


def test_what_a_lane_was_to_propose_before_a_restart_is_not_asked_of_a_provider_that_is_gone() -> None:
    game = Game.of(6)
    for lane in game.orders:
        while not isinstance(game.orders[lane], Propose):
            game.turn(lane)
    for lane in ("gpu0", "gpu1", "gpu2"):
        game.turn(lane, lost(LIMITED), trouble=LIMITED)
    assert game.board.breaker("gpu0").is_open and isinstance(game.board.lanes["gpu5"].order, Propose)
    game.resume()
    given = [game.sit(f"gpu{index}", index) for index in range(6)]
    assert sum(isinstance(each, Propose) for each in given) == 1


def test_a_ledger_of_an_earlier_version_opens_the_breaker_too() -> None:
    """It has no `trouble`: a failure of the agent is one of an unknown kind."""
    game = Game.of(3)
    for lane in game.orders:
        while not isinstance(game.orders[lane], Propose):
            game.turn(lane)
    for lane in game.orders:
        game.turn(lane, Measurement(None, Failure(FailureKind.AGENT, "exit status 1")))
    assert game.board.breaker("gpu0").is_open and game.board.breaker("gpu0").kind is TroubleKind.CRASHED
    line = ledger.encode([Measured(1.0, Attempt("a-1", "a", 1, "propose", "p", None, lost(LIMITED)))])
    old = line.replace(b',"trouble":null', b"")
    assert old != line and ledger.decode(old) == ledger.decode(line)


def test_the_first_pause_is_short_enough_for_a_person_who_watches() -> None:
    assert sum(backoff_seconds(each + 1, 1.0) for each in range(GIVE_UP_OPENINGS - 1)) < 60
    assert FIRST_SECONDS > 0


def test_a_clock_that_was_set_back_while_the_run_lay_makes_nobody_wait_for_its_old_time() -> None:
    game = Game.of(20)
    game.now = 7200.0
    for lane in game.active():
        game.turn(lane)
    game.now = 10.0
    game.resume()
    waits = [order.seconds for index in range(30) if isinstance(order := game.sit(f"gpu{index}", index), Wait)]
    waits += [order.seconds for lane in game.active() if isinstance(order := game.turn(lane), Wait)]
    assert max(waits, default=0.0) <= 30
