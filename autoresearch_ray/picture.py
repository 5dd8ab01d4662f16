"""The progress picture: every experiment, the published best with its uncertainty, and what was brought together.

Only `picture` writes a file, the one it is given.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_ray.board import Board
from autoresearch_ray.certainty import Value, confirmed, heading, improvement, later, value
from autoresearch_ray.errors import SetupError
from autoresearch_ray.model import Direction, Experiment, Status
from autoresearch_ray.results import described, line

LABELS = 12  # improvements named in the picture; more of them overlap
BAND = 2.0  # standard errors to either side of the best

_DOTS = (  # what it is called, and how it is drawn
    ("discard", {"color": "lightgrey", "s": 18}),
    ("keep", {"color": "tab:green", "s": 22}),
    ("keep, brought together", {"color": "tab:blue", "marker": "D", "s": 30}),
    ("refused as the best", {"facecolors": "none", "edgecolors": "tab:orange", "s": 60}),
)


@dataclass(frozen=True, slots=True)
class _Step:
    """The best from the experiment `at` on, and its standard error."""

    at: int
    value: float
    error: float
    experiment: Experiment


def picture(board: Board, path: Path) -> None:
    """Draw the progress of a run as PNG or SVG, by the suffix of `path`.

    What is far worse than the baseline stands at the frame's edge. Raises `SetupError` without matplotlib.
    """
    if path.suffix not in (".png", ".svg"):
        raise SetupError(f"cannot draw {path.name}", "a picture's name ends in .png or .svg")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError("matplotlib is not installed", 'pip install "autoresearch-ray[plot]"') from error
    figure = Figure(figsize=(12, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = _steps(board)
    low, high = _frame(board, steps)

    def place(experiment: Experiment | None) -> tuple[int, float] | None:
        known = value(board, experiment)
        return (experiment.number, min(max(known.mean, low), high)) if experiment and known else None

    _experiments(axes, board, place)
    _best(axes, steps, later(board), max(len(board.experiments) - 1, 1))
    _label(axes, steps, board.direction)
    axes.set_ylim(low, high)
    axes.set_xlabel("experiment")
    axes.set_ylabel(f"{heading(board)} ({board.direction} is better)", parse_math=False)
    words = (line(board.program.title), f"{board.counted} experiments", confirmed(board) or improvement(board))
    axes.set_title(": ".join(each for each in words if each), parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=8, fontsize=9, frameon=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # an idea in a script that the font lacks is drawn as boxes
        figure.savefig(path, dpi=150)


def _experiments(axes: Any, board: Board, place: Callable[[Experiment | None], tuple[int, float] | None]) -> None:
    """A dot for each, and a thin line to each kept replay from what it brought together."""
    replays = [each for each in board.experiments if each.kind == "replay" and each.status is Status.KEEP]
    joins: list[tuple[float, float]] = []
    for each in replays:
        for commit in each.picked:
            begin, end = place(board.at(commit)), place(each)
            if begin and end:
                joins += (begin, end, (math.nan, math.nan))
    if joins:
        axes.plot(*zip(*joins, strict=True), color="tab:blue", alpha=0.35, linewidth=0.8, zorder=1)
    kinds: dict[str, Iterable[Experiment]] = {
        "discard": (each for each in board.experiments if each.status is Status.DISCARD),
        "keep": (each for each in board.experiments if each.status is Status.KEEP and each.kind != "replay"),
        "keep, brought together": replays,
        "refused as the best": (found for each in board.refused if (found := board.at(each))),
    }
    for name, style in _DOTS:
        dots = [at for each in kinds[name] if (at := place(each))]
        if dots:
            axes.scatter(*zip(*dots, strict=True), label=name, clip_on=False, zorder=3, **style)
    crashes = [each.number for each in board.experiments if each.status is Status.CRASH]
    worse = 1.0 if board.direction is Direction.LOWER else 0.0
    edge = axes.get_xaxis_transform()  # x in experiments, y in shares of the frame
    if crashes:
        mark = {"s": 18, "marker": "x", "color": "tab:red", "label": "crash"}
        axes.scatter(crashes, [worse] * len(crashes), clip_on=False, transform=edge, **mark)


def _best(axes: Any, steps: list[_Step], since: Value | None, end: int) -> None:
    """The published best as a line, in a band that is the narrower the more often it had been measured.

    What was measured of it `since` it was published stands at the right end.
    """
    if not steps:
        return
    at = [*(each.at for each in steps), max(end, steps[-1].at)]
    held = [*steps, steps[-1]]
    axes.step(at, [each.value for each in held], where="post", color="tab:green", label="best", zorder=2)
    if any(each.error for each in steps):
        below = [each.value - BAND * each.error for each in held]
        above = [each.value + BAND * each.error for each in held]
        words = f"best ± {BAND:g} standard errors"
        axes.fill_between(at, below, above, step="post", color="tab:green", alpha=0.18, linewidth=0, label=words)
    if since:
        mark = {
            "fmt": "s",
            "color": "black",
            "markersize": 4,
            "capsize": 3,
            "zorder": 4,
            "label": "best, measured since",
        }
        axes.errorbar([at[-1]], [since.mean], [BAND * (since.error or 0.0)], clip_on=False, **mark)


def _steps(board: Board) -> list[_Step]:
    """The published best as it came about."""
    steps: list[_Step] = []
    base, noise = value(board, board.baseline), board.noise or 0.0
    if base and board.baseline:
        steps.append(_Step(0, base.mean, base.error or 0.0, board.baseline))
    for each in board.published:
        experiment = board.at(each.commit)
        if experiment and experiment.kind != "baseline":
            # Experiments are published in another order than they are numbered; the line only goes forward.
            at = max(experiment.number, steps[-1].at if steps else 0)
            steps.append(_Step(at, each.value, noise / math.sqrt(each.measurements), experiment))
    return steps


def _frame(board: Board, steps: list[_Step]) -> tuple[float, float]:
    """The values that the picture shows: all that were kept, room for the labels, and more on the worse side."""
    kept = [each.value for each in steps]
    keeps = (value(board, each) for each in board.experiments if each.status is Status.KEEP)
    kept += [each.mean for each in keeps if each]
    if not kept:
        return 0.0, 1.0
    span = max(kept) - min(kept) or 6 * (board.noise or 0.0) or abs(kept[0]) * 0.02 or 1.0
    if board.direction is Direction.LOWER:
        return min(kept) - 0.45 * span, max(kept) + 0.6 * span
    return min(kept) - 0.6 * span, max(kept) + 0.45 * span


def _label(axes: Any, steps: list[_Step], direction: Direction) -> None:
    """Name the largest improvements: on the better side of the line, which is empty, where the text has room there."""
    gains = [direction.gain(new.value, old.value) for old, new in itertools.pairwise(steps)]
    largest = sorted(range(len(gains)), key=lambda each: -gains[each])[:LABELS]
    up = 1 if direction is Direction.LOWER else -1
    for index in largest:
        step = steps[index + 1]
        clear = step.at > 0.3 * steps[-1].at
        note = axes.annotate(
            f"#{step.experiment.number} {described(step.experiment, 36)}",
            (step.at, step.value),
            xytext=(-4 if clear else 4, up * (-6 if clear else 6)),
            textcoords="offset points",
            rotation=25 * up,
            rotation_mode="anchor",
            ha="right" if clear else "left",
            va="center",
            fontsize=8,
            parse_math=False,
        )
        note.set_in_layout(False)
