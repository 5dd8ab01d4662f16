"""What follows from a hand-in: every decision of the project, and nothing but decisions.

`decide` and `sit` look at the board and change nothing: they return the events that follow, and the order that is the
reply. A lane does one thing at a time and only its own hand-in moves its branch, so nothing decided here can be stale.

Verdicts are in `verdicts`. The next order is given by the first rule in `_RULES` that has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoresearch_ray.board import Board
from autoresearch_ray.by_hand import held, is_wanted, nobody_proposes, submitted
from autoresearch_ray.draft import Draft
from autoresearch_ray.draft import close as close
from autoresearch_ray.events import Event, Measured, Moved, Ordered, Paused, Retired, Seated, Unpaused, Vacated
from autoresearch_ray.meanwhile import (
    give_up,
    meanwhile,
    money_is_spent,
    out_of_money,
    stands_idle,
    too_dear,
    wait,
    why_not,
)
from autoresearch_ray.model import (
    REWORKS,
    Ablate,
    Attempt,
    Experiment,
    Failure,
    FailureKind,
    Holdout,
    Measurement,
    Order,
    Propose,
    Remeasure,
    Replay,
    Rework,
    Rule,
    Seat,
    Spent,
    Status,
    Stop,
    Try,
    Wait,
)
from autoresearch_ray.noise import expected_excess
from autoresearch_ray.pool import Change
from autoresearch_ray.ports import Policy
from autoresearch_ray.verdicts import (
    GROUP,
    PATIENCE,
    evaluations_to_spare,
    judge,
    measured_in,
    nominate,
    settle,
    standing_of_nominee,
    wanted_elsewhere,
)

_CLEAR = 3.0  # the same of near misses to be tried together
_NEAR = 32  # near misses
_AT_ONCE = 3  # measurements of what would be the best, when nothing else is left to do
_BASELINES = 16  # slots of one class that measure the base when they begin: more of them would tell little more
_ENDING = 5  # evaluations before the end of its hours at which a run stops proposing
_ENOUGH = 4.0  # standard deviations of one measurement: what changes should bring together to be gathered
_SPARE = 0.5  # of what is asked for otherwise, where a slot would stand idle: 16 measurements tell 2 sigma from nothing


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
    _limit_is_reached(draft)  # then what is too close to call is decided on what is known
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
    over = _closed_hard(draft) or _hours_are_over(draft)
    if over is not None:
        draft.note(Ordered(now, seat.lane, over))
        return draft.events, over
    if isinstance(left, Propose):
        _limit_is_reached(draft)
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
    if board.closed or _elapsed(board, now):
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


def _closed_hard(draft: Draft) -> Order | None:
    closed = draft.board.closed
    return Stop(closed.reason, hard=True) if closed and closed.hard else None


def _hours_are_over(draft: Draft) -> Order | None:
    if _elapsed(draft.board, draft.now):
        hours = draft.board.program.options.hours
        return draft.stop(f"{hours:g} hours are over", hard=True, finished=True)
    return None


def _elapsed(board: Board, now: float) -> bool:
    hours = board.program.options.hours
    return hours is not None and board.elapsed_seconds(now) >= hours * 3600


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


def _owes_a_verdict(draft: Draft) -> Order | None:
    """More measurements of what is too close to call: of the candidate or its parent, whichever has fewer here."""
    if draft.lane.pending is None:
        return None
    evidence, candidate = draft.board.evidence, draft.board.experiments[draft.lane.pending]
    commit, here = candidate.commit or candidate.parent, draft.device_class
    own, parent = evidence.on(commit, here), evidence.on(candidate.parent, here)
    if parent is None:
        return draft.remeasure(candidate.parent, "its candidate waits for this parent's value")
    if own and parent.n < own.n:
        return draft.remeasure(candidate.parent, f"what {candidate.id} is compared with is less sure than itself")
    why = f"suspicious: {candidate.doubts[0]}" if candidate.doubts else "too close to call"
    return draft.remeasure(commit, why)


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


# --- Limits ----------------------------------------------------------------------------------------------------------


def _no_evaluation_is_left(draft: Draft) -> Order | None:
    """The limit is strict: what is under way fills it."""
    return Stop(f"{draft.board.program.options.evaluations} evaluations") if draft.evaluations_left <= 0 else None


def _closed(draft: Draft) -> Order | None:
    closed = draft.board.closed
    return Stop(closed.reason) if closed else None


def _limit_is_reached(draft: Draft) -> None:
    """Closes the run: no new ideas. What was found is still brought together and confirmed."""
    board, options = draft.board, draft.board.program.options
    hours = options.hours
    if options.experiments is not None and board.counted >= options.experiments:
        draft.stop(f"{options.experiments} experiments", finished=True)
    elif options.evaluations is not None and draft.evaluations_left <= _to_end(draft, options.evaluations):
        draft.stop(f"{options.evaluations} evaluations", finished=True)
    elif hours is not None and draft.board.elapsed_seconds(draft.now) + _ending_seconds(draft) >= hours * 3600:
        draft.stop(f"{hours:g} hours are over soon", finished=True)
    elif options.cost_usd is not None and money_is_spent(draft):
        draft.stop(f"{options.cost_usd:g} dollars are spent, or too few are left for a proposal", finished=True)
    elif options.target is not None and _has_reached(board, options.target):
        draft.stop(f"the target {options.target:g} is reached", finished=True)
    elif options.plateau is not None and board.verdicts_since_best >= options.plateau:
        draft.stop(f"no new best in {options.plateau} experiments", finished=True)


def _has_reached(board: Board, target: float) -> bool:
    best = board.score(board.best.commit) if board.best else None
    return best is not None and not board.direction.better(target, best.mean)


def _to_end(draft: Draft, evaluations: int) -> int:
    """Evaluations that ending the run will take: a nominee may want some more."""
    return min(_claims(draft) + 4 * draft.policy.confirmations, evaluations // 4)


def _ending_seconds(draft: Draft) -> float:
    """How long before the end of its hours a run stops proposing: five evaluations, but not more than a tenth of them.

    The evaluation that runs, bringing together, confirming elsewhere and once more. In made-up nights of 8 hours with
    evaluations of 5 minutes, one lane found 13.3, 13.5, 13.2 and 12.5 thousandths when it stopped 3, 5, 8 and 12 of
    them before; eight lanes found 66.3 with 3 and 66.5 with 5, and left something nominated in 25 % and 8 % of the
    nights. Short runs cannot spare so much: eight lanes in one hour found 11.1 with a tenth of it, and 8.7 with 5.
    """
    if not draft.policy.gathers:
        return 0.0
    return min(_ENDING * (draft.board.eval_seconds or 0.0), 360 * (draft.board.program.options.hours or 0.0))


def _claims(draft: Draft) -> int:
    """How many measurements the best should have in the end: the more, the longer the run was."""
    return min(draft.policy.claims, draft.policy.confirmations + draft.board.counted // 25)


def _others_do_the_rest(draft: Draft) -> Order | None:
    """Enough is under way: this lane stops, and the others finish.

    Of a provider that is gone tomorrow nothing may come: a lane whose agent asks another one is there until the end.
    """
    if not draft.enough_is_under_way:
        return None
    why = f"the other lanes do the rest of {draft.board.program.options.experiments} experiments"
    alone = len({draft.board.provider(name) for name in draft.board.lanes}) == 1
    return _stand_by(draft) or (Stop(why) if alone else wait(draft, why))


# --- The best --------------------------------------------------------------------------------------------------------


def _baseline_first(draft: Draft) -> Order | None:
    """Each slot measures the base before anything else, all at once; and the baseline is confirmed like a best."""
    board, base, lane = draft.board, draft.board.opened.base, draft.lane
    if board.closed or lane.remeasure_failures_in_a_row >= PATIENCE:
        return None
    here, most = board.evidence.on(base, draft.device_class), _baselines(draft)
    if not lane.calibrated and (here is None or here.n < most):
        measuring = [each for each in draft.working if isinstance(each.order, Remeasure) and each.order.commit == base]
        there = sum(each.seat.device_class == draft.device_class for each in measuring)
        known = [each for each in draft.others if each.calibrated] + measuring
        beside = any(each.seat.worker == lane.seat.worker for each in known)
        if not beside and (here.n if here else 0) + there < most:
            return draft.remeasure(base, "the baseline")
    missing = draft.policy.confirmations - board.evidence.times(base)
    return draft.remeasure(base, "the baseline, confirmed") if missing > 0 and missing > draft.under_way[base] else None


def _baselines(draft: Draft) -> int:
    """Slots of one class that measure the base when they begin: of few evaluations, an eighth is enough for it."""
    limit = draft.board.program.options.evaluations
    return _BASELINES if limit is None else min(_BASELINES, max(draft.policy.confirmations, limit // 8))


def _confirm_the_nominee(draft: Draft) -> Order | None:
    """Any lane that comes by measures what would be the best, and a device that has not had it does so first."""
    board, nominee = draft.board, draft.board.nominee
    if nominee is None or not board.best or not board.best.commit:
        return None
    if draft.lane.remeasure_failures_in_a_row >= PATIENCE:
        return None
    commit, best, here = nominee.commit, board.best.commit, draft.device_class
    under_way = draft.under_way[commit]
    if board.evidence.gain(commit, best) is None:
        missing = commit if board.evidence.on(best, here) else best
        return (
            None if draft.under_way[missing] else draft.remeasure(missing, "a new best is compared with the one before")
        )
    elsewhere = wanted_elsewhere(draft)
    open_elsewhere = bool(elsewhere) and not measured_in(draft, elsewhere, commit)
    if (draft.lane.seat.worker, here) in elsewhere and open_elsewhere:
        return draft.remeasure(commit, "it would be the best: is it on another device, too?")
    few = board.evidence.times(commit) + under_way < draft.policy.confirmations
    if few and draft.evaluations_left > open_elsewhere:
        return draft.remeasure(commit, "it would be the best, and is not confirmed yet")
    standing = standing_of_nominee(draft)
    at_once = _AT_ONCE if board.closed or stands_idle(draft) else 1
    if standing and standing.call == "again" and under_way + draft.under_way[best] < at_once:
        return draft.remeasure(_less_sure(draft, commit, best), f"it would be the best: {standing.reason}")
    return None


def _less_sure(draft: Draft, commit: str, best: str) -> str:
    """Which of the two is known less well on this class of devices, with what is under way."""

    def variance(each: str) -> float:
        score = draft.board.evidence.on(each, draft.device_class)
        sigma = draft.board.evidence.sigma(draft.device_class, each) or 0.0
        return sigma**2 / (score.n + draft.under_way[each]) if score else 0.0

    return best if variance(best) > variance(commit) else commit


def _hold_out(draft: Draft) -> Order | None:
    """The holdout of the best and of what would take its place, one lane at a time."""
    board, nominee = draft.board, draft.board.nominee
    if nominee is None or not board.program.eval.holdout or not board.best or not board.best.commit:
        return None
    standing = standing_of_nominee(draft)
    if standing is None or standing.call != "keep" or any(isinstance(lane.order, Holdout) for lane in draft.working):
        return None
    known = board.held_out.on(board.best.commit, draft.device_class) is not None
    commit = nominee.commit if known else board.best.commit
    if board.holdout_failures.get(commit) and commit == board.best.commit:
        failure = board.holdout_failures[commit]
        return draft.stop(f"the holdout fails on the best: {failure.message}", hard=True, failed=True)
    return Holdout(draft.id, commit, draft.seed)


# --- Coming together -------------------------------------------------------------------------------------------------


def _gather(draft: Draft) -> Order | None:
    """What lanes kept and the best lacks, onto the best: as soon as it is enough to be told from the noise, and at the
    end whatever there is."""
    board, best = draft.board, draft.board.best
    if not _may_gather(draft) or not best or not best.commit:
        return None
    other = next((each for each in board.pool.apart if _stands_apart(board, each, best.commit)), None)
    if other is not None and (experiment := board.at(other)) is not None:
        return _nominated(draft, experiment)
    group = board.pool.next_kept(GROUP)
    enough = _ENOUGH * (_SPARE if stands_idle(draft) else 1)
    clear = sum(each.likely for each in group) >= enough * draft.sigma or board.program.eval.rule is Rule.PARETO
    if not group or not (clear or board.closed):
        return None
    made = board.made_of.get(board.contains(best.commit) | {each.commit for each in group})
    experiment = board.at(made) if made and made not in board.refused else None
    if experiment is not None:
        return _nominated(draft, experiment)  # it is that very combination
    return _replay(draft, best.commit, group, f"{len(group)} kept changes brought together")


def _nominated(draft: Draft, experiment: Experiment) -> Order | None:
    """It may have been measured often enough already: then it is published, or refused, at once."""
    nominate(draft, experiment)
    settle(draft)
    return _confirm_the_nominee(draft) or _hold_out(draft)


def _stands_apart(board: Board, commit: str, best: str) -> bool:
    """Whether what conflicts with the best is better than it by itself."""
    comparison = None if commit in board.refused else board.evidence.gain(commit, best)
    return comparison is not None and comparison[0] > 0


def _combine(draft: Draft) -> Order | None:
    """Near misses in company: each is more likely good than bad, and a group of them can be told from the noise."""
    board, best = draft.board, draft.board.best
    if not draft.policy.combines or not best or not best.commit or draft.enough_is_under_way:
        return None
    group = board.pool.next_missed(_NEAR, draft.being_tried)
    likely = sum(each.likely for each in group)
    value = expected_excess(likely, math.hypot(*(each.spread for each in group)))
    free = stands_idle(draft)
    few = likely < _CLEAR * (_SPARE if free else 1) * draft.sigma and len(group) < _NEAR
    if board.closed:  # the last chance of those that have had none, if the best can still be measured after it
        few = board.pool.tried_before(group) or evaluations_to_spare(draft) <= _claims(draft)
    if len(group) < 2 or few or (value < 2 * board.effects.worth(draft.sigma) and not free):
        return None
    return _replay(draft, best.commit, group, f"{len(group)} near misses tried together")


def _may_gather(draft: Draft) -> bool:
    """One group at a time: the next one builds on what came of it."""
    able = draft.policy.gathers and draft.board.nominee is None
    return able and not draft.gathering and not draft.enough_is_under_way


def _replay(draft: Draft, onto: str, group: Sequence[Change], why: str) -> Replay:
    return Replay(draft.id, onto, tuple(each.commit for each in group), draft.seed, draft.beat(onto), why)


def _claim(draft: Draft) -> Order | None:
    """In the end the best is measured so often that its value holds when it is measured again."""
    board, best = draft.board, draft.board.best
    if not board.closed or best is None or not best.commit or not board.published or board.nominee or draft.gathering:
        return None
    wanted = _claims(draft) - board.evidence.times(best.commit) - draft.under_way[best.commit]
    if wanted <= 0 or draft.lane.remeasure_failures_in_a_row >= PATIENCE:
        return None
    return draft.remeasure(best.commit, "the best, so that its value holds")


def _ends(draft: Draft) -> Order | None:
    """The run is closed: what another lane may still propose as the best needs this device once more.

    Nobody waits for what agents may still propose that have failed again and again.
    """
    closed = draft.board.closed
    return _stand_by(draft) if closed and not closed.failed and draft.working else None


def _stand_by(draft: Draft) -> Order | None:
    """While others finish: the only second device, or the only one of its class, must be there to confirm."""
    best, here = draft.board.best, draft.lane.seat
    if best is None or not best.commit or draft.policy.confirmations < 2 or draft.lane.remeasure_failures_in_a_row:
        return None
    busy = [each for each in draft.working if not isinstance(each.order, Wait)]
    if len(busy) == draft.under_way[best.commit]:
        return None  # the others only stand by, too
    if evaluations_to_spare(draft) <= 0:
        return None
    workers = {lane.seat.worker for lane in busy} - {here.worker}
    classes = {lane.seat.device_class for lane in busy}
    if not workers or (len(workers) > 1 and here.device_class in classes):
        return None
    return draft.remeasure(best.commit, "while others finish, the best is measured once more")


def _rests(draft: Draft) -> Order | None:
    """Its slot is busy without this lane: what it would propose now would be old when its turn to be measured came."""
    wishes = any(isinstance(each, Measured) and each.attempt.rests for each in draft.events)
    if wishes and any(each.seat.worker == draft.lane.seat.worker for each in draft.working):
        return Stop("it rests: fewer lanes keep its slot busy")
    return None


def _try_elsewhere(draft: Draft) -> Order | None:
    """What a retired slot took with it, on this one: once, as it may itself be what brought the device down."""
    board, best = draft.board, draft.board.best
    if not draft.policy.gathers or not best or not best.commit:
        return None
    lost = (found for each in board.stranded if (found := board.at(each)) and found.status is Status.LOST)
    experiment = next(lost, None)
    if experiment is None or experiment.commit is None:
        return None
    why = "its slot was retired before it was decided"
    return Replay(draft.id, best.commit, (experiment.commit,), draft.seed, draft.beat(best.commit), why)


def _fell_behind(draft: Draft) -> Order | None:
    """Where changes are not gathered: the worse half moves onto the best, and may take along what it found."""
    board, lane = draft.board, draft.lane
    best = board.best.commit if board.best else None
    if best is None or lane.head == best or draft.policy.gathers:
        return None
    ranking, every = board.ranking(), board.program.options.every
    move = draft.policy.moves(ranking.index(draft.name), len(ranking), lane.hand_ins, every)
    if move == "stay":
        return None
    if lane.own and move == "replay":
        return Replay(draft.id, best, lane.own, draft.seed, draft.beat(best), "fell behind")
    draft.note(Moved(draft.now, draft.name, best, (), "fell behind: stands on the best"))
    return None


def _stands_on_the_best(draft: Draft) -> None:
    """Where changes are gathered, nobody loses anything by moving: and the best is the best known parent there is."""
    board, head = draft.board, draft.lane.head
    best = board.best.commit if board.best else None
    if not draft.policy.gathers or best is None or head == best:
        return
    draft.note(Moved(draft.now, draft.name, best, (), "stands on the best; what it kept is brought together there"))


def _parent_is_vague(draft: Draft) -> Order | None:
    """What many are compared with is measured more often, by the root of their number (Dunnett, 1955)."""
    head, here = draft.lane.head, draft.device_class
    score = draft.board.evidence.on(head, here)
    if score is None or not draft.policy.gathers or not draft.sigma or draft.lane.remeasure_failures_in_a_row:
        return None
    compared = draft.board.compared(head, here)
    if score.n**2 >= compared or (score.n + draft.under_way[head]) ** 2 >= compared:
        return None
    return draft.remeasure(head, "many are compared with it")


def _propose(draft: Draft) -> Order | None:
    return draft.propose(draft.lane.head)


_Rule = Callable[[Draft], Order | None]
_RULES: tuple[_Rule, ...] = (
    _slot_is_retired,
    _closed_hard,
    _hours_are_over,
    _paused_to_the_end,
    _machine_is_sick,
    _baseline_fails,
    _owes_a_verdict,
    held,
    _cannot_stand_here,
    _limit_is_reached,
    _no_evaluation_is_left,
    give_up,
    _mend,
    _baseline_first,
    _confirm_the_nominee,
    _hold_out,
    _gather,
    _combine,
    out_of_money,
    _claim,
    _ends,
    _closed,
    _others_do_the_rest,
    submitted,
    _rests,
    _try_elsewhere,
    _fell_behind,
    _stands_on_the_best,
    _parent_is_vague,
    nobody_proposes,
    meanwhile,
    _propose,
)
