"""The verdict on a candidate, and whether it becomes the published best.

Nothing here changes a board: what follows is noted on a draft. How sure is sure enough is the policy's to say; what is
compared with what, and what else must hold, is said here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from autoresearch_ray.board import Board
from autoresearch_ray.draft import Draft
from autoresearch_ray.events import Judged, Moved, Nominated, Published, Refused
from autoresearch_ray.model import Experiment, FailureKind, Remeasure, Rule, Status
from autoresearch_ray.objective import numbers
from autoresearch_ray.ports import Case, Judgement

PATIENCE = 3  # failures in a row of a machine, a baseline or a re-measurement before the lane gives it up
_NOT_THE_IDEA = frozenset({FailureKind.AGENT, FailureKind.MACHINE})
_NEVER_COUNTED = frozenset(
    {
        FailureKind.OUT_OF_SCOPE,
        FailureKind.NO_CHANGE,
        FailureKind.NO_EFFECT,
        FailureKind.DUPLICATE,
        FailureKind.CONFLICT,
        FailureKind.GUARD,
    }
)
GROUP = 64  # changes brought together at once
_DOUBTED = 3  # measurements of a suspicious value before it is judged
_INTERPLAY = 0.25  # share of what changes bring alone by which they may miss it in company
_FAILURES = 2  # of what would be the best, when it is measured again
_HOLDOUTS = 3  # measurements of a holdout before it refuses a commit


# --- The verdict -----------------------------------------------------------------------------------------------------


def judge(draft: Draft) -> None:
    """The verdict on what the lane owes one, if it can be given now; and where the lane stands after it."""
    if draft.lane.pending is None:
        return
    candidate = draft.board.experiments[draft.lane.pending]
    verdict = _verdict(draft, candidate)
    if verdict is None and draft.lane.seat.worker in draft.board.retired:
        reason = "its slot was retired before it was decided"
        verdict = Judged(draft.now, candidate.id, draft.name, Status.LOST, reason)
    if verdict is None:
        return
    gathered = any(draft.board.pool.is_kept(each) for each in candidate.picked)
    draft.note(verdict)
    own = draft.lane.own
    if verdict.status is Status.KEEP and candidate.commit:
        if gathered:
            nominate(draft, candidate)
        own = candidate.line if candidate.kind == "replay" else (*own, *candidate.line)
        draft.note(Moved(draft.now, draft.name, candidate.commit, own, f"kept {candidate.id}"))
    elif candidate.kind == "replay" and verdict.status is not Status.LOST:
        best = draft.board.best
        head = best.commit if best and best.commit else candidate.parent
        draft.note(Moved(draft.now, draft.name, head, (), f"{candidate.id} did not pay: stands on the best"))


def _verdict(draft: Draft, candidate: Experiment) -> Judged | None:
    board, failure = draft.board, candidate.failure

    def judged(
        status: Status,
        reason: str,
        gain: float | None = None,
        error: float | None = None,
        likely: float | None = None,
        spread: float | None = None,
    ) -> Judged:
        return Judged(draft.now, candidate.id, draft.name, status, reason, gain, error, likely, spread)

    if failure is not None:
        lost, uncounted = failure.kind in _NOT_THE_IDEA, failure.kind in _NEVER_COUNTED
        status = Status.LOST if lost else Status.DISCARD if uncounted else Status.CRASH
        return judged(status, f"{failure.kind}: {failure.message}")
    if draft.lane.remeasure_failures_in_a_row >= PATIENCE:
        return judged(Status.LOST, "it could not be measured again, nor its parent for comparison")
    commit = candidate.commit or ""
    comparison, last = board.evidence.gain(commit, candidate.parent), evaluations_to_spare(draft) <= 0
    if comparison is None:
        return judged(Status.LOST, "no evaluation is left to compare it with its parent") if last else None
    gain, error = comparison
    broken = _broken(board, commit)
    if broken:
        return judged(Status.DISCARD, broken, gain, error)
    judgement = _judgement(draft, candidate, candidate.parent, (gain, error), draft.policy.judge)
    doubts = f"suspicious ({'; '.join(candidate.doubts)}): " if candidate.doubts else ""
    doubtful = bool(doubts) and len(candidate.values) < _DOUBTED
    if not last and (judgement.call == "again" or (doubtful and judgement.call == "keep")):
        return None
    status = Status.KEEP if judgement.call == "keep" and not doubtful else Status.DISCARD
    return judged(status, doubts + judgement.reason, gain, error, judgement.likely, judgement.spread)


def _judgement(
    draft: Draft, candidate: Experiment, over: str, found: tuple[float, float], ask: Callable[[Case], Judgement]
) -> Judgement:
    """What the policy says when it is asked: of the metric or, where any number may win, of each in turn.

    `found` is the gain in the metric over the commit `over`, and its error.
    """
    board, commit, metric = draft.board, candidate.commit or "", draft.board.program.eval.metric.name
    judgement = ask(case(draft, candidate, over, *found))
    if board.program.eval.rule is not Rule.PARETO:
        return judgement
    said = {metric: (judgement, *found)}
    for each in board.program.eval.also:
        evidence = board.others[each.name]
        gain, sigma = evidence.gain(commit, over), evidence.sigma(draft.device_class) or 0.0
        noise = evidence.sigma(draft.device_class, commit) or 0.0
        if gain is not None:
            # Nothing is known of what changes do to it: as likely better as worse, by some noise.
            scaled = Case(*gain, evidence.times(commit), sigma, (0.0, 2 * noise), 0.0, None, candidate.lines, noise)
            said[each.name] = (ask(scaled), *gain)
    for name, (_, gain_in, unsure) in said.items():
        if gain_in < -2 * unsure:
            return Judgement("discard", f"{name} gets worse by {-gain_in:.3g}")
    for name, (each_said, _, _) in said.items():
        if each_said.call == "keep":
            words = f"{name} is better, nothing is worse: {each_said.reason}"
            return Judgement("keep", words, judgement.likely, judgement.spread)
    return next((each_said for each_said, _, _ in said.values() if each_said.call == "again"), judgement)


def case(draft: Draft, candidate: Experiment, over: str, gain: float, error: float) -> Case:
    """`candidate` against `over`, for the policy."""
    board, sigma, commit = draft.board, draft.sigma, candidate.commit or ""
    noise = board.evidence.sigma(draft.device_class, commit) or 0.0
    best = board.best
    leads = board.evidence.gain(commit, best.commit) if best and best.commit else None
    return Case(
        gain=gain,
        error=error,
        n=board.evidence.times(commit),
        sigma=sigma,
        prior=_prior(board, candidate, over, noise),
        worth=math.inf if board.closed else board.effects.worth(sigma),
        lead=leads[0] if leads else None,
        lines=candidate.lines,
        own=noise if noise > sigma else 0.0,
    )


def _prior(board: Board, candidate: Experiment, over: str, sigma: float) -> tuple[float, float]:
    """What `candidate` is expected to gain over `over`: the sum of what its changes did where they were first measured.

    The change that a proposal itself makes counts as any other change does: its own measurements come on top.
    """
    commit = candidate.commit or ""
    mean, variance = 0.0, 0.0
    for each in board.contains(commit) - board.contains(over):
        sign, known = 1.0, each if each != commit else None
        if known is None and candidate.kind == "ablate":  # what the change brought that it takes out, turned round
            sign, known = -1.0, candidate.left_out[0]
        change = board.at(known) if known else None
        if change is None or change.likely is None or change.spread is None:
            likely, spread = board.effects.prior(sigma)
        else:
            likely, spread = sign * change.likely, change.spread
        mean, variance = mean + likely, variance + spread * spread
    if candidate.kind in ("replay", "ablate"):
        variance += (_INTERPLAY * mean) ** 2
    return mean, math.sqrt(variance)


def _broken(board: Board, commit: str) -> str:
    """Which limit of the other numbers this commit breaks for sure, in words; "" if none."""
    for each in numbers(board.program.eval):
        if each.bound is None and each.limit is None:
            continue
        evidence = board.others[each.name]
        score, base = evidence.score(commit), evidence.score(evidence.base)
        if score is None:
            continue
        unsure = 2 * (evidence.deviation(commit) or 0.0) / math.sqrt(score.n)
        if each.bound is not None and each.direction.gain(score.mean, each.bound) < -unsure:
            return f"{each.name} is {score.mean:.4g}, and the limit is {each.bound:.4g}"
        if each.limit is not None and base is not None:
            worse = -each.direction.gain(score.mean, base.mean)
            if worse - unsure > each.limit * abs(base.mean):
                share = f"{worse / abs(base.mean):.0%}" if base.mean else f"{worse:.3g}"
                return f"{each.name} is {share} worse than the baseline's, and the limit is {each.limit:.0%}"
    return ""


# --- The best --------------------------------------------------------------------------------------------------------


def settle(draft: Draft) -> None:
    """What would be the best is nominated; what was nominated is published, refused, or waits for more."""
    _nominate(draft)
    nominee, board = draft.board.nominee, draft.board
    if nominee is None:
        return
    if board.failures[nominee.commit] >= _FAILURES or not _can_be_measured(draft):
        draft.note(Refused(draft.now, nominee.id, nominee.commit, "it fails when it is measured again"))
        return
    standing = standing_of_nominee(draft)
    if standing is None:
        return
    under_way = draft.under_way[nominee.commit] + draft.under_way[(board.best and board.best.commit) or ""]
    if standing.call == "discard":
        draft.note(Refused(draft.now, nominee.id, nominee.commit, standing.reason))
    elif standing.call == "again" and draft.evaluations_left <= 0 and not under_way:
        reason = f"no evaluation is left to make sure of it: {standing.reason}"
        draft.note(Refused(draft.now, nominee.id, nominee.commit, reason))
    elif standing.call == "keep" and (verdict := _held_out(draft, nominee.commit)) is not None:
        if verdict:
            draft.note(Refused(draft.now, nominee.id, nominee.commit, verdict))
            return
        score = board.score(nominee.commit)
        assert score is not None
        times = board.evidence.times(nominee.commit)
        draft.note(Published(draft.now, nominee.id, nominee.commit, score.mean, times))


def _can_be_measured(draft: Draft) -> bool:
    """Whether a lane is left that has not failed again and again at measuring what others have found."""
    return any(lane.remeasure_failures_in_a_row < PATIENCE for lane in (draft.lane, *draft.working))


def nominate(draft: Draft, experiment: Experiment) -> None:
    """`experiment` would be the best: from now on it is confirmed, if enough evaluations are left for that."""
    assert experiment.commit is not None
    if draft.evaluations_left >= to_confirm(draft, experiment.commit):
        draft.note(Nominated(draft.now, experiment.id, experiment.commit))


def to_confirm(draft: Draft, commit: str) -> int:
    """How many evaluations must still be ordered, at least, until `commit` can be published."""
    board, best = draft.board, draft.board.best
    missing = draft.policy.confirmations - board.evidence.times(commit) - draft.under_way[commit]
    places = _elsewhere(draft, commit)
    compared = board.evidence.gain(commit, (best and best.commit) or "") is not None
    return max(0, missing, 1 if places and not measured_in(draft, places, commit) else 0) + (not compared)


def evaluations_to_spare(draft: Draft) -> float:
    """Evaluations that are left, and that what would be the best does not need."""
    nominee = draft.board.nominee
    return draft.evaluations_left - (to_confirm(draft, nominee.commit) if nominee else 0)


def measured_in(draft: Draft, places: set[tuple[int, str]], commit: str) -> bool:
    """Whether another lane is measuring `commit` on one of these (worker, device class)."""
    measuring = (each for each in draft.working if isinstance(each.order, Remeasure) and each.order.commit == commit)
    return any((each.seat.worker, each.seat.device_class) in places for each in measuring)


def _nominate(draft: Draft) -> None:
    """The lane's head, if it would be the best. Where changes are gathered, it must have them all: see `gathering`."""
    board, head = draft.board, draft.lane.head
    experiment, best = board.at(head), board.best
    if board.nominee or not best or not best.commit or not experiment or head == best.commit or head in board.refused:
        return
    comparison = board.evidence.gain(head, best.commit)
    behind = comparison is not None and comparison[0] <= 0 and board.program.eval.rule is not Rule.PARETO
    if experiment.status is not Status.KEEP or behind:
        return
    if board.contains(head) <= board.contains(best.commit):
        return
    if draft.policy.gathers and not (experiment.kind == "replay" and _complete(draft, head)):
        return
    nominate(draft, experiment)


