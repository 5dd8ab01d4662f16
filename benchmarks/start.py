"""How long a person waits: for the first evaluation, for `status` on a long run, for `--help`.

Every command is a process of its own, measured from before it is started, with its modules compiled. Of several runs
the median counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click

from autoresearch_ray import ledger
from benchmarks import Row, call, conclude, machine, project, scratch
from benchmarks.board import play

_LANES = 64


def first_evaluation(folder: Path, backend: str, number: int) -> float:
    """Seconds from the start of `run` to the start of the first evaluation of a new run, the baseline's."""
    options = f"backend: {backend}\nworkers: 1\nexperiments: 1"
    repository = project(folder / f"{backend}-{number}", "date +%s.%N; echo loss: 1", options, ["cpu0"], 1)
    begun = time.time()
    call(folder, repository, "run")
    first = repository / ".autoresearch" / "bench" / "logs" / "cpu0" / "1.log"
    return float(first.read_text().split()[0]) - begun


def long_run(folder: Path, experiments: int) -> None:
    """A finished run with its ledger."""
    place = folder / ".autoresearch" / "bench"
    place.mkdir(parents=True)
    lines = play(experiments, _LANES).lines
    (place / "ledger.jsonl").write_bytes(b"".join(ledger.encode(line) + b"\n" for line in lines))


def _median(times: int, measure: Callable[[int], float]) -> float:
    """Of so many measurements, which are numbered from 1; number 0 compiles the modules and does not count."""
    return statistics.median([measure(number) for number in range(times + 1)][1:])


@click.command()
@click.option(
    "--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Of each command, the median counts."
)
@click.option("--ray-runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--experiments", default=10_000, show_default=True, help="In the ledger that `status` reads.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(runs: int, ray_runs: int, experiments: int, as_json: bool) -> None:
    """How long a person waits."""
    where = machine()
    with scratch() as folder:
        long_run(folder, experiments)
        many = f"status of {experiments} experiments"
        table = [
            Row("--help", _median(runs, lambda _: call(folder, folder, "--help")), 0.3),
            Row(f"{many}, JSON", _median(runs, lambda _: call(folder, folder, "status")), 0.5),
            Row(f"{many}, text", _median(runs, lambda _: call(folder, folder, "status", "--text")), 0.5),
            Row("first evaluation, no Ray", _median(runs, lambda n: first_evaluation(folder, "local", n)), 1.0),
            Row(
                "first evaluation, a Ray of its own",
                _median(ray_runs, lambda n: first_evaluation(folder, "ray", n)),
                8.0,
            ),
        ]
    conclude("start", where, table, as_json)


if __name__ == "__main__":
    main()
