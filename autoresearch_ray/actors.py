"""The distance: the only file that imports Ray. Thin actors round what is tested without them.

Measured traps that shape it, with Ray 2.60: `ray.init()` without an address may join a stranger's cluster; Ray binds
all interfaces unless told not to; token authentication is on or off by the machine's past unless set; its workers run
at nice 15 with one OpenMP thread; zero-resource actors land on random nodes; `ray.kill` takes only direct children. So:
an explicit address, loopback for a single box, a token made for this run, the guardian for every evaluation, the
coordinator pinned to the head, and one concurrency group per actor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from autoresearch_ray.coordinator import Coordinator
from autoresearch_ray.errors import AutoresearchError, ClusterError
from autoresearch_ray.model import Attempt, Options, Seat
from autoresearch_ray.ports import Reply, Signals, Taken, Welcome
from autoresearch_ray.worker import Worker, scratch

_LOOK = "look into /tmp/ray/session_latest/logs; the same command takes the run up again"
_RESTARTS = 3  # of one worker in a run, before its seat is given up
_OBJECT_STORE_BYTES = 200 << 20  # the whole history travels once; Ray's default is 30 % of the memory


class _CoordinatorActor:
    """The desk as an actor. Its threads are Ray's; the coordinator's own lock orders them."""

    def __init__(self, folder: str) -> None:
        self._coordinator = Coordinator(Path(folder))

    def welcome(self) -> Welcome:
        return self._coordinator.welcome()

    def sit(self, seat: Seat) -> tuple[int, Reply]:
        return self._coordinator.sit(seat)

    def claim(self, lane: str, id: str, tree: str) -> Taken | None:
        return self._coordinator.claim(lane, id, tree)

    def pause(self, worker: int, reason: str) -> bool:
        return self._coordinator.pause(worker, reason)

    def submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        return self._coordinator.submit(attempt, bundle, logs)

    def close(self, reason: str, hard: bool, failed: bool) -> None:
        self._coordinator.close(reason, hard, failed)

    def vacate(self, worker: int, reason: str) -> None:
        self._coordinator.vacate(worker, reason)

    def leave(self) -> None:
        self._coordinator.leave()


class _WorkerActor:
    """A worker as an actor: `run` on one thread, the driver's signals on others."""

    def __init__(self, index: int, coordinator: Any, slots: Mapping[str, int], environ: Mapping[str, str]) -> None:
        """`slots` tells how many workers each node (by id) shares its cores among."""
        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids().get("GPU", []))
        cores = max(1, len(os.sched_getaffinity(0)) // max(1, slots.get(context.get_node_id(), 1)))
        self._signals = Signals()
        self._worker = Worker(index, _Desk(coordinator), gpus, cores, {**os.environ, **environ}, self._signals)

    def run(self) -> None:
        self._worker.run()

    def drain(self) -> None:
        self._signals.drain.set()

    def halt(self) -> None:
        self._signals.drain.set()
        self._signals.halt.set()


class _Desk:
    """The coordinator as a lane sees it: a call is a round trip."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    def welcome(self) -> Welcome:
        welcome: Welcome = ray.get(self._coordinator.welcome.remote())
        return welcome

    def sit(self, seat: Seat) -> tuple[int, Reply]:
        sat: tuple[int, Reply] = ray.get(self._coordinator.sit.remote(seat))
        return sat

    def claim(self, lane: str, id: str, tree: str) -> Taken | None:
        taken: Taken | None = ray.get(self._coordinator.claim.remote(lane, id, tree))
        return taken

    def pause(self, worker: int, reason: str) -> bool:
        goes_on: bool = ray.get(self._coordinator.pause.remote(worker, reason))
        return goes_on

    def submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        reply: Reply = ray.get(self._coordinator.submit.remote(attempt, bundle, logs))
        return reply


class Cluster:
    """A connection to Ray: this machine's own, started for this run, or the one at an address."""

    def __init__(self, address: str | None) -> None:
        """Raises `ClusterError` if it cannot be reached. Joins a Ray that this process has already started.

        A Ray of its own takes its settings from the environment as it was when Ray was imported: `session` sets them.
        """
        self._started = not ray.is_initialized()
        if not self._started:
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "autoresearch"}
        try:
            if address is None:
                ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
            else:
                ray.init(address=address, **quiet)
        except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ClusterError(
                f"cannot reach Ray at {address or 'this machine'}: {error}",
                "start it with `ray start --head`, or leave --address out to use this machine alone;"
                " a token error means that RAY_AUTH_MODE differs between here and there",
            ) from error

    def slots(self, gpus_per_worker: float) -> dict[str, int]:
        """How many workers each living node can seat, by node id. Without GPUs: one per node."""
        listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = {each["NodeID"]: each["Resources"].get("GPU", 0.0) for each in listed if each["Alive"]}
        if not gpus_per_worker:
            return dict.fromkeys(nodes, 1)
        return {node: int(gpus / gpus_per_worker + 1e-9) for node, gpus in nodes.items()}

    def wait_for_room(self, workers: int, gpus_per_worker: float, seconds: float) -> None:
        """Nodes join a cluster for some seconds after `ray up` has returned: give them that."""
        deadline = time.monotonic() + seconds
        while sum(self.slots(gpus_per_worker).values()) < workers and time.monotonic() < deadline:
            time.sleep(1.0)

    def leave(self) -> None:
        if self._started:
            ray.shutdown()


