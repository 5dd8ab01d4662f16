"""What was learned, in words: one line for each verdict, and a digest of a whole run for prompts. Pure, and bounded.

A line says what was tried in the agent's own words, what came of it in numbers with their error, and what that means.
Nothing of it is stored: it is derived from the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from autoresearch_ray.board import Board
from autoresearch_ray.categories import Category, subject, untagged
from autoresearch_ray.memory import Memory, Tally, Win, likely
from autoresearch_ray.model import Ablate, Experiment, FailureKind, Propose, Replay, Status, Try
from autoresearch_ray.results import gained, line

LESSON = 160  # characters of what was learned of one experiment
# Of all parts of a digest, with their titles, in UTF-8: some 1,500 tokens. With ideas as people write them, a digest of
# 10,000 experiments had 2.8 bytes to a token of o200k_base and of cl100k_base.
DIGEST_BYTES = 4_096
UNDER_WAY_BYTES = 900

_CATEGORIES_BYTES = 700
_DEAD_ENDS_BYTES = 700
_NEW_WINS_BYTES = 800
_OWN_WINS_BYTES = 450
_MISSES_BYTES = 700
_FAILURES_BYTES = 350
_MOST = 8  # lines of one part
_IDEA = 120  # characters of what is being tried
_REASON = 60  # characters of why something failed
_NAMED = 8  # lanes or changes in one line

_FAILED: Mapping[FailureKind, str] = {
    FailureKind.CRASH: "crashed",
    FailureKind.TIMEOUT: "took too long",
    FailureKind.OOM: "out of memory",
    FailureKind.NO_METRIC: "printed no metric",
    FailureKind.NOT_FINITE: "gave no finite number",
    FailureKind.GUARD: "broke the guard",
    FailureKind.CONFLICT: "conflicts with what is there",
}

Part = tuple[str, list[str]]  # a title, and lines


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one category: `gain` is the sum that is expected of its changes that the best has."""

    category: Category
    tried: int
    kept: int
    failed: int
    in_best: int
    gain: float


# --- One experiment --------------------------------------------------------------------------------------------------


def lesson(experiment: Experiment, company: int | None = None) -> str:
    """What was learned of one experiment, on one line of at most `LESSON` characters.

    `company` is the number of a kept group that it was part of, where it was not kept alone.
    """
    result = f": {outcome(experiment, company)}"
    category = f"{subject(experiment.idea, experiment.params).category}: "
    idea = line(untagged(experiment.idea), max(20, LESSON - len(category) - len(result))) or experiment.kind
    return line(category + idea + result, LESSON)


def outcome(experiment: Experiment, company: int | None = None) -> str:
    """Such as "+0.0021 ± 0.0007, helps"; what failed has no number, and says why."""
    words = meaning(experiment, company)
    failure = experiment.failure
    if failure and failure.kind is FailureKind.CRASH:
        last = next((each for each in reversed(failure.tail.splitlines()) if each.strip()), failure.message)
        words += f": {line(last, _REASON)}"
    return words if experiment.gain is None else f"{gained(experiment)}, {words}"


def meaning(experiment: Experiment, company: int | None = None) -> str:
    """What an experiment says of its idea, in two or three words; of what it cannot say, that."""
    if company is not None:
        return f"helps in company (#{company})"
    match experiment.status:
        case Status.PENDING:
            return "not decided yet"
        case Status.LOST:
            return "not known: the agent or the machine failed"
    if experiment.failure:
        return _FAILED.get(experiment.failure.kind, "not measured")
    gain, error = experiment.gain, experiment.error
    if experiment.status is Status.KEEP:
        equal = gain is not None and gain <= 2 * (error or 0.0)
        return "no loss, and simpler" if equal and experiment.lines < 0 else "helps"
    if gain is None or error is None:
        return "not kept"
    if abs(gain) <= 2 * error:
        return "no effect that could be told"
    if gain < 0:
        return "hurts"
    return "better, but not kept"


def facts(experiment: Experiment, company: int | None = None) -> dict[str, Any]:
    """The same as JSON; `n` is the experiment's number, as in results.jsonl."""
    about = subject(experiment.idea, experiment.params)
    return {
        "n": experiment.number,
        "lane": experiment.lane,
        "status": str(experiment.status),
        "category": str(about.category),
        "topic": about.topic or None,
        "idea": untagged(experiment.idea) or experiment.kind,
        "gain": experiment.gain,
        "error": experiment.error,
        "meaning": meaning(experiment, company),
        "lesson": lesson(experiment, company),
    }


def learned(board: Board) -> list[Experiment]:
    """What there is a verdict on: neither the baseline, nor what is not decided, nor what was lost."""
    return [each for each in board.experiments[1:] if each.status not in (Status.PENDING, Status.LOST)]


def companies(board: Board) -> dict[str, int]:
    """By the commits of changes that were kept only with others: the number of the group."""
    found: dict[str, int] = {}
    for group in board.experiments:
        if group.kind == "replay" and group.status is Status.KEEP and len(group.picked) > 1:
            for commit in group.picked:
                known = board.at(commit)
                if known and known.status is not Status.KEEP:
                    found[commit] = group.number
    return found


