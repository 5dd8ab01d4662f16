"""The driver as a Ray job: a Ray of our own on loopback, with its dashboard, and real terminals that are lost.

Everything that speaks to Ray is a process of its own, because Ray reads its settings once per process.
"""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoresearch_ray import actors, ledger
from autoresearch_ray.board import Board, replay
from autoresearch_ray.session import Program, Session
from tests.conftest import Toy, counted_at_the_limit

HEAD = """
import sys

import ray
from ray._private.utils import write_ray_address

folder, dashboard, port = sys.argv[1], sys.argv[2] == "dashboard", int(sys.argv[3])
ray.init(
    address="local",
    num_cpus=2,
    num_gpus=0,
    include_dashboard=dashboard,
    dashboard_port=port,
    object_store_memory=100 << 20,
    log_to_driver=False,
    logging_level="ERROR",
    _temp_dir=folder,
)
address = ray.get_runtime_context().gcs_address
write_ray_address(address, folder)  # as `ray start` does: a job looks its cluster up here
print(address, flush=True)
sys.stdin.read()
"""

DRIVER = """
import os
import sys
import time
from pathlib import Path

from autoresearch_ray import actors

here = Path(__file__).parent
if not actors.in_job(os.environ):
    sys.exit(actors.as_job(os.environ["RAY_ADDRESS"], here / ".autoresearch" / "t1", 20))
print("the job runs", flush=True)
"""

RUN = """
from autoresearch_ray import research

with research("program.md") as session:
    for experiment in session:
        print(experiment)
print("best:", session.best)
"""

has_dashboard = all(importlib.util.find_spec(each) for each in ("aiohttp", "aiohttp_cors", "opencensus"))
needs_dashboard = pytest.mark.skipif(not has_dashboard, reason="needs the extra: pip install 'ray[default]'")
lacks_dashboard = pytest.mark.skipif(has_dashboard, reason="is about Ray without ray[default]")


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


@contextmanager
def head(*, dashboard: bool) -> Iterator[dict[str, str]]:
    """A Ray on loopback; yields the environment of a process on its head. It ends with us, whatever becomes of us."""
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SSH_"))},
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(actors.__file__).parents[1]),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets' names may have 107 characters
    command = [sys.executable, "-c", HEAD, folder, "dashboard" if dashboard else "bare", str(port)]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, "Ray did not start"
        try:
            yield {**environ, "RAY_ADDRESS": address}
        finally:
            process.communicate(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    with head(dashboard=True) as environ:
        yield environ


class Follower:
    """A process that hands itself over to a job; its output goes to files."""

    def __init__(self, folder: Path, body: str, environ: dict[str, str], *arguments: str) -> None:
        self.folder = folder / "a b"  # to be quoted
        self.folder.mkdir()
        (self.folder / "driver.py").write_text(DRIVER + body)
        self._out, self._err = self.folder / "out", self.folder / "err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "driver.py", *arguments], cwd=self.folder, env=environ, stdout=out, stderr=err
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def job(self) -> str:
        found = re.search(r"Ray job (\S+)", self.err)
        return found[1] if found else ""

    def wait_for_job(self) -> None:
        until(lambda: "the job runs" in self.out or self.process.poll() is not None, "the job runs")
        assert self.process.poll() is None, self.err


def board_of(toy: Toy) -> Board | None:
    path = toy.run_folder() / "ledger.jsonl"
    return replay(ledger.read(path)) if path.exists() else None


@contextmanager
def on_ssh_terminal(command: list[str], folder: Path, environ: dict[str, str], out: Path) -> Iterator[tuple[int, int]]:
    """The command with a terminal of its own that looks like ssh's; yields its pid and our end of the terminal."""
    ours, its = pty.openpty()
    environ = {**environ, "SSH_CONNECTION": "127.0.0.1 50022 127.0.0.1 22"}
    with out.open("w") as file:
        process = subprocess.Popen(
            ["setsid", "--ctty", *command], cwd=folder, env=environ, stdin=its, stdout=file, stderr=file
        )
    os.close(its)
    try:
        yield process.pid, ours
    finally:
        os.close(ours)  # the kernel sends SIGHUP, as it does when ssh goes
        process.wait(30)


@pytest.mark.slow
@needs_dashboard
def test_the_log_is_followed_and_the_exit_status_returned(tmp_path: Path, environ: dict[str, str]) -> None:
    follower = Follower(tmp_path, "print(sys.argv[1:], os.getcwd())\nsys.exit(3)\n", environ, "two words", "$HOME;'")
    assert follower.process.wait(60) == 3
    assert str(["two words", "$HOME;'"]) + f" {follower.folder}" in follower.out
    assert len(follower.err.splitlines()) == 1 and re.fullmatch(r"autoresearch-t1-\d{8}-\d{6}", follower.job)


@pytest.mark.slow
@needs_dashboard
def test_a_job_that_a_signal_ends_has_the_status_a_shell_reports(tmp_path: Path, environ: dict[str, str]) -> None:
    follower = Follower(tmp_path, "os.kill(os.getpid(), 9)\n", environ)
    assert follower.process.wait(60) == 128 + 9


@pytest.mark.slow
@needs_dashboard
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
def test_the_job_outlives_its_follower(tmp_path: Path, environ: dict[str, str], number: signal.Signals) -> None:
    body = """
deadline = time.monotonic() + 60
while not (here / "go").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
(here / "done").touch()
"""
    follower = Follower(tmp_path, body, environ)
    follower.wait_for_job()
    follower.process.send_signal(number)
    status = follower.process.wait(60)
    if number is signal.SIGINT:
        assert status == 130
        assert f"ray job logs --follow {follower.job}" in follower.err
        assert f"autoresearch-ray stop --folder '{follower.folder}/.autoresearch/t1'" in follower.err
    else:
        assert status == -number
    assert not (follower.folder / "done").exists()
    (follower.folder / "go").touch()
    until((follower.folder / "done").exists, "the job goes on", 60)


@pytest.mark.slow
@needs_dashboard
def test_a_stopped_job_is_interrupted_and_has_time_to_finish(tmp_path: Path, environ: dict[str, str]) -> None:
    body = """
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(5)  # Ray kills after 3 seconds unless told otherwise
    (here / "finished").touch()
"""
    follower = Follower(tmp_path, body, environ)
    follower.wait_for_job()
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "stop", "--no-wait", follower.job]
    subprocess.run(ray, env=environ, check=True, capture_output=True, timeout=60)
    assert follower.process.wait(60) == 130
    assert (follower.folder / "finished").exists()


