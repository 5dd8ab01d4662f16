"""What lanes do while no agent can be asked: work that needs no model and helps, or nothing.

A slot that waits costs no more than one that measures for nothing. What helps, in this order: confirming what would be
the best, bringing changes together (rules of `orders` that ask for less then, see `stands_idle`), knowing the best
better, which all are compared with, and trying the best without one of its changes.
"""

from __future__ import annotations

from autoresearch_ray.breaker import chance_of
from autoresearch_ray.draft import Draft
from autoresearch_ray.model import Ablate, Experiment, Order, Wait
from autoresearch_ray.verdicts import PATIENCE, evaluations_to_spare

# The error of a comparison with one measurement is 1.41 sigma if the other side has one, too, and 1.06 if it has 8:
# more of them would tell little more.
_WELL_KNOWN = 8
# In a run, each change once: most bring nothing, and they count as experiments, of which they may be a tenth.
_ABLATIONS, _SHARE = 16, 0.1
_BURST_SECONDS = 1.0  # so long ahead lanes may begin: eight at once, so that small runs wait for nothing
_LOOK_SECONDS = (1.0, 15.0)  # between two looks at what others have handed in; 64 lanes ask four times a second


def why_not(draft: Draft) -> str:
    """Why this lane is to ask no agent now, in words; "" if it may."""
    breaker = draft.board.breaker
    if breaker.blocks(draft.now):
        return breaker.why
    if draft.lane.backs_off_until > draft.now:
        return "its agent has brought nothing new again and again"
    return ""


def stands_idle(draft: Draft) -> bool:
    """Whether this lane's slot would stand idle: then an evaluation costs nothing."""
    if draft.board.closed or not why_not(draft):
        return False
    beside = (each for each in draft.working if each.seat.worker == draft.lane.seat.worker)
    return draft.board.breaker.blocks(draft.now) or all(isinstance(each.order, Wait) for each in beside)


def give_up(draft: Draft) -> None:
    """Closes the run when all agents fail again and again: a human must look. What needs no model is still done."""
    board, times = draft.board, draft.board.idle_agents_in_a_row
    reason = board.agent_failure.message if board.agent_failure else ""
    if times >= max(2 * PATIENCE, PATIENCE * len(board.lanes)):
        draft.stop(f"the agents failed {times} times in a row: {reason}", failed=True)
    elif board.breaker.hopeless(draft.now):
        draft.stop(f"{board.breaker.why}: {reason}", failed=True)


def meanwhile(draft: Draft) -> Order | None:
    """No agent can be asked: the best is measured once more, or without one of its changes, or the lane waits."""
    why = why_not(draft)
    if why:
        work = None
        if stands_idle(draft) and evaluations_to_spare(draft) > 0:
            work = _know_the_best(draft) or _ablate(draft)
        return work or wait(draft, why)
    return _begin_apart(draft)


def out_of_money(draft: Draft) -> Order | None:
    """The run is closed because its dollars are spent, and the GPUs cost none: the best without one of its changes."""
    board, options = draft.board, draft.board.program.options
    spent = options.cost_usd is not None and board.cost_usd >= options.cost_usd
    counted = options.experiments is not None and board.counted >= options.experiments
    evaluated = options.evaluations is not None and board.evaluations >= options.evaluations
    return _ablate(draft) if board.closed and spent and not counted and not evaluated else None


def _know_the_best(draft: Draft) -> Order | None:
    board, best, here = draft.board, draft.board.best, draft.device_class
    if best is None or not best.commit or draft.lane.remeasure_failures_in_a_row:
        return None
    known = board.evidence.on(best.commit, here)
    if (known.n if known else 0) + draft.under_way[best.commit] >= _WELL_KNOWN:
        return None
    return draft.remeasure(best.commit, f"{why_not(draft)}: meanwhile the best is measured once more")


def _ablate(draft: Draft) -> Order | None:
    """The best without one of its changes: the one that is expected to bring least, and of two the longer one."""
    board, best = draft.board, draft.board.best
    if not draft.policy.gathers or best is None or not best.commit:
        return None
    under_way = {each.order.commit for each in draft.working if isinstance(each.order, Ablate)}
    inside = [found for each in board.contains(best.commit) if (found := board.at(each)) and found.kind == "propose"]
    left = [each for each in inside if each.commit not in board.ablated | under_way]
    most = min(_ABLATIONS, int(_SHARE * board.counted))
    if len(inside) < 2 or not left or len(board.ablated | under_way) >= most:
        return None
    least = min(left, key=_promise)
    why = f"without #{least.number}: {least.idea}"
    return Ablate(draft.id, best.commit, least.commit or "", draft.seed, draft.beat(best.commit), why)


def _promise(change: Experiment) -> tuple[float, int, int]:
    return change.likely or 0.0, -change.lines, change.number


def wait(draft: Draft, why: str) -> Wait:
    """Until an agent may be asked, but not longer than until other lanes may have found something to measure."""
    board, lane = draft.board, draft.lane
    shortest, longest = _LOOK_SECONDS
    look = min(max(board.eval_seconds or 0.0, shortest), longest) * (0.75 + chance_of(draft.id) / 2)
    until = board.breaker.until if board.breaker.is_open else lane.backs_off_until
    left = (until or 0.0) - draft.now
    return Wait(draft.id, min(left, look) if left > 0 else look, why)


def _begin_apart(draft: Draft) -> Wait | None:
    """A run of many slots does not call its provider from all of them in one second."""
    seconds = draft.board.turn - _BURST_SECONDS - draft.now
    if draft.lane.has_begun or seconds <= 0:
        return None
    return Wait(draft.id, seconds, "the lanes begin one after another")
