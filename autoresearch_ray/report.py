"""The morning report and the progress picture: what people are told of a run.

The report is Markdown; what agents and logs wrote passes through `cell`, so that no idea can break a table or open a
link. Only `picture` writes a file, the one it is given. The short texts and the exports are in `results`.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoresearch_ray.board import Board
from autoresearch_ray.errors import SetupError
from autoresearch_ray.model import Direction, Experiment, Status
from autoresearch_ray.results import described, duration, improvement, leaderboard, line, number

NEAR_MISSES = 10  # listed in the report
DIFF_LINES = 400  # of the best diff in the report: about what one reads in a sitting
LABELS = 12  # improvements named in the picture; more of them overlap


# --- The morning report ----------------------------------------------------------------------------------------------


def lineage(board: Board) -> list[Experiment]:
    """The experiments whose commits the best stands on, the baseline first and the best last."""
    found, step = [], board.best
    while step is not None:
        found.append(step)
        step = board.at(step.parent) if step.kind != "baseline" else None
    return found[::-1]


def markdown(board: Board, diff: str, picture: str | None) -> str:
    """The morning report. `diff` is baseline to best; `picture` is what the report links as the progress picture."""
    merge = f"```sh\ngit merge autoresearch/{board.opened.tag}\n```" if board.published else ""
    parts = [
        f"# {cell(board.program.title)} ({cell(board.opened.tag)})",
        _headline(board),
        _certainty(board),
        merge,
        f"![Progress]({picture})" if picture else "",
        _section("Caveats", _bullets(_caveats(board))),
        _section("What it took", _bullets(_costs(board))),
        _section("Lanes", _lanes(board)),
        _section("Kept", _kept(board)),
        _section("Near misses", _near_misses(board)),
        _section("What failed", _failures(board)),
        _section("The best change", _fenced(diff)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cell(text: str) -> str:
    """`text` as it stands inside a Markdown table or paragraph."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", line(text))


def _headline(board: Board) -> str:
    metric = cell(board.program.eval.metric.name)
    words = (
        f"{board.counted} experiments on {len(board.lanes)} lanes in {duration(board.elapsed_seconds(board.last_at))}"
    )
    change = improvement(board)
    if board.baseline is None or board.best is None or not change:
        return f"Nothing has been measured yet: {words}."
    pair = f"{number(board.baseline.value)} → {number(board.best.value)}"
    end = f" The run ended: {cell(board.closed.reason)}." if board.closed else ""
    return f"**{metric} {pair} ({change})** after {words}.{end}"


def _certainty(board: Board) -> str:
    base, best = board.baseline, board.best
    if base is None or best is None or not base.values or not best.values:
        return ""
    words = f"The best was measured {_times(len(best.values))}, the baseline {_times(len(base.values))}."
    if board.noise is None:
        return words + " No commit was measured twice, so the noise is not known."
    words += f" One measurement has a standard deviation of {board.noise:.3g}"
    error = board.noise * math.sqrt(1 / len(best.values) + 1 / len(base.values))
    gain = board.direction.gain(best.value or 0.0, base.value or 0.0)
    return words + (f": the gain is {gain / error:.1f} standard errors." if error else ".")


def _caveats(board: Board) -> Iterable[str]:
    best = board.best
    if best is not None and len(best.values) == 1 and best.kind != "baseline":
        yield "The best was measured only once: measure it again before you build on it."
    if best is not None and best.value is not None:
        ahead = [each for each in board.experiments if _ahead(board, each, best.value)]
        if ahead:
            yield f"These read better than the best, and were not confirmed or not at the time: {_numbers(ahead)}."
    contended = [each for each in board.experiments if each.resources.contended]
    if contended:
        yield f"{len(contended)} experiments shared their device with a stranger: {_numbers(contended)}."
    throttled = [each for each in board.experiments if each.resources.throttle]
    if throttled:
        yield f"The device was throttled in {len(throttled)} experiments: {_numbers(throttled)}."
    devices = sorted({lane.seat.device for lane in board.lanes.values()})
    if len(devices) > 1:
        yield f"Measured on unlike devices: {cell(', '.join(devices))}."
    if board.counts[Status.PENDING]:
        yield f"{board.counts[Status.PENDING]} experiments are not decided."


