"""Starting processes, and ending them: no process that is started here outlives its worker.

`run` is for commands that are not trusted to clean up behind themselves: evaluations and agents. Each gets a guardian
(guardian.py) that keeps its deadline, writes its log and kills everything that descends from it, also when the worker
itself is killed. `call` is for short commands of our own, such as git. `sweep` is for a worker that comes back.

No function here touches the state of the whole process (directory, signals), so lanes may call them from their threads.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from autoresearch_ray import guardian
from autoresearch_ray.errors import SetupError

RUN = guardian.RUN  # in the environment of everything that one `run` starts, its guardian included
OWNER = "AUTORESEARCH_OWNER"  # in the environment of everything that one worker starts, if the caller puts it there

# Imported, not run as a script, so that its compiled form is used: 3.5 ms less for every command.
_GUARDIAN = "import sys; sys.path.append(sys.argv[1]); from guardian import main; main(int(sys.argv[2]))"
# Some builds of Python find their own library by this; nothing else of the worker's environment is handed on.
_NEEDED = ("LD_LIBRARY_PATH",)
_MARGIN_SECONDS = guardian.KILL_SECONDS + 20.0  # what the guardian may take on top of deadline and grace


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended, as its guardian saw it."""

    why: Literal["exit", "timeout", "cancelled", "full", "lost"]  # lost: the guardian itself vanished
    code: int | None  # exit status; negative for a signal; None when lost, or when it survived
    wall_seconds: float
    cpu_seconds: float  # user and system time of the whole descended tree
    peak_mb: float  # largest resident size of any single process, in 2**20 bytes
    oom_killed: bool  # the kernel's out-of-memory killer took one of ours
    log_bytes: int  # written by the command, before the cap
    log_error: str = ""  # why the log is not complete, such as a full disk
    survivors: int = 0  # processes that even SIGKILL did not end, such as one stuck in a driver


def run(
    command: str | Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    log: Path,
    timeout_seconds: float,
    stdout: Path | None = None,
    stdin: bytes = b"",
    grace_seconds: float = 5.0,
    cap_bytes: int = 64 << 20,
    cancel: threading.Event | None = None,
    started: Callable[[int], None] | None = None,
    turn: AbstractContextManager[object] | None = None,
    walled: bool = False,
    folders: Sequence[Path] = (),
    folders_bytes: int = 0,
) -> Exit:
    """Run a command to its end, and end everything that it started.

    A string goes through `/bin/sh -c`, as its author tried it: without `pipefail`, the status of a pipe is its last
    command's. A sequence is executed as it is. The environment is `environ` and `AUTORESEARCH_RUN`, nothing else. A
    command that cannot be executed exits with 127 and a line in the log.

    Both streams go to `log`, standard output also to `stdout` if that is given; of more than `cap_bytes` each keeps the
    first and the last half. After `timeout_seconds`, or when `cancel` is set, everything gets SIGTERM, and SIGKILL
    `grace_seconds` later; what is left after an ordinary exit gets SIGKILL at once. `started` is called with the pid of
    the first process; an exception that it raises ends the command and goes on to the caller. `turn` is entered when
    the guardian stands by, just before the command starts, and left when everything has ended; its exceptions go on to
    the caller, too. `walled` says that the command is a sandbox, which SIGTERM is to pass by on its way to what is
    inside. More than `folders_bytes` in `folders` together, looked at every second, end it like a timeout; no single
    file grows beyond that. Raises `OSError` if `cwd` is no directory, a log cannot be opened or no process can be
    started.
    """
    if not cwd.is_dir():
        raise NotADirectoryError(f"cannot run a command in {cwd}: no such directory")
    tag = secrets.token_hex(8)
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    order = {
        "argv": [os.fsencode(word) for word in argv],
        "cwd": os.fsencode(cwd.absolute()),
        "environ": {os.fsencode(key): os.fsencode(value) for key, value in {**environ, RUN: tag}.items()},
        "tag": tag,
        "written": "",
        "log": str(log.absolute()),
        "stdout": str(stdout.absolute()) if stdout else "",
        "timeout": timeout_seconds,
        "grace": grace_seconds,
        "cap": cap_bytes,
        "walled": walled,
        "folders": [str(each) for each in folders],
        "bytes": folders_bytes,
    }
    with ExitStack() as taken:
        with _guarded(tag, log, stdout, stdin) as (end, first):
            if turn is not None:
                taken.enter_context(turn)
            begun = time.monotonic()
            line = _Line(end, begun + timeout_seconds + grace_seconds + _MARGIN_SECONDS)
            line.send(guardian.frame(order))
            pid = line.receive(cancel, grace_seconds)
            report = None
            if pid is not None:
                first.wait()  # it has forked the guardian away and exits
                if started is not None:
                    started(pid)
                report = line.receive(cancel, grace_seconds)
        if report is not None:
            return Exit(**report)
        _, left = _end_carrying(RUN, [tag])
    return Exit("lost", None, time.monotonic() - begun, 0.0, 0.0, False, log.stat().st_size, survivors=len(left))


