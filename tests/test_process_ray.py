"""No process outlives its Ray worker, by whatever death: a real local Ray, and the evil tree of test_process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ray import process
from tests.test_process import PATH, Tree, carrying, wait_for

ENVIRON = {
    "RAY_DISABLE_DASHBOARD_LOG_INFO": "1",
    "PYTHONPATH": str(Path(process.__file__).parents[1]),
}


def start_ray() -> Any:
    """Start a Ray of our own and return the class of a worker.

    Its niceness and its out-of-memory score are left as Ray sets them: 15 and 1000.
    """
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 << 20,
    )

    class Worker:
        def pid(self) -> int:
            return os.getpid()

        def run(self, command: list[str], folder: Path, environ: dict[str, str]) -> process.Exit:
            log = folder / "log"
            return process.run(command, cwd=folder, environ=environ, log=log, timeout_seconds=120, grace_seconds=0.3)

    return ray.remote(num_cpus=0, max_concurrency=2)(Worker)


def start_tree(worker_class: Any, folder: Path, marker: str) -> Any:
    """A worker that runs the evil tree."""
    tree = Tree(folder, marker)
    worker = worker_class.remote()
    worker.run.remote(tree.command(), folder, {**PATH, process.OWNER: marker})
    return worker


def drive(folder: str, marker: str) -> None:
    """A whole driver: a Ray, a worker, a tree. It returns when its input ends."""
    worker = start_tree(start_ray(), Path(folder), marker)
    sys.stdin.read()
    del worker


@pytest.fixture(scope="module")
def worker_class() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRON.items():
            patch.setenv(name, value)
        for name in ("RAY_worker_niceness", "RAY_worker_oom_score_adjustment"):
            patch.delenv(name)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield start_ray()
        import ray

        ray.shutdown()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def nothing_is_left(tree: Tree) -> None:
    wait_for(tree.all_gone, "every descendant ends")
    wait_for(tree.guardian_gone, "the guardian ends")


def test_nothing_outlives_ray_kill(worker_class: Any, tree: Tree) -> None:
    import ray

    worker = start_tree(worker_class, tree.folder, tree.marker)
    wait_for(tree.ready, "the tree stands", 30)
    ray.kill(worker)
    nothing_is_left(tree)


def test_nothing_outlives_a_killed_worker_process(worker_class: Any, tree: Tree) -> None:
    import ray

    worker = start_tree(worker_class, tree.folder, tree.marker)
    wait_for(tree.ready, "the tree stands", 30)
    os.kill(ray.get(worker.pid.remote(), timeout=30), signal.SIGKILL)
    nothing_is_left(tree)


@pytest.mark.parametrize("number", [None, signal.SIGKILL], ids=["returns", "killed"])
def test_nothing_outlives_the_driver(tree: Tree, number: signal.Signals | None) -> None:
    script = "import sys; from tests.test_process_ray import drive; drive(*sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tree.folder), tree.marker],
        env={**os.environ, **ENVIRON},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        wait_for(tree.ready, "the tree stands", 60)
        if number is None:
            driver.communicate(timeout=30)
        else:
            driver.send_signal(number)
    nothing_is_left(tree)


def test_a_frozen_worker_finds_the_result_when_it_thaws(worker_class: Any, tmp_path: Path) -> None:
    import ray

    tree = Tree(tmp_path)
    worker = worker_class.remote()
    pid = ray.get(worker.pid.remote(), timeout=30)
    command = ["/bin/sh", "-c", "touch main; sleep 0.5; exit 5"]
    result = worker.run.remote(command, tmp_path, {**PATH, process.OWNER: tree.marker})
    wait_for(tree.ready, "the command runs", 30)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not carrying(tree.marker), "the command ends")
    finally:
        os.kill(pid, signal.SIGCONT)
    end = ray.get(result, timeout=30)
    assert (end.why, end.code) == ("exit", 5)
    ray.kill(worker)


def test_the_command_sees_none_of_what_ray_does_to_its_workers(worker_class: Any, tmp_path: Path) -> None:
    import ray

    worker = worker_class.remote()
    script = "nice; cat /proc/self/oom_score_adj; echo threads=$OMP_NUM_THREADS; env | grep -c RAY_; exit 4"
    end = ray.get(worker.run.remote(["/bin/sh", "-c", script], tmp_path, PATH), timeout=30)
    assert end.code == 4
    niceness, score, *rest = (tmp_path / "log").read_text().split()
    assert rest == ["threads=", "0"]
    assert score == "0"
    if os.geteuid() == 0:  # an ordinary user may not undo niceness
        assert niceness == "0"
    ray.kill(worker)
