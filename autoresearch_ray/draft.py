"""A hand-in being decided: the events so far, tried out on a fork of the board, so that each rule sees the last."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from functools import cached_property

from autoresearch_ray.board import Board
from autoresearch_ray.breaker import Breaker
from autoresearch_ray.events import Closed, Event
from autoresearch_ray.lane import Lane
from autoresearch_ray.model import Ablate, Order, Propose, Remeasure, Replay, Rework, Rule, Stop, Try, Wait
from autoresearch_ray.ports import Policy


class Draft:
    """Of one lane. The real board stays as it is."""

    def __init__(self, board: Board, name: str, now: float, policy: Policy) -> None:
        self.board = board.fork(name)
        self.name = name
        self.now = now
        self.policy = policy
        self.events: list[Event] = []

    def note(self, event: Event) -> None:
        self.board.apply(event)
        self.events.append(event)

    @property
    def lane(self) -> Lane:
        return self.board.lanes[self.name]

    @cached_property
    def others(self) -> list[Lane]:
        """All other lanes: nothing that is decided here moves them."""
        return [lane for name, lane in self.board.lanes.items() if name != self.name]

    @cached_property
    def working(self) -> list[Lane]:
        """Those of them that are carrying out an order."""
        lanes = self.board.lanes.items()
        return [lane for name, lane in lanes if name != self.name and lane.active]

    @property
    def breaker(self) -> Breaker:
        """Of the provider that this lane's agent asks."""
        return self.board.breaker(self.name)

    @property
    def device_class(self) -> str:
        return self.lane.seat.device_class

    @property
    def sigma(self) -> float:
        """The noise to decide on, on this lane's devices; 0 while it is not known."""
        return self.board.evidence.sigma(self.device_class) or 0.0

    @cached_property
    def under_way(self) -> Counter[str]:
        """How many other lanes are measuring a commit once more."""
        return Counter(lane.order.commit for lane in self.working if isinstance(lane.order, Remeasure))

    @cached_property
    def to_be_counted(self) -> int:
        """How many other lanes work on an experiment. Of one that asks a provider which was gone, nothing may come."""

        def counts(lane: Lane) -> bool:
            if isinstance(lane.order, Propose):
                return not self.board.breaker(lane.seat.lane).is_open
            return isinstance(lane.order, Replay | Ablate | Try) or lane.pending is not None

        return sum(map(counts, self.working))

    @property
    def enough_is_under_way(self) -> bool:
        """Whether as many experiments as are wanted are counted, or will be. What is lost of them is tried again."""
        experiments = self.board.program.options.experiments
        if experiments is None or self.board.closed:
            return False
        most = experiments - self.board.counted
        return len(self.working) >= most and self.to_be_counted >= most

    @cached_property
    def being_tried(self) -> frozenset[str]:
        """The changes that other lanes are trying in company."""
        tried: set[str] = set()
        for lane in self.working:
            if isinstance(lane.order, Replay):
                tried.update(lane.order.commits)
            elif lane.pending is not None:
                tried.update(self.board.experiments[lane.pending].picked)
        return frozenset(tried)

    @property
    def evaluations_left(self) -> float:
        """Those that may still be ordered: the limit less what was measured and what is under way."""
        limit = self.board.program.options.evaluations
        measuring = sum(not isinstance(each.order, Wait) for each in self.working)
        return math.inf if limit is None else limit - self.board.evaluations - measuring

    @property
    def left_usd(self) -> float:
        """The cap less what was spent and what is set aside for other lanes' proposals."""
        cap = self.board.program.options.cost_usd
        if cap is None:
            return math.inf
        return cap - self.board.money.spent_usd - sum(each.reserved_usd for each in self.others)

    @property
    def gathering(self) -> bool:
        """Whether another lane is bringing kept changes together."""
        return self.board.pool.keeps_any(self.being_tried)

    # --- Orders ------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return f"{self.name}-{self.lane.number + 1}"

    @property
    def seed(self) -> int:
        """31 bits that follow from the tag and the attempt's id: fresh for every measurement, the same on replay."""
        digest = hashlib.sha256(f"{self.board.opened.tag}/{self.id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    def beat(self, commit: str) -> float | None:
        """What a candidate on `commit` must not be worse than to be guarded: nothing beyond it can still be kept.

        Three standard deviations below the parent, on this class of devices: a first value further off is discarded by
        any policy here.
        """
        score = self.board.evidence.on(commit, self.device_class)
        alone = self.board.program.eval.rule is Rule.CONSTRAINED  # else a worse metric may be made up for by another
        if score is None or not self.sigma or not alone:
            return None
        return score.mean + 3 * self.sigma * self.board.direction.gain(0.0, 1.0)

    def propose(self, parent: str, rework: Rework | None = None) -> Propose:
        return Propose(self.id, parent, self.seed, self.beat(parent), rework)

    def remeasure(self, commit: str, why: str) -> Remeasure:
        return Remeasure(self.id, commit, self.seed, why)

    def stop(self, reason: str, *, hard: bool = False, failed: bool = False, finished: bool = False) -> Stop:
        """Stop, and close the run with it."""
        for event in close(self.board, reason, self.now, hard=hard, failed=failed, finished=finished):
            self.note(event)
        return Stop(reason, hard)

    def leave(self, reason: str) -> Order:
        """Stop this lane; the run goes on while another one works, or will when its slot is no longer paused."""
        if not any(lane.ordered for lane in self.others):
            return self.stop(f"no lane is left: {reason}", hard=True, failed=True)
        return Stop(reason)


def close(
    board: Board, reason: str, now: float, *, hard: bool = False, failed: bool = False, finished: bool = False
) -> list[Event]:
    """The events that end a run: a limit, an interrupt, a dead cluster, a full disk."""
    if board.closed and (board.closed.hard or not hard):
        return []
    return [Closed(now, reason, hard, failed, finished)]
