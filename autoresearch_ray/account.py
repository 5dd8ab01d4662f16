"""Where the time went: every second of every slot, by its use, from the reports of the workers.

A worker's report tells all that its slot has spent in this life of the worker, so the last one is enough. What no
report covers is down: before the worker began, between its death and its next life, after it had finished. Only sums
are kept, and the time that a run lay stopped counts for nobody.

Times are the coordinator's, in seconds since the epoch. A life is placed among them by its first report, which tells
how old it is; from then on it goes by the worker's clock. So the parts of a slot add up to its wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from autoresearch_ray.model import Spent, Use


class Part(StrEnum):
    """The parts of an account."""

    MEASURING = "measuring"
    SETTING_UP = "setting up"
    CANDIDATE = "waiting for a candidate"
    COORDINATOR = "waiting for the coordinator"
    DOWN = "down"
    UNREPORTED = "not yet reported"


PARTS: Mapping[Part, tuple[Use, ...]] = {
    Part.MEASURING: (Use.CANDIDATES, Use.GROUPS, Use.AGAIN, Use.BASELINES, Use.HOLDOUT, Use.LOST),
    Part.SETTING_UP: (Use.SETUP, Use.TREES, Use.PARSE, Use.GUARD),
    Part.CANDIDATE: (Use.AGENT, Use.BACKING_OFF, Use.RESTING),
    Part.COORDINATOR: (Use.COORDINATOR,),
    Part.DOWN: (Use.STARTING, Use.PAUSED, Use.DIED, Use.FINISHED),
    Part.UNREPORTED: (Use.UNREPORTED,),
}


@dataclass(slots=True)
class Slot:
    """The account of one slot: lives of its worker that are over, times between them, and the present life."""

    start: float  # of the present life, or from when on nobody is there
    began: float | None  # when this session began; None if the slot has no part in it
    name: float | None = None  # of the present life
    life: Mapping[Use, float] = field(default_factory=dict)
    past: Mapping[Use, float] = field(default_factory=dict)
    then: Use = Use.STARTING  # what the slot does from the end of its latest report on
    wall_before: float = 0.0  # of earlier sessions

    @property
    def until(self) -> float:
        """Up to here in this session, every second has its use."""
        return self.start + sum(self.life.values())

    def wall_seconds(self, now: float) -> float:
        """The wall clock of the sessions that the slot has had a part in."""
        return self.wall_before + (0.0 if self.began is None else max(0.0, now - self.began))

    def seconds(self, now: float) -> dict[Use, float]:
        """All its seconds until `now`, by use."""
        rest = {} if self.began is None else {self.then: max(0.0, now - self.until)}
        return together((self.past, self.life, rest))

    def end(self, at: float) -> None:
        """The present life is over; what comes after its last report, until `at`, is down."""
        down = Use.DIED if self.then is Use.UNREPORTED else self.then
        self.past = together((self.past, self.life, {down: max(0.0, at - self.until)}))
        self.life, self.name, self.start = {}, None, at


@dataclass
class Account:
    """Of all slots, by the number of their worker."""

    _session_began: float  # at first, when the run began
    slots: dict[int, Slot] = field(default_factory=dict)

    def report(self, spent: Spent | None) -> None:
        """A report of a worker's present life. One of an earlier life, or that was overtaken, comes too late."""
        slot = self._living(spent)
        if spent and slot and sum(spent.seconds.values()) >= sum(slot.life.values()):
            slot.life = spent.seconds

    def seated(self, spent: Spent | None, at: float) -> None:
        """A lane sits down. The first one of a new life tells when that began: until then the slot was down."""
        if spent is None:
            return
        began = self._session_began
        slot = self.slots.setdefault(spent.worker, Slot(began, began))
        if slot.began is None:
            slot.start, slot.began, slot.then = began, began, Use.STARTING
        if slot.name != spent.since:
            slot.end(at - sum(spent.seconds.values()))
            slot.name, slot.then = spent.since, Use.UNREPORTED
        self.report(spent)

    def left(self, spent: Spent) -> None:
        """The last report of a worker that has come to its end."""
        self.report(spent)
        if slot := self._living(spent):
            slot.then = Use.FINISHED

    def died(self, worker: int) -> None:
        """The worker is gone without a word."""
        slot = self.slots.get(worker)
        if slot is not None and slot.then is Use.UNREPORTED:
            slot.then = Use.DIED

    def resumed(self, ended: float, at: float) -> None:
        """A session `ended`, and another one begins."""
        for slot in self.slots.values():
            if slot.began is not None:
                slot.wall_before, slot.began = slot.wall_seconds(ended), None
                slot.end(ended)
        self._session_began = at

    def _living(self, spent: Spent | None) -> Slot | None:
        """The slot that `spent` is of, if that life of its worker is the present one."""
        if spent is None:
            return None
        slot = self.slots.get(spent.worker)
        return slot if slot is not None and slot.name == spent.since else None

    # --- Reading -----------------------------------------------------------------------------------------------------

    def wall_seconds(self, now: float) -> float:
        """The wall clock of all slots together; 0 where no worker has reported."""
        return sum(slot.wall_seconds(now) for slot in self.slots.values())

    def seconds(self, now: float) -> dict[Use, float]:
        """The seconds of all slots together, by use."""
        return together(slot.seconds(now) for slot in self.slots.values())


def together(accounts: Iterable[Mapping[Use, float]]) -> dict[Use, float]:
    """The sums, use by use; what nothing went to is left out."""
    found = dict.fromkeys(Use, 0.0)
    for each in accounts:
        for use, seconds in each.items():
            found[use] += seconds
    return {use: seconds for use, seconds in found.items() if seconds}


def parts(seconds: Mapping[Use, float]) -> dict[Part, dict[Use, float]]:
    """The same by part; parts that nothing went to are left out."""
    found = {part: {use: seconds[use] for use in uses if use in seconds} for part, uses in PARTS.items()}
    return {part: uses for part, uses in found.items() if uses}