class RayCrew:
    """Workers as actors, each with its GPUs, and one coordinator on the head. They die with this process."""

    def __init__(
        self, cluster: Cluster, folder: Path, options: Options, workers: int, environ: Mapping[str, str]
    ) -> None:
        """`environ` are variables of this machine that workers need by value: the secrets of agents, mostly."""
        self._options = options
        self._environ = dict(environ)
        self._slots = cluster.slots(options.gpus_per_worker)
        if not options.gpus_per_worker:
            self._slots = dict.fromkeys(self._slots, -(-workers // len(self._slots)))
        self._failures: list[Exception] = []
        self._warnings: list[str] = []
        self._restarts = dict.fromkeys(range(workers), 0)
        self._coordinator: Any = (
            ray.remote(_CoordinatorActor)
            .options(
                num_cpus=0,
                resources={"node:__internal_head__": 0.001},
                max_concurrency=4 * workers + 8,
                max_restarts=0,
            )
            .remote(str(folder))
        )
        self._actors: dict[int, Any] = {}
        self._runs: dict[Any, int] = {}
        try:
            self._welcome: Welcome = _Desk(self._coordinator).welcome()
        except RayError as error:
            raise _cause(error) from error
        for index in range(workers):
            self._seat(index)

    def _seat(self, index: int) -> None:
        actor: Any = (
            ray.remote(_WorkerActor)
            .options(
                num_cpus=0,
                num_gpus=self._options.gpus_per_worker,
                max_concurrency=4,
                max_restarts=0,
                scheduling_strategy="SPREAD" if not self._options.gpus_per_worker else "DEFAULT",
            )
            .remote(index, self._coordinator, self._slots, self._environ)
        )
        self._actors[index] = actor
        self._runs[actor.run.remote()] = index

    def wait(self, seconds: float) -> bool:
        done, _ = ray.wait(list(self._runs), timeout=seconds) if self._runs else ([], [])
        for run in done:
            index = self._runs.pop(run)
            try:
                ray.get(run)
            except RayTaskError as error:  # before RayActorError: the death of the coordinator is both
                self._failures.append(_cause(error))
                self.drain()
            except RayActorError as error:
                self._lost(index, error)
        return bool(self._runs)

    def _lost(self, index: int, error: RayActorError) -> None:
        """A worker died, with its process or its node: it sits down again, a few times."""
        self._restarts[index] += 1
        if self._restarts[index] <= _RESTARTS:
            self._seat(index)
            return
        died = f"worker {index} died {self._restarts[index]} times and was given up: {error}"
        self._warnings.append(died)
        if self._runs:
            try:
                ray.get(self._coordinator.vacate.remote(index, died))
            except RayError as gone:
                self._failures.append(_cause(gone))
        else:
            self._failures.append(ClusterError(died, _LOOK))

    def close(self, reason: str, *, hard: bool = False, failed: bool = False) -> None:
        try:
            ray.get(self._coordinator.close.remote(reason, hard, failed))
        except RayError as error:
            raise _cause(error) from error

    def drain(self) -> None:
        for actor in self._actors.values():
            actor.drain.remote()

    def halt(self) -> None:
        for actor in self._actors.values():
            actor.halt.remote()

    @property
    def warnings(self) -> list[str]:
        return self._warnings

    def finish(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        if self._coordinator is not None:
            try:
                ray.get(self._coordinator.leave.remote())
            except RayError as error:
                self._failures.append(_cause(error))
            ray.kill(self._coordinator)
            self._coordinator = None
        shutil.rmtree(scratch(self._welcome), ignore_errors=True)
        if self._failures:
            raise self._failures[0]


def _cause(error: RayError) -> Exception:
    """The error that an actor raised, as it was raised there."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AutoresearchError):
        return cause
    if isinstance(cause, RayError):
        return _cause(cause)
    return ClusterError(f"an actor failed: {error}", _LOOK)


# --- The driver as a Ray job -----------------------------------------------------------------------------------------


def in_job(environ: Mapping[str, str]) -> bool:
    """Whether this process is the driver of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in environ


def on_ssh_terminal(environ: Mapping[str, str]) -> bool:
    """Whether this is a script on an ssh terminal, as under `ray submit`: it would end when the connection does."""
    over_ssh = "SSH_CONNECTION" in environ or "SSH_TTY" in environ
    return over_ssh and os.isatty(0) and hasattr(sys.modules["__main__"], "__file__")


def as_job(address: str, folder: Path, finish_seconds: float) -> int:
    """Run this process's own command line again as a Ray job, follow its log on stdout, and return its exit status.

    The job runs on the head, in this directory, and outlives this process: an interrupt ends the following alone, with
    status 130, and so does a lost terminal. A stopped job gets SIGINT, and `finish_seconds` for what it is measuring.
    Its environment is the one that Ray was started in on the head; nothing of this one travels, so no secret does, as
    anybody who sees the dashboard could read it there.

    Raises `ClusterError` if it cannot be submitted: there is no dashboard, or Ray was installed without it.
    """
    from ray.job_submission import JobSubmissionClient  # a quarter of a second, for drivers that hand over alone

    logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.ERROR)  # it tells how each connection closed
    command = [sys.executable, *sys.orig_argv[1:]]
    environ = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(int(finish_seconds))}
    if "RAY_AUTH_MODE" in os.environ:
        environ["RAY_AUTH_MODE"] = os.environ["RAY_AUTH_MODE"]
    try:
        client = JobSubmissionClient(address)
        job: str = client.submit_job(
            entrypoint=f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(command)}",
            submission_id=f"autoresearch-{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            runtime_env={"env_vars": environ},
        )
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray at {address} takes no job: {error}",
            "install ray[default] on the head and start it with its dashboard, or run in tmux without --as-job",
        ) from error
    _say(f"this is the Ray job {job} now; it goes on when this terminal is gone")
    try:
        asyncio.run(_follow(client, job))
        info = client.get_job_info(job)
    except (KeyboardInterrupt, OSError, RuntimeError) as error:
        _say(f"no longer following: {error}" if str(error) else "")
        _say(f"follow: ray job logs --follow {job}\nstop:   autoresearch-ray stop --folder {shlex.quote(str(folder))}")
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    if info.status == "STOPPED":
        return 130
    code: int = 1 if info.driver_exit_code is None else info.driver_exit_code
    return code if code >= 0 else 128 - code  # a signal, as a shell reports it


async def _follow(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text)
        sys.stdout.flush()


def _say(line: str) -> None:
    """To the terminal, if there still is one."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")
