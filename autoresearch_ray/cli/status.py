"""How a run stands: the pace, the time left, and what each lane does, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoresearch_ray.board import Board, Lane
from autoresearch_ray.cli.folder import Driver
from autoresearch_ray.cli.output import columns
from autoresearch_ray.model import Experiment, Propose, Remeasure, Replay, Status, Stop
from autoresearch_ray.results import described, duration, improvement, leaderboard, line, number, spread, timestamp


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run goes. `None` is "not known yet", or "no limit" for what is left."""

    elapsed_seconds: float  # while the run was live
    experiments_per_hour: float | None
    measuring_share: float | None  # of the time of the workers that are seated now, from 0 to 1
    seconds_left: float | None  # to the nearest limit
    limit: str | None


def pace(board: Board, now: float) -> Pace:
    """The pace at `now`, in seconds since the epoch."""
    elapsed = board.elapsed_seconds(now)
    workers = len({lane.seat.worker for lane in board.lanes.values()})
    measuring = sum(each.seconds for each in board.experiments)
    left = min(_limits(board, elapsed), default=(None, None))
    return Pace(
        elapsed_seconds=elapsed,
        experiments_per_hour=board.counted / elapsed * 3600 if board.counted and elapsed else None,
        measuring_share=min(1.0, measuring / (workers * elapsed)) if workers and elapsed else None,
        seconds_left=left[0],
        limit=left[1],
    )


def _limits(board: Board, elapsed: float) -> list[tuple[float, str]]:
    """The limits that can be foreseen, each with the seconds to it at the present rate."""
    options = board.program.options
    found: list[tuple[float, str]] = []
    if options.hours is not None:
        found.append((options.hours * 3600 - elapsed, f"{options.hours:g} hours"))
    if options.experiments is not None and board.counted:
        left = elapsed * (options.experiments / board.counted - 1)
        found.append((left, f"{options.experiments} experiments"))
    if options.cost_usd is not None and board.cost_usd:
        found.append((elapsed * (options.cost_usd / board.cost_usd - 1), f"${options.cost_usd:g}"))
    return [(max(0.0, seconds), words) for seconds, words in found]


def doing(lane: Lane) -> str:
    """The lane's order in words."""
    match lane.order:
        case Propose(parent=parent):
            return f"proposes on {parent[:7]}"
        case Remeasure(commit=commit, why=why):
            return f"measures {commit[:7]}: {line(why)}"
        case Replay(parent=parent, commits=commits):
            return f"replays {len(commits)} of its own onto {parent[:7]}"
        case Stop(reason=reason):
            return f"stopped: {line(reason)}"
        case _:
            return "waits"


def state(board: Board, driver: Driver) -> str:
    """running, closing (measures what is undecided), closed, or stopped (without having closed: it can be resumed)."""
    if driver.alive:
        return "closing" if board.closed else "running"
    return "closed" if board.closed else "stopped"


def status(board: Board, driver: Driver, now: float) -> dict[str, Any]:
    """All of it as JSON. Ages are counted to `now` while the driver lives, else to the last event."""
    now = now if driver.alive else board.last_at
    speed = pace(board, now)
    metric = board.program.eval.metric
    base, best = board.baseline, board.best
    gain = None
    if base and best and base.value is not None and best.value is not None:
        gain = board.direction.gain(best.value, base.value)
    return {
        "tag": board.opened.tag,
        "state": state(board, driver),
        "reason": board.closed.reason if board.closed else None,
        "driver": {"alive": driver.alive, "pid": driver.pid, "host": driver.host},
        "metric": metric.name,
        "direction": str(metric.direction),
        "best": _scored(board, best),
        "baseline": _scored(board, base),
        "gain": gain,
        "noise": board.noise,
        "experiments": board.counted,
        "counts": {str(key): count for key, count in board.counts.items()},
        "measurements": board.attempts,
        "started": timestamp(board.started),
        "last_event": timestamp(board.last_at),
        "elapsed_seconds": speed.elapsed_seconds,
        "experiments_per_hour": speed.experiments_per_hour,
        "measuring_share": speed.measuring_share,
        "seconds_left": speed.seconds_left,
        "limit": speed.limit,
        "cost_usd": board.cost_usd,
        "lanes": [
            {
                "rank": row.rank,
                "lane": row.lane,
                "host": board.lanes[row.lane].seat.host,
                "device": row.device,
                "head": row.head,
                "metric": row.value,
                "measurements": row.measurements,
                "gain": row.gain,
                "experiments": row.experiments,
                "keeps": row.keeps,
                "doing": doing(board.lanes[row.lane]),
                "for_seconds": max(0.0, now - board.lanes[row.lane].ordered_at),
            }
            for row in leaderboard(board)
        ],
    }


