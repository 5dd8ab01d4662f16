"""The clock of a slot: whatever its lanes do, every second has one use, and it is the best of what they do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.account import PARTS, Part
from autoresearch_ray.model import Use
from autoresearch_ray.slot_clock import SlotClock, Trial

LANES = 3
MEASURED = [each for each in PARTS[Part.MEASURING] if each is not Use.LOST]
TOLD = [each for each in Use if each not in PARTS[Part.MEASURING]]


@pytest.fixture(scope="module")
def threads() -> Iterator[list[ThreadPoolExecutor]]:
    """A thread for each lane: the clock tells them apart by that."""
    with ExitStack() as pools:
        yield [pools.enter_context(ThreadPoolExecutor(max_workers=1)) for _ in range(LANES)]


@dataclass
class Slot:
    """A slot whose lanes act one after the other, on a clock that only stands or is put forward by whole seconds."""

    threads: list[ThreadPoolExecutor]
    now: float = 0.0
    seconds: list[tuple[Use, int]] = field(default_factory=list)  # what each was used for, and the trial it was in
    trials: int = 0
    measuring: tuple[int, Trial, Use] | None = None  # the lane that has the device

    def __post_init__(self) -> None:
        self.clock = SlotClock(7, 1000.0, monotonic=lambda: self.now)
        self.open: list[list[tuple[Use, ExitStack]]] = [[] for _ in self.threads]

    def enters(self, lane: int, use: Use, *contexts: AbstractContextManager[object]) -> object:
        stack = ExitStack()
        entered = [self.threads[lane].submit(stack.enter_context, each).result() for each in contexts]
        self.open[lane].append((use, stack))
        return entered[0]

    def leaves(self, lane: int) -> None:
        _, stack = self.open[lane].pop()
        self.threads[lane].submit(stack.close).result()

    def passes(self, seconds: int) -> None:
        inner = [lane[-1][0] for lane in self.open if lane]
        use = next((each for each in Use if each in inner), Use.SETUP)  # Use is listed from the best on
        self.seconds += [(use, self.trials if self.measuring else 0)] * seconds
        self.now += seconds

    def begins_to_measure(self, lane: int, use: Use) -> None:
        self.trials += 1
        trial = self.enters(lane, use, self.clock.trial(use), self.clock.measuring())
        assert isinstance(trial, Trial)
        self.measuring = (lane, trial, use)

    def ends_measuring(self, counts: bool) -> None:
        assert self.measuring is not None
        lane, trial, use = self.measuring
        trial.counts = counts
        self.leaves(lane)
        self.measuring = None
        if not counts:
            self.seconds = [(Use.LOST, each[1]) if each == (use, self.trials) else each for each in self.seconds]


@given(data=st.data())
def test_each_second_has_the_best_use_of_all_lanes_and_lost_ones_are_told(
    threads: list[ThreadPoolExecutor], data: st.DataObject
) -> None:
    slot = Slot(threads)
    for _ in range(data.draw(st.integers(0, 20))):
        match data.draw(st.sampled_from(["passes", "enters", "leaves", "measures"])):
            case "passes":
                slot.passes(data.draw(st.integers(0, 9)))
            case "measures" if slot.measuring:
                slot.ends_measuring(data.draw(st.booleans()))
            case "measures":
                slot.begins_to_measure(data.draw(st.integers(0, LANES - 1)), data.draw(st.sampled_from(MEASURED)))
            case step:
                lane = data.draw(st.integers(0, LANES - 1))
                if slot.measuring and slot.measuring[0] == lane:
                    continue
                if step == "enters":
                    use = data.draw(st.sampled_from(TOLD))
                    slot.enters(lane, use, slot.clock.doing(use))
                elif slot.open[lane]:
                    slot.leaves(lane)
        spent = slot.clock.spent()
        assert spent.seconds == Counter(use for use, _ in slot.seconds)
        assert sum(spent.seconds.values()) == slot.now and (spent.worker, spent.since) == (7, 1000.0)
    if slot.measuring:
        slot.ends_measuring(counts=True)
    for lane in range(LANES):
        while slot.open[lane]:
            slot.leaves(lane)


def test_what_ends_in_an_error_is_lost_and_what_the_error_left_is_no_longer_done() -> None:
    now = 0.0
    clock = SlotClock(monotonic=lambda: now)
    with pytest.raises(OSError, match="gone"), clock.trial(Use.AGAIN), clock.measuring():
        now = 5.0
        raise OSError("the disk is gone")
    now = 7.0
    assert clock.spent().seconds == {Use.LOST: 5.0, Use.SETUP: 2.0}


def test_threads_that_run_freely_leave_no_second_out_and_book_none_twice() -> None:
    before = time.monotonic()
    clock = SlotClock()
    begun = time.monotonic()

    def work() -> None:
        for turn in range(300):
            with clock.doing(TOLD[turn % len(TOLD)]), clock.doing(Use.AGENT):
                clock.spent()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    ended = time.monotonic()
    told = sum(clock.spent().seconds.values())
    after = time.monotonic()
    rounding = 0.0005 * len(Use)
    assert ended - begun - rounding <= told <= after - before + rounding
