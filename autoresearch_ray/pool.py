"""Changes that the published best lacks and may gain from: those that were kept, and near misses.

Each stands here by the commit that first proposed it. Groups of them are tried on the best together. A group that
brings nothing is halved, so that a change which does harm in company is cornered in a few tries, and the rest goes on.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


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
        self._apart: dict[str, Change] = {}
        self._limits: dict[str, int] = {}  # in how large a group a change may be tried
        # The kept ones and the near misses in the order in which they are tried; never changed in place.
        self._in_order: list[Change] = []
        self._ranked: list[Change] = []
        self._is_its_own = True  # else all of the above is that of the pool which this is a fork of

    def keep(self, change: Change) -> None:
        self._begin()
        self._kept[change.commit] = change
        self._in_order = self._with(self._in_order, change)

    def miss(self, change: Change) -> None:
        self._begin()
        self._missed[change.commit] = change
        self._ranked = self._with(self._ranked, change)

    def _with(self, ranked: list[Change], change: Change) -> list[Change]:
        more = [each for each in ranked if each.commit != change.commit]
        insort(more, change, key=self._place)
        return more

    def shared(self, inside: Collection[str]) -> None:
        """The best now has the changes `inside`."""
        self._begin()
        for each in inside:
            self._apart.pop(each, None)
            self._kept.pop(each, None)
            self._missed.pop(each, None)
        self._rank()

    def drop(self, commits: Iterable[str]) -> None:
        """These cannot be had: they conflict with the best, or have brought nothing there alone."""
        self._begin()
        for each in commits:
            self._kept.pop(each, None)
            self._missed.pop(each, None)
            self._limits.pop(each, None)
        self._rank()

    def part(self, commits: Iterable[str]) -> None:
        """These conflict with the best. What was kept of them may still be better than that by itself."""
        self._begin()
        for each in commits:
            if each in self._kept:
                self._apart[each] = self._kept[each]
        self.drop(commits)

    @property
    def apart(self) -> list[str]:
        """Kept changes that cannot be brought together with the best, by their commits."""
        return list(self._apart)

    def halve(self, tried: Sequence[str]) -> None:
        """This group brought nothing. What was alone is dropped, and a near miss that would be: it was once before."""
        self._begin()
        half = len(tried) // 2
        self.drop(each for each in tried if half < (1 if each in self._kept else 2))
        self._limits |= dict.fromkeys((each for each in tried if each in self._kept or each in self._missed), half)
        self._rank()

    def promote(self, commits: Sequence[str], likely: float, spread: float) -> None:
        """Near misses of a group that was kept are kept themselves, and each has its share of what that brings."""
        self._begin()
        for each in commits:
            if each in self._missed:
                share = replace(self._missed.pop(each), likely=likely / len(commits))
                self._kept[each] = replace(share, spread=spread / math.sqrt(len(commits)))
        self._rank()

    def is_kept(self, commit: str) -> bool:
        return commit in self._kept

    def keeps_any(self, commits: Collection[str]) -> bool:
        return not self._kept.keys().isdisjoint(commits)

    def next_kept(self, most: int) -> list[Change]:
        """The kept changes to be tried next, `most` at most, in the order in which they are to be picked."""
        return _group(self._in_order, self._limits, most)

    def next_missed(self, most: int, busy: Collection[str]) -> list[Change]:
        """The near misses to be tried next, without those that are being tried."""
        return _group((each for each in self._ranked if each.commit not in busy), self._limits, most)

    def tried_before(self, group: Iterable[Change]) -> bool:
        """Whether one of them was in a group that brought nothing."""
        return any(each.commit in self._limits for each in group)

    def _rank(self) -> None:
        self._in_order = sorted(self._kept.values(), key=self._place)
        self._ranked = sorted(self._missed.values(), key=self._place)

    def _place(self, each: Change) -> tuple[float, float, int]:
        """What may be tried in the largest company first, then what is expected to bring most."""
        return (-self._limits.get(each.commit, math.inf), -each.likely, each.number)

    def fork(self) -> Pool:
        """A copy that keeps its own changes to itself, while this one stays as it is. Few forks change anything, and
        after 10,000 experiments without an effect there are 4,000 changes to be copied."""
        fork = Pool.__new__(Pool)
        fork.__dict__.update(self.__dict__)
        fork._is_its_own = False
        return fork

    def _begin(self) -> None:
        """Before anything is changed."""
        if not self._is_its_own:
            self._kept, self._missed = dict(self._kept), dict(self._missed)
            self._apart, self._limits = dict(self._apart), dict(self._limits)
            self._is_its_own = True


def _group(ranked: Iterable[Change], limits: Mapping[str, int], most: int) -> list[Change]:
    """As many of the first as the limits of all of them allow.

    Changes of one lane stay in the order in which they were made, since a later one may need an earlier; the lane that
    brings most goes first, so that where two conflict the better one gets in.
    """
    group: list[Change] = []
    for each in ranked:
        if len(group) >= min(most, limits.get(each.commit, most)):
            break
        group.append(each)
    totals: dict[str, float] = {}
    for each in group:
        totals[each.lane] = totals.get(each.lane, 0.0) + each.likely
    return sorted(group, key=lambda each: (-totals[each.lane], each.lane, each.number))
