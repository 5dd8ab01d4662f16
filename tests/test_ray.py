"""Whole runs over a real local Ray with logical GPUs: one coordinator actor, one worker actor per GPU."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ray import ledger, research
from autoresearch_ray.board import Board, replay
from autoresearch_ray.errors import AgentError, ClusterError, SetupError
from autoresearch_ray.events import Measured, Seated
from autoresearch_ray.repo import Hub
from tests.conftest import Toy, counted_at_the_limit, processes_of

SEES = """\
import os
LR = 0.5
print("loss:", LR)
print("gpus", os.environ["CUDA_VISIBLE_DEVICES"], "nice", os.nice(0), "omp", os.environ["OMP_NUM_THREADS"],
      "oom", open("/proc/self/oom_score_adj").read().strip(), "ray", sum(k.startswith("RAY_") for k in os.environ))
"""


@pytest.fixture
def cluster(temporary: Path) -> Iterator[None]:
    """A Ray of this process with two logical GPUs."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def board_of(toy: Toy) -> Board:
    return replay(ledger.read(toy.run_folder() / "ledger.jsonl"))


def seats(toy: Toy) -> list[Seated]:
    return [
        each for line in ledger.read(toy.run_folder() / "ledger.jsonl") for each in line if isinstance(each, Seated)
    ]


def measured(toy: Toy) -> int:
    path = toy.run_folder() / "ledger.jsonl"
    return path.read_bytes().count(b'"event":"measured"') if path.exists() else 0


