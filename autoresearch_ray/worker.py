"""A worker: one slot (a GPU, some of them, or a share of one), and the lanes that take turns to measure on it.

Lanes are threads. While the agent of one thinks, another one's candidate is measured; each lane by itself stays
strictly sequential. The workers of a node are a `team` in one process.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from autoresearch_ray import fleet, money, process
from autoresearch_ray import tree as trees
from autoresearch_ray.board import IDLE_AGENT
from autoresearch_ray.checkup import Checkup
from autoresearch_ray.errors import AgentError, GpuError, LedgerError, RepoError, SetupError
from autoresearch_ray.evaluator import Evaluator
from autoresearch_ray.model import Attempt, Options, Order, Seat, Stop, Use
from autoresearch_ray.pace import Pace
from autoresearch_ray.ports import (
    Agent,
    AgentSetup,
    Desk,
    Monitor,
    Reply,
    Signals,
    Taken,
    Walls,
    Welcome,
    named,
)
from autoresearch_ray.researcher import Researcher
from autoresearch_ray.room import allowed
from autoresearch_ray.sandbox import AgentWalls, Sandbox, home
from autoresearch_ray.slot import Slot
from autoresearch_ray.slot_clock import SlotClock
from autoresearch_ray.store import Store

_LOOK_SECONDS = 0.25  # between two looks at how busy the slot is, each of about 0.1 ms
_BEGIN_SECONDS = 1.0  # in which lanes with a tree ready begin to measure, when another lane has failed
_ROOM_SECONDS = 3600.0  # that a lane waits with its result for room on the head's disk
_Answer = TypeVar("_Answer")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def lane_name(options: Options, worker: int, lane: int) -> str:
    """ "gpu3" is the first lane of worker 3, "gpu3b" its second; "cpu3" where no GPU is granted."""
    return f"{'gpu' if options.gpus_per_worker else 'cpu'}{worker}{_LETTERS[lane] if lane else ''}"


def monitor_for(options: Options, gpus: tuple[str, ...]) -> Monitor:
    """The monitor that the options name. `auto` is NVML for a worker with GPUs, if it can be read, and psutil else."""
    if options.monitor != "auto":
        monitor: Monitor = named("monitors", options.monitor)(gpus)
        return monitor
    if gpus:
        try:
            nvml: Monitor = named("monitors", "nvml")(gpus)
            return nvml
        except GpuError:  # logical GPUs have no NVML; the seat in the ledger says "cpu" then
            pass
    cpu: Monitor = named("monitors", "cpu")(())
    return cpu


def device_class(monitor: Monitor, gpus_per_worker: float) -> str:
    """The monitor's, with the share of the GPU where a worker has no more than that."""
    share = f", {gpus_per_worker:g} of it" if 0 < gpus_per_worker < 1 else ""
    return monitor.device_class + share


