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
    Refused,
    Replay,
    Resumed,
    Seat,
    Seated,
    Status,
    Stop,
    Vacated,
)
from autoresearch_ray.noise import Effects, Noise
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
        self.refused: list[Refused] = []
        self.effects = Effects()
        self.holdouts: MutableMapping[str, Score] = {}
        self.unshared: MutableMapping[str, float] = {}  # kept changes that the published best lacks, and their gains
        self._noise = Noise()  # of all classes together
        self._noises: dict[str, Noise] = {}
        self._kept: dict[str, float] = {}  # every kept change and its gain
        self._groups: MutableMapping[str, int] = {}  # changes that came out badly together: how many may be tried at once
        self._scores: MutableMapping[tuple[str, str], Score] = {}
        self._compared: MutableMapping[tuple[str, str], int] = {}  # candidates measured against a parent, by class
        self._by_tree: MutableMapping[str, int] = {}
        self._contains: dict[str, frozenset[str]] = {opened.base: frozenset()}
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

    def noise_of(self, device_class: str) -> float | None:
        """The same on devices of one class alone."""
        known = self._noises.get(device_class)
        return known.sigma if known else None

    def sigma(self, device_class: str) -> float | None:
        """The noise to decide on: shrunk to that of all classes, and larger while little is known."""
        return self._noises.get(device_class, Noise()).cautious(self._noise)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of devices that have measured something, in the order in which they came."""
        return tuple(self._noises)

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

    def score(self, commit: str | None, device_class: str | None = None) -> Score | None:
        """The mean of `commit` on one class of devices, or on all: as it would read on the first class.

        Classes differ by a constant, which is taken from the baseline on each. A class without one does not count.
        """
        if commit is None:
            return None
        if device_class is not None:
            return self._scores.get((commit, device_class))
        known = [(each, score) for each in self._noises if (score := self._scores.get((commit, each)))]
        if len(known) == 1 and known[0][0] == next(iter(self._noises)):
            return known[0][1]
        n, total = 0, 0.0
        for each, score in known:
            if (offset := self._offset(each)) is not None:
                n, total = n + score.n, total + score.n * (score.mean - offset)
        return Score(n, total / n) if n else None

    def _offset(self, device_class: str) -> float | None:
        """How much higher values read on this class than on the first one."""
        here = self._scores.get((self.opened.base, device_class))
        there = self._scores.get((self.opened.base, next(iter(self._noises))))
        return here.mean - there.mean if here and there else None

    def error(self, commit: str) -> float | None:
        """The standard error of the commit's mean; None while the noise is not known."""
        score = self.score(commit)
        return None if score is None or self.noise is None else self.noise / math.sqrt(score.n)

    def compared(self, commit: str, device_class: str) -> int:
        """How many candidates were measured against `commit` on this class."""
        return self._compared.get((commit, device_class), 0)

    def contains(self, commit: str) -> frozenset[str]:
        """The changes that `commit` is made of, beyond the base: each by the commit that first proposed it."""
        steps = []
        while commit not in self._contains:
            experiment = self.experiments[self._by_commit[commit]]
            steps.append((commit, experiment))
            commit = experiment.parent
        found = self._contains[commit]
        for commit, experiment in reversed(steps):
            found |= frozenset(experiment.picked if experiment.kind == "replay" else (commit,))
            if experiment.status is Status.KEEP:
                self._contains[commit] = found
        return found

    def group(self, commit: str) -> int:
        """How many changes may be tried together with this kept one: halved each time that a group brought nothing."""
        return self._groups.get(commit, len(self._kept))

    def tree(self, tree: str) -> Experiment | None:
        """The experiment that measured these very files."""
        number = self._by_tree.get(tree)
        return None if number is None else self.experiments[number]

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
            score = self.score(self.lanes[name].head)
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
                inside = self.contains(event.commit)
                self.unshared = {each: gain for each, gain in self._kept.items() if each not in inside}
            case Refused():
                self.refused.append(event)
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
        if attempt.kind == "holdout":
            if measurement.value is not None and attempt.commit:
                self.holdouts[attempt.commit] = _with(self.holdouts.get(attempt.commit), measurement.value)
            return
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
            if attempt.tree:
                self._by_tree.setdefault(attempt.tree, number)
        if measurement.value is not None and attempt.commit is not None:
            self._scored(attempt.commit, lane.seat.device_class, measurement.value)
            if attempt.kind == "propose":
                self._compare(attempt, lane.seat.device_class, measurement.value)

    def _scored(self, commit: str, device_class: str, value: float) -> None:
        before = self._scores.get((commit, device_class), Score(0, 0.0))
        known = self._noises.setdefault(device_class, Noise())
        known.add(value, before.n, before.mean)
        self._noise.add(value, before.n, before.mean)
        self._scores[commit, device_class] = _with(before, value)

    def _compare(self, attempt: Attempt, device_class: str, value: float) -> None:
        key = (attempt.parent, device_class)
        self._compared[key] = self._compared.get(key, 0) + 1
        parent, sigma = self._scores.get(key), self.sigma(device_class)
        if parent and sigma is not None:
            self.effects.add(self.direction.gain(value, parent.mean), sigma * math.sqrt(1 + 1 / parent.n))

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
        if experiment.kind == "propose" and event.status is Status.KEEP and experiment.commit:
            self._kept[experiment.commit] = self.unshared[experiment.commit] = event.gain or 0.0
        elif experiment.kind == "replay" and event.status is not Status.LOST:
            self._joined(experiment, event.status)
        lane.hand_ins += 1
        if event.status is not Status.LOST:
            lane.discards_in_a_row = 0 if event.status is Status.KEEP else lane.discards_in_a_row + 1
            self.verdicts_since_best += 1

    def _joined(self, experiment: Experiment, status: Status) -> None:
        """What a group of kept changes has shown: halves go on of one that brought nothing; what conflicts stays out."""
        tried = experiment.picked if status is not Status.KEEP else ()
        for each in tried:
            self._groups[each] = min(self._groups.get(each, len(tried)), len(tried) // 2)
        for each in experiment.left_out:
            self._groups[each] = 0

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
        fork._noises = {name: copy.copy(each) for name, each in self._noises.items()}
        fork.effects = copy.copy(self.effects)
        fork.refused = list(self.refused)
        fork.holdouts = ChainMap({}, self.holdouts)
        fork.unshared = dict(self.unshared)
        fork._kept = dict(self._kept)
        fork._groups = ChainMap({}, self._groups)
        fork._scores = ChainMap({}, self._scores)
        fork._compared = ChainMap({}, self._compared)
        fork._by_tree = ChainMap({}, self._by_tree)
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


def _with(score: Score | None, value: float) -> Score:
    if score is None:
        return Score(1, value)
    return Score(score.n + 1, score.mean + (value - score.mean) / (score.n + 1))


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
        also=measurement.also,
        picked=attempt.picked,
        left_out=attempt.left_out,
        tree=attempt.tree,
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
        event.error,
        event.likely,
        event.spread,
        before.line,
        before.lines,
        before.params,
        before.usage,
        before.seconds,
        before.resources,
        before.also,
        event.doubts,
        before.picked,
        before.left_out,
        before.tree,
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
