"""The morning report: what people are told of a run.

The report is Markdown; what agents and logs wrote passes through `cell`, so that no idea can break a table or open a
link. The short texts and the exports are in `results`, the picture in `picture`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from autoresearch_ray import comparison
from autoresearch_ray.board import Board
from autoresearch_ray.certainty import (
    confirmation,
    floors,
    heading,
    holdout,
    improvement,
    other,
    others,
    over_baseline,
    rough,
    value,
)
from autoresearch_ray.digest import by_category
from autoresearch_ray.model import MEMORY, Experiment, Status
from autoresearch_ray.results import (
    described,
    duration,
    gained,
    leaderboard,
    line,
    near_misses,
    origin,
    out_of_use,
    outcomes,
    signed,
    whose,
    why,
)
from autoresearch_ray.timesheet import slots_table, uses_table

NEAR_MISSES = 10  # listed in the report
DIFF_LINES = 400  # of the best diff in the report: about what one reads in a sitting
HUNGRY = 1.5  # times the baseline's memory, from which on the best is warned of


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
        _section("Agents", _agents(board)),
        _section("Where the time went", _account(board)),
        _section("Noise", _noise(board)),
        _section("Lanes", _lanes(board)),
        _section("Kept", _kept(board)),
        _section("By category", _by_category(board)),
        _section("Suspicious", _experiments(board, (each for each in board.experiments if each.doubts), _REASON)),
        _section("Refused as the best", _refused(board)),
        _section("Near misses", _experiments(board, _nearest(board), _REASON)),
        _section("What failed", _failures(board)),
        _section("The best change", _fenced(diff)),
        _section("Discarded", _experiments(board, _discarded(board), _REASON)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cell(text: str) -> str:
    """`text` as it stands inside a Markdown table or paragraph."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", line(text))


def _headline(board: Board) -> str:
    words = (
        f"{board.counted} experiments on {len(board.lanes)} lanes in {duration(board.elapsed_seconds(board.last_at))}"
    )
    base, best, change = value(board, board.baseline), value(board, board.best), improvement(board)
    if base is None or best is None:
        return f"Nothing has been measured yet: {words}."
    end = f" The run ended: {cell(board.closed.reason)}." if board.closed else ""
    return f"**{cell(heading(board))} {base} → {best} ({change})** after {words}.{end}"


def _certainty(board: Board) -> str:
    words = confirmation(board)
    if board.baseline is not None and board.noise is None:
        words.append("No commit was measured twice, so the noise is not known.")
    return " ".join(words)


def _caveats(board: Board) -> Iterable[str]:
    best = board.best
    known = value(board, best)
    if best is not None and known is not None:
        if known.n == 1 and best.kind != "baseline":
            yield "The best was measured only once: measure it again before you build on it."
        ahead = [each for each in board.experiments if _ahead(board, each, known.mean)]
        if ahead:
            yield f"These read better than the best, and were not confirmed or not at the time: {_numbers(ahead)}."
        memory, usual = other(best, MEMORY), other(board.baseline, MEMORY)
        if memory and usual and memory > HUNGRY * usual:
            yield f"The best uses {memory:.3g} GB of memory, {memory / usual:.2g} times the baseline's {usual:.3g} GB."
    contended = [each for each in board.experiments if each.resources.contended]
    if contended:
        yield f"{len(contended)} experiments shared their device with a stranger: {_numbers(contended)}."
    throttled = [each for each in board.experiments if each.resources.throttle]
    if throttled:
        yield f"The device was throttled in {len(throttled)} experiments: {_numbers(throttled)}."
    devices = sorted({lane.seat.device for lane in board.lanes.values()})
    if len(devices) > 1:
        as_on = f" Values read as they would on {cell(floors(board)[0].name)}." if len(board.classes) > 1 else ""
        yield f"Measured on unlike devices: {cell(', '.join(devices))}.{as_on}"
    for what, event in out_of_use(board):
        yield f"A slot was {what} after {duration(board.elapsed_seconds(event.at))}: {cell(whose(board, event))}."
    if board.counts[Status.PENDING]:
        yield f"{board.counts[Status.PENDING]} experiments are not decided."


def _ahead(board: Board, experiment: Experiment, best: float) -> bool:
    contender, known = experiment.status in (Status.PENDING, Status.KEEP), value(board, experiment)
    return contender and known is not None and board.direction.better(known.mean, best)


