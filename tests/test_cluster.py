"""Runs over a Ray of several nodes, of which one after another dies or joins, and the coordinator with them."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ray import ledger, research
from autoresearch_ray.board import replay
from autoresearch_ray.events import Measured, Seated
from autoresearch_ray.repo import Hub
from tests.conftest import Toy, counted_at_the_limit, processes_of

HEALTH = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def cluster(temporary: Path) -> Iterator[Any]:
    """A head with one logical GPU; nodes are added by the test."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": HEALTH})
    yield cluster
    import ray

    ray.shutdown()
    cluster.shutdown()
    gc.collect()  # Ray leaves a scandir open, which is to be reported here and not in somebody else's test


def join(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 << 20)


def coordinator(temporary: Path) -> int:
    """The pid of the coordinator's process."""
    found = []
    for pid in processes_of(temporary):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if title.startswith(b"ray::_CoordinatorActor"):
            found.append(pid)
    assert len(found) == 1
    return found[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Exception ignored in. <posix.ScandirIterator")
def test_the_night_goes_on_when_nodes_join_and_die_and_the_coordinator_too(
    cluster: Any, toy: Toy, temporary: Path
) -> None:
    toy.program(backend="ray", more="experiments: 30", command="python train.py; sleep 0.5")
    killed, first = 0, None
    with research(toy.folder, address=cluster.address, workers="auto", gpus_per_worker=1) as session:
        while session.advance():
            attempts = session.board.attempts
            if first is None and attempts >= 2:
                first = join(cluster)
            elif killed == 0 and attempts >= 8:
                os.kill(coordinator(temporary), signal.SIGKILL)
                killed = 1
            elif killed == 1 and attempts >= 13:
                cluster.remove_node(first, allow_graceful=False)
                killed = 2
            elif killed == 2 and attempts >= 17:
                join(cluster)
                killed = 3
    assert killed == 3
    lines = list(ledger.read(toy.run_folder() / "ledger.jsonl"))
    ids = Counter(event.attempt.id for line in lines for event in line if isinstance(event, Measured))
    assert set(ids.values()) == {1} and counted_at_the_limit(toy.run_folder()) >= 30
    assert replay(lines).experiments == session.board.experiments
    hub = Hub.open(toy.run_folder() / "hub.git")
    assert all(hub.has(each.commit) for each in session.board.experiments if each.commit)
    assert set(session.board.lanes) == {"gpu0", "gpu1"}  # whoever joins later gets a seat
    sitting = Counter(event.seat.lane for line in lines for event in line if isinstance(event, Seated))
    assert sitting["gpu0"] + sitting["gpu1"] == 3  # whoever sat on the dead node sat down again on the new one
    assert any("died and is seated again" in each for each in session.warnings)
    assert processes_of(temporary, "AUTORESEARCH_EXPERIMENT=") == []
