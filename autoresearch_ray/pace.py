"""How many lanes keep a slot busy: as few as do, because a candidate that waits for the slot grows old.

An agent is slow or fast, steady or not, and may change at night. So there is no formula here: the turns of late are
played again with more lanes and with fewer, and the slot's idle time in that play decides. A turn is what a lane needs
from leaving the slot to standing there again with a new candidate: the hand-in, the agent, the commit, a clean tree.

Pure: times are arguments, in seconds on a clock that does not jump.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST = 16  # lanes of one slot: enough for an agent that takes 15 times as long as an evaluation
_IDLE = 0.01  # the share of a slot's time that asks for one more lane
_SPARE = 0.004  # and what one fewer may cost: less than that, or lanes would come and go
_MEMORY = 24  # turns and evaluations that are played again; with 16, agents of very uneven speed left 0.5 % more idle
_ROUNDS = 6  # through them; the first does not count: in the play all lanes begin at once


@dataclass(slots=True)
class _Lane:
    since: float  # when its turn began
    ordered: bool = False  # it has been told what to do
    proposes: bool = False  # its turn is one with an agent in it
    waits: bool = False  # it may not propose now
    took: float | None = None  # when it got the slot, while it has it
    held: float = 0.0  # for how long it had the slot since its last hand-in


@dataclass(slots=True)
class Pace:
    """What the lanes of one slot have taken of late. Not thread-safe."""

    wanted: int | None = None  # so many lanes, whatever they take
    _lanes: dict[str, _Lane] = field(default_factory=dict)
    _turns: deque[float] = field(default_factory=lambda: deque(maxlen=_MEMORY))
    _evaluations: deque[float] = field(default_factory=lambda: deque(maxlen=_MEMORY))

    # --- What happens ------------------------------------------------------------------------------------------------

    def came(self, lane: str, now: float) -> None:
        """Somebody sits down on the lane."""
        self._lanes[lane] = _Lane(now)

    def ordered(self, lane: str, proposes: bool, now: float, waits: bool = False) -> None:
        """The lane has its next order. Turns without a proposal take no time, and say nothing of those with one."""
        here = self._lanes.setdefault(lane, _Lane(now))
        if here.held:
            self._evaluations.append(here.held)
        here.ordered, here.proposes, here.waits, here.held = True, proposes, waits, 0.0

    def arrived(self, lane: str, now: float) -> None:
        """The lane stands at the slot, and has something to run there."""
        here = self._lanes.setdefault(lane, _Lane(now))
        if here.proposes:
            self._turns.append(now - here.since)
        here.proposes = False

    def took(self, lane: str, now: float) -> None:
        """The lane has the slot."""
        self._lanes[lane].took = now

    def left(self, lane: str, now: float) -> None:
        """And leaves it. A guard may take it once more before the hand-in: that is all one evaluation."""
        here = self._lanes[lane]
        here.held += now - (now if here.took is None else here.took)
        here.took, here.since = None, now

    def gone(self, lane: str) -> None:
        """Nobody sits on the lane any more."""
        self._lanes.pop(lane, None)

    # --- What follows ------------------------------------------------------------------------------------------------

    def short(self, now: float) -> bool:
        """Whether the lanes that there are leave the slot idle, so that one more should begin now.

        While nothing is known, one of them should be proposing: the base that others measure is its parent anyhow. One
        that waits would, if it might.
        """
        lanes = self._lanes.values()
        if len(lanes) >= (self.wanted or MOST) or not all(each.ordered for each in lanes):
            return False
        if self.wanted:
            return True
        turns = self._lately(now)
        if not turns or not self._evaluations:
            return not any(each.proposes or each.waits for each in lanes)
        return idle_share(len(lanes), turns, self._evaluations) > _IDLE

    def spare(self, now: float) -> bool:
        """Whether one lane fewer would do."""
        if self.wanted or len(self._lanes) < 2 or not self._turns or not self._evaluations:
            return False
        return idle_share(len(self._lanes) - 1, self._lately(now), self._evaluations) < _SPARE

    def _lately(self, now: float) -> list[float]:
        """The last turns; and what others have taken so far, where that is longer than any: the agent has got slow."""
        longest = max(self._turns, default=0.0)
        ages = [now - each.since for each in self._lanes.values() if each.proposes]
        return [*self._turns, *(each for each in ages if each > longest)]


def idle_share(lanes: int, turns: Sequence[float], evaluations: Sequence[float]) -> float:
    """The share of its time that a slot is idle when `lanes` lanes take these turns and evaluations, over and over."""
    ready = [0.0] * lanes
    free = idle = begun = 0.0
    once = max(len(turns), lanes)
    for number in range(_ROUNDS * once):
        at = heapq.heappop(ready)
        idle += max(0.0, at - free)
        free = max(free, at) + evaluations[number % len(evaluations)]
        heapq.heappush(ready, free + turns[number % len(turns)])
        if number == once - 1:
            begun, idle = free, 0.0
    return idle / (free - begun) if free > begun else 0.0
