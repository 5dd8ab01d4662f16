"""The harness's end of the wire: starts the trainer's process, talks to it, counts its time, and ends it. Frozen.

What passes: messages in JSON, tokens as uint16, and logits through a file that both map into memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from data import data_folder

HERE = Path(__file__).resolve().parent
BUFFER_BYTES = 128 << 20  # logits of one request: 2 rows of 2,048 tokens with 8,192 entries
STARTING_SECONDS = 180  # of the wall: Python, torch, and a GPU that wakes
SENDING_SECONDS = 30  # a trainer that asks and does not read is ended after them
LOOKING_SECONDS = 1.0  # between two looks at what the trainer started, where CPU seconds count
STALL_FACTOR = 20  # a trainer that uses no CPU is ended after this many times the seconds it was to use


class FailedError(Exception):
    """The run has no result; the text says why, in one line."""


class Relay:
    """Copies what the trainer prints, indented: no line of it can be read as a line of the summary."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        for line in self._source:
            for part in line.decode(errors="replace").splitlines():  # at \r and its like too
                self.say("  " + part.rstrip())

    def say(self, line: str) -> None:
        with self._lock:
            if not self._closed:
                print(line, flush=True)

    def close(self) -> None:
        """Wait a moment for what is in the pipe, then let nothing more through, whoever still holds it open."""
        self._thread.join(timeout=1.0)
        with self._lock:
            self._closed = True


@dataclass(slots=True)
class Clock:
    """Counts from its making: seconds of the wall, or CPU seconds of a process and of the children it waited for."""

    kind: str  # "wall" or "cpu"
    process: psutil.Process
    _zero: float = field(init=False)
    _wall_zero: float = field(init=False)

    def __post_init__(self) -> None:
        self._zero = self._now()
        self._wall_zero = time.perf_counter()

    def _now(self) -> float:
        if self.kind == "wall":
            return time.perf_counter()
        try:
            used = self.process.cpu_times()
        except psutil.NoSuchProcess:
            return math.inf
        return used.user + used.system + used.children_user + used.children_system

    @property
    def seconds(self) -> float:
        return self._now() - self._zero

    def check(self, limit_seconds: float, reason: str) -> None:
        """Raise `FailedError` when more than the limit has passed, or far more by the wall."""
        if self.seconds > limit_seconds:
            raise FailedError(reason)
        if self.kind == "cpu" and time.perf_counter() - self._wall_zero > STALL_FACTOR * limit_seconds + 60:
            raise FailedError(f"{reason} (it stands still)")