@pytest.mark.slow
@needs_dashboard
def test_a_secret_does_not_travel_with_the_job(tmp_path: Path, environ: dict[str, str]) -> None:
    secret = secrets.token_hex(16)
    follower = Follower(tmp_path, 'print(os.environ.get("SECRET"))\n', {**environ, "SECRET": secret})
    assert follower.process.wait(60) == 0
    assert "None" in follower.out.splitlines()
    ray = [sys.executable, "-m", "ray.scripts.scripts", "list", "jobs", "--detail"]
    listed = subprocess.run(ray, env=environ, check=True, capture_output=True, text=True, timeout=60).stdout
    assert follower.job in listed and secret not in listed


@pytest.mark.slow
@needs_dashboard
def test_a_run_on_an_ssh_terminal_outlives_the_terminal(toy: Toy, environ: dict[str, str], tmp_path: Path) -> None:
    train = (toy.folder / "train.py").read_text()
    (toy.folder / "train.py").write_text(train.replace("time.sleep(SLEEP)", "time.sleep(0.5)"))
    toy.program(backend="ray", more="experiments: 8")
    (toy.folder / "run.py").write_text(RUN)
    toy.commit()
    out = tmp_path / "out"
    with on_ssh_terminal([sys.executable, "run.py"], toy.folder, environ, out):
        until(lambda: "#0 [keep]" in out.read_text(), "the baseline is seen on the terminal")
        board = board_of(toy)
        assert board is not None and board.closed is None
    until(lambda: (board := board_of(toy)) and board.closed, "the run ends by itself")
    until((toy.run_folder() / "report.md").exists, "the report is written")
    board = board_of(toy)
    assert board is not None and board.counted == 8
    assert "best:" not in out.read_text()  # the follower was gone by then


@pytest.mark.slow
@lacks_dashboard
def test_without_the_dashboard_the_run_goes_on_where_it_is(toy: Toy, tmp_path: Path) -> None:
    toy.program(backend="ray", more="experiments: 2")
    (toy.folder / "run.py").write_text(RUN)
    out = tmp_path / "out"
    command = [sys.executable, "run.py"]
    with head(dashboard=False) as environ, on_ssh_terminal(command, toy.folder, environ, out) as (pid, _):
        until(lambda: "best:" in out.read_text() or os.waitpid(pid, os.WNOHANG)[0], "the run ends")
    said = out.read_text()
    assert "this run will end with its terminal" in said and "ray[default]" in said
    board = board_of(toy)
    assert board is not None and counted_at_the_limit(toy.run_folder()) == 2


@pytest.mark.parametrize(
    ("command", "ssh", "terminal", "expected"),
    [
        (["script.py"], True, True, True),
        (["script.py"], False, True, False),
        (["script.py"], True, False, False),  # as under nohup, sbatch and cron
        (["-c", "import script"], True, True, False),  # there is no script that could be run again
    ],
)
def test_only_a_script_on_an_ssh_terminal_is_in_danger(
    tmp_path: Path, command: list[str], ssh: bool, terminal: bool, expected: bool
) -> None:
    (tmp_path / "script.py").write_text(
        "import os\nfrom autoresearch_ray.actors import on_ssh_terminal\nprint(on_ssh_terminal(os.environ))\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
    if ssh:
        environ["SSH_CONNECTION"] = "127.0.0.1 50022 127.0.0.1 22"
    ours, its = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environ,
            stdin=its if terminal else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(its)
    assert done.stdout == f"{expected}\n", done.stderr


@pytest.mark.parametrize(
    ("backend", "more", "expected"),
    [
        ("ray", "experiments: 1", "10.0.0.1:6379"),
        ("ray", "address: 10.0.0.2:6379", "10.0.0.2:6379"),
        ("local", "experiments: 1", None),
    ],
)
def test_the_cluster_is_the_one_named_or_that_of_the_environment(
    toy: Toy, backend: str, more: str, expected: str | None
) -> None:
    program = Program.read(toy.program(backend=backend, more=more))
    session = Session(program, {**os.environ, "RAY_ADDRESS": "10.0.0.1:6379"})
    assert session.program.options.address == expected
    assert Session(program, {"RAY_ADDRESS": ""}).program.options.address == program.options.address


def test_a_job_without_a_cluster_is_refused(toy: Toy) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "autoresearch_ray", "run", "--as-job", "--backend", "ray"]
    done = subprocess.run(command, cwd=toy.folder, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no cluster" in done.stderr and "RAY_ADDRESS" in done.stderr
    assert not toy.run_folder().exists()
