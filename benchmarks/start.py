"""How long a person waits: for the first evaluation, for `status` on a long run, for `--help`.

Every command is a process of its own, measured from before it is started, with its modules compiled. Of several runs
the median counts.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import click

from autoresearch_ray import ledger
from benchmarks import COMMAND, Row, conclude, environ, machine, project, scratch
from benchmarks.board import play

LANES = 64


def first_evaluation(folder: Path, backend: str) -> float:
    """Seconds from the start of `run` to the start of the first evaluation of a new run."""
    times = folder / "times"
    options = f"backend: {backend}\nworkers: 1\nexperiments: 1"
    repository = project(folder, f"date +%s.%N >> {times}; echo loss: 1", options, ["cpu0"], 1)
    begun = time.time()
    _call(folder, "run", cwd=repository)
    return float(times.read_text().split()[0]) - begun


def _call(folder: Path, *arguments: str, cwd: Path | None = None) -> float:
    begun = time.monotonic()
    subprocess.run(
        [COMMAND, *arguments],
        cwd=cwd or folder,
        env=environ(folder.parent),
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    return time.monotonic() - begun


def long_run(folder: Path, experiments: int) -> None:
    """A finished run with its ledger."""
    place = folder / ".autoresearch" / "bench"
    place.mkdir(parents=True)
    lines = play(experiments, LANES).lines
    (place / "ledger.jsonl").write_bytes(b"".join(ledger.encode(line) + b"\n" for line in lines))


def median(times: int, measure: Callable[[int], float]) -> float:
    """Of so many measurements, after one that does not count: it compiles the modules."""
    return statistics.median([measure(number) for number in range(times + 1)][1:])


@click.command()
@click.option("--runs", default=5, show_default=True, help="Of each command, the median counts.")
@click.option("--ray-runs", default=3, show_default=True)
@click.option("--experiments", default=10_000, show_default=True, help="In the ledger that `status` reads.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(runs: int, ray_runs: int, experiments: int, as_json: bool) -> None:
    """How long a person waits."""
    where = machine()
    with scratch() as folder:
        (folder / "long").mkdir()
        long_run(folder / "long", experiments)
        table = [
            Row(name, median(times, measure), target)
            for name, target, times, measure in (
                ("--help", 0.3, runs, lambda _: _call(folder / "long", "--help")),
                (f"status of {experiments} experiments, JSON", 0.5, runs, lambda _: _call(folder / "long", "status")),
                (
                    f"status of {experiments} experiments, text",
                    0.5,
                    runs,
                    lambda _: _call(folder / "long", "status", "--text"),
                ),
                ("first evaluation, backend local", 1.0, runs, lambda n: first_evaluation(folder / f"l{n}", "local")),
                (
                    "first evaluation, a Ray of its own",
                    8.0,
                    ray_runs,
                    lambda n: first_evaluation(folder / f"r{n}", "ray"),
                ),
            )
        ]
    conclude("start", where, table, as_json)


if __name__ == "__main__":
    main()