@dataclass(slots=True)
class Worker:
    """Runs its lanes until each is told to stop."""

    index: int
    welcome: Welcome
    desk: Desk
    store: Store
    folder: Path  # of its own, made and removed by it
    gpus: tuple[str, ...]
    cores: int
    environ: Mapping[str, str]  # of this machine, with the mark of the worker's own processes
    walls: Sandbox | None  # that this machine can give
    walls_told: str  # what is to be said of them
    signals: Signals = field(default_factory=Signals)
    _clock: SlotClock = field(init=False)
    _evaluator: Evaluator = field(init=False)
    _seat: Seat = field(init=False)
    _pool: ThreadPoolExecutor = field(init=False)
    _lanes: dict[int, Future[None]] = field(default_factory=dict, init=False)
    _look: threading.Event = field(default_factory=threading.Event, init=False)  # at the lanes: something has changed
    _unfinished: tuple[str, ...] = field(default=(), init=False)  # lanes, when one last sat down
    _ends: bool = field(default=False, init=False)  # the desk had no work for a lane that wanted some
    _failing: bool = field(default=False, init=False)  # nothing came of the latest proposal

    def run(self) -> None:
        """Work until the desk says stop. Raises what ended a lane, once the others have finished what they measure."""
        self._clock = SlotClock(self.index, time.time())
        self._move_in()
        try:
            self._evaluator.set_up(self.signals)
            if self.signals.drain.is_set():
                return
            for own in fleet.members(self.welcome.program.options).values():
                named("agents", own.agent).check(own, self._agent_environ())
            name = f"worker{self.index}"
            with ThreadPoolExecutor(max_workers=len(_LETTERS), thread_name_prefix=name) as self._pool:
                self._begin(0)
                self._wait_for_lanes()
        finally:
            trees.remove(self.folder)
        self._ask(lambda: self.desk.left(self._clock.spent()))

    def _move_in(self) -> None:
        self.folder.mkdir()
        options = self.welcome.program.options
        monitor = monitor_for(options, self.gpus)
        kind = device_class(monitor, options.gpus_per_worker)
        lanes = None if options.lanes == "auto" else min(options.lanes, len(_LETTERS))
        self._seat = Seat(
            "", self.index, socket.gethostname(), os.getpid(), monitor.device, self.gpus, kind, self.walls_told
        )
        self._evaluator = Evaluator(
            welcome=self.welcome,
            store=self.store,
            folder=self.folder,
            shared=scratch(self.welcome) / "setup",
            slot=Slot(self.gpus, self.cores, Pace(lanes), self._clock),
            monitor=monitor,
            environ=self.environ,
            walls=self.walls,
            checkup=Checkup(
                alone=not 0 < options.gpus_per_worker < 1,
                pause=lambda reason: self._ask(lambda: self.desk.pause(self.index, reason)),
                waiting=lambda: self._clock.doing(Use.PAUSED),
            ),
        )

    def _agent_environ(self) -> dict[str, str]:
        options = self.welcome.program.options
        return {
            **allowed(self.environ, (*options.env, *options.secrets)),
            process.OWNER: self.environ[process.OWNER],
        }

    def _agent_walls(self, walls: Sandbox, folder: Path, state: Path) -> Walls:
        return AgentWalls(
            walls=walls,
            tree=folder / "agent",
            state=state,
            objects=self.store.folder / "objects",
            program_folder=program_folder(self.welcome),
            home=home(self.environ),
            more=self.welcome.program.options.agent_home,
            environ=self._agent_environ(),
        )

    def _begin(self, number: int) -> None:
        lane = lane_name(self.welcome.program.options, self.index, number)
        self._evaluator.slot.seat(lane)
        self._lanes[number] = self._pool.submit(self._lane, lane, number)
        self._lanes[number].add_done_callback(lambda _: self._look.set())

    def _wait_for_lanes(self) -> None:
        while working := [each for each in self._lanes.values() if not each.done()]:
            self._look.wait(_LOOK_SECONDS)
            self._look.clear()
            if any(each.done() and each.exception() for each in self._lanes.values()):
                wait(working, timeout=_BEGIN_SECONDS)
                self.signals.drain.set()
                wait(working)
            self._grow()
        for each in self._lanes.values():
            each.result()

    def _grow(self) -> None:
        """The lanes that left something undone, when this worker was another process; and one more, as often as the
        slot waits for its agents: but more of them do not mend one that fails."""
        if self.signals.drain.is_set():
            return
        options = self.welcome.program.options
        unfinished, self._unfinished = self._unfinished, ()
        for number in range(len(_LETTERS)):
            if lane_name(options, self.index, number) in unfinished and self._is_free(number):
                self._begin(number)
        while not (self._ends or self._failing) and self._evaluator.slot.is_short():
            free = (number for number in range(len(_LETTERS)) if self._is_free(number))
            self._begin(next(free))

    def _is_free(self, number: int) -> bool:
        lane = self._lanes.get(number)
        return lane is None or (lane.done() and lane.exception() is None)

    def _submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        """Hand in for a lane. It rests from then on if the slot is as busy without it."""
        failure = attempt.measurement.failure
        if attempt.kind == "propose":
            self._failing = failure is not None and failure.kind in IDLE_AGENT
        rests = self._evaluator.slot.spares(attempt.lane)
        attempt = replace(attempt, rests=rests)
        reply = self._ask(lambda: self.desk.submit(replace(attempt, spent=self._clock.spent()), bundle, logs))
        self._told(attempt.lane, reply.order, rests)
        return reply

    def _claim(self, lane: str, id: str, tree: str, idea: str) -> Taken | None:
        return self._ask(lambda: self.desk.claim(lane, id, tree, idea))

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        """Ask the desk, and again while the head cannot write or its git fails: what was measured is worth the wait.

        Raises the `LedgerError` or `RepoError` in the end, or when the run is to stop.
        """
        deadline, pause = time.monotonic() + _ROOM_SECONDS, 0.5
        with self._clock.doing(Use.COORDINATOR):
            while True:
                try:
                    return call()
                except (LedgerError, RepoError):
                    if time.monotonic() > deadline or self.signals.drain.wait(pause):
                        raise
                pause = min(2 * pause, 30.0)

    def _told(self, lane: str, order: Order, rests: bool = False) -> None:
        self._evaluator.slot.told(lane, order)
        if isinstance(order, Stop) and order.hard:
            self.signals.drain.set()  # the lanes that wait for the slot would measure long after the end
        self._ends = self._ends or (isinstance(order, Stop) and not rests)
        self._look.set()

    def _lane(self, lane: str, number: int) -> None:
        with self._clock.doing(Use.TREES):
            self._research(lane, number)

    def _research(self, lane: str, number: int) -> None:
        called, options = fleet.seated(self.welcome.program.options, self.index, number)
        folder = self.folder / lane
        folder.mkdir(parents=True, exist_ok=True)
        kept = Path(self.welcome.folder)
        state = (kept if kept.is_dir() else folder) / "agents" / lane
        state.mkdir(parents=True, exist_ok=True)
        walls = self._agent_walls(self.walls, folder, state) if self.walls else None
        setup = AgentSetup(self.welcome.program, options, lane, state, self._agent_environ(), walls)
        known = money.is_known(named("agents", options.agent), options)
        seat = replace(self._seat, lane=lane, agent=called, cost_known=known)
        sitting, reply = self._ask(lambda: self.desk.sit(seat, self._clock.spent()))
        self._unfinished = reply.unfinished
        self._told(lane, reply.order)
        Researcher(
            lane=lane,
            sitting=sitting,
            welcome=self.welcome,
            submit=self._submit,
            claim=self._claim,
            store=self.store,
            agent=_agent(setup),
            evaluator=self._evaluator,
            folder=folder,
            signals=self.signals,
            price=money.price(options),
        ).run(reply)


