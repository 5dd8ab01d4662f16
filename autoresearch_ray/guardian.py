"""The guardian: a small process that stands between a worker and one command, and leaves nothing of it behind.

It runs as `python -I -S` and imports only what it needs of the standard library, because one starts for every command
(`typing` alone would cost 5 ms, `pathlib` 6). `process.run` starts it, and shares its search for processes. It

- forks away from the worker, because Ray kills the direct children of a worker that it ends;
- becomes a child subreaper, so that what the command detaches stays below it;
- holds one end of a socket whose other end the worker alone holds: end of file means that the worker is dead;
- keeps the deadline and writes the log, so that both hold even while the worker is frozen;
- kills all descendants until none is left, then everything whose environment carries the tag of this run, or that
  writes to a file by which such processes are known.
"""

# ruff: noqa: PTH108, PTH115, PTH123, PTH208, SIM105

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

RUN = "AUTORESEARCH_RUN"
PIECE = 64 << 10
KILL_SECONDS = 10.0
LOOK_SECONDS = 1.0  # between two looks at what a command has written
PR_SET_CHILD_SUBREAPER = 36

# --- Frames on the socket: a length, then `marshal`; both ends are the same interpreter, and json would cost 7 ms -----


def frame(value: Any) -> bytes:
    """A value as it goes over the socket."""
    data = marshal.dumps(value)
    return len(data).to_bytes(8, "big") + data


def unframe(buffer: bytearray) -> Any:
    """Take the first frame out of `buffer` and return its value, or None while it is not whole."""
    size = 8 + int.from_bytes(buffer[:8], "big")
    if len(buffer) < max(size, 9):
        return None
    value = marshal.loads(buffer[8:size])
    del buffer[:size]
    return value


# --- Finding and killing ---------------------------------------------------------------------------------------------


def pids() -> list[int]:
    """Every process, the newest first: what forks and exits faster than we read is met while it still lives."""
    return sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)


def read(path: str) -> bytes:
    """The bytes of a file in /proc, empty when the process is gone or is not ours to read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return b""


def parents() -> Iterator[tuple[int, int]]:
    """Every process with its parent. Zombies too: one whose first thread has ended may have others that run."""
    for pid in pids():
        fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if fields:
            yield pid, int(fields[1])


def below(roots: Iterable[int], pairs: Iterable[tuple[int, int]]) -> set[int]:
    """The descendants of `roots` among `pairs` of a process and its parent."""
    children: dict[int, list[int]] = {}
    for pid, parent in pairs:
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    queue = list(roots)
    while queue:
        more = children.get(queue.pop(), [])
        queue += more
        found.update(more)
    return found


def carrying(variable: str, values: Iterable[str]) -> set[int]:
    """The processes, other than this one, that were started with `variable` as one of `values` in their environment."""
    wanted, start = {value.encode() for value in values}, f"{variable}=".encode()
    found = set()
    for pid in pids():
        words = read(f"/proc/{pid}/environ").split(b"\0")
        if any(word.startswith(start) and word[len(start) :] in wanted for word in words):
            found.add(pid)
    return found - {os.getpid()}


def writing(pattern: str) -> set[int]:
    """The processes, other than this one, that have a file open for writing whose path matches `pattern`, a glob.

    A process may overwrite its own environment, as setproctitle does; a descriptor that it inherited stays.
    """
    from fnmatch import fnmatchcase  # imports `re`, 5 ms, for the one guardian of a whole run

    found = set()
    for pid in pids():
        for descriptor in descriptors(pid):
            try:
                path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            except OSError:
                continue  # closed meanwhile
            if fnmatchcase(path, pattern):
                flags = read(f"/proc/{pid}/fdinfo/{descriptor}").partition(b"flags:")[2].split()
                if flags and int(flags[0], 8) & os.O_ACCMODE != os.O_RDONLY:
                    found.add(pid)
    return found - {os.getpid()}


def descriptors(pid: int) -> list[str]:
    """What a process has open, empty when it is gone or is not ours to look at."""
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def kill(doomed: Iterable[int], number: int) -> None:
    """Send the signal `number` to all of these that are still there and ours."""
    for pid in doomed:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # gone, or no longer ours: the next search tells which


def kill_carrying(variable: str, values: Iterable[str]) -> set[int]:
    """SIGKILL, once, what carries the variable and what descends from it. Returns these processes."""
    return kill_with_descendants(carrying(variable, values))


def kill_with_descendants(found: set[int]) -> set[int]:
    """SIGKILL these processes, once, and what descends from them. Returns them all."""
    if found:
        found = (found | below(found, parents())) - {os.getpid()}
        kill(found, signal.SIGKILL)
    return found


def end(kill_round: Callable[[], set[int] | None]) -> tuple[set[int], set[int]]:
    """Repeat rounds of killing until one returns None for nothing left, for ten seconds at most.

    Returns who was killed and who is left. Rounds follow each other at 2 ms, which the dying take to be gone.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_SECONDS
    while (doomed := kill_round()) is not None:
        killed |= doomed
        if time.monotonic() > deadline:
            return killed, doomed
        time.sleep(0.002)
    return killed, set()


