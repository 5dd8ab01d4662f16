"""What an experiment costs a slot besides its evaluation.

A run over a local Ray, with an agent that takes no time and an evaluation of known length. What a slot spends between
two hand-ins and not in the evaluation is the overhead: the verdict, the ledger, the order, the agent's clean tree, the
commit, the clean tree for the evaluation, starting and ending it, the metric, the way back.

Only the steady part counts: from the moment every lane has handed in once to the first lane that is told to stop.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click

from autoresearch_ray import ledger
from autoresearch_ray.events import Event, Measured, Ordered, Seated
from autoresearch_ray.model import Stop
from benchmarks import Row, call, conclude, machine, project, scratch

_TARGET_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Turn:
    """From one hand-in of a lane to its next."""

    seconds: float
    evaluation_seconds: float
    agent_seconds: float

    @property
    def overhead_seconds(self) -> float:
        return self.seconds - self.evaluation_seconds


def steady(lines: Iterable[Iterable[Event]]) -> list[Turn]:
    """The turns that begin and end in the steady part of a run. Empty if there is none."""
    events = [event for line in lines for event in line]
    lanes: dict[str, list[Measured]] = {each.seat.lane: [] for each in events if isinstance(each, Seated)}
    for event in events:
        if isinstance(event, Measured):
            lanes[event.attempt.lane].append(event)
    stops = [each.at for each in events if isinstance(each, Ordered) and isinstance(each.order, Stop)]
    if not all(lanes.values()) or not stops:
        return []
    begin, end = max(hand_ins[0].at for hand_ins in lanes.values()), min(stops)
    return [
        Turn(after.at - before.at, after.attempt.measurement.wall_seconds, after.attempt.usage.seconds)
        for hand_ins in lanes.values()
        for before, after in pairwise(hand_ins)
        if begin <= before.at and after.at <= end
    ]


def rows(policy: str, turns: Sequence[Turn], seconds: float) -> list[Row]:
    overheads = sorted(each.overhead_seconds for each in turns)
    evaluations = [each.evaluation_seconds for each in turns if each.evaluation_seconds]
    return [
        Row(f"{policy}: overhead of an experiment, mean", sum(overheads) / len(evaluations), _TARGET_SECONDS),
        Row(f"{policy}: median", statistics.median(overheads)),
        Row(f"{policy}: 95th percentile", overheads[int(0.95 * (len(overheads) - 1))]),
        Row(f"{policy}: of the mean, in the agent", sum(each.agent_seconds for each in turns) / len(evaluations)),
        Row(f"{policy}: beside it, an evaluation over its {seconds:g} s", statistics.fmean(evaluations) - seconds),
    ]


def run(folder: Path, policy: str, workers: int, experiments: int, seconds: float) -> list[Turn]:
    lanes = [f"cpu{index}" for index in range(workers)]
    options = f"policy: {policy}\nworkers: {workers}\nexperiments: {experiments}"
    # The seed follows from the attempt: a loss from 0 to 1, at random but the same in every run.
    command = f"sleep {seconds:g}; echo loss: 0.$(printf %010d $AUTORESEARCH_SEED)"
    repository = project(folder / policy, command, options, lanes, experiments)
    call(folder, repository, "run")
    return steady(ledger.read(repository / ".autoresearch" / "bench" / "ledger.jsonl"))


@click.command()
@click.option("--policy", "policies", multiple=True, default=("greedy", "confirm"), show_default=True)
@click.option("--workers", default=8, show_default=True)
@click.option("--experiments", default=80, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of one evaluation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(policies: tuple[str, ...], workers: int, experiments: int, seconds: float, as_json: bool) -> None:
    """What an experiment costs a slot besides its evaluation."""
    where, table = machine(), []
    with scratch() as folder:
        for policy in policies:
            turns = run(folder, policy, workers, experiments, seconds)
            if not any(each.evaluation_seconds for each in turns):
                raise click.ClickException("no lane has evaluated twice: give more --experiments")
            table += rows(policy, turns, seconds)
    conclude("overhead", where, table, as_json)


if __name__ == "__main__":
    main()
