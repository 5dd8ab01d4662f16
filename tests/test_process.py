"""No process outlives its worker: real commands, each with children that do their best to stay."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray import guardian, process

PYTHON = [sys.executable, "-I", "-S", "-c"]
PATH = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}

# A command with five children, each of which one of the usual ways to end a command misses. Each writes its pid.
TREE = r"""
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])

def note(name):
    (folder / "part").mkdir(exist_ok=True)
    path = folder / "part" / name
    path.write_text(str(os.getpid()))
    path.rename(folder / name)

def stay(name, detach=False, again=False, deaf=False, bare=False):
    if os.fork():
        return
    if detach:
        os.setsid()
    if again and os.fork():
        os._exit(0)
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(name)
    if bare:
        os.execve("/bin/sleep", ["sleep", "300"], {})
    while True:
        time.sleep(300)

stay("same-group")
stay("own-session", detach=True)
stay("daemon", detach=True, again=True)
stay("deaf", detach=True, deaf=True)
stay("bare", detach=True, bare=True)
names = ["same-group", "own-session", "daemon", "deaf", "bare"]
while not all((folder / name).exists() for name in names):
    time.sleep(0.005)
(folder / "guardian").write_text(str(os.getppid()))
note("main")
if len(sys.argv) > 2:
    print("metric: 0.5", flush=True)
    os._exit(int(sys.argv[2]))
while True:
    time.sleep(300)
"""

# A worker of its own, for the deaths that the process of the tests cannot die.
WORKER = """
import sys
from pathlib import Path
from autoresearch_ray import process
folder, marker, *command = sys.argv[1:]
process.run(command, cwd=Path(folder), environ={"PATH": "/usr/bin:/bin", process.OWNER: marker},
            log=Path(folder, "log"), timeout_seconds=60, grace_seconds=0.3)
