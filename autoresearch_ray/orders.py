"""What follows from a hand-in: every decision of the project, and nothing but decisions.

`decide` and `sit` look at the board and change nothing: they return the events that follow, and the order that is the
reply. A lane does one thing at a time and only its own hand-in moves its branch, so nothing decided here can be stale.

Verdicts are in `verdicts`. The next order is given by the first rule in `_RULES` that has one. Here are the rules for
sick slots and for proposals; the others are in `limits`, `confirming`, `gathering`, `meanwhile` and `by_hand`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoresearch_ray.board import Board
from autoresearch_ray.by_hand import held, is_wanted, nobody_proposes, submitted
from autoresearch_ray.confirming import (
    baseline_first,
    claim,
    confirm_the_nominee,
    hold_out,
    owes_a_verdict,
    parent_is_vague,
)
from autoresearch_ray.draft import Draft
from autoresearch_ray.draft import close as close
from autoresearch_ray.events import Event, Measured, Ordered, Paused, Retired, Seated, Unpaused, Vacated
from autoresearch_ray.gathering import combine, fell_behind, gather, stands_on_the_best, try_elsewhere
from autoresearch_ray.limits import (
    closed_hard,
    elapsed,
    ends,
    hours_are_over,
    limit_is_reached,
    no_evaluation_is_left,
    others_do_the_rest,
    run_is_over,
)
from autoresearch_ray.meanwhile import (
    give_up,
    meanwhile,
    out_of_money,
    too_dear,
    why_not,
)
from autoresearch_ray.model import (
    REWORKS,
    Ablate,
    Attempt,
    Failure,
    FailureKind,
    Holdout,
    Measurement,
    Order,
    Propose,
    Remeasure,
    Replay,
    Rework,
    Seat,
    Spent,
    Stop,
    Try,
    Wait,
)
from autoresearch_ray.ports import Policy
from autoresearch_ray.verdicts import (
    PATIENCE,
    judge,
    settle,
)


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
    draft = Draft(board, attempt.lane, now, policy)
    if attempt.kind != "wait":
        draft.note(Measured(now, attempt))
    _take_out(draft, attempt)
    limit_is_reached(draft)  # then what is too close to call is decided on what is known
    judge(draft)
    settle(draft)
    return draft.events, _order(draft)


def answers(board: Board, attempt: Attempt) -> bool:
    """Whether `attempt` is the answer to the order that its lane has, from who sits there now."""
    lane = board.lanes.get(attempt.lane)
    order = lane.order if lane else None
    return lane is not None and attempt.seat == lane.sitting and _id(order) == attempt.id


def _id(order: Order | None) -> str | None:
    return None if order is None or isinstance(order, Stop) else order.id


def sit(board: Board, seat: Seat, now: float, policy: Policy, spent: Spent | None = None) -> tuple[list[Event], Order]:
    """A lane takes its seat, for the first time or again. What it left unfinished is ordered again, as it was."""
    known = board.lanes.get(seat.lane)
    draft = Draft(board, seat.lane, now, policy)
    draft.note(Seated(now, seat, known.sitting + 1 if known else 1, spent))
    if seat.worker in board.retired:
        judge(draft)
        return draft.events, _order(draft)
    left = known.order if known else None
    if left is None or isinstance(left, Stop | Wait) or (isinstance(left, Try) and not is_wanted(draft, left)):
        return draft.events, _order(draft)
    if draft.lane.interruptions >= PATIENCE:
        return _count_as_lost(draft, left)
    over = closed_hard(draft) or hours_are_over(draft)
    if over is not None:
        draft.note(Ordered(now, seat.lane, over))
        return draft.events, over
    if isinstance(left, Propose):
        limit_is_reached(draft)
    if _is_void(draft, left) or draft.evaluations_left <= 0:
        return draft.events, _order(draft)
    return draft.events, left


def _count_as_lost(
    draft: Draft, left: Propose | Remeasure | Replay | Ablate | Try | Holdout
) -> tuple[list[Event], Order]:
    """What was interrupted again and again may be what kills its worker: it counts as the machine's failure."""
    reason = f"interrupted {draft.lane.interruptions} times: whoever carries it out dies"
    measurement = Measurement(None, Failure(FailureKind.MACHINE, reason))
    parent, commit = (left.commit, left.commit) if isinstance(left, Remeasure | Holdout) else (left.parent, None)
    left_out = (left.commit,) if isinstance(left, Ablate) else ()
    attempt = Attempt(left.id, draft.name, draft.lane.sitting, left.kind, parent, commit, measurement)
    draft.note(Measured(draft.now, replace(attempt, left_out=left_out)))
    _take_out(draft, attempt)
    judge(draft)
    settle(draft)
    return draft.events, _order(draft)