def _complete(draft: Draft, commit: str) -> bool:
    """Whether nothing that was tried with it is left to be brought together, and nothing is being brought together."""
    group = draft.board.pool.next_kept(GROUP)
    inside = draft.board.contains(commit)
    return not draft.gathering and all(each.commit in inside for each in group)


def standing_of_nominee(draft: Draft) -> Judgement | None:
    """What the policy says of the nominee against the best; None while it is not confirmed enough to be asked."""
    board, nominee = draft.board, draft.board.nominee
    experiment = board.at(nominee.commit) if nominee else None
    if not nominee or not experiment or not board.best or not board.best.commit:
        return None
    comparison = board.evidence.gain(nominee.commit, board.best.commit)
    few = board.evidence.times(nominee.commit) < draft.policy.confirmations
    if comparison is None or few or wanted_elsewhere(draft):
        return None
    return _judgement(draft, experiment, board.best.commit, comparison, draft.policy.publishes)


def wanted_elsewhere(draft: Draft) -> set[tuple[int, str]]:
    """The (worker, device class) of active lanes on one of which the nominee must still be measured; none: it was.

    A second device is enough, of another class where there is one.
    """
    nominee = draft.board.nominee
    return _elsewhere(draft, nominee.commit) if nominee else set()


def _elsewhere(draft: Draft, commit: str) -> set[tuple[int, str]]:
    if draft.policy.confirmations < 2:
        return set()
    able = [lane for lane in (draft.lane, *draft.working) if lane.remeasure_failures_in_a_row < PATIENCE]
    seats = [lane.seat for lane in able]
    seen = draft.board.places(commit)
    workers, classes = {each.worker for each in seen}, {each.device_class for each in seen}
    others = {(each.worker, each.device_class) for each in seats if each.device_class not in classes}
    if others and len(classes) < 2:
        return others
    return (
        {(each.worker, each.device_class) for each in seats if each.worker not in workers}
        if len(workers) < 2
        else set()
    )


def _held_out(draft: Draft, commit: str) -> str | None:
    """What the holdout says of `commit`: "" confirms it, words refuse it, None is not known yet."""
    board = draft.board
    if not board.program.eval.holdout:
        return ""
    if failure := board.holdout_failures.get(commit):
        return f"the holdout fails on it: {failure.kind}: {failure.message}"
    comparison = board.held_out.gain(commit, (board.best and board.best.commit) or "")
    if comparison is None:
        return None
    if comparison[0] > 0:
        return ""
    if board.held_out.times(commit) < _HOLDOUTS:
        return None
    new, old = board.held_out.score(commit), board.held_out.score((board.best and board.best.commit) or "")
    assert new and old
    return f"the holdout does not confirm it: {new.mean:.6g}, and {old.mean:.6g} for the best before it"