def _ahead(board: Board, experiment: Experiment, best: float) -> bool:
    contender = experiment.status in (Status.PENDING, Status.KEEP) and experiment.value is not None
    return contender and board.direction.better(experiment.value or 0.0, best)


def _costs(board: Board) -> Iterable[str]:
    counts = board.counts
    yield (
        f"{counts[Status.KEEP]} keeps, {counts[Status.DISCARD]} discards, {counts[Status.CRASH]} crashes, "
        f"{counts[Status.LOST]} lost to the agent or the machine; {board.attempts} measurements"
    )
    hours = sum(each.seconds for each in board.experiments) / 3600
    gpus = max((len(lane.seat.gpus) for lane in board.lanes.values()), default=0)
    share = board.program.options.gpus_per_worker
    yield f"{hours * share:.2f} GPU hours of evaluation" if gpus else f"{hours:.2f} hours of evaluation"
    energy = [each.resources.energy_joules for each in board.experiments if each.resources.energy_joules is not None]
    if energy:
        yield f"{sum(energy) / 3.6e6:.3g} kWh, read in {len(energy)} of {len(board.experiments)} experiments"
    if board.cost_usd:
        yield f"${board.cost_usd:.2f} for the agents, as far as they said"
    said = [each.usage for each in board.experiments if each.usage.input_tokens or each.usage.output_tokens]
    if said:
        read, wrote = sum(each.input_tokens or 0 for each in said), sum(each.output_tokens or 0 for each in said)
        yield f"{read:,} tokens in, {wrote:,} out"


def _lanes(board: Board) -> str:
    return _table(
        ("rank", "lane", "device", board.program.eval.metric.name, "n", "gain", "keeps", "tried", "head"),
        [
            (
                str(row.rank),
                row.lane,
                row.device,
                number(row.value),
                str(row.measurements),
                _signed(row.gain),
                str(row.keeps),
                str(row.experiments),
                row.head[:7],
            )
            for row in leaderboard(board)
        ],
    )


def _kept(board: Board) -> str:
    in_best = {each.number for each in lineage(board)}
    kept = [each for each in board.experiments if each.status is Status.KEEP and each.kind != "baseline"]
    return _experiments(board, kept, in_best)


def _near_misses(board: Board) -> str:
    reach = board.noise or 0.0
    near = [
        each
        for each in board.experiments
        if each.status is Status.DISCARD and each.gain is not None and (each.gain > 0 or abs(each.gain) <= reach)
    ]
    near.sort(key=lambda each: -(each.gain or 0.0))
    return _experiments(board, near[:NEAR_MISSES], set())


def _experiments(board: Board, experiments: list[Experiment], in_best: set[int]) -> str:
    return _table(
        ("#", "lane", board.program.eval.metric.name, "n", "gain", "lines", "in best", "idea", "decided by"),
        [
            (
                str(each.number),
                each.lane,
                number(each.value),
                str(len(each.values)),
                _signed(each.gain),
                f"{each.lines:+d}",
                "yes" if each.number in in_best else "",
                each.idea or each.kind,
                each.reason,
            )
            for each in experiments
        ],
    )


def _failures(board: Board) -> str:
    kinds: dict[str, list[Experiment]] = {}
    for each in board.experiments:
        if each.failure:
            kinds.setdefault(each.failure.kind, []).append(each)
    return _table(
        ("kind", "count", "experiments", "latest"),
        [
            (
                kind,
                str(len(failed)),
                _numbers(failed),
                line(failed[-1].failure.message if failed[-1].failure else "", 120),
            )
            for kind, failed in sorted(kinds.items(), key=lambda each: -len(each[1]))
        ],
    )


def _fenced(diff: str) -> str:
    """The diff in a fence that nothing inside it can close."""
    if not diff.strip():
        return ""
    lines = diff.splitlines()
    ticks = "`" * max(3, 1 + max(map(len, re.findall(r"`+", diff)), default=0))
    left = len(lines) - DIFF_LINES
    more = f"\n\n{left} more lines: `autoresearch-ray diff` shows them all." if left > 0 else ""
    return f"{ticks}diff\n" + "\n".join(lines[:DIFF_LINES]) + f"\n{ticks}{more}"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, each)) + " |" for each in lines)


