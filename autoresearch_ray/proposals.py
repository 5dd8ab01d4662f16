"""What agents say of their edits, made fit for the record; and what one is told whose edit was nothing new."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Brief, Failure, FailureKind, Price, Proposal, Scalar, Trouble, TroubleKind, Usage
from autoresearch_ray.money import Reports, billed

_Number = TypeVar("_Number", int, float)
_ERROR_CHARACTERS = 4_000  # it goes into the ledger, which holds no half of a character either, as JSON may
_MOST_USD = 1e6  # of one proposal: what is more is a slip or a lie, and the squares of such have an end as numbers


def sane(proposal: Proposal, seconds: float, said: Reports = "nothing", price: Price | None = None) -> Proposal:
    """An agent's numbers are its own: what cannot be is as good as not said. The time is our reading.

    `said` is what the agent reports of its cost, and `price` that of its tokens. An agent may be anybody's code: raises
    `TypeError` or `AttributeError` for what is no proposal, and would not come back from the ledger.
    """
    if not isinstance(proposal, Proposal) or not isinstance(proposal.error, str | None):
        raise TypeError(f"it returned {one_line(repr(proposal))}")
    given, trouble = proposal.usage, proposal.trouble
    if trouble is not None and (
        not isinstance(trouble.kind, TroubleKind) or not isinstance(trouble.retry_after_seconds, int | float | None)
    ):
        raise TypeError(f"it returned {one_line(repr(trouble))}")
    usage = Usage(
        seconds,
        _count(given.input_tokens),
        _count(given.output_tokens),
        _dollars(given.cost_usd),
        _count(given.cached_tokens),
        "partly" if given.cost_source == "partly" else None,
    )
    usage = billed(usage, said, price)
    if _dollars(usage.cost_usd) is None:  # no price makes it of tokens, either
        usage = replace(usage, cost_usd=None, cost_source=None)
    params = {name: each for name, each in proposal.params.items() if _plain(name) and _plain(each)}
    error = proposal.error and proposal.error[:_ERROR_CHARACTERS].encode(errors="replace").decode()
    return replace(proposal, idea=one_line(proposal.idea), usage=usage, params=params, error=error)


def trouble_with(proposal: Proposal, failure: Failure) -> Trouble | None:
    """What kept the agent from an edit, where `failure` is that it made none; else None, whatever it says."""
    if failure.kind not in (FailureKind.AGENT, FailureKind.NO_CHANGE):
        return None
    said = proposal.trouble or Trouble(TroubleKind.CRASHED if proposal.error else TroubleKind.NO_EDIT)
    seconds = said.retry_after_seconds
    return said if seconds is None or 0 <= seconds < math.inf else replace(said, retry_after_seconds=None)


def _count(tokens: int | None) -> int | None:
    return tokens if isinstance(tokens, int) and 0 <= tokens <= 2**53 else None


def _dollars(amount: float | None) -> float | None:
    return float(amount) if isinstance(amount, int | float) and 0 <= amount <= _MOST_USD else None


def _plain(value: Scalar) -> bool:
    """Whether it comes back from the ledger as it went in."""
    if isinstance(value, str):
        return len(value) <= 1000 and value.isprintable()
    return abs(value) <= 2**53


def together(one: Usage, other: Usage) -> Usage:
    """What two proposals cost. What only one of them says counts: it is the least that was spent."""
    if one == Usage():  # there was none before
        return other
    sources = {one.cost_source, other.cost_source}
    partly = "partly" in sources or _said(one) != _said(other) or (None in sources and len(sources) > 1)
    return Usage(
        one.seconds + other.seconds,
        _sum(one.input_tokens, other.input_tokens),
        _sum(one.output_tokens, other.output_tokens),
        _sum(one.cost_usd, other.cost_usd),
        _sum(one.cached_tokens, other.cached_tokens),
        "partly" if partly else one.cost_source if len(sources) == 1 else "priced",
    )


def _said(usage: Usage) -> bool:
    return usage.cost_usd is not None or usage.input_tokens is not None


def _sum(one: _Number | None, other: _Number | None) -> _Number | None:
    return other if one is None else one if other is None else one + other


def told(brief: Brief, why: Failure) -> Brief:
    """The same task again, for an agent that learns why its edit is not measured. Chance falls otherwise, too."""
    words = f"Your last edit was thrown away unmeasured. {why.kind}: {one_line(why.message, 500)}."
    again = "The files are as they were before it. Make another change: one that does something, and that nobody tried."
    return replace(brief, prompt=f"{brief.prompt}\n\n## Once more\n\n{words} {again}\n", seed=brief.seed + 1)
