"""A run played on the real board: lanes that hand in what a made-up world answers, without git, Ray or a clock.

Each proposal makes one new change, and the true value of a commit is the sum of what its changes do. As in a real run,
files that were measured before are not measured again, and what conflicts or is there already is left out of a replay.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from autoresearch_ray import by_hand, orders
from autoresearch_ray.board import Board
from autoresearch_ray.events import Event, Opened, Resumed
from autoresearch_ray.messages import Message, Submit
from autoresearch_ray.model import (
    Ablate,
    Attempt,
    Direction,
    Eval,
    Failure,
    FailureKind,
    Holdout,
    Measurement,
    Metric,
    Options,
    Order,
    Program,
    Remeasure,
    Replay,
    Scope,
    Seat,
    Status,
    Stop,
    Try,
    Usage,
    Wait,
)
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.ports import Policy


def program(direction: Direction = Direction.LOWER, **words: object) -> Program:
    """Words of `Eval` and of `Options`."""
    evaluation = {each.name: words.pop(each.name) for each in fields(Eval) if each.name in words}
    return Program(
        title="game",
        text="# game",
        scope=Scope(("train.py",)),
        eval=Eval("python train.py", Metric("loss", direction), 60.0, 120.0, **evaluation),  # type: ignore[arg-type]
        options=Options(**{"lanes": 1, **words}),  # type: ignore[arg-type]
    )


def opened(direction: Direction = Direction.LOWER, **words: object) -> Opened:
    return Opened(0.0, "game", "base", "", program(direction, **words), "# game", "0")


Outcome = Measurement | None  # None: measure the commit's true value with noise


@dataclass
class Game:
    """Lanes take turns; `lines` is the ledger as it would be written."""

    board: Board
    policy: Policy = field(default_factory=Bayes)
    noise: float = 0.001
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    propose: Callable[[Game, str], float] = lambda game, parent: game.chance.gauss(0.0, 0.01)
    fails: float = 0.0
    clashes: float = 0.0  # share of all pairs of changes that conflict
    agents: tuple[str, ...] = ("",)  # of the workers in turn
    cost_known: bool = False  # of their proposals
    biases: dict[str, float] = field(default_factory=lambda: {"": 0.0})  # by class: how much higher values read there
    truth: dict[str, float] = field(default_factory=lambda: {"base": 1.0})
    changes: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"base": ()}
    )  # in each commit, the last one last
    effects: dict[str, float] = field(default_factory=dict)  # of each change
    orders: dict[str, Order] = field(default_factory=dict)
    lines: list[list[Event]] = field(default_factory=list)
    now: float = 0.0
    made: int = 0

    @classmethod
    def of(
        cls,
        lanes: int,
        seed: int = 0,
        policy: Policy | None = None,
        biases: dict[str, float] | None = None,
        agents: tuple[str, ...] = ("",),
        cost_known: bool = False,
        **words: object,
    ) -> Game:
        """One lane on each worker, and the workers on the classes of `biases` in turn."""
        start = opened(**words)  # type: ignore[arg-type]
        game = cls(
            Board(start),
            policy or Bayes(),
            chance=random.Random(seed),
            agents=agents,
            cost_known=cost_known,
            biases=biases or {"": 0.0},
        )
        game.lines.append([start])
        for index in range(lanes):
            game.sit(f"gpu{index}", index)
        return game

    # --- Events ------------------------------------------------------------------------------------------------------

    def record(self, events: list[Event]) -> None:
        if events:
            self.lines.append(events)
            for event in events:
                self.board.apply(event)

    def sit(self, lane: str, worker: int, device_class: str | None = None) -> Order:
        classes = list(self.biases)
        here = classes[worker % len(classes)] if device_class is None else device_class
        agent = self.agents[worker % len(self.agents)]
        seat = Seat(lane, worker, "host", 1, device_class=here, agent=agent, cost_known=self.cost_known)
        events, order = orders.sit(self.board, seat, self.now, self.policy)
        self.record(events)
        self.orders[lane] = order
        return order

    def vacate(self, worker: int) -> None:
        """The worker is given up, and hands nothing in any more."""
        self.record(orders.vacate(self.board, worker, "its node is gone", self.now))
        self.orders = {lane: order for lane, order in self.orders.items() if self.board.lanes[lane].present}

    def pause(self, worker: int, reason: str) -> bool:
        """The worker's device is in somebody's hands, or with "" no longer; whether it is worth waiting for."""
        events, goes_on = orders.pause(self.board, worker, reason, self.now)
        self.record(events)
        return goes_on

    def resume(self, **words: object) -> None:
        """The run is taken up again; nobody sits yet."""
        direction = self.board.direction
        self.record([Resumed(self.now, program(direction, **words) if words else self.board.program, "0")])
        self.orders.clear()

    def hear(self, message: Message) -> None:
        """Somebody says something from outside; of a change, that it is a commit of the run now."""
        if isinstance(message, Submit):
            parent = by_hand.parent_of(self.board, message.parent)
            self.record(by_hand.received(self.board, message, str(parent), f"mine-{message.id}", self.now))
        else:
            self.record(by_hand.heed(self.board, message, self.now))

    def hand_in(self, attempt: Attempt) -> Order:
        order = self.orders.get(attempt.lane)
        self.now += order.seconds if isinstance(order, Wait) else 1.0
        events, order = orders.decide(self.board, attempt, self.now, self.policy)
        self.record(events)
        if attempt.seat == self.board.lanes[attempt.lane].sitting:
            self.orders[attempt.lane] = order
        return order

    def turn(self, lane: str, outcome: Outcome = None, **more: object) -> Order:
        return self.hand_in(self.attempt(lane, outcome, **more))

    def active(self) -> list[str]:
        return [lane for lane, order in self.orders.items() if not isinstance(order, Stop)]

    def play(self, turns: int) -> None:
        """Random lanes take turns until all have stopped or `turns` are over."""
        for _ in range(turns):
            active = self.active()
            if not active:
                return
            self.turn(self.chance.choice(active))

    # --- The world ---------------------------------------------------------------------------------------------------

    def attempt(self, lane: str, outcome: Outcome = None, seconds: float = 60.0, **more: object) -> Attempt:
        """What `lane` would hand in for its order."""
        order, seat = self.orders[lane], self.board.lanes[lane].seat
        assert not isinstance(order, Stop)
        if isinstance(order, Wait):
            nothing = Measurement(None, Failure(FailureKind.AGENT, order.why))
            return Attempt(order.id, lane, self.board.lanes[lane].sitting, "wait", "", None, nothing)
        self.made += 1
        picked: list[str] = []
        left_out: list[str] = []
        line: list[str] = []
        if isinstance(order, Remeasure | Holdout):
            parent = head = order.commit
        elif isinstance(order, Replay):
            parent = head = order.parent
            for number, each in enumerate(order.commits):
                if self.fits(self.changes[each][-1], head):
                    onto, change = (
                        self.changes[head],
                        self.changes[each][-1],
                    )  # on its own parent it is that commit
                    name = each if (*onto, change) == self.changes[each] else f"commit{self.made:05d}.{number}"
                    head = self.commit(name, head, change)
                    picked.append(each)
                    line.append(head)
                else:
                    left_out.append(each)
            outcome = outcome or self._known(head, line)
        elif isinstance(order, Ablate):
            parent, head = order.parent, f"commit{self.made:05d}"
            self.effects[head] = -self.effects[order.commit]
            self.commit(head, parent, head)
            line.append(head)
            left_out.append(order.commit)
        elif isinstance(order, Try):
            parent, head = order.parent, order.commit
            self.effects.setdefault(head, self.propose(self, parent))
            self.commit(head, parent, head)
            line.append(head)
            more = {"idea": order.idea, **more}
        else:
            parent, head = order.parent, f"commit{self.made:05d}"
            self.effects[head] = self.propose(self, parent)
            self.commit(head, parent, head)
            line.append(head)
        if outcome is None and self.chance.random() < self.fails:
            outcome = Measurement(None, Failure(FailureKind.CRASH, "boom"))
        if outcome is None:
            value = self.truth[head] + self.biases[seat.device_class] + self.chance.gauss(0.0, self.noise)
            outcome = Measurement(value, seed=order.seed, wall_seconds=seconds)
        made = None if outcome.failure and outcome.failure.kind in _WITHOUT_COMMIT else head
        made = None if isinstance(order, Replay) and not picked else made
        words = {
            "line": tuple(line) if made else (),
            "idea": f"idea {self.made}",
            "usage": Usage(seconds=6.0),
            "tree": self.tree(head) if made and line else "",
            "picked": tuple(picked),
            "left_out": tuple(left_out),
            **more,
        }
        sitting = self.board.lanes[lane].sitting
        return Attempt(order.id, lane, sitting, order.kind, parent, made, outcome, **words)  # type: ignore[arg-type]

    def commit(self, name: str, parent: str, change: str) -> str:
        self.changes[name] = (*self.changes[parent], change)
        self.truth[name] = self.truth[parent] + self.effects[change]
        return name

    def fits(self, change: str, onto: str) -> bool:
        there = self.changes[onto]
        return change not in there and not any(self._clash(change, each) for each in there)

    def tree(self, commit: str) -> str:
        """Two commits with the same changes have the same files, in whatever order these were made."""
        return " ".join(sorted(self.changes[commit]))

    def _clash(self, one: str, other: str) -> bool:
        return zlib.crc32(" ".join(sorted((one, other))).encode()) % 1000 < 1000 * self.clashes

    def _known(self, head: str, line: list[str]) -> Outcome:
        """Why a replay is not measured, if it is not."""
        if not line:
            return Measurement(None, Failure(FailureKind.CONFLICT, "nothing can be picked"))
        known = self.board.catalogue.tree(self.tree(head))
        if known is not None and known.status is not Status.LOST:
            return Measurement(None, Failure(FailureKind.DUPLICATE, f"the same files as #{known.number}"))
        return None


_WITHOUT_COMMIT = {
    FailureKind.OUT_OF_SCOPE,
    FailureKind.NO_CHANGE,
    FailureKind.NO_EFFECT,
    FailureKind.DUPLICATE,
    FailureKind.CONFLICT,
    FailureKind.AGENT,
}


# --- For those who play it -------------------------------------------------------------------------------------------


def events(game: Game) -> list[Event]:
    return [each for line in game.lines for each in line]


def value(number: float) -> Measurement:
    return Measurement(number, wall_seconds=60.0)


def failed(kind: FailureKind, tail: str = "", fatal: bool = False) -> Measurement:
    return Measurement(None, Failure(kind, "why", tail, fatal))


def calibrated(lanes: int = 2, policy: Policy | None = None, **words: object) -> Game:
    """The base is known on every lane, as 1.0 give or take 0.001. Unless told otherwise, nothing is gathered."""
    game = Game.of(lanes, policy=policy or Confirm(), **words)  # type: ignore[arg-type]
    for index in range(max(lanes, game.policy.confirmations)):
        game.turn(f"gpu{index % lanes}", value(1.0 + 0.001 * (-1) ** index))
    return game
