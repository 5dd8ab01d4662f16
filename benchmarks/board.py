"""How much thinking costs: the decisions of a long run on many lanes, and the replay of its ledger, in CPU seconds."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from autoresearch_ray import ledger
from autoresearch_ray.account import PARTS, Part
from autoresearch_ray.board import replay
from autoresearch_ray.model import Attempt, Failure, FailureKind, Resources, Spent, Usage
from autoresearch_ray.policies.bayes import Bayes
from benchmarks import Row, conclude, machine
from benchmarks.world import Landscape, Run

_TARGET_SECONDS = 5.0
_USES = (*PARTS[Part.MEASURING], *PARTS[Part.SETTING_UP])  # about as many as a slot has after a while
_TAIL = "".join(f'  File "train.py", line {number}, in forward\n' for number in range(30))


def play(experiments: int, lanes: int) -> Run:
    """A run to its end in the reference world, as heavy as real ones are."""
    return Run.of(Landscape(), 1, lanes, Bayes(), experiments=experiments).play(_full)


def _full(attempt: Attempt) -> Attempt:
    """The attempt with all that a GPU, an agent and a traceback add to it."""
    number = int(attempt.id.rpartition("-")[2])
    resources = Resources(
        "NVIDIA H100 80GB HBM3",
        f"GPU-{number:036}",
        "550.54.15",
        43210.5,
        40123.25,
        43000.0,
        151234.5,
        97.5,
        654.25,
        61.0,
    )
    failure = Failure(FailureKind.CRASH, "exit status 1", _TAIL) if attempt.measurement.failure else None
    measurement = replace(attempt.measurement, failure=failure, exit_code=bool(failure), resources=resources)
    usage = Usage(31.5, 21034, 1203, 0.0612) if attempt.line else Usage()
    spent = Spent(int(attempt.lane.removeprefix("gpu")), 0.0, dict.fromkeys(_USES, number + 0.125))
    return replace(
        attempt,
        spent=spent,
        idea=f"{attempt.idea}: " + "a wider window and a warmer start" * 2,
        measurement=measurement,
        usage=usage,
    )


@click.command()
@click.option("--experiments", default=10_000, show_default=True)
@click.option("--lanes", default=64, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(experiments: int, lanes: int, as_json: bool) -> None:
    """How much CPU the decisions of a long run cost, and the replay of its ledger."""
    where = machine()
    begun = time.process_time()
    run = play(experiments, lanes)
    decided = time.process_time()
    lines = [ledger.encode(line) for line in run.lines]
    encoded = time.process_time()
    board = replay(map(ledger.decode, lines))
    replayed = time.process_time()
    if board.counted < experiments:
        raise click.ClickException(f"the run ended after {board.counted} experiments")
    what = f"{experiments} experiments of {lanes} lanes"
    table = [
        Row(f"{what}: CPU, in all", replayed - begun, _TARGET_SECONDS),
        Row(f"{what}: decided", decided - begun),
        Row(f"{what}: encoded", encoded - decided),
        Row(f"{what}: replayed from the ledger", replayed - encoded),
    ]
    conclude("board", where, table, as_json)


if __name__ == "__main__":
    main()
