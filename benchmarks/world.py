"""Made-up worlds whose true values are known, and runs of the real board and policies in them on a virtual clock.

Nothing is decided here: a lane asks `orders.sit`, hands in to `orders.decide`, and does what the reply says, as a
worker does. What is made up is the agent, which draws an idea, and the evaluation, which answers the commit's true
value plus noise. Lower is better; the base is worth 1.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoresearch_ray import orders
from autoresearch_ray.board import Board
from autoresearch_ray.events import Event, Opened, Published
from autoresearch_ray.model import (
    Attempt,
    Direction,
    Eval,
    Failure,
    FailureKind,
    Measurement,
    Metric,
    Options,
    Order,
    Program,
    Propose,
    Remeasure,
    Replay,
    Scope,
    Seat,
    Spent,
    Stop,
    Usage,
    Wait,
)
from autoresearch_ray.ports import Policy

EVALUATION_SECONDS = 300.0
BASE = "base"


@dataclass(frozen=True, slots=True)
class Landscape:
    """What a kind of world is like. The defaults are the reference world."""

    ideas: int = 80  # good ones, each of which can be used once
    effect: float = 0.0015  # mean of their true effects, which are exponential: few are worth much
    good: float = 0.25  # of the proposals are drawn from what is left of them
    harm: float = 0.002  # mean of what the others do, exponential too, for the worse
    conflicts: float = 0.02  # of all pairs of changes do not go together
    noise: float = 0.001  # standard deviation of one measurement
    crashes: float = 0.08  # of the proposals
    agent_seconds: float = 100.0  # of one proposal, on average; exponential
    fading: float = 0.0  # share of an effect that is lost with every good idea that is in already
    biases: tuple[float, ...] = (0.0,)  # of the device classes that lanes sit on in turn: how much higher values read


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does: a good idea of the pool by number, or harm."""

    number: int  # of the commit: no two have the same
    idea: int | None
    harm: float = 0.0


@dataclass(slots=True)
class World:
    """One world, with the truth about every commit in it."""

    landscape: Landscape
    chance: random.Random
    effects: list[float] = field(init=False)
    changes: dict[str, tuple[Change, ...]] = field(default_factory=lambda: {BASE: ()})
    tried: set[int] = field(default_factory=set)
    _truth: dict[str, float] = field(default_factory=lambda: {BASE: 1.0})
    _made: int = 0
    _salt: int = 0

    def __post_init__(self) -> None:
        land = self.landscape
        self.effects = [self.chance.expovariate(1 / land.effect) for _ in range(land.ideas)]
        self._salt = self.chance.getrandbits(30)

    def truth(self, commit: str) -> float:
        return self._truth[commit]

    def draw(self, parent: str) -> Change:
        """An agent's next change: it knows what was tried anywhere, and what its own branch has."""
        self._made += 1
        if self.chance.random() < self.landscape.good:
            inside = {each.idea for each in self.changes[parent]}
            left = [each for each in range(len(self.effects)) if each not in self.tried and each not in inside]
            if left:
                return Change(self._made, self.chance.choice(left))
        return Change(self._made, None, self.chance.expovariate(1 / self.landscape.harm))

    def commit(self, parent: str, more: Sequence[Change]) -> str:
        self._made += 1
        name = f"c{self._made:07d}"
        there, value = self.changes[parent], self._truth[parent]
        for change in more:
            value += change.harm if change.idea is None else -self._effect(change.idea, there)
            there = (*there, change)
        self.changes[name], self._truth[name] = there, value
        return name

    def fits(self, change: Change, there: Sequence[Change]) -> bool:
        """Whether a pick onto a commit with the changes `there` neither conflicts nor is there already."""
        for other in there:
            same = change.number == other.number or (change.idea is not None and change.idea == other.idea)
            if same or self.conflict(change, other):
                return False
        return True

    def conflict(self, one: Change, other: Change) -> bool:
        """Two changes conflict by what they are, whoever made them."""
        return self._clash(_key(one), _key(other))

    def _clash(self, one: int, other: int) -> bool:
        low, high = (one, other) if one < other else (other, one)
        mixed = (low * 2654435761 ^ high * 2246822519 ^ self._salt) & 0xFFFFFFFF
        return ((mixed * 2654435761 >> 8) % 10_000) < 10_000 * self.landscape.conflicts

    def _effect(self, idea: int, there: Sequence[Change]) -> float:
        """What an idea is worth on top of the changes `there`: nothing, if one of them conflicts with it."""
        others = [each.idea for each in there if each.idea is not None]
        if any(self._clash(idea, other) for other in others):
            return 0.0
        return self.effects[idea] * (1 - self.landscape.fading) ** len(others)


def _key(change: Change) -> int:
    return change.number + 1000 if change.idea is None else change.idea


