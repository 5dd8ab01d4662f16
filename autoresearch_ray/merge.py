"""Two changes of one file brought together by its lines, where changes of neighbouring lines do not contradict.

git takes changes of lines that touch for a conflict, as of two constants one below the other. Here a conflict is what
both sides did to the same lines. That may join what does not belong together, so a merge is measured before it counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

LINES = 5_000  # of a file that is merged: two seconds at worst, and the time grows with the square

_Place = tuple[int, int]  # from this line of the base up to that one, which is not in it; the same for an insertion
_Row = tuple[int, int, "_Row | None"]  # a line of the base, the same one of a side, and the row before them


def three_way(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """`base` with the changes of both sides, or None where they conflict. Never raises, whatever the bytes are.

    A block that became as many lines is that many changes of one line; any other block is one change, and so is an
    insertion. Two changes conflict when they share a line, when both are insertions at one place, or when one is an
    insertion inside the block of the other; what both sides did alike is done once. All stand in the order of their
    places in `base`, an insertion before the change of the line that it was put before, so it does not matter which
    side is which.

    Lines end with "\\n" alone. What comes behind the last "\\n", mostly nothing, is a line as well: to take the end of
    the last line away and to add a line there are two changes. Where both sides changed the file, one with a NUL byte
    or with more than 5000 lines is a conflict.
    """
    if theirs in (base, ours):
        return ours
    if ours == base:
        return theirs
    if any(b"\0" in each or each.count(b"\n") > LINES for each in (base, ours, theirs)):
        return None
    lines = base.split(b"\n")
    changes = _changes(lines, ours.split(b"\n"))
    for place, new in _changes(lines, theirs.split(b"\n")).items():
        if changes.setdefault(place, new) != new:
            return None
    merged: list[bytes] = []
    done = 0
    for (start, end), new in sorted(changes.items()):
        if start < done:
            return None
        merged += [*lines[done:start], *new]
        done = end
    return b"\n".join(merged + lines[done:])


def _changes(base: Sequence[bytes], side: Sequence[bytes]) -> dict[_Place, Sequence[bytes]]:
    """The lines of `side` in each place where it differs from `base`.

    Lines that stand once on both sides tie the two together, and so do equal lines beside them; what is between is
    looked at in the same way. difflib takes 7 s for 1200 lines of which every other one is the same, and eight times
    as long for twice as many.
    """
    changes: dict[_Place, Sequence[bytes]] = {}
    gaps = [(0, len(base), 0, len(side))]
    while gaps:
        start, end, first, last = gaps.pop()
        while start < end and first < last and base[start] == side[first]:
            start, first = start + 1, first + 1
        while start < end and first < last and base[end - 1] == side[last - 1]:
            end, last = end - 1, last - 1
        ties = [(start + at, first + there) for at, there in _ties(base[start:end], side[first:last])]
        if ties:
            for at, there in ties:
                gaps.append((start, at, first, there))
                start, first = at + 1, there + 1
            gaps.append((start, end, first, last))
        elif end - start == last - first:
            pairs = zip(range(start, end), side[first:last], strict=True)
            changes |= {(at, at + 1): [new] for at, new in pairs if new != base[at]}
        else:
            changes[start, end] = side[first:last]
    return changes


def _ties(base: Sequence[bytes], side: Sequence[bytes]) -> list[tuple[int, int]]:
    """Where lines that stand once on both sides are on each: the most of them that are in the same order on both."""
    often, often_there = Counter(base), Counter(side)
    places = {line: there for there, line in enumerate(side) if often_there[line] == 1}
    # By patience sorting. For each length, the row of ties whose last one is the earliest in `side`, from its end.
    ends: list[int] = []
    rows: list[_Row] = []
    for at, line in enumerate(base):
        if often[line] == 1 and line in places:
            there = places[line]
            length = bisect_left(ends, there)
            ends[length : length + 1] = [there]
            rows[length : length + 1] = [(at, there, rows[length - 1] if length else None)]
    ties = []
    row = rows[-1] if rows else None
    while row:
        at, there, row = row
        ties.append((at, there))
    return ties[::-1]
