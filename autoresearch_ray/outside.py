"""What people have said to a run while it goes on, as a part of the board: hints, and changes that wait for a lane.

Frozen, and small: hints fade, and what is decided leaves the queue. So a board that is tried out shares it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from autoresearch_ray.events import Declined, Submitted, Told

# Said once, a hint is passed over by an agent that has something else in mind; said for good, all lanes turn round it.
HEARD = 3  # proposals of a lane that hear a hint
_HINTS = 16  # that count at a time: those that are kept, and the newest
_TRIES = 2  # of a submission that a machine or a worker takes down: it may be what does that


@dataclass(frozen=True, slots=True)
class Hint:
    """What was told, and how many proposals each lane had made by then."""

    told: Told
    since: Mapping[str, int]

    def is_for(self, lane: str, proposals: int) -> bool:
        """Whether the latest of so many `proposals` of the lane is to hear it."""
        meant = not self.told.lanes or lane in self.told.lanes
        return meant and (self.told.keep or proposals - self.since.get(lane, 0) <= HEARD)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A submission without a verdict, and the experiment that is to bring it, once there is one."""

    submitted: Submitted
    tries: int = 0
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """What was heard from outside so far."""

    heard: frozenset[str] = frozenset()  # ids of messages
    hints: tuple[Hint, ...] = ()
    queue: tuple[Waiting, ...] = ()  # the oldest first
    declined: tuple[Declined, ...] = ()

    def told(self, event: Told, proposals: Mapping[str, int]) -> Outside:
        """A hint more; `proposals` are those each lane has made so far. Of too many, the oldest that fades goes."""
        hints = (*self.hints, Hint(event, proposals))
        if len(hints) > _HINTS:
            goes = next((each for each in hints if not each.told.keep), hints[0])
            hints = tuple(each for each in hints if each is not goes)
        return replace(self, heard=self.heard | {event.id}, hints=hints)

    def hints_for(self, lane: str, proposals: int) -> list[str]:
        """What the latest of so many proposals of the lane is to hear, the newest first."""
        return [each.told.text for each in reversed(self.hints) if each.is_for(lane, proposals)]

    def heard_now(self, proposals: Mapping[str, int]) -> list[Told]:
        """The hints that some lane will still hear, the newest first; `proposals` are those of each lane so far."""
        return [
            each.told
            for each in reversed(self.hints)
            if any(each.is_for(name, count + 1) for name, count in proposals.items())
        ]

    def acted(self, id: str) -> Outside:
        """The message was heard, and nothing more is to be remembered of it here."""
        return replace(self, heard=self.heard | {id})

    def submitted(self, event: Submitted) -> Outside:
        """A change more that waits."""
        return replace(self, heard=self.heard | {event.id}, queue=(*self.queue, Waiting(event)))

    def turned_down(self, event: Declined) -> Outside:
        """A message that nothing can come of."""
        return replace(self, heard=self.heard | {event.id}, declined=(*self.declined, event))

    def measured(self, id: str, number: int) -> Outside:
        """The submission is the experiment `number` now."""
        return self._changed(id, lambda each: replace(each, tries=each.tries + 1, number=number))

    def judged(self, id: str, *, lost: bool) -> Outside:
        """The submission has its verdict; one that was `lost` waits once more."""
        again = lost and any(each.tries < _TRIES for each in self.queue if each.submitted.id == id)
        return self._changed(id, lambda each: replace(each, number=None) if again else None)

    def _changed(self, id: str, change: Callable[[Waiting], Waiting | None]) -> Outside:
        queue = (change(each) if each.submitted.id == id else each for each in self.queue)
        return replace(self, queue=tuple(each for each in queue if each is not None))
