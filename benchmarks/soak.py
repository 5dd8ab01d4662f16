"""A week in short: thousands of experiments in one run over Ray, and whether anything grows that should not.

Evaluations take next to no time, so that what is left is the engine. Every few seconds the processes of the run are
looked at: the driver, the coordinator, the team that holds the lanes. Memory is PSS, which shares what is shared.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from autoresearch_ray import ledger
from autoresearch_ray.events import Event, Judged, Measured
from autoresearch_ray.model import Status
from benchmarks import machine, project, scratch

_TITLES = {"ray::_CoordinatorActor": "coordinator", "ray::_TeamActor": "team"}
_WINDOW = 500  # experiments at the beginning and at the end of a run that are compared
_COUNTED = frozenset({Status.KEEP, Status.DISCARD, Status.CRASH})


@dataclass(frozen=True, slots=True)
class Look:
    """One process at one moment."""

    experiments: int
    role: str
    pss_mb: float
    cpu_seconds: float
    files: int
    threads: int
    at: float


def look(driver: int, experiments: int) -> list[Look]:
    """All processes of the run that live from its beginning to its end."""
    found, now = [], time.monotonic()
    for each in (psutil.Process(driver), *psutil.Process(driver).children(recursive=True)):
        try:
            role = "driver" if each.pid == driver else next(
                (role for title, role in _TITLES.items() if " ".join(each.cmdline()).startswith(title)), ""
            )  # fmt: skip
            if role:
                used, times = each.memory_full_info(), each.cpu_times()
                pss, cpu = used.pss / 2**20, times.user + times.system
                found.append(Look(experiments, role, pss, cpu, each.num_fds(), each.num_threads(), now))
        except psutil.Error:
            continue  # it has ended meanwhile
    return found


def counted(path: Path) -> int:
    """Experiments with a verdict, without reading the whole ledger as events."""
    return path.read_bytes().count(b'"event":"judged"') if path.exists() else 0


@dataclass(frozen=True, slots=True)
class Growth:
    """One number of one process: early in the run, and at its end."""

    role: str
    what: str
    early: float
    late: float


def growth(looks: Sequence[Look], experiments: int) -> list[Growth]:
    """Medians over the first and the last experiments, and what one of them costs of a core."""
    window = min(_WINDOW, experiments / 4)
    rows = []
    for role in ("driver", *_TITLES.values()):
        mine = [each for each in looks if each.role == role]
        early = [each for each in mine if 0 < each.experiments <= window]
        late = [each for each in mine if each.experiments >= experiments - window]
        if any(len({each.experiments for each in some}) < 2 for some in (early, late)):
            raise click.ClickException(f"the {role} was looked at too seldom: give more --experiments")
        for what in ("pss_mb", "files", "threads"):
            before, after = (statistics.median(getattr(each, what) for each in some) for some in (early, late))
            rows.append(Growth(role, what, before, after))
        rows.append(Growth(role, "cpu_ms", _cost(early), _cost(late)))
    return rows


def _cost(looks: Sequence[Look]) -> float:
    """Milliseconds of a core for one experiment."""
    first, last = looks[0], looks[-1]
    return 1000 * (last.cpu_seconds - first.cpu_seconds) / (last.experiments - first.experiments)


def overheads(lines: Iterable[Iterable[Event]], workers: int) -> list[float]:
    """Seconds of a slot for each experiment in the order in which they ended: evaluations take none."""
    ends = [
        each.at
        for line in lines
        for each in line
        if isinstance(each, Judged) and each.status in _COUNTED
    ]  # fmt: skip
    block = max(1, len(ends) // 20)
    return [workers * (ends[at + block] - ends[at]) / block for at in range(0, len(ends) - block, block)]


def disk(folder: Path) -> dict[str, float]:
    """Megabytes on the disk, in blocks, of each part of the run's folder."""
    sizes: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            part = path.relative_to(folder).parts[0]
            sizes[part] = sizes.get(part, 0.0) + path.stat().st_blocks * 512 / 2**20
    return sizes


def run(folder: Path, workers: int, experiments: int, every: float) -> tuple[list[Look], Path]:
    lanes = [f"cpu{index}" for index in range(workers)]
    command = "echo loss: 0.$(printf %010d $AUTORESEARCH_SEED)"
    options = f"workers: {workers}\nexperiments: {experiments}\nmonitor: none"
    repository = project(folder, command, options, lanes, 2 * experiments // workers)
    path = repository / ".autoresearch" / "bench" / "ledger.jsonl"
    environ = os.environ | {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    environ.pop("RAY_ADDRESS", None)
    with (folder / "driver.log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "autoresearch_ray", "run"],
            cwd=repository, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    looks: list[Look] = []
    try:
        while driver.poll() is None:
            looks += look(driver.pid, counted(path))
            try:
                driver.wait(every)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if driver.poll() is None:
            driver.send_signal(signal.SIGINT)
            driver.wait(120)
    if driver.returncode:
        raise click.ClickException(f"the run ended with {driver.returncode}:\n{(folder / 'driver.log').read_text()}")
    return looks, path.parent


@click.command()
@click.option("--experiments", default=5000, show_default=True)
@click.option("--workers", default=4, show_default=True)
@click.option("--every", default=5.0, show_default=True, help="Seconds between two looks at the processes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(experiments: int, workers: int, every: float, as_json: bool) -> None:
    """Thousands of experiments in one run: what grows, what an experiment costs early and late, and on the disk."""
    where, begun = machine(), time.monotonic()
    with scratch() as folder:
        looks, run_folder = run(folder, workers, experiments, every)
        rows = growth(looks, experiments)
        costs = overheads(ledger.read(run_folder / "ledger.jsonl"), workers)
        hand_ins = sum(isinstance(each, Measured) for line in ledger.read(run_folder / "ledger.jsonl") for each in line)
        sizes = disk(run_folder)
        left = [str(each.name) for each in folder.glob("autoresearch-*/*")]
    seconds = time.monotonic() - begun
    if as_json:
        table = [{"role": each.role, "what": each.what, "early": each.early, "late": each.late} for each in rows]
        print(json.dumps({
            "benchmark": "soak", "machine": where, "experiments": experiments, "hand_ins": hand_ins,
            "seconds": seconds, "growth": table, "overhead_seconds": costs, "disk_mb": sizes, "trees_left": left,
        }))  # fmt: skip
        return
    print(f"soak, {where['cores']} cores, Ray {where['ray']}: {experiments} experiments, {hand_ins} hand-ins,")
    print(f"{workers} workers, {seconds / 60:.0f} minutes")
    print(f"  {'process':<12} {'what':<8} {'first':>8} {'last':>8}   {_WINDOW} experiments, or a quarter of the run")
    for each in rows:
        print(f"  {each.role:<12} {each.what:<8} {each.early:8.1f} {each.late:8.1f}")
    print(f"  seconds of a slot for one experiment: {costs[0]:.3f} in the first twentieth, {costs[-1]:.3f} in the last")
    total = sum(sizes.values())
    parts = ", ".join(f"{name} {size:.1f}" for name, size in sorted(sizes.items(), key=lambda each: -each[1])[:4])
    print(f"  on the disk {total:.0f} MB, {1024 * total / hand_ins:.1f} kB for each hand-in: {parts}")
    print(f"  trees left: {', '.join(left) or 'none'}")


if __name__ == "__main__":
    main()
