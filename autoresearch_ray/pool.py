"""Changes that the published best lacks and may gain from: those that were kept, and near misses.

Each stands here by the commit that first proposed it. Groups of them are tried on the best together. A group that
brings nothing is halved, so that a change which does harm in company is cornered in a few tries, and the rest goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """What one change is expected to bring: mean and standard deviation of its gain."""

    commit: str
    lane: str
    number: int  # of its experiment
    likely: float
    spread: float


class Pool:
    """Pure: fed by `Board.apply`."""

    def __init__(self) -> None:
        self._kept: dict[str, Change] = {}
        self._missed: dict[str, Change] = {}
        self._limits: dict[str, int] = {}  # how many others a change may be tried with

    def keep(self, change: Change) -> None:
        self._kept[change.commit] = change

    def miss(self, change: Change) -> None:
        self._missed[change.commit] = change

    def shared(self, inside: Collection[str]) -> None:
        """The best now has the changes `inside`."""
        for each in inside:
            self._kept.pop(each, None)
            self._missed.pop(each, None)

    def drop(self, commits: Iterable[str]) -> None:
        """These cannot be had: they conflict with the best, or have brought nothing there alone."""
        for each in commits:
            self._kept.pop(each, None)
            self._missed.pop(each, None)
            self._limits.pop(each, None)

    def halve(self, tried: Sequence[str]) -> None:
        """This group brought nothing. One that was alone is dropped."""
        if len(tried) < 2:
            self.drop(tried)
        for each in tried:
            if each in self._kept or each in self._missed:
                self._limits[each] = len(tried) // 2

    def promote(self, commits: Iterable[str]) -> None:
        """Near misses of a group that was kept are kept themselves."""
        for each in commits:
            if each in self._missed:
                self._kept[each] = self._missed.pop(each)

    def is_kept(self, commit: str) -> bool:
        return commit in self._kept

    def next_kept(self, most: int) -> list[Change]:
        """The kept changes to be tried next, in the order in which they are to be picked."""
        return self._group(self._kept.values(), most)

    def next_missed(self, most: int, busy: Collection[str]) -> list[Change]:
        """The near misses to be tried next, without those that are being tried."""
        return self._group([each for each in self._missed.values() if each.commit not in busy], most)

    def _group(self, changes: Iterable[Change], most: int) -> list[Change]:
        """The largest group that its members' limits allow, of those expected to bring most.

        Changes of one lane stay in the order in which they were made, since a later one may need an earlier; the lane
        that brings most goes first, so that where two conflict the better one gets in.
        """
        ranked = sorted(changes, key=lambda each: (-self._limits.get(each.commit, most), -each.likely, each.number))
        size = 0
        while size < min(most, len(ranked)) and self._limits.get(ranked[size].commit, most) > size:
            size += 1
        group = ranked[:size]
        totals: dict[str, float] = {}
        for each in group:
            totals[each.lane] = totals.get(each.lane, 0.0) + each.likely
        return sorted(group, key=lambda each: (-totals[each.lane], each.lane, each.number))

    def fork(self) -> Pool:
        """A copy that keeps its own changes to itself."""
        fork = copy.copy(self)
        fork._kept, fork._missed = dict(self._kept), dict(self._missed)
        fork._limits = dict(self._limits)
        return fork
