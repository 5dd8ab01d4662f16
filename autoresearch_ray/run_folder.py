"""The folder of a run, `.autoresearch/<tag>` beside program.md: locked, begun, taken up, and found again.

One driver at a time holds `driver.lock`; `driver.json` says which. A run that has a ledger has all the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

from autoresearch_ray import board as boards
from autoresearch_ray import ledger
from autoresearch_ray.errors import AutoresearchError, LedgerError, SetupError
from autoresearch_ray.events import Opened, Resumed
from autoresearch_ray.model import Program
from autoresearch_ray.repo import Hub, Origin

_LOCK_SECONDS = 0.5
_WRITER_SECONDS = 20.0  # the coordinator of a driver that was killed needs some to notice


def locked(folder: Path) -> IO[str]:
    """The driver's lock on the folder. Raises `SetupError` with the pid and host of the one who has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "driver.lock").open("a")
    except OSError as error:
        raise SetupError(f"cannot write {folder}: {error.strerror}", "make that folder writable") from error
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)  # `status` holds it for a moment, to see whether somebody else does
                continue
        lock.close()
        try:
            who = dict(json.loads((folder / "driver.json").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):  # it is just starting, or somebody wrote over it
            who = {}
        raise SetupError(
            f"the tag {folder.name!r} is in use by process {who.get('pid', '?')} on {who.get('host', '?')}",
            f"end it with `autoresearch-ray stop --tag {folder.name}`, or choose another --tag",
        )


def sign(folder: Path) -> None:
    """Say who drives from now on; an earlier wish to stop is none of its business."""
    (folder / "driver.json").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    if (folder / "stop").is_file():
        (folder / "stop").unlink()


def begin(folder: Path, tag: str, origin: Origin, program: Program, now: float, version: str) -> None:
    """A new run: the hub first and the ledger last. What fails leaves no folder behind."""
    try:
        (folder.parent / ".gitignore").write_text("*\n")
        shutil.rmtree(folder / "hub.git", ignore_errors=True)
        Hub.create(folder / "hub.git", origin, origin.head)
        source = Path(program.path).read_text() if program.path else program.text
        (folder / "program.md").write_text(source)
        opened = Opened(now, tag, origin.head, origin.prefix, program, source, version)
        ledger.Ledger.create(folder / "ledger.jsonl", [opened])
    except (AutoresearchError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        raise


def take_up(folder: Path, program: Program, now: float, version: str) -> Opened:
    """Go on with a run. Its Scope and Eval must be as they were, or what was measured could not be compared."""
    path = folder / "ledger.jsonl"
    opened = replayed(path).opened
    for part in ("scope", "eval"):
        if getattr(opened.program, part) != getattr(program, part):
            raise SetupError(
                f"the {part} of the program is not what the run {opened.tag!r} began with",
                f"put it back (see {folder / 'program.md'}), or start another run with --tag",
            )
    writer = ledger.Ledger(path, patience_seconds=_WRITER_SECONDS)
    try:
        writer.append([Resumed(now, program, version)])
    finally:
        writer.close()
    return opened


def replayed(path: Path) -> boards.Board:
    """The board of a ledger. Raises `LedgerError` when a line is broken or missing."""
    try:
        return boards.replay(ledger.read(path))
    except ValueError as error:
        raise LedgerError(f"{path}: {error}", "restore it from a copy, or start another run with --tag") from error


def unfinished(runs: Path, program: Program) -> str | None:
    """The tag of the run that was written to last here, if it asks the same question and was not finished.

    So the same command goes on after midnight, too, when the date would make another tag.
    """
    ledgers = sorted(runs.glob("*/ledger.jsonl"), key=lambda path: path.stat().st_mtime)
    if not ledgers:
        return None
    try:
        board = replayed(ledgers[-1])
    except LedgerError:
        return None
    same = (board.opened.program.scope, board.opened.program.eval) == (program.scope, program.eval)
    return board.opened.tag if same and not (board.closed and board.closed.finished) else None


def collect_logs(folder: Path, keep: Collection[str], most: int) -> None:
    """Remove all logs but the newest `most` and those of the attempts `keep`, such as "gpu0-12"."""
    logs = [each for lane in _listing(folder / "logs") for each in _listing(lane)]
    logs.sort(key=lambda path: path.stat().st_mtime)
    for path in logs[: max(0, len(logs) - most)]:
        if f"{path.parent.name}-{path.name.partition('.')[0]}" not in keep:
            path.unlink()


def _listing(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