def _numbers(experiments: list[Experiment]) -> str:
    shown = ", ".join(f"#{each.number}" for each in experiments[:10])
    return shown + (", …" if len(experiments) > 10 else "")


def _signed(gain: float | None) -> str:
    return "" if gain is None else f"{gain:+.3g}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


# --- The picture -----------------------------------------------------------------------------------------------------


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
    low, high = _frame(board)
    for status, colour in ((Status.DISCARD, "lightgrey"), (Status.KEEP, "tab:green")):
        dots = [
            (each.number, each.value) for each in board.experiments if each.status is status and each.value is not None
        ]
        clamped = [min(max(value, low), high) for _, value in dots]
        axes.scatter([at for at, _ in dots], clamped, s=18, color=colour, label=status, clip_on=False, zorder=2)
    crashes = [each.number for each in board.experiments if each.status is Status.CRASH]
    worse = 1.0 if board.direction is Direction.LOWER else 0.0
    edge = axes.get_xaxis_transform()  # x in experiments, y in shares of the frame
    axes.scatter(
        crashes, [worse] * len(crashes), s=18, marker="x", color="tab:red", label="crash", clip_on=False, transform=edge
    )
    steps = _steps(board)
    ends = [*steps, (max(len(board.experiments) - 1, 1), steps[-1][1], None)] if steps else []
    axes.step([at for at, _, _ in ends], [value for _, value, _ in ends], where="post", color="tab:green", label="best")
    _label(axes, steps, board.direction)
    metric = board.program.eval.metric
    axes.set_ylim(low, high)
    axes.set_xlabel("experiment")
    axes.set_ylabel(f"{metric.name} ({metric.direction} is better)", parse_math=False)
    words = (line(board.program.title), f"{board.counted} experiments", improvement(board))
    axes.set_title(": ".join(each for each in words if each), parse_math=False)
    axes.legend(loc="upper right" if worse else "lower right")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # an idea in a script that the font lacks is drawn as boxes
        figure.savefig(path, dpi=150)


def _steps(board: Board) -> list[tuple[int, float, Experiment | None]]:
    """The published best as it came about: number of the experiment, value, and which one it was."""
    steps: list[tuple[int, float, Experiment | None]] = []
    if board.baseline and board.baseline.value is not None:
        steps.append((0, board.baseline.value, None))
    for each in board.published:
        experiment = board.at(each.commit)
        if experiment and experiment.kind != "baseline":
            # Experiments are published in another order than they are numbered; the line only goes forward.
            steps.append((max(experiment.number, steps[-1][0] if steps else 0), each.value, experiment))
    return steps


def _frame(board: Board) -> tuple[float, float]:
    """The values that the picture shows: all that were kept, room for the labels, and more on the worse side."""
    kept = [value for _, value, _ in _steps(board)]
    kept += [each.value for each in board.experiments if each.status is Status.KEEP and each.value is not None]
    if not kept:
        return 0.0, 1.0
    span = max(kept) - min(kept) or 6 * (board.noise or 0.0) or abs(kept[0]) * 0.02 or 1.0
    if board.direction is Direction.LOWER:
        return min(kept) - 0.45 * span, max(kept) + 0.6 * span
    return min(kept) - 0.6 * span, max(kept) + 0.45 * span


def _label(axes: Any, steps: list[tuple[int, float, Experiment | None]], direction: Direction) -> None:
    """Name the largest improvements: on the better side of the line, which is empty, where the text has room there."""
    gains = [direction.gain(new[1], old[1]) for old, new in itertools.pairwise(steps)]
    largest = sorted(range(len(gains)), key=lambda each: -gains[each])[:LABELS]
    up = 1 if direction is Direction.LOWER else -1
    for index in largest:
        at, value, experiment = steps[index + 1]
        if experiment is None:
            continue
        clear = at > 0.3 * steps[-1][0]
        note = axes.annotate(
            f"#{experiment.number} {described(experiment, 36)}",
            (at, value),
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
