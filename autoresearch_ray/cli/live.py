"""A run as it goes on: a live leaderboard on a terminal, plain lines or JSON elsewhere. Used by `run` and `watch`.

Each view is a context manager with one verb, `show(board)`, to be called as often as one likes with the same board.
"""

from __future__ import annotations

import sys
from typing import Protocol, Self

import click

from autoresearch_ray.board import Board
from autoresearch_ray.cli.output import coloured, print_json
from autoresearch_ray.events import Paused, Retired
from autoresearch_ray.model import Experiment, Status
from autoresearch_ray.results import out_of_use, progress_line, record, verdict, whose

EVERY = 5  # verdicts between two progress lines


class View(Protocol):
    """A run on the screen, or wherever stdout goes."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def show(self, board: Board) -> None: ...


def view(*, as_json: bool = False) -> View:
    """The view that fits stdout."""
    if as_json:
        return Objects()
    if sys.stdout.isatty():
        from autoresearch_ray.cli.screen import Screen  # rich: not for --help

        return Screen()
    return Lines()


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
    """One line per verdict, and after every fifth how the run stands. What becomes of slots is told on stderr."""

    def __init__(self) -> None:
        self._verdicts = _Verdicts()
        self._count = 0
        self._out: list[Paused | Retired] = []  # slots that are told to be out of use

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, board: Board) -> None:
        for each in self._verdicts.fresh(board):
            click.echo(coloured(verdict(board, each), each.status))
            self._count += each.kind != "baseline"
            if self._count and self._count % EVERY == 0 and each.kind != "baseline":
                click.echo(progress_line(board))
        out = out_of_use(board)
        for what, event in out:
            if event not in self._out:
                click.echo(f"{what}: {whose(board, event)}", err=True)
        self._out = [event for _, event in out]


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
            print_json(record(board, each))
