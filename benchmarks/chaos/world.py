"""What is broken: a user's repository on a small disk, a Ray of a head and two nodes, and a driver."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from autoresearch_ray import ledger
from autoresearch_ray.events import Event, Measured
from autoresearch_ray.session import single_box

HERE = Path(__file__).parent
NODES = 2  # besides the head, each with two logical GPUs
GPUS = 2
SIGMA = 0.01
_TRAIN = """\
import os
import random
import time

A = 0.0
B = 0.0
C = 0.0
D = 0.0
E = 0.0
F = 0.0
G = 0.0
H = 0.0

time.sleep(0.5)
random.seed(int(os.environ["AUTORESEARCH_SEED"]))
loss = sum((each - 1) ** 2 for each in (A, B, C, D, E, F, G, H)) / 8
print(f"loss: {loss + random.gauss(0, SIGMA):.6f}")
"""
_PROGRAM = """\
---
tag: {tag}
agent: command
agent_command: {python} {agent}
agent_minutes: 0.15
workers: auto
gpus_per_worker: 1
lanes: 2
monitor: cpu
---
# Autoresearch: a night among demons
## Scope
- Files you CAN modify: train.py
## Eval
Command: `{python} train.py`
Metric: `loss` (lower is better)
Time budget: 5 seconds
"""
_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


def loss(source: str) -> float:
    """The true value of a train.py."""
    values = [float(each) for each in re.findall(r"^[A-H] = (.*)$", source, re.M)]
    return sum((each - 1) ** 2 for each in values) / len(values)


@dataclass
class World:
    """Everything that can be broken, and how to get it going again."""

    folder: Path
    disk: Path | None  # a small file system that can be filled; None where none may be mounted
    clock: Path | None  # seconds by which the wall clock is off; None where it cannot be moved
    tag: str = field(default_factory=lambda: f"chaos{os.getpid()}")
    cluster: Any = None
    nodes: list[Any] = field(default_factory=list)
    driver: subprocess.Popen[bytes] | None = None
    drivers: int = 0

    @property
    def project(self) -> Path:
        return (self.disk or self.folder) / "project"

    @property
    def run_folder(self) -> Path:
        return self.project / ".autoresearch" / self.tag

    @property
    def ledger(self) -> Path:
        return self.run_folder / "ledger.jsonl"

    # --- Setting up --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        project = self.project
        project.mkdir(parents=True)
        (project / "train.py").write_text(_TRAIN.replace("SIGMA", str(SIGMA)))
        agent = HERE / "agent.py"
        (project / "program.md").write_text(_PROGRAM.format(tag=self.tag, python=sys.executable, agent=agent))
        plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        who = ("-c", "user.name=chaos", "-c", "user.email=chaos@localhost")
        for step in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "start")):
            subprocess.run(["git", *step], cwd=project, env={**os.environ, **plain}, check=True)

    def raise_cluster(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": _HEALTH})
        self.nodes = []
        while len(self.nodes) < NODES:
            self.add_node()

    def add_node(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1, num_gpus=GPUS, object_store_memory=80 << 20))

    def start_driver(self, *more: str) -> None:
        command = [sys.executable, "-m", "autoresearch_ray", "run", str(self.project / "program.md")]
        self.drivers += 1
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [*command, "--address", self.cluster.address, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def tend(self) -> None:
        """What a user, or a script of theirs, does: the same command again, if the run is not there any more."""
        if self.driver is None or self.driver.poll() is not None:
            self.start_driver()

    def end_driver(self, number: int = signal.SIGKILL) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.send_signal(number)
            self.driver.wait(120)

    # --- Looking -----------------------------------------------------------------------------------------------------

    def lines(self) -> list[tuple[Event, ...]]:
        return list(ledger.read(self.ledger)) if self.ledger.exists() else []

    def measured(self) -> int:
        """Hand-ins so far."""
        return sum(isinstance(each, Measured) for line in self.lines() for each in line)

    def processes(self, title: str) -> list[psutil.Process]:
        """Descendants of ours whose command line begins like this, such as the actors of Ray."""
        return [
            each for each in psutil.Process().children(recursive=True) if " ".join(_command(each)).startswith(title)
        ]

    def carrying(self, *words: str) -> list[psutil.Process]:
        """Living processes of anybody with all these words in their environment."""
        found = []
        for each in psutil.process_iter():
            try:
                environ = Path(f"/proc/{each.pid}/environ").read_bytes()
                alive = each.status() != psutil.STATUS_ZOMBIE
            except (psutil.Error, OSError):
                continue
            if alive and all(word.encode() in environ for word in words):
                found.append(each)
        return found

    def set_clock(self, seconds: float) -> None:
        if self.clock is not None:
            with self.clock.open("r+b") as file:  # in place: whoever has it mapped must never find it empty
                file.write(struct.pack("d", seconds))


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """A world that runs, and that leaves nothing behind. What this machine does not permit is left out."""
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ.update(single_box(os.environ) | {"TMPDIR": str(temporary), "RAY_TMPDIR": str(folder)})
    os.environ.pop("RAY_ADDRESS", None)
    tempfile.tempdir = None  # the last driver is this process, which has looked for it before
    clock = _clock(folder)
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", disk], capture_output=True)
    here = World(folder, None if mounted.returncode else disk, clock)
    try:
        here.begin()
        here.raise_cluster()
        here.start_driver()
        yield here
    finally:
        here.end_driver()
        if here.cluster is not None:
            here.cluster.shutdown()
        for each in here.carrying(f"TMPDIR={temporary}"):  # Ray's agents of nodes that were killed
            if each.pid != os.getpid():
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        if here.disk:
            _unmount(here.disk)


def _clock(folder: Path) -> Path | None:
    """Have everything that is started from now on read a wall clock that can be moved."""
    library, clock = folder / "clock.so", folder / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "clock.c", "-ldl"], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    os.environ.update(LD_PRELOAD=str(library), CHAOS_CLOCK=str(clock))
    return clock


def _unmount(disk: Path) -> None:
    """Whoever was killed a moment ago may still have a file open there."""
    deadline = time.monotonic() + 20
    while subprocess.run(["umount", disk], capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.2)
