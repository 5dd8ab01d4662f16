"""Where the time went: the parts of every slot add up to its wall clock, whatever becomes of workers and reports."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray import ledger
from autoresearch_ray.account import PARTS, Part
from autoresearch_ray.board import Board, replay
from autoresearch_ray.events import Event, Left, Measured, Opened, Resumed, Seated, Vacated
from autoresearch_ray.model import (
    Attempt,
    Eval,
    Failure,
    FailureKind,
    Measurement,
    Metric,
    Program,
    Scope,
    Seat,
    Spent,
    Use,
)
from autoresearch_ray.model import Direction as Way

DOWN = frozenset(PARTS[Part.DOWN])
ON_THE_CLOCK = [each for each in Use if each not in DOWN and each is not Use.UNREPORTED]
PROGRAM = Program("", "", Scope(("train.py",)), Eval("true", Metric("loss", Way.LOWER), 300.0, 600.0))
NOTHING = Measurement(None, Failure(FailureKind.MACHINE, "not measured"))


def test_every_use_is_in_one_part() -> None:
    assert sorted(use for uses in PARTS.values() for use in uses) == sorted(Use)


@dataclass
class Story:
    """A run as it may happen, told to a board; what it should say of the time is kept beside it, second by second."""

    workers: int
    now: float = 1000.0
    lines: list[list[Event]] = field(default_factory=list)
    lives: dict[int, Spent] = field(default_factory=dict)  # the workers that are there, and what they have spent
    seen: list[Spent] = field(default_factory=list)  # reports that were handed in, and may come again
    told: dict[int, float] = field(default_factory=dict)  # until when each slot's time is reported
    down: dict[tuple[int, Use], float] = field(default_factory=dict)
    wall: dict[int, float] = field(default_factory=dict)
    gone: dict[int, Use] = field(default_factory=dict)  # slots whose worker is not there, and why
    sat: dict[int, float] = field(default_factory=dict)  # the latest life of each worker that sat down
    began: float = 1000.0

    def __post_init__(self) -> None:
        opened = Opened(self.now, "t", "base", "", PROGRAM, "", "0.1.0")
        self.board = Board(opened)
        self.lines = [[opened]]

    def tell(self, event: Event) -> None:
        self.board.apply(event)
        self.lines.append([event])

    def passes(self, seconds: int, uses: list[Use]) -> None:
        """Time goes by, and each worker spends it on the use of its turn."""
        self.now += seconds
        for worker, spent in self.lives.items():
            use = uses[worker % len(uses)]
            more = {**spent.seconds, use: spent.seconds.get(use, 0.0) + seconds}
            self.lives[worker] = Spent(worker, spent.since, more)

    def begins(self, worker: int) -> None:
        if worker not in self.lives:
            self.lives[worker] = Spent(worker, self.now + len(self.lines) / 1024, {})

    def sits(self, worker: int, lane: str) -> None:
        """A lane of a worker sits down: with the first one, the time without a worker ends where this life began."""
        spent = self.lives.get(worker)
        if spent is None:
            return
        if worker not in self.told:
            self.told[worker], self.gone[worker] = self.began, Use.STARTING
        if self.sat.get(worker) != spent.since:
            self.is_down(worker, self.gone.pop(worker, Use.DIED), self.now - sum(spent.seconds.values()))
        self.sat[worker] = spent.since
        self.told[worker] = self.now
        lane = f"gpu{worker}{lane}" if f"gpu{worker}" in self.board.lanes else f"gpu{worker}"
        self.tell(Seated(self.now, Seat(lane, worker, "host", 1), 1, spent))
        self.seen.append(spent)

    def is_down(self, worker: int, use: Use, until: float) -> None:
        self.down[worker, use] = self.down.get((worker, use), 0.0) + until - self.told[worker]

    def hands_in(self, worker: int, spent: Spent | None = None) -> None:
        """A report, perhaps one that was handed in before."""
        name = f"gpu{worker}"
        if name not in self.board.lanes or (spent is None and worker not in self.told):
            return
        if spent is None:
            spent = self.lives.get(worker)
            if spent is None or self.sat[worker] != spent.since:
                return
            self.told[worker] = self.now
            self.seen.append(spent)
        self.tell(Measured(self.now, Attempt(f"{name}-1", name, 1, "remeasure", "base", "base", NOTHING, spent=spent)))

    def leaves(self, worker: int) -> None:
        if worker in self.lives and self.sat.get(worker) == self.lives[worker].since:
            self.told[worker], self.gone[worker] = self.now, Use.FINISHED
            self.tell(Left(self.now, self.lives.pop(worker)))

    def dies(self, worker: int, vacated: bool) -> None:
        self.lives.pop(worker, None)
        if vacated and worker in self.told:
            self.gone.setdefault(worker, Use.DIED)
            self.tell(Vacated(self.now, f"gpu{worker}", "it died"))

    def is_taken_up(self, pause: int) -> None:
        ended = self.board.last_at
        for worker in self.told:
            self.is_down(worker, self.gone.get(worker, Use.DIED), ended)
            self.wall[worker] = self.wall.get(worker, 0.0) + ended - self.began
        self.told, self.gone, self.lives, self.sat = {}, {}, {}, {}
        self.began = self.now = self.now + pause
        self.tell(Resumed(self.now, PROGRAM, "0.1.0"))

    def holds(self) -> None:
        account, now = self.board.account, self.now
        for worker, slot in account.slots.items():
            seconds = slot.seconds(now)
            wall = self.wall.get(worker, 0.0) + (now - self.began if worker in self.told else 0.0)
            assert slot.wall_seconds(now) == pytest.approx(wall)
            assert sum(seconds.values()) == pytest.approx(wall) and min(seconds.values(), default=1.0) > 0
            down = {use: self.down.get((worker, use), 0.0) for use in DOWN}
            if worker in self.told:
                rest = self.gone.get(worker, Use.UNREPORTED)
                down[rest] = down.get(rest, 0.0) + now - self.told[worker]
            assert {use: seconds.get(use, 0.0) for use in down} == pytest.approx(down)
        assert sum(account.seconds(now).values()) == pytest.approx(account.wall_seconds(now))


steps = st.one_of(
    st.tuples(st.just("passes"), st.integers(0, 600), st.lists(st.sampled_from(ON_THE_CLOCK), min_size=1, max_size=4)),
    st.tuples(st.just("begins"), st.integers(0, 2)),
    st.tuples(st.just("sits"), st.integers(0, 2), st.sampled_from(["", "b"])),
    st.tuples(st.just("hands_in"), st.integers(0, 2)),
    st.tuples(st.just("leaves"), st.integers(0, 2)),
    st.tuples(st.just("dies"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("is_taken_up"), st.integers(0, 9999)),
    st.tuples(st.just("again"), st.integers(0, 99)),
)


@given(st.lists(steps, max_size=40))
def test_the_parts_of_every_slot_add_up_to_its_wall_clock(told: list[tuple]) -> None:
    story = Story(3)
    for name, *arguments in told:
        if name == "again":  # a hand-in that comes twice, or late, or from an earlier life
            if story.seen:
                again = story.seen[arguments[0] % len(story.seen)]
                story.hands_in(again.worker, again)
        else:
            getattr(story, name)(*arguments)
        story.holds()
    lines = [ledger.decode(ledger.encode(each)) for each in story.lines]
    assert replay(lines).account.slots == story.board.account.slots


def at_work() -> Story:
    """Worker 0 has come 60 s after the run began, and its agent has thought for five minutes."""
    story = Story(1)
    story.passes(60, [Use.AGENT])
    story.begins(0)
    story.sits(0, "")
    story.passes(300, [Use.AGENT])
    story.hands_in(0)
    story.holds()
    return story


def test_a_report_that_was_overtaken_takes_nothing_back() -> None:
    story = at_work()
    story.hands_in(0, story.seen[0])
    story.holds()


def test_the_last_word_of_an_earlier_life_comes_too_late() -> None:
    story = at_work()
    earlier = story.lives[0]
    story.dies(0, vacated=False)
    story.passes(30, [Use.AGENT])
    story.begins(0)
    story.sits(0, "")
    story.tell(Left(story.now, earlier))
    story.passes(30, [Use.AGENT])
    story.holds()
    assert story.board.account.seconds(story.now) == {
        Use.STARTING: 60.0,
        Use.AGENT: 300.0,
        Use.DIED: 30.0,
        Use.UNREPORTED: 30.0,
    }


def test_a_worker_that_had_finished_does_not_die_any_more() -> None:
    story = at_work()
    story.leaves(0)
    story.passes(50, [Use.AGENT])
    story.dies(0, vacated=True)
    story.holds()
    assert story.board.account.seconds(story.now)[Use.FINISHED] == 50.0


def test_what_is_tried_on_a_fork_is_not_booked() -> None:
    story = Story(1)
    story.begins(0)
    story.sits(0, "")
    before = copy.deepcopy(story.board.account.slots)
    story.lives[0] = Spent(0, story.lives[0].since, {Use.CANDIDATES: 300.0})
    fork = story.board.fork("gpu0")
    fork.apply(Left(1300.0, story.lives[0]))
    assert story.board.account.slots == before


def test_a_ledger_without_reports_has_no_account() -> None:
    board = Board(Opened(0.0, "t", "base", "", PROGRAM, "", "0.1.0"))
    line = (
        b'[{"at":1.0,"seat":{"lane":"gpu0","worker":0,"host":"h","pid":1},"sitting":1,"event":"seated"},'
        b'{"at":2.0,"attempt":{"id":"gpu0-1","lane":"gpu0","seat":1,"kind":"remeasure","parent":"base",'
        b'"commit":"base","measurement":{"value":1.0,"wall_seconds":1.0}},"event":"measured"}]'
    )
    for event in ledger.decode(line):
        board.apply(event)
    assert board.attempts == 1 and board.account.slots == {} and board.account.wall_seconds(99.0) == 0.0