class Trainer:
    """The process that runs train.py, as the harness sees it."""

    def __init__(self, launch: list[str], device: str | None, readable: list[str], folder: Path) -> None:
        if sys.platform == "linux":  # PR_SET_CHILD_SUBREAPER: what train.py detaches becomes a child of this process
            ctypes.CDLL(None).prctl(36, 1)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(folder / "socket"))
        self._server.listen(1)
        with (folder / "logits").open("w+b") as file:
            file.truncate(BUFFER_BYTES)
            self._buffer = mmap.mmap(file.fileno(), BUFFER_BYTES)
        self._process = subprocess.Popen(
            [*(launch or [sys.executable]), str(HERE / "trainer.py"), str(folder), device or "any", *readable],
            cwd=HERE,
            env=os.environ | _environment(folder) | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        self.relay = Relay(self._process.stdout)
        self.clock = Clock("wall", psutil.Process(self._process.pid))
        self._link: Connection | None = None
        self._helpers: dict[psutil.Process, float] = {}  # their own CPU seconds when they were last seen
        self._looked = -math.inf

    def connect(self) -> dict[str, Any]:
        """Wait for the trainer to come up, and return what it says of its device."""
        self._server.settimeout(0.2)
        late = f"the trainer did not start within {STARTING_SECONDS} s"
        while self._link is None:
            try:
                link = self._server.accept()[0]
                link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SENDING_SECONDS, 0))
                self._link = Connection(link.detach())
            except TimeoutError:
                if self._process.poll() is not None:
                    raise FailedError(f"the trainer did not start{self._how_it_ended()}") from None
                self.clock.check(STARTING_SECONDS, late)
        return self.receive(STARTING_SECONDS, late)

    def restart_clock(self, kind: str) -> None:
        self.clock = Clock(kind, self.clock.process)

    def send(self, tokens: np.ndarray | None = None, /, **message: Any) -> None:
        """Send a message and, behind it, tokens."""
        assert self._link is not None
        try:
            self._link.send_bytes(json.dumps(message).encode())
            if tokens is not None:
                self._link.send_bytes(np.ascontiguousarray(tokens, np.uint16).tobytes())
        except BrokenPipeError:
            pass  # it is gone: the next `receive` says how
        except BlockingIOError:
            raise FailedError("the trainer asked for something and does not read it") from None

    def receive(self, limit_seconds: float, reason: str) -> dict[str, Any]:
        """The trainer's next message. JSON, not pickle: what comes from there is data, never code.

        Raises `FailedError`: with `reason` once the clock shows more than the limit; if train.py failed; if it is gone.
        """
        assert self._link is not None
        while True:
            if self.clock.kind == "cpu" and time.perf_counter() - self._looked > LOOKING_SECONDS:
                self.helpers_cpu_seconds()
            try:
                there = self._link.poll(0.1)
                # Behind the wait: who stops this process in it, and lets it go on with a message there, has not won.
                self.clock.check(limit_seconds, reason)
                if not there:
                    continue
                message = json.loads(self._link.recv_bytes(1 << 16))
            except (EOFError, ConnectionResetError):
                raise FailedError(f"the trainer ended by itself{self._how_it_ended()}") from None
            except (OSError, ValueError, RecursionError) as error:
                raise FailedError(f"the trainer sent no message: {error}") from None
            if not isinstance(message, dict):
                raise FailedError("the trainer sent no message")
            if "failed" in message:
                raise FailedError(str(message["failed"]))
            return message

    def logits(self, tokens: np.ndarray, limit_seconds: float, reason: str) -> tuple[np.ndarray, str]:
        """The model's answer to tokens [rows, context]: float32 of any shape, and the type that the model gave it in.

        The array is a view of the shared buffer: it holds until the next request.
        """
        self.send(tokens, do="score", rows=len(tokens))
        message = self.receive(limit_seconds, reason)
        shape = message.get("logits")
        sizes = shape if isinstance(shape, list) and all(isinstance(each, int) and each > 0 for each in shape) else [0]
        if not 0 < math.prod(sizes) <= BUFFER_BYTES // 4:
            raise FailedError(f"logits have shape {shape}")
        answer = np.frombuffer(self._buffer, np.float32, math.prod(sizes)).reshape(sizes)
        return answer, str(message.get("dtype"))

    def helpers_cpu_seconds(self) -> float:
        """CPU seconds of what the trainer started and has not waited for, with the children that they waited for.

        What is gone counts as it was last seen, for nobody need have waited for it: who ignores SIGCHLD never does.
        What the trainer waited for is in its own clock, and subtracted. Only differences of the result mean something.
        """
        self._looked = time.perf_counter()
        total, there = 0.0, set()
        for each in psutil.Process().children(recursive=True):
            if each != self.clock.process:
                with contextlib.suppress(psutil.NoSuchProcess):
                    used = each.cpu_times()
                    total += used.user + used.system + used.children_user + used.children_system
                    there.add(each)
                    self._helpers[each] = used.user + used.system
        total += sum(seconds for each, seconds in self._helpers.items() if each not in there)
        with contextlib.suppress(psutil.NoSuchProcess):
            waited = self.clock.process.cpu_times()
            total -= waited.children_user + waited.children_system
        return total

    def end(self) -> None:
        """End the trainer and what it started, at once: nothing of train.py runs after the measurement."""
        while below := psutil.Process().children(recursive=True):  # until none is left that started another meanwhile
            for each in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)
        self._process.wait()
        self.relay.close()
        self._server.close()

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=5)  # it may be on its way out
        except subprocess.TimeoutExpired:
            return ""
        return f": {signal.strsignal(-status)}" if status < 0 else f" with status {status}"


def _environment(folder: Path) -> dict[str, str]:
    """What the trainer finds in its environment besides ours: temporary files of its own, a cache for compilers."""
    compiled = data_folder() / "compiled"
    return {
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # two edits within a second would share one stale file
        "PYTHONHASHSEED": "0",
        # glibc keeps freed memory. Fresh pages cost a CPU up to a third of its steps, and never the same third.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 25),  # the most that every version takes
        "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled / "inductor")),
        "TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR", str(compiled / "triton")),
    }
