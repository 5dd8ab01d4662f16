"""What people ask of a run while it goes on: hints, pauses, changes of their own. Decisions; the state is `outside`."""

from __future__ import annotations

from collections.abc import Iterator

from autoresearch_ray.board import Board
from autoresearch_ray.draft import Draft
from autoresearch_ray.events import Declined, Event, Held, Released, Resteered, Submitted, Told
from autoresearch_ray.meanwhile import wait
from autoresearch_ray.messages import Hold, Release, Resteer, Submit, Tell
from autoresearch_ray.model import Failure, FailureKind, Order, Stop, Try

NOBODY = "submitted"  # the agent that is never asked


def heed(board: Board, message: Tell | Hold | Release | Resteer, now: float) -> list[Event]:
    """The events that follow from a message; of one that was heard before, or changes nothing, there are none."""
    match message:
        case Resteer(title=title, text=text, strategy=strategy, notes=notes):
            program = board.program
            same = (title, text, strategy, notes) == (program.title, program.text, program.strategy, program.notes)
            return [] if same else [Resteered(now, title, text, strategy, notes)]
        case _ if message.id in board.outside.heard:
            return []
        case Tell(id=id, text=text, lanes=lanes, keep=keep):
            return [Told(now, id, text, lanes, keep)]
        case Hold(id=id, lane=lane) | Release(id=id, lane=lane) if lane not in board.lanes:
            return [Declined(now, id, f"there is no lane {lane!r}")]
        case Hold(id=id, lane=lane):
            return [Held(now, id, lane)]
        case Release(id=id, lane=lane):
            return [Released(now, id, lane)]


def parent_of(board: Board, name: str) -> str | Failure:
    """The commit that a change is submitted against: of an experiment, of a lane, or with "" of the best.

    Only what was measured can be compared with.
    """
    if name in ("", "best"):
        return (board.best and board.best.commit) or board.opened.base
    lane = board.lanes.get(name.removeprefix(f"autoresearch/{board.opened.tag}-"))
    found = board.at(lane.head) if lane else board.find(name)
    if found is None or found.commit is None or (found.number and not found.values):
        return Failure(FailureKind.CONFLICT, f"there is no measured commit {name!r} in this run to put it on")
    return found.commit


def received(board: Board, message: Submit, parent: str, made: str | Failure, now: float) -> list[Event]:
    """The events that follow from a change that is the commit `made` of `parent` now, or cannot be one."""
    if message.id in board.outside.heard:
        return []
    if isinstance(made, Failure):
        return [Declined(now, message.id, f"{made.kind}: {made.message}", message.idea, message.by)]
    return [Submitted(now, message.id, made, parent, message.idea, message.by)]


def held(draft: Draft) -> Order | None:
    """Somebody paused this lane. What it had begun is decided by now; nobody counts on it while it waits."""
    closed = draft.board.closed
    if not draft.lane.held:
        return None
    return Stop(closed.reason) if closed else wait(draft, "it was paused by hand")


def submitted(draft: Draft) -> Order | None:
    """What somebody submitted, the oldest first: that is what a human wants to know now, and no agent need be asked."""
    event = next(_untried(draft), None) if draft.board.outside.queue else None
    if event is None:
        return None
    beat = draft.beat(event.parent)
    return Try(draft.id, event.parent, event.commit, event.id, draft.seed, beat, event.idea, event.by)


def is_wanted(draft: Draft, order: Try) -> bool:
    """Whether nobody else has measured, or is measuring, what this lane was to try when it went."""
    return any(each.id == order.submission for each in _untried(draft))


def _untried(draft: Draft) -> Iterator[Submitted]:
    tried = {lane.order.submission for lane in draft.others if lane.ordered and isinstance(lane.order, Try)}
    for each in draft.board.outside.queue:
        if each.number is None and each.submitted.id not in tried:
            yield each.submitted


def nobody_proposes(draft: Draft) -> Order | None:
    """The run measures what is submitted, and nothing to pass the time: what comes next is to find a free slot."""
    if draft.board.agent_options(draft.name).agent != NOBODY:
        return None
    return wait(draft, "nothing is submitted")
