"""How a lane is told to go on: where to dig, and what to do when nothing comes of it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

AFRESH = 8  # discards in a row after which a lane starts afresh
SHORT_OF_IDEAS = 5  # after which it is shown near misses
STUCK = 3  # after which it is told to look elsewhere

_ITEM = re.compile(r"(?P<margin>[ \t]*)(?:[-*+]|[0-9]+[.)])[ \t]+(?P<text>.*)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*\"(])")
_BOLD = (
    "make a radical change: another algorithm, another structure, a part taken out altogether, an assumption dropped"
    " that everybody has kept so far. Turning one more constant is not enough."
)


def directions(strategy: str) -> tuple[str, ...]:
    """What a Strategy section names to be tried: its bullets or numbered items, else its sentences; none if empty.

    What stands below an item belongs to it, up to the next blank line.
    """
    items: list[str] = []
    margin, below = math.inf, False
    for line in strategy.splitlines():
        found = _ITEM.match(line)
        if found and len(found["margin"]) < margin + 2:
            margin, below = min(margin, len(found["margin"])), True
            items.append(found["text"])
        elif not line.strip() or line.lstrip().startswith("#"):
            below = False
        elif below:
            items[-1] += " " + (found["text"] if found else line)
    if not items:
        prose = (each for each in strategy.splitlines() if not each.lstrip().startswith("#"))
        items = _SENTENCE_END.split(" ".join(prose))
    return tuple(each for each in (" ".join(item.split()) for item in items) if each)


def dealt(aims: Sequence[str], index: int, lanes: int, restarts: int) -> str:
    """The direction of the lane in place `index` among `lanes`; "" where there are not two to deal out.

    Lanes begin apart in the list, and each goes on to the next item when it starts afresh.
    """
    return aims[(index * len(aims) // max(lanes, 1) + restarts) % len(aims)] if len(aims) > 1 else ""


def advice(discards_in_a_row: int, restarts: int, misses: Sequence[str], aim: str) -> str:
    """How to go on. It changes after three, five and eight discards in a row, and after eight begins anew.

    `misses` are near misses, a line each; `aim` is the lane's own direction.
    """
    words = _stage(discards_in_a_row, discards_in_a_row - AFRESH * restarts, misses)
    if not aim:
        return words
    return (
        f"{words}\n\nYour direction: {aim}\nThe directions of the strategy are dealt out, so that the branches do not"
        " all dig at one place. Begin with yours, and leave it when it is exhausted."
    )


def _stage(discards: int, since: int, misses: Sequence[str]) -> str:
    nothing = f"The last {discards} experiments of your branch brought nothing."
    if discards < STUCK:
        return "Choose the change with the best odds: from the strategy above, from the code, or from what was tried."
    if since < STUCK:
        return (
            f"{nothing} Your branch starts afresh, with a direction of its own: drop what it was after, do not come"
            " back to it, and go where the record shows no other branch at work."
        )
    if since < SHORT_OF_IDEAS:
        return (
            f"{nothing} Leave this direction, in one of these ways:\n\n"
            "- Read the code again as if for the first time, and ask what it spends its time, its memory and its"
            " parameters on.\n"
            "- Turn a change that failed around, and try its opposite.\n"
            "- Join two near misses that do not touch the same thing.\n"
            f"- Or {_BOLD}"
        )
    if not misses:
        return f"{nothing} Small steps are used up here: {_BOLD}"
    return "\n".join(
        (
            f"{nothing} Small steps are used up here. The gains of these changes could not be told from zero, and may"
            " add up to one that can:\n",
            *misses,
            "\nTake two of them that do not touch the same thing, and make both in one change: this once, the pair is"
            f" the one idea. If no two go together, {_BOLD}",
        )
    )
