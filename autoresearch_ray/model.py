"""The words of the house: what a program, an order, an attempt and a verdict are; what happens to them is in `events`.

Only frozen dataclasses and the standard library: no clock, no disk, no chance. Everything here can be pickled between
actors and written to the ledger as JSON. Units stand in the names; times are seconds since the epoch.

One rule runs through all of it: a measurement is a value *or* a failure, never a sentinel number.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Scalar = bool | int | float | str

# --- The program: what a human wrote ---------------------------------------------------------------------------------


class Direction(StrEnum):
    """Which way is better. Nobody else compares metrics with `<`."""

    LOWER = "lower"
    HIGHER = "higher"

    def gain(self, new: float, old: float) -> float:
        """How much better `new` is than `old`, in the metric's unit; negative when worse."""
        return old - new if self is Direction.LOWER else new - old

    def better(self, new: float, old: float) -> bool:
        return self.gain(new, old) > 0


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured, and which way is better."""

    name: str
    direction: Direction


class ParseKind(StrEnum):
    """Where in the log the metric stands."""

    COMMAND = "command"  # a shell command that reads run.log
    REGEX = "regex"  # the first group (or the whole match) of its last match in the log
    STDOUT = "stdout"  # the evaluation's entire standard output is the number
    LINE = "line"  # the last line "<metric>: <number>" of the log


@dataclass(frozen=True, slots=True)
class Parse:
    """How the metric is read from the log that the runner wrote."""

    kind: ParseKind = ParseKind.LINE
    text: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an experiment may change. Paths are relative to the folder of program.md, with forward slashes."""

    can: tuple[str, ...]
    cannot: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()  # remarks in words, for the agent

    def allows(self, path: str) -> bool:
        """Whether `path` may be changed: matched by one of `can` and by none of `cannot`."""
        return any(_matches(path, each) for each in self.can) and not any(_matches(path, each) for each in self.cannot)