def _is_void(draft: Draft, left: Order) -> bool:
    """Whether the order that a lane left unfinished is not worth taking up again."""
    if draft.lane.held:
        return True
    if isinstance(left, Try):
        return draft.board.closed is not None
    if isinstance(left, Propose):
        breaker = draft.breaker
        asks = left.id == breaker.probe if breaker.is_open else not why_not(draft)
        return draft.board.closed is not None or draft.enough_is_under_way or not asks or bool(too_dear(draft))
    return isinstance(left, Replay) and not draft.being_tried.isdisjoint(left.commits)


def vacate(board: Board, worker: int, reason: str, now: float) -> list[Event]:
    """The events that follow when a worker is given up: nobody sits on its lanes any more."""
    lanes = [name for name, lane in board.lanes.items() if lane.seat.worker == worker and lane.present]
    return [Vacated(now, name, reason) for name in lanes]


def unfinished(board: Board, worker: int) -> tuple[str, ...]:
    """The lanes of a worker that have an order or owe a verdict: when it comes back, it must seat all of them."""
    lanes = [(name, lane) for name, lane in board.lanes.items() if lane.seat.worker == worker]
    return tuple(name for name, lane in lanes if lane.pending is not None or _id(lane.order) is not None)


def pause(board: Board, worker: int, reason: str, now: float) -> tuple[list[Event], bool]:
    """A slot cannot measure, for `reason`, or with "" can again; and whether it is worth waiting for.

    While it waits, the others do not count on its lanes: nothing is held up by a device that is in somebody's hands.
    """
    paused = worker in board.paused
    if not reason:
        return [Unpaused(now, worker)] if paused else [], True
    if board.closed or elapsed(board, now):
        return [], False
    return [] if paused else [Paused(now, worker, reason)], True


# --- The next order --------------------------------------------------------------------------------------------------


def _order(draft: Draft) -> Order:
    order = next(order for rule in _RULES if (order := rule(draft)) is not None)
    before = draft.lane.order
    if isinstance(order, Wait) and isinstance(before, Wait) and order.why == before.why:
        return replace(order, id=before.id)  # it waits on, and the ledger does not grow by that
    draft.note(Ordered(draft.now, draft.name, order))
    return order


# --- Slots -----------------------------------------------------------------------------------------------------------


def _take_out(draft: Draft, attempt: Attempt) -> None:
    """Retire the slot, if its device is sick, or if it has failed again and again and then on the base.

    Failures of candidates alone may be their own doing: the base is known to work.
    """
    board, worker, failure = draft.board, draft.lane.seat.worker, attempt.measurement.failure
    if failure is None or failure.kind is not FailureKind.MACHINE or worker in board.retired:
        return
    times = len(board.machine_failures[worker])
    if failure.fatal:
        draft.note(Retired(draft.now, worker, failure.message))
    elif times >= PATIENCE and attempt.kind == "remeasure" and attempt.parent == board.opened.base:
        reason = f"its machine failed {times} times in a row: {failure.message}"
        draft.note(Retired(draft.now, worker, reason))


def _slot_is_retired(draft: Draft) -> Order | None:
    retired = draft.board.retired.get(draft.lane.seat.worker)
    return draft.leave(f"its slot was retired: {retired.reason}") if retired else None