@dataclass(slots=True)
class Run:
    """A whole night in one world."""

    world: World
    board: Board
    policy: Policy
    now: float = 0.0
    best: list[tuple[float, str]] = field(default_factory=list)  # each published best, and when
    lines: list[list[Event]] = field(default_factory=list)  # the ledger as it would be written
    decisions: int = 0
    _queue: list[tuple[float, int, str, Attempt]] = field(default_factory=list)
    _under_way: dict[str, Change] = field(default_factory=dict)

    @classmethod
    def of(cls, landscape: Landscape, seed: int, lanes: int, policy: Policy, **options: object) -> Run:
        words = {"tag": f"world{seed}", "lanes": 1, **options}
        opened = Opened(0.0, f"world{seed}", BASE, "", _program(**words), "", "0")
        run = cls(World(landscape, random.Random(seed)), Board(opened), policy, lines=[[opened]])
        for index in range(lanes):
            device = f"class {index % len(landscape.biases)}"
            seat = Seat(f"gpu{index}", index, "host", 1, device, device_class=device)
            events, order = orders.sit(run.board, seat, 0.0, policy, Spent(index, 0.0, {}))
            run._apply(events)
            run._start(seat.lane, order)
        return run

    def play(self, dressed: Callable[[Attempt], Attempt] = lambda attempt: attempt) -> Run:
        """Until every lane has stopped. Each attempt is `dressed` before it is handed in."""
        while self._queue:
            self.now, _, lane, attempt = heapq.heappop(self._queue)
            self._under_way.pop(lane, None)
            if attempt.kind == "propose" and attempt.commit:
                idea = self.world.changes[attempt.commit][-1].idea
                self.world.tried |= set() if idea is None else {idea}
            events, order = orders.decide(self.board, dressed(attempt), self.now, self.policy)
            self._apply(events)
            self.decisions += 1
            self._start(lane, order)
        return self

    def _apply(self, events: Sequence[Event]) -> None:
        self.lines.append(list(events))
        for event in events:
            self.board.apply(event)
            if isinstance(event, Published):
                self.best.append((self.now, event.commit))

    def _start(self, lane: str, order: Order) -> None:
        """Carry out the order: what comes of it, and when it is handed in."""
        world, land, chance = self.world, self.world.landscape, self.world.chance
        match order:
            case Stop():
                return
            case Wait(seconds=seconds):
                nothing = Measurement(None, Failure(FailureKind.AGENT, order.why))
                attempt = Attempt(order.id, lane, self.board.lanes[lane].sitting, "wait", "", None, nothing)
                heapq.heappush(self._queue, (self.now + seconds, self.decisions, lane, attempt))
            case Propose(parent=parent):
                change = self._idea(parent)
                self._under_way[lane] = change
                thought = chance.expovariate(1 / land.agent_seconds)
                commit = world.commit(parent, (change,))
                crashed = chance.random() < land.crashes
                self._hand_in(lane, order, parent, commit, (commit,), thought, crashed=crashed)
            case Remeasure(commit=commit):
                self._hand_in(lane, order, commit, commit, (), 0.0)
            case Replay(parent=parent, commits=commits):
                self._replay(lane, order, parent, commits)
            case _:
                raise ValueError(f"no such order in these worlds: {order}")

    def _replay(self, lane: str, order: Replay, parent: str, commits: Sequence[str]) -> None:
        """Pick them one by one; what conflicts, or is there already, is left out."""
        world, head = self.world, parent
        picked, line, left_out = [], [], []
        for each in commits:
            change = world.changes[each][-1]
            if world.fits(change, world.changes[head]):
                head = world.commit(head, (change,))
                picked.append(each)
                line.append(head)
            else:
                left_out.append(each)
        made = head if picked else None
        self._hand_in(lane, order, parent, made, tuple(line), 0.0, picked=tuple(picked), left_out=tuple(left_out))

    def _idea(self, parent: str) -> Change:
        """Drawn again, twice at most, if the same is being measured on the same commit."""
        for _ in range(3):
            change = self.world.draw(parent)
            if change.idea is None or all(each.idea != change.idea for each in self._under_way.values()):
                break
        return change

    def _hand_in(
        self,
        lane: str,
        order: Propose | Remeasure | Replay,
        parent: str,
        commit: str | None,
        line: tuple[str, ...],
        thought: float,
        *,
        crashed: bool = False,
        picked: tuple[str, ...] = (),
        left_out: tuple[str, ...] = (),
    ) -> None:
        world, land, chance = self.world, self.world.landscape, self.world.chance
        seat = self.board.lanes[lane].seat
        seconds = EVALUATION_SECONDS * (chance.random() if crashed else 1.0)
        if commit is None:
            seconds, measurement = 0.0, Measurement(None, Failure(FailureKind.CONFLICT, "nothing can be picked"))
        elif crashed:
            measurement = Measurement(None, Failure(FailureKind.CRASH, "exit status 1"), wall_seconds=seconds)
        else:
            bias = land.biases[int(seat.device_class.split()[-1])]
            value = world.truth(commit) + bias + chance.gauss(0.0, land.noise)
            measurement = Measurement(value, seed=order.seed, wall_seconds=seconds)
        attempt = Attempt(
            order.id,
            lane,
            self.board.lanes[lane].sitting,
            order.kind,
            parent,
            commit,
            measurement,
            idea=f"idea {order.id}",
            line=line,
            usage=Usage(seconds=thought),
            picked=picked,
            left_out=left_out,
        )
        heapq.heappush(self._queue, (self.now + thought + seconds, self.decisions, lane, attempt))


def _program(**options: object) -> Program:
    return Program(
        title="world",
        text="",
        scope=Scope(("train.py",)),
        eval=Eval("python train.py", Metric("loss", Direction.LOWER), EVALUATION_SECONDS, 2 * EVALUATION_SECONDS),
        options=Options(**options),  # type: ignore[arg-type]
    )
