"""The results in short: words as people read them, the leaderboard, the summary and the exports.

Pure: a board goes in, text or plain data comes out. Ideas and reasons are written by agents, so what shows them passes
through `line`, which leaves neither control characters nor line ends. How sure a number is, `certainty` says.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from csv import writer
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autoresearch_ray.board import Board
from autoresearch_ray.certainty import Value, heading, improvement, other, others, over_baseline, plus_minus, value
from autoresearch_ray.events import Paused, Retired
from autoresearch_ray.memory import likely
from autoresearch_ray.model import MEMORY, Experiment, Outcome, Status


@dataclass(frozen=True, slots=True)
class Row:
    """One lane on the leaderboard. `value` is the score of its branch's head, `gain` is over the baseline."""

    rank: int
    lane: str
    device: str  # its class, where there are several
    agent: str
    head: str
    value: Value | None
    gain: float | None
    also: Mapping[str, float | None]
    experiments: int
    keeps: int
    cost_usd: float | None  # of its proposals, as far as it is known


# --- Words ----------------------------------------------------------------------------------------------------------


def signed(gain: float | None) -> str:
    """A gain with its sign; "" where there is none."""
    return "" if gain is None else f"{gain:+.3g}"


def gained(experiment: Experiment) -> str:
    """Its gain over its parent when it was judged, with the standard error where that is known."""
    if experiment.gain is None or not experiment.error:
        return signed(experiment.gain)
    return plus_minus(experiment.gain, experiment.error, "+")


def line(text: str, most: int = 0) -> str:
    """`text` on one line of printable characters, cut to `most` of them where that is not 0."""
    flat = "".join(each for each in " ".join(text.split()) if each.isprintable())
    return flat if not most or len(flat) <= most else flat[: most - 1].rstrip() + "…"


def described(experiment: Experiment, most: int = 0) -> str:
    """What the experiment tried, on one line."""
    return line(experiment.idea, most) or experiment.kind


def origin(experiment: Experiment) -> str:
    """The lane that it was measured on, and who submitted it: "gpu3", or "gpu3 for human"."""
    return f"{experiment.lane} for {line(experiment.by, 40)}" if experiment.submission else experiment.lane


def mark(experiment: Experiment) -> str:
    """Its status, with a question mark where its value is suspicious."""
    return f"{experiment.status}{'?' if experiment.doubts else ''}"


def why(experiment: Experiment, most: int = 0) -> str:
    """The reason of its verdict, and what makes it suspicious, which the reason may say itself."""
    told = not experiment.doubts or "suspicious" in experiment.reason
    doubts = "" if told else f"suspicious ({'; '.join(experiment.doubts)}): "
    return line(doubts + experiment.reason, most).removesuffix(":")


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


# --- Short texts -----------------------------------------------------------------------------------------------------


def leaderboard(board: Board) -> list[Row]:
    """The lanes, the best branch first; lanes whose head was not measured come last."""
    experiments = Counter(each.lane for each in board.experiments[1:])
    keeps = Counter(each.lane for each in board.experiments[1:] if each.status is Status.KEEP)
    names, several = others(board), len(board.classes) > 1
    costs: dict[str, float] = {}
    for each in board.experiments:
        if each.usage.cost_usd is not None:
            costs[each.lane] = costs.get(each.lane, 0.0) + each.usage.cost_usd
    rows = []
    for rank, name in enumerate(board.ranking(), start=1):
        lane = board.lanes[name]
        at = board.at(lane.head)
        device = lane.seat.device_class if several and lane.seat.device_class else lane.seat.device
        known, also = value(board, at), {each: other(at, each) for each in names}
        better = over_baseline(board, known)
        tried, kept, cost = experiments[name], keeps[name], costs.get(name)
        rows.append(Row(rank, name, device, lane.seat.agent, lane.head, known, better, also, tried, kept, cost))
    return rows


def ranked(board: Board) -> list[Experiment]:
    """The experiments that have a value, the best first: by the gain over the baseline, of several classes each's."""
    known = [(over_baseline(board, value(board, each)), each) for each in board.experiments]
    measured = [(gain, each) for gain, each in known if gain is not None]
    return [each for _, each in sorted(measured, key=lambda pair: (-pair[0], pair[1].number))]


def near_misses(experiments: Iterable[Experiment], noise: float | None) -> list[Experiment]:
    """Discards whose gain cannot be told from zero, the most promising first: they may win in company."""

    near = [
        each
        for each in experiments
        if each.status is Status.DISCARD
        and each.failure is None
        and each.gain is not None
        and abs(likely(each)) <= 2 * (each.error or math.sqrt(2) * (noise or 0.0))
    ]
    return sorted(near, key=lambda each: (-likely(each), each.number))


def summary(board: Board) -> str:
    """The four lines that end a run."""
    counts, best, change = board.counts, board.best, improvement(board)
    lost = f" | Lost: {counts[Status.LOST]}" if counts[Status.LOST] else ""
    values = f"Baseline: {value(board, board.baseline) or '-'} → Best: {value(board, best) or '-'}"
    return "\n".join(
        (
            f"=== Autoresearch Complete ({board.counted} experiments) ===",
            f"{values} ({change})" if change else values,
            f"Keeps: {counts[Status.KEEP]} | Discards: {counts[Status.DISCARD]} | Crashes: {counts[Status.CRASH]}"
            + lost,
            f"Best experiment: #{best.number} — {described(best)}" if best else "Best experiment: none",
        )
    )


