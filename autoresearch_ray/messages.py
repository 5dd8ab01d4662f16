"""What people and other agents say to a run while it goes on. How a message travels is in `inbox`.

Frozen dataclasses. Each message that comes from outside has an id, which stands in the event that comes of it: so one
that is taken up twice counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Tell:
    """A hint for the next prompts of `lanes`, () for all; with `keep` for the rest of the run."""

    id: str
    text: str
    lanes: tuple[str, ...] = ()
    keep: bool = False
    kind: Literal["tell"] = "tell"


@dataclass(frozen=True, slots=True)
class Hold:
    """The lane finishes what it is about, and does nothing more until it is released."""

    id: str
    lane: str
    kind: Literal["hold"] = "hold"


@dataclass(frozen=True, slots=True)
class Release:
    """The lane goes on."""

    id: str
    lane: str
    kind: Literal["release"] = "release"


@dataclass(frozen=True, slots=True)
class Submit:
    """A change that somebody else made, to be measured as any other. `patch` is a unified diff as `git apply` reads it.

    Its paths count from the top of the repository. It is against `parent`: a commit or an experiment of the run, a
    lane, or "" for the best that there is when it is taken up. `by` says who made it.
    """

    id: str
    patch: str
    idea: str
    parent: str = ""
    by: str = "human"
    kind: Literal["submit"] = "submit"


@dataclass(frozen=True, slots=True)
class Resteer:
    """program.md was edited in what is not frozen: the next proposals follow it. The driver sees that by itself."""

    title: str
    text: str
    strategy: str
    notes: str


Letter = Tell | Hold | Release | Submit  # what comes through the inbox
Message = Letter | Resteer
