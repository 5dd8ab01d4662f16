"""What the tools of a driving agent answer: typed, of bounded size, with numbers of eight digits.

The dataclasses have no slots: the MCP SDK makes its schemas from the classes, and would take a slot for a default.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch_ray.board import Board
from autoresearch_ray.model import Experiment
from autoresearch_ray.results import line, record
from autoresearch_ray.steering import Result, State

LINE = 300  # characters of an idea or a reason


@dataclass(frozen=True)
class Entry:
    """One experiment in short. `metric` is the mean of its `measurements`, `error` the standard error of that.

    `over_baseline` and `gain` (over its parent, when it was judged) are positive when better, whatever the direction.
    `by` is who submitted it, null where an agent of the run proposed it. What is not known is null.
    """

    number: int
    status: str
    idea: str
    metric: float | None
    error: float | None
    measurements: int
    over_baseline: float | None
    gain: float | None
    gain_error: float | None
    reason: str
    failure: str | None
    suspicious: bool
    lane: str
    by: str | None


@dataclass(frozen=True)
class Detail(Entry):
    """All about one experiment: besides its entry where it stands, each single value, and how it failed."""

    id: str
    kind: str
    commit: str | None
    parent: str
    values: list[float]
    doubts: list[str]
    failure_message: str
    failure_tail: str
    lines_added: int
    params: dict[str, bool | int | float | str]
    seconds: float
    memory_gb: float | None
    also: dict[str, float | None]
    device: str
    agent_cost_usd: float | None
    has_log: bool
    has_agent_log: bool


@dataclass(frozen=True)
class Ranking:
    """Experiments with the best first. `best` is the number of the confirmed one, of the baseline while none is."""

    metric: str
    direction: str
    noise: float | None
    baseline: float | None
    best: int | None
    improvement: str
    ranked: list[Entry]
    left_out: int


@dataclass(frozen=True)
class History:
    """Experiments in the order of their numbers; `matched` counts all that fit the filters."""

    matched: int
    experiments: list[Entry]


@dataclass(frozen=True)
class Standing:
    """How a run stands. `state` is running, closing, closed, or stopped (it can be taken up again)."""

    tag: str
    state: str
    reason: str | None
    metric: str
    direction: str
    noise: float | None
    baseline: Entry | None
    best: Entry | None
    improvement: str
    merge: str | None
    experiments: int
    counts: dict[str, int]
    elapsed_seconds: float
    experiments_per_hour: float | None
    seconds_left: float | None
    limit: str | None
    lanes: dict[str, str]
    out_of_use: list[str]
    agents: str


@dataclass(frozen=True)
class Rules:
    """What the run asks for: what may change, what is measured and how. `text` is program.md, cut where it is long.

    All paths count from the top of the repository, but in `text` from `folder`, where program.md lies.
    """

    tag: str
    title: str
    folder: str
    can_modify: list[str]
    cannot_modify: list[str]
    rules: list[str]
    metric: str
    direction: str
    command: str
    budget_seconds: float
    guard: str | None
    also: list[str]
    strategy: str
    notes: str
    text: str
    base: str
    best: str
    best_branch: str | None


@dataclass(frozen=True)
class Text:
    """A piece of text. `next_offset` is where to go on, null at the end; `total` counts characters."""

    text: str
    total: int
    next_offset: int | None


@dataclass(frozen=True)
class Log:
    """The end of a log as a terminal would show it."""

    path: str
    text: str


@dataclass(frozen=True)
class Submitted:
    """What came of one experiment that was handed in. Unknown is null; `gain` is over its parent, positive is better.

    `sent` waits for the run's driver, `queued` for a lane; `deciding` has a value that is measured again, because it is
    too close to call. `declined` was never measured: `reason` says why. `number` is for
    `experiment`, `diff` and `log_tail`; `best`: it is the confirmed best, or part of it.
    """

    id: str
    state: State
    idea: str
    number: int | None
    value: float | None
    error: float | None
    gain: float | None
    gain_error: float | None
    reason: str
    best: bool
    lane: str | None


@dataclass(frozen=True)
class Results:
    """The experiments that were asked for, the best value first.

    `done`: nothing more will come of them now: all have a verdict, or the run is over, which `note` says then.
    """

    done: bool
    undecided: int
    note: str
    results: list[Submitted]
    left_out: int


@dataclass(frozen=True)
class Told:
    """A hint under way. `taken_up` says whether the run has it already; if not, its next driver will."""

    id: str
    taken_up: bool


def entry(board: Board, experiment: Experiment) -> Entry:
    """One experiment in short."""
    known = record(board, experiment)
    return Entry(
        number=known["n"],
        status=known["status"],
        idea=line(known["description"], LINE),
        metric=short(known["metric"]),
        error=short(known["error"]),
        measurements=known["measurements"],
        over_baseline=short(known["over_baseline"]),
        gain=short(known["gain"]),
        gain_error=short(known["gain_error"]),
        reason=line(known["reason"], LINE),
        failure=known["failure"],
        suspicious=bool(experiment.doubts),
        lane=known["lane"],
        by=known["by"],
    )


def ending(board: Board) -> str | None:
    """Why the run comes to its end; None if it does not. What the holdout has to do with it is not for agents."""
    reason = board.closed.reason if board.closed else None
    return "what is best was not confirmed" if reason and board.program.eval.holdout and "holdout" in reason else reason


def short(number: float | None) -> float | None:
    """A number with eight digits: a float of sixteen costs a model as many tokens as a sentence."""
    return None if number is None else float(f"{number:.8g}")


def submitted(result: Result) -> Submitted:
    """What came of one submission."""
    return Submitted(
        id=result.id,
        state=result.state,
        idea=line(result.idea, LINE),
        number=result.number,
        value=short(result.value),
        error=short(result.error),
        gain=short(result.gain),
        gain_error=short(result.gain_error),
        reason=line(result.reason, 2 * LINE),
        best=result.best,
        lane=result.lane,
    )
