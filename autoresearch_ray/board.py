"""The board: the state of a run, which is nothing but the replay of its ledger.

`apply` is the only mutator, and it applies verdicts without judging again: so a board replayed from the ledger equals
the live one. What follows from a hand-in is decided in `orders`. No Ray, no git, no disk, no clock and no chance here.
"""

from __future__ import annotations

import copy
import math
from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, replace

from autoresearch_ray.model import (
    Attempt,
    Closed,
    Direction,
    Event,
    Experiment,
    Failure,
    FailureKind,
    Judged,
    Measured,
    Moved,
    Opened,
    Order,
    Ordered,
    Program,
    Published,
    Replay,
    Resumed,
    Seat,
    Seated,
    Status,
    Stop,
    Vacated,
)
from autoresearch_ray.noise import Noise
from autoresearch_ray.ports import Score

IDLE_AGENT = frozenset({FailureKind.AGENT, FailureKind.NO_CHANGE})


@dataclass(slots=True)
class Lane:
    """Where one lane stands."""

    seat: Seat
    sitting: int
    head: str
    own: tuple[str, ...] = ()  # kept commits that the leader may lack, oldest first
    order: Order | None = None
    ordered_at: float = 0.0
    number: int = 0  # of its latest order
    pending: int | None = None  # number of the experiment it still owes a verdict
    hand_ins: int = 0  # verdicts since it last moved onto the best
    discards_in_a_row: int = 0
    agent_failures_in_a_row: int = 0
    machine_failures_in_a_row: int = 0
    remeasure_failures_in_a_row: int = 0
    calibrated: bool = False  # has measured the base itself
    present: bool = True  # false from the moment a run is taken up again until somebody sits here

    @property
    def active(self) -> bool:
        """Whether somebody is carrying out its order."""
        return self.present and self.order is not None and not isinstance(self.order, Stop)


