"""What people are told of where the time went: in `status`, in the report, in exports. What to change is said with it.

Pure. Shares are of the wall clock of all slots together; what an account holds is said in `account`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from csv import DictWriter
from typing import Any

from autoresearch_ray.account import PARTS, Part, Slot, parts
from autoresearch_ray.board import Board
from autoresearch_ray.model import Use
from autoresearch_ray.results import duration

NOTABLE = 0.03  # share of the wall clock from which on it is said what may be changed

ADVICE: Mapping[Use, str] = {
    Use.LOST: "see what failed and what went back for repair; a slot that loses again and again is sick",
    Use.SETUP: "it comes once per worker: a longer run, or a quicker Setup",
    Use.TREES: "fewer or smaller files in git, TMPDIR on a faster disk, or more lanes",
    Use.PARSE: "a quicker Parse, or more lanes",
    Use.GUARD: "a quicker Guard",
    Use.AGENT: "the agents are too slow for the slots: more lanes, or a faster model",
    Use.BACKING_OFF: "the agents' provider refuses: its limits, its quota, or another model",
    Use.RESTING: "give lanes as a number",
    Use.COORDINATOR: "a faster disk for the run's folder, on a head with a free core",
    Use.STARTING: "workers came late: have the nodes up before the run begins",
    Use.DIED: "workers died: their nodes' logs say why",
    Use.FINISHED: "slots ran out of work while others finished: a longer run",
}


def status_lines(board: Board, now: float) -> list[str]:
    """Such as "93.1% measuring: 80.2% candidates, 12.9% again", a line for each part that time went to."""
    wall = board.account.wall_seconds(now)
    lines = []
    for part, uses in parts(board.account.seconds(now)).items():
        shown = [(use, seconds) for use, seconds in _largest(uses) if seconds >= 0.0005 * wall]
        if shown:
            words = ", ".join(f"{_share(seconds, wall)} {use}" for use, seconds in shown)
            lines.append(f"{_share(sum(uses.values()), wall)} {part}{f': {words}' if len(PARTS[part]) > 1 else ''}")
        lines += [f"  {use}: {advice}" for use, seconds in shown if (advice := _advice(use, seconds, wall))]
    return lines


def facts(board: Board, now: float) -> dict[str, Any]:
    """The account of all slots together as JSON, in seconds: the parts add up to `wall_seconds`."""
    return {
        "slots": len(board.account.slots),
        "wall_seconds": round(board.account.wall_seconds(now), 3),
        "seconds": {str(part): _rounded(uses) for part, uses in parts(board.account.seconds(now)).items()},
    }


def measuring_share(board: Board, now: float) -> float | None:
    """How much of the slots' time was spent measuring, from 0 to 1; None where no worker reports."""
    wall = board.account.wall_seconds(now)
    return _part(board.account.seconds(now), Part.MEASURING) / wall if wall else None


# --- The report ------------------------------------------------------------------------------------------------------


def slots_table(board: Board, now: float) -> list[tuple[str, ...]]:
    """The parts of each slot, and of all, in percent of the wall clock; the head first. Empty without reports."""
    account = board.account
    rows = [(name, slot.seconds(now), slot.wall_seconds(now)) for name, _, slot in _slots(board)]
    if not rows:
        return []
    rows.append(("all", account.seconds(now), account.wall_seconds(now)))
    shown = [each for each in Part if _part(rows[-1][1], each)]
    return [
        ("slot", "wall clock", *shown),
        *(
            (name, duration(wall), *(_share(_part(seconds, each), wall) for each in shown))
            for name, seconds, wall in rows
        ),
    ]


def uses_table(board: Board, now: float) -> list[tuple[str, ...]]:
    """What all slots' time went to, and what may help where that is much; the head first. Empty without reports."""
    wall = board.account.wall_seconds(now)
    rows = [
        (part, use, duration(seconds), _share(seconds, wall), _advice(use, seconds, wall))
        for part, uses in parts(board.account.seconds(now)).items()
        for use, seconds in _largest(uses)
    ]
    return [("part", "of it", "time", "share", "what may help"), *rows] if rows else []


# --- Exports ---------------------------------------------------------------------------------------------------------


def records(board: Board) -> Iterator[dict[str, Any]]:
    """One object for each slot and use, until the last event. A slot's `seconds` add up to its `wall_seconds`."""
    now = board.last_at
    for name, worker, slot in _slots(board):
        for part, uses in parts(slot.seconds(now)).items():
            for use, seconds in _rounded(uses).items():
                yield {
                    "slot": name,
                    "worker": worker,
                    "part": str(part),
                    "use": use,
                    "seconds": seconds,
                    "wall_seconds": round(slot.wall_seconds(now), 3),
                }


def jsonl(board: Board) -> str:
    """One object per line."""
    return "".join(json.dumps(each) + "\n" for each in records(board))


def csv(board: Board) -> str:
    """The same for a spreadsheet."""
    return _separated(board, ",", "\r\n")


def tsv(board: Board) -> str:
    """The same, separated by tabs."""
    return _separated(board, "\t", "\n")


# --- Inside ----------------------------------------------------------------------------------------------------------


def _separated(board: Board, delimiter: str, end: str) -> str:
    text = io.StringIO()
    columns = ("slot", "worker", "part", "use", "seconds", "wall_seconds")
    rows = DictWriter(text, columns, delimiter=delimiter, lineterminator=end)
    rows.writeheader()
    rows.writerows(records(board))
    return text.getvalue()


def _slots(board: Board) -> list[tuple[str, int, Slot]]:
    """Each slot by the name of its first lane, with the number of its worker."""
    names: dict[int, str] = {}
    for lane in sorted(board.lanes, key=len):
        names.setdefault(board.lanes[lane].seat.worker, lane)
    return [(names[worker], worker, slot) for worker, slot in sorted(board.account.slots.items())]


def _part(seconds: Mapping[Use, float], part: Part) -> float:
    return sum(seconds.get(use, 0.0) for use in PARTS[part])


def _largest(uses: Mapping[Use, float]) -> list[tuple[Use, float]]:
    return sorted(uses.items(), key=lambda each: -each[1])


def _advice(use: Use, seconds: float, wall: float) -> str:
    return ADVICE.get(use, "") if seconds >= NOTABLE * wall else ""


def _share(seconds: float, wall: float) -> str:
    return f"{seconds / wall:.1%}" if wall else "-"


def _rounded(uses: Mapping[Use, float]) -> dict[str, float]:
    return {str(use): round(seconds, 3) for use, seconds in uses.items()}
