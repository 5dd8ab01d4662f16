"""A worker: one slot (a GPU, some of them, or a share of one), and the lanes that take turns to measure on it.

Lanes are threads. While the agent of one thinks, another one's candidate is measured; each lane by itself stays
strictly sequential. `LocalCrew` runs workers as threads of this process: the backend of tests, without Ray.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.board import IDLE_AGENT
from autoresearch_ray.coordinator import Coordinator
from autoresearch_ray.errors import AgentError, GpuError, SetupError
from autoresearch_ray.evaluator import Evaluator, allowed
from autoresearch_ray.model import Attempt, Options, Order, Seat, Stop
from autoresearch_ray.pace import Pace
from autoresearch_ray.ports import Agent, AgentSetup, Desk, Monitor, Reply, Signals, Welcome, named
from autoresearch_ray.researcher import Researcher
from autoresearch_ray.slot import Slot
from autoresearch_ray.store import Store

_LOOK_SECONDS = 0.25  # between two looks at how busy the slot is, each of about 0.1 ms
_BEGIN_SECONDS = 1.0  # in which lanes with a tree ready begin to measure, when another lane has failed
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
    desk: Desk
    gpus: tuple[str, ...]
    cores: int
    environ: Mapping[str, str]
    signals: Signals = field(default_factory=Signals)
    _welcome: Welcome = field(init=False)
    _folder: Path = field(init=False)
    _store: Store = field(init=False)
    _evaluator: Evaluator = field(init=False)
    _seat: Seat = field(init=False)
    _environ: dict[str, str] = field(init=False)
    _pool: ThreadPoolExecutor = field(init=False)
    _lanes: dict[int, Future[None]] = field(default_factory=dict, init=False)
    _look: threading.Event = field(default_factory=threading.Event, init=False)  # at the lanes: something has changed
    _unfinished: tuple[str, ...] = field(default=(), init=False)  # lanes, when one last sat down
    _ends: bool = field(default=False, init=False)  # the desk had no work for a lane that wanted some
    _failing: bool = field(default=False, init=False)  # nothing came of the latest proposal

    def run(self) -> None:
        """Work until the desk says stop. Raises what ended a lane, once the others have finished what they measure."""
        self._move_in()
        try:
            self._evaluator.set_up(self.signals.halt)
            options = self._welcome.program.options
            named("agents", options.agent).check(options, self._agent_environ())
            name = f"worker{self.index}"
            with ThreadPoolExecutor(max_workers=len(_LETTERS), thread_name_prefix=name) as self._pool:
                self._begin(0)
                self._wait_for_lanes()
        finally:
            trees.remove(self._folder)
            with suppress(OSError):  # others of this node may still work beside us
                self._folder.parent.rmdir()

    def _move_in(self) -> None:
        """A folder of its own, swept clean of what an earlier life of this worker may have left running."""
        self._welcome = self.desk.welcome()
        node = scratch(self._welcome)
        _private(node.parent)
        self._folder = node / f"worker{self.index}"
        owner = f"{self._welcome.run}-{self.index}"
        self._environ = {**self.environ, "AUTORESEARCH_OWNER": owner}
        process.sweep(owner)
        trees.remove(self._folder)
        self._folder.mkdir(parents=True)
        self._store = Store.create(self._folder / "store.git", self._welcome.bundle, self._welcome.base)
        options = self._welcome.program.options
        monitor = monitor_for(options, self.gpus)
        kind = device_class(monitor, options.gpus_per_worker)
        lanes = None if options.lanes == "auto" else min(options.lanes, len(_LETTERS))
        self._seat = Seat("", self.index, socket.gethostname(), os.getpid(), monitor.device, self.gpus, kind)
        self._evaluator = Evaluator(
            welcome=self._welcome,
            store=self._store,
            folder=self._folder,
            shared=node / "setup",
            slot=Slot(self.gpus, self.cores, Pace(lanes)),
            monitor=monitor,
            environ=self._environ,
        )

    def _agent_environ(self) -> dict[str, str]:
        options = self._welcome.program.options
        return {
            **allowed(self._environ, (*options.env, *options.secrets)),
            "AUTORESEARCH_OWNER": self._environ["AUTORESEARCH_OWNER"],
        }

    def _begin(self, number: int) -> None:
        lane = lane_name(self._welcome.program.options, self.index, number)
        self._evaluator.slot.seat(lane)
        self._lanes[number] = self._pool.submit(self._lane, lane)
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
        unfinished, self._unfinished = self._unfinished, ()
        for number in range(len(_LETTERS)):
            if lane_name(self._welcome.program.options, self.index, number) in unfinished and self._is_free(number):
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
        reply = self.desk.submit(replace(attempt, rests=rests), bundle, logs)
        self._told(attempt.lane, reply.order, rests)
        return reply

    def _told(self, lane: str, order: Order, rests: bool = False) -> None:
        self._evaluator.slot.told(lane, order)
        if isinstance(order, Stop) and order.hard:
            self.signals.drain.set()  # the lanes that wait for the slot would measure long after the end
        self._ends = self._ends or (isinstance(order, Stop) and not rests)
        self._look.set()

    def _lane(self, lane: str) -> None:
        options = self._welcome.program.options
        folder = self._folder / lane
        folder.mkdir(parents=True, exist_ok=True)
        kept = Path(self._welcome.folder)
        state = (kept if kept.is_dir() else folder) / "agents" / lane
        state.mkdir(parents=True, exist_ok=True)
        setup = AgentSetup(self._welcome.program, options, lane, state, self._agent_environ())
        sitting, reply = self.desk.sit(replace(self._seat, lane=lane))
        self._unfinished = reply.unfinished
        self._told(lane, reply.order)
        Researcher(
            lane=lane,
            sitting=sitting,
            welcome=self._welcome,
            submit=self._submit,
            claim=self.desk.claim,
            store=self._store,
            agent=_agent(setup),
            evaluator=self._evaluator,
            folder=folder,
            signals=self.signals,
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


def _private(folder: Path) -> None:
    """The one folder of this user for all runs: nobody else may have made it, or look into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make {folder}: {error.strerror}", "set TMPDIR to a folder with room") from error
    if folder.stat().st_uid != os.getuid():
        raise SetupError(f"{folder} belongs to somebody else", "set TMPDIR to a folder of your own")