# --- The log ---------------------------------------------------------------------------------------------------------


class Log:
    """Keeps the first and the last half of `cap` bytes in `file`, because the metric is at the end.

    The last half goes round a ring in an unnamed file next to `path`, which `close` appends: who follows the file sees
    nothing new until then. A disk that is full stops the writing and not the command: `error` says so.
    """

    def __init__(self, file: int, path: str, cap: int) -> None:
        self.file = file
        self.path = path
        self.half = max(cap // 2, 1)
        self.size = 0  # of everything that came
        self.ring = -1
        self.error = ""

    def write(self, data: bytes) -> None:
        start = self.size
        self.size += len(data)
        if self.error:
            return
        try:
            head = max(self.half - start, 0)
            write_all(self.file, data[:head])
            if len(data) > head:
                self._turn(memoryview(data)[head:], start + min(head, len(data)) - self.half)
        except OSError as error:
            self.error = f"cannot write {self.path}: {error.strerror}"

    def _turn(self, data: memoryview, offset: int) -> None:
        if self.ring < 0:
            tail = f"{self.path}.tail"
            try:
                os.unlink(tail)  # a link that somebody left there would lead us to another file
            except FileNotFoundError:
                pass
            self.ring = os.open(tail, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.unlink(tail)
        while data:
            at = offset % self.half
            written = os.pwrite(self.ring, data[: self.half - at], at)
            data = data[written:]
            offset += written

    def close(self) -> None:
        """Append the last half, after a line that says how much is missing."""
        if self.ring < 0 or self.error:
            return
        try:
            kept = self.size - self.half
            dropped = max(kept - self.half, 0)
            if dropped:
                write_all(self.file, b"\n[... %d bytes dropped ...]\n" % dropped)
            at = kept % self.half if dropped else 0
            for start, stop in ((at, min(kept, self.half)), (0, at)):
                while start < stop and (data := os.pread(self.ring, min(PIECE, stop - start), start)):
                    write_all(self.file, data)
                    start += len(data)
        except OSError as error:
            self.error = f"cannot write {self.path}: {error.strerror}"


def write_all(file: int, data: bytes) -> None:
    """Write all of it, in as many pieces as the kernel takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


# --- One command -----------------------------------------------------------------------------------------------------


class Guard:
    """Runs one command to its end. `order` is what `process.run` asks for; `control` is the socket to the worker."""

    def __init__(self, control: int, order: dict[str, Any]) -> None:
        self.control = control
        self.tag: str = order["tag"]
        self.written: str = order["written"]  # a glob: who writes to such a file is killed as if it carried the tag
        self.grace: float = order["grace"]
        self.walled: bool = order["walled"]
        self.folders: list[str] = order["folders"]
        self.bytes: int = order["bytes"]
        self.why = "exit"
        self.code: int | None = None
        self.wall_seconds: float | None = None
        self.logs = [Log(2, order["log"], order["cap"])]
        if order["stdout"]:
            self.logs.append(Log(1, order["stdout"], order["cap"]))
        self.pipes: dict[int, list[Log]] = {}  # where the bytes of each pipe go
        self.signals = listen()
        self.kills_before = oom_kills()
        self.started = time.monotonic()
        self.limit = self.started + order["timeout"]
        self.next_look = self.started + LOOK_SECONDS if self.folders else float("inf")
        self.pid = self.spawn(order)

    def spawn(self, order: dict[str, Any]) -> int:
        """Start the command on one pipe, or on two if its standard output is wanted apart."""
        read_end, error = os.pipe()
        self.pipes[read_end] = self.logs[:1]
        output = error
        if order["stdout"]:
            read_end, output = os.pipe()
            self.pipes[read_end] = self.logs
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # none is lost before it has its default
        pid = os.fork()
        if pid == 0:
            become(order, output, error)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for each in {output, error}:
            os.close(each)
        return pid

    def run(self) -> None:
        """Return once the command has exited, or once it was told to stop and has had its grace."""
        poll = select.poll()
        for each in (self.control, self.signals, *self.pipes):
            poll.register(each, select.POLLIN)
        while self.reap() and (self.code is None or self.why != "exit"):
            left = self.limit - time.monotonic()
            if left <= 0 and self.why != "exit":
                return
            if left <= 0:
                self.stop("timeout")
                continue
            if time.monotonic() >= self.next_look:
                self.look()
            for each, _ in poll.poll(min(left, 3600, max(self.next_look - time.monotonic(), 0)) * 1000 + 1):
                if each == self.control:  # end of file or a byte: the worker is dead or has had enough
                    poll.unregister(each)
                    self.stop("cancelled")
                elif each == self.signals:
                    if set(os.read(each, PIECE)) != {signal.SIGCHLD}:
                        self.stop("cancelled")
                elif not self.pump(each):
                    poll.unregister(each)

    def look(self) -> None:
        """Stop the command when it has written too much. The next look takes care to cost 5 % of the time at most."""
        begun = time.monotonic()
        if written(self.folders, self.bytes) > self.bytes:
            self.stop("full")
        now = time.monotonic()
        self.next_look = now + max(LOOK_SECONDS, 20 * (now - begun))

    def stop(self, why: str) -> None:
        """Ask everything to end, once."""
        if self.why == "exit":
            self.why = why
            self.limit = time.monotonic() + self.grace
            # The first process of a sandbox takes all that is in it along: it is not asked, and ends with the rest.
            kill(below([self.pid if self.walled else os.getpid()], parents()), signal.SIGTERM)

    def reap(self) -> bool:
        """Collect the dead. Whether any child is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.pid:
                    self.code = os.waitstatus_to_exitcode(status)
                    self.wall_seconds = time.monotonic() - self.started
        except ChildProcessError:
            return False

    def pump(self, pipe: int) -> bool:
        """Move one piece from `pipe` into its logs. False at its end, or when it is empty and does not block."""
        try:
            data = os.read(pipe, PIECE)
        except BlockingIOError:
            return False
        for log in self.pipes[pipe]:
            log.write(data)
        return bool(data)

    def kill_round(self) -> set[int] | None:
        """SIGKILL every descendant, and whatever carries our tag. None once there is no such process.

        Direct children are killed while the search still goes on: of a fork bomb that detaches itself, whoever runs
        next is always our child, and may be gone before a search through thousands of processes is over.
        """
        if not self.reap():
            ours = carrying(RUN, [self.tag]) | (writing(self.written) if self.written else set())
            return kill_with_descendants(ours) or None
        me = os.getpid()
        pairs = []
        for pid, parent in parents():
            pairs.append((pid, parent))
            if parent == me:
                kill([pid], signal.SIGKILL)
        found = below([me], pairs)
        kill(found, signal.SIGKILL)
        return found

    def finish(self) -> dict[str, Any]:
        """Kill what is left, close the logs, and return the fields of `process.Exit`."""
        _, survivors = end(self.kill_round)
        for pipe in self.pipes:
            os.set_blocking(pipe, False)
            while self.pump(pipe):
                pass
        for log in self.logs:
            log.close()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "why": self.why,
            "code": self.code,
            "wall_seconds": time.monotonic() - self.started if self.wall_seconds is None else self.wall_seconds,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_mb": used.ru_maxrss / 1024,
            "oom_killed": self.why == "exit" and oom_killed(self.code, self.kills_before),
            "log_bytes": self.logs[0].size,
            "log_error": "; ".join(log.error for log in self.logs if log.error),
            "survivors": max(len(survivors), self.reap()),
        }


def written(folders: Iterable[str], enough: int) -> int:
    """Bytes on the disk of all that lies in `folders`; counting ends once there are more than `enough`."""
    total = 0
    ahead = list(folders)
    while ahead and total <= enough:
        try:
            with os.scandir(ahead.pop()) as entries:
                for each in entries:
                    total += each.stat(follow_symlinks=False).st_blocks * 512
                    if each.is_dir(follow_symlinks=False):
                        ahead.append(each.path)
        except OSError:
            continue  # it was removed meanwhile, or is not ours to read
    return total


def listen() -> int:
    """A descriptor that becomes readable when a child dies or when somebody asks the guardian to end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return read_end


def become(order: dict[str, Any], output: int, error: int) -> None:
    """Turn this process, fresh from the fork, into the command. Does not return."""
    try:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if order["bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["bytes"], order["bytes"]))
        os.dup2(output, 1)
        os.dup2(error, 2)
        os.chdir(order["cwd"])
        os.execvpe(order["argv"][0], order["argv"], order["environ"])
    except (OSError, ValueError) as problem:
        os.write(2, f"autoresearch: cannot run {os.fsdecode(order['argv'][0])!r}: {problem}\n".encode())
    finally:
        os._exit(127)


def steady() -> None:
    """Undo what Ray does to its workers (niceness 15, first to be killed when memory ends), as far as we may."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except PermissionError:
        pass
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("0")
    except OSError:
        pass


def oom_kills() -> tuple[int, int]:
    """How often the kernel has killed for memory: in our cgroup (version 2), and on the whole machine."""
    group = next((line[3:] for line in read("/proc/self/cgroup").splitlines() if line.startswith(b"0::")), b"/")
    return (
        counter(read(f"/sys/fs/cgroup{os.fsdecode(group).rstrip('/')}/memory.events")),
        counter(read("/proc/vmstat")),
    )


def counter(text: bytes) -> int:
    """The line `oom_kill` of a file of counters; zero where there is none."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(b"oom_kill ")), 0)


def oom_killed(code: int | None, before: tuple[int, int]) -> bool:
    """Whether the command failed because the kernel killed for memory since `before`."""
    group, machine = oom_kills()
    return (code != 0 and group > before[0]) or (
        code in (-signal.SIGKILL, 128 + signal.SIGKILL) and machine > before[1]
    )


def say(control: int, value: Any) -> None:
    """Tell the worker, if it still lives."""
    try:
        os.write(control, frame(value))
    except ConnectionError:
        pass  # the worker is dead, which `Guard.run` reads as end of file


def main(control: int) -> None:
    """Guard one command: take the order from the socket, say the pid that runs it, and at its end the report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what came before we had a session of our own was for the worker
    if os.fork():
        os._exit(0)  # from here on the worker has no direct child that Ray could kill
    os.set_inheritable(control, False)
    buffer = bytearray()
    while (order := unframe(buffer)) is None:
        piece = os.read(control, PIECE)
        if not piece:
            return  # the worker died before it said what to run
        buffer += piece
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become a child subreaper")
    steady()
    guard = Guard(control, order)
    try:
        say(control, guard.pid)
        if buffer:
            guard.stop("cancelled")  # the word came right behind the order
        guard.run()
    finally:
        report = guard.finish()
    say(control, report)