def _agent(setup: AgentSetup) -> Agent:
    """Raises `AgentError` whatever the agent's own class raises: it may be anybody's."""
    try:
        agent: Agent = named("agents", setup.options.agent)(setup)
    except Exception as error:
        raise AgentError(
            f"the agent {setup.options.agent} cannot be made for {setup.lane}: {type(error).__name__}: {error}",
            "mend the class, or choose another --agent",
        ) from error
    return agent


def private(folder: Path) -> None:
    """The one folder of this user for all runs: nobody else may have made it, or look into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make {folder}: {error.strerror}", "set TMPDIR to a folder with room") from error
    if folder.stat().st_uid != os.getuid():
        raise SetupError(f"{folder} belongs to somebody else", "set TMPDIR to a folder of your own")


def program_folder(welcome: Welcome) -> Path | None:
    """The folder of program.md, on the machine that has it."""
    run = Path(welcome.folder)
    return run.parents[1] if run.is_dir() else None


def checkout(welcome: Welcome) -> Path | None:
    """The top of the user's repository, on the machine that has it."""
    folder = program_folder(welcome)
    depth = len(Path(welcome.prefix).parts)
    return folder.parents[depth - 1] if folder and depth else folder


def scratch(welcome: Welcome) -> Path:
    """This node's folder for the trees of a run; it lasts as long as the run's processes and holds nothing to keep."""
    return Path(tempfile.gettempdir()) / f"autoresearch-{os.getuid()}" / f"{welcome.tag}-{welcome.run}"
