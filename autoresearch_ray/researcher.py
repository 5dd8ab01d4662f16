"""One lane's loop: take an order, make a candidate, measure it, hand it in. The reply is the next order.

This page is the whole idea. Everything it needs is handed to it; nothing here knows of Ray, of threads or of the board.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_ray import logs, repair
from autoresearch_ray.errors import RepoError
from autoresearch_ray.evaluator import Evaluator
from autoresearch_ray.model import (
    Ablate,
    Attempt,
    Failure,
    FailureKind,
    Holdout,
    Measurement,
    Price,
    Proposal,
    Propose,
    Remeasure,
    Replay,
    Stop,
    Try,
    Use,
    Wait,
)
from autoresearch_ray.money import reports
from autoresearch_ray.ports import Agent, Reply, Signals, Taken, Welcome
from autoresearch_ray.proposals import sane, together, told, trouble_with
from autoresearch_ray.store import Candidate, Store

Work = Propose | Remeasure | Replay | Ablate | Try | Holdout

_PROPOSALS = 3  # for one order, while they bring nothing new
_NOTHING_NEW = frozenset({FailureKind.NO_EFFECT, FailureKind.DUPLICATE})
_NOT_DONE = frozenset({FailureKind.NO_CHANGE, FailureKind.AGENT, FailureKind.MACHINE})  # of a repair
_LOGS = ("", "agent.", "holdout.")  # the experiment's own, its agent's, and one that is no experiment's
_PACK_AGAIN_SECONDS = (0.5, 5.0, 60.0)


@dataclass(slots=True)
class Researcher:
    """One lane on one seat."""

    lane: str
    sitting: int
    welcome: Welcome
    submit: Callable[[Attempt, bytes, Mapping[str, bytes]], Reply]  # the desk's
    claim: Callable[[str, str, str, str], Taken | None]  # the desk's
    store: Store
    agent: Agent
    evaluator: Evaluator
    folder: Path
    signals: Signals
    price: Price | None = None  # of the tokens of its agent

    def run(self, reply: Reply) -> None:
        """Work until told to stop. What a drain or a halt leaves undone is ordered again when the run is taken up."""
        waited = None
        while not isinstance(reply.order, Stop):
            order = reply.order
            attempt = self._waited(order) if isinstance(order, Wait) else self.attempt(order, reply)
            if attempt is None:
                return
            bundle = self._bundle(attempt)
            ends, began = logs.taken(self._log(attempt.id, what) for what in _LOGS), time.monotonic()
            reply = self.submit(replace(attempt, reply_seconds=waited), bundle, ends)
            waited = time.monotonic() - began

    def _waited(self, order: Wait) -> Attempt | None:
        """Come back when it is time. The slot is free for other lanes meanwhile."""
        with self.evaluator.slot.clock.doing(Use.BACKING_OFF):
            if self.signals.drain.wait(order.seconds):
                return None
        nothing = Measurement(None, Failure(FailureKind.AGENT, order.why))
        return Attempt(order.id, self.lane, self.sitting, order.kind, "", None, nothing)

    def attempt(self, order: Work, reply: Reply) -> Attempt | None:
        """Carry out the order: make a candidate, and measure it. None if a drain or a halt came in between.

        An agent whose edit is nothing new is told so, and proposes again: twice at most. One whose edit was refused, or
        crashed at once, may repair it, once; what comes of that counts, if anything does.
        """
        parent = order.parent if isinstance(order, Propose | Replay | Ablate | Try) else order.commit
        attempt = Attempt(order.id, self.lane, self.sitting, order.kind, parent, None, Measurement(None, _UNDONE))
        attempt, made = self._candidate(attempt, order, reply)
        if self.signals.drain.is_set():
            return None
        if isinstance(made, Failure):
            return replace(attempt, measurement=Measurement(None, made))
        measured, fault = self._evaluated(attempt, order, made)
        if measured is None or fault is None:
            return measured
        attempt, mended = self._repaired(measured, order, reply, fault, made)
        if self.signals.drain.is_set():
            return None
        if isinstance(mended, Failure) or mended.tree == made.tree:
            return replace(measured, usage=attempt.usage, repaired=fault.what)
        with logs.behind(self._log(order.id), "after the repair"):
            return self._evaluated(attempt, order, mended)[0]

    def _candidate(self, attempt: Attempt, order: Work, reply: Reply) -> tuple[Attempt, Candidate | Failure]:
        """What is to be measured, or why there is nothing; as it came to be when a drain came in between."""
        for left in reversed(range(_PROPOSALS)):
            attempt, made = self._made(attempt, order, reply)
            if self.signals.drain.is_set():
                return attempt, made
            if reply.brief is None or isinstance(made, Candidate) or made.kind not in _NOTHING_NEW or not left:
                break
            reply = replace(reply, bundle=b"", brief=told(reply.brief, made))
        fault = _fault(made) if self._may_repair(order, attempt) else None
        if fault is None:
            return attempt, made
        again, mended = self._repaired(attempt, order, reply, fault, made)
        if isinstance(made, Failure) and isinstance(mended, Failure) and mended.kind in _NOT_DONE:
            return replace(attempt, usage=again.usage, repaired=fault.what), made
        return again, mended

    def _may_repair(self, order: Work, attempt: Attempt) -> bool:
        return isinstance(order, Propose) and not attempt.repaired and getattr(self.agent, "repairs", False)

    def _repaired(
        self, attempt: Attempt, order: Work, reply: Reply, fault: repair.Fault, refused: Candidate | Failure
    ) -> tuple[Attempt, Candidate | Failure]:
        """The same proposal once more, by an agent that knows what is wrong with it."""
        assert reply.brief is not None
        self.evaluator.slot.told(self.lane, order)  # the slot waits for one turn more, or lets another lane begin
        reply = Reply(order, brief=repair.asked(reply.brief, fault))
        return self._made(replace(attempt, repaired=fault.what), order, reply, refused)

    def _evaluated(self, attempt: Attempt, order: Work, made: Candidate) -> tuple[Attempt | None, repair.Fault | None]:
        """The attempt with its measurement, and what of it goes back to the agent. None: a drain or a halt came."""
        budget = self.welcome.program.eval.budget_seconds
        with self.evaluator.slot.clock.trial(_use(order, self.welcome.base)) as trial:
            measurement = self._measured(order, made.commit)
            if measurement is None:
                return None, None
            goes_back = self._may_repair(order, attempt) and not self.signals.drain.is_set()
            fault = repair.crashed(measurement, budget) if goes_back else None
            trial.counts = fault is None and not _machine(measurement)
        attempt = replace(attempt, commit=made.commit, line=made.line, lines=made.lines, tree=made.tree)
        return replace(attempt, measurement=measurement), fault

    def _made(
        self, attempt: Attempt, order: Work, reply: Reply, refused: Candidate | Failure | None = None
    ) -> tuple[Attempt, Candidate | Failure]:
        """The candidate, or why there is none. A fault of this machine is its own failure, not the idea's.

        `refused` is what the agent is to repair.
        """
        try:
            self.store.unpack(reply.bundle)
            match order:
                case Remeasure(commit=commit, why=why):
                    return replace(attempt, idea=why), Candidate(commit)
                case Holdout(commit=commit):
                    return attempt, Candidate(commit)
                case Replay(commits=commits, parent=parent):
                    made = self.store.replay(commits, parent)
                    picked, left_out = ((), commits) if isinstance(made, Failure) else (made.picked, made.left_out)
                    idea = f"replay of {len(picked)} of {len(commits)} changes onto the best"
                    attempt = replace(attempt, idea=idea, picked=picked, left_out=left_out)
                    return attempt, self._new(attempt, made)
                case Ablate(commit=commit, parent=parent, why=why):
                    attempt = replace(attempt, idea=why, left_out=(commit,))
                    return attempt, self._new(attempt, self.store.without(commit, parent))
                case Try(commit=commit, parent=parent, idea=idea):
                    attempt = replace(attempt, idea=idea)
                    return attempt, self._new(attempt, self.store.candidate(parent, [commit]))
                case Propose():
                    tree = self.folder / "agent"
                    self.store.stand(tree, self._ground(tree, order, refused))
                    proposal = self._proposal(tree, order, reply)
                    if refused and (proposal.error or not proposal.idea):
                        proposal = replace(proposal, idea=attempt.idea, params=attempt.params)
                    usage = together(attempt.usage, proposal.usage)
                    attempt = replace(attempt, idea=proposal.idea, params=proposal.params, usage=usage)
                    made = self._committed(tree, order, proposal)
                    trouble = trouble_with(proposal, made) if isinstance(made, Failure) else None
                    return replace(attempt, trouble=trouble), self._new(attempt, made)
        except (OSError, RepoError) as error:
            return attempt, Failure(FailureKind.MACHINE, str(error))

    def _ground(self, tree: Path, order: Propose, refused: Candidate | Failure | None) -> str:
        """The commit that the agent stands on: of an edit that it is to repair, what of it may stay."""
        if refused is None:
            return order.rework.commit if order.rework else order.parent
        if isinstance(refused, Candidate):
            return refused.commit
        return self.store.within(tree, order.parent, self.welcome.program.scope, self.welcome.prefix)

    def _new(self, attempt: Attempt, made: Candidate | Failure) -> Candidate | Failure:
        """The candidate, if nobody has measured its files yet; from now on they are this lane's."""
        if isinstance(made, Failure):
            return made
        taken = self.claim(self.lane, attempt.id, made.tree, attempt.idea)
        return Failure(FailureKind.DUPLICATE, taken.words) if taken else made

    def _proposal(self, tree: Path, order: Propose, reply: Reply) -> Proposal:
        """Have the agent edit the tree. It may be anybody's code: whatever it raises is a failure of the agent."""
        assert reply.brief is not None
        checkout, log = tree / self.welcome.prefix, self._log(order.id, "agent.")
        began, said = time.monotonic(), reports(self.agent)
        with logs.behind(log, "asked to repair it") if reply.brief.repair else nullcontext():
            try:
                with self.evaluator.slot.clock.doing(Use.AGENT):
                    proposal = self.agent.propose(checkout, reply.brief, log, self.signals.drain)
                return sane(proposal, time.monotonic() - began, said, self.price)
            except Exception as error:  # noqa: BLE001
                failed = Proposal("", error=f"the agent raised {type(error).__name__}: {error}")
        return sane(failed, time.monotonic() - began, said, self.price)

    def _committed(self, tree: Path, order: Propose, proposal: Proposal) -> Candidate | Failure:
        """What the agent did is what differs in its tree, whatever it says."""
        scope, prefix = self.welcome.program.scope, self.welcome.prefix
        made = self.store.commit(tree, order.parent, proposal.idea, scope, prefix, order.id)
        if isinstance(made, Candidate) and order.rework and made.tree == self.store.tree(order.rework.commit):
            made = Failure(FailureKind.NO_CHANGE, "no file was changed")
        if isinstance(made, Failure) and made.kind is FailureKind.NO_CHANGE and proposal.error:
            return Failure(FailureKind.AGENT, proposal.error)
        return made

    def _measured(self, order: Work, commit: str) -> Measurement | None:
        log, signals = self._log(order.id, "holdout." if isinstance(order, Holdout) else ""), self.signals
        try:
            match order:
                case Holdout():
                    return self.evaluator.hold_out(commit, order.id, order.seed, log, signals)
                case Remeasure():
                    return self.evaluator.measure(commit, order.id, order.seed, log, signals, guarded=False)
                case Propose() | Replay() | Ablate() | Try():
                    return self.evaluator.measure(commit, order.id, order.seed, log, signals, beat=order.beat)
        except (OSError, RepoError) as error:
            return Measurement(None, Failure(FailureKind.MACHINE, str(error)))

    def _bundle(self, attempt: Attempt) -> bytes:
        """What brings the commit to the desk. Where git fails, again: what was measured is worth the time it takes."""
        if not attempt.commit or not attempt.line:
            return b""
        for pause in _PACK_AGAIN_SECONDS:
            with suppress(RepoError):
                return self.store.pack([attempt.commit], [attempt.parent])
            self.signals.drain.wait(pause)
        return self.store.pack([attempt.commit], [attempt.parent])

    def _log(self, id: str, what: str = "") -> Path:
        return self.folder / f"{id.rpartition('-')[2]}.{what}log"


def _fault(made: Candidate | Failure) -> repair.Fault | None:
    """What is to be repaired before anything is measured."""
    if isinstance(made, Failure):
        return repair.refused(made)
    return repair.misspelt(made.unreadable) if made.unreadable else None


def _machine(measurement: Measurement) -> bool:
    return measurement.failure is not None and measurement.failure.kind is FailureKind.MACHINE


def _use(order: Work, base: str) -> Use:
    """What the slot's seconds go to while it measures what was ordered."""
    match order:
        case Propose() | Try():
            return Use.CANDIDATES
        case Replay() | Ablate():
            return Use.GROUPS
        case Remeasure(commit=commit):
            return Use.BASELINES if commit == base else Use.AGAIN
        case Holdout():
            return Use.HOLDOUT


_UNDONE = Failure(FailureKind.MACHINE, "not carried out")