"""


def carrying(marker: str) -> list[int]:
    """The processes of the experiment that this marker stands for, found without the code under test."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def state(pid: int) -> str:
    """R, S, T, Z and so on, as in proc(5); empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return state(pid) not in ("", "Z", "X")


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


@dataclass
class Tree:
    """The evil command, and what became of it."""

    folder: Path
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)

    def command(self, *code: str) -> list[str]:
        return [*PYTHON, TREE, str(self.folder), *code]

    def ready(self) -> bool:
        return (self.folder / "main").exists()

    def pid(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def all_gone(self) -> bool:
        assert self.ready(), "the tree never stood"
        names = ["main", "same-group", "own-session", "daemon", "deaf", "bare"]
        return not carrying(self.marker) and not any(alive(self.pid(name)) for name in names)

    def guardian_gone(self) -> bool:
        return not alive(self.pid("guardian"))

    def run(self, *code: str, **options: object) -> process.Exit:
        defaults = {"timeout_seconds": 60, "grace_seconds": 0.2, "environ": {**PATH, process.OWNER: self.marker}}
        return process.run(self.command(*code), cwd=self.folder, log=self.folder / "log", **{**defaults, **options})


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path)
    yield tree
    for name in ("main", "same-group", "own-session", "daemon", "deaf", "bare"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(tree.pid(name), signal.SIGKILL)  # only a failed test leaves any


def run(command: str | list[str], folder: Path, **options: object) -> process.Exit:
    return process.run(
        command, cwd=folder, **{"environ": PATH, "log": folder / "log", "timeout_seconds": 30, **options}
    )


# --- No orphan -------------------------------------------------------------------------------------------------------


def test_nothing_outlives_an_ordinary_exit(tree: Tree) -> None:
    end = tree.run("3")
    assert tree.all_gone()
    assert (end.why, end.code, end.survivors) == ("exit", 3, 0)
    assert end.wall_seconds < 5, "the children hold the pipe open, which must not delay the end"
    assert (tree.folder / "log").read_text() == "metric: 0.5\n"
    wait_for(tree.guardian_gone, "the guardian ends")


def test_nothing_outlives_the_deadline(tree: Tree) -> None:
    end = tree.run(timeout_seconds=2.0)
    assert tree.all_gone()
    assert (end.why, end.code) == ("timeout", -signal.SIGTERM)
    assert 2.0 <= end.wall_seconds < 10
    wait_for(tree.guardian_gone, "the guardian ends")


def test_nothing_outlives_a_cancelled_run(tree: Tree) -> None:
    cancel = threading.Event()
    pids: list[int] = []
    ends: list[process.Exit] = []
    thread = threading.Thread(target=lambda: ends.append(tree.run(cancel=cancel, started=pids.append)))
    thread.start()
    wait_for(tree.ready, "the tree stands")
    cancel.set()
    thread.join(60)
    assert tree.all_gone()
    assert (ends[0].why, ends[0].code) == ("cancelled", -signal.SIGTERM)
    assert pids == [tree.pid("main")]
    wait_for(tree.guardian_gone, "the guardian ends")


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGKILL, "lost"), (signal.SIGTERM, "cancelled"), (signal.SIGHUP, "cancelled")]
)
def test_nothing_outlives_a_signal_to_the_guardian(tree: Tree, number: signal.Signals, why: str) -> None:
    ends: list[process.Exit] = []
    thread = threading.Thread(target=lambda: ends.append(tree.run()))
    thread.start()
    wait_for(tree.ready, "the tree stands")
    os.kill(tree.pid("guardian"), number)
    thread.join(60)
    assert tree.all_gone()
    assert ends[0].why == why
    wait_for(tree.guardian_gone, "the guardian ends")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_death_of_the_worker(tree: Tree, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tree.folder), tree.marker, *tree.command()], stderr=subprocess.DEVNULL
    ) as worker:
        wait_for(tree.ready, "the tree stands")
        worker.send_signal(number)
    wait_for(tree.all_gone, "every descendant ends")
    wait_for(tree.guardian_gone, "the guardian ends")


def test_a_frozen_worker_does_not_extend_the_deadline(tmp_path: Path) -> None:
    freeze = "timeout_seconds=0.3, started=lambda pid: os.kill(os.getpid(), signal.SIGSTOP)"
    worker = "import os, signal\n" + WORKER.replace("timeout_seconds=60", freeze)
    marker = uuid.uuid4().hex
    with subprocess.Popen([sys.executable, "-c", worker, str(tmp_path), marker, "/bin/sleep", "300"]) as frozen:
        try:
            wait_for(lambda: state(frozen.pid) == "T", "the worker freezes")
            wait_for(lambda: not carrying(marker), "the command ends")
            assert state(frozen.pid) == "T"
        finally:
            frozen.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("delay_ms", [0, 15, 20, 25, 30, 60])
def test_a_worker_may_die_at_any_moment(tmp_path: Path, delay_ms: int) -> None:
    """The moment is counted from where the worker begins to start the guardian, which takes about 20 ms."""
    marker = uuid.uuid4().hex
    dies = f"import os, signal; signal.setitimer(signal.ITIMER_REAL, {max(delay_ms, 0.01) / 1000})\n"
    worker = WORKER.replace("process.run", dies + "process.run")
    environ = {**os.environ, "LD_LIBRARY_PATH": marker}  # handed on to the guardian, which is thereby found too
    command = [sys.executable, "-c", worker, str(tmp_path), marker, "/bin/sleep", "300"]
    done = subprocess.run(command, timeout=60, env=environ)
    assert done.returncode == -signal.SIGALRM
    wait_for(lambda: not carrying(marker), "the guardian ends, and the command if it began")


@pytest.mark.parametrize("delay_ms", [0, 10, 20, 30])
def test_a_run_may_be_cancelled_at_any_moment(tmp_path: Path, delay_ms: int) -> None:
    marker, cancel = uuid.uuid4().hex, threading.Event()
    timer = threading.Timer(delay_ms / 1000, cancel.set)
    timer.start()
    end = run(["/bin/sleep", "300"], tmp_path, cancel=cancel, environ={**PATH, process.OWNER: marker})
    timer.join()
    assert (end.why, end.code) == ("cancelled", -signal.SIGTERM)
    assert not carrying(marker)


def test_the_turn_begins_before_the_command_and_ends_when_nothing_of_it_is_left(tree: Tree) -> None:
    seen = []

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        wait_for(lambda: bool(standing_by(tree)), "the guardian stands by")
        seen.append(tree.ready())
        yield
        seen.append(tree.all_gone())

    assert tree.run("0", turn=turn()).code == 0
    assert seen == [False, True]


def test_a_turn_that_does_not_come_starts_nothing(tree: Tree) -> None:
    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        raise KeyError("too late")
        yield

    with pytest.raises(KeyError):
        tree.run(turn=turn())
    wait_for(lambda: not standing_by(tree), "the guardian ends")
    assert not tree.ready()


def test_a_guardian_that_stands_by_does_not_outlive_the_worker(tree: Tree) -> None:
    waits = "import contextlib, os, time\n@contextlib.contextmanager\ndef turn():\n    time.sleep(60)\n    yield\n"
    worker = waits + WORKER.replace("timeout_seconds=60", "timeout_seconds=60, turn=turn()")
    with subprocess.Popen([sys.executable, "-c", worker, str(tree.folder), tree.marker, *tree.command()]) as dying:
        wait_for(lambda: bool(standing_by(tree)), "the guardian stands by")
        dying.kill()
    wait_for(lambda: not standing_by(tree), "the guardian ends")
    assert not tree.ready()


def standing_by(tree: Tree) -> list[int]:
    """The guardians that write the tree's log, and have forked away from their worker."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            writes = folder.name.isdigit() and (folder / "fd" / "2").readlink() == tree.folder / "log"
            if writes and b"guardian" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_an_exception_in_the_caller_ends_the_command(tree: Tree) -> None:
    def fail(pid: int) -> None:
        wait_for(tree.ready, "the tree stands")
        raise KeyError(pid)

    with pytest.raises(KeyError):
        tree.run(started=fail)
    wait_for(tree.all_gone, "every descendant ends")
    wait_for(tree.guardian_gone, "the guardian ends")