def test_each_worker_has_its_gpu_and_evaluations_inherit_nothing_of_ray(cluster: None, toy: Toy) -> None:
    (toy.folder / "train.py").write_text(SEES)
    toy.commit()
    with research(toy.program(backend="ray", more="experiments: 4"), gpus_per_worker=1, workers="auto") as session:
        list(session)
    lanes = session.board.lanes
    assert set(lanes) == {"gpu0", "gpu1"}
    assert sorted(lane.seat.gpus for lane in lanes.values()) == [("0",), ("1",)]
    for name, lane in lanes.items():
        for log in (toy.run_folder() / "logs" / name).glob("[0-9]*.log"):
            if not log.name.endswith(".agent.log"):
                said = log.read_text()
                cores = max(1, len(os.sched_getaffinity(0)) // 2)
                nice = os.nice(0) if os.geteuid() else 0
                assert f"gpus {lane.seat.gpus[0]} nice {nice} omp {cores} " in said and said.rstrip().endswith("ray 0")
                assert os.geteuid() != 0 or " oom 0 " in said
    assert counted_at_the_limit(toy.run_folder()) == 4
    hub = Hub.open(toy.run_folder() / "hub.git")
    assert all(hub.has(each.commit) for each in session.board.experiments if each.commit)
    assert board_of(toy).experiments == session.board.experiments


def test_shortage_setup_and_agent_faults_reach_the_driver_as_they_were_raised(
    cluster: None, toy: Toy, temporary: Path
) -> None:
    with pytest.raises(ClusterError, match="room for 2"):
        research(toy.program(backend="ray"), gpus_per_worker=1, workers=3).__enter__()
    assert not toy.run_folder().exists()
    missing = toy.program(backend="ray", eval_more="Setup: `echo no data; exit 3`")
    with pytest.raises(SetupError, match="no data"), research(missing) as session:
        list(session)
    mine = temporary / f"autoresearch-{os.getuid()}"
    shutil.rmtree(mine, ignore_errors=True)
    mine.write_text("in the way")
    with pytest.raises(SetupError, match="cannot make"), research(toy.program(backend="ray"), tag="t3") as session:
        list(session)
    mine.unlink()
    agent = toy.program(agent="command", backend="ray", more="agent_command: no-such-program")
    with pytest.raises(AgentError, match="no-such-program"):
        research(agent, tag="t2").__enter__()


def job_with_a_gpu() -> Any:
    """An actor of somebody else's."""
    import ray

    @ray.remote(num_gpus=1, num_cpus=0)
    class Job:
        def began(self) -> None:
            pass

    job = Job.remote()
    ray.get(job.began.remote())
    return job


def test_gpus_that_another_job_holds_are_left_to_it_and_nobody_waits_for_them_in_the_end(
    cluster: None, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second look the job's GPU seems free: that team waits for it, and goes home with the run."""
    import ray

    from autoresearch_ray import actors

    job = job_with_a_gpu()
    free, looks = actors.available_resources_per_node, itertools.count()
    monkeypatch.setattr(actors, "available_resources_per_node", lambda: {} if next(looks) else free())
    monkeypatch.setattr(actors, "_LOOK_SECONDS", 0.1)
    with research(toy.program(backend="ray", more="experiments: 3"), gpus_per_worker=1, workers="auto") as session:
        list(session)
    assert set(session.board.lanes) == {"gpu0"} and counted_at_the_limit(toy.run_folder()) == 3
    assert "1 of 2 workers wait for GPUs that others hold" in session.warnings and next(looks) > 2
    ray.kill(job)


def test_gpus_that_ray_takes_for_held_are_asked_for_all_the_same_and_what_is_held_is_asked_for_again(
    cluster: None, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the clock of its head was set back. One of the two is held indeed, until its team was withdrawn once."""
    import ray

    from autoresearch_ray import actors

    job = job_with_a_gpu()
    free, kill = actors.available_resources_per_node, ray.kill
    withdrawn: list[Any] = []
    monkeypatch.setattr(actors, "available_resources_per_node", lambda: {node: {} for node in free()})
    monkeypatch.setattr(ray, "kill", lambda actor: (withdrawn.append(actor), kill(actor)))
    monkeypatch.setattr(actors, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(actors, "_ASK_SECONDS", 0.2)
    monkeypatch.setattr(actors, "_ASKED_SECONDS", 6.0)
    program = toy.program(backend="ray", more="experiments: 20", command="python train.py; sleep 0.5")
    with research(program, gpus_per_worker=1, workers=2) as session:
        while session.advance():
            if withdrawn and session.board.counted >= 3 and job is not None:
                assert len(session.board.lanes) == 1
                kill(job)
                job = None
    assert job is None and set(session.board.lanes) == {"gpu0", "gpu1"} and counted_at_the_limit(toy.run_folder()) == 20


def test_a_node_that_is_gone_before_its_team_has_begun_ends_nothing(
    cluster: None, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    nodes, looks = ray.nodes, itertools.count()
    gone = {"NodeID": ray.NodeID.from_random().hex(), "Alive": True, "Resources": {"GPU": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes(), *([gone] if next(looks) < 2 else [])])
    with research(toy.program(backend="ray", more="experiments: 3"), gpus_per_worker=1, workers="auto") as session:
        list(session)
    assert {"gpu0", "gpu1"} >= set(session.board.lanes) and counted_at_the_limit(toy.run_folder()) == 3
    assert any("seated again" in each for each in session.warnings)


@pytest.mark.slow
def test_a_worker_that_is_killed_sits_down_again_and_nothing_is_counted_twice(
    cluster: None, toy: Toy, temporary: Path
) -> None:
    toy.program(backend="ray", more="experiments: 12", command="python train.py; sleep 0.5")
    killed = 0
    with research(toy.folder, gpus_per_worker=1) as session:
        while session.advance():
            if not killed and session.board.attempts >= 4:
                killed = session.board.lanes["gpu0"].seat.pid
                os.kill(killed, signal.SIGKILL)
    again = [each for each in seats(toy) if each.seat.lane == "gpu0"]
    assert [each.sitting for each in again] == [1, 2] and again[1].seat.pid != killed
    lines = list(ledger.read(toy.run_folder() / "ledger.jsonl"))
    ids = [event.attempt.id for line in lines for event in line if isinstance(event, Measured)]
    assert len(set(ids)) == len(ids) and counted_at_the_limit(toy.run_folder()) == 12
    assert processes_of(temporary, "AUTORESEARCH_EXPERIMENT=") == []


@pytest.mark.slow
def test_kill_dash_nine_of_the_driver_over_ray(toy: Toy, temporary: Path) -> None:
    toy.program(backend="ray", more="experiments: 60", command="python train.py; sleep 0.3")
    run = [sys.executable, "-m", "autoresearch_ray", "run", str(toy.folder / "program.md")]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 60
        while measured(toy) < 5 and driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    _all_gone(temporary)
    ledger.Ledger(toy.run_folder() / "ledger.jsonl", patience_seconds=20).close()  # its coordinator is gone, too
    before = board_of(toy)
    more = str(before.counted + 4)
    done = subprocess.run([*run, "--experiments", more], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0 and "goes on" in done.stderr, done.stderr
    after = board_of(toy)
    assert counted_at_the_limit(toy.run_folder()) == before.counted + 4
    assert [each.id for each in after.experiments][: len(before.experiments)] == [
        each.id for each in before.experiments
    ]
    baseline, earlier = after.baseline, before.baseline
    assert baseline is not None and earlier is not None and baseline.values == earlier.values
    _all_gone(temporary)


def _all_gone(temporary: Path) -> None:
    """No evaluation, no agent, and nothing of Ray is left."""
    deadline = time.monotonic() + 30
    while left := processes_of(temporary):
        assert time.monotonic() < deadline, f"still there: {[_command(each) for each in left]}"
        time.sleep(0.05)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid}, gone meanwhile"


def test_ray_of_our_own_listens_on_loopback_alone(toy: Toy) -> None:
    toy.program(backend="ray", more="experiments: 200")
    run = [sys.executable, "-m", "autoresearch_ray", "run", str(toy.folder / "program.md")]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as driver:
        deadline = time.monotonic() + 60
        while measured(toy) < 1 and driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        listening = _listening_below(driver.pid)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(30) == 130
    assert listening and listening <= {"127.0.0.1", "::1"}


def _listening_below(pid: int) -> set[str]:
    """Addresses that the descendants of `pid` listen on, from /proc."""
    parents = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    below, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in below} - below
        below, grown = below | more, bool(more)
    inodes = set()
    for each in below:
        for link in Path(f"/proc/{each}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table, size in (("tcp", 4), ("tcp6", 16)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, size, 4))
                found.add(".".join(map(str, words)) if size == 4 else _ipv6(words))
    return found


def _ipv6(words: bytes) -> str:
    if words[:12] == b"\0" * 10 + b"\xff\xff":
        return ".".join(map(str, words[12:]))
    return "::1" if words == b"\0" * 15 + b"\1" else words.hex()
