"""A run played on the real board: lanes that hand in what a made-up world answers, without git, Ray or a clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from autoresearch_ray import orders
from autoresearch_ray.board import Board
from autoresearch_ray.model import (
    Attempt,
    Direction,
    Eval,
    Event,
    Failure,
    FailureKind,
    Measurement,
    Metric,
    Opened,
    Options,
    Order,
    Program,
    Remeasure,
    Replay,
    Scope,
    Seat,
    Stop,
    Usage,
)
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.ports import Policy


def program(direction: Direction = Direction.LOWER, **options: object) -> Program:
    return Program(
        title="game",
        text="# game",
        scope=Scope(("train.py",)),
        eval=Eval("python train.py", Metric("loss", direction), 60.0, 120.0),
        options=Options(**{"lanes": 1, **options}),  # type: ignore[arg-type]
    )


def opened(direction: Direction = Direction.LOWER, **options: object) -> Opened:
    return Opened(0.0, "game", "base", "", program(direction, **options), "# game", "0")


Outcome = Measurement | None  # None: measure the commit's true value with noise


@dataclass
class Game:
    """Lanes take turns; `lines` is the ledger as it would be written."""

    board: Board
    policy: Policy = field(default_factory=Confirm)
    noise: float = 0.001
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    propose: Callable[[Game, str], float] = lambda game, parent: game.chance.gauss(0.0, 0.01)
    fails: float = 0.0
    truth: dict[str, float] = field(default_factory=lambda: {"base": 1.0})
    orders: dict[str, Order] = field(default_factory=dict)
    lines: list[list[Event]] = field(default_factory=list)
    now: float = 0.0
    made: int = 0

    @classmethod
    def of(cls, lanes: int, seed: int = 0, policy: Policy | None = None, **options: object) -> Game:
        start = opened(**options)  # type: ignore[arg-type]
        game = cls(Board(start), policy or Confirm(), chance=random.Random(seed))
        game.lines.append([start])
        for index in range(lanes):
            game.sit(f"gpu{index}", index)
        return game

    def record(self, events: list[Event]) -> None:
        if events:
            self.lines.append(events)
            for event in events:
                self.board.apply(event)

    def sit(self, lane: str, worker: int) -> Order:
        events, order = orders.sit(self.board, Seat(lane, worker, "host", 1), self.now, self.policy)
        self.record(events)
        self.orders[lane] = order
        return order

    def attempt(self, lane: str, outcome: Outcome = None, seconds: float = 60.0, **more: object) -> Attempt:
        """What `lane` would hand in for its order."""
        order = self.orders[lane]
        assert not isinstance(order, Stop)
        self.made += 1
        if isinstance(order, Remeasure):
            parent, commit, line = order.commit, order.commit, ()
        else:
            parent, commit = order.parent, f"commit{self.made:05d}"
            line = (commit,)
            gain = (
                sum(self.truth[each] - self.truth[self.parent(each)] for each in order.commits)
                if isinstance(order, Replay)
                else self.propose(self, parent)
            )
            self.truth[commit] = self.truth[parent] + gain
            self.parents[commit] = parent
        if outcome is None and self.chance.random() < self.fails:
            outcome = Measurement(None, Failure(FailureKind.CRASH, "boom"))
        if outcome is None:
            value = self.truth[commit] + self.chance.gauss(0.0, self.noise)
            outcome = Measurement(value, seed=order.seed, wall_seconds=seconds)
        sitting = self.board.lanes[lane].sitting
        fields = {"line": line, "idea": f"idea {self.made}", "usage": Usage(seconds=6.0), **more}
        return Attempt(order.id, lane, sitting, order.kind, parent, commit, outcome, **fields)  # type: ignore[arg-type]

    parents: dict[str, str] = field(default_factory=dict)

    def parent(self, commit: str) -> str:
        return self.parents[commit]

    def hand_in(self, attempt: Attempt) -> Order:
        self.now += 1.0
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
