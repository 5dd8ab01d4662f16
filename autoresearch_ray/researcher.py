"""One lane's loop: take an order, make a candidate, measure it, hand it in. The reply is the next order.

This page is the whole idea. Everything it needs is handed to it; nothing here knows of Ray, of threads or of the board.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_ray.errors import RepoError
from autoresearch_ray.evaluator import Evaluator
from autoresearch_ray.model import (
    Attempt,
    Failure,
    FailureKind,
    Measurement,
    Proposal,
    Propose,
    Remeasure,
    Replay,
    Stop,
)
from autoresearch_ray.ports import Agent, Desk, Reply, Signals, Welcome
from autoresearch_ray.store import Candidate, Store

_LOG_BYTES = 1 << 20  # of a log that travel with a hand-in; its end is what people read


@dataclass(slots=True)
class Researcher:
    """One lane on one seat."""

    lane: str
    sitting: int
    welcome: Welcome
    desk: Desk
    store: Store
    agent: Agent
    evaluator: Evaluator
    folder: Path
    signals: Signals

    def run(self, reply: Reply) -> None:
        """Work until told to stop. What a drain or a halt leaves undone is ordered again when the run is taken up."""
        while not isinstance(reply.order, Stop):
            answer = self.attempt(reply)
            if answer is None:
                return
            reply = self.answered(answer)

    def answered(self, attempt: Attempt) -> Reply:
        bundle = self.store.pack(attempt.commit, [attempt.parent]) if attempt.commit and attempt.line else b""
        return self.desk.submit(attempt, bundle, self._logs(attempt))

    def attempt(self, reply: Reply) -> Attempt | None:
        """Carry out the order. A fault of this machine is a failure of the machine, not of the idea."""
        order = reply.order
        assert not isinstance(order, Stop)
        parent = order.commit if isinstance(order, Remeasure) else order.parent
        attempt = Attempt(order.id, self.lane, self.sitting, order.kind, parent, None, Measurement(None, _UNDONE))
        try:
            for bundle in reply.bundles:
                self.store.unpack(bundle)
            return self._carried_out(attempt, reply)
        except (OSError, RepoError) as error:
            return replace(attempt, measurement=Measurement(None, Failure(FailureKind.MACHINE, str(error))))

    def _carried_out(self, attempt: Attempt, reply: Reply) -> Attempt | None:
        made: Candidate | Failure
        match reply.order:
            case Propose() as order:
                proposal, made = self._proposed(order, reply)
                attempt = replace(attempt, idea=proposal.idea, params=proposal.params, usage=proposal.usage)
            case Replay(parent=parent, commits=commits) as order:
                made = self.store.replay(commits, parent)
                picked = 0 if isinstance(made, Failure) else len(made.line)
                attempt = replace(attempt, idea=f"replay of {picked} of {len(commits)} kept commits onto the best")
            case Remeasure(commit=commit, why=why) as order:
                made = Candidate(commit, (), 0)
                attempt = replace(attempt, idea=why)
            case Stop():
                return None
        if self.signals.drain.is_set():
            return None
        if isinstance(made, Failure):
            return replace(attempt, measurement=Measurement(None, made))
        beat = None if isinstance(order, Remeasure) else order.beat
        measured = self.evaluator.measure(made.commit, order.id, order.seed, beat, self._log(order.id), self.signals)
        if measured is None:
            return None
        return replace(attempt, commit=made.commit, line=made.line, lines=made.lines, measurement=measured)

    def _proposed(self, order: Propose, reply: Reply) -> tuple[Proposal, Candidate | Failure]:
        """The agent edits a clean tree; what it did is what differs there, whatever it says."""
        assert reply.brief is not None
        tree, prefix = self.folder / "agent", self.welcome.prefix
        self.store.stand(tree, order.parent)
        began = time.monotonic()
        proposal = self.agent.propose(tree / prefix, reply.brief, self._log(order.id, "agent."), self.signals.drain)
        seconds = time.monotonic() - began
        proposal = _sane(proposal, seconds)
        made = self.store.commit(tree, order.parent, proposal.idea, self.welcome.program.scope, prefix)
        if isinstance(made, Failure) and made.kind is FailureKind.NO_CHANGE and proposal.error:
            made = Failure(FailureKind.AGENT, proposal.error)
        return proposal, made

    def _log(self, id: str, what: str = "") -> Path:
        return self.folder / f"{id.rpartition('-')[2]}.{what}log"

    def _logs(self, attempt: Attempt) -> dict[str, bytes]:
        """The ends of this attempt's logs, by file name; handed over, they are deleted here."""
        logs = {}
        for path in (self._log(attempt.id), self._log(attempt.id, "agent.")):
            if path.exists():
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                    logs[path.name] = file.read()
                path.unlink()
        return logs


def _sane(proposal: Proposal, seconds: float) -> Proposal:
    """An agent's numbers are its own: what is not finite is as good as not said. The time is our reading."""
    cost = proposal.usage.cost_usd
    usage = replace(
        proposal.usage, seconds=seconds, cost_usd=cost if cost is not None and 0 <= cost < math.inf else None
    )
    params = {
        name: each for name, each in proposal.params.items() if not isinstance(each, float) or math.isfinite(each)
    }
    return replace(proposal, usage=usage, params=params)


_UNDONE = Failure(FailureKind.MACHINE, "not carried out")