def _paused_to_the_end(draft: Draft) -> Order | None:
    """The run is over, and the slot still waits for its device: there is nothing that this lane could do."""
    closed = draft.board.closed
    return Stop(closed.reason) if closed and draft.lane.paused else None


def _machine_is_sick(draft: Draft) -> Order | None:
    """Whether it is, the base will tell: on one lane of the slot."""
    board, worker = draft.board, draft.lane.seat.worker
    if len(board.machine_failures.get(worker, ())) < PATIENCE:
        return None
    orders = [each.order for each in draft.working if each.seat.worker == worker]
    if any(isinstance(each, Remeasure) and each.commit == board.opened.base for each in orders):
        return None
    return draft.remeasure(board.opened.base, "is this machine sound?")


def _baseline_fails(draft: Draft) -> Order | None:
    """On every lane: nothing can be compared, and a human must look. On this lane alone: the lane leaves."""
    board, failure = draft.board, draft.board.base_failure
    fails = draft.lane.remeasure_failures_in_a_row and failure and board.baseline is None
    if fails and failure and all(lane.remeasure_failures_in_a_row for lane in draft.working):
        tail = f"\n{failure.tail}" if failure.tail else ""
        return draft.stop(f"the baseline fails: {failure.kind}: {failure.message}{tail}", hard=True, failed=True)
    if not draft.lane.calibrated and draft.lane.remeasure_failures_in_a_row >= PATIENCE:
        return draft.leave("the baseline fails again and again on this lane")
    return None


def _cannot_stand_here(draft: Draft) -> Order | None:
    """What this lane would build on cannot be measured on its device, which may have less memory than others."""
    board, lane, order = draft.board, draft.lane, draft.lane.order
    if lane.remeasure_failures_in_a_row < PATIENCE or not isinstance(order, Remeasure):
        return None
    stands = {board.best.commit if board.best else None} | (set() if draft.policy.gathers else {lane.head})
    if order.commit not in stands - {board.opened.base} or board.evidence.on(order.commit, draft.device_class):
        return None
    return draft.leave("what it would build on does not run on this device")


def _mend(draft: Draft) -> Order | None:
    """What broke the guard was better: the same idea once more, without breaking it."""
    board, order = draft.board, draft.lane.order
    attempt = next((each.attempt for each in draft.events if isinstance(each, Measured)), None)
    failure = attempt.measurement.failure if attempt else None
    if board.closed or not attempt or not attempt.commit or not failure or not isinstance(order, Propose):
        return None
    if why_not(draft):
        return None
    times = order.rework.times + 1 if order.rework else 1
    if failure.kind is not FailureKind.GUARD or times > REWORKS:
        return None
    return draft.propose(order.parent, Rework(attempt.id, attempt.commit, failure.tail, times))


def _rests(draft: Draft) -> Order | None:
    """Its slot is busy without this lane: what it would propose now would be old when its turn to be measured came."""
    wishes = any(isinstance(each, Measured) and each.attempt.rests for each in draft.events)
    if wishes and any(each.seat.worker == draft.lane.seat.worker for each in draft.working):
        return Stop("it rests: fewer lanes keep its slot busy")
    return None


def _propose(draft: Draft) -> Order | None:
    return draft.propose(draft.lane.head)


_Rule = Callable[[Draft], Order | None]
_RULES: tuple[_Rule, ...] = (
    _slot_is_retired,
    closed_hard,
    hours_are_over,
    _paused_to_the_end,
    _machine_is_sick,
    _baseline_fails,
    owes_a_verdict,
    held,
    _cannot_stand_here,
    limit_is_reached,
    no_evaluation_is_left,
    give_up,
    _mend,
    baseline_first,
    confirm_the_nominee,
    hold_out,
    gather,
    combine,
    out_of_money,
    claim,
    ends,
    run_is_over,
    others_do_the_rest,
    submitted,
    _rests,
    try_elsewhere,
    fell_behind,
    stands_on_the_best,
    parent_is_vague,
    nobody_proposes,
    meanwhile,
    _propose,
)