def _scored(board: Board, experiment: Experiment | None) -> dict[str, Any] | None:
    if experiment is None:
        return None
    return {
        "n": experiment.number,
        "commit": experiment.commit,
        "metric": experiment.value,
        "standard_error": spread(board, experiment),
        "measurements": len(experiment.values),
        "lane": experiment.lane,
        "description": described(experiment),
    }


def status_text(board: Board, driver: Driver, now: float) -> str:
    """The same for people."""
    now = now if driver.alive else board.last_at
    speed = pace(board, now)
    metric = board.program.eval.metric
    where = f" (process {driver.pid} on {driver.host})" if driver.alive and driver.pid else ""
    why = f": {line(board.closed.reason)}" if board.closed else ""
    facts = [
        (board.opened.tag, f"{state(board, driver)}{where}{why}"),
        (metric.name, f"{metric.direction} is better; noise {number(board.noise)}"),
        ("best", scored_text(board, board.best)),
        ("baseline", scored_text(board, board.baseline)),
        ("gain", improvement(board) or "-"),
        ("tried", f"{board.counted} experiments: {counts_text(board)}; {board.attempts} measurements"),
        ("pace", pace_text(board, speed)),
    ]
    lanes = [("", "lane", "device", metric.name, "n", "keeps", "tried", "for", "now")]
    for row in leaderboard(board):
        lane = board.lanes[row.lane]
        age = duration(now - lane.ordered_at)
        keeps, tried = str(row.keeps), str(row.experiments)
        value, measured = number(row.value), str(row.measurements)
        lanes.append((str(row.rank), row.lane, row.device, value, measured, keeps, tried, age, doing(lane)))
    return "\n".join([*columns(facts), "", *columns(lanes, right=(0, 3, 4, 5, 6, 7))])


def counts_text(board: Board) -> str:
    """Such as "61 keep, 320 discard, 31 crash"."""
    return ", ".join(f"{board.counts[each]} {each}" for each in Status if board.counts[each]) or "none so far"


def scored_text(board: Board, experiment: Experiment | None) -> str:
    """Such as "0.9932 ± 0.0003 (n=3)  #41 gpu3  increase LR to 0.04"."""
    if experiment is None:
        return "-"
    error = spread(board, experiment)
    plus_minus = f" ± {error:.2g}" if error is not None else ""
    whose = f"#{experiment.number} {experiment.lane}".rstrip()
    return f"{number(experiment.value)}{plus_minus} (n={len(experiment.values)})  {whose}  {described(experiment)}"


def pace_text(board: Board, speed: Pace) -> str:
    """The pace in one line, as far as it is known."""
    words = [duration(speed.elapsed_seconds)]
    if speed.experiments_per_hour is not None:
        words.append(f"{speed.experiments_per_hour:.1f} experiments an hour")
    if speed.measuring_share is not None:
        words.append(f"{speed.measuring_share:.0%} of the workers' time measuring")
    if board.cost_usd:
        words.append(f"${board.cost_usd:.2f}")
    if speed.seconds_left is not None and not board.closed:
        words.append(f"about {duration(speed.seconds_left)} left of {speed.limit}")
    return ", ".join(words)
