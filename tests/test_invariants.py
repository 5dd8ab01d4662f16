"""What must hold whatever happens: random runs on the real board, and a referee who looks at every line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger, orders
from autoresearch_ray.board import Board
from autoresearch_ray.board import replay as replayed
from autoresearch_ray.evaluator import _LARGEST
from autoresearch_ray.events import Judged, Measured, Moved, Ordered, Published
from autoresearch_ray.evidence import Means, Scatter
from autoresearch_ray.lane import Lane
from autoresearch_ray.memory import Memory
from autoresearch_ray.model import (
    Direction,
    FailureKind,
    Holdout,
    Order,
    Remeasure,
    Seat,
    Status,
    Trouble,
    TroubleKind,
    Wait,
)
from autoresearch_ray.noise import Effects, Noise
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.policies.greedy import Greedy
from autoresearch_ray.pool import Pool
from autoresearch_ray.ports import Policy
from tests.game import Game, Outcome, calibrated, events, failed, value

POLICIES = [Bayes, Confirm, Greedy]

EVALUATIONS = (
    FailureKind.CRASH,
    FailureKind.TIMEOUT,
    FailureKind.OOM,
    FailureKind.NO_METRIC,
    FailureKind.NOT_FINITE,
    FailureKind.MACHINE,
)
REPLAYS = (*EVALUATIONS, FailureKind.GUARD, FailureKind.CONFLICT, FailureKind.NO_CHANGE, FailureKind.DUPLICATE)


def mishap(game: Game, order: Order) -> Outcome:
    """What may go wrong with it."""
    kinds = {"propose": tuple(FailureKind), "replay": REPLAYS}.get(order.kind, EVALUATIONS)
    kind = game.chance.choice(kinds)
    return failed(kind, fatal=kind is FailureKind.MACHINE and game.chance.random() < 0.2)


def plain(thing: object) -> object:
    """A copy of all that a thing is made of, in a form that compares."""
    if isinstance(thing, Mapping):
        return [(key, plain(each)) for key, each in thing.items()]
    if isinstance(thing, list | tuple):
        return [plain(each) for each in thing]
    if isinstance(thing, Lane):
        return replace(thing)
    return (
        plain(vars(thing)) if isinstance(thing, Means | Scatter | Noise | Effects | Pool | Memory) else thing
    )  # the rest is frozen


def state(board: Board) -> dict[str, object]:
    """All of a board. Of what a commit contains there is a cache: it is replaced by the answers."""
    found = {name: plain(each) for name, each in vars(board).items() if name != "catalogue"}
    catalogue = {name: plain(each) for name, each in vars(board.catalogue).items() if name != "_contains"}
    return {**found, **catalogue, "contains": {each: board.contains(each) for each in board.catalogue._by_commit}}


class Referee:
    """Plays a game with all that can happen in it, and looks at each line of the ledger as it is written."""

    def __init__(self, game: Game, mishaps: float, unrest: float) -> None:
        self.game = game
        self.mishaps = mishaps
        self.unrest = unrest
        self.seen = len(game.lines)
        self.heads = dict.fromkeys(game.orders, "base")

    def turns(self, count: int) -> None:
        """So many, in which anything may happen."""
        game = self.game
        for _ in range(count):
            if not game.active():
                return
            lane = game.chance.choice(game.active())
            if game.chance.random() < self.unrest:
                self.disturb(lane)
            else:
                wild = game.chance.random() < self.mishaps
                self.turn(lane, mishap(game, game.orders[lane]) if wild else None)

    def end(self) -> None:
        """To the end, without mishaps: there is one."""
        for _ in range(4000):
            if not self.game.active():
                return
            self.turn(self.game.chance.choice(self.game.active()), None)
        raise AssertionError(f"this run does not end: {self.game.lines[-1]}")

    def disturb(self, lane: str) -> None:
        """A worker starts again, is given up, or is found again, or its device is in other hands for a while; or all of
        the run is taken up again."""
        game, seat = self.game, self.game.board.lanes[lane].seat
        match game.chance.randrange(4):
            case 0:
                self.sit(seat)
            case 3:
                game.pause(seat.worker, "" if seat.worker in game.board.paused else "somebody else is there")
            case 1 if len(game.active()) > 1:
                game.vacate(seat.worker)
                if game.chance.random() < 0.5 or not game.active():
                    for other in game.active()[:1]:
                        self.turn(other, None)
                    self.sit(seat)
            case _:
                seats = {name: each.seat for name, each in game.board.lanes.items()}
                game.resume()
                moved = game.chance.random() < 0.3  # onto other devices
                for name in [lane, *(each for each in seats if each != lane and game.chance.random() < 0.8)]:
                    here = seats[name]
                    self.sit(replace(here, device_class=game.chance.choice([*game.biases])) if moved else here)

    def sit(self, seat: Seat) -> None:
        self.game.sit(seat.lane, seat.worker, seat.device_class)
        self.look(seat.lane)

    def turn(self, lane: str, outcome: Outcome) -> None:
        game = self.game
        worker = game.board.lanes[lane].seat.worker
        if worker in game.board.paused:  # it comes to an end, or the run does
            if game.pause(worker, "somebody else is there"):
                game.pause(worker, "")
            else:
                outcome = failed(FailureKind.MACHINE)
        before = state(game.board) if game.chance.random() < 0.2 else None
        working = [name for name, each in game.board.lanes.items() if each.active]
        idle = outcome is not None and outcome.failure is not None and outcome.failure.kind is FailureKind.AGENT
        kinds = [None, *(Trouble(kind, after) for kind in TroubleKind for after in (None, 30.0))]
        attempt = game.attempt(lane, outcome, **({"trouble": game.chance.choice(kinds)} if idle else {}))
        if before is not None:
            decided = orders.decide(game.board, attempt, game.now + 1, game.policy)
            assert state(game.board) == before  # making an attempt and deciding on it change nothing by themselves
            assert orders.decide(game.board, attempt, game.now + 1, game.policy) == decided
        given = game.hand_in(attempt)
        if attempt.kind != "wait" and game.chance.random() < 0.1:  # who waited asks anew whenever it comes
            lines = len(game.lines)
            assert game.hand_in(attempt) == given and len(game.lines) == lines
        self.look(lane, working)

    def look(self, lane: str, working: Sequence[str] = ()) -> None:
        """At what was written since: all of it is of `lane`, and nothing else moves a branch."""
        board = self.game.board
        for event in [each for line in self.game.lines[self.seen :] for each in line]:
            match event:
                case Moved():
                    self.heads[event.lane] = event.head
                    assert event.lane == lane
                case Judged() | Ordered():
                    assert event.lane == lane
                case Measured():
                    assert event.attempt.lane == lane
                case Published():
                    self.confirmed(event, working)
        self.seen = len(self.game.lines)
        most = board.program.options.evaluations
        measuring = sum(each.active and not isinstance(each.order, Wait) for each in board.lanes.values())
        assert most is None or board.evaluations + measuring <= most
        tried = [board.at(each) for each in board.retried]
        assert all(each and each.status in (Status.LOST, Status.PENDING) for each in tried)
        assert not any(board.pool.is_kept(each) for each in board.retried)
        for name, each in board.lanes.items():
            assert not (each.active and each.seat.worker in board.retired)
            assert each.paused == (each.seat.worker in board.paused)
            assert each.order is not None and each.head == self.heads.get(name, "base")
            assert board.at(each.head) is not None

    def confirmed(self, event: Published, working: Sequence[str]) -> None:
        """Often enough, and on two devices and two classes of them, if so many are at work and in order."""
        board, confirmations = self.game.board, self.game.policy.confirmations
        score, places = board.score(event.commit), board.places(event.commit)
        assert score is not None and event.value == score.mean
        assert event.measurements == board.evidence.times(event.commit) >= confirmations
        assert event.commit not in board.refused
        if confirmations > 1:
            lanes = [board.lanes[name] for name in working]
            seats = [each.seat for each in lanes if each.remeasure_failures_in_a_row < 3]
            workers, classes = {each.worker for each in places}, {each.device_class for each in places}
            assert len(workers) > 1 or {each.worker for each in seats} <= workers
            assert len(classes) > 1 or {each.device_class for each in seats} <= classes

    def check(self) -> None:
        game, board = self.game, self.game.board
        again = replayed(game.lines)
        assert state(again) == state(board)
        cut = game.chance.randrange(1, len(game.lines) + 1)
        part = replayed(game.lines[:cut])
        for line in game.lines[cut:]:
            for event in line:
                part.apply(event)
        assert state(part) == state(board)
        assert [ledger.decode(ledger.encode(line)) for line in game.lines] == [tuple(line) for line in game.lines]
        measured = [each.attempt.id for each in events(game) if isinstance(each, Measured)]
        assert len(set(measured)) == len(measured) == board.attempts
        judged = [each.id for each in events(game) if isinstance(each, Judged)]
        assert len(set(judged)) == len(judged)
        assert sum(board.counts.values()) == len(board.experiments) - 1
        published = [each.commit for each in board.published]
        assert all(one != other for one, other in itertools.pairwise(published))
        for commit in published[-1:]:
            assert not any(board.pool.is_kept(each) for each in board.contains(commit))


games = st.fixed_dictionaries(
    {
        "lanes": st.integers(1, 5),
        "seed": st.integers(0, 100_000),
        "policy": st.sampled_from([each() for each in POLICIES]),
        "biases": st.sampled_from([{"": 0.0}, {"A": 0.0, "B": 0.3}]),
        "direction": st.sampled_from(Direction),
        "every": st.integers(1, 6),
        "holdout": st.sampled_from([None, "make holdout"]),
    }
)


@settings(max_examples=80, deadline=None)
@given(
    words=games,
    noise=st.sampled_from([0.0, 0.001, 0.02]),
    clashes=st.sampled_from([0.0, 0.2]),
    mishaps=st.floats(0.0, 0.6),
    unrest=st.sampled_from([0.0, 0.1]),
    limit=st.sampled_from(
        [{"experiments": 30}, {"evaluations": 50}, {"evaluations": 7}, {"plateau": 8}, {"target": 0.97}]
    ),
    beside=st.booleans(),
    closed=st.none() | st.integers(5, 60),
)
def test_invariants_of_random_runs(
    words: dict[str, object],
    noise: float,
    clashes: float,
    mishaps: float,
    unrest: float,
    limit: dict[str, float],
    beside: bool,
    closed: int | None,
) -> None:
    game = Game.of(**words, **{"experiments": 60, **limit})  # type: ignore[arg-type]
    game.noise, game.clashes = noise, clashes
    referee = Referee(game, mishaps, unrest)
    if beside:  # a second lane on the first slot
        referee.sit(replace(game.board.lanes["gpu0"].seat, lane="gpu0b"))
    if closed is not None:
        referee.turns(closed)
        game.record(orders.close(game.board, "enough", game.now))
    referee.turns(80)
    referee.end()
    referee.check()


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])  # an endless run is long to shrink
@given(words=games, share=st.sampled_from([0.1, 0.4]))
def test_runs_end_where_changes_work_on_one_device_and_not_on_another(words: dict[str, object], share: float) -> None:
    """As with memory: what fits on one device need not fit on the next."""
    game = Game.of(**words, experiments=20)  # type: ignore[arg-type]
    small = f"gpu{len(game.orders) - 1}"
    heavy = {change: game.chance.random() < share for change in (f"commit{number:05d}" for number in range(2000))}
    for _ in range(800):
        if not game.active():
            break
        lane = game.chance.choice(game.active())
        order = game.orders[lane]
        commits = [order.commit] if isinstance(order, Remeasure | Holdout) else []
        fits = not any(heavy[change] for each in commits for change in game.changes[each])
        game.turn(lane, None if fits or lane != small else failed(FailureKind.OOM))
    assert not game.active(), f"this run does not end: {game.lines[-1]}"


@settings(max_examples=30, deadline=None)
@given(words=games, lines=st.sampled_from([0, -3]), early=st.integers(0, 25), mishaps=st.sampled_from([0.0, 0.2]))
def test_noise_that_shows_late_in_a_run_changes_what_is_decided_and_breaks_nothing(
    words: dict[str, object], lines: int, early: int, mishaps: float
) -> None:
    game = Game.of(**words, experiments=15)  # type: ignore[arg-type]
    game.noise = 0.0
    game.propose = lambda game, parent: game.chance.choice([0.0, 0.0, 0.001, -0.001])
    for turn in range(1500):
        if not game.active():
            break
        game.noise = 0.0 if turn < early else 0.001
        wild = game.chance.random() < mishaps
        game.turn(game.chance.choice(game.active()), failed(FailureKind.CRASH) if wild else None, lines=lines)
    assert not game.active(), f"this run does not end: {game.lines[-1]}"


EXTREMES = [_LARGEST, -_LARGEST, _LARGEST / 10, 1.0, 1e-160, 1e-310, 5e-324, 0.0, -0.0]


@settings(max_examples=60, deadline=None)
@given(words=games, share=st.sampled_from([0.05, 0.3, 1.0]))
def test_values_as_large_or_as_small_as_are_ever_read_break_no_decision(words: dict[str, object], share: float) -> None:
    """The perplexity of what diverges: one such value that raised in the coordinator ended the run."""
    game = Game.of(**words, experiments=15)  # type: ignore[arg-type]
    for _ in range(60):
        if not game.active():
            break
        lane = game.chance.choice(game.active())
        extreme = not isinstance(game.orders[lane], Wait) and game.chance.random() < share
        game.turn(lane, value(game.chance.choice(EXTREMES)) if extreme else None)
    assert [ledger.decode(ledger.encode(line)) for line in game.lines] == [tuple(line) for line in game.lines]


@settings(max_examples=40, deadline=None)
@given(words=games)
def test_without_noise_the_published_best_never_gets_worse(words: dict[str, object]) -> None:
    game = Game.of(**{**words, "holdout": None}, experiments=60)  # type: ignore[arg-type]
    game.noise = 0.0
    game.play(1500)
    assert not game.active()
    bests = ["base", *(each.commit for each in game.board.published)]
    gains = [game.board.direction.gain(game.truth[new], game.truth[old]) for old, new in itertools.pairwise(bests)]
    assert all(each > 0 for each in gains)
    bias = game.biases[game.board.classes[0]]
    assert all(game.truth[each.commit] + bias == pytest.approx(each.value) for each in game.board.published)


@pytest.mark.parametrize("policy", POLICIES)
def test_decide_looks_and_changes_nothing(policy: Callable[[], Policy]) -> None:
    game = calibrated(lanes=3, policy=policy())
    game.play(30)
    game.orders["gpu0"] = game.board.lanes["gpu0"].order or game.orders["gpu0"]
    attempt = game.attempt("gpu0")
    before = repr(state(game.board))
    first = orders.decide(game.board, attempt, 99.0, game.policy)
    assert repr(state(game.board)) == before
    assert orders.decide(game.board, attempt, 99.0, game.policy) == first


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replayed_board_goes_on_as_the_live_one_would(policy: Callable[[], Policy]) -> None:
    for seed in range(10):
        game = Game.of(4, seed, policy(), {"A": 0.0, "B": 0.3}, experiments=40)
        game.play(20 + 7 * seed)
        again = replayed([ledger.decode(ledger.encode(line)) for line in game.lines])
        for lane in game.active():
            attempt = game.attempt(lane)
            assert orders.decide(again, attempt, 99.0, game.policy) == orders.decide(
                game.board, attempt, 99.0, game.policy
            )


def test_seeds_differ_between_attempts_and_follow_from_the_tag() -> None:
    game, other = Game.of(2, experiments=30), Game.of(2, experiments=30)
    game.play(200)
    other.play(200)
    seeds = [each.attempt.measurement.seed for each in events(game) if isinstance(each, Measured)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [each.attempt.measurement.seed for each in events(other) if isinstance(each, Measured)]


def test_what_is_found_adds_up_on_the_best() -> None:
    """With replays of what losers found, and far more so where all is gathered, on worlds whose effects add up."""

    def world(game: Game, parent: str) -> float:
        return (
            -game.chance.expovariate(1 / 0.0015) if game.chance.random() < 0.2 else game.chance.expovariate(1 / 0.004)
        )

    def gain(policy: Policy, every: int) -> float:
        total = 0.0
        for seed in range(4):
            game = Game.of(16, seed, policy, experiments=400, every=every)
            game.propose = world
            game.play(8000)
            assert game.board.best is not None and game.board.best.commit is not None
            total += 1.0 - game.truth[game.board.best.commit]
        return total

    replays = gain(Confirm(), every=4)
    assert replays > 1.5 * gain(Confirm(), every=10_000)
    assert gain(Bayes(), every=4) > 1.2 * replays
