"""One lane's loop: take an order, make a candidate, measure it, hand it in. The reply is the next order.

This page is the whole idea. Everything it needs is handed to it; nothing here knows of Ray, of threads or of the board.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.brief import one_line
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
    Scalar,
    Stop,
)
from autoresearch_ray.ports import Agent, Reply, Signals, Welcome
from autoresearch_ray.store import Candidate, Store

Work = Propose | Remeasure | Replay

_LOG_BYTES = 1 << 20  # of a log that travel with a hand-in; its end is what people read


@dataclass(slots=True)
class Researcher:
    """One lane on one seat."""

    lane: str
    sitting: int
    welcome: Welcome
    submit: Callable[[Attempt, bytes, Mapping[str, bytes]], Reply]  # the desk's
    store: Store
    agent: Agent
    evaluator: Evaluator
    folder: Path
    signals: Signals

    def run(self, reply: Reply) -> None:
        """Work until told to stop. What a drain or a halt leaves undone is ordered again when the run is taken up."""
        while not isinstance(reply.order, Stop):
            attempt = self.attempt(reply.order, reply)
            if attempt is None:
                return
            bundle = self.store.pack(attempt.commit, [attempt.parent]) if attempt.commit and attempt.line else b""
            reply = self.submit(attempt, bundle, self._logs(attempt))

    def attempt(self, order: Work, reply: Reply) -> Attempt | None:
        """Carry out the order: make a candidate, and measure it. None if a drain or a halt came in between."""
        attempt, made = self._made(order, reply)
        if self.signals.drain.is_set():
            return None
        if isinstance(made, Failure):
            return replace(attempt, measurement=Measurement(None, made))
        attempt = replace(attempt, commit=made.commit, line=made.line, lines=made.lines)
        measurement = self._measured(order, made.commit)
        return replace(attempt, measurement=measurement) if measurement else None

    def _made(self, order: Work, reply: Reply) -> tuple[Attempt, Candidate | Failure]:
        """The candidate, or why there is none. A fault of this machine is its own failure, not the idea's."""
        parent = order.commit if isinstance(order, Remeasure) else order.parent
        attempt = Attempt(order.id, self.lane, self.sitting, order.kind, parent, None, Measurement(None, _UNDONE))
        try:
            for bundle in reply.bundles:
                self.store.unpack(bundle)
            match order:
                case Remeasure(commit=commit, why=why):
                    return replace(attempt, idea=why), Candidate(commit, (), 0)
                case Replay(commits=commits):
                    made = self.store.replay(commits, parent)
                    picked = 0 if isinstance(made, Failure) else len(made.line)
                    idea = f"replay of {picked} of {len(commits)} kept commits onto the best"
                    return replace(attempt, idea=idea), made
                case Propose():
                    tree = self.folder / "agent"
                    self.store.stand(tree, parent)
                    proposal = self._proposal(tree, order, reply)
                    attempt = replace(attempt, idea=proposal.idea, params=proposal.params, usage=proposal.usage)
                    return attempt, self._committed(tree, order, proposal)
        except (OSError, RepoError) as error:
            return attempt, Failure(FailureKind.MACHINE, str(error))

    def _proposal(self, tree: Path, order: Propose, reply: Reply) -> Proposal:
        """Have the agent edit the tree. It may be anybody's code: whatever it raises is a failure of the agent."""
        assert reply.brief is not None
        checkout, log = tree / self.welcome.prefix, self._log(order.id, "agent.")
        began = time.monotonic()
        try:
            proposal = self.agent.propose(checkout, reply.brief, log, self.signals.drain)
        except Exception as error:  # noqa: BLE001
            proposal = Proposal("", error=f"the agent raised {type(error).__name__}: {error}")
        return _sane(proposal, time.monotonic() - began)

    def _committed(self, tree: Path, order: Propose, proposal: Proposal) -> Candidate | Failure:
        """What the agent did is what differs in its tree, whatever it says."""
        scope, prefix = self.welcome.program.scope, self.welcome.prefix
        made = self.store.commit(tree, order.parent, proposal.idea, scope, prefix, order.id)
        if isinstance(made, Failure) and made.kind is FailureKind.NO_CHANGE and proposal.error:
            return Failure(FailureKind.AGENT, proposal.error)
        return made

    def _measured(self, order: Work, commit: str) -> Measurement | None:
        log, signals = self._log(order.id), self.signals
        try:
            if isinstance(order, Remeasure):
                return self.evaluator.measure(commit, order.id, order.seed, log, signals, guarded=False)
            return self.evaluator.measure(commit, order.id, order.seed, log, signals, beat=order.beat)
        except (OSError, RepoError) as error:
            return Measurement(None, Failure(FailureKind.MACHINE, str(error)))

    def _log(self, id: str, what: str = "") -> Path:
        return self.folder / f"{id.rpartition('-')[2]}.{what}log"

    def _logs(self, attempt: Attempt) -> dict[str, bytes]:
        """The ends of this attempt's logs, by file name; handed over, they are deleted here."""
        logs = {}
        for path in (self._log(attempt.id), self._log(attempt.id, "agent.")):
            with suppress(OSError), process.opened(path) as file:  # there is none, or it was replaced
                file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                logs[path.name] = file.read()
            trees.remove(path)
        return logs


def _sane(proposal: Proposal, seconds: float) -> Proposal:
    """An agent's numbers are its own: what is not finite is as good as not said. The time is our reading."""
    cost = proposal.usage.cost_usd
    usage = replace(
        proposal.usage, seconds=seconds, cost_usd=cost if cost is not None and 0 <= cost < math.inf else None
    )
    params = {name: each for name, each in proposal.params.items() if _plain(name) and _plain(each)}
    return replace(proposal, idea=one_line(proposal.idea), usage=usage, params=params)


def _plain(value: Scalar) -> bool:
    """Whether it comes back from the ledger as it went in."""
    if isinstance(value, str):
        return len(value) <= 1000 and value.isprintable()
    return abs(value) <= 2**53


_UNDONE = Failure(FailureKind.MACHINE, "not carried out")
