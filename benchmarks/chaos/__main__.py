"""A seeded run among faults, and what must hold after it. Exits with 1 where something does not.

Each fault strikes while the run works: the next one follows when something was handed in again, or at once after every
fifth. What a user would do is done: a driver that is gone is started again with the same command.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click

from autoresearch_ray import research
from autoresearch_ray.account import parts
from autoresearch_ray.board import Board, replay
from autoresearch_ray.events import Event, Measured
from autoresearch_ray.repo import Hub
from benchmarks import machine, scratch
from benchmarks.chaos import demon
from benchmarks.chaos.world import SIGMA, World, loss, world

_PATIENCE_SECONDS = 120.0  # until something is handed in again


@dataclass
class Story:
    """What happened."""

    struck: Counter[str] = field(default_factory=Counter)
    recovered: dict[str, list[float]] = field(default_factory=dict)  # seconds from a fault to the next hand-in
    stuck: list[str] = field(default_factory=list)
    known: list[tuple[Event, ...]] = field(default_factory=list)  # lines that the ledger was seen to have
    rewritten: int = 0  # such lines that were not there, or different, later on

    def look(self, lines: list[tuple[Event, ...]]) -> None:
        self.rewritten += lines[: len(self.known)] != self.known
        self.known = lines


def strike(here: World, faults: int, chance: random.Random, say: bool) -> Story:
    """Break things until `faults` of them were broken."""
    story = Story()
    kinds = list(demon.FAULTS)
    queue = chance.sample(kinds, min(faults, len(kinds)))  # each once, then by chance
    _wait(here, 4)
    while sum(story.struck.values()) < faults:
        fault = queue.pop() if queue else chance.choices(kinds, list(demon.FAULTS.values()))[0]
        name = fault.__name__.replace("_", " ")
        story.look(here.lines())
        deadline, what = time.monotonic() + 5, fault(here, chance)
        while what is None and time.monotonic() < deadline:  # there is none just now
            time.sleep(0.05)
            what = fault(here, chance)
        if what is None:
            continue
        story.struck[name] += 1
        if fault is demon.cut_the_ledger:
            story.known = here.lines()
        before, begun = here.measured(), time.monotonic()
        here.tend()
        told = "at once"  # the next one, after every fifth
        if story.struck.total() % 5:
            if not _wait(here, before + 1):
                story.stuck.append(f"{name}: {what}")
            took = time.monotonic() - begun
            story.recovered.setdefault(name, []).append(took)
            told = f"{took:.1f} s"
        if say:
            print(f"{story.struck.total():4} {name}: {what}, {told}", file=sys.stderr, flush=True)
    here.set_clock(0.0)
    return story


def _wait(here: World, wanted: int) -> bool:
    """Until so much was handed in. False if nothing comes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while here.measured() < wanted:
        if time.monotonic() > deadline:
            return False
        here.tend()
        time.sleep(0.1)
    return True


def finish(here: World) -> Board:
    """Stop the driver as a user would, and end the run in this process: what it has seen of the run, event by event."""
    here.end_driver(2)
    lines = here.lines()
    more = replay(lines).counted + 4
    with research(here.project, address=here.cluster.address, workers="auto", experiments=more) as session:
        while session.advance():
            continue
        return session.board


def checks(here: World, story: Story, live: Board, temporary: Path) -> dict[str, str]:
    """What must hold, each with what speaks against it, or ""."""
    lines = here.lines()
    board = replay(lines)
    story.look(lines)
    ids = Counter(each.attempt.id for line in lines for each in line if isinstance(each, Measured))
    twice = [id for id, times in ids.items() if times > 1]
    hub = Hub.open(here.run_folder / "hub.git")
    commits = {each.commit for each in board.experiments if each.commit}
    missing = [each for each in commits if not hub.has(each)]
    heads = {f"autoresearch/{here.tag}-{name}": lane.head for name, lane in board.lanes.items()}
    if board.published:
        heads[f"autoresearch/{here.tag}"] = board.published[-1].commit
    refs = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads"],
        cwd=hub.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    branches = dict(line.split(" ") for line in refs.stdout.splitlines())
    astray = [name for name, head in heads.items() if branches.get(name) != head]
    left = here.carrying(f"AUTORESEARCH_TAG={here.tag}") + here.carrying("AUTORESEARCH_RUN=", str(temporary))
    trees = [str(each) for each in temporary.glob("autoresearch-*/*")]
    return {
        "every hand-in is in the ledger once": _some(twice),
        "what the ledger once had, it has": f"{story.rewritten} times not" if story.rewritten else "",
        "every commit is in the hub": _some(missing),
        "the live board equals the replay": "" if live.experiments == board.experiments else "it does not",
        "branches are what the ledger says": _some(astray),
        "the best is right": _the_best(hub, board),
        "every second of every slot has a name": _unaccounted(board),
        "nothing stood still": _some(story.stuck),
        "no process is left": _some([str(each) for each in left]),
        "no tree is left": _some(trees),
    }


