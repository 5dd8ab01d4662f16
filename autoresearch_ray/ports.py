"""The four sockets of the house: an agent, a policy, a monitor, a desk. Any class of the right shape fits.

*A name is a file*: `agent: claude` is `agents/claude.py`, `monitor: nvml` is `monitors/nvml.py`, `policy: bayes` is
`policies/bayes.py`, each with one public class; `package.module:Class` is the user's own. `named` resolves both.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from autoresearch_ray.errors import SetupError
from autoresearch_ray.messages import Message
from autoresearch_ray.model import (
    Attempt,
    Brief,
    Options,
    Order,
    Program,
    Proposal,
    Resources,
    Seat,
    Spent,
)


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """What an agent is built from, once per lane."""

    program: Program
    options: Options
    lane: str
    folder: Path  # the agent's own state, one per lane; kept from session to session on the head's own disk
    environ: Mapping[str, str]  # the allow list of this machine plus the secrets meant for agents
    walls: Walls | None = None  # a sandbox for what the agent starts, where there is one


def secret_values(options: Options, environ: Mapping[str, str]) -> list[str]:
    """What must not be found in anything that a run leaves behind, the longest first.

    Values below eight characters are none: they would be found in everything. White space around one, such as the line
    end of the file that it was read from, is not part of it: what prints or keeps a key does so without.
    """
    values = (environ.get(each, "").strip() for each in options.secrets)
    return sorted((each for each in values if len(each) >= 8), key=len, reverse=True)


def redacted(text: str, options: Options, environ: Mapping[str, str]) -> str:
    """`text` without the values of secrets."""
    for value in secret_values(options, environ):
        text = text.replace(value, "[secret]")
    return text


class Walls(Protocol):
    """A sandbox for what an agent starts: its checkout and its own folder to write, the network, none of the others."""

    def around(self, command: str | Sequence[str], cwd: Path, home: Sequence[str] | None) -> list[str]:
        """The command inside, in `cwd`. Of the user's home it has these parts to write; None: all of it to read."""