@pytest.mark.parametrize("detach", ["", "os.setsid()"])
@pytest.mark.parametrize("stays", [False, True])
def test_a_fork_bomb_loses(tmp_path: Path, detach: str, stays: bool) -> None:
    """160 processes that stay, and 8 that fork and exit at once, so that each is gone by the time it has been seen."""
    marker = uuid.uuid4().hex
    bomb = f"""
import os, time
if {stays} and os.fork(): time.sleep(300)
for _ in range(3): os.fork()
for _ in range(20):
    if os.fork() == 0: time.sleep(300)
end = time.monotonic() + 60
while time.monotonic() < end:
    if os.fork(): os._exit(0)
    {detach}
"""
    begun = time.monotonic()
    end = run([*PYTHON, bomb], tmp_path, environ={**PATH, process.OWNER: marker}, timeout_seconds=1, grace_seconds=0.1)
    assert not carrying(marker)
    assert end.survivors == 0
    assert time.monotonic() - begun < 1.1 + guardian.KILL_SECONDS


def test_a_process_whose_first_thread_has_ended_is_no_hiding_place(tmp_path: Path) -> None:
    """To ps it is a zombie, while its other threads run on."""
    hider = """
import ctypes, os, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def stay():
    while "Z" not in open("/proc/self/stat").read().rpartition(")")[2]: time.sleep(0.01)
    open("pid", "w").write(str(os.getpid()))
    time.sleep(300)
if os.fork():
    while not os.path.exists("pid"): time.sleep(0.01)
    os._exit(0)
threading.Thread(target=stay).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    end = run([*PYTHON, hider], tmp_path)
    assert (end.why, end.survivors) == ("exit", 0)
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_nothing_outlives_a_run_that_another_daemon_started_for_it(tmp_path: Path) -> None:
    """Such a process never descended from the guardian: only the tag in its environment tells that it is ours."""
    strays: list[subprocess.Popen[bytes]] = []

    def start_stray(pid: int) -> None:
        wait_for(lambda: (tmp_path / "tag").exists(), "the command says its tag")
        environ = {"AUTORESEARCH_RUN": (tmp_path / "tag").read_text().strip()}
        strays.append(subprocess.Popen(["/bin/sleep", "300"], env=environ, start_new_session=True))
        wait_for(
            lambda: len(carrying(environ["AUTORESEARCH_RUN"])) == 3, "the stray runs, besides guardian and command"
        )
        (tmp_path / "go").touch()

    script = "echo $AUTORESEARCH_RUN > part; mv part tag; while ! [ -e go ]; do :; done"
    end = run(script, tmp_path, started=start_stray)
    assert end.why == "exit"
    try:
        assert strays[0].wait(60) == -signal.SIGKILL
    finally:
        strays[0].kill()


def test_sweep_ends_what_carries_the_marker_of_a_dead_worker_and_nothing_else() -> None:
    mine, other = uuid.uuid4().hex, uuid.uuid4().hex

    def sleeper(marker: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/bin/sleep", "300"], env={process.OWNER: marker}, start_new_session=True)

    with sleeper(mine) as one, sleeper(mine) as two, sleeper(other) as three:
        wait_for(lambda: len(carrying(mine)) == 2 and len(carrying(other)) == 1, "they carry their markers")
        assert process.sweep([mine]) == 2
        assert (one.wait(60), two.wait(60)) == (-signal.SIGKILL, -signal.SIGKILL)
        assert process.sweep([mine]) == 0
        assert three.poll() is None
        three.kill()


# --- What the command sees -------------------------------------------------------------------------------------------


def test_the_environment_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    run(["/usr/bin/env", "-0"], tmp_path, environ={"NAME": "a value\nof two lines, \udcff"})
    pairs = dict(pair.split(b"=", 1) for pair in (tmp_path / "log").read_bytes().split(b"\0") if pair)
    assert pairs.pop(b"AUTORESEARCH_RUN")
    assert pairs == {b"NAME": b"a value\nof two lines, \xff"}


def test_standard_input_is_what_was_given_or_empty(tmp_path: Path) -> None:
    text = bytes(range(256)) * 4096
    run(["/bin/cat"], tmp_path, stdin=text)
    assert (tmp_path / "log").read_bytes() == text
    end = run(["/bin/cat"], tmp_path)
    assert (end.code, end.log_bytes) == (0, 0)


def test_it_stands_in_its_folder_with_three_descriptors_and_no_terminal(tmp_path: Path) -> None:
    run("pwd; ls /proc/self/fd; ( : < /dev/tty ) 2>/dev/null || echo none", tmp_path)
    listing = "3"  # the folder that ls itself has open
    assert (tmp_path / "log").read_text().split() == [str(tmp_path), "0", "1", "2", listing, "none"]


def test_signals_and_limits_are_the_defaults(tmp_path: Path) -> None:
    def blocked() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1})
        run("grep -E 'SigBlk|SigIgn' /proc/self/status; ulimit -c; ulimit -Hc", tmp_path)

    thread = threading.Thread(target=blocked)
    thread.start()
    thread.join(60)
    words = (tmp_path / "log").read_text().split()
    internal = 1 << (32 - 1) | 1 << (33 - 1)  # the C library keeps these two to itself
    assert int(words[1], 16) == 0 and int(words[3], 16) & ~internal == 0 and words[4:] == ["0", "0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may lower a niceness")
def test_it_is_neither_nice_nor_first_to_be_killed(tmp_path: Path) -> None:
    script = "nice; cat /proc/self/oom_score_adj"
    worker = "import os; os.nice(15); open('/proc/self/oom_score_adj', 'w').write('1000')\n" + WORKER
    subprocess.run([sys.executable, "-c", worker, str(tmp_path), "m", "/bin/sh", "-c", script], check=True, timeout=60)
    assert (tmp_path / "log").read_text().split() == ["0", "0"]


# --- How it ended ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 7", 7), ("kill -SEGV $$", -signal.SIGSEGV), ("false | true", 0), (["/bin/false"], 1), (["true"], 0)],
)
def test_the_exit_status_is_the_commands(tmp_path: Path, command: str | list[str], code: int) -> None:
    end = run(command, tmp_path)
    assert (end.why, end.code, end.oom_killed, end.log_error) == ("exit", code, False, "")


def test_a_program_that_does_not_exist_is_127_and_a_line_in_the_log(tmp_path: Path) -> None:
    end = run(["no-such-program", "x"], tmp_path)
    assert (end.why, end.code) == ("exit", 127)
    assert "'no-such-program': [Errno 2] No such file or directory" in (tmp_path / "log").read_text()


def test_a_folder_that_does_not_exist_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        run(["true"], tmp_path / "nowhere", log=tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        run(["true"], tmp_path, log=tmp_path / "nowhere" / "log")


def test_seconds_count_what_was_forked_away(tmp_path: Path) -> None:
    """Two processes burn 0.4 s each: one is the main process, the other a daemon that it waits for by a file."""
    burner = """
