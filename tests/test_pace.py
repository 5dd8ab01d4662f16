"""How many lanes a slot gets: the rule itself, and what it makes of a slot whose agents and evaluations are made up."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.pace import MOST, Pace, idle_share

E = 6.0  # seconds of an evaluation
AROUND = 0.15  # of the hand-in, the commit and the trees, besides the agent

Agent = Callable[[float, random.Random], float]  # the seconds of a proposal that begins at a time


def even(ratio: float) -> Agent:
    return lambda now, chance: ratio * E


def uneven(ratio: float) -> Agent:
    return lambda now, chance: chance.expovariate(1 / (ratio * E))


def turning(before: Agent, after: Agent, at: float) -> Agent:
    return lambda now, chance: (before if now < at else after)(now, chance)


@dataclass
class World:
    """One slot on a virtual clock, whose lanes come and go as `Pace` says. It is looked at once a second."""

    agent: Agent
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    pace: Pace = field(default_factory=Pace)
    lanes: set[str] = field(default_factory=set)
    spans: list[tuple[float, float]] = field(default_factory=list)  # of evaluations
    crowd: list[tuple[float, int]] = field(default_factory=list)  # lanes from a time on
    events: list[tuple[float, int, str, str]] = field(default_factory=list)
    queue: list[str] = field(default_factory=list)
    baselines: int = 2

    def __post_init__(self) -> None:
        self.numbers = itertools.count()
        self.sit(0.0)
        self.after(1.0, "look", "")

    def after(self, at: float, what: str, lane: str) -> None:
        heapq.heappush(self.events, (at, next(self.numbers), what, lane))

    def sit(self, now: float) -> None:
        lane = next(each for each in map(str, itertools.count()) if each not in self.lanes)
        self.lanes.add(lane)
        self.pace.came(lane, now)
        self.order(lane, now)

    def order(self, lane: str, now: float) -> None:
        proposes = self.baselines <= 0
        self.baselines -= 1
        self.pace.ordered(lane, proposes, now)
        self.after(now + AROUND + (self.agent(now, self.chance) if proposes else 0.0), "arrives", lane)

    def begin(self, now: float) -> None:
        if self.queue and (not self.spans or self.spans[-1][1] <= now):
            lane = self.queue.pop(0)
            self.pace.took(lane, now)
            self.spans.append((now, now + E))
            self.after(now + E, "leaves", lane)

    def run(self, until: float) -> World:
        while self.events[0][0] < until:
            now, _, what, lane = heapq.heappop(self.events)
            match what:
                case "arrives":
                    self.pace.arrived(lane, now)
                    self.queue.append(lane)
                case "leaves":
                    self.pace.left(lane, now)
                    self.after(now + AROUND / 3, "hands in", lane)
                case "hands in" if self.pace.spare(now):
                    self.pace.gone(lane)
                    self.lanes.remove(lane)
                case "hands in":
                    self.order(lane, now)
                case "look":
                    self.after(now + 1.0, "look", "")
            self.begin(now)
            while self.pace.short(now):
                self.sit(now)
            self.crowd.append((now, len(self.lanes)))
        return self

    def busy(self, begin: float, end: float) -> float:
        return sum(max(0.0, min(end, to) - max(begin, at)) for at, to in self.spans) / (end - begin)

    def lanes_at(self, time: float) -> int:
        return [count for at, count in self.crowd if at <= time][-1]


@pytest.mark.parametrize(("ratio", "lanes"), [(0.1, 2), (0.33, 2), (1.0, 3), (2.0, 4), (4.0, 5), (10.0, 12)])
def test_steady_agents_keep_a_slot_busy_with_as_few_lanes_as_can(ratio: float, lanes: int) -> None:
    world = World(even(ratio)).run(3000.0)
    begun = (2 * ratio + 2) * E  # nothing could be measured before the first agents were done
    assert world.busy(begun, 3000.0) > 0.985
    assert {count for at, count in world.crowd if at > 1000.0} <= {lanes - 1, lanes}


@pytest.mark.parametrize("ratio", [0.1, 0.33, 1.0, 2.0])
def test_a_slot_is_busy_from_the_first_experiments_on(ratio: float) -> None:
    idle_at_first = max(0.0, ratio * E - 2 * E)  # two baselines are measured while the first agent thinks
    world = World(even(ratio)).run(180.0)
    assert (1 - world.busy(0.0, 180.0)) * 180.0 < idle_at_first + 2.0


@pytest.mark.parametrize("ratio", [0.33, 1.0, 2.0])
def test_uneven_agents_get_more_lanes(ratio: float) -> None:
    """Exponentially distributed: a quarter of the proposals takes more than 1.4 times the mean, one in fifty four."""
    world = World(uneven(ratio)).run(6000.0)
    assert world.busy(0.0, 6000.0) > 0.975
    assert max(count for _, count in world.crowd) < MOST


@pytest.mark.parametrize("kind", [even, uneven])
def test_an_agent_that_gets_slow_is_followed_and_so_is_one_that_gets_fast(
    kind: Callable[[float], Agent],
) -> None:
    slow, fast = 1200.0, 3600.0
    world = World(turning(turning(kind(0.33), kind(2.0), slow), kind(0.33), fast)).run(6000.0)
    assert world.busy(slow + 120.0, fast) > 0.96
    assert world.busy(fast, 6000.0) > 0.98
    assert world.lanes_at(slow - 1) < world.lanes_at(fast - 1)
    assert world.lanes_at(5999.0) <= 3


def test_it_is_seen_while_it_thinks_that_an_agent_is_slow() -> None:
    """Nobody has handed in a proposal yet, or one that took as long."""
    world = World(even(10.0)).run(60.0)
    assert 9 <= len(world.lanes) <= 12


def test_one_proposal_that_hangs_does_not_call_all_lanes() -> None:
    pace = Pace()
    for number in range(12):
        begun = 40.0 * number
        pace.ordered("a", True, begun)
        pace.arrived("a", begun + 10.0)
        pace.took("a", begun + 10.0)
        pace.left("a", begun + 40.0)
    pace.ordered("a", True, 480.0)
    pace.ordered("b", False, 480.0)
    assert not pace.short(485.0)
    lanes = 2
    while pace.short(480.0 + 600.0):
        lanes += 1
        pace.ordered(str(lanes), True, 1080.0)
    assert 3 <= lanes <= 4


# --- The rule itself -------------------------------------------------------------------------------------------------


def test_at_first_one_lane_proposes_while_others_measure_the_base() -> None:
    pace = Pace()
    pace.came("a", 0.0)
    assert not pace.short(0.0)  # it has not been told yet what to do
    pace.ordered("a", False, 0.1)
    assert pace.short(0.1)
    pace.came("b", 0.1)
    pace.ordered("b", True, 0.2)
    assert not pace.short(9.0) and not pace.spare(9.0)


def test_a_guard_is_part_of_its_evaluation_and_a_remeasurement_is_no_turn() -> None:
    pace = Pace()
    pace.ordered("a", True, 0.0)
    pace.arrived("a", 5.0)
    for took, left in ((5.0, 15.0), (20.0, 23.0)):  # the evaluation, and the guard after another lane's evaluation
        pace.took("a", took)
        pace.left("a", left)
    pace.ordered("a", False, 24.0)
    pace.arrived("a", 24.1)
    assert list(pace._turns) == [5.0]
    assert list(pace._evaluations) == [13.0]


@given(
    lanes=st.integers(1, MOST),
    turns=st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=24),
    evaluations=st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=24),
)
def test_the_idle_share_is_a_share(lanes: int, turns: list[float], evaluations: list[float]) -> None:
    assert 0.0 <= idle_share(lanes, turns, evaluations) < 1.0


@given(st.floats(0.01, 1000.0), st.floats(0.01, 1000.0), st.integers(1, MOST))
def test_of_even_turns_the_idle_share_is_known(turn: float, evaluation: float, lanes: int) -> None:
    busy = min(1.0, lanes * evaluation / (turn + evaluation))
    assert idle_share(lanes, [turn], [evaluation]) == pytest.approx(1 - busy, abs=1e-6)
