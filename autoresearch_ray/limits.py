"""When a run ends: its limits, and what its lanes do from then on. Rules of `orders`.

A limit closes the run: nobody proposes any more, and what was found is still brought together and confirmed. Hours that
are over stop that, too.
"""

from __future__ import annotations

from autoresearch_ray.board import Board
from autoresearch_ray.confirming import claims, stand_by
from autoresearch_ray.draft import Draft
from autoresearch_ray.meanwhile import money_is_spent, wait
from autoresearch_ray.model import Order, Stop

_ENDING = 5  # evaluations before the end of its hours at which a run stops proposing


def closed_hard(draft: Draft) -> Order | None:
    """The run was ended at once: by hand, or as a human must look."""
    closed = draft.board.closed
    return Stop(closed.reason, hard=True) if closed and closed.hard else None


def hours_are_over(draft: Draft) -> Order | None:
    """All lanes stop at the next hand-in, and what is undecided stays so."""
    if elapsed(draft.board, draft.now):
        hours = draft.board.program.options.hours
        return draft.stop(f"{hours:g} hours are over", hard=True, finished=True)
    return None


def elapsed(board: Board, now: float) -> bool:
    """Whether the run has been live for as many hours as it may."""
    hours = board.program.options.hours
    return hours is not None and board.elapsed_seconds(now) >= hours * 3600


def limit_is_reached(draft: Draft) -> None:
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
    return min(claims(draft) + 4 * draft.policy.confirmations, evaluations // 4)


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


def no_evaluation_is_left(draft: Draft) -> Order | None:
    """The limit is strict: what is under way fills it."""
    return Stop(f"{draft.board.program.options.evaluations} evaluations") if draft.evaluations_left <= 0 else None


def run_is_over(draft: Draft) -> Order | None:
    """It is closed, and nothing is left for this lane to bring together or to confirm."""
    closed = draft.board.closed
    return Stop(closed.reason) if closed else None


def ends(draft: Draft) -> Order | None:
    """The run is closed: what another lane may still propose as the best needs this device once more.

    Nobody waits for what agents may still propose that have failed again and again.
    """
    closed = draft.board.closed
    return stand_by(draft) if closed and not closed.failed and draft.working else None


def others_do_the_rest(draft: Draft) -> Order | None:
    """Enough is under way: this lane stops, and the others finish.

    Nothing may come of what is asked of a provider that is gone then: where agents ask several, the lanes wait instead.
    """
    if not draft.enough_is_under_way:
        return None
    why = f"the other lanes do the rest of {draft.board.program.options.experiments} experiments"
    alone = len({draft.board.provider(name) for name in draft.board.lanes}) == 1
    return stand_by(draft) or (Stop(why) if alone else wait(draft, why))