def scratch(welcome: Welcome) -> Path:
    """This node's folder for the trees of a run; it lasts as long as the run's processes and holds nothing to keep."""
    return Path(tempfile.gettempdir()) / f"autoresearch-{os.getuid()}" / f"{welcome.tag}-{welcome.run}"


class LocalCrew:
    """Workers as threads of this process, one coordinator among them. No Ray."""

    def __init__(self, folder: Path, slots: Sequence[tuple[str, ...]], environ: Mapping[str, str]) -> None:
        """`slots` are the GPU ids of each worker."""
        self._coordinator = Coordinator(folder)
        self._welcome = self._coordinator.welcome()
        self._signals = Signals()
        cores = max(1, len(os.sched_getaffinity(0)) // len(slots))
        self._pool = ThreadPoolExecutor(max_workers=len(slots), thread_name_prefix="worker")
        self._futures = [
            self._pool.submit(Worker(index, self._coordinator, gpus, cores, environ, self._signals).run)
            for index, gpus in enumerate(slots)
        ]

    def wait(self, seconds: float) -> bool:
        done, pending = wait(self._futures, timeout=seconds, return_when=FIRST_COMPLETED)
        if len(done) < len(self._futures) and any(each.exception() for each in done):
            self._signals.drain.set()
        if pending and done:
            wait(pending, timeout=seconds)
        return bool(pending)

    def close(self, reason: str, *, hard: bool = False, failed: bool = False) -> None:
        self._coordinator.close(reason, hard, failed)

    def drain(self) -> None:
        self._signals.drain.set()

    def halt(self) -> None:
        self._signals.drain.set()
        self._signals.halt.set()

    @property
    def warnings(self) -> list[str]:
        return []

    def finish(self) -> None:
        self._pool.shutdown()
        self._coordinator.leave()
        shutil.rmtree(scratch(self._welcome), ignore_errors=True)
        for each in self._futures:
            each.result()