# --- A whole run -----------------------------------------------------------------------------------------------------


def overview(memory: Memory) -> list[Part]:
    """Where was tried how much, and where nothing came of it."""
    tallies = sorted(memory.categories.items(), key=lambda each: (-each[1].tried, each[0]))
    dead = [f"- {line(str(about))}: {_since(tally)}" for about, tally in memory.dead_ends[:_MOST]]
    return _parts(
        ("Attempts of the whole run, by category:", [_tallied(*each) for each in tallies], _CATEGORIES_BYTES),
        ("Dead ends so far, many attempts in a row and none kept:", dead, _DEAD_ENDS_BYTES),
    )


def older(memory: Memory, told: Collection[int], inside: Collection[str], *, misses: bool) -> list[Part]:
    """What helped, nearly helped and failed, but for the experiments `told`.

    `inside` are the commits of the changes that the reader's branch has: they are no news. Near misses come only where
    `misses` are wanted.
    """
    wins = [each for each in memory.wins if each.experiment.number not in told]
    lacks = (_won(each) for each in wins if each.experiment.commit not in inside)
    has = (_won(each) for each in wins if each.experiment.commit in inside)
    missed = (_told(each) for each in memory.misses if each.number not in told and each.commit not in inside)
    failed = (_told(each) for each in memory.failures if each.number not in told)
    return _parts(
        ("Older wins that your branch lacks:", lacks, _NEW_WINS_BYTES),
        ("Older wins that your branch has:", has, _OWN_WINS_BYTES),
        ("Of the older ones, the nearest misses:", missed if misses else (), _MISSES_BYTES),
        ("Of the older ones, what failed last:", failed, _FAILURES_BYTES),
    )


def under_way(board: Board, lane: str, claims: Mapping[str, str]) -> list[str]:
    """What the lanes besides `lane` are trying right now, a line each; `claims` are ideas that are being measured."""
    lines, proposing = [], []
    for name in sorted(board.lanes):
        order = board.lanes[name].order
        if name == lane or not board.lanes[name].active:
            continue
        match order:
            case Propose() if name in claims:
                lines.append(f"- {line(name, _REASON)} measures: {line(claims[name], _IDEA) or 'a change'}")
            case Try(idea=idea):
                lines.append(f"- {line(name, _REASON)} measures: {line(idea, _IDEA) or 'a change'}")
            case Propose():
                proposing.append(line(name, _REASON))
            case Replay(commits=commits):
                group = [f"#{each.number}" for commit in commits if (each := board.at(commit))]
                lines.append(f"- {line(name, _REASON)} brings together: {_some(group)}")
            case Ablate(commit=commit) if known := board.at(commit):
                lines.append(f"- {line(name, _REASON)} tries the best without #{known.number}")
    if proposing:
        lines.insert(0, f"- being thought about, not told yet: {_some(proposing)}")
    return fitting(lines, UNDER_WAY_BYTES)


def by_category(board: Board) -> list[Row]:
    """What came of each category, the one with the largest gain first. A change counts once, however it was kept."""
    best, rows = board.best, []
    inside = board.contains(best.commit) if best and best.commit else frozenset()
    has = [each for commit in inside if (each := board.at(commit))]
    for category, tally in board.memory.categories.items():
        here = [each for each in has if subject(each.idea, each.params).category is category]
        rows.append(Row(category, tally.tried, tally.kept, tally.failed, len(here), sum(map(likely, here))))
    return sorted(rows, key=lambda each: (-each.gain, -each.tried, each.category))


def _tallied(category: Category, tally: Tally) -> str:
    words = f"- {category}: {tally.tried} tried, {tally.kept} kept"
    words += f", {tally.failed} failed" if tally.failed else ""
    words += f"; best {gained(tally.best)} (#{tally.best.number})" if tally.best else ""
    return words + (f"; none of the last {tally.since}" if tally.kept and tally.since > 1 else "")


def _since(tally: Tally) -> str:
    ever = tally.since == tally.tried
    words = f"{tally.since} attempts, none kept" if ever else f"none of the last {tally.since} kept"
    near = tally.nearest
    return words + (f", best {gained(near)} (#{near.number})" if near else ", all failed")


def _won(win: Win) -> str:
    return _told(win.experiment, win.company)


def _told(experiment: Experiment, company: int | None = None) -> str:
    return f"- #{experiment.number} [{line(experiment.lane, _REASON)}] {lesson(experiment, company)}"


def _parts(*parts: tuple[str, Iterable[str], int]) -> list[Part]:
    fitted = ((title, fitting(islice(lines, _MOST), limit)) for title, lines, limit in parts)
    return [(title, lines) for title, lines in fitted if lines]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def fitting(lines: Iterable[str], limit: int) -> list[str]:
    """As many of the first `lines` as fit into `limit` bytes with a line break each."""
    fitted: list[str] = []
    for each in lines:
        limit -= len(each.encode(errors="replace")) + 1
        if limit < 0:
            break
        fitted.append(each)
    return fitted
