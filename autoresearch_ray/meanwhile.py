"""What lanes do while no agent can be asked: work that needs no model and helps, or nothing.

A slot that waits costs no more than one that measures for nothing. What helps, in this order: confirming what would be
the best, bringing changes together (rules of `gathering` that ask for less then, see `stands_idle`), knowing the best
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
    if draft.breaker.blocks(draft.now):
        return draft.breaker.why
    if draft.lane.backs_off_until > draft.now:
        return "its agent has brought nothing new again and again"
    return too_dear(draft)


def too_dear(draft: Draft) -> str:
    """Why there may be no money for this lane's next proposal, in words; "" if there is."""
    if draft.board.next_usd(draft.name) <= draft.left_usd:
        return ""
    return "the dollars that are left are set aside for other proposals, or too few for one of its own"


def money_is_spent(draft: Draft) -> bool:
    """Whether no proposal that costs anything can be paid any more, whatever those under way will turn out to cost."""
    cap, board = draft.board.program.options.cost_usd, draft.board
    if cap is None or board.money.spent_usd >= cap:
        return cap is not None
    if any(each.reserved_usd for each in draft.working):
        return False
    names = (name for name, lane in board.lanes.items() if lane.ordered or name == draft.name)
    costs = [usd for name in names if (usd := board.next_usd(name)) > 0]
    return bool(costs) and min(costs) > draft.left_usd


def stands_idle(draft: Draft) -> bool:
    """Whether this lane's slot would stand idle: then an evaluation costs nothing."""
    if draft.board.closed or not why_not(draft):
        return False
    beside = (each for each in draft.working if each.seat.worker == draft.lane.seat.worker)
    return all(isinstance(each.order, Wait) or draft.board.breaker(each.seat.lane).blocks(draft.now) for each in beside)


def give_up(draft: Draft) -> None:
    """Closes the run when all agents fail again and again: a human must look. What needs no model is still done."""
    why = _hopeless(draft, draft.name)
    if why and all(_hopeless(draft, name) for name, lane in draft.board.lanes.items() if lane.ordered):
        draft.stop(why, failed=True)


def _hopeless(draft: Draft, name: str) -> str:
    """Why the agents that ask the provider of a lane are given up, in words; "" while they are not."""
    board, provider, breaker = draft.board, draft.board.provider(name), draft.board.breaker(name)
    times, failure = board.idle_agents_in_a_row.get(provider, 0), board.agent_failures.get(provider)
    reason = failure.message if failure else ""
    what = f"{failure.kind}: {reason}" if failure else ""
    lanes = sum(board.provider(each) == provider for each in board.lanes) if times >= 2 * PATIENCE else 0
    if lanes and times >= PATIENCE * lanes:
        return f"the last {times} proposals came to nothing: {what}"
    return f"{breaker.why}: {reason}" if breaker.hopeless(draft.now) else ""


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
    counted = options.experiments is not None and board.counted >= options.experiments
    evaluated = options.evaluations is not None and board.evaluations >= options.evaluations
    return _ablate(draft) if board.closed and money_is_spent(draft) and not counted and not evaluated else None


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
    until = draft.breaker.until if draft.breaker.is_open else lane.backs_off_until
    left = (until or 0.0) - draft.now
    return Wait(draft.id, min(left, look) if left > 0 else look, why)


def _begin_apart(draft: Draft) -> Wait | None:
    """A run of many slots does not call its provider from all of them in one second."""
    seconds = draft.board.turn - _BURST_SECONDS - draft.now
    if draft.lane.has_begun or seconds <= 0:
        return None
    return Wait(draft.id, seconds, "the lanes begin one after another")
