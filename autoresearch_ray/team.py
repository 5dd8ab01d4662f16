"""The workers of one node, as threads of one process, with one store of commits between them.

One process for each node and not for each GPU: one of Ray's costs about 46 MB and 24 threads of its own, and eight
of them would each hold the whole history. `LocalCrew` is a team beside its coordinator, without Ray.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.coordinator import Coordinator
from autoresearch_ray.messages import Message
from autoresearch_ray.ports import Desk, Signals, secret_values
from autoresearch_ray.sandbox import sandbox
from autoresearch_ray.store import Store
from autoresearch_ray.worker import Worker, checkout, private, scratch


class Team:
    """Starts its workers at once, and lets them work until the desk has told each to stop."""

    def __init__(
        self,
        desk: Desk,
        gpus: Mapping[int, tuple[str, ...]],
        cores: int,
        environ: Mapping[str, str],
        signals: Signals,
    ) -> None:
        """`gpus` are the ids of each worker's, by its number; `cores` each worker's share of them.

        Raises `SetupError` where this machine has no folder for them, holds processes that cannot be killed, or cannot
        give the sandbox that was asked for.
        """
        self._signals = signals
        welcome = desk.welcome()
        node = scratch(welcome)
        private(node.parent)
        process.sweep([owner(welcome.run, index) for index in gpus])
        self._folder, self._held = move_in(node)
        store = Store.create(self._folder / "store.git", welcome.bundle, welcome.base)
        welcome = replace(welcome, bundle=b"")  # it is in the store, and may be large
        options = welcome.program.options
        store.secrets = tuple(each.encode() for each in secret_values(options, environ))
        walls, told = sandbox(options.sandbox, environ, checkout(welcome))
        self._pool = ThreadPoolExecutor(max_workers=len(gpus), thread_name_prefix="worker")
        self._workers = [
            self._pool.submit(
                Worker(
                    index=index,
                    welcome=welcome,
                    desk=desk,
                    store=store,
                    folder=self._folder / f"worker{index}",
                    gpus=ids,
                    cores=cores,
                    environ={**environ, process.OWNER: owner(welcome.run, index)},
                    walls=walls,
                    walls_told=told,
                    signals=self._signals,
                ).run
            )
            for index, ids in gpus.items()
        ]

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; True while a worker works. What one raised drains the others."""
        done, pending = wait(self._workers, timeout=seconds, return_when=FIRST_COMPLETED)
        if pending and any(each.exception() for each in done):
            self._signals.drain.set()
        if pending and done:
            wait(pending, timeout=seconds)
        return bool(pending)

    def finish(self) -> None:
        """Wait for all and remove what they used. Raises what ended the first that failed."""
        self._pool.shutdown()
        trees.remove(self._folder)
        os.close(self._held)
        with suppress(OSError):  # others of this node may still work beside us
            self._folder.parent.rmdir()
        for each in self._workers:
            each.result()


def move_in(node: Path) -> tuple[Path, int]:
    """A folder for this team, and the lock on it, which ends with its process. What teams that died left here goes."""
    for each in node.glob("team-*"):
        held = _hold(each)
        if held is not None:
            trees.remove(each)
            os.close(held)
    while True:
        node.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="team-", dir=node))
        held = _hold(folder)
        if held is not None and folder.exists():  # else another team took it for one that was left
            return folder, held


def _hold(folder: Path) -> int | None:
    """The lock on a folder; None if somebody has it, or if it is gone."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def owner(run: str, index: int) -> str:
    """What marks the processes of a worker, so that it finds those of its own earlier life."""
    return f"{run}-{index}"


class LocalCrew:
    """A team and its coordinator in this process: the backend of tests, and of a box without Ray."""

    def __init__(self, folder: Path, slots: Sequence[tuple[str, ...]], environ: Mapping[str, str]) -> None:
        """`slots` are the GPU ids of each worker."""
        self._coordinator = Coordinator(folder)
        self._scratch = scratch(self._coordinator.welcome())
        cores = max(1, len(os.sched_getaffinity(0)) // len(slots))
        self._signals = Signals()
        try:
            self._team = Team(self._coordinator, dict(enumerate(slots)), cores, environ, self._signals)
        except BaseException:
            self._coordinator.leave()
            raise

    def wait(self, seconds: float) -> bool:
        return self._team.wait(seconds)

    def close(self, reason: str, *, hard: bool = False, failed: bool = False) -> None:
        self._coordinator.close(reason, hard, failed)

    def hear(self, message: Message) -> str:
        return self._coordinator.hear(message)

    def drain(self) -> None:
        self._signals.drain.set()

    def halt(self) -> None:
        self._signals.drain.set()
        self._signals.halt.set()

    @property
    def warnings(self) -> list[str]:
        return []

    def finish(self) -> None:
        try:
            self._team.finish()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._coordinator.leave()