def verdict(board: Board, experiment: Experiment) -> str:
    """Such as "#12 [keep] gpu3 0.99321 ± 0.00031, n = 2 (+0.0012)  increase LR to 0.04: gain +0.0012"."""
    better = f" ({gained(experiment)})" if experiment.gain is not None else ""
    whose = f" {origin(experiment)}" if experiment.lane else ""
    because = f": {reason}" if (reason := why(experiment, 100)) else ""
    head = f"#{experiment.number} [{mark(experiment)}]{whose} {value(board, experiment) or '-'}{better}"
    return f"{head}  {described(experiment, 100)}{because}"


def progress_line(board: Board) -> str:
    """Where the run stands, in one line."""
    counts = board.counts
    return (
        f"=== Experiment {board.counted}: {heading(board)} at {value(board, board.best) or '-'}, "
        f"{counts[Status.KEEP]} keeps / {counts[Status.DISCARD]} discards / {counts[Status.CRASH]} crashes ==="
    )


def outcomes(board: Board) -> Counter[Outcome]:
    """What came of asking the agents, the most frequent first."""
    found = Counter(each.outcome for each in board.experiments if each.outcome)
    return Counter(dict(found.most_common()))


def transcript(experiment: Experiment) -> str | None:
    """Where its agent's transcript lies in the run's folder, while logs of its age are kept."""
    lane, _, number = experiment.id.rpartition("-")
    return f"logs/{lane}/{number}.agent.log" if experiment.outcome else None


def out_of_use(board: Board) -> list[tuple[str, Paused | Retired]]:
    """The slots that do not measure now: what became of each, and the event that says why."""
    retired = [("retired", each) for each in board.retired.values()]
    return [*retired, *(("paused", each) for each in board.paused.values())]


def whose(board: Board, event: Paused | Retired) -> str:
    """The lanes of a slot and why it is out of use, such as "gpu1, gpu1b: GPU 1: Xid 79: fallen off the bus"."""
    return f"{', '.join(board.lanes_of(event.worker))}: {line(event.reason, 200)}"


# --- Exports ---------------------------------------------------------------------------------------------------------


def record(board: Board, experiment: Experiment) -> dict[str, Any]:
    """One experiment as JSON: the fields of results.jsonl, then ours. Memory in GB of 2**30 bytes; unknown is null."""
    known, memory = value(board, experiment), other(experiment, MEMORY)
    return {
        "n": experiment.number,
        "commit": experiment.commit,
        "metric": known.mean if known else None,
        "status": str(experiment.status),
        "description": experiment.idea or experiment.kind,
        "timestamp": timestamp(experiment.at),
        "id": experiment.id,
        "lane": experiment.lane,
        "kind": experiment.kind,
        "parent": experiment.parent,
        "error": known.error if known else None,
        "measurements": known.n if known else 0,
        "values": list(experiment.values),
        "over_baseline": over_baseline(board, known),
        "gain": experiment.gain,
        "gain_error": experiment.error,
        "likely": experiment.likely,
        "likely_spread": experiment.spread,
        "seconds": round(experiment.seconds, 3),
        "memory_gb": None if memory is None else round(memory, 3),
        "also": {each.name: other(experiment, each.name) for each in board.program.eval.also},
        "cost_usd": experiment.usage.cost_usd,
        "cost_source": experiment.usage.cost_source,
        "input_tokens": experiment.usage.input_tokens,
        "cached_tokens": experiment.usage.cached_tokens,
        "output_tokens": experiment.usage.output_tokens,
        "agent": experiment.agent or None,
        "outcome": str(experiment.outcome) if experiment.outcome else None,
        "repaired": experiment.repaired or None,
        "transcript": transcript(experiment),
        "failure": str(experiment.failure.kind) if experiment.failure else None,
        "reason": experiment.reason,
        "doubts": list(experiment.doubts),
        "by": experiment.by or None,
        "submission": experiment.submission or None,
    }


def tsv(board: Board) -> str:
    """results.tsv: five columns, the verdicts only. The status is authoritative; a crash has the metric NA."""
    rows = ["commit\tmetric\tmemory_gb\tstatus\tdescription"]
    for each in board.experiments:
        if each.status in (Status.PENDING, Status.LOST):
            continue
        known = None if each.status is Status.CRASH else value(board, each)
        memory = (other(each, MEMORY) or 0.0) if known else 0.0
        metric = _fixed(known.mean) if known else "NA"
        rows.append(f"{(each.commit or '-')[:7]}\t{metric}\t{memory:.1f}\t{each.status}\t{described(each)}")
    return "\n".join(rows) + "\n"


def jsonl(board: Board) -> str:
    """results.jsonl: every experiment, one object per line."""
    return "".join(json.dumps(record(board, each), allow_nan=False) + "\n" for each in board.experiments)


def csv(board: Board) -> str:
    """The fields of results.jsonl for a spreadsheet: lists are joined, each other number is a column `also.NAME`."""
    text = io.StringIO()
    rows = writer(text)
    for index, each in enumerate(board.experiments):
        fields = record(board, each)
        also = {f"also.{name}": found for name, found in fields.pop("also").items()}
        fields |= {"values": " ".join(map(repr, each.values)), "doubts": "; ".join(each.doubts), **also}
        if index == 0:
            rows.writerow(fields)
        rows.writerow(fields.values())
    return text.getvalue()


def _fixed(value: float) -> str:
    return f"{value:.6f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.6e}"
