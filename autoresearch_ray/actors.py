"""The distance: the only file that imports Ray. Thin actors round what is tested without them.

Measured traps that shape it, with Ray 2.60: `ray.init()` without an address may join a stranger's cluster; Ray binds
all interfaces unless told not to; token authentication is on or off by the machine's past unless set; its workers run
at nice 15 with one OpenMP thread; zero-resource actors land on random nodes; `ray.kill` takes only direct children;
`ray.wait` and the head's view of who holds which GPU go by the wall clock, also where that is set back. So: an explicit
address, loopback for a single box, a token made for this run, the guardian for every evaluation, the coordinator pinned
to the head, one concurrency group per actor, and no wait of Ray's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shlex
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # the public one adds all nodes up
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autoresearch_ray import seating
from autoresearch_ray.coordinator import Coordinator
from autoresearch_ray.errors import AutoresearchError, ClusterError, LedgerError
from autoresearch_ray.messages import Message
from autoresearch_ray.model import Attempt, Options, Seat, Spent
from autoresearch_ray.ports import Reply, Signals, Taken, Welcome
from autoresearch_ray.team import Team
from autoresearch_ray.worker import scratch

_LOOK = "look into /tmp/ray/session_latest/logs; the same command takes the run up again"
_RESTARTS = 100  # of the coordinator in a session; each costs a second or two
_CALLS = 64  # that the coordinator takes at a time; its lock orders them, and more wait in line
_PAUSE_SECONDS = 3.0  # after a death: it takes Ray 3 to 15 s to know that it was the node
_LOOK_SECONDS = 5.0  # between two looks at who could be seated where
# Without room for who waits, before Ray is asked all the same. Its head dates what nodes say they have left: where its
# clock was set back, it takes GPUs for held until that time has come again, and the nodes themselves know better.
_ASK_SECONDS = 30.0
_ASKED_SECONDS = 90.0  # for which it is asked: to start a process may take half a minute from a slow disk
_NOBODY_SECONDS = 900.0  # without any worker, before the session gives up
_OBJECT_STORE_BYTES = 200 << 20  # the whole history travels once; Ray's default is 30 % of the memory


class _CoordinatorActor:
    """The desk as an actor. Its threads are Ray's; the coordinator's own lock orders them."""

    def __init__(self, folder: str) -> None:
        self._coordinator = Coordinator(Path(folder))

    def welcome(self) -> Welcome:
        return self._coordinator.welcome()

    def sit(self, seat: Seat, spent: Spent | None = None) -> tuple[int, Reply]:
        return self._coordinator.sit(seat, spent)

    def claim(self, lane: str, id: str, tree: str, idea: str) -> Taken | None:
        return self._coordinator.claim(lane, id, tree, idea)

    def pause(self, worker: int, reason: str) -> bool:
        return self._coordinator.pause(worker, reason)

    def submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        return self._coordinator.submit(attempt, bundle, logs)

    def left(self, spent: Spent) -> None:
        self._coordinator.left(spent)

    def close(self, reason: str, hard: bool, failed: bool) -> None:
        self._coordinator.close(reason, hard, failed)

    def hear(self, message: Message) -> str:
        return self._coordinator.hear(message)

    def vacate(self, worker: int, reason: str) -> int:
        return self._coordinator.vacate(worker, reason)

    def closed(self) -> bool:
        return self._coordinator.closed()

    def leave(self) -> None:
        self._coordinator.leave()


class _TeamActor:
    """The workers of one node as an actor: `run` on one thread, the driver's signals on others."""

    def __init__(
        self, coordinator: Any, workers: Sequence[int], gpus_per_worker: float, environ: Mapping[str, str]
    ) -> None:
        self._coordinator = coordinator
        self._workers = workers
        self._gpus_per_worker = gpus_per_worker
        self._environ = {**os.environ, **environ}
        self._signals = Signals()

    def began(self) -> None:
        """It is there."""

    def run(self) -> None:
        """Raises what a human must fix; what a constructor raised would look like a death."""
        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        shares = seating.share(gpus, self._gpus_per_worker, len(self._workers))
        cores = max(1, len(os.sched_getaffinity(0)) // len(self._workers))
        ids = dict(zip(self._workers, shares, strict=True))
        team = Team(_Desk(self._coordinator), ids, cores, self._environ, self._signals)
        while team.wait(_LOOK_SECONDS):
            continue
        team.finish()

    def drain(self) -> None:
        self._signals.drain.set()

    def halt(self) -> None:
        self._signals.drain.set()
        self._signals.halt.set()


class _Desk:
    """The coordinator as a lane sees it: a call is a round trip. Raises what the coordinator raised."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    def welcome(self) -> Welcome:
        welcome: Welcome = _answer(self._coordinator.welcome.remote())
        return welcome

    def sit(self, seat: Seat, spent: Spent | None = None) -> tuple[int, Reply]:
        sat: tuple[int, Reply] = _answer(self._coordinator.sit.remote(seat, spent))
        return sat

    def claim(self, lane: str, id: str, tree: str, idea: str) -> Taken | None:
        taken: Taken | None = _answer(self._coordinator.claim.remote(lane, id, tree, idea))
        return taken

    def pause(self, worker: int, reason: str) -> bool:
        goes_on: bool = _answer(self._coordinator.pause.remote(worker, reason))
        return goes_on

    def submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        reply: Reply = _answer(self._coordinator.submit.remote(attempt, bundle, logs))
        return reply

    def left(self, spent: Spent) -> None:
        _answer(self._coordinator.left.remote(spent))


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayError as error:
        raise _cause(error) from error


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

    def rooms(self, gpus_per_worker: float, ours: Mapping[str, float] | None = None) -> dict[str, int]:
        """How many workers each living node can seat, by node id. Without GPUs: one per node.

        If `ours` is given, the GPUs that this run holds on each node, then what other jobs hold is theirs.
        """
        listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        gpus = {each["NodeID"]: each["Resources"].get("GPU", 0.0) for each in listed if each["Alive"]}
        if not gpus_per_worker:
            return dict.fromkeys(gpus, 1)
        free = {} if ours is None else available_resources_per_node()  # type: ignore[no-untyped-call]
        for node in gpus.keys() & free.keys():
            held = gpus[node] - free[node].get("GPU", 0.0) - (ours or {}).get(node, 0.0)
            gpus[node] -= max(0.0, round(held, 4))  # Ray counts in ten thousandths
        return {node: seating.room(each, gpus_per_worker) for node, each in gpus.items()}

    def wait_for_room(self, workers: int, gpus_per_worker: float, seconds: float) -> None:
        """Nodes join a cluster for some seconds after `ray up` has returned: give them that."""
        deadline = time.monotonic() + seconds
        while sum(self.rooms(gpus_per_worker).values()) < workers and time.monotonic() < deadline:
            time.sleep(1.0)

    def leave(self) -> None:
        if self._started:
            ray.shutdown()


@dataclass(slots=True)
class _Team:
    """A team where it runs."""

    node: str
    workers: tuple[int, ...]
    gpus: float
    actor: Any
    began: Any  # what answers once it is there: its GPUs may be in use by others until then
    until: float = math.inf  # on the monotonic clock: if it is not there by then, it is not waited for any more

    @property
    def is_there(self) -> bool:
        return bool(ray.wait([self.began], timeout=0)[0])


class RayCrew:
    """A team on each node and one coordinator on the head. They die with this process.

    Who loses a seat, with its process or its node, gets another one wherever there is room; with `workers: auto`, nodes
    that join later are seated as well.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, options: Options, workers: int, environ: Mapping[str, str]
    ) -> None:
        """`environ` are variables of this machine that workers need by value: the secrets of agents, mostly."""
        self._cluster = cluster
        self._options = options
        self._environ = dict(environ)
        self._failures: list[Exception] = []
        self._warnings: list[str] = []
        self._teams: dict[Any, _Team] = {}  # by what their `run` will return
        self._seats = seating.Seats(None if options.workers == "auto" else workers)
        self._somebody_ended = False  # as told: by the end of the run, or because its slot is sick
        self._look_at = 0.0
        self._left_at = time.monotonic()  # when the last worker left its seat
        self._waiting_since: float | None = None  # somebody for a seat, and there is no room
        self._over = False
        self._coordinator: Any = (
            ray.remote(_CoordinatorActor)
            .options(
                num_cpus=0,
                resources={"node:__internal_head__": 0.001},
                max_concurrency=_CALLS,
                max_restarts=_RESTARTS,  # it comes back from the ledger, and what was handed in meanwhile is sent again
                max_task_retries=-1,
            )
            .remote(str(folder))
        )
        self._welcome = _Desk(self._coordinator).welcome()
        self._seat()
        if missing := workers - sum(len(each.workers) for each in self._teams.values()):
            self._warnings.append(f"{missing} of {workers} workers wait for GPUs that others hold")

    # --- Seating -----------------------------------------------------------------------------------------------------

    def _seat(self) -> None:
        """Give a seat to everybody for whom there is room now, or may be."""
        now = time.monotonic()
        self._look_at = now + _LOOK_SECONDS
        for run, team in list(self._teams.items()):
            if now >= team.until and not team.is_there:
                self._withdraw(run, team)
        ours: defaultdict[str, float] = defaultdict(float)
        for team in self._teams.values():
            ours[team.node] += team.gpus * team.is_there
        rooms = self._cluster.rooms(self._options.gpus_per_worker, ours)
        if self._seats.most is not None and not self._options.gpus_per_worker and rooms:
            rooms = seating.even(sorted(rooms), self._seats.most)
        planned = self._seats.plan(rooms)
        for node, workers in planned.items():
            self._start(node, workers)
        if planned or not self._seats.wanting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        elif now >= self._waiting_since + _ASK_SECONDS:
            for node, workers in self._seats.plan(self._cluster.rooms(self._options.gpus_per_worker)).items():
                for each in workers:  # by itself: of eight GPUs, others may hold two
                    self._start(node, [each], until=now + _ASKED_SECONDS)

    def _start(self, node: str, workers: Sequence[int], until: float = math.inf) -> None:
        gpus = seating.claim(len(workers), self._options.gpus_per_worker)
        actor: Any = (
            ray.remote(_TeamActor)
            .options(
                num_cpus=0,
                num_gpus=gpus,
                max_concurrency=4,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(self._coordinator, list(workers), self._options.gpus_per_worker, self._environ)
        )
        self._teams[actor.run.remote()] = _Team(node, tuple(workers), gpus, actor, actor.began.remote(), until)

    def _withdraw(self, run: Any, team: _Team) -> None:
        """Others do hold its GPUs. It may have begun in this very moment."""
        ray.kill(team.actor)
        del self._teams[run]
        self._seats.rise(team.node, team.workers)
        for index in team.workers:
            self._vacated(index, f"worker {index} found no room")

    def _lost(self, team: _Team, error: RayError) -> None:
        """A team died, with its process or its node, or its node was gone before it began: its workers sit down again,
        unless that helps nothing."""
        ray.kill(team.actor)  # a node that was only out of reach may still have it
        self._left_at = time.monotonic()
        self._look_at = self._left_at + _PAUSE_SECONDS
        died = str(error).strip().splitlines()[0] if str(error).strip() else "no reason is known"
        for index in team.workers:
            orders = self._vacated(index, f"worker {index} died: {died}")
            again = self._seats.died(team.node, index, orders)
            self._warnings.append(f"worker {index} died and is {'seated again' if again else 'given up'}: {died}")

    def _vacated(self, worker: int, reason: str) -> int:
        """Tell the desk, which says how many orders the worker was given so far."""
        try:
            orders: int = _answer(self._coordinator.vacate.remote(worker, reason))
        except LedgerError as error:  # its lanes stay present, and will sit down again or hold up the others
            self._warnings.append(f"worker {worker} is gone, and the ledger cannot say so: {error.message}")
            return -1
        except AutoresearchError as error:
            self._failures.append(error)
            return -1
        return orders

    # --- What the driver does ----------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        done = self._ended()
        if self._teams and not done:
            time.sleep(seconds)
            done = self._ended()
        for run in done:
            team = self._teams.pop(run)
            try:
                ray.get(run)
                self._somebody_ended = True
            except RayTaskError as error:  # before the others: the death of the coordinator is both
                self._failures.append(_cause(error))
                self.drain()
            except RayError as error:
                self._lost(team, error)
        if self._over or self._failures or self._is_done():
            self._send_home()
            return bool(self._teams)
        if time.monotonic() >= self._look_at:
            self._seat()
        if any(each.until == math.inf or each.is_there for each in self._teams.values()):
            return True
        return self._somebody_may_come(0.0 if self._teams else seconds)

    def _ended(self) -> list[Any]:
        """Of which teams `run` has returned."""
        done: list[Any] = ray.wait(list(self._teams), num_returns=len(self._teams), timeout=0)[0] if self._teams else []
        return done

    def _is_done(self) -> bool:
        """Whether the run has ended, and only teams are left that still wait for GPUs which others hold."""
        waiting = self._somebody_ended and self._teams and not any(each.is_there for each in self._teams.values())
        return bool(waiting) and self._is_closed()

    def _send_home(self) -> None:
        """Those that are not there yet: they would be waited for without an end."""
        for run, team in list(self._teams.items()):
            if not team.is_there:
                ray.kill(team.actor)
                del self._teams[run]

    def _somebody_may_come(self, seconds: float) -> bool:
        """Without a team that has room: whether to wait for one, because a node that went may come back, or others give
        GPUs back."""
        standing, now = bool(self._seats.standing or self._teams) or not self._seats.taken, time.monotonic()
        if self._somebody_ended and not standing:
            return False
        if standing and not self._is_closed() and now < self._left_at + _NOBODY_SECONDS:
            time.sleep(seconds)
            return True
        if not self._failures and not self._is_closed():
            why = self._warnings[-1] if self._warnings else "the nodes that it was to sit on are gone"
            self._failures.append(ClusterError(f"no worker is left: {why}", _LOOK))
        return False

    def _is_closed(self) -> bool:
        try:
            return bool(_answer(self._coordinator.closed.remote()))
        except AutoresearchError as error:
            self._failures.append(error)
            return True

    def close(self, reason: str, *, hard: bool = False, failed: bool = False) -> None:
        _answer(self._coordinator.close.remote(reason, hard, failed))

    def hear(self, message: Message) -> str:
        why_not: str = _answer(self._coordinator.hear.remote(message))
        return why_not

    def drain(self) -> None:
        self._over = True
        for each in self._teams.values():
            each.actor.drain.remote()

    def halt(self) -> None:
        self._over = True
        for each in self._teams.values():
            each.actor.halt.remote()

    @property
    def warnings(self) -> list[str]:
        return self._warnings

    def finish(self) -> None:
        for each in self._teams.values():
            ray.kill(each.actor)
        if self._coordinator is not None:
            try:
                _answer(self._coordinator.leave.remote())
            except AutoresearchError as error:
                self._failures.append(error)
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
