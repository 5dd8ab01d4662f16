"""How a run stands: the pace, the time left, and what each lane does, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoresearch_ray import comparison, timesheet
from autoresearch_ray.board import Board
from autoresearch_ray.breaker import Breaker
from autoresearch_ray.certainty import (
    confirmed,
    floors,
    gain,
    heading,
    improvement,
    other,
    others,
    over_baseline,
    rough,
    value,
)
from autoresearch_ray.cli.folder import Driver, Mirrored
from autoresearch_ray.cli.output import columns
from autoresearch_ray.events import Paused, Retired
from autoresearch_ray.model import (
    Ablate,
    Experiment,
    Holdout,
    Propose,
    Remeasure,
    Replay,
    Rework,
    Status,
    Stop,
    Try,
    Wait,
)
from autoresearch_ray.results import described, duration, leaderboard, line, out_of_use, signed, timestamp, whose

WORDS = ("lane", "device", "agent", "now")  # columns of the table of lanes that hold no numbers
NOTHING = {"metric": None, "error": None, "measurements": 0}


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run goes. `None` is "not known yet", or "no limit" for what is left."""

    elapsed_seconds: float  # while the run was live
    experiments_per_hour: float | None
    measuring_share: float | None  # of the slots' time, from 0 to 1
    seconds_left: float | None  # to the nearest limit
    limit: str | None


def pace(board: Board, now: float) -> Pace:
    """The pace at `now`, in seconds since the epoch."""
    elapsed = board.elapsed_seconds(now)
    share = timesheet.measuring_share(board, now)
    left = min(_limits(board, elapsed), default=(None, None))
    return Pace(
        elapsed_seconds=elapsed,
        experiments_per_hour=board.counted / elapsed * 3600 if board.counted and elapsed else None,
        measuring_share=_by_evaluations(board, elapsed) if share is None else share,
        seconds_left=left[0],
        limit=left[1],
    )


def _by_evaluations(board: Board, elapsed: float) -> float | None:
    """The share of measuring where no worker reports, as in ledgers of before they did."""
    workers = len({lane.seat.worker for lane in board.lanes.values()})
    measuring = sum(each.seconds for each in board.experiments)
    return min(1.0, measuring / (workers * elapsed)) if workers and elapsed else None


def _limits(board: Board, elapsed: float) -> list[tuple[float, str]]:
    """The limits that can be foreseen, each with the seconds to it at the present rate."""
    options = board.program.options
    found: list[tuple[float, str]] = []
    if options.hours is not None:
        found.append((options.hours * 3600 - elapsed, f"{options.hours:g} hour{'s' * (options.hours != 1)}"))
    if options.experiments is not None and board.counted:
        left = elapsed * (options.experiments / board.counted - 1)
        found.append((left, f"{options.experiments} experiments"))
    if options.cost_usd is not None and board.money.spent_usd:
        found.append((elapsed * (options.cost_usd / board.money.spent_usd - 1), f"${options.cost_usd:g}"))
    return [(max(0.0, seconds), words) for seconds, words in found]


def doing(board: Board, name: str) -> str:
    """The order of the lane `name` in words, and whether its slot waits, or the lane as soon as this is done."""
    lane, words = board.lanes[name], _order(board, name)
    if lane.held and lane.active:
        words += ", then waits: it was paused by hand"
    return f"paused: {words}" if lane.paused else words


def _order(board: Board, name: str) -> str:
    match board.lanes[name].order:
        case Propose(rework=Rework(id=id, times=times)):
            return f"mends {id}, which broke the guard: attempt {times}"
        case Propose(parent=parent):
            return f"proposes on {parent[:7]}"
        case Remeasure(commit=commit, why=why):
            return f"measures {commit[:7]}: {line(why)}"
        case Replay(parent=parent, commits=commits, why=why):
            whose = sorted({found.lane for each in commits if (found := board.at(each))})
            of = "its own" if whose == [name] else ", ".join(whose) or "unknown origin"
            return f"replays {len(commits)} of {of} onto {parent[:7]}{f': {line(why)}' if why else ''}"
        case Ablate(parent=parent, why=why):
            return f"tries {parent[:7]} {line(why)}"
        case Try(parent=parent, idea=idea, by=by):
            return f"measures on {parent[:7]} what {line(by, 40)} submitted: {line(idea)}"
        case Wait(why=why):
            return f"waits: {line(why)}"
        case Holdout(commit=commit):
            return f"measures the holdout of {commit[:7]}"
        case Stop(reason=reason):
            return f"stopped: {line(reason)}"
        case _:
            return "waits"


