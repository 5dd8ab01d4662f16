"""A run as it goes on: a live leaderboard on a terminal, plain lines or JSON elsewhere. Used by `run` and `watch`.

Each view is a context manager with one verb, `show(board)`, to be called as often as one likes with the same board.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoresearch_ray.board import Board
from autoresearch_ray.cli.output import COLOURS, coloured, print_json
from autoresearch_ray.cli.status import counts_text, doing, pace, pace_text, scored_text
from autoresearch_ray.model import Experiment, Status
from autoresearch_ray.results import described, duration, improvement, leaderboard, line, number, progress_line, record

EVERY = 5  # verdicts between two progress lines
BARS = "▁▂▃▄▅▆▇█"
LATEST = 8  # verdicts on the screen
REST = 10 + LATEST  # lines of the screen that are not lanes


class View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def show(self, board: Board) -> None: ...


def view(*, as_json: bool = False) -> View:
    """The view that fits stdout."""
    if as_json:
        return Objects()
    return Screen() if sys.stdout.isatty() else Lines()


class _Verdicts:
    """Verdicts as they come, each once. What there is at the first look was told by somebody else."""

    def __init__(self) -> None:
        self._told: set[int] | None = None
        self._below = 0  # every experiment below this number is told

    def fresh(self, board: Board) -> list[Experiment]:
        """The experiments that were decided since the last look."""
        decided = [
            each
            for each in board.experiments[self._below :]
            if each.status is not Status.PENDING and (self._told is None or each.number not in self._told)
        ]
        fresh = [] if self._told is None else decided
        self._told = (self._told or set()) | {each.number for each in decided}
        while self._below in self._told:
            self._told.remove(self._below)
            self._below += 1
        return fresh


class Lines:
    """One line per verdict, and after every fifth how the run stands."""

    def __init__(self) -> None:
        self._verdicts = _Verdicts()
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, board: Board) -> None:
        for each in self._verdicts.fresh(board):
            click.echo(coloured(verdict(each), each.status))
            self._count += each.kind != "baseline"
            if self._count and self._count % EVERY == 0 and each.kind != "baseline":
                click.echo(progress_line(board))


class Objects:
    """One JSON object per verdict."""

    def __init__(self) -> None:
        self._verdicts = _Verdicts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, board: Board) -> None:
        for each in self._verdicts.fresh(board):
            print_json(record(each))


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


def verdict(experiment: Experiment) -> str:
    """Such as "#12 [keep] gpu3 0.9932 (+0.0012)  increase LR to 0.04: gain +0.0012 against a margin of 0.0005"."""
    gain = f" ({experiment.gain:+.3g})" if experiment.gain is not None else ""
    whose = f" {experiment.lane}" if experiment.lane else ""
    why = f": {line(experiment.reason, 100)}" if experiment.reason else ""
    head = f"#{experiment.number} [{experiment.status}]{whose} {number(experiment.value)}{gain}"
    return f"{head}  {described(experiment, 100)}{why}"


def screen(board: Board, now: float, room: int) -> RenderableType:
    """The whole screen, with at most `room` lanes. Only `Text` goes in: an idea in brackets is no markup."""
    metric = board.program.eval.metric
    head = Text()
    head.append(f"{board.opened.tag}  ", style="bold")
    head.append(f"{line(metric.name)} ({metric.direction} is better)  {sparkline(board)}\n")
    head.append(f"best      {scored_text(board, board.best)}\n", style="green")
    head.append(f"baseline  {scored_text(board, board.baseline)}")
    head.append(f"  {improvement(board)}\n")
    head.append(f"tried     {board.counted} experiments: {counts_text(board)}\n")
    head.append(f"pace      {pace_text(board, pace(board, now))}\n")
    if board.closed:
        head.append(f"closed    {line(board.closed.reason)}\n", style="yellow")
    decided = [each for each in board.experiments[-4 * LATEST :] if each.status is not Status.PENDING]
    latest = Text("\n").join(
        Text(verdict(each), style=COLOURS.get(each.status) or "", no_wrap=True, overflow="ellipsis")
        for each in decided[-LATEST:]
    )
    latest.no_wrap, latest.overflow = True, "ellipsis"
    return Group(head, _lanes(board, now, room), Text(), latest)


def _lanes(board: Board, now: float, room: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = leaderboard(board)
    for name in ("", "lane", "device", board.program.eval.metric.name, "n", "keeps", "tried", "for", "now"):
        table.add_column(
            Text(line(name)), no_wrap=True, justify="left" if name in ("lane", "device", "now") else "right"
        )
    for row in rows[:room]:
        lane = board.lanes[row.lane]
        texts = (
            str(row.rank),
            row.lane,
            row.device,
            number(row.value),
            str(row.measurements),
            str(row.keeps),
            str(row.experiments),
            duration(now - lane.ordered_at),
            doing(lane),
        )
        table.add_row(*map(Text, texts))
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
