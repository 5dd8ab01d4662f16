"""What proposals cost: dollars from tokens, what is set aside before a proposal, and what is charged for it after.

A cap holds if no proposal begins for which there may be no money. So each one has an amount set aside while it is under
way: what proposals of its agent have cost so far, and a margin. When it ends, what it has cost takes the place of that.
Where nobody will ever know what it has cost, because it was killed or lost, the amount stays charged. A proposal is all
that its agent is asked for one order: of further tries and of a repair nothing is set aside by itself.

Pure: fed by `Board.apply`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from autoresearch_ray.model import Options, Price, Trouble, TroubleKind, Usage

# What agents of a class say of the cost of a proposal. `free` is one that asks no model.
Reports = Literal["cost", "tokens", "free", "nothing"]

FIRST = 50  # of a cap, the part that is set aside for each proposal while nothing is known of any
_DEVIATIONS = 2.0  # of the cost of one proposal, above the mean
# A request that was refused costs nothing. Of five tools, those that end by themselves when the provider refuses them
# end within 24 seconds; one that took longer may have done part of its work.
_REFUSED = frozenset({TroubleKind.AUTH, TroubleKind.RATE_LIMITED, TroubleKind.UNAVAILABLE})
_REFUSED_SECONDS = 30.0


# --- One proposal ----------------------------------------------------------------------------------------------------


def reports(agent: Any) -> Reports:
    """What the agent, or its class, says of itself; a class of the user's own need not say anything."""
    said: Reports = getattr(agent, "reports", "nothing")
    return said


def price(options: Options) -> Price | None:
    """Of the model that the agent of these options asks for or, where that is not said, of the agent."""
    return options.prices.get(options.model or options.agent)


def is_known(agent: Any, options: Options) -> bool:
    """Whether it will be known what a proposal has cost. Nobody but you knows the prices of an endpoint of your own."""
    said = reports(agent)
    told = said == "free" or (said == "cost" and not options.base_url)
    return told or (said != "nothing" and price(options) is not None)


def billed(usage: Usage, said: Reports, price: Price | None) -> Usage:
    """The usage with its dollars: those that the agent reports, or where it reports none the price of its tokens."""
    if usage.cost_usd is not None:
        return usage if usage.cost_source else replace(usage, cost_source="reported")
    if said == "free":
        return replace(usage, cost_usd=0.0, cost_source="reported")
    if price is None or usage.input_tokens is None or usage.output_tokens is None:
        return usage if usage.cost_source is None else replace(usage, cost_source=None)
    cached = min(usage.cached_tokens or 0, usage.input_tokens)
    again = price.input if price.cached is None else price.cached
    millionths = (usage.input_tokens - cached) * price.input + cached * again + usage.output_tokens * price.output
    return replace(usage, cost_usd=millionths / 1e6, cost_source=usage.cost_source or "priced")


# --- All of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spending:
    """What the proposals of one agent have cost."""

    known: int = 0  # proposals whose cost is known
    usd: float = 0.0  # of these, and what is known of others
    squares: float = 0.0  # of the costs of these, their sum
    whole_usd: float = 0.0  # of these alone
    unknown: int = 0  # proposals of whose cost part at least is not known
    charged_usd: float = 0.0  # for what is not known

    @property
    def next_usd(self) -> float:
        """What the next proposal is taken to cost at most; it needs `known`.

        The mean and two standard deviations or, of n proposals, the mean and a root of n-th of it, whichever is more:
        twice the first one. The dearest so far would be worse: one conversation that ran away would hold back all lanes
        of a run for good.
        """
        mean = self.whole_usd / self.known
        deviation = math.sqrt(max(0.0, self.squares / self.known - mean**2))
        return mean + max(_DEVIATIONS * deviation, mean / math.sqrt(self.known))


_NOTHING, _NEVER_ASKED = Spending(), Usage()


@dataclass(frozen=True, slots=True)
class Money:
    """What a run has spent, by the name of the agent. Its state is the replay of the proposals."""

    by_agent: Mapping[str, Spending] = field(default_factory=dict)

    @property
    def known_usd(self) -> float | None:
        """What is known to be spent; None if nothing is known."""
        known = [each for each in self.by_agent.values() if each.known or each.usd]
        return sum(each.usd for each in known) if known else None

    @property
    def charged_usd(self) -> float:
        """What is counted for what is not known."""
        return sum(each.charged_usd for each in self.by_agent.values())

    @property
    def spent_usd(self) -> float:
        """What counts against a cap."""
        return sum(each.usd + each.charged_usd for each in self.by_agent.values())

    @property
    def unknown(self) -> int:
        """Proposals of whose cost part at least is not known."""
        return sum(each.unknown for each in self.by_agent.values())

    def reservation(self, agent: str, cap_usd: float | None) -> float:
        """What is set aside for the next proposal of `agent`, in USD; nothing where there is no cap.

        Before one of its own is known, it is what the dearest of the other agents would take; before any is known, a
        fixed part of the cap, so that the first wave counts as well.
        """
        if cap_usd is None:
            return 0.0
        mine = self.by_agent.get(agent, _NOTHING)
        if mine.known:
            return mine.next_usd
        dearest = max((each.next_usd for each in self.by_agent.values() if each.known), default=0.0)
        return dearest or cap_usd / FIRST

    def ended(self, agent: str, usage: Usage, trouble: Trouble | None, reserved_usd: float) -> Money:
        """A proposal has come to its end, for which so much was set aside."""
        before, cost = self.by_agent.get(agent, _NOTHING), usage.cost_usd
        if usage == _NEVER_ASKED:
            return self
        if cost is not None and usage.cost_source != "partly":
            after = Spending(  # `replace` takes three times as long, and each proposal of a long run makes two
                before.known + 1,
                before.usd + cost,
                before.squares + cost**2,
                before.whole_usd + cost,
                before.unknown,
                before.charged_usd,
            )
        elif cost is None and trouble and trouble.kind in _REFUSED and usage.seconds < _REFUSED_SECONDS:
            return self
        else:
            after = replace(
                before,
                usd=before.usd + (cost or 0.0),
                unknown=before.unknown + 1,
                charged_usd=before.charged_usd + max(0.0, reserved_usd - (cost or 0.0)),
            )
        return Money({**self.by_agent, agent: after})

    def lost(self, agent: str, reserved_usd: float) -> Money:
        """A proposal was under way, and whoever made it is gone."""
        before = self.by_agent.get(agent, _NOTHING)
        charged = before.charged_usd + reserved_usd
        return Money({**self.by_agent, agent: replace(before, unknown=before.unknown + 1, charged_usd=charged)})