def state(board: Board, driver: Driver) -> str:
    """running, closing (measures what is undecided), closed, or stopped (without having closed: it can be resumed)."""
    if driver.alive:
        return "closing" if board.closed else "running"
    return "closed" if board.closed else "stopped"


def status(board: Board, driver: Driver, now: float, mirror: Mirrored | None = None) -> dict[str, Any]:
    """All of it as JSON. Ages are counted to `now` while the driver lives, else to the last event."""
    now = now if driver.alive else board.last_at
    speed = pace(board, now)
    metric = board.program.eval.metric
    gained = gain(board)
    hints = board.outside.heard_now(board.proposals)
    return {
        "tag": board.opened.tag,
        "state": state(board, driver),
        "reason": board.closed.reason if board.closed else None,
        "driver": {"alive": driver.alive, "pid": driver.pid, "host": driver.host},
        "metric": metric.name,
        "direction": str(metric.direction),
        "best": _scored(board, board.best),
        "baseline": _scored(board, board.baseline),
        "gain": over_baseline(board, value(board, board.best)),
        "gain_error": gained[1] if gained else None,
        "noise": board.noise,
        "classes": [
            {
                "class": each.name,
                "noise": each.noise,
                "baseline": each.baseline.facts if each.baseline else None,
                "lanes": list(each.lanes),
            }
            for each in floors(board)
        ],
        "experiments": board.counted,
        "counts": {str(key): count for key, count in board.counts.items()},
        "suspicious": [each.number for each in board.experiments if each.doubts],
        "refused": [{"id": each.id, "commit": each.commit, "reason": each.reason} for each in board.refused.values()],
        "paused": [_slot(board, each) for each in board.paused.values()],
        "retired": [_slot(board, each) for each in board.retired.values()],
        "submitted": {"waiting": len(board.outside.queue), "declined": len(board.outside.declined)},
        "edited": None if board.edited_at is None else timestamp(board.edited_at),
        "hints": [{"id": each.id, "text": each.text, "lanes": list(each.lanes), "keep": each.keep} for each in hints],
        "measurements": board.attempts,
        "started": timestamp(board.started),
        "last_event": timestamp(board.last_at),
        "elapsed_seconds": speed.elapsed_seconds,
        "experiments_per_hour": speed.experiments_per_hour,
        "measuring_share": speed.measuring_share,
        "account": timesheet.facts(board, now),
        "seconds_left": speed.seconds_left,
        "limit": speed.limit,
        "cost_usd": board.money.known_usd,
        "money": {
            "cap_usd": board.program.options.cost_usd,
            "reserved_usd": _reserved(board),
            "charged_usd": board.money.charged_usd,
            "unknown_costs": board.money.unknown,
        },
        "agents": comparison.facts(board),
        "agents_left_alone": [
            {
                "agents": agents,
                "trouble": breaker.kind and str(breaker.kind),
                "until": timestamp(breaker.until or 0.0),
                "openings": breaker.openings,
            }
            for agents, breaker in _left_alone(board)
        ],
        "mirror": mirror
        and {
            "place": mirror.place,
            "last_success": mirror.at and timestamp(mirror.at),
            "behind_bytes": mirror.behind_bytes,
            "trouble": mirror.trouble,
            "trouble_since": mirror.since and timestamp(mirror.since),
        },
        "lanes": [
            {
                "rank": row.rank,
                "lane": row.lane,
                "agent": row.agent,
                "host": board.lanes[row.lane].seat.host,
                "device": board.lanes[row.lane].seat.device,
                "class": board.lanes[row.lane].seat.device_class,
                "head": row.head,
                **(row.value.facts if row.value else NOTHING),
                "gain": row.gain,
                "also": dict(row.also),
                "experiments": row.experiments,
                "keeps": row.keeps,
                "cost_usd": row.cost_usd,
                "doing": doing(board, row.lane),
                "paused_by_hand": board.lanes[row.lane].held,
                "for_seconds": max(0.0, now - board.lanes[row.lane].ordered_at),
            }
            for row in leaderboard(board)
        ],
    }


def _left_alone(board: Board) -> list[tuple[list[str], Breaker]]:
    """The providers that nobody asks now, each with the agents that would."""
    found = []
    for provider, breaker in board.breakers.items():
        asking = {lane.seat.agent for name, lane in board.lanes.items() if board.provider(name) == provider}
        if breaker.is_open and asking:
            found.append((sorted(asking), breaker))
    return found


