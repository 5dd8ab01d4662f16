"""The board: the state of a run, which is nothing but the replay of its ledger.

`apply` is the only mutator, and it applies verdicts without judging again: so a board replayed from the ledger equals
the live one. What follows from a hand-in is decided in `orders`. No Ray, no git, no disk, no clock and no chance here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, MutableMapping
from dataclasses import replace
from typing import Literal

from autoresearch_ray import fleet, suspicion
from autoresearch_ray.account import Account
from autoresearch_ray.breaker import THE_PROVIDER, Breaker, backoff_seconds, chance_of
from autoresearch_ray.catalogue import Catalogue
from autoresearch_ray.events import (
    Closed,
    Declined,
    Event,
    Held,
    Judged,
    Left,
    Measured,
    Moved,
    Nominated,
    Opened,
    Ordered,
    Paused,
    Published,
    Refused,
    Released,
    Resteered,
    Resumed,
    Retired,
    Seated,
    Submitted,
    Told,
    Unpaused,
    Vacated,
)
from autoresearch_ray.evidence import Evidence, Means
from autoresearch_ray.lane import Lane
from autoresearch_ray.layered import LayeredDict
from autoresearch_ray.memory import Memory
from autoresearch_ray.model import (
    Attempt,
    Direction,
    Experiment,
    Failure,
    FailureKind,
    Measurement,
    Options,
    Program,
    Propose,
    Replay,
    Seat,
    Status,
    Stop,
    Trouble,
    TroubleKind,
    Try,
    Wait,
)
from autoresearch_ray.money import Money
from autoresearch_ray.noise import Effects
from autoresearch_ray.objective import also, means, numbers, objective
from autoresearch_ray.outside import Outside
from autoresearch_ray.pool import Change, Pool
from autoresearch_ray.ports import Score

BEGIN_PER_SECOND = 8  # lanes that ask their agents for the first time: 64 of them have begun after eight seconds
IDLE_AGENT = frozenset(
    {FailureKind.AGENT, FailureKind.NO_CHANGE, FailureKind.NO_EFFECT, FailureKind.DUPLICATE}
)  # nothing new came of it
_NOT_RUN = IDLE_AGENT | {FailureKind.OUT_OF_SCOPE, FailureKind.CONFLICT}  # nothing came to the device


_CLOSED = Breaker()


class Board:
    """What is known of a run. Read by `status`, the report and the prompts; decided on by `orders`."""

    def __init__(self, opened: Opened) -> None:
        baseline = Experiment(0, "baseline", "", "baseline", opened.base, opened.base, "baseline", opened.at)
        self.opened = opened
        self.program: Program = opened.program
        self.edited_at: float | None = None  # when its strategy or notes were changed last while it ran
        self.catalogue = Catalogue(baseline, opened.base)
        self.published: list[Published] = []
        self.lanes: dict[str, Lane] = {}
        self.counts: Counter[Status] = Counter()
        self.attempts = 0
        self.evaluations = 0  # attempts that came to be measured
        self.closed: Closed | None = None
        self.started = self.last_at = opened.at
        self.money = Money()
        self.base_failure: Failure | None = None  # the latest
        self.agent_failures: dict[str, Failure] = {}  # the latest, by provider
        self.machine_failures: dict[int, tuple[str, ...]] = {}  # in a row, by worker: of which commits
        self.paused: dict[int, Paused] = {}  # by worker
        self.retired: dict[int, Retired] = {}  # by worker, until the run is taken up again
        self.stranded: tuple[str, ...] = ()  # proposals that a retired slot took with it, and nobody has tried since
        self.retried: frozenset[str] = frozenset()  # those that are being tried once more
        self.verdicts_since_best = 0
        self.idle_agents_in_a_row: dict[str, int] = {}  # by provider
        self.breakers: dict[str, Breaker] = {}  # by provider
        self._members = fleet.members(opened.program.options)
        self._providers = fleet.providers(opened.program.options)
        self.turn = 0.0  # when the next lane may begin to ask its agent
        self.ablated: frozenset[str] = frozenset()  # changes that a best was tried without
        self.eval_seconds: float | None = None  # of one evaluation, on the way
        self.nominee: Nominated | None = None  # what would be the best, while it is confirmed
        self.refused: dict[str, Refused] = {}  # by commit
        # Groups of kept changes and nominees, or of near misses, that came to nothing in a row; from the close on anew.
        self.fruitless: Counter[Literal["kept", "missed"]] = Counter()
        self.account = Account(opened.at)
        self.outside = Outside()
        self.effects = Effects()
        self.pool = Pool()
        self.memory = Memory()
        self.evidence = Evidence(opened.base, opened.program.eval.metric.direction)
        self.others = {each.name: Evidence(opened.base, each.direction) for each in numbers(opened.program.eval)}
        self.held_out = Evidence(opened.base, opened.program.eval.metric.direction)  # what the holdout says
        self.pace = Means()  # seconds of evaluations
        self.failures: Counter[str] = Counter()  # of measuring a commit again, those of machines apart
        self.holdout_failures: dict[str, Failure] = {}
        self._compared: MutableMapping[tuple[str, str], int] = {}  # candidates measured against a parent, by class
        self._places: MutableMapping[str, frozenset[Seat]] = {}  # where a commit was measured
        self._live_seconds = 0.0  # of the sessions before this one
        self._session_started = opened.at

    # --- Reading -----------------------------------------------------------------------------------------------------

    @property
    def experiments(self) -> list[Experiment]:
        """By number; 0 is the baseline."""
        return self.catalogue.experiments

    @property
    def direction(self) -> Direction:
        return self.program.eval.metric.direction

    @property
    def noise(self) -> float | None:
        """The standard deviation of one measurement, all classes together; None while nothing was measured twice."""
        return self.evidence.noise.sigma

    def noise_of(self, device_class: str) -> float | None:
        """The same on devices of one class alone."""
        return self.evidence.noise_of(device_class)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of devices that have measured something, in the order in which they came."""
        return self.evidence.classes

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
        """The mean of `commit` on one class of devices, or on all: as it would read on the first class."""
        if commit is None:
            return None
        return self.evidence.score(commit) if device_class is None else self.evidence.on(commit, device_class)

    def error(self, commit: str) -> float | None:
        """The standard error of the commit's mean; None while the noise is not known."""
        score, deviation = self.score(commit), self.evidence.deviation(commit)
        return None if score is None or deviation is None else deviation / math.sqrt(score.n)

    def compared(self, commit: str, device_class: str) -> int:
        """How many candidates were measured against `commit` on this class."""
        return self._compared.get((commit, device_class), 0)

    @property
    def holdouts(self) -> dict[str, Score]:
        """What the holdout says of commits; agents are never told."""
        return {each: score for each in self.held_out.commits if (score := self.held_out.score(each))}

    def places(self, commit: str) -> frozenset[Seat]:
        """The seats on which `commit` was measured."""
        return self._places.get(commit, frozenset())

    def contains(self, commit: str) -> frozenset[str]:
        """The changes that `commit` is made of, beyond the base: each by the commit that first proposed it."""
        return self.catalogue.contains(commit)

    def at(self, commit: str) -> Experiment | None:
        """The experiment that first measured `commit`."""
        return self.catalogue.at(commit)

    def find(self, name: str) -> Experiment | None:
        """By id, by number ("12" or "#12"), or by at least four characters of its commit."""
        return self.catalogue.find(name)

    def ranking(self) -> list[str]:
        """Lanes by the score of the commit they stand on, the leader first."""

        def key(name: str) -> tuple[float, str]:
            score = self.evidence.score(self.lanes[name].head)
            return (math.inf if score is None else self.direction.gain(0.0, score.mean), name)

        return sorted(self.lanes, key=key)

    @property
    def proposals(self) -> dict[str, int]:
        """How many proposals the agent of each lane was asked for."""
        return {name: lane.proposals for name, lane in self.lanes.items()}

    def agent_options(self, lane: str) -> Options:
        """The options of the run as the agent of a lane has them."""
        return self._members.get(self.lanes[lane].seat.agent, self.program.options)

    def provider(self, lane: str) -> str:
        """Whom the agent of a lane asks."""
        agent = self.lanes[lane].seat.agent
        return self._providers.get(agent, agent)

    def breaker(self, lane: str) -> Breaker:
        """Whether the agent of a lane may be asked."""
        return self.breakers.get(self.provider(lane), _CLOSED)

    def next_usd(self, lane: str) -> float:
        """What is set aside for the next proposal of a lane, in USD; nothing where no cap says so."""
        seat = self.lanes[lane].seat
        return self.money.reservation(seat.agent, self.program.options.cost_usd if seat.cost_known else None)

    def lanes_of(self, worker: int) -> list[str]:
        """The lanes that sit, or sat last, on a worker's slot."""
        return sorted(name for name, lane in self.lanes.items() if lane.seat.worker == worker)

    def elapsed_seconds(self, now: float) -> float:
        """How long the run has been live; the time that it lay stopped does not count."""
        return self._live_seconds + max(0.0, now - self._session_started)

    # --- Applying ----------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        match event:
            case Opened():
                raise ValueError("a board is opened once, by its constructor")
            case Resumed(at=at, program=program):
                died = self.closed is None  # who stops a run on purpose interrupts nothing
                self._live_seconds += max(0.0, self.last_at - self._session_started)
                self.account.resumed(self.last_at, at)
                # A clock that was once ahead neither uses up the hours nor makes lanes wait until it is there again.
                self._session_started = self.last_at = at
                self.turn = min(self.turn, at)
                self.program = program
                self._members, self._providers = fleet.members(program.options), fleet.providers(program.options)
                self.closed = None
                self.idle_agents_in_a_row = {}
                self.breakers = {name: each.resumed(at) for name, each in self.breakers.items()}
                self.machine_failures, self.paused, self.retired = {}, {}, {}
                for name in self.lanes:
                    self._interrupted(name)
                for name, lane in self.lanes.items():
                    self.lanes[name] = replace(
                        lane,
                        present=False,
                        paused=False,
                        interruptions=lane.interruptions + (died and lane.active),
                        agent_failures_in_a_row=0,
                        backs_off_until=0.0,
                        remeasure_failures_in_a_row=0,
                    )
            case Seated(seat=seat, sitting=sitting, at=at):
                self.account.seated(event.spent, at)
                places = {
                    (each.seat.host, each.seat.gpus) for each in self.lanes.values() if each.seat.worker == seat.worker
                }
                if (seat.host, seat.gpus) not in places:  # it has another device now, and the sick one is left
                    self.retired.pop(seat.worker, None)
                known = self.lanes.get(seat.lane)
                if known:  # its worker is another process now, and has yet to look at its device
                    self._unpause(seat.worker)
                    self._interrupted(seat.lane)
                    known = self.lanes[seat.lane]
                head = known.head if known else self.opened.base
                lane = known or Lane(seat, sitting, head)
                moved = lane.seat.device_class != seat.device_class  # then it has yet to measure the base
                calibrated = lane.calibrated and not moved
                interruptions = lane.interruptions + lane.active  # nobody has said that its seat was empty
                self.lanes[seat.lane] = replace(
                    lane,
                    seat=seat,
                    sitting=sitting,
                    present=True,
                    paused=seat.worker in self.paused,
                    calibrated=calibrated,
                    has_begun=False,
                    interruptions=interruptions,
                )
                if isinstance(lane.order, Propose):  # which it is to carry out, for all that is known here
                    self.lanes[seat.lane].reserved_usd = self.next_usd(seat.lane)
            case Left(spent=spent):
                self.account.left(spent)
            case Vacated(lane=name):
                self._unpause(self.lanes[name].seat.worker)
                self._interrupted(name)
                lane = self.lanes[name]
                lane.interruptions += lane.active
                lane.present = False
                self.account.died(lane.seat.worker)
                self._trip(name, self.breaker(name).released(name))
            case Paused(worker=worker):
                self.paused[worker] = event
                self._change(worker, paused=True)
            case Unpaused(worker=worker):
                self._unpause(worker)
            case Retired():
                self._retired(event)
            case Ordered(lane=name, order=order, at=at):
                lane = self.lanes[name]
                lane.order, lane.ordered_at, lane.interruptions = order, at, 0
                if not isinstance(order, Stop):
                    lane.number += 1
                if isinstance(order, Propose | Wait) and not lane.has_begun:
                    lane.has_begun = True
                    self.turn = max(self.turn, at) + 1 / BEGIN_PER_SECOND
                if isinstance(order, Propose):
                    lane.proposals += order.rework is None
                    lane.reserved_usd = self.next_usd(name)
                    self._trip(name, self.breaker(name).asked(order.id))
                else:
                    lane.reserved_usd = 0.0
                    self._trip(name, self.breaker(name).released(name))
                if isinstance(order, Replay):
                    lane.hand_ins = 0
                    self.retried |= {each for each in order.commits if each in self.stranded and self._lost(each)}
                    self.stranded = tuple(each for each in self.stranded if each not in order.commits)
            case Measured(attempt=attempt, at=at):
                self.account.report(attempt.spent)
                self._measured(attempt, at)
            case Judged():
                self._judged(event)
            case Moved(lane=name, head=head, own=own):
                self.lanes[name].head, self.lanes[name].own = head, own
                if not own:
                    self.lanes[name].hand_ins = 0
            case Nominated():
                self.nominee = event
            case Published():
                self._published(event)
            case Refused():
                self._refused(event)
            case Told():
                self.outside = self.outside.told(event, self.proposals)
            case Resteered(at=at, title=title, text=text, strategy=strategy, notes=notes):
                self.edited_at = at
                self.program = replace(self.program, title=title, text=text, strategy=strategy, notes=notes)
            case Held(lane=name) | Released(lane=name):
                self.outside = self.outside.acted(event.id)
                self.lanes[name] = replace(self.lanes[name], held=isinstance(event, Held))
            case Submitted():
                self.outside = self.outside.submitted(event)
            case Declined():
                self.outside = self.outside.turned_down(event)
            case Closed():
                self.closed, self.fruitless = event, Counter()
        if event.at > self.last_at:
            self.last_at = event.at

    def _measured(self, attempt: Attempt, at: float) -> None:
        lane, measurement, failure = self.lanes[attempt.lane], attempt.measurement, attempt.measurement.failure
        self.attempts += 1
        self.evaluations += measurement.wall_seconds > 0
        machine, worker = failure is not None and failure.kind is FailureKind.MACHINE, lane.seat.worker
        if machine:
            self.machine_failures[worker] = (*self.machine_failures.get(worker, ()), attempt.commit or "")
        elif failure is None or failure.kind not in _NOT_RUN:
            self.machine_failures.pop(worker, None)
        if attempt.kind == "propose":
            self._proposed(lane, attempt, at)
        elif attempt.kind == "ablate":
            self.ablated |= frozenset(attempt.left_out)
        if measurement.value is not None:
            self.eval_seconds = _towards(self.eval_seconds, measurement.wall_seconds)
        if attempt.kind == "holdout":
            if measurement.value is not None and attempt.commit:
                self.held_out.add(attempt.commit, lane.seat.device_class, measurement.value)
            elif failure and not machine and attempt.commit:
                self.holdout_failures[attempt.commit] = failure
            return
        if attempt.kind == "remeasure":
            self._remeasured(lane, attempt)
        else:
            number = len(self.experiments)
            self.catalogue.add(self._experiment(attempt, number, at))
            self.counts[Status.PENDING] += 1
            if isinstance(lane.order, Try):
                self.outside = self.outside.measured(lane.order.submission, number)
            lane.pending, lane.remeasure_failures_in_a_row = number, 0
        if measurement.value is not None and attempt.commit is not None:
            self._count(attempt.commit, lane.seat, measurement)
            if attempt.kind in ("propose", "submit"):
                self._compare(attempt, lane.seat.device_class, objective(self.program.eval, measurement))

    def _proposed(self, lane: Lane, attempt: Attempt, at: float) -> None:
        """What the agent made of it. Nobody here is to blame for what the provider says, and it is waited out."""
        failure, trouble, breaker = attempt.measurement.failure, trouble_of(attempt), self.breaker(attempt.lane)
        self.money = self.money.ended(lane.seat.agent, attempt.usage, trouble, lane.reserved_usd)
        lane.reserved_usd = 0.0
        if failure and failure.kind is FailureKind.MACHINE and not attempt.commit:  # it was not asked
            self._trip(attempt.lane, breaker.released(attempt.lane))
            return
        chance = chance_of(f"{self.opened.tag}/{attempt.id}")
        self._trip(attempt.lane, breaker.answered(attempt.id, trouble, at, chance))
        idle = failure is not None and failure.kind in IDLE_AGENT
        provider = self.provider(attempt.lane)
        if failure and idle:
            self.agent_failures = self.agent_failures | {provider: failure}
        if trouble is not None and trouble.kind in THE_PROVIDER:
            return
        lane.agent_failures_in_a_row = lane.agent_failures_in_a_row + 1 if idle else 0
        times = self.idle_agents_in_a_row.get(provider, 0)
        if idle or times:
            self.idle_agents_in_a_row = self.idle_agents_in_a_row | {provider: times + 1 if idle else 0}
        times = lane.agent_failures_in_a_row - 1  # once may be chance
        lane.backs_off_until = at + backoff_seconds(times, chance) if times > 0 else 0.0

    def _trip(self, lane: str, breaker: Breaker) -> None:
        """Of the provider that the lane's agent asks."""
        provider = self.provider(lane)
        before = self.breakers.get(provider, _CLOSED)
        if breaker is not before and breaker != before:
            self.breakers = self.breakers | {provider: breaker}  # anew: a fork shares the old one

    def _interrupted(self, name: str) -> None:
        """Whoever carried out the lane's order is gone. Nobody will know what a proposal had cost until then."""
        lane = self.lanes[name]
        if lane.reserved_usd:
            self.money = self.money.lost(lane.seat.agent, lane.reserved_usd)
            self.lanes[name] = replace(lane, reserved_usd=0.0)

    def _experiment(self, attempt: Attempt, number: int, at: float) -> Experiment:
        measurement, order = attempt.measurement, self.lanes[attempt.lane].order
        values: tuple[float, ...] = ()
        doubts: tuple[str, ...] = ()
        seat = self.lanes[attempt.lane].seat
        if measurement.value is not None:
            value = objective(self.program.eval, measurement)
            values = (value,)
            parent = self.evidence.on(attempt.parent, seat.device_class)
            alone = attempt.kind in ("propose", "submit")  # one change, and nobody has measured it before
            gain = self.direction.gain(value, parent.mean) if parent and alone else None
            doubts = self._doubts(measurement, gain, attempt.parent, seat)
        return Experiment(
            number=number,
            id=attempt.id,
            lane=attempt.lane,
            kind=attempt.kind if attempt.kind in ("replay", "ablate") else "propose",
            parent=attempt.parent,
            commit=attempt.commit,
            idea=attempt.idea,
            at=at,
            values=values,
            failure=measurement.failure,
            line=attempt.line,
            lines=attempt.lines,
            params=attempt.params,
            usage=attempt.usage,
            seconds=measurement.wall_seconds,
            resources=measurement.resources,
            also=also(measurement),
            doubts=doubts,
            picked=attempt.picked,
            left_out=attempt.left_out,
            tree=attempt.tree,
            printed=measurement.printed,
            trouble=trouble_of(attempt) if attempt.kind == "propose" else None,
            repaired=attempt.repaired,
            by=order.by if isinstance(order, Try) else "",
            submission=order.submission if isinstance(order, Try) else "",
            agent=seat.agent if attempt.kind == "propose" else "",
        )

    def _doubts(self, measurement: Measurement, gain: float | None, parent: str, seat: Seat) -> tuple[str, ...]:
        pace = self.pace.on(parent, seat.device_class)
        sigma, usual = self.evidence.sigma(seat.device_class), pace.mean if pace else None
        return suspicion.doubts(measurement, gain, self.effects, sigma, self.at(parent), usual)

    def _count(self, commit: str, seat: Seat, measurement: Measurement) -> None:
        self.evidence.add(commit, seat.device_class, objective(self.program.eval, measurement))
        for name, value in also(measurement).items():
            if name in self.others:
                self.others[name].add(commit, seat.device_class, value)
        self.pace.add(commit, seat.device_class, measurement.wall_seconds)
        self._places[commit] = self._places.get(commit, frozenset()) | {seat}

    def _compare(self, attempt: Attempt, device_class: str, value: float) -> None:
        key = (attempt.parent, device_class)
        self._compared[key] = self._compared.get(key, 0) + 1
        parent, sigma = self.evidence.on(*key), self.evidence.sigma(device_class)
        if parent and sigma is not None:
            self.effects.add(self.direction.gain(value, parent.mean), sigma * math.sqrt(1 + 1 / parent.n))

    def _remeasured(self, lane: Lane, attempt: Attempt) -> None:
        number = self.catalogue.measured(attempt.commit or self.opened.base)
        experiment, measurement, failure = self.experiments[number], attempt.measurement, attempt.measurement.failure
        lane.remeasure_failures_in_a_row = lane.remeasure_failures_in_a_row + 1 if failure else 0
        if measurement.value is not None:
            first, n = not experiment.values, len(experiment.values) + 1
            numbers = also(measurement)
            more = () if number == 0 else self._doubts(measurement, None, experiment.parent, lane.seat)
            experiment = replace(
                experiment,
                values=(*experiment.values, objective(self.program.eval, measurement)),
                seconds=experiment.seconds + measurement.wall_seconds,
                resources=measurement.resources if first else experiment.resources,
                also=numbers if first else means(experiment.also, numbers, n),
                printed=measurement.printed if first else experiment.printed,
                doubts=tuple(dict.fromkeys((*experiment.doubts, *more))),
            )
            if number == 0:
                experiment = replace(experiment, status=Status.KEEP, reason="what everything is compared with")
                lane.calibrated = True
        elif number == 0:
            self.base_failure = failure
        elif failure and failure.kind is not FailureKind.MACHINE:
            self.failures[experiment.commit or ""] += 1
        if number and experiment.status is Status.PENDING and failure and failure.kind is not FailureKind.MACHINE:
            experiment = replace(experiment, failure=failure)
        self.catalogue.put(experiment)

    def _judged(self, event: Judged) -> None:
        number, lane = self.catalogue.number(event.id), self.lanes[event.lane]
        experiment = self.experiments[number]
        self.catalogue.put(_decided(experiment, event))
        self.counts[Status.PENDING] -= 1
        self.counts[event.status] += 1
        lane.pending = None
        if experiment.submission:
            self.outside = self.outside.judged(experiment.submission, lost=event.status is Status.LOST)
        if event.status is Status.LOST and lane.seat.worker in self.retired:
            self._strand(experiment.commit)
        again = self.retried.intersection(experiment.picked)  # a proposal that is judged as if it had not been lost
        self._learn(self.experiments[number], bool(again) and len(experiment.picked) == 1)
        self.retried -= {*experiment.picked, *experiment.left_out}
        if experiment.kind == "replay" and not again:
            self._joined(experiment, event)
        elif experiment.commit and event.gain is not None:
            likely = event.gain if event.likely is None else event.likely
            spread = event.error or 0.0 if event.spread is None else event.spread
            change = Change(next(iter(again), experiment.commit), event.lane, number, likely, spread)
            if event.status is Status.KEEP:
                self.pool.keep(change)
                self.fruitless["kept"] = 0
            elif event.likely is not None and likely > 0:
                self.pool.miss(change)
        if event.status is Status.KEEP and experiment.commit:
            self.catalogue.kept(experiment.commit)
        lane.hand_ins += 1
        if event.status is not Status.LOST:
            if not experiment.by:  # else it says nothing of what this lane's agent makes
                lane.discards_in_a_row = 0 if event.status is Status.KEEP else lane.discards_in_a_row + 1
            self.verdicts_since_best += 1

    def _learn(self, experiment: Experiment, again: bool) -> None:
        """What the verdict says of an idea: its own, or that of the lost proposal which is tried `again`."""
        if again:
            self.memory.learn(self._as_proposal(experiment, experiment.picked[0]))
        elif experiment.kind != "replay":
            self.memory.learn(experiment)
        elif experiment.status is Status.KEEP:
            known = ((each, self.at(each)) for each in experiment.picked)
            self.memory.joined((self._as_proposal(one, commit) for commit, one in known if one), experiment.number)

    def _as_proposal(self, experiment: Experiment, commit: str) -> Experiment:
        """`experiment` as the proposal that it is: where it tries `commit` again, with the idea of that."""
        if experiment.kind != "replay":
            return experiment
        # It may be the very commit, so that `at` does not find the lost one. This is rare, and may take a while.
        lost = next((each for each in self.experiments if each.commit == commit), experiment)
        return replace(experiment, kind="propose", commit=commit, idea=lost.idea, params=lost.params)

    def _change(self, worker: int, **changes: bool) -> None:
        """Of all lanes of a worker. Anew, as lanes other than its own are shared with the board that a fork is of."""
        for name, lane in self.lanes.items():
            if lane.seat.worker == worker:
                self.lanes[name] = replace(lane, **changes)  # type: ignore[arg-type]

    def _unpause(self, worker: int) -> None:
        if self.paused.pop(worker, None):
            self._change(worker, paused=False)

    def _retired(self, event: Retired) -> None:
        self._unpause(event.worker)
        self.retired[event.worker] = event
        self._change(event.worker, present=False)
        for commit in self.machine_failures.pop(event.worker, ()):
            self._strand(commit)

    def _lost(self, commit: str) -> bool:
        found = self.at(commit)
        return found is not None and found.status is Status.LOST

    def _strand(self, commit: str | None) -> None:
        found = self.at(commit) if commit else None
        if found and found.kind == "propose" and not found.submission and found.commit not in self.stranded:
            self.stranded = (*self.stranded, commit or "")

    def _joined(self, experiment: Experiment, event: Judged) -> None:
        """What a group of changes has shown: halves go on of one that brought nothing; what conflicts stays apart."""
        failure = experiment.failure
        if event.status is Status.KEEP:
            if not all(map(self.pool.is_kept, experiment.picked)):
                self.fruitless = Counter()
            self.pool.promote(experiment.picked, event.likely or event.gain or 0.0, event.spread or 0.0)
            self.pool.part(experiment.left_out)
        elif failure is not None and not experiment.picked:
            self.pool.part(experiment.left_out)
        elif failure is not None and failure.kind is FailureKind.DUPLICATE and len(experiment.picked) == 1:
            self.pool.part(experiment.picked)
        elif event.status is not Status.LOST:
            tried = (*experiment.picked, *experiment.left_out)
            self.fruitless["kept" if self.pool.keeps_any(tried) else "missed"] += 1
            self.pool.halve(tried)

    def _published(self, event: Published) -> None:
        before = self.contains(self.published[-1].commit) if self.published else frozenset()
        self.published.append(event)
        self.verdicts_since_best, self.fruitless = 0, Counter()
        self.nominee = None
        inside = self.contains(event.commit)
        self.pool.shared(inside)
        for each in before - inside:  # the best before had them, and this one, which is better, has not
            known = self.at(each)
            if known and known.likely is not None and known.spread is not None:
                self.pool.keep(Change(each, known.lane, known.number, known.likely, known.spread))

    def _refused(self, event: Refused) -> None:
        self.refused[event.commit] = event
        self.nominee = None
        self.fruitless["kept"] += 1
        experiment = self.at(event.commit)
        if experiment is not None:
            self.pool.halve(experiment.picked or (event.commit,))

    # --- Trying out --------------------------------------------------------------------------------------------------

    def fork(self, lane: str) -> Board:
        """A board to try events of `lane` on. This one stays as it is, and nothing long is copied."""
        fork = Board.__new__(Board)  # `copy.copy` takes four times as long, and every decision makes one
        fork.__dict__.update(self.__dict__)
        fork.catalogue = self.catalogue.fork()
        fork.published = list(self.published[-1:])
        fork.lanes = dict(self.lanes)
        if lane in fork.lanes:
            fork.lanes[lane] = fork.lanes[lane].fork()
        fork.machine_failures = dict(self.machine_failures)
        fork.paused, fork.retired = dict(self.paused), dict(self.retired)
        fork.counts = self.counts.copy()
        fork.account = Account(self.opened.at)  # nothing is decided by where the time went
        fork.memory = Memory()  # nor by what was learned, in words
        fork.effects = self.effects.fork()
        fork.refused, fork.fruitless = dict(self.refused), self.fruitless.copy()
        fork.pool = self.pool.fork()
        fork.evidence = self.evidence.fork()
        fork.others = {name: each.fork() for name, each in self.others.items()}
        fork.held_out = self.held_out.fork() if self.program.eval.holdout else self.held_out
        fork.pace = self.pace.fork()
        fork.failures = self.failures.copy()
        fork.holdout_failures = dict(self.holdout_failures)
        fork._compared = LayeredDict(self._compared)
        fork._places = LayeredDict(self._places)
        return fork


def trouble_of(attempt: Attempt) -> Trouble | None:
    """What kept the agent from an edit; None if it made one. An earlier version's ledger has no more than a failure."""
    failure = attempt.measurement.failure
    if attempt.trouble is not None or failure is None:
        return attempt.trouble
    kinds = {FailureKind.AGENT: TroubleKind.CRASHED, FailureKind.NO_CHANGE: TroubleKind.NO_EDIT}
    return Trouble(kinds[failure.kind]) if failure.kind in kinds else None


def _towards(mean: float | None, value: float) -> float:
    """A running mean over the last eight or so: it follows a model that gets slow at night."""
    return value if mean is None else mean + (value - mean) / 8


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
        before.doubts,
        before.picked,
        before.left_out,
        before.tree,
        before.printed,
        before.trouble,
        before.repaired,
        before.by,
        before.submission,
        before.agent,
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
