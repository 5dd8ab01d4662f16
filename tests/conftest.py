"""Real repositories to run in. Nothing here imports Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_ray import ledger
from autoresearch_ray.board import Board
from autoresearch_ray.events import Closed, Opened, Ordered, Resumed
from autoresearch_ray.model import Propose
from autoresearch_ray.session import single_box

# Ray reads these once, when whatever test comes first imports it: the settings of a single box.
os.environ.update(single_box({"RAY_AUTH_TOKEN": "0123456789abcdef" * 4}))
os.environ["RAY_TMPDIR"] = "/tmp"  # its sockets need a short path

GIT = {
    "GIT_AUTHOR_NAME": "user",
    "GIT_AUTHOR_EMAIL": "user@localhost",
    "GIT_COMMITTER_NAME": "user",
    "GIT_COMMITTER_EMAIL": "user@localhost",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}

TRAIN = """\
import os
import random
import time

LR = 0.5
WIDTH = 8
SLEEP = 0.05

time.sleep(SLEEP)
random.seed(int(os.environ["AUTORESEARCH_SEED"]))
loss = (LR - 0.1) ** 2 + (WIDTH - 32) ** 2 / 1000
print(f"loss: {loss + random.gauss(0, 0.0005):.6f}")
"""

PROGRAM = """\
---
tag: t1
agent: {agent}
workers: {workers}
gpus_per_worker: 0
lanes: {lanes}
backend: {backend}
sandbox: {sandbox}
{more}
---
# Autoresearch: toy
## Scope
- Files you CAN modify: train.py
- Files you CANNOT modify: harness.py
## Eval
Command: `{command}`
Metric: `loss` (lower is better)
Time budget: {budget}
{eval_more}
## Strategy
Try constants.
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **GIT}, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class Toy:
    """A user's repository with a tiny training in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "-q", "-b", "main")
        (folder / "train.py").write_text(TRAIN)
        (folder / "harness.py").write_text("import train\n")
        (folder / ".gitignore").write_text("__pycache__/\n")
        self.program()
        self.commit("start")

    def program(
        self,
        *,
        agent: str = "knobs",
        workers: int = 2,
        lanes: int | str = 1,
        backend: str = "local",
        sandbox: str = "none",
        command: str = "python train.py",
        budget: str = "5 seconds",
        more: str = "experiments: 6",
        eval_more: str = "",
    ) -> Path:
        path = self.folder / "program.md"
        path.write_text(
            PROGRAM.format(
                agent=agent,
                workers=workers,
                lanes=lanes,
                backend=backend,
                sandbox=sandbox,
                command=command,
                budget=budget,
                more=more,
                eval_more=eval_more,
            )
        )
        return path

    def commit(self, message: str = "change") -> str:
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", message)
        return self.head

    @property
    def head(self) -> str:
        return git(self.folder, "rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        return git(self.folder, *arguments)

    def run_folder(self, tag: str = "t1") -> Path:
        return self.folder / ".autoresearch" / tag


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "toy")


class SmallDisk:
    """A file system of its own, which is soon full, and can be enlarged."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if made.returncode:
            pytest.skip("mounting a small file system is not permitted here")

    def enlarge(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", self.folder], check=True)

    def remove(self) -> None:
        """Also while what a failed test has left behind still uses it."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], SmallDisk]]:
    """Makes one of a size such as "300k"; where none may be mounted, the test is skipped."""
    made: list[SmallDisk] = []

    def make(size: str) -> SmallDisk:
        made.append(SmallDisk(tmp_path / f"disk{len(made)}", size))
        return made[-1]

    yield make
    for each in made:
        each.remove()


def counted_at_the_limit(run_folder: Path) -> int:
    """Experiments that had a verdict when the last session closed: what a limit counts. Nothing is proposed after that.

    What is under way is finished, and what was found is brought together, in experiments that nobody had to think of.
    """
    events = (event for line in ledger.read(run_folder / "ledger.jsonl") for event in line)
    opened = next(events)
    assert isinstance(opened, Opened)
    board, counted = Board(opened), None
    for event in events:
        board.apply(event)
        if isinstance(event, Resumed):
            counted = None
        elif isinstance(event, Closed) and counted is None:
            counted = board.counted
        proposed = isinstance(event, Ordered) and isinstance(event.order, Propose)
        assert counted is None or not proposed, f"proposed after the end: {event}"
    assert counted is not None
    return counted


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, for workers and all that they start."""
    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def processes_of(temporary: Path, also: str = "") -> list[int]:
    """Pids of the living processes that a test started below its temporary folder, with `also` in their environment."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                environ = (each / "environ").read_bytes()
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue
            if f"TMPDIR={temporary}".encode() in environ and also.encode() in environ:
                found.append(int(each.name))
    return found


@pytest.fixture(scope="session")
def nanochat_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AUTORESEARCH_DATA folder with the corpus `stdlib` in it, and the log of its making; not to be written in."""
    folder = tmp_path_factory.mktemp("nanochat")
    made = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "examples" / "nanochat" / "prepare.py"), "stdlib"],
        env=os.environ | {"AUTORESEARCH_DATA": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    assert made.returncode == 0, made.stdout
    (folder / "log").write_text(made.stdout)
    return folder


@pytest.fixture(scope="session")
def corpus(nanochat_data: Path) -> object:
    """The corpus `stdlib`, open."""
    from tests.nanochat import opened  # here: the agents of other tests are imported without the example in the path

    return opened(nanochat_data)