def _reserved(board: Board) -> float:
    return sum(lane.reserved_usd for lane in board.lanes.values())


def _slot(board: Board, event: Paused | Retired) -> dict[str, Any]:
    lanes = board.lanes_of(event.worker)
    return {"worker": event.worker, "lanes": lanes, "at": timestamp(event.at), "reason": event.reason}


def _scored(board: Board, experiment: Experiment | None) -> dict[str, Any] | None:
    if experiment is None:
        return None
    known = value(board, experiment)
    return {
        "n": experiment.number,
        "commit": experiment.commit,
        **(known.facts if known else NOTHING),
        "also": {name: other(experiment, name) for name in others(board)},
        "lane": experiment.lane,
        "description": described(experiment),
    }


def status_text(board: Board, driver: Driver, now: float, mirror: Mirrored | None = None) -> str:
    """The same for people."""
    copied = mirror_text(mirror, now) if mirror else ""
    now = now if driver.alive else board.last_at
    speed = pace(board, now)
    metric = board.program.eval.metric
    where = f" (process {driver.pid} on {driver.host})" if driver.alive and driver.pid else ""
    why = f": {line(board.closed.reason)}" if board.closed else ""
    refused = ((board.at(each.commit), each.reason) for each in board.refused.values())
    told = board.outside.heard_now(board.proposals)
    refusals = [f"#{found.number}: {line(reason, 80)}" for found, reason in refused if found]
    facts = [
        (board.opened.tag, f"{state(board, driver)}{where}{why}"),
        (heading(board), f"{metric.direction} is better"),
        ("best", scored_text(board, board.best)),
        ("baseline", scored_text(board, board.baseline)),
        ("change", improvement(board) or "-"),
        ("confirmed", confirmed(board)),
        *(("noise" if not index else "", each) for index, each in enumerate(noise_lines(board))),
        ("tried", f"{board.counted} experiments: {counts_text(board)}; {board.attempts} measurements"),
        ("suspicious", ", ".join(f"#{each.number}" for each in board.experiments if each.doubts)),
        ("refused", "; ".join(refusals)),
        *(("agents" if not index else "", each) for index, each in enumerate(agents_lines(board, now))),
        ("money", money_text(board)),
        ("edited", "" if board.edited_at is None else edited_text(now - board.edited_at)),
        *(("told" if not index else "", line(each.text, 100)) for index, each in enumerate(told)),
        ("submitted", submitted_text(board)),
        *slot_lines(board, now),
        ("pace", pace_text(board, speed)),
        *(("account" if not index else "", each) for index, each in enumerate(timesheet.status_lines(board, now))),
        ("mirror", copied),
    ]
    lanes = lane_rows(board, now)
    right = [index for index, name in enumerate(lanes[0]) if name not in WORDS]
    parts = [columns([each for each in facts if each[1]])]
    if len(board.program.options.agents) > 1 and (agents := comparison.table(board)):
        parts.append(columns(agents, right=range(1, len(agents[0]))))
    return "\n\n".join("\n".join(each) for each in (*parts, columns(lanes, right=right)))


def edited_text(seconds: float) -> str:
    """That the agents follow what was changed in program.md so long ago."""
    return f"the program was, {duration(seconds)} ago: proposals since then follow it"


def lane_rows(board: Board, now: float) -> list[tuple[str, ...]]:
    """The lanes as a table, its head first; with gains over the baseline where there are several classes of devices."""
    names, several, ranked = others(board), len(board.classes) > 1, leaderboard(board)
    mixed, paid = len({row.agent for row in ranked}) > 1, any(row.cost_usd for row in ranked)
    beside = (*(["gain"] * several), *names, "keeps", "tried", *(["dollars"] * paid))
    rows = [("", "lane", "device", *(["agent"] * mixed), heading(board), *beside, "for", "now")]
    for row in ranked:
        rows.append(
            (
                str(row.rank),
                row.lane,
                row.device,
                *([row.agent] * mixed),
                str(row.value or "-"),
                *([signed(row.gain)] * several),
                *(rough(row.also[name]) for name in names),
                str(row.keeps),
                str(row.experiments),
                *([comparison.dollars_text(row.cost_usd, 0)] * paid),
                duration(now - board.lanes[row.lane].ordered_at),
                doing(board, row.lane),
            )
        )
    return rows


def slot_lines(board: Board, now: float) -> list[tuple[str, str]]:
    """A line for each slot that does not measure: what became of it; for how long, whose it is, and why."""
    return [(what, f"for {duration(now - each.at)}  {whose(board, each)}") for what, each in out_of_use(board)]


