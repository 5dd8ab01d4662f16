"""The one desk: joins the board, the ledger, the hub and the clock.

A hand-in is handled in this order, and each step may be repeated after a crash without harm: commits into the hub, logs
into their files, the decision, the ledger (on the disk), the board, the branches, the reply. So every commit that the
ledger names is in the hub, and an order never leaves before the verdict it follows from is safe.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from autoresearch_ray import board as boards
from autoresearch_ray import brief, by_hand, digest, ledger, orders, patch
from autoresearch_ray.advice import AFRESH
from autoresearch_ray.certainty import comparable
from autoresearch_ray.errors import LedgerError, RepoError
from autoresearch_ray.events import Declined, Event, Left, Moved, Published, Seated, Vacated
from autoresearch_ray.messages import Message, Submit
from autoresearch_ray.model import (
    Ablate,
    Attempt,
    Brief,
    Experiment,
    Failure,
    FailureKind,
    Holdout,
    Order,
    Past,
    Propose,
    Remeasure,
    Replay,
    Seat,
    Spent,
    Status,
    Stop,
    Try,
)
from autoresearch_ray.ports import Policy, Reply, Taken, Welcome, named
from autoresearch_ray.repo import Candidate, Hub, Store
from autoresearch_ray.run_folder import collect_logs

_RECENT = 300  # experiments that a brief may draw on: it stays as long after ten thousand
_PATIENCE_SECONDS = 20.0  # a dead driver's coordinator was seen to hold on for some seconds
_ROOM = "make room on the disk, then run the same again"
_KNOWN = 64  # commits that a lane is remembered to have
_TIDY = 500  # hand-ins between two times of packing the hub and collecting logs
_LOGS = 5000  # the newest, which stay besides those of what was kept


class _Claim(NamedTuple):
    """The files that a lane is measuring, and what they are to try."""

    tree: str
    idea: str


class Coordinator:
    """A `Desk`. Safe to be called from many threads."""

    def __init__(self, folder: Path, clock: Callable[[], float] | None = None) -> None:
        """Take up the run in `folder`, whose ledger has been opened. Raises `LedgerError` if another one has it."""
        self.folder = folder
        self._ledger = ledger.Ledger(folder / "ledger.jsonl", patience_seconds=_PATIENCE_SECONDS)
        self._board = boards.replay(ledger.read(folder / "ledger.jsonl"))
        self._board.memory.read()  # of 10,000 experiments in 0.2 s, for which no lane has to wait
        self._clock = clock or steady(self._board.last_at)
        self._hub = Hub.open(folder / "hub.git")
        self._hub.unlock()
        self._policy: Policy = named("policies", self._board.program.options.policy)()
        self._lock = threading.Lock()
        self._history = b""  # the base and all before it, packed once for all workers
        self._known = {name: self._only_the_base() for name in self._board.lanes}
        self._claims: dict[str, _Claim] = {}  # what each lane is measuring
        self._base_tree = self._hub.git("rev-parse", f"{self._board.opened.base}^{{tree}}").decode().strip()
        self._diff = lru_cache(maxsize=64)(self._hub.diff)
        # The branches that are to be moved, and where to.
        self._behind = {self._branch(name): lane.head for name, lane in self._board.lanes.items()}
        if self._board.published:
            self._behind[f"autoresearch/{self._board.opened.tag}"] = self._board.published[-1].commit
        self._move_branches()

    # --- The desk ----------------------------------------------------------------------------------------------------

    def welcome(self) -> Welcome:
        opened = self._board.opened
        with self._lock:
            self._history = self._history or self._hub.pack([opened.base])
        name = hashlib.sha256(f"{opened.tag} {opened.base} {opened.at}".encode()).hexdigest()[:12]
        program = self._board.program
        return Welcome(name, opened.tag, program, opened.base, opened.prefix, self._history, str(self.folder))

    def sit(self, seat: Seat, spent: Spent | None = None) -> tuple[int, Reply]:
        with self._lock:
            self._claims.pop(seat.lane, None)
            self._known[seat.lane] = self._only_the_base()
            events, order = orders.sit(self._board, seat, self._clock(), self._policy, spent)
            self._record(events)
            reply = self._reply(seat.lane, order)
            sitting, unfinished = self._board.lanes[seat.lane].sitting, orders.unfinished(self._board, seat.worker)
        return sitting, replace(reply(), unfinished=unfinished)

    def claim(self, lane: str, id: str, tree: str, idea: str) -> Taken | None:
        with self._lock:
            order = self._board.lanes[lane].order
            if order is None or isinstance(order, Stop) or order.id != id:
                return None  # from an earlier sitting: what comes of it does not count
            taken = self._taken(lane, tree)
            if taken is None:
                self._claims[lane] = _Claim(tree, idea)
            return taken

    def pause(self, worker: int, reason: str) -> bool:
        with self._lock:
            events, goes_on = orders.pause(self._board, worker, reason, self._clock())
            self._record(events)
            return goes_on

    def submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        late = None
        with self._lock:
            if not orders.answers(self._board, attempt):  # or handed in twice: nothing of it is kept
                late = self._reply(attempt.lane, orders.decide(self._board, attempt, 0.0, self._policy)[1])
        if late:
            return late()
        self._keep_commit(attempt, bundle)
        self._keep_logs(attempt.lane, logs)
        with self._lock:
            events, order = orders.decide(self._board, attempt, self._clock(), self._policy)
            if events:
                self._claims.pop(attempt.lane, None)
                self._learn(attempt)
            self._record(events)
            reply, turn = self._reply(attempt.lane, order), self._board.attempts
        if events and turn % _TIDY == 0:
            self._tidy()
        return reply()

    def left(self, spent: Spent) -> None:
        with self._lock:
            self._record([Left(self._clock(), spent)])

    # --- For the driver ----------------------------------------------------------------------------------------------

    def close(self, reason: str, hard: bool = False, failed: bool = False) -> None:
        """No lane proposes any more; `hard` leaves undecided what would need more measurements."""
        with self._lock:
            self._record(orders.close(self._board, reason, self._clock(), hard=hard, failed=failed))

    def hear(self, message: Message) -> str:
        """Take up what somebody says from outside. Returns why nothing can come of it, or "".

        Hearing the same again changes nothing. Raises `LedgerError` if it cannot be kept: then it was not heard.
        """
        if isinstance(message, Submit):
            return self._submitted(message)
        with self._lock:
            events = by_hand.heed(self._board, message, self._clock())
            self._record(events)
        return next((each.reason for each in events if isinstance(each, Declined)), "")

    def leave(self) -> None:
        """Let go of the ledger. Raises `RepoError` if a branch is not where it should be."""
        with self._lock:
            behind, self._behind = self._behind, {}
            self._ledger.close()
            for name, commit in behind.items():
                self._hub.branch(name, commit)

    def vacate(self, worker: int, reason: str) -> int:
        """The worker is gone: its lanes hold nothing up any more. Returns how many orders they were given so far."""
        with self._lock:
            events = orders.vacate(self._board, worker, reason, self._clock())
            self._record(events)
            for event in events:
                if isinstance(event, Vacated):
                    self._claims.pop(event.lane, None)
            return sum(lane.number for lane in self._board.lanes.values() if lane.seat.worker == worker)

    def closed(self) -> bool:
        """Whether nothing new is proposed any more."""
        with self._lock:
            return self._board.closed is not None

    def _submitted(self, message: Submit) -> str:
        """Make a commit of the patch, in the hub before the ledger names it; the desk goes on meanwhile."""
        with self._lock:
            if message.id in self._board.outside.heard:
                return ""
            parent = by_hand.parent_of(self._board, message.parent)
        made = parent if isinstance(parent, Failure) else self._patched(message, parent)
        with self._lock:
            if isinstance(made, Candidate) and (taken := self._taken("", made.tree)):
                made = Failure(FailureKind.DUPLICATE, taken.words)
            commit = made if isinstance(made, Failure) else made.commit
            self._record(by_hand.received(self._board, message, str(parent), commit, self._clock()))
        return made.message if isinstance(made, Failure) else ""

    def _patched(self, message: Submit, parent: str) -> Candidate | Failure:
        scope, opened, store = self._board.program.scope, self._board.opened, Store(self._hub.folder)
        try:
            made = patch.applied(store, message.patch, parent, message.idea, scope, opened.prefix, message.id)
            if isinstance(made, Candidate):
                self._hub.git("update-ref", f"refs/submitted/{message.id}", made.commit)
        except RepoError as error:  # declined, not tried again: it may be the patch that git cannot bear
            return Failure(FailureKind.MACHINE, error.message)
        except OSError as error:
            raise LedgerError(f"there is no room to apply {message.id}: {error.strerror}", _ROOM) from error
        return made

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _record(self, events: Sequence[Event]) -> None:
        """Ledger first, then the board, then the branches. Where the ledger cannot be written, nothing has happened."""
        if not events:
            return
        self._ledger.append(events)
        for event in events:
            self._board.apply(event)
        for event in events:
            if isinstance(event, Moved):
                self._behind[self._branch(event.lane)] = event.head
            elif isinstance(event, Seated) and event.sitting == 1:
                self._behind[self._branch(event.seat.lane)] = self._board.lanes[event.seat.lane].head
            elif isinstance(event, Published):
                self._behind[f"autoresearch/{self._board.opened.tag}"] = event.commit
        self._move_branches()

    def _move_branches(self) -> None:
        """They follow from the ledger and hold nothing up: what cannot be moved now is moved with the next line."""
        for name, commit in list(self._behind.items()):
            with suppress(RepoError):
                self._hub.branch(name, commit)
                del self._behind[name]

    def _learn(self, attempt: Attempt) -> None:
        """What the lane has shown to have. After a fault of its machine nothing is taken for granted."""
        failure = attempt.measurement.failure
        if failure is not None and failure.kind is FailureKind.MACHINE:
            self._known[attempt.lane] = self._only_the_base()
        else:
            self._known[attempt.lane].extend((*_needed(self._board.lanes[attempt.lane].order), *attempt.line))

    def _only_the_base(self) -> deque[str]:
        return deque([self._board.opened.base], maxlen=_KNOWN)

    def _branch(self, lane: str) -> str:
        return f"autoresearch/{self._board.opened.tag}-{lane}"

    def _taken(self, lane: str, tree: str) -> Taken | None:
        known = self._board.experiments[0] if tree == self._base_tree else self._board.catalogue.tree(tree)
        if known and known.status is not Status.LOST:
            return Taken(known.number, _outcome(known))
        other = next((name for name, held in self._claims.items() if held.tree == tree and name != lane), None)
        return Taken(None, f"this is being measured right now on {other}") if other else None

    def _tidy(self) -> None:
        """A run of weeks has no more files than one of a night. What fails here is done the next time."""
        kept = {each.id for each in self._board.experiments[:] if each.status is Status.KEEP}
        with suppress(RepoError, OSError):
            self._hub.tidy()
            collect_logs(self.folder, kept, _LOGS)

    def _keep_commit(self, attempt: Attempt, bundle: bytes) -> None:
        if bundle and attempt.commit:
            ref = f"refs/attempts/{attempt.lane}/{attempt.id.rpartition('-')[2]}"
            try:
                self._hub.unpack(bundle, ref, attempt.commit)
            except RepoError as error:
                raise LedgerError(f"the hub cannot keep {attempt.commit[:7]}: {error.message}", _ROOM) from error

    def _keep_logs(self, lane: str, logs: Mapping[str, bytes]) -> None:
        folder = self.folder / "logs" / lane
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in logs.items():
                (folder / name).write_bytes(content)
        except OSError as error:
            raise LedgerError(f"cannot write {folder}: {error.strerror}", _ROOM) from error

    def _reply(self, lane: str, order: Order) -> Callable[[], Reply]:
        """What the lane is told, to be made without the lock: to pack commits is the longest part of a hand-in."""
        known = list(self._known.get(lane, ()))
        missing = [each for each in dict.fromkeys(_needed(order)) if each not in known]
        told = self._brief(lane, order) if isinstance(order, Propose) else None
        return lambda: Reply(order, self._hub.pack(missing, known) if missing else b"", told)

    def _brief(self, lane: str, order: Propose) -> Brief:
        board, here, rework = self._board, self._board.lanes[lane], order.rework

        def read(experiment: Experiment | None) -> Experiment | None:
            return comparable(board, experiment) if experiment else None

        recent = [comparable(board, each) for each in board.experiments[-_RECENT:]]
        parent, noise = board.at(order.parent), board.noise_of(here.seat.device_class)
        prompt = brief.compose(
            program=board.program,
            lane=lane,
            id=order.id,
            parent=read(parent),
            baseline=read(board.baseline),
            best=read(board.best),
            leaders=[(name, at) for name in board.ranking() if (at := read(board.at(board.lanes[name].head)))],
            history=recent,
            memory=board.memory,
            under_way=digest.under_way(board, lane, {name: each.idea for name, each in self._claims.items()}),
            diff=self._diff(order.parent, rework.commit) if rework else self._diff(board.opened.base, order.parent),
            inside=board.contains(order.parent) if parent else frozenset(),
            discards_in_a_row=here.discards_in_a_row,
            index=sorted(board.lanes).index(lane),
            lanes=len(board.lanes),
            restarts=here.discards_in_a_row // AFRESH,
            noise=board.noise if noise is None else noise,
            rework=rework,
            hints=board.outside.hints_for(lane, here.proposals),
        )
        return Brief(order.id, prompt, board.direction, tuple(_past(each) for each in recent), order.seed)


def steady(last: float) -> Callable[[], float]:
    """Seconds since the epoch, not before `last`, that no later change of the machine's clock makes jump.

    A night of eight hours would otherwise end when somebody sets the clock.
    """
    began, then = max(time.time(), last), time.monotonic()
    return lambda: began + time.monotonic() - then


def _needed(order: Order | None) -> tuple[str, ...]:
    """The commits that a lane works with to carry out `order`."""
    match order:
        case Propose(parent=parent, rework=rework):
            return (parent, rework.commit) if rework else (parent,)
        case Remeasure(commit=commit) | Holdout(commit=commit):
            return (commit,)
        case Replay(parent=parent, commits=commits):
            return (parent, *commits)
        case Ablate(parent=parent, commit=commit) | Try(parent=parent, commit=commit):
            return (parent, commit)
    return ()


def _outcome(experiment: Experiment) -> str:
    """What came of an experiment, for one who is about to try the same."""
    status, reason = experiment.status, experiment.reason
    parts = [
        "no verdict yet" if status is Status.PENDING else str(status),
        "" if experiment.value is None else f"{experiment.value:.6g}",
        reason.removeprefix(f"{status}: "),
    ]
    words = "is the baseline itself" if experiment.number == 0 else "tried exactly this"
    return brief.one_line(f"#{experiment.number} {words}: {', '.join(filter(None, parts))}", 300)


def _past(experiment: Experiment) -> Past:
    return Past(
        experiment.number,
        experiment.lane,
        experiment.status,
        experiment.value,
        experiment.idea,
        experiment.reason,
        experiment.params,
    )