class Board:
    """What is known of a run. Read by `status`, the report and the prompts; decided on by `orders`."""

    def __init__(self, opened: Opened) -> None:
        baseline = Experiment(0, "baseline", "", "baseline", opened.base, opened.base, "baseline", opened.at)
        self.opened = opened
        self.program: Program = opened.program
        self.experiments: list[Experiment] = [baseline]
        self.published: list[Published] = []
        self.lanes: dict[str, Lane] = {}
        self.counts: Counter[Status] = Counter()
        self.attempts = 0
        self.closed: Closed | None = None
        self.started = self.last_at = opened.at
        self.cost_usd = 0.0
        self.base_failure: Failure | None = None  # the latest
        self.agent_failure: Failure | None = None  # the latest
        self.machine_failure: Failure | None = None  # the latest
        self.verdicts_since_best = 0
        self.idle_agents_in_a_row = 0
        self.agent_seconds: float | None = None  # of one proposal, on the way
        self.eval_seconds: float | None = None  # of one evaluation, on the way
        self._noise = Noise()
        self._scores: MutableMapping[str, Score] = {}
        self._by_commit: MutableMapping[str, int] = {opened.base: 0}
        self._by_id: MutableMapping[str, int] = {"baseline": 0}
        self._live_seconds = 0.0  # of the sessions before this one
        self._session_started = opened.at

    # --- Reading -----------------------------------------------------------------------------------------------------

    @property
    def direction(self) -> Direction:
        return self.program.eval.metric.direction

    @property
    def noise(self) -> float | None:
        """The standard deviation of one measurement; None while nothing was measured twice."""
        return self._noise.sigma

    @property
    def baseline(self) -> Experiment | None:
        return self.experiments[0] if self.experiments[0].values else None

    @property
    def best(self) -> Experiment | None:
        """The published best: the baseline until something better was confirmed."""
        return self.at(self.published[-1].commit) if self.published else self.baseline

    @property
    def counted(self) -> int:
        """Experiments with a verdict: neither the baseline, nor what the agent or the machine lost."""
        return self.counts[Status.KEEP] + self.counts[Status.DISCARD] + self.counts[Status.CRASH]

    def score(self, commit: str | None) -> Score | None:
        return self._scores.get(commit) if commit else None

    def at(self, commit: str) -> Experiment | None:
        """The experiment that first measured `commit`."""
        number = self._by_commit.get(commit)
        return None if number is None else self.experiments[number]

    def find(self, name: str) -> Experiment | None:
        """By id, by number ("12" or "#12"), or by at least four characters of its commit."""
        digits = name.removeprefix("#")
        if name in self._by_id:
            return self.experiments[self._by_id[name]]
        if digits.isdecimal() and int(digits) < len(self.experiments):
            return self.experiments[int(digits)]
        return next((each for each in self.experiments if len(name) > 3 and (each.commit or "").startswith(name)), None)

    def ranking(self) -> list[str]:
        """Lanes by the score of the commit they stand on, the leader first."""

        def key(name: str) -> tuple[float, str]:
            score = self._scores.get(self.lanes[name].head)
            return (math.inf if score is None else self.direction.gain(0.0, score.mean), name)

        return sorted(self.lanes, key=key)

    def elapsed_seconds(self, now: float) -> float:
        """How long the run has been live; the time that it lay stopped does not count."""
        return self._live_seconds + max(0.0, now - self._session_started)

    # --- Applying ----------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        match event:
            case Opened():
                raise ValueError("a board is opened once, by its constructor")
            case Resumed(at=at, program=program):
                self._live_seconds += max(0.0, self.last_at - self._session_started)
                self._session_started = self.last_at = at  # a clock that was once ahead does not use up the hours
                self.program = program
                self.closed = None
                self.idle_agents_in_a_row = 0
                for name, lane in self.lanes.items():
                    self.lanes[name] = replace(
                        lane,
                        present=False,
                        agent_failures_in_a_row=0,
                        machine_failures_in_a_row=0,
                        remeasure_failures_in_a_row=0,
                    )
            case Seated(seat=seat, sitting=sitting):
                known = self.lanes.get(seat.lane)
                head = known.head if known else self.opened.base
                lane = known or Lane(seat, sitting, head)
                self.lanes[seat.lane] = replace(lane, seat=seat, sitting=sitting, present=True)
            case Vacated(lane=name):
                self.lanes[name].present = False
            case Ordered(lane=name, order=order, at=at):
                lane = self.lanes[name]
                lane.order, lane.ordered_at = order, at
                if not isinstance(order, Stop):
                    lane.number += 1
                if isinstance(order, Replay):
                    lane.hand_ins = 0
            case Measured(attempt=attempt, at=at):
                self._measured(attempt, at)
            case Judged():
                self._judged(event)
            case Moved(lane=name, head=head, own=own):
                self.lanes[name].head, self.lanes[name].own = head, own
                if not own:
                    self.lanes[name].hand_ins = 0
            case Published():
                self.published.append(event)
                self.verdicts_since_best = 0
            case Closed():
                self.closed = event
        if event.at > self.last_at:
            self.last_at = event.at

    def _measured(self, attempt: Attempt, at: float) -> None:
        lane, measurement, failure = self.lanes[attempt.lane], attempt.measurement, attempt.measurement.failure
        self.attempts += 1
        self.cost_usd += attempt.usage.cost_usd or 0.0
        machine = failure is not None and failure.kind is FailureKind.MACHINE
        self.machine_failure = failure if machine else self.machine_failure
        lane.machine_failures_in_a_row = lane.machine_failures_in_a_row + 1 if machine else 0
        if attempt.kind == "propose":
            idle = failure is not None and failure.kind in IDLE_AGENT
            lane.agent_failures_in_a_row = lane.agent_failures_in_a_row + 1 if idle else 0
            self.idle_agents_in_a_row = self.idle_agents_in_a_row + 1 if idle else 0
            self.agent_failure = failure if idle else self.agent_failure
            self.agent_seconds = _towards(self.agent_seconds, attempt.usage.seconds)
        if measurement.value is not None:
            self.eval_seconds = _towards(self.eval_seconds, measurement.wall_seconds)
        if attempt.kind == "remeasure":
            self._remeasured(lane, attempt)
        else:
            number = len(self.experiments)
            self.experiments.append(_experiment(attempt, number, at))
            self._by_id[attempt.id] = number
            if attempt.commit:
                self._by_commit.setdefault(attempt.commit, number)
            self.counts[Status.PENDING] += 1
            lane.pending, lane.remeasure_failures_in_a_row = number, 0
        if measurement.value is not None and attempt.commit is not None:
            before = self._scores.get(attempt.commit, Score(0, 0.0))
            self._noise.add(measurement.value, before.n, before.mean)
            mean = before.mean + (measurement.value - before.mean) / (before.n + 1)
            self._scores[attempt.commit] = Score(before.n + 1, mean)

    def _remeasured(self, lane: Lane, attempt: Attempt) -> None:
        number = self._by_commit[attempt.commit or self.opened.base]
        experiment, measurement, failure = self.experiments[number], attempt.measurement, attempt.measurement.failure
        lane.remeasure_failures_in_a_row = lane.remeasure_failures_in_a_row + 1 if failure else 0
        if measurement.value is not None:
            experiment = replace(
                experiment,
                values=(*experiment.values, measurement.value),
                seconds=experiment.seconds + measurement.wall_seconds,
                resources=experiment.resources if experiment.values else measurement.resources,
            )
            if number == 0:
                experiment = replace(experiment, status=Status.KEEP, reason="what everything is compared with")
                lane.calibrated = True
        elif number == 0:
            self.base_failure = failure
        elif experiment.status is Status.PENDING and failure and failure.kind is not FailureKind.MACHINE:
            experiment = replace(experiment, failure=failure)
        self.experiments[number] = experiment

    def _judged(self, event: Judged) -> None:
        number, lane = self._by_id[event.id], self.lanes[event.lane]
        experiment = self.experiments[number]
        self.experiments[number] = _decided(experiment, event)
        self.counts[Status.PENDING] -= 1
        self.counts[event.status] += 1
        lane.pending = None
        lane.hand_ins += 1
        if event.status is not Status.LOST:
            lane.discards_in_a_row = 0 if event.status is Status.KEEP else lane.discards_in_a_row + 1
            self.verdicts_since_best += 1

    # --- Trying out --------------------------------------------------------------------------------------------------

    def fork(self, lane: str) -> Board:
        """A board to try events of `lane` on. This one stays as it is, and nothing long is copied."""
        fork = copy.copy(self)
        fork.experiments = _Layer(self.experiments)
        fork.published = list(self.published[-1:])
        fork.lanes = dict(self.lanes)
        if lane in fork.lanes:
            fork.lanes[lane] = replace(fork.lanes[lane])
        fork.counts = self.counts.copy()
        fork._noise = copy.copy(self._noise)
        fork._scores = ChainMap({}, self._scores)
        fork._by_commit = ChainMap({}, self._by_commit)
        fork._by_id = ChainMap({}, self._by_id)
        return fork


