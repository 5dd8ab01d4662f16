"""How what lanes have found comes together on the best: rules of `orders`.

Kept changes are gathered onto the best, and near misses are tried on it in company. Under policies that do not gather,
a lane that fell behind moves onto the best, and may take along what it found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from autoresearch_ray.board import Board
from autoresearch_ray.confirming import claims, confirm_the_nominee, hold_out
from autoresearch_ray.draft import Draft
from autoresearch_ray.events import Moved
from autoresearch_ray.meanwhile import stands_idle
from autoresearch_ray.model import Experiment, Order, Replay, Rule, Status
from autoresearch_ray.noise import expected_excess
from autoresearch_ray.pool import Change
from autoresearch_ray.verdicts import GROUP, evaluations_to_spare, nominate, settle

_ENOUGH = 4.0  # standard deviations of one measurement: what changes should bring together to be gathered
_CLEAR = 3.0  # the same of near misses to be tried together
_NEAR = 32  # near misses
_SPARE = 0.5  # of what is asked for otherwise, where a slot would stand idle: 16 measurements tell 2 sigma from nothing
# Fruitless groups in a row at which a closed run stops bringing together: cornering one bad change among 64 takes
# seven. Where nothing helps, what 5,000 experiments had kept by chance was once tried in 500 groups more.
_FRUITLESS = 8


def gather(draft: Draft) -> Order | None:
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
    made = board.catalogue.made_of(board.contains(best.commit) | {each.commit for each in group})
    experiment = board.at(made) if made and made not in board.refused else None
    if experiment is not None:
        return _nominated(draft, experiment)  # it is that very combination
    return _replay(draft, best.commit, group, f"{len(group)} kept changes brought together")


def _nominated(draft: Draft, experiment: Experiment) -> Order | None:
    """It may have been measured often enough already: then it is published, or refused, at once."""
    nominate(draft, experiment)
    settle(draft)
    return confirm_the_nominee(draft) or hold_out(draft)


def _stands_apart(board: Board, commit: str, best: str) -> bool:
    """Whether what conflicts with the best is better than it by itself."""
    comparison = None if commit in board.refused else board.evidence.gain(commit, best)
    return comparison is not None and comparison[0] > 0


def combine(draft: Draft) -> Order | None:
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
        few = (
            _is_fruitless(board, "missed")
            or board.pool.tried_before(group)
            or evaluations_to_spare(draft) <= claims(draft)
        )
    if len(group) < 2 or few or (value < 2 * board.effects.worth(draft.sigma) and not free):
        return None
    return _replay(draft, best.commit, group, f"{len(group)} near misses tried together")


def _may_gather(draft: Draft) -> bool:
    """One group at a time: the next one builds on what came of it."""
    board = draft.board
    able = draft.policy.gathers and board.nominee is None and not _is_fruitless(board, "kept")
    return able and not draft.gathering and not draft.enough_is_under_way


def _is_fruitless(board: Board, what: Literal["kept", "missed"]) -> bool:
    """Whether the run is over, and groups of these changes have brought nothing again and again."""
    return board.closed is not None and board.fruitless[what] >= _FRUITLESS


def _replay(draft: Draft, onto: str, group: Sequence[Change], why: str) -> Replay:
    return Replay(draft.id, onto, tuple(each.commit for each in group), draft.seed, draft.beat(onto), why)


def try_elsewhere(draft: Draft) -> Order | None:
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


def fell_behind(draft: Draft) -> Order | None:
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


def stands_on_the_best(draft: Draft) -> None:
    """Where changes are gathered, nobody loses anything by moving: and the best is the best known parent there is."""
    board, head = draft.board, draft.lane.head
    best = board.best.commit if board.best else None
    if not draft.policy.gathers or best is None or head == best:
        return
    draft.note(Moved(draft.now, draft.name, best, (), "stands on the best; what it kept is brought together there"))
