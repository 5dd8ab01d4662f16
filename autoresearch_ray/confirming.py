"""What is measured once more, and why: rules of `orders`.

The baseline, what is too close to call, what would be the best, what many are compared with, and in the end the best.
"""

from __future__ import annotations

from autoresearch_ray.draft import Draft
from autoresearch_ray.meanwhile import stands_idle
from autoresearch_ray.model import Holdout, Order, Remeasure, Wait
from autoresearch_ray.verdicts import (
    PATIENCE,
    evaluations_to_spare,
    measured_in,
    standing_of_nominee,
    wanted_elsewhere,
)

_BASELINES = 16  # slots of one class that measure the base when they begin: more of them would tell little more
_AT_ONCE = 3  # measurements of what would be the best, when nothing else is left to do


def baseline_first(draft: Draft) -> Order | None:
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


def owes_a_verdict(draft: Draft) -> Order | None:
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


def confirm_the_nominee(draft: Draft) -> Order | None:
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


def hold_out(draft: Draft) -> Order | None:
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


def parent_is_vague(draft: Draft) -> Order | None:
    """What many are compared with is measured more often, by the root of their number (Dunnett, 1955)."""
    head, here = draft.lane.head, draft.device_class
    score = draft.board.evidence.on(head, here)
    if score is None or not draft.policy.gathers or not draft.sigma or draft.lane.remeasure_failures_in_a_row:
        return None
    compared = draft.board.compared(head, here)
    if score.n**2 >= compared or (score.n + draft.under_way[head]) ** 2 >= compared:
        return None
    return draft.remeasure(head, "many are compared with it")


def claim(draft: Draft) -> Order | None:
    """In the end the best is measured so often that its value holds when it is measured again."""
    board, best = draft.board, draft.board.best
    if not board.closed or best is None or not best.commit or not board.published or board.nominee or draft.gathering:
        return None
    wanted = claims(draft) - board.evidence.times(best.commit) - draft.under_way[best.commit]
    if wanted <= 0 or draft.lane.remeasure_failures_in_a_row >= PATIENCE:
        return None
    return draft.remeasure(best.commit, "the best, so that its value holds")


def claims(draft: Draft) -> int:
    """How many measurements the best should have in the end: the more, the longer the run was."""
    return min(draft.policy.claims, draft.policy.confirmations + draft.board.counted // 25)


def stand_by(draft: Draft) -> Order | None:
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
