"""The results in short: words and numbers as people read them, the leaderboard, the summary and the exports.

Pure: a board goes in, text or plain data comes out. Ideas and reasons are written by agents, so what shows them passes
through `line`, which leaves neither control characters nor line ends.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from csv import writer
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autoresearch_ray.board import Board
from autoresearch_ray.model import Experiment, Status


@dataclass(frozen=True, slots=True)
class Row:
    """One lane on the leaderboard. `value` is the score of its branch's head, `gain` is over the baseline."""

    rank: int
    lane: str
    device: str
    head: str
    value: float | None
    measurements: int
    gain: float | None
    experiments: int
    keeps: int


# --- Words and numbers -----------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A value as people read it: six significant digits, or all of them before the point; "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:.6g}"


def line(text: str, most: int = 0) -> str:
    """`text` on one line of printable characters, cut to `most` of them where that is not 0."""
    flat = "".join(each for each in " ".join(text.split()) if each.isprintable())
    return flat if not most or len(flat) <= most else flat[: most - 1].rstrip() + "…"


def described(experiment: Experiment, most: int = 0) -> str:
    """What the experiment tried, on one line."""
    return line(experiment.idea, most) or experiment.kind


def duration(seconds: float) -> str:
    """Seconds as "2d 3h", "3h 04m", "4m 05s" or "5s"."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{minutes}m {whole % 60:02d}s" if minutes else f"{whole}s"


def timestamp(at: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spread(board: Board, experiment: Experiment) -> float | None:
    """The standard error of the experiment's mean; None while the noise is not known."""
    if board.noise is None or not experiment.values:
        return None
    return board.noise / math.sqrt(len(experiment.values))


def improvement(board: Board) -> str:
    """How far the best is from the baseline, such as "-0.0047, 0.471% better"; "" while there is nothing to compare."""
    if board.baseline is None or board.best is None or board.baseline.value is None or board.best.value is None:
        return ""
    old, new = board.baseline.value, board.best.value
    gain = board.direction.gain(new, old)
    words = f"{new - old:+.4g}"
    if old and gain:
        words += f", {abs(gain / old):.3%} {'better' if gain > 0 else 'worse'}"
    return words


# --- Short texts -----------------------------------------------------------------------------------------------------


def leaderboard(board: Board) -> list[Row]:
    """The lanes, the best branch first; lanes whose head was not measured come last."""
    experiments = Counter(each.lane for each in board.experiments[1:])
    keeps = Counter(each.lane for each in board.experiments[1:] if each.status is Status.KEEP)
    baseline = board.baseline.value if board.baseline else None
    rows = []
    for rank, name in enumerate(board.ranking(), start=1):
        lane = board.lanes[name]
        score = board.score(lane.head)
        gain = board.direction.gain(score.mean, baseline) if score and baseline is not None else None
        value, measurements = (score.mean, score.n) if score else (None, 0)
        device, head = lane.seat.device, lane.head
        rows.append(Row(rank, name, device, head, value, measurements, gain, experiments[name], keeps[name]))
    return rows


def summary(board: Board) -> str:
    """The four lines that end a run."""
    counts, best, change = board.counts, board.best, improvement(board)
    lost = f" | Lost: {counts[Status.LOST]}" if counts[Status.LOST] else ""
    values = f"Baseline: {number(_value(board.baseline))} → Best: {number(_value(best))}"
    return "\n".join(
        (
            f"=== Autoresearch Complete ({board.counted} experiments) ===",
            f"{values} ({change})" if change else values,
            f"Keeps: {counts[Status.KEEP]} | Discards: {counts[Status.DISCARD]} | Crashes: {counts[Status.CRASH]}"
            + lost,
            f"Best experiment: #{best.number} — {described(best)}" if best else "Best experiment: none",
        )
    )


def verdict(experiment: Experiment) -> str:
    """Such as "#12 [keep] gpu3 0.9932 (+0.0012)  increase LR to 0.04: gain +0.0012 against a margin of 0.0005"."""
    gain = f" ({experiment.gain:+.3g})" if experiment.gain is not None else ""
    whose = f" {experiment.lane}" if experiment.lane else ""
    why = f": {line(experiment.reason, 100)}" if experiment.reason else ""
    head = f"#{experiment.number} [{experiment.status}]{whose} {number(experiment.value)}{gain}"
    return f"{head}  {described(experiment, 100)}{why}"


def progress_line(board: Board) -> str:
    """Where the run stands, in one line."""
    counts = board.counts
    return (
        f"=== Experiment {board.counted}: {board.program.eval.metric.name} at {number(_value(board.best))}, "
        f"{counts[Status.KEEP]} keeps / {counts[Status.DISCARD]} discards / {counts[Status.CRASH]} crashes ==="
    )


def _value(experiment: Experiment | None) -> float | None:
    return experiment.value if experiment else None


# --- Exports ---------------------------------------------------------------------------------------------------------


def record(experiment: Experiment) -> dict[str, Any]:
    """One experiment as JSON: the fields of results.jsonl, then ours. Memory in GB of 2**30 bytes; unknown is null."""
    memory = _peak_mb(experiment)
    return {
        "n": experiment.number,
        "commit": experiment.commit,
        "metric": experiment.value,
        "status": str(experiment.status),
        "description": experiment.idea or experiment.kind,
        "timestamp": timestamp(experiment.at),
        "id": experiment.id,
        "lane": experiment.lane,
        "kind": experiment.kind,
        "parent": experiment.parent,
        "values": list(experiment.values),
        "gain": experiment.gain,
        "seconds": round(experiment.seconds, 3),
        "memory_gb": None if memory is None else round(memory / 1024, 3),
        "cost_usd": experiment.usage.cost_usd,
        "failure": str(experiment.failure.kind) if experiment.failure else None,
        "reason": experiment.reason,
    }


def tsv(board: Board) -> str:
    """results.tsv: five columns, the verdicts only. The status is authoritative; a crash has the metric NA."""
    rows = ["commit\tmetric\tmemory_gb\tstatus\tdescription"]
    for each in board.experiments:
        if each.status in (Status.PENDING, Status.LOST):
            continue
        crashed = each.status is Status.CRASH or each.value is None
        memory = 0.0 if crashed else (_peak_mb(each) or 0.0) / 1024
        metric = "NA" if crashed or each.value is None else _fixed(each.value)
        rows.append(f"{(each.commit or '-')[:7]}\t{metric}\t{memory:.1f}\t{each.status}\t{described(each)}")
    return "\n".join(rows) + "\n"


def jsonl(board: Board) -> str:
    """results.jsonl: every experiment, one object per line."""
    return "".join(json.dumps(record(each), allow_nan=False) + "\n" for each in board.experiments)


def csv(board: Board) -> str:
    """The fields of results.jsonl for a spreadsheet; `values` are joined by blanks."""
    text = io.StringIO()
    rows = writer(text)
    for index, each in enumerate(board.experiments):
        fields = record(each)
        if index == 0:
            rows.writerow(fields)
        rows.writerow((fields | {"values": " ".join(map(repr, each.values))}).values())
    return text.getvalue()


def _fixed(value: float) -> str:
    return f"{value:.6f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.6e}"


def _peak_mb(experiment: Experiment) -> float | None:
    seen = experiment.resources
    return seen.process_peak_mb if seen.peak_mb is None else seen.peak_mb