def _unaccounted(board: Board) -> str:
    """What the parts of the account miss of the wall clock, if it is more than a hundredth."""
    wall = board.account.wall_seconds(board.last_at)
    away = abs(sum(board.account.seconds(board.last_at).values()) - wall)
    return f"{away:.0f} of {wall:.0f} s" if away > 0.01 * wall else ""


def _the_best(hub: Hub, board: Board) -> str:
    """The truth of the published best, against what it was measured as and against the baseline."""
    best = board.best
    if best is None or not best.commit or best.value is None:
        return "there is none"
    true, base = (loss(hub.git("show", f"{each}:train.py").decode()) for each in (best.commit, board.opened.base))
    away = abs(best.value - true)
    if away > 5 * SIGMA / len(best.values) ** 0.5:
        return f"it was measured {away:.4f} away from the truth"
    return "" if true <= base else f"{true:.4f} is worse than the baseline's {base:.4f}"


def _some(found: list[str]) -> str:
    return f"{len(found)}: {', '.join(found[:3])}" if found else ""


@click.command()
@click.option("--faults", default=200, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(faults: int, seed: int, as_json: bool) -> None:
    """A run over Ray while things break: what was lost, and how long it took to go on."""
    where, begun = machine(), time.monotonic()
    with scratch() as folder:
        with world(folder) as here:
            story = strike(here, faults, random.Random(seed), not as_json)
            live = finish(here)
            here.cluster.shutdown()
            held = checks(here, story, live, folder / "tmp")
            if any(held.values()) and not as_json:
                shutil.copytree(here.run_folder, kept := Path(f"chaos-{seed}"), dirs_exist_ok=True)
                print(f"the run is kept in {kept}", file=sys.stderr)
        board = replay(iter(story.known))
    rows = []
    for name, times in sorted(story.struck.items()):
        took = story.recovered.get(name, [])
        median, longest = (statistics.median(took), max(took)) if took else (None, None)
        rows.append({"fault": name, "times": times, "median_seconds": median, "longest_seconds": longest})
    ok = not any(held.values())
    if as_json:
        document = {
            "benchmark": "chaos", "machine": where, "seed": seed, "faults": rows, "checks": held, "met": ok,
            "experiments": board.counted, "attempts": board.attempts, "seconds": time.monotonic() - begun,
        }  # fmt: skip
        print(json.dumps(document))
    else:
        print(f"chaos, {where['cores']} cores, Ray {where['ray']}, seed {seed}")
        print(f"  {'fault':<24} times   until the next hand-in: median, longest")
        for row in rows:
            took = [row["median_seconds"], row["longest_seconds"]]
            seconds = " ".join("     -  " if each is None else f"{each:6.1f} s" for each in took)
            print(f"  {row['fault']:<24} {row['times']:5}   {seconds}")
        wall = board.account.wall_seconds(board.last_at)
        spent = parts(board.account.seconds(board.last_at))
        shares = ", ".join(f"{part} {100 * sum(uses.values()) / wall:.1f} %" for part, uses in spent.items())
        print(f"  {wall / 60:.0f} minutes of slots: {shares}")
        total = story.struck.total()
        print(f"  {total} faults, {here.drivers} drivers, {board.attempts} hand-ins, {board.counted} experiments")
        for name, wrong in held.items():
            print(f"  {'ok    ' if not wrong else 'BROKEN'} {name}{': ' + wrong if wrong else ''}")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