def _costs(board: Board) -> Iterable[str]:
    counts = board.counts
    yield (
        f"{counts[Status.KEEP]} keeps, {counts[Status.DISCARD]} discards, {counts[Status.CRASH]} crashes, "
        f"{counts[Status.LOST]} lost to the agent or the machine; {board.attempts} measurements"
    )
    if asked := outcomes(board):
        yield f"agents were asked {asked.total()} times: {', '.join(f'{n} {cell(each)}' for each, n in asked.items())}"
    if repaired := [each for each in board.experiments if each.repaired]:
        measured = sum(each.value is not None for each in repaired)
        yield f"{len(repaired)} edits went back to be repaired, {measured} got a value after it: {_numbers(repaired)}"
    hours = sum(each.seconds for each in board.experiments) / 3600
    gpus = max((len(lane.seat.gpus) for lane in board.lanes.values()), default=0)
    share = board.program.options.gpus_per_worker
    yield f"{hours * share:.2f} GPU hours of evaluation" if gpus else f"{hours:.2f} hours of evaluation"
    energy = [each.resources.energy_joules for each in board.experiments if each.resources.energy_joules is not None]
    if energy:
        yield f"{sum(energy) / 3.6e6:.3g} kWh, read in {len(energy)} of {len(board.experiments)} experiments"
    money = board.money
    if money.known_usd:
        yield f"{comparison.dollars_text(money.known_usd, money.unknown)} for the agents"
    if money.unknown:
        charged = f", for which ${money.charged_usd:.2f} counts against the cap" if money.charged_usd else ""
        yield f"{money.unknown} proposals of which it is not known what they cost{charged}"
    said = [each.usage for each in board.experiments if each.usage.input_tokens or each.usage.output_tokens]
    if said:
        read, wrote = sum(each.input_tokens or 0 for each in said), sum(each.output_tokens or 0 for each in said)
        yield f"{read:,} tokens in, {wrote:,} out"


def _agents(board: Board) -> str:
    head, *rows = comparison.table(board) or [()]
    words = (
        "The gain is what an agent's changes in the best are expected to bring, each by itself; the time is that of "
        "its thinking and of measuring what it thought of."
    )
    return f"{words}\n\n{_table(head, rows)}" if rows else ""


def _account(board: Board) -> str:
    tables = (uses_table(board, board.last_at), slots_table(board, board.last_at))
    return "\n\n".join(_table(head, rows) for head, *rows in filter(None, tables))


def _noise(board: Board) -> str:
    return _table(
        ("devices", "noise of one measurement", "baseline", "lanes"),
        [(each.name, rough(each.noise), str(each.baseline or "-"), ", ".join(each.lanes)) for each in floors(board)],
    )


def _lanes(board: Board) -> str:
    names, rows = others(board), leaderboard(board)
    mixed, paid = len({row.agent for row in rows}) > 1, any(row.cost_usd for row in rows)
    asked, tried = ("agent",) * mixed, ("keeps", "tried", *("dollars",) * paid)
    return _table(
        ("rank", "lane", "device", *asked, heading(board), "over the baseline", *names, *tried, "head"),
        [
            (
                str(row.rank),
                row.lane,
                row.device,
                *((row.agent,) * mixed),
                str(row.value or "-"),
                signed(row.gain),
                *(rough(row.also[name]) for name in names),
                str(row.keeps),
                str(row.experiments),
                *((comparison.dollars_text(row.cost_usd, 0),) * paid),
                row.head[:7],
            )
            for row in rows
        ],
    )


_Column = tuple[str, Callable[[Experiment], str]]
_REASON: tuple[_Column, ...] = (("decided by", why),)


def _kept(board: Board) -> str:
    best = board.best
    inside = {each.commit for each in lineage(board)} | (board.contains(best.commit) if best and best.commit else set())
    kept = (each for each in board.experiments if each.status is Status.KEEP and each.kind != "baseline")
    columns: tuple[_Column, ...] = (
        ("lines", lambda each: f"{each.lines:+d}"),
        ("in best", lambda each: "yes" if each.commit in inside else ""),
    )
    return _experiments(board, kept, (*columns, *_REASON))


def _by_category(board: Board) -> str:
    """Where was tried how much, and what of it the best has, with the gain that is expected of that."""
    rows = by_category(board)
    return _table(
        ("category", "tried", "kept", "failed", "in best", "their gain"),
        [
            (
                each.category,
                str(each.tried),
                str(each.kept),
                str(each.failed),
                str(each.in_best),
                signed(each.gain) if each.in_best else "",
            )
            for each in rows
        ],
    )


def _nearest(board: Board) -> list[Experiment]:
    return near_misses(board.experiments, board.noise)[:NEAR_MISSES]


def _discarded(board: Board) -> Iterable[Experiment]:
    return (each for each in board.experiments if each.status is Status.DISCARD)


def _refused(board: Board) -> str:
    """What would have been the best and was not published: by the holdout, or by more measurements."""
    why_not = {each.number: said.reason for said in board.refused.values() if (each := board.at(said.commit))}
    columns: tuple[_Column, ...] = (("refused because", lambda each: why_not[each.number]),)
    if board.holdouts:
        columns = (("on the holdout", lambda each: str(holdout(board, each) or "-")), *columns)
    return _experiments(board, (board.experiments[each] for each in why_not), columns)


def _experiments(board: Board, experiments: Iterable[Experiment], columns: Sequence[_Column]) -> str:
    """A table of them: what they read, what they tried, and these `columns` at its end."""
    names, several = others(board), len(board.classes) > 1
    beside = ("over baseline",) * several
    return _table(
        ("#", "lane", heading(board), "gain", *beside, *names, "idea", *(name for name, _ in columns)),
        [
            (
                str(each.number),
                origin(each),
                str(value(board, each) or "-"),
                gained(each),
                *((signed(over_baseline(board, value(board, each))),) * several),
                *(rough(other(each, name)) for name in names),
                described(each),
                *(told(each) for _, told in columns),
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