def _matches(path: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./")
    if pattern in ("", "."):
        return True
    if pattern.endswith("/") or not any(each in pattern for each in "*?["):
        return path == pattern.rstrip("/") or path.startswith(pattern.rstrip("/") + "/")
    return fnmatch.fnmatchcase(path, pattern)


MEMORY = "memory_gb"  # the name that stands for the runner's own reading of the peak, in GB of 2**30 bytes


@dataclass(frozen=True, slots=True)
class Also:
    """One more number of every measurement, beside the metric."""

    name: str
    direction: Direction
    limit: float | None = None  # how much worse than the baseline it may be, as a share: 0.1 is 10 %
    bound: float | None = None  # the worst value it may have, whatever the baseline has
    weight: float = 0.0  # in a weighted sum


class Rule(StrEnum):
    """How several numbers make one verdict."""

    CONSTRAINED = "constrained"  # the metric decides, and the others stay within their limits
    PARETO = "pareto"  # better in one of them, worse in none
    WEIGHTED = "weighted"  # their weighted sum decides, in the metric's direction


@dataclass(frozen=True, slots=True)
class Eval:
    """The command that measures, and its limits in seconds."""

    command: str
    metric: Metric
    budget_seconds: float
    kill_after_seconds: float
    parse: Parse = Parse()
    setup: str | None = None
    guard: str | None = None
    also: tuple[Also, ...] = ()
    rule: Rule = Rule.CONSTRAINED
    weight: float = 1.0  # of the metric itself in a weighted sum
    holdout: str | None = None  # measures in secret what is about to be published; agents and evaluations never see it
    keep: tuple[str, ...] = ()  # paths that every tree of a node shares and none can change


@dataclass(frozen=True, slots=True)
class Member:
    """One of the agents of a mixed fleet. What is None here is as `Options` have it for all of them."""

    agent: str | None = None
    agent_command: str | None = None
    model: str | None = None
    base_url: str | None = None
    temperature: float | None = None
    extra_args: tuple[str, ...] | None = None
    agent_minutes: float | None = None
    weight: float = 1.0  # of the lanes that it gets
    name: str | None = None  # by which people are told of it; None: its agent and its model


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in USD per million tokens."""

    input: float
    output: float
    cached: float | None = None  # for input that the provider had read before; None: as all input


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a program. Front matter, flags and `research()` use exactly these words."""

    tag: str | None = None
    agent: str = "claude"
    agent_command: str | None = None
    model: str | None = None
    base_url: str | None = None  # of an endpoint that speaks as OpenAI's does, for agents that can be pointed at one
    temperature: float | None = None  # of the replies to `agent: llm`; None: the endpoint's own
    extra_args: tuple[str, ...] = ()  # behind the arguments that a preset gives its tool
    agents: tuple[Member, ...] = ()  # a mixed fleet: lanes have different ones
    prices: Mapping[str, Price] = field(default_factory=dict)  # by model or, where that is not said, by agent
    agent_minutes: float = 10.0
    secrets: tuple[str, ...] = ()  # names of environment variables that only the agent sees
    env: tuple[str, ...] = ()  # names of environment variables that evaluations see besides the allow list
    sandbox: Literal["auto", "bwrap", "none"] = "auto"  # auto: bwrap where it works
    network: bool = False  # of evaluations in a sandbox; agents always have it
    disk_gb: float = 10.0  # that an evaluation may write, in GB of 2**30 bytes
    agent_home: tuple[str, ...] = ()  # paths, most below the home, that an agent in a sandbox may write to
    workers: int | Literal["auto"] = "auto"
    gpus_per_worker: float = 1.0
    lanes: int | Literal["auto"] = "auto"
    monitor: str = "auto"
    policy: str = "bayes"
    every: int = 4  # hand-ins of a lane between two moves onto the best
    experiments: int | None = None
    evaluations: int | None = None  # all of them: of candidates, and once more of what is unclear
    hours: float | None = None
    cost_usd: float | None = None
    target: float | None = None
    plateau: int | None = None
    address: str | None = None
    backend: Literal["ray", "local"] = "ray"
    allow_dirty: bool = False
    mirror: str | None = None  # where branches, attempts and the ledger are copied to: a git remote, a URL or a path
    mirror_minutes: float = 10.0  # between two copies; after every keep in any case


@dataclass(frozen=True, slots=True)
class Program:
    """program.md, read. `text` is the file as the human wrote it, without the front matter."""

    title: str
    text: str
    scope: Scope
    eval: Eval
    strategy: str = ""
    notes: str = ""
    options: Options = Options()
    path: str = ""  # where it was read from


# --- What happened to one candidate ----------------------------------------------------------------------------------


class FailureKind(StrEnum):
    """What went wrong. `AGENT` and `MACHINE` say nothing about the idea."""

    CRASH = "crash"
    TIMEOUT = "timeout"
    OOM = "oom"
    NO_METRIC = "no_metric"
    NOT_FINITE = "not_finite"
    OUT_OF_SCOPE = "out_of_scope"
    NO_CHANGE = "no_change"
    CONFLICT = "conflict"
    PAUSED = "paused"  # its device is in somebody else's hands, or does not come to rest
    GUARD = "guard"
    NO_EFFECT = "no_effect"  # only a seed, a comment or white space differs
    DUPLICATE = "duplicate"  # the same files were measured before, or are being measured
    AGENT = "agent"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no value. `tail` holds the last lines of the log of a crash."""

    kind: FailureKind
    message: str
    tail: str = ""
    fatal: bool = False  # of a machine: its device is sick by the runner's own reading, and the slot is taken out


@dataclass(frozen=True, slots=True)
class Resources:
    """What a monitor saw during one evaluation. `None` is "not known", never zero. Memory in MB (2**20 bytes)."""

    device: str = "cpu"
    uuid: str | None = None
    driver: str | None = None
    peak_mb: float | None = None  # of the device above its idle level; of the process tree on a CPU
    mean_mb: float | None = None
    process_peak_mb: float | None = None  # summed over the experiment's process tree, where the driver shows it
    energy_joules: float | None = None
    utilisation_percent: float | None = None
    power_watts: float | None = None
    temperature_c: float | None = None
    throttle: tuple[str, ...] = ()
    contended: bool = False  # a process that is not ours used the device

    @property
    def memory_gb(self) -> float | None:
        """The peak in GB (2**30): of the device above its idle level or, where that is not known, of the processes."""
        peak = self.process_peak_mb if self.peak_mb is None else self.peak_mb
        return None if peak is None else peak / 1024


@dataclass(frozen=True, slots=True)
class Measurement:
    """One evaluation of one commit: a value xor a failure, with the runner's own readings around it."""

    value: float | None
    failure: Failure | None = None
    seed: int = 0
    exit_code: int | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    resources: Resources = Resources()
    also: Mapping[str, float] = field(default_factory=dict)  # the other numbers, by name; all of them or none
    printed: int = 1  # how many times the log gives the metric

    def __post_init__(self) -> None:
        if (self.value is None) == (self.failure is None):
            raise ValueError("a measurement is a value or a failure, and never both")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a measured value is finite, not {self.value}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a proposal cost. `None` is "not known", never zero.

    Dollars are `reported` by the agent or `priced` from its tokens. Of several requests of which some say nothing they
    are what the others cost: the least that was spent, and `partly` known.
    """

    seconds: float = 0.0
    input_tokens: int | None = None  # the cached ones among them
    output_tokens: int | None = None
    cost_usd: float | None = None
    cached_tokens: int | None = None
    cost_source: Literal["reported", "priced", "partly"] | None = None


class TroubleKind(StrEnum):
    """What kept an agent from making an edit. Whose doing it is says what helps: another try, waiting, or a human."""

    NO_EDIT = "no_edit"  # it ended as if all were well, and changed nothing
    REJECTED = "rejected"  # its own tool refused the edits that it wanted to make
    TIMEOUT = "timeout"  # it did not end in time
    RATE_LIMITED = "rate_limited"  # the provider asks for fewer requests
    UNAVAILABLE = "unavailable"  # the provider is overloaded, broken, or cannot be reached
    AUTH = "auth"  # no login, a wrong key, or nothing left on the account
    CRASHED = "crashed"  # anything else: it failed, and did not say why


class Outcome(StrEnum):
    """What came of asking an agent for an edit, judged by what it changed: in the field's words."""

    EDITED = "edited"
    NO_EDIT = "no_edit"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    AUTH = "auth"
    CRASHED = "crashed"
    OUT_OF_SCOPE = "out_of_scope"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an agent made no edit, and how long its provider asks to be left alone, where it says so."""

    kind: TroubleKind
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an agent says of its edit. It is judged by the diff; `error` and `trouble` count only where there is none.

    An `error` without a `trouble` is one of the kind `CRASHED`. `session` is the id by which the agent can go on with
    its conversation, if it is asked to repair its edit; "" where it cannot.
    """

    idea: str
    usage: Usage = Usage()
    params: Mapping[str, Scalar] = field(default_factory=dict)
    error: str | None = None
    trouble: Trouble | None = None
    session: str = ""


# --- Orders: what a lane is told to do next --------------------------------------------------------------------------


REWORKS = 2  # of one idea that breaks the guard


@dataclass(frozen=True, slots=True)
class Rework:
    """What broke the guard: the same idea is to be made once more, without breaking it."""

    id: str  # of the experiment
    commit: str  # where the agent stands now; the candidate is still compared with `Propose.parent`
    fault: str  # the end of the guard's output
    times: int  # 1 for the first rework of the idea, 2 for the last


@dataclass(frozen=True, slots=True)
class Propose:
    """Have the agent make a candidate on top of `parent` and measure it."""

    id: str  # of the attempt to come, "<lane>-<number>"
    parent: str
    seed: int
    beat: float | None = None  # a guard runs on any value that is not worse than this; None: on every value
    rework: Rework | None = None
    kind: Literal["propose"] = "propose"


@dataclass(frozen=True, slots=True)
class Remeasure:
    """Measure `commit` once more, with a fresh seed."""

    id: str
    commit: str
    seed: int
    why: str
    kind: Literal["remeasure"] = "remeasure"


@dataclass(frozen=True, slots=True)
class Replay:
    """Pick kept `commits`, this lane's or others', onto `parent`, and measure that as one ordinary attempt."""

    id: str
    parent: str
    commits: tuple[str, ...]
    seed: int
    beat: float | None = None
    why: str = ""
    kind: Literal["replay"] = "replay"


@dataclass(frozen=True, slots=True)
class Ablate:
    """Take the change that `commit` made out of `parent`, and measure that as one ordinary attempt."""

    id: str
    parent: str
    commit: str
    seed: int
    beat: float | None = None
    why: str = ""
    kind: Literal["ablate"] = "ablate"


@dataclass(frozen=True, slots=True)
class Try:
    """Measure `commit`, which somebody else made on `parent` and submitted, as one ordinary attempt."""

    id: str
    parent: str
    commit: str
    submission: str  # its id
    seed: int
    beat: float | None = None
    idea: str = ""
    by: str = ""
    kind: Literal["submit"] = "submit"


@dataclass(frozen=True, slots=True)
class Holdout:
    """Run the program's holdout on `commit`, which is about to be published or is what that is compared with."""

    id: str
    commit: str
    seed: int
    kind: Literal["holdout"] = "holdout"


@dataclass(frozen=True, slots=True)
class Wait:
    """Come back in so many seconds: no agent can be asked now, and there is nothing to measure that helps.

    Seconds and no date, because the clocks of two machines differ. A lane that comes back and has to wait on keeps this
    order, and nothing is written to the ledger.
    """

    id: str
    seconds: float
    why: str
    kind: Literal["wait"] = "wait"


@dataclass(frozen=True, slots=True)
class Stop:
    """There is nothing more to do for this lane or, if it is `hard`, for any: what waits for a slot is left undone."""

    reason: str
    hard: bool = False
    kind: Literal["stop"] = "stop"


Order = Propose | Remeasure | Replay | Ablate | Try | Holdout | Wait | Stop


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a lane hands in for one order. `line` are the commits from the parent to `commit`, oldest first.

    Of a replay, `picked` are the commits of the order that `line` was made from, one for one; `left_out` are the
    others, which conflict or change nothing there. Of an ablation, `left_out` is the change that was taken out.
    `trouble` is what kept the agent from an edit, where nothing was edited; `wait` is the answer to an order to wait,
    and is never in the ledger. `tree` names the files of `commit`: the same files, the same name.
    """

    id: str
    lane: str
    seat: int  # which sitting of the lane made it; a late hand-in of an earlier one is not counted
    kind: Literal["propose", "remeasure", "replay", "ablate", "submit", "holdout", "wait"]
    parent: str
    commit: str | None
    measurement: Measurement
    idea: str = ""
    line: tuple[str, ...] = ()
    params: Mapping[str, Scalar] = field(default_factory=dict)
    lines: int = 0  # added minus removed, against the parent
    usage: Usage = Usage()
    tree: str = ""
    picked: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    reply_seconds: float | None = None  # that the order took to come, from the hand-in before it
    rests: bool = False  # its lane would rest now, where nothing but a proposal is wanted of it
    trouble: Trouble | None = None
    spent: Spent | None = None
    repaired: str = ""  # what its agent was asked to repair, in a line


# --- Where the time goes ---------------------------------------------------------------------------------------------


class Use(StrEnum):
    """What a second of a slot goes to. Its lanes may do several things at once: then it is the first of these."""

    CANDIDATES = "candidates"  # measuring what agents proposed
    GROUPS = "groups"  # measuring changes that were brought together, and the best without one of them
    AGAIN = "again"  # measuring once more what is too close to call, is compared with, or would be the best
    BASELINES = "baselines"
    HOLDOUT = "holdout"
    LOST = "lost"  # an evaluation of which nothing came: the machine failed, or it was interrupted, or it went back
    PAUSED = "paused"  # its device is in somebody else's hands, or does not come to rest
    GUARD = "guard"
    PARSE = "parse"
    TREES = "trees"  # clean trees, commits, bundles, and all else that a lane does by itself
    SETUP = "setup"  # the worker moves in or out, and the program's Setup
    COORDINATOR = "coordinator"  # a call to the desk is under way
    AGENT = "agent"  # every lane that works waits for its agent
    BACKING_OFF = "backing off"  # the agents' provider is not to be asked for a while
    RESTING = "resting"  # lanes that are not wanted
    STARTING = "starting"  # the session has begun, and the worker has not
    DIED = "died"  # from a worker's last report to its next life, or to the end
    FINISHED = "finished"  # the worker had nothing left to do, and others had
    UNREPORTED = "not yet reported"  # since the last report of a worker that is there


@dataclass(frozen=True, slots=True)
class Spent:
    """What a slot has spent since its worker began: all of it in every report, so none is missed or counted twice."""

    worker: int
    since: float  # when this life of the worker began, by the clock of its machine: the name of it
    seconds: Mapping[Use, float]


# --- Verdicts: what people read --------------------------------------------------------------------------------------


class Status(StrEnum):
    """The verdict on an experiment."""

    PENDING = "pending"  # measured, not yet decided
    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"
    LOST = "lost"  # the agent or the machine failed: says nothing about the idea


@dataclass(frozen=True, slots=True)
class Experiment:
    """One candidate commit with all its measurements and its verdict. Number 0 is the baseline."""

    number: int
    id: str
    lane: str
    kind: Literal["baseline", "propose", "replay", "ablate"]
    parent: str
    commit: str | None
    idea: str
    at: float
    values: tuple[float, ...] = ()
    status: Status = Status.PENDING
    reason: str = ""
    failure: Failure | None = None
    gain: float | None = None  # over its parent when it was judged; positive is better
    error: float | None = None  # the standard error of that
    likely: float | None = None  # the gain to be expected, in the light of what other changes have brought
    spread: float | None = None  # the standard deviation of that
    line: tuple[str, ...] = ()  # the commits from the parent to `commit`, oldest first
    lines: int = 0  # added minus removed
    params: Mapping[str, Scalar] = field(default_factory=dict)
    usage: Usage = Usage()
    seconds: float = 0.0  # of evaluation, all measurements together
    resources: Resources = Resources()
    also: Mapping[str, float] = field(default_factory=dict)  # the means of its other numbers, by name
    doubts: tuple[str, ...] = ()  # why its value is suspicious, in words
    picked: tuple[str, ...] = ()  # of a replay: the commits that it brought together
    left_out: tuple[str, ...] = ()  # and could not: in conflict, or there already; of an ablation: what it took out
    tree: str = ""
    printed: int = 1  # how many times its log gave the metric
    trouble: Trouble | None = None  # what kept its agent from an edit
    repaired: str = ""  # what its agent was asked to repair, in a line
    by: str = ""  # who submitted it; "" where an agent of the run proposed it
    submission: str = ""  # the id of that
    agent: str = ""  # who proposed it; "" where nobody did

    @property
    def outcome(self) -> Outcome | None:
        """What came of asking the agent; None where none was asked."""
        failure = self.failure
        if self.kind != "propose" or self.submission:
            return None
        if self.trouble:
            return Outcome(self.trouble.kind)
        if failure and failure.kind is FailureKind.OUT_OF_SCOPE:
            return Outcome.OUT_OF_SCOPE
        if failure and failure.kind is FailureKind.MACHINE and self.commit is None:
            return None
        if failure and failure.kind is FailureKind.AGENT:  # its trouble is not told: a ledger of before it was
            return Outcome.CRASHED
        return Outcome.EDITED

    @property
    def value(self) -> float | None:
        """The mean of its measurements."""
        return sum(self.values) / len(self.values) if self.values else None

    def __str__(self) -> str:
        value = "      -" if self.value is None else f"{self.value:.6g}"
        return f"#{self.number} [{self.status}] {self.lane} {value}  {self.idea}"


@dataclass(frozen=True, slots=True)
class Past:
    """One line of the record that an agent is given."""

    number: int
    lane: str
    status: Status
    value: float | None
    idea: str
    reason: str = ""
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Brief:
    """All that an agent is told: the prompt in words, and the record as data for agents that compute.

    With `repair` the same proposal goes on: the checkout still holds the edit that was refused or crashed, and the
    prompt says in its last section why.
    """

    id: str
    prompt: str
    direction: Direction
    history: tuple[Past, ...] = ()
    seed: int = 0
    repair: bool = False


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a lane sits."""

    lane: str
    worker: int
    host: str
    pid: int
    device: str = "cpu"
    gpus: tuple[str, ...] = ()
    device_class: str = ""  # model, memory, driver and share: values of one class can be compared as they are
    sandbox: str = ""  # "bwrap", or "none" and, behind a colon, why it cannot be had here
    agent: str = ""  # which of the run's agents sits there, such as "claude:opus"
    cost_known: bool = False  # whether it will be known what its proposals cost
