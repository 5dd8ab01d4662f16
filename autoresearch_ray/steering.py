"""What one can do to a run from outside, as functions of its folder: for the command line, and for other faces.

Each returns when the message is in the run's inbox; a driver takes it up within a second, or the next one does.
`taken_up` waits for that, `results` says what came of what was submitted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from autoresearch_ray import inbox
from autoresearch_ray.board import Board
from autoresearch_ray.certainty import value
from autoresearch_ray.cli.folder import LEDGER, driver, folded
from autoresearch_ray.errors import SetupError
from autoresearch_ray.ledger import Tail
from autoresearch_ray.messages import Hold, Release, Submit, Tell
from autoresearch_ray.model import Experiment, Status, Try
from autoresearch_ray.results import why

_POLL_SECONDS = 0.05  # between two looks at the inbox, for the second that it takes
_LOOK_SECONDS = 0.5  # between two looks at the ledger's end: one read of a file that mostly has not grown

State = Literal["sent", "queued", "measuring", "deciding", "keep", "discard", "crash", "lost", "declined"]
DECIDED = frozenset({"keep", "discard", "crash", "lost", "declined"})


@dataclass(frozen=True, slots=True)
class Patch:
    """A change to be measured: a unified diff, with paths from the top of the repository, and what it is about."""

    patch: str
    idea: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a submission so far. Unknown is None; `value` and `gain` in the metric's unit, positive is better.

    `sent` waits in the inbox, `queued` for a lane; `deciding` has a value that is too close to call as yet.
    """

    id: str
    state: State
    idea: str
    by: str
    parent: str | None = None
    commit: str | None = None
    lane: str | None = None
    number: int | None = None  # of the experiment, as in `log` and `show`
    value: float | None = None
    error: float | None = None  # the standard error of the value
    gain: float | None = None  # over its parent, when it was judged
    gain_error: float | None = None
    reason: str = ""
    best: bool = False  # it is the published best, or part of it

    @property
    def decided(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in DECIDED

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def tell(folder: Path, text: str, lanes: Sequence[str] = (), *, keep: bool = False) -> str:
    """Say `text` to the agents of `lanes`, or of all: for the next proposals or, with `keep`, for the rest of the run.

    Returns the id of the message. Raises `SetupError` for a lane that there is not, or a text that is too long.
    """
    _known(folder, lanes)
    (id,) = inbox.ids(1)
    inbox.send(folder, [Tell(id, text, tuple(lanes), keep)])
    return id


def hold(folder: Path, lane: str) -> str:
    """Have `lane` finish what it is about and do nothing more until it is released. Returns the id of the message."""
    _known(folder, [lane])
    (id,) = inbox.ids(1)
    inbox.send(folder, [Hold(id, lane)])
    return id


def release(folder: Path, lane: str) -> str:
    """Let `lane` go on. Returns the id of the message."""
    _known(folder, [lane])
    (id,) = inbox.ids(1)
    inbox.send(folder, [Release(id, lane)])
    return id


def submit(folder: Path, patches: Sequence[Patch], *, parent: str = "", by: str = "human") -> list[str]:
    """Have each patch measured as an experiment of its own, before what agents propose. Returns their ids, in order.

    `parent` is what the patches are against: a commit or an experiment of the run, a lane, or "" for the best that
    there is now. Raises `SetupError` for what is too long, or empty.
    """
    named = inbox.ids(len(patches))
    parent = parent or _best(folder)
    letters = [Submit(id, each.patch, each.idea, parent, by) for id, each in zip(named, patches, strict=True)]
    inbox.send(folder, letters)
    return named


def taken_up(folder: Path, ids: Collection[str], timeout: float) -> bool:
    """Wait until the run has taken these messages up, at most `timeout` seconds. False: they wait in its inbox.

    Does not wait where no driver lives.
    """
    deadline = time.monotonic() + timeout
    while _sent(folder, ids):
        if time.monotonic() >= deadline or not driver(folder).alive:
            return not _sent(folder, ids)
        time.sleep(_POLL_SECONDS)
    return True


def results(folder: Path, ids: Sequence[str] = (), timeout: float = 0.0) -> list[Result]:
    """What came of these submissions, or of all: now, or when all have a verdict, `timeout` seconds have passed, or
    nothing more comes because the run is over.

    Raises `SetupError` for an id that nobody has submitted.
    """
    deadline = time.monotonic() + timeout
    tail = Tail(folder / LEDGER)
    board = folded(folder, tail.read())
    while True:
        alive, sent = driver(folder).alive, _letters(folder)  # before the ledger: a message is there, or in it
        for events in tail.read():
            for event in events:
                board.apply(event)
        known = {each.id: each for each in [*_results(board), *sent]}
        if unknown := [each for each in ids if each not in known]:
            raise SetupError(f"nobody has submitted {unknown[0]!r}", "`autoresearch-ray results` lists what was")
        found = [known[each] for each in ids] if ids else list(known.values())
        over = not alive or (board.closed and all(each.decided or each.state == "queued" for each in found))
        left = deadline - time.monotonic()  # of a timeout that is no number it is none: who asks for that gets no wait
        if over or not left > 0 or all(each.decided for each in found):
            return found
        time.sleep(min(_LOOK_SECONDS, left))


# --- Inside ----------------------------------------------------------------------------------------------------------


def _best(folder: Path) -> str:
    """The commit of the best that whoever submits has before him: by the time he is heard it may be another, and while
    a grid is taken up one of its own patches may become it. "" where the run has not begun."""
    if not (folder / LEDGER).exists():
        return ""
    board = folded(folder, Tail(folder / LEDGER).read())
    return (board.best and board.best.commit) or board.opened.base


def _known(folder: Path, lanes: Sequence[str]) -> None:
    if not lanes:
        return
    there = folded(folder, Tail(folder / LEDGER).read()).lanes
    if unknown := [each for each in lanes if each not in there]:
        hint = f"known: {', '.join(sorted(there))}" if there else "nobody sits down yet: ask again in a moment"
        raise SetupError(f"there is no lane {unknown[0]!r} in the run {folder.name!r}", hint)


def _sent(folder: Path, ids: Collection[str]) -> bool:
    """Whether one of these messages is still in the inbox."""
    return any(each.stem in ids for each in inbox.waiting(folder))


def _letters(folder: Path) -> list[Result]:
    """What was submitted and is still in the inbox."""
    found = []
    for path in inbox.waiting(folder):
        try:
            letter = inbox.read(path)
        except SetupError:  # no message, or taken up just now
            continue
        if isinstance(letter, Submit):
            found.append(Result(letter.id, "sent", letter.idea, letter.by))
    return found


def _results(board: Board) -> list[Result]:
    """All that was taken up, in the order in which it was decided, and then what waits."""
    declined = [
        Result(each.id, "declined", each.idea, each.by, reason=each.reason)
        for each in board.outside.declined
        if each.by
    ]
    waiting = {each.submitted.id for each in board.outside.queue}
    decided = {each.submission: each for each in board.experiments if each.submission not in ("", *waiting)}
    return [*declined, *(_verdict(board, each) for each in decided.values()), *_queue(board)]


def _verdict(board: Board, experiment: Experiment) -> Result:
    known, best = value(board, experiment), board.best
    inside = board.contains(best.commit) if best and best.commit else frozenset()
    deciding = experiment.status is Status.PENDING
    return Result(
        id=experiment.submission,
        state="deciding" if deciding else cast(State, str(experiment.status)),
        idea=experiment.idea,
        by=experiment.by,
        parent=experiment.parent,
        commit=experiment.commit,
        lane=experiment.lane,
        number=experiment.number,
        value=known.mean if known else None,
        error=known.error if known else None,
        gain=experiment.gain,
        gain_error=experiment.error,
        reason=why(experiment),
        best=experiment.commit in inside,
    )


def _queue(board: Board) -> Iterator[Result]:
    lanes = {
        lane.order.submission: name
        for name, lane in board.lanes.items()
        if lane.ordered and isinstance(lane.order, Try)
    }
    for each in board.outside.queue:
        event = each.submitted
        if each.number is not None:
            yield _verdict(board, board.experiments[each.number])
            continue
        lane = lanes.get(event.id)
        state: State = "measuring" if lane else "queued"
        yield Result(event.id, state, event.idea, event.by, event.parent, event.commit, lane)
