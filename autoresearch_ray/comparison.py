"""The agents of a run side by side: what each proposed, what came of it, and what that took.

Pure. The gain of an agent is what its changes that are in the published best are expected to bring, each by itself: a
change that was brought together with others has no measured gain of its own. Its seconds are those of thinking and of
measuring what was thought; measuring again, for comparison or confirmation, is nobody's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from autoresearch_ray import fleet
from autoresearch_ray.board import Board
from autoresearch_ray.certainty import rough
from autoresearch_ray.memory import likely
from autoresearch_ray.model import Experiment, Outcome, Status
from autoresearch_ray.money import Spending
from autoresearch_ray.results import duration, signed

_NOT_TOLD = "not told"  # by ledgers of before there were several agents


@dataclass(frozen=True, slots=True)
class Compared:
    """One agent. `None` is "not known", never zero."""

    agent: str
    lanes: int
    proposals: int
    edited: int  # those of which an edit in scope came; it may have been tried before
    kept: int
    confirmed: int  # changes in the published best, those among them that came in with a group
    gain: float  # that these are expected to bring, in the metric's unit; positive is better
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None  # as far as it is known
    unknown_costs: int  # proposals of whose cost part at least is not known
    thinking_seconds: float
    measuring_seconds: float

    @property
    def cost_per_gain(self) -> float | None:
        """USD for each unit of the metric that was gained; None where nothing was, or the cost is not known."""
        return None if self.cost_usd is None else self._for_each(self.cost_usd)

    @property
    def seconds_per_gain(self) -> float | None:
        """The same of all its seconds."""
        return self._for_each(self.thinking_seconds + self.measuring_seconds)

    def _for_each(self, spent: float) -> float | None:
        each = spent / self.gain if self.gain > 0 else math.inf
        return each if math.isfinite(each) else None


def compared(board: Board) -> list[Compared]:
    """The agents that have proposed something, in the order in which they began to."""
    best = board.best
    inside = board.contains(best.commit) if best and best.commit and board.published else frozenset()
    proposals: dict[str, list[Experiment]] = {}
    for each in board.experiments:
        if each.kind == "propose" and not each.submission:
            proposals.setdefault(each.agent, []).append(each)
    return [_compared(board, agent, made, inside) for agent, made in proposals.items()]


def _compared(board: Board, agent: str, made: list[Experiment], inside: frozenset[str]) -> Compared:
    spent = board.money.by_agent.get(agent, Spending())
    usages, confirmed = [each.usage for each in made], [each for each in made if each.commit in inside]
    return Compared(
        agent=agent or called(board),
        lanes=sum(lane.seat.agent == agent for lane in board.lanes.values()),
        proposals=len(made),
        edited=sum(each.outcome is Outcome.EDITED for each in made),
        kept=sum(each.status is Status.KEEP for each in made),
        confirmed=len(confirmed),
        gain=sum(map(likely, confirmed)),
        input_tokens=_sum([each.input_tokens for each in usages]),
        output_tokens=_sum([each.output_tokens for each in usages]),
        cost_usd=spent.usd if spent.known or spent.usd else None,
        unknown_costs=spent.unknown,
        thinking_seconds=sum(each.seconds for each in usages),
        measuring_seconds=sum(each.seconds for each in made),
    )


def called(board: Board) -> str:
    """Who proposed where the ledger does not say so: the one agent of the run."""
    return _NOT_TOLD if board.program.options.agents else next(iter(fleet.members(board.program.options)))


def facts(board: Board) -> list[dict[str, Any]]:
    """The comparison as JSON."""
    return [
        {
            "agent": each.agent,
            "lanes": each.lanes,
            "proposals": each.proposals,
            "edited": each.edited,
            "kept": each.kept,
            "confirmed": each.confirmed,
            "gain": each.gain if math.isfinite(each.gain) else None,
            "input_tokens": each.input_tokens,
            "output_tokens": each.output_tokens,
            "cost_usd": each.cost_usd,
            "unknown_costs": each.unknown_costs,
            "thinking_seconds": round(each.thinking_seconds, 3),
            "measuring_seconds": round(each.measuring_seconds, 3),
            "cost_usd_per_gain": each.cost_per_gain,
            "seconds_per_gain": each.seconds_per_gain,
        }
        for each in compared(board)
    ]


def table(board: Board) -> list[tuple[str, ...]]:
    """The comparison for people, its head first; [] while nothing was proposed. Costs are per a handy part of gain."""
    rows = compared(board)
    unit = _unit(max((each.gain for each in rows), default=0.0))
    per = f"per {unit:g} gained"
    head = ("agent", "lanes", "proposals", "edited", "kept", "in the best", "gain", "tokens in", "out", "dollars")
    found: list[tuple[str, ...]] = [(*head, "thinking", "measuring", f"dollars {per}", f"time {per}")]
    for each in rows:
        dollars, seconds = each.cost_per_gain, each.seconds_per_gain
        found.append(
            (
                each.agent,
                str(each.lanes),
                str(each.proposals),
                str(each.edited),
                str(each.kept),
                str(each.confirmed),
                signed(each.gain) if each.confirmed else "-",
                _tokens(each.input_tokens),
                _tokens(each.output_tokens),
                dollars_text(each.cost_usd, each.unknown_costs),
                duration(each.thinking_seconds),
                duration(each.measuring_seconds),
                "-" if each.gain <= 0 else dollars_text(dollars and dollars * unit, each.unknown_costs),
                "-" if seconds is None else duration(seconds * unit),
            )
        )
    return found if rows else []


def dollars_text(usd: float | None, unknown: int) -> str:
    """Such as "$12.30"; "at least $12.30" where some proposals did not tell; "unknown" where none did."""
    if usd is None:
        return "unknown"
    words = f"${usd:.2f}" if usd >= 0.1 or not usd else f"${rough(usd)}"
    return f"at least {words}" if unknown else words


def _unit(most: float) -> float:
    """The power of ten at or below the largest gain, so that the costs of it are numbers that can be read."""
    return 10.0 ** max(-300, math.floor(math.log10(most))) if 0 < most < math.inf else 1.0


def _tokens(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _sum(counts: list[int | None]) -> int | None:
    known = [each for each in counts if each is not None]
    return sum(known) if known else None
