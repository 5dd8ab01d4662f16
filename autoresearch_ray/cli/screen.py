"""The live leaderboard on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoresearch_ray.board import Board
from autoresearch_ray.certainty import heading, improvement
from autoresearch_ray.cli.output import COLOURS
from autoresearch_ray.cli.status import (
    WORDS,
    counts_text,
    lane_rows,
    noise_lines,
    pace,
    pace_text,
    scored_text,
    slot_lines,
)
from autoresearch_ray.model import Status
from autoresearch_ray.results import line, verdict

BARS = "▁▂▃▄▅▆▇█"
LATEST = 8  # verdicts on the screen
REST = 11 + LATEST  # lines of the screen that are not lanes


class Screen:
    """A leaderboard that stays in place. `clock` gives seconds since the epoch."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.time) -> None:
        self._console = console or Console()
        self._clock = clock
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="ellipsis")

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, board: Board) -> None:
        room = max(4, self._console.height - REST)
        self._live.update(screen(board, self._clock(), room), refresh=True)


def screen(board: Board, now: float, room: int) -> RenderableType:
    """The whole screen, with at most `room` lanes. Only `Text` goes in: an idea in brackets is no markup."""
    metric = board.program.eval.metric
    head = Text()
    head.append(f"{board.opened.tag}  ", style="bold")
    head.append(f"{line(heading(board))} ({metric.direction} is better)  {sparkline(board)}\n")
    head.append(f"best      {scored_text(board, board.best)}\n", style="green")
    head.append(f"baseline  {scored_text(board, board.baseline)}")
    head.append(f"  {improvement(board)}\n")
    for each in noise_lines(board):
        head.append(f"noise     {each}\n")
    head.append(f"tried     {board.counted} experiments: {counts_text(board)}\n")
    head.append(f"pace      {pace_text(board, pace(board, now))}\n")
    for what, each in slot_lines(board, now):
        head.append(f"{what:<10}{each}\n", style="yellow")
    if board.closed:
        head.append(f"closed    {line(board.closed.reason)}\n", style="yellow")
    decided = [each for each in board.experiments[-4 * LATEST :] if each.status is not Status.PENDING]
    latest = Text("\n").join(
        Text(verdict(board, each), style=COLOURS.get(each.status) or "", no_wrap=True, overflow="ellipsis")
        for each in decided[-LATEST:]
    )
    latest.no_wrap, latest.overflow = True, "ellipsis"
    return Group(head, _lanes(board, now, room), Text(), latest)


def _lanes(board: Board, now: float, room: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    names, *rows = lane_rows(board, now)
    for name in names:  # where the screen is narrow, what a lane does now is cut, and not which lane it is
        whole = name != names[-1]
        table.add_column(Text(line(name)), no_wrap=whole, justify="left" if name in WORDS else "right")
    for row in rows[:room]:
        table.add_row(*(Text(each, no_wrap=True, overflow="ellipsis") for each in row))
    if len(rows) > room:
        table.add_row(Text(), Text(f"and {len(rows) - room} more"))
    return table


def sparkline(board: Board, width: int = 32) -> str:
    """The published best over the experiments so far, higher bars for better values."""
    if board.baseline is None or board.baseline.value is None or not board.published:
        return ""
    steps = [(0, board.baseline.value)]
    steps += [(found.number, each.value) for each in board.published if (found := board.at(each.commit))]
    gains = [board.direction.gain(value, board.baseline.value) for _, value in steps]
    top = max(gains)
    if top <= 0:
        return ""
    bars = []
    for index in range(width):
        until = (index + 1) * len(board.experiments) / width
        reached = max(gain for (number, _), gain in zip(steps, gains, strict=True) if number < until or number == 0)
        bars.append(BARS[round(reached / top * (len(BARS) - 1))])
    return "".join(bars)
