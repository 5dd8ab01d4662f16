"""The events of a run: what the ledger holds, line by line. The state of the board is their replay.

Frozen dataclasses of the words of `model`, with their time in seconds since the epoch by the coordinator's clock. A
field that is added needs a default, so that older ledgers are still read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autoresearch_ray.model import Attempt, Order, Program, Seat, Spent, Status


@dataclass(frozen=True, slots=True)
class Opened:
    """The first line of a ledger: all that a run needs to be taken up again."""

    at: float
    tag: str
    base: str  # the commit that everything stands on
    prefix: str  # the folder of program.md inside the repository, "" at its top
    program: Program
    source: str  # program.md as it was, with its front matter
    version: str
    event: Literal["opened"] = "opened"


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run was taken up again, perhaps with other options."""

    at: float
    program: Program
    version: str
    event: Literal["resumed"] = "resumed"


@dataclass(frozen=True, slots=True)
class Seated:
    """A lane sat down (again). `sitting` counts its seats, from 1."""

    at: float
    seat: Seat
    sitting: int
    spent: Spent | None = None
    event: Literal["seated"] = "seated"


@dataclass(frozen=True, slots=True)
class Left:
    """A worker has come to its end, in order: this is its last report."""

    at: float
    spent: Spent
    event: Literal["left"] = "left"


@dataclass(frozen=True, slots=True)
class Vacated:
    """Nobody sits on the lane any more: its worker is gone, and was given up."""

    at: float
    lane: str
    reason: str
    event: Literal["vacated"] = "vacated"


@dataclass(frozen=True, slots=True)
class Paused:
    """The worker's slot waits: somebody else uses its device, or it is not given back yet."""

    at: float
    worker: int
    reason: str
    event: Literal["paused"] = "paused"


@dataclass(frozen=True, slots=True)
class Unpaused:
    """The worker's slot measures again."""

    at: float
    worker: int
    event: Literal["unpaused"] = "unpaused"


@dataclass(frozen=True, slots=True)
class Retired:
    """The worker's slot is taken out: its device is sick. Its lanes stop when they hand in; the run goes on elsewhere.

    Until the run is taken up again: then somebody may have mended it.
    """

    at: float
    worker: int
    reason: str
    event: Literal["retired"] = "retired"


@dataclass(frozen=True, slots=True)
class Ordered:
    """A lane was told what to do next. If it dies, it gets the same order again."""

    at: float
    lane: str
    order: Order = field(metadata={"discriminator": "kind"})  # the ledger reads what it is, and need not try each
    event: Literal["ordered"] = "ordered"


@dataclass(frozen=True, slots=True)
class Measured:
    """An attempt was handed in."""

    at: float
    attempt: Attempt
    event: Literal["measured"] = "measured"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict on the experiment of `commit` or, where no commit came to be, on the attempt `id`."""

    at: float
    id: str
    lane: str
    status: Status
    reason: str
    gain: float | None = None
    error: float | None = None
    likely: float | None = None
    spread: float | None = None
    event: Literal["judged"] = "judged"


@dataclass(frozen=True, slots=True)
class Moved:
    """The lane's branch now stands on `head`; `own` are its kept commits that the leader may lack, oldest first."""

    at: float
    lane: str
    head: str
    own: tuple[str, ...]
    reason: str
    event: Literal["moved"] = "moved"


@dataclass(frozen=True, slots=True)
class Nominated:
    """`commit` would be the best: before it is published it is measured again, on another device where there is one."""

    at: float
    id: str
    commit: str
    event: Literal["nominated"] = "nominated"


@dataclass(frozen=True, slots=True)
class Published:
    """A confirmed new best: the branch `autoresearch/<tag>` points at `commit` from now on."""

    at: float
    id: str
    commit: str
    value: float
    measurements: int
    event: Literal["published"] = "published"


@dataclass(frozen=True, slots=True)
class Refused:
    """What was nominated did not stand up to more measurements, or to the holdout: `commit` is never published."""

    at: float
    id: str
    commit: str
    reason: str
    event: Literal["refused"] = "refused"


@dataclass(frozen=True, slots=True)
class Closed:
    """No lane proposes any more. What is still undecided is measured to its end, unless it is `hard`.

    `failed` says that a human must look before the run goes on; `finished` that it reached a limit.
    """

    at: float
    reason: str
    hard: bool = False
    failed: bool = False
    finished: bool = False
    event: Literal["closed"] = "closed"


@dataclass(frozen=True, slots=True)
class Told:
    """Somebody said `text` to the agents of `lanes`, () for all: for their next proposals, or with `keep` for good."""

    at: float
    id: str  # of the message
    text: str
    lanes: tuple[str, ...] = ()
    keep: bool = False
    event: Literal["told"] = "told"


@dataclass(frozen=True, slots=True)
class Resteered:
    """program.md was edited while the run went on, in nothing that is frozen: proposals follow it from now on."""

    at: float
    title: str
    text: str
    strategy: str
    notes: str
    event: Literal["resteered"] = "resteered"


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody paused the lane: it decides what it has begun, and then waits until it is released."""

    at: float
    id: str  # of the message
    lane: str
    event: Literal["held"] = "held"


@dataclass(frozen=True, slots=True)
class Released:
    """The lane goes on."""

    at: float
    id: str  # of the message
    lane: str
    event: Literal["released"] = "released"


@dataclass(frozen=True, slots=True)
class Submitted:
    """Somebody's own change is a commit of the run now, and waits for a lane to measure it."""

    at: float
    id: str  # of the message
    commit: str
    parent: str
    idea: str
    by: str
    event: Literal["submitted"] = "submitted"


@dataclass(frozen=True, slots=True)
class Declined:
    """What somebody asked for cannot be done: a patch does not apply, or a lane is not there."""

    at: float
    id: str  # of the message
    reason: str
    idea: str = ""  # of a change that was submitted
    by: str = ""
    event: Literal["declined"] = "declined"


Event = (
    Opened
    | Resumed
    | Seated
    | Left
    | Vacated
    | Paused
    | Unpaused
    | Retired
    | Ordered
    | Measured
    | Judged
    | Moved
    | Nominated
    | Published
    | Refused
    | Told
    | Resteered
    | Held
    | Released
    | Submitted
    | Declined
    | Closed
)