class _Line:
    """Talk with a guardian over the worker's `end` of the socket, until `limit` on the monotonic clock at most."""

    def __init__(self, end: socket.socket, limit: float) -> None:
        self.end = end
        self.limit = limit
        self.buffer = bytearray()
        self.cancelled = False

    def send(self, data: bytes) -> None:
        self.end.settimeout(_MARGIN_SECONDS)
        try:
            self.end.sendall(data)
        except (ConnectionError, TimeoutError):
            self.limit = 0.0  # nobody listens: `receive` says so

    def receive(self, cancel: threading.Event | None, grace_seconds: float) -> Any:
        """The next frame, or None when the guardian is lost."""
        while (value := guardian.unframe(self.buffer)) is None:
            now = time.monotonic()
            if cancel is not None and cancel.is_set() and not self.cancelled:
                self.cancelled = True
                self.limit = min(self.limit, now + grace_seconds + _MARGIN_SECONDS)
                self.send(b"\0")
            longest = 3600.0 if cancel is None else 0.1
            self.end.settimeout(min(max(self.limit - now, 0.1), longest))
            try:
                piece = self.end.recv(guardian.PIECE)
            except TimeoutError:
                if time.monotonic() > self.limit:
                    return None
                continue
            except ConnectionError:
                return None
            if not piece:
                return None
            self.buffer += piece
        return value


@contextmanager
def _guarded(
    tag: str, log: Path, stdout: Path | None, stdin: bytes
) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A started guardian: the end of its socket that this worker alone holds, and the process that forks it away.

    Leaving closes that end, and thereby ends what still runs, so an exception in here ends the command too.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs, ExitStack() as files, _deaf():
            source: Any = subprocess.DEVNULL
            if stdin:
                source = files.enter_context(tempfile.TemporaryFile())
                source.write(stdin)
                source.seek(0)
            first = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARDIAN, str(Path(__file__).parent), str(theirs.fileno())],
                stdin=source,
                stdout=files.enter_context(stdout.open("wb")) if stdout else subprocess.DEVNULL,
                stderr=files.enter_context(log.open("wb")),
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env={RUN: tag, **{key: os.environ[key] for key in _NEEDED if key in os.environ}},
                start_new_session=True,
            )
        try:
            yield ours, first
        finally:
            ours.close()
            first.kill()
            first.wait()


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that a Ctrl-C at the terminal does not reach: it is for us, not for our git.

    A session of their own is not enough: between the fork and the new session the signal still finds the child, and
    ends it as soon as its mask is ours again. So in ours it is blocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def leash(written: str = "") -> Iterator[dict[str, str]]:
    """Variables for the environment of processes that are to die with this one, however it dies; leaving ends them too.

    For those that `run` does not start, such as Ray's own: killed with SIGKILL, a driver leaves two of them for good.
    These two also wipe their environment, up to a place that differs from start to start. So who has a file open for
    writing whose path matches the glob `written` dies as well.
    """
    tag = secrets.token_hex(8)
    with _guarded(tag, Path(os.devnull), None, b"") as (end, _):
        order = {
            "argv": [b"sleep", b"2147483647"],
            "cwd": b"/",
            "environ": {b"PATH": os.fsencode(os.defpath), RUN.encode(): tag.encode()},
            "tag": tag,
            "written": written,
            "log": os.devnull,
            "stdout": "",
            "timeout": float("inf"),
            "grace": 0.0,
            "cap": 1,
            "walled": False,
            "folders": [],
            "bytes": 0,
        }
        line = _Line(end, float("inf"))
        line.send(guardian.frame(order))
        line.receive(None, 0.0)
        yield {RUN: tag}


@dataclass(frozen=True, slots=True)
class Done:
    """What a short command returned: its exit status, its output as it came, its errors as text."""

    code: int
    out: bytes
    err: str


def call(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str],
    stdin: bytes = b"",
    timeout_seconds: float = 120,
) -> Done:
    """Run a short command of our own and return what it said. Raises `OSError`, and of those `TimeoutError`."""
    try:
        with _deaf():
            done = subprocess.run(
                argv,
                cwd=cwd,
                env=environ,
                input=stdin,
                capture_output=True,
                timeout=timeout_seconds,
                check=False,
                start_new_session=True,
            )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]} took more than {timeout_seconds:g} seconds: {' '.join(argv)}") from error
    return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def opened(path: Path) -> BinaryIO:
    """A regular file to read, itself and no link to it. Raises `OSError`: what ran beside it may have replaced it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def tail(log: Path, lines: int = 50, max_bytes: int = 16 << 10) -> str:
    """The last lines of a log, as a terminal would show them: of a progress bar only its last state.

    A line of more than 500 characters is cut.
    """
    with opened(log) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - max_bytes, 0))
        text = file.read(max_bytes).decode(errors="replace")
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
    return "\n".join(line if len(line) <= 500 else line[:500] + "…" for line in shown[-lines:])


def sweep(markers: Collection[str]) -> int:
    """SIGKILL every process of this user that carries `AUTORESEARCH_OWNER=<one of these>`, with its descendants.

    For workers that come back after a death, before they use their GPUs again. Returns how many were killed. Raises
    `SetupError` if one of them cannot be killed.
    """
    killed, left = _end_carrying(OWNER, markers)
    if left:
        raise SetupError(
            f"processes of an earlier experiment cannot be killed: {', '.join(map(str, sorted(left)))}",
            "one stuck in a driver ends only with a reset of its GPU or a reboot",
        )
    return len(killed)


def _end_carrying(variable: str, values: Collection[str]) -> tuple[set[int], set[int]]:
    """Who was killed, who is left. It takes two searches to find nothing: what forks may pass one of them unseen."""

    def kill_round() -> set[int] | None:
        return guardian.kill_carrying(variable, values) or guardian.kill_carrying(variable, values) or None

    return guardian.end(kill_round)