class _Layer(list[Experiment]):
    """A list that reads through to another one and keeps its own changes to itself."""

    def __init__(self, below: list[Experiment]) -> None:
        super().__init__()
        self._below = below
        self._changed: dict[int, Experiment] = {}
        self._length = len(below)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Experiment]:
        return (self[each] for each in range(self._length))

    def __getitem__(self, number: int) -> Experiment:  # type: ignore[override]
        return self._changed[number] if number in self._changed else self._below[number]

    def __setitem__(self, number: int, experiment: Experiment) -> None:  # type: ignore[override]
        self._changed[number] = experiment

    def append(self, experiment: Experiment) -> None:
        self._changed[self._length] = experiment
        self._length += 1


def _towards(mean: float | None, value: float) -> float:
    """A running mean over the last eight or so: it follows a model that gets slow at night."""
    return value if mean is None else mean + (value - mean) / 8


def _experiment(attempt: Attempt, number: int, at: float) -> Experiment:
    measurement = attempt.measurement
    return Experiment(
        number=number,
        id=attempt.id,
        lane=attempt.lane,
        kind="replay" if attempt.kind == "replay" else "propose",
        parent=attempt.parent,
        commit=attempt.commit,
        idea=attempt.idea,
        at=at,
        values=() if measurement.value is None else (measurement.value,),
        failure=measurement.failure,
        line=attempt.line,
        lines=attempt.lines,
        params=attempt.params,
        usage=attempt.usage,
        seconds=measurement.wall_seconds,
        resources=measurement.resources,
    )


def _decided(before: Experiment, event: Judged) -> Experiment:
    """The experiment with its verdict. `replace` takes three times as long, a tenth of the time of a long replay."""
    return Experiment(
        before.number,
        before.id,
        before.lane,
        before.kind,
        before.parent,
        before.commit,
        before.idea,
        before.at,
        before.values,
        event.status,
        event.reason,
        before.failure,
        event.gain,
        before.line,
        before.lines,
        before.params,
        before.usage,
        before.seconds,
        before.resources,
    )


def replay(lines: Iterable[Iterable[Event]]) -> Board:
    """The board after these lines of a ledger. Raises `ValueError` if a line is missing, the first one above all."""
    events = (event for line in lines for event in line)
    first = next(events, None)
    if not isinstance(first, Opened):
        raise ValueError("a ledger begins with the event that opens it")
    board = Board(first)
    for event in events:
        try:
            board.apply(event)
        except (KeyError, IndexError) as error:
            raise ValueError(f"the {event.event} event at {event.at:.0f} names what is not there: {error}") from error
    return board
