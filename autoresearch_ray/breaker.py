"""When the agents' provider is left alone, and who tries whether it works again.

A circuit breaker (M. Nygard, Release It!, 2007) over the proposals of all lanes whose agents ask one provider; a mixed
fleet may have several of both. Closed: everybody asks. After `FAILURES` failures in a row that the provider may have
caused, or one for which it says itself when to come back, it opens: nobody asks until a time. Then one lane asks, the
probe, and the others wait for what it says: it closes the breaker, or opens it for twice as long.

Pure: fed by `Board.apply`; the time and chance are arguments.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from autoresearch_ray.model import Trouble, TroubleKind

FAILURES = 3  # in a row, before a provider that does not say so itself is taken to be gone
FIRST_SECONDS = 1.0  # that it is left alone for after that
LONGEST_SECONDS = 900.0  # what this doubles to; a try costs one request, and a night has 32 of them
ASKED_SECONDS = 6 * 3600.0  # no longer than this is a provider believed: limits that last were seen to end after five
GIVE_UP_OPENINGS = 6  # in a row, for a cause that waiting does not mend: half a minute and what the agents take
GIVE_UP_SECONDS = 24 * 3600.0  # for one that it may mend

# Waiting mends these, and no lane is to blame for them.
THE_PROVIDER = frozenset({TroubleKind.RATE_LIMITED, TroubleKind.UNAVAILABLE})
_COUNTED = THE_PROVIDER | {TroubleKind.AUTH, TroubleKind.CRASHED}

WORDS = {  # all that can open it
    TroubleKind.RATE_LIMITED: "the provider limits the rate",
    TroubleKind.UNAVAILABLE: "the provider cannot be reached",
    TroubleKind.AUTH: "the agents are not let in",
    TroubleKind.TIMEOUT: "the agents do not end",
    TroubleKind.CRASHED: "the agents fail",
}


def backoff_seconds(times: int, chance: float, first: float = FIRST_SECONDS) -> float:
    """How long to wait after failing `times` times: `first`, doubled each time up to `LONGEST_SECONDS`.

    `chance`, from 0 to 1, adds up to a quarter, so that runs which share a provider do not come back together. It is
    never shorter than `first`.
    """
    return min(first * 2.0 ** min(times - 1, 30), max(first, LONGEST_SECONDS)) * (1 + chance / 4)


def chance_of(name: str) -> float:
    """A number from 0 to 1 that follows from a name: chance that is the same on replay."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


@dataclass(frozen=True, slots=True)
class Breaker:
    """Its state is the replay of the proposals and of the answers to them."""

    failures: int = 0  # in a row, while it is closed
    openings: int = 0  # in a row, without a success
    strikes: int = 0  # the last of these, in a row, whose cause waiting does not mend
    since: float | None = None  # when it opened first
    until: float | None = None  # nobody asks before this; None: it is closed
    probe: str = ""  # the order of the lane that tries
    kind: TroubleKind | None = None  # of the latest failure

    @property
    def is_open(self) -> bool:
        return self.until is not None

    def blocks(self, now: float) -> bool:
        """Whether nobody may ask: it is too early, or somebody else is trying."""
        return self.until is not None and (now < self.until or bool(self.probe))

    @property
    def why(self) -> str:
        """What the latest failure says, in words; "" while there is none."""
        return WORDS[self.kind] if self.kind else ""

    def hopeless(self, now: float) -> bool:
        """Whether a human must look: waiting does not mend it, or has not for a day."""
        if self.until is None or self.since is None:
            return False
        return self.strikes >= GIVE_UP_OPENINGS or now - self.since >= GIVE_UP_SECONDS

    def asked(self, order: str) -> Breaker:
        """A lane was told to ask its agent. Where that is open, it is the probe."""
        return replace(self, probe=order) if self.is_open else self

    def released(self, lane: str) -> Breaker:
        """The lane does something else, or is gone: if it was to try, another one may."""
        return replace(self, probe="") if self.probe.rpartition("-")[0] == lane else self

    def resumed(self, at: float) -> Breaker:
        """The run was taken up again, perhaps mended: one lane tries at once."""
        return Breaker(until=at, since=at, kind=self.kind) if self.is_open else Breaker()

    def answered(self, order: str, trouble: Trouble | None, at: float, chance: float) -> Breaker:
        """What came of asking for `order` at the time `at`; `trouble` is None if there was an edit."""
        kind = trouble.kind if trouble else None
        asked_for = trouble.retry_after_seconds if trouble and kind in THE_PROVIDER else None
        asked_for = None if asked_for is None else min(max(asked_for, 0.0), ASKED_SECONDS)
        if self.until is not None and order != self.probe:  # it was under way when the breaker opened
            return replace(self, until=max(self.until, at + (asked_for or 0.0)))
        if kind is TroubleKind.TIMEOUT and not self.is_open:
            return self  # it may be anybody's doing
        if kind not in _COUNTED and kind is not TroubleKind.TIMEOUT:
            return Breaker()
        failures = self.failures + 1
        if not self.is_open and failures < FAILURES and asked_for is None:
            return replace(self, failures=failures, kind=kind)
        openings, strikes = self.openings + 1, 0 if kind in THE_PROVIDER else self.strikes + 1
        seconds = backoff_seconds(openings, chance, asked_for or FIRST_SECONDS)
        return Breaker(0, openings, strikes, at if self.since is None else self.since, at + seconds, "", kind)