class Agent(Protocol):
    """Proposes one change by editing files. What it says is a note; what it changed is what counts.

    An agent that can do something with the reason why its edit was refused says so in its class: `repairs = True`. Only
    such a one is given a `Brief` with `repair`. It is no member of this protocol: one that says nothing cannot.

    A class may say what becomes known of the cost of a proposal, as its attribute `reports`: "cost" if `Usage.cost_usd`
    is always given, "tokens" if those are, "free" if no model is asked; without it, "nothing" is counted on.
    """

    def __init__(self, setup: AgentSetup) -> None: ...

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` with a hint if this agent cannot work on this machine."""

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        """Edit files below `checkout` (the folder of program.md in a clean tree), write a transcript to `log`.

        Returns soon after `cancel` is set. Raises nothing for a failure of the agent: that is `Proposal.error`, and
        `Proposal.trouble` where it knows of which kind: a provider that limits the rate is then left alone.
        """


class Score(NamedTuple):
    """The mean of `n` measurements of one commit."""

    n: int
    mean: float


@dataclass(frozen=True, slots=True)
class Case:
    """What a policy judges: how much better a candidate is than its parent, or than the published best.

    Gains are in the metric's unit, and positive is better whatever the metric's direction.
    """

    gain: float
    error: float  # the standard error of that, from the measurements of both sides; 0 while the noise is not known
    n: int  # measurements of the candidate
    sigma: float  # of one more measurement, on this lane's class of devices; 0 while it is not known
    prior: tuple[float, float]  # mean and standard deviation of the gain to be expected before anything was measured
    worth: float  # the gain to be expected of one evaluation spent on something new
    lead: float | None  # the gain over the published best
    lines: int  # net lines added against the parent
    own: float = 0.0  # the noise of the candidate itself, where that is far beyond `sigma`; else 0

    @property
    def noise(self) -> float:
        """The standard deviation of one more measurement of the candidate."""
        return max(self.sigma, self.own)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a policy says of a case, and why; `again` asks for one more measurement of the candidate.

    `likely` and `spread` are what the gain is taken to be: mean and standard deviation.
    """

    call: Literal["keep", "discard", "again"]
    reason: str
    likely: float | None = None
    spread: float | None = None


class Policy(Protocol):
    """Decides what is kept, what is measured again, and how branches come together. Pure."""

    confirmations: int  # measurements that a published best needs
    gathers: bool  # what any lane kept is brought together on the best, and all lanes stand on that
    combines: bool  # near misses are tried together, too
    claims: int  # measurements of the best when a run ends, so that its value holds

    def judge(self, case: Case) -> Judgement: ...

    def publishes(self, case: Case) -> Judgement:
        """Whether a candidate replaces the published best: `case` is against that. `discard` refuses it for good."""

    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        """What a lane does that does not gather: of `rank` (0 leads) among `lanes`, `hand_ins` verdicts after its last
        move. `reset` leaves its own commits behind, `replay` takes them along."""


class Watch(Protocol):
    """One evaluation being watched. A context manager; `resources` may be read after it was left."""

    def __enter__(self) -> Watch: ...
    def __exit__(self, *exc: object) -> None: ...
    def follow(self, pid: int) -> None:
        """The evaluation's first process; its descendants are found from it."""

    @property
    def resources(self) -> Resources: ...

    @property
    def lost(self) -> str:
        """Why the device could not be read to the end, or "": such a measurement is the machine's failure."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What speaks against measuring on a device, in words for people.

    `sick`: it is not to be trusted until somebody has reset or replaced it. `unsettled`: it should be over in a moment,
    such as memory that an experiment has not given back yet. `busy`: somebody else uses it.
    """

    kind: Literal["sick", "unsettled", "busy"]
    words: str


class Monitor(Protocol):
    """Reads the device that an evaluation runs on."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        """`gpus` are CUDA ids as granted ("0", "3", or a UUID); empty on a CPU."""

    @property
    def device(self) -> str:
        """The model's name, such as "NVIDIA H200", or "cpu"."""

    @property
    def device_class(self) -> str:
        """What decides how fast a device is: model, memory and driver, such as "NVIDIA H200, 141 GB, driver 550"."""

    def watch(self) -> Watch: ...

    def trouble(self, alone: bool) -> Trouble | None:
        """What speaks against measuring now, between two evaluations. Returns within seconds, whatever the driver does.

        `alone`: nobody but this worker should be on the device; else it is shared, and who is there is no trouble.
        """


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a worker gets when it joins: the program, the whole history as a bundle, and the names that go with it."""

    run: str  # unlike any other run's, also of the same tag elsewhere
    tag: str
    program: Program
    base: str
    prefix: str
    bundle: bytes
    folder: str  # of the run, on the head


@dataclass(frozen=True, slots=True)
class Reply:
    """The next order, the commits it needs that the lane lacks, and what the agent is told.

    `unfinished`, for one who sits down, are the lanes of its worker that have something to do: they should sit, too.
    """

    order: Order
    bundle: bytes = b""
    brief: Brief | None = None
    unfinished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """Files that were measured before, or are being measured: the number of that experiment, and what came of it."""

    number: int | None  # None while it is being measured
    words: str


class Desk(Protocol):
    """Where a lane hands in. In one process it is the coordinator itself, over Ray an actor."""

    def welcome(self) -> Welcome: ...

    def sit(self, seat: Seat, spent: Spent | None = None) -> tuple[int, Reply]:
        """Take a seat (again). Returns the sitting's number and the first order."""

    def claim(self, lane: str, id: str, tree: str, idea: str) -> Taken | None:
        """Reserve the files `tree` for the attempt `id`, just before it is measured. None: nobody had them before.

        A reservation ends with the lane's hand-in or its next sitting. Claiming the same for the same attempt twice
        changes nothing. Meanwhile the other lanes are told the `idea`.
        """

    def pause(self, worker: int, reason: str) -> bool:
        """The worker's slot cannot measure now, for `reason`; "" when it can again. False: the run is over, so that it
        need not wait any longer."""

    def submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        """Hand in. Handing the same attempt in twice changes nothing the second time. `logs` are by file name."""

    def left(self, spent: Spent) -> None:
        """The last word of a worker that has come to its end."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What the driver may ask of a lane in the middle of its work."""

    drain: threading.Event = field(default_factory=threading.Event)  # finish the measurement that runs, start none
    halt: threading.Event = field(default_factory=threading.Event)  # end everything now


class Crew(Protocol):
    """The workers of a run and their desk, wherever they are. What the driver holds."""

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; True while a worker works. What a worker raised is kept for `finish`."""

    def close(self, reason: str, *, hard: bool = False, failed: bool = False) -> None:
        """Tell the desk that no lane proposes any more."""

    def hear(self, message: Message) -> str:
        """Pass on what somebody says from outside. Returns why nothing can come of it, or ""."""

    def drain(self) -> None:
        """Measurements that run are finished, and nothing else is begun."""

    def halt(self) -> None:
        """Everything ends now."""

    def finish(self) -> None:
        """Let go of all. Raises what ended a worker, if a human must look at it."""

    @property
    def warnings(self) -> list[str]:
        """What was lost on the way and did not end the run."""


def named(closet: str, name: str) -> Any:
    """The one public class of the file `autoresearch_ray/<closet>/<name>.py`, or the class `package.module:Class`.

    Raises `SetupError` that lists what there is.
    """
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise SetupError(
                f"cannot load {name}: {error}", f"{closet} may be given as package.module:Class"
            ) from error
    known = names(closet)
    if name not in known:
        raise SetupError(
            f"there is no {name!r} among the {closet}", f"known: {', '.join(known)}, or package.module:Class"
        )
    module = importlib.import_module(f"autoresearch_ray.{closet}.{name}")
    public = [
        each
        for key, each in vars(module).items()
        if inspect.isclass(each) and each.__module__ == module.__name__ and not key.startswith("_")
    ]
    if len(public) != 1:
        raise SetupError(
            f"{module.__name__} must have one public class, it has {len(public)}", "names of the others begin with _"
        )
    return public[0]


def names(closet: str) -> list[str]:
    """What `named` knows of a closet: its files."""
    package = importlib.import_module(f"autoresearch_ray.{closet}")
    return sorted(each.name for each in pkgutil.iter_modules(package.__path__) if not each.name.startswith("_"))
