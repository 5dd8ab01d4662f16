"""What goes wrong, one fault at a time. Each says what it did, or None if there was nothing to strike."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.chaos.world import World

_JUMPS = (-7200.0, -60.0, 60.0, 7200.0)  # seconds


def kill_an_evaluation(world: World, chance: random.Random) -> str | None:
    return _kill(world.carrying(f"AUTORESEARCH_TAG={world.tag}", "AUTORESEARCH_SEED="), chance)


def kill_an_agent(world: World, chance: random.Random) -> str | None:
    return _kill(world.carrying(f"/{world.tag}/agents/", "AUTORESEARCH_PROMPT="), chance)


def stall_an_agent(world: World, chance: random.Random) -> str | None:
    return _kill(world.carrying(f"/{world.tag}/agents/", "AUTORESEARCH_PROMPT="), chance, signal.SIGSTOP)


def kill_a_guardian(world: World, chance: random.Random) -> str | None:
    """What stands between a worker and its commands."""
    guarded = world.carrying(f"AUTORESEARCH_TAG={world.tag}") + world.carrying(f"/{world.tag}/agents/")
    return _kill([each for each in map(_parent, guarded) if each and _is_guardian(each)], chance)


def kill_a_team(world: World, chance: random.Random) -> str | None:
    """The process that holds all lanes of a node."""
    return _kill(world.processes("ray::_TeamActor"), chance)


def kill_the_coordinator(world: World, chance: random.Random) -> str | None:
    return _kill(world.processes("ray::_CoordinatorActor"), chance)


def kill_the_driver(world: World, chance: random.Random) -> str | None:
    if world.driver is None or world.driver.poll() is not None:
        return None
    world.end_driver()
    return f"driver {world.driver.pid}"


def kill_a_node(world: World, chance: random.Random) -> str | None:
    """All of a node; another one joins some seconds later."""
    node = world.nodes.pop(chance.randrange(len(world.nodes)))
    world.cluster.remove_node(node, allow_graceful=False)
    time.sleep(chance.uniform(0, 6))
    world.add_node()
    return "a node"


def kill_the_head(world: World, chance: random.Random) -> str | None:
    """The head's GCS, and the driver with it; then everything is started afresh, as after a reboot."""
    if not _kill(world.processes(str(_gcs(world))), chance):
        return None
    world.end_driver()
    world.cluster.shutdown()
    world.raise_cluster()
    return "the GCS"


def cut_the_ledger(world: World, chance: random.Random) -> str | None:
    """The driver dies, and of the last line of its ledger only a part had reached the disk."""
    world.end_driver()
    deadline = time.monotonic() + 30
    while world.processes("ray::_CoordinatorActor") and time.monotonic() < deadline:
        time.sleep(0.05)
    data = world.ledger.read_bytes()
    if data.count(b"\n") < 3:
        return None
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    os.truncate(world.ledger, chance.randrange(last, len(data) - 1))
    return f"{len(data) - last} bytes"


def fill_the_disk(world: World, chance: random.Random) -> str | None:
    if world.disk is None:
        return None
    filler = world.disk / "filler"
    try:
        with filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        time.sleep(chance.uniform(1, 4))
    filler.unlink()
    return "for some seconds"


def make_the_clock_jump(world: World, chance: random.Random) -> str | None:
    if world.clock is None:
        return None
    seconds = chance.choice(_JUMPS)
    world.set_clock(seconds)
    return f"by {seconds:g} s"


Fault = Callable[[World, random.Random], str | None]
FAULTS: dict[Fault, int] = {  # and how often each strikes, against the others
    kill_an_evaluation: 6,
    kill_an_agent: 4,
    stall_an_agent: 2,
    kill_a_guardian: 3,
    kill_a_team: 4,
    kill_the_coordinator: 4,
    kill_the_driver: 2,
    kill_a_node: 2,
    kill_the_head: 1,
    cut_the_ledger: 2,
    fill_the_disk: 2,
    make_the_clock_jump: 2,
}


def _kill(processes: list[psutil.Process], chance: random.Random, number: int = signal.SIGKILL) -> str | None:
    """Of these, one."""
    if not processes:
        return None
    one = chance.choice(sorted(processes, key=lambda each: each.pid))
    try:
        os.kill(one.pid, number)
    except ProcessLookupError:
        return None
    return f"process {one.pid}"


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.Error:
        return None


def _is_guardian(process: psutil.Process) -> bool:
    try:
        return "from guardian import main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _gcs(world: World) -> Path:
    import ray

    return Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