def noise_lines(board: Board) -> list[str]:
    """Such as "0.00062 on NVIDIA H200", for each class of devices; of several each with its baseline."""
    known = floors(board)
    words = [f"{rough(each.noise)} on {line(each.name)}" for each in known]
    if len(known) < 2:
        return words
    return [f"{said}, baseline {each.baseline or '-'}" for said, each in zip(words, known, strict=True)]


def counts_text(board: Board) -> str:
    """Such as "61 keep, 320 discard, 31 crash"."""
    return ", ".join(f"{board.counts[each]} {each}" for each in Status if board.counts[each]) or "none so far"


def scored_text(board: Board, experiment: Experiment | None) -> str:
    """Such as "0.99321 ± 0.00031, n = 3  #41 gpu3  increase LR to 0.04"."""
    if experiment is None:
        return "-"
    whose = f"#{experiment.number} {experiment.lane}".rstrip()
    return f"{value(board, experiment) or '-'}  {whose}  {described(experiment)}"


def others_text(board: Board, experiment: Experiment) -> str:
    """Its other numbers, such as "memory_gb 44.1, latency_ms 3.2"."""
    known = ((name, other(experiment, name)) for name in others(board))
    return ", ".join(f"{line(name)} {rough(each)}" for name, each in known)


def agents_lines(board: Board, now: float) -> list[str]:
    """Why a provider is not asked now, such as "the provider limits the rate: left alone for 3m", each in a line."""
    lines = []
    for agents, breaker in _left_alone(board) if not board.closed else ():
        whose = f"{line(', '.join(agents))}: " if len(board.program.options.agents) > 1 else ""
        lane = next(name for name, lane in board.lanes.items() if lane.seat.agent in agents)
        failure = board.agent_failures.get(board.provider(lane))
        said = f" ({line(failure.message, 80)})" if failure else ""
        waits = (breaker.until or 0.0) - now
        left = "one lane tries" if breaker.probe or waits <= 0 else f"left alone for {duration(waits)}"
        lines.append(f"{whose}{breaker.why}: {left}{said}")
    return lines


def money_text(board: Board) -> str:
    """Such as "$12.30 of $50, $0.90 set aside for proposals under way"; "" where there is nothing to tell."""
    money, cap = board.money, board.program.options.cost_usd
    if cap is None and (not money.unknown or money.known_usd is None):
        return ""
    words = [comparison.dollars_text(money.known_usd, money.unknown) + (f" of ${cap:g}" if cap is not None else "")]
    if reserved := _reserved(board):
        words.append(f"${reserved:.2f} set aside for proposals under way")
    if money.unknown:
        counts = f" (${money.charged_usd:.2f} counts for them)" if money.charged_usd else ""
        words.append(f"{money.unknown} proposals of unknown cost{counts}")
    return ", ".join(words)


def submitted_text(board: Board) -> str:
    """Such as "3 wait for their verdict: autoresearch-ray results"; "" where nothing does."""
    count = len(board.outside.queue)
    return f"{count} wait{'s' * (count == 1)} for a verdict: see `autoresearch-ray results`" if count else ""


def mirror_text(mirror: Mirrored, now: float) -> str:
    """Such as "/mnt/nfs/x.git: copied 2 min ago, 14 kB of ledger behind; is full since 9 min: No space left"."""
    words = "never copied" if mirror.at is None else f"copied {duration(now - mirror.at)} ago"
    behind = f", {mirror.behind_bytes / 1000:.1f} kB of ledger behind" if mirror.behind_bytes else ""
    trouble = f"; for {duration(now - (mirror.since or now))} it {line(mirror.trouble)}" if mirror.trouble else ""
    return f"{mirror.place}: {words}{behind}{trouble}"


def pace_text(board: Board, speed: Pace) -> str:
    """The pace in one line, as far as it is known."""
    words = [duration(speed.elapsed_seconds)]
    if speed.experiments_per_hour is not None:
        words.append(f"{speed.experiments_per_hour:.1f} experiments an hour")
    if speed.measuring_share is not None:
        words.append(f"{speed.measuring_share:.0%} of the workers' time measuring")
    if board.money.known_usd:
        words.append(comparison.dollars_text(board.money.known_usd, board.money.unknown))
    if speed.seconds_left is not None and not board.closed:
        words.append(f"about {duration(speed.seconds_left)} left of {speed.limit}")
    return ", ".join(words)