import os, pathlib, time
def burn():
    while time.process_time() < 0.4: pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        burn()
        pathlib.Path("done").touch()
    os._exit(0)
os.wait()
burn()
while not pathlib.Path("done").exists(): time.sleep(0.01)
"""
    end = run([*PYTHON, burner], tmp_path)
    assert end.code == 0
    assert 0.75 <= end.cpu_seconds < 1.6
    assert 0.4 <= end.wall_seconds < 5


def test_the_peak_is_that_of_the_largest_process(tmp_path: Path) -> None:
    end = run("echo small; " + f"{sys.executable} -I -S -c 'bytearray(100 << 20)'", tmp_path)
    assert 100 <= end.peak_mb < 140


def memory_group() -> tuple[Path, str, str]:
    """A folder for memory cgroups that we may write to, with the names of the limit and of the list of processes."""
    for folder, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(folder, f"autoresearch-{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                return group, limit, "cgroup.procs"
            group.rmdir()
    pytest.skip("needs a memory cgroup to write to")


def test_a_kill_for_memory_is_told_from_any_other(tmp_path: Path) -> None:
    group, limit, members = memory_group()
    try:
        (group / limit).write_text(str(128 << 20))
        worker = f"import os; open('{group / members}', 'w').write(str(os.getpid()))\n" + WORKER.replace(
            "process.run(", "print(process.run("
        ).replace("grace_seconds=0.3)", "grace_seconds=0.3))")
        hungry = [*PYTHON, "bytearray(400 << 20)"]
        done = subprocess.run(
            [sys.executable, "-c", worker, str(tmp_path), "m", *hungry], capture_output=True, text=True, timeout=60
        )
        assert "code=-9" in done.stdout, done.stderr
        assert "oom_killed=True" in done.stdout
    finally:
        wait_for(lambda: not (group / members).read_text(), "the cgroup is empty")
        group.rmdir()
    assert run("kill -KILL $$", tmp_path).oom_killed is False


# --- The log ---------------------------------------------------------------------------------------------------------


def test_of_a_flood_the_first_and_the_last_half_are_kept_in_little_memory(tmp_path: Path) -> None:
    flood = (
        "echo first; head -c 200000000 /dev/zero | tr '\\0' x; echo; grep VmHWM /proc/$PPID/status; echo metric: 0.5"
    )
    end = run(flood, tmp_path, cap_bytes=1 << 20)
    log = (tmp_path / "log").read_bytes()
    assert end.log_bytes > 200_000_000
    assert log.startswith(b"first\n")
    assert log.endswith(b"metric: 0.5\n")
    assert f"[... {end.log_bytes - (1 << 20)} bytes dropped ...]".encode() in log
    assert len(log) <= (1 << 20) + 50
    memory_kb = int(log.rpartition(b"VmHWM:")[2].split()[0])
    assert memory_kb < 20_000
    assert list(tmp_path.glob("log?*")) == [], "the ring has no name"


def test_standard_output_is_kept_apart_and_in_the_log(tmp_path: Path) -> None:
    out = tmp_path / "out"
    end = run("echo 0.5; echo remark >&2", tmp_path, stdout=out)
    assert out.read_text() == "0.5\n"
    assert sorted((tmp_path / "log").read_text().split()) == ["0.5", "remark"]
    assert end.log_bytes == 11


def test_both_streams_keep_their_order_in_the_log(tmp_path: Path) -> None:
    run("for i in 1 2 3; do echo out $i; echo err $i >&2; done", tmp_path)
    assert (tmp_path / "log").read_text() == "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))


def test_a_full_disk_is_told_and_does_not_stop_the_command(tmp_path: Path) -> None:
    end = run("head -c 3000000 /dev/zero; touch finished", tmp_path, log=Path("/dev/full"), cap_bytes=1 << 20)
    assert (end.why, end.code, end.log_bytes) == ("exit", 0, 3_000_000)
    assert end.log_error == "cannot write /dev/full: No space left on device"
    assert (tmp_path / "finished").exists()


def test_a_log_that_outgrows_the_size_limit_is_told_and_keeps_its_beginning(tmp_path: Path) -> None:
    worker = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n" + WORKER.replace(
        "process.run(", "print(process.run("
    ).replace("grace_seconds=0.3)", "grace_seconds=0.3))")
    shell = ["/bin/sh", "-c", "echo first; head -c 100000 /dev/zero"]
    done = subprocess.run(
        [sys.executable, "-c", worker, str(tmp_path), "m", *shell], capture_output=True, text=True, timeout=60
    )
    assert "code=0" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert (tmp_path / "log").read_bytes()[:6] == b"first\n"
    assert (tmp_path / "log").stat().st_size == 4096


@given(pieces=st.lists(st.binary(max_size=40), max_size=20), cap=st.integers(2, 60))
def test_a_log_is_its_ends_around_a_line_that_counts_the_rest(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], cap: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "ring"
    with path.open("wb") as file:
        log = guardian.Log(file.fileno(), str(path), cap)
        for piece in pieces:
            log.write(piece)
        log.close()
    whole = b"".join(pieces)
    half = cap // 2
    dropped = len(whole) - 2 * half
    wanted = whole
    if dropped > 0:
        wanted = whole[:half] + b"\n[... %d bytes dropped ...]\n" % dropped + whole[-half:]
    assert path.read_bytes() == wanted
    assert (log.size, log.error) == (len(whole), "")


def test_the_tail_is_what_a_terminal_would_show_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"gone\n" * 5000 + b"step 1\rstep 2\rstep 3\r\n" + b"x" * 600 + b"\n\xff\nlast\n")
    assert process.tail(log, lines=4) == "step 3\n" + "x" * 500 + "…\n\ufffd\nlast"
    assert len(process.tail(log, lines=10_000, max_bytes=1000)) <= 1000
    log.write_bytes(b"")
    assert process.tail(log) == ""


# --- Threads and short commands --------------------------------------------------------------------------------------


def test_many_threads_run_at_once_and_get_their_own_results(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    wrong: list[object] = []

    def lane(number: int) -> None:
        for turn in range(3):
            log = tmp_path / f"{number}-{turn}"
            end = run(f"cat; exit {number}", tmp_path, log=log, stdin=b"%d %d" % (number, turn))
            if (end.code, log.read_bytes()) != (number, b"%d %d" % (number, turn)):
                wrong.append((number, turn, end))

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert set(Path("/proc/self/fd").iterdir()) <= before, "a descriptor was left open"


def test_the_cost_of_a_run_is_small(tmp_path: Path) -> None:
    run(["true"], tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.monotonic()
    for _ in range(5):
        run(["true"], tmp_path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (time.monotonic() - begun) / 5 < 2, "20 ms on an idle machine"
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5 < 0.05


def test_call_returns_what_a_short_command_said(tmp_path: Path) -> None:
    done = process.call(
        ["sh", "-c", "cat; pwd; echo $HOME; echo \\\\377 >&2; exit 3"], cwd=tmp_path, environ=PATH, stdin=b"in\n"
    )
    assert done.code == 3
    assert done.out == f"in\n{tmp_path}\n\n".encode()
    assert done.err.strip() in ("\ufffd", "\\377")


def test_call_says_when_a_command_takes_too_long_or_does_not_exist() -> None:
    with pytest.raises(TimeoutError, match=r"sleep took more than 0\.2 seconds"):
        process.call(["sleep", "300"], environ=PATH, timeout_seconds=0.2)
    with pytest.raises(FileNotFoundError):
        process.call(["no-such-program"], environ=PATH)


# What Ray is to us: a process that was not started by `run`, with a child that outlives it and wipes its environment,
# and by chance somebody who reads the log.
LEASHED = """
import os, subprocess, sys
from pathlib import Path
from autoresearch_ray import process
folder = Path(sys.argv[1])
with process.leash(f"*/session_*_{os.getpid()}/logs/out") as variables:
    logs = folder / f"session_1_{os.getpid()}" / "logs"
    logs.mkdir(parents=True)
    sleep = ["/bin/sleep", "300"]
    alone = {"env": {}, "start_new_session": True}
    with (logs / "out").open("a") as log, (logs / "out").open() as reading, (logs / "other").open("a") as other:
        tagged = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, env=variables, start_new_session=True)
        writer = subprocess.Popen(sleep, stdout=log, **alone)
        reader = subprocess.Popen(sleep, stdin=reading, stdout=subprocess.DEVNULL, **alone)
        another = subprocess.Popen(sleep, stdout=other, **alone)
    print(tagged.pid, writer.pid, reader.pid, another.pid, flush=True)
    sys.stdin.read()
print(os.getpid(), flush=True)
"""


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "leaves"])
def test_a_leash_ends_what_carries_its_tag_or_writes_its_log_and_nobody_else(tmp_path: Path, killed: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEASHED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        tagged, writer, *others = map(int, driver.stdout.readline().split())
        try:
            assert all(map(alive, (tagged, writer, *others)))
            if killed:
                driver.kill()
            else:
                said, _ = driver.communicate("", timeout=60)
                assert said == f"{driver.pid}\n"
            wait_for(lambda: not alive(tagged) and not alive(writer), "both are gone")
            assert all(map(alive, others))
        finally:
            for each in others:
                os.kill(each, signal.SIGKILL)
