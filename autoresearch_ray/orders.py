"""What follows from a hand-in: every decision of the project, and nothing but decisions.

`decide` and `sit` look at the board and change nothing: they return the events that follow, and the order that is the
reply. A lane does one thing at a time and only its own hand-in moves its branch, so nothing decided here can be stale.

The next order is given by the first rule in `_RULES` that has one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from autoresearch_ray.board import Board, Lane
from autoresearch_ray.model import (
    Attempt,
    Closed,
    Event,
    Experiment,
    FailureKind,
    Judged,
    Measured,
    Moved,
    Order,
    Ordered,
    Propose,
    Published,
    Remeasure,
    Replay,
    Seat,
    Seated,
    Status,
    Stop,
    Vacated,
)
from autoresearch_ray.ports import Case, Policy

_NOT_THE_IDEA = frozenset({FailureKind.AGENT, FailureKind.MACHINE})
_NEVER_COUNTED = frozenset({FailureKind.OUT_OF_SCOPE, FailureKind.NO_CHANGE, FailureKind.CONFLICT, FailureKind.GUARD})
_PATIENCE = 3  # failures in a row of a machine, a baseline or a re-measurement before the lane gives it up
_MOST_LANES = 4  # on one slot: past it, an agent would take more than three times as long as an evaluation


def decide(board: Board, attempt: Attempt, now: float, policy: Policy) -> tuple[list[Event], Order]:
    """The events and the order that follow from `attempt`.

    A hand-in that does not answer the lane's order changes nothing: one of an earlier sitting gets Stop, one that came
    twice gets the order that stands.
    """
    lane = board.lanes.get(attempt.lane)
    if lane is None or attempt.seat != lane.sitting:
        return [], Stop("another worker has taken this lane's seat")
    if not answers(board, attempt):
        return [], lane.order or Stop("this lane has no order")
    draft = _Draft(board, attempt.lane, now, policy)
    draft.note(Measured(now, attempt))
    _judge(draft)
    _publish(draft)
    return draft.events, _order(draft)


def answers(board: Board, attempt: Attempt) -> bool:
    """Whether `attempt` is the answer to the order that its lane has, from who sits there now."""
    lane = board.lanes.get(attempt.lane)
    order = lane.order if lane else None
    return lane is not None and attempt.seat == lane.sitting and _id(order) == attempt.id


def _id(order: Order | None) -> str | None:
    return None if order is None or isinstance(order, Stop) else order.id


def sit(board: Board, seat: Seat, now: float, policy: Policy) -> tuple[list[Event], Order]:
    """A lane takes its seat, for the first time or again. What it left unfinished is ordered again, as it was."""
    known = board.lanes.get(seat.lane)
    draft = _Draft(board, seat.lane, now, policy)
    draft.note(Seated(now, seat, known.sitting + 1 if known else 1))
    left = known.order if known else None
    if left is None or isinstance(left, Stop):
        return draft.events, _order(draft)
    ends = (_closed_hard, _hours_are_over) if isinstance(left, Remeasure) else _ENDS
    over = next((order for rule in ends if (order := rule(draft)) is not None), None)
    if over is None:
        return draft.events, left
    draft.note(Ordered(now, seat.lane, over))
    return draft.events, over


def vacate(board: Board, worker: int, reason: str, now: float) -> list[Event]:
    """The events that follow when a worker is given up: nobody sits on its lanes any more."""
    lanes = [name for name, lane in board.lanes.items() if lane.seat.worker == worker and lane.present]
    return [Vacated(now, name, reason) for name in lanes]


def close(
    board: Board, reason: str, now: float, *, hard: bool = False, failed: bool = False, finished: bool = False
) -> list[Event]:
    """The events that end a run from outside: an interrupt, a dead cluster, a full disk."""
    if board.closed and (board.closed.hard or not hard):
        return []
    return [Closed(now, reason, hard, failed, finished)]


def lanes_wanted(board: Board) -> int:
    """Lanes that keep one slot busy. `auto` is ceil(1 + A/E) for agent seconds A and evaluation seconds E."""
    wanted = board.program.options.lanes
    if wanted != "auto":
        return wanted
    agent, evaluation = board.agent_seconds, board.eval_seconds
    if not agent or not evaluation or agent < 0.05 * evaluation:
        return 1
    return min(_MOST_LANES, math.ceil(1 + agent / evaluation))


class _Draft:
    """A hand-in being decided: the events so far, on a fork of the board that they are tried out on."""

    def __init__(self, board: Board, name: str, now: float, policy: Policy) -> None:
        self.board = board.fork(name)
        self.name = name
        self.now = now
        self.policy = policy
        self.events: list[Event] = []

    def note(self, event: Event) -> None:
        self.board.apply(event)
        self.events.append(event)

    @property
    def lane(self) -> Lane:
        return self.board.lanes[self.name]

    @property
    def others(self) -> list[Lane]:
        return [lane for name, lane in self.board.lanes.items() if name != self.name]

    @property
    def id(self) -> str:
        return f"{self.name}-{self.lane.number + 1}"

    @property
    def seed(self) -> int:
        """31 bits that follow from the tag and the attempt's id: fresh for every measurement, the same on replay."""
        digest = hashlib.sha256(f"{self.board.opened.tag}/{self.id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    def beat(self, commit: str) -> float | None:
        """What a candidate on `commit` must not be worse than to be guarded: nothing beyond it can still be kept.

        Three standard deviations below the parent: a first value further off is discarded by any policy here.
        """
        score, noise = self.board.score(commit), self.board.noise
        if score is None or noise is None:
            return None
        return score.mean + 3 * noise * self.board.direction.gain(0.0, 1.0)

    def propose(self, parent: str) -> Propose:
        return Propose(self.id, parent, self.seed, self.beat(parent))

    def remeasure(self, commit: str, why: str) -> Remeasure:
        return Remeasure(self.id, commit, self.seed, why)

    def stop(self, reason: str, *, hard: bool = False, failed: bool = False, finished: bool = False) -> Stop:
        """Stop, and close the run with it."""
        for event in close(self.board, reason, self.now, hard=hard, failed=failed, finished=finished):
            self.note(event)
        return Stop(reason)

    def leave(self, reason: str) -> Stop:
        """Stop this lane; the run goes on while another one works."""
        if not any(lane.active for lane in self.others):
            return self.stop(f"no lane is left: {reason}", hard=True, failed=True)
        return Stop(reason)


# --- The verdict -----------------------------------------------------------------------------------------------------


def _judge(draft: _Draft) -> None:
    """The verdict on what the lane owes one, if it can be given now; and where the lane stands after it."""
    if draft.lane.pending is None:
        return
    candidate = draft.board.experiments[draft.lane.pending]
    verdict = _verdict(draft, candidate)
    if verdict is None:
        return
    draft.note(verdict)
    own = draft.lane.own
    if verdict.status is Status.KEEP and candidate.commit:
        own = candidate.line if candidate.kind == "replay" else (*own, *candidate.line)
        draft.note(Moved(draft.now, draft.name, candidate.commit, own, f"kept {candidate.id}"))
    elif candidate.kind == "replay" and verdict.status is not Status.LOST:
        draft.note(
            Moved(draft.now, draft.name, candidate.parent, (), f"{candidate.id} did not pay: stands on the best")
        )


def _verdict(draft: _Draft, candidate: Experiment) -> Judged | None:
    board, failure = draft.board, candidate.failure

    def judged(status: Status, reason: str, gain: float | None = None) -> Judged:
        return Judged(draft.now, candidate.id, draft.name, status, reason, gain)

    if failure is not None:
        status = (
            Status.LOST
            if failure.kind in _NOT_THE_IDEA
            else Status.DISCARD
            if failure.kind in _NEVER_COUNTED
            else Status.CRASH
        )
        return judged(status, f"{failure.kind}: {failure.message}")
    if draft.lane.remeasure_failures_in_a_row >= _PATIENCE:
        return judged(Status.LOST, "it could not be measured again, nor its parent for comparison")
    score, parent = board.score(candidate.commit), board.score(candidate.parent)
    if score is None or parent is None:
        return None
    best = board.score(board.best.commit) if board.best else None
    judgement = draft.policy.judge(Case(board.direction, score, parent, best, board.noise, candidate.lines))
    if judgement.call == "again":
        return None
    gain = board.direction.gain(score.mean, parent.mean)
    return judged(Status.KEEP if judgement.call == "keep" else Status.DISCARD, judgement.reason, gain)


def _publish(draft: _Draft) -> None:
    """What the lane stands on becomes the best, if it is better and confirmed."""
    head, board = draft.lane.head, draft.board
    score, experiment = board.score(head), board.at(head)
    best = board.score(board.best.commit) if board.best else None
    if not experiment or not score or not best or score.n < draft.policy.confirmations or not _leads(draft):
        return
    if draft.policy.publishes(Case(board.direction, score, best, best, board.noise, experiment.lines)):
        draft.note(Published(draft.now, experiment.id, head, score.mean, score.n))


def _leads(draft: _Draft) -> bool:
    """Whether what the lane stands on is better than the published best."""
    best = draft.board.best
    score = draft.board.score(draft.lane.head)
    best_score = draft.board.score(best.commit) if best else None
    if not best or not score or not best_score or draft.lane.head == best.commit:
        return False
    return draft.board.direction.better(score.mean, best_score.mean)


# --- The next order --------------------------------------------------------------------------------------------------


def _order(draft: _Draft) -> Order:
    order = next(order for rule in _RULES if (order := rule(draft)) is not None)
    draft.note(Ordered(draft.now, draft.name, order))
    return order


def _closed_hard(draft: _Draft) -> Order | None:
    closed = draft.board.closed
    return Stop(closed.reason) if closed and closed.hard else None


def _hours_are_over(draft: _Draft) -> Order | None:
    hours = draft.board.program.options.hours
    if hours is not None and draft.board.elapsed_seconds(draft.now) >= hours * 3600:
        return draft.stop(f"{hours:g} hours are over", hard=True, finished=True)
    return None


def _machine_is_sick(draft: _Draft) -> Order | None:
    """Three failures may be a candidate's doing. One on the base, which is known to work, is the machine's."""
    board, times = draft.board, draft.lane.machine_failures_in_a_row
    if times == _PATIENCE and board.baseline is not None:
        return draft.remeasure(board.opened.base, "is this machine sound?")
    if times < _PATIENCE:
        return None
    said = board.machine_failure.message if board.machine_failure else ""
    return draft.leave(f"the machine failed {times} times in a row here: {said}")


def _baseline_fails(draft: _Draft) -> Order | None:
    """On every lane: nothing can be compared, and a human must look. On this lane alone: the lane leaves."""
    board, failure = draft.board, draft.board.base_failure
    on_others = any(lane.active and lane.remeasure_failures_in_a_row == 0 for lane in draft.others)
    if draft.lane.remeasure_failures_in_a_row and failure and board.baseline is None and not on_others:
        tail = f"\n{failure.tail}" if failure.tail else ""
        return draft.stop(f"the baseline fails: {failure.kind}: {failure.message}{tail}", hard=True, failed=True)
    if not draft.lane.calibrated and draft.lane.remeasure_failures_in_a_row >= _PATIENCE:
        return draft.leave("the baseline fails again and again on this lane")
    return None


def _owes_a_verdict(draft: _Draft) -> Order | None:
    if draft.lane.pending is None:
        return None
    candidate = draft.board.experiments[draft.lane.pending]
    if draft.board.score(candidate.parent) is None:
        return draft.remeasure(candidate.parent, "its candidate waits for this parent's value")
    return draft.remeasure(candidate.commit or candidate.parent, "too close to call, or a best to be confirmed")


def _closed(draft: _Draft) -> Order | None:
    closed = draft.board.closed
    return Stop(closed.reason) if closed else None


def _limit_is_reached(draft: _Draft) -> Order | None:
    board, options = draft.board, draft.board.program.options
    best = board.score(board.best.commit) if board.best else None
    if options.experiments is not None and board.counted >= options.experiments:
        return draft.stop(f"{options.experiments} experiments", finished=True)
    if options.cost_usd is not None and board.cost_usd >= options.cost_usd:
        return draft.stop(f"{options.cost_usd:g} dollars are spent", finished=True)
    if options.target is not None and best and not board.direction.better(options.target, best.mean):
        return draft.stop(f"the target {options.target:g} is reached", finished=True)
    if options.plateau is not None and board.verdicts_since_best >= options.plateau:
        return draft.stop(f"no new best in {options.plateau} experiments", finished=True)
    return None


def _others_do_the_rest(draft: _Draft) -> Order | None:
    """Enough is under way: this lane stops, and the others finish. What they lose, they try again themselves."""
    experiments = draft.board.program.options.experiments
    under_way = sum(
        lane.active and (isinstance(lane.order, Propose | Replay) or lane.pending is not None) for lane in draft.others
    )
    if experiments is not None and draft.board.counted + under_way >= experiments:
        return Stop(f"the other lanes do the rest of {experiments} experiments")
    return None


def _baseline_first(draft: _Draft) -> Order | None:
    """Each slot measures the base before anything else, all at once; and the baseline is confirmed like a best."""
    board, base, lane = draft.board, draft.board.opened.base, draft.lane
    if lane.remeasure_failures_in_a_row >= _PATIENCE:
        return None

    def measures_base(other: Lane) -> bool:
        return other.active and isinstance(other.order, Remeasure) and other.order.commit == base

    beside = [other for other in draft.others if other.seat.worker == lane.seat.worker]
    if not lane.calibrated and not any(other.calibrated or measures_base(other) for other in beside):
        return draft.remeasure(base, "the baseline")
    score = board.score(base)
    known = (score.n if score else 0) + sum(measures_base(other) for other in draft.others)
    return draft.remeasure(base, "the baseline, confirmed") if known < draft.policy.confirmations else None


def _confirm_what_leads(draft: _Draft) -> Order | None:
    score, failures = draft.board.score(draft.lane.head), draft.lane.remeasure_failures_in_a_row
    if score and score.n < draft.policy.confirmations and failures < _PATIENCE and _leads(draft):
        return draft.remeasure(draft.lane.head, "better than the best, and not confirmed yet")
    return None


def _agent_is_failing(draft: _Draft) -> Order | None:
    """All agents again and again: a human must look. This one: every other order is work that needs no model."""
    board, times = draft.board, draft.lane.agent_failures_in_a_row
    if board.idle_agents_in_a_row >= max(2 * _PATIENCE, _PATIENCE * len(board.lanes)):
        reason = board.agent_failure.message if board.agent_failure else ""
        return draft.stop(f"the agents failed {board.idle_agents_in_a_row} times in a row: {reason}", failed=True)
    proposed = any(isinstance(each, Measured) and each.attempt.kind == "propose" for each in draft.events)
    if times > 1 and proposed and board.best and board.best.commit:
        return draft.remeasure(board.best.commit, "the agent is failing: meanwhile the best is measured once more")
    return None


def _fell_behind(draft: _Draft) -> Order | None:
    """The worse half moves onto the best, and takes along what it found."""
    board, lane = draft.board, draft.lane
    best = board.best.commit if board.best else None
    if best is None or lane.head == best:
        return None
    ranking, every = board.ranking(), board.program.options.every
    if not draft.policy.moves(ranking.index(draft.name), len(ranking), lane.hand_ins, every):
        return None
    if lane.own:
        return Replay(draft.id, best, lane.own, draft.seed, draft.beat(best))
    draft.note(Moved(draft.now, draft.name, best, (), "fell behind with nothing of its own: stands on the best"))
    return draft.propose(best)


def _propose(draft: _Draft) -> Order | None:
    return draft.propose(draft.lane.head)


_ENDS: tuple[Callable[[_Draft], Order | None], ...] = (
    _closed_hard,
    _hours_are_over,
    _closed,
    _limit_is_reached,
    _others_do_the_rest,
)
_RULES: tuple[Callable[[_Draft], Order | None], ...] = (
    _closed_hard,
    _hours_are_over,
    _machine_is_sick,
    _baseline_fails,
    _owes_a_verdict,
    _closed,
    _limit_is_reached,
    _others_do_the_rest,
    _baseline_first,
    _confirm_what_leads,
    _agent_is_failing,
    _fell_behind,
    _propose,
)
