"""How busy slots are while agents think: utilisation, and experiments per slot and hour.

A run over a local Ray, with an evaluation that sleeps E seconds and an agent command that sleeps A and writes one small
file. All figures come from the ledger, whose seconds of evaluations are the runner's own readings, from the start of
the command to its end: not the time that a slot was taken.

Only what was asked for on its own merits counts: a measurement that fills a slot whose agent fails, or that stands by
until others finish, is idle time here. `busy` begins with the first evaluation and ends when the run proposes no more;
`whole` is the same share of all the wall clock, from the start of the command to its end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click

from autoresearch_ray import ledger
from autoresearch_ray.events import Closed, Event, Judged, Measured, Ordered, Seated
from autoresearch_ray.model import Remeasure, Status
from benchmarks import call, committed, conclude, machine, scratch

_TARGET = 0.97
# Ordered only so that a slot has something to do.
_FILLERS = ("meanwhile the best is measured once more", "while others finish")
_HEADS = ("slots", "A/E", "E/(A+E)", "busy", "whole", "exp/slot-hour", "gap s", "lanes", "target")

_PROGRAM = """\
---
tag: bench
agent: command
agent_command: sh {agent}
gpus_per_worker: 0
workers: {slots}
hours: {hours}
backend: {backend}
---
# Autoresearch: a benchmark
## Scope
- Files you CAN modify: changes/
## Eval
Command: `sh evaluate.sh`
Metric: `loss` (lower is better)
Time budget: {seconds:g} seconds
"""
# Every change brings a gain of its own, which add up. One in four is good, and few are too close to the noise to tell.
_AGENT = """\
set -- $(od -An -N8 -tu4 /dev/urandom)
a={seconds:g}
[ $(date +%s) -lt {turn} ] || a={then:g}
sleep $({pause})
mkdir -p changes
awk -v u=$2 'BEGIN {{ g = u % 1000 / 1000; print g < 0.25 ? g / 10 - 0.04 : g / 5 }}' \\
    > changes/$AUTORESEARCH_EXPERIMENT.txt
echo idea: one more number
"""
_EVENLY = "echo $a"
_AT_RANDOM = "awk -v a=$a -v u=$1 'BEGIN { print -a * log((u + 1) / 4294967297) }'"  # exponentially distributed
_EVALUATION = """\
sleep {seconds:g}
awk -v s=$AUTORESEARCH_SEED '{{ loss += $1 }} END {{ print "loss: " 10 + loss + s % 1000 / 1000000 }}' changes/*.txt
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table: a run of `slots` slots at one ratio of agent seconds to evaluation seconds."""

    slots: int
    ratio: str
    sequential: float  # what one agent and one slot in turns reach: E/(A+E)
    busy: float
    whole: float
    experiments: float  # with a verdict, per slot and hour
    gap_seconds: float  # between two evaluations of one slot, median
    lanes: float  # per slot, at the end
    target: float | None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.busy >= self.target

    @property
    def cells(self) -> tuple[str, ...]:
        judged = () if self.met is None else (f">= {self.target:g} {'ok' if self.met else 'MISSED'}",)
        figures = (f"{self.sequential:.2f}", f"{self.busy:.3f}", f"{self.whole:.3f}", f"{self.experiments:.0f}")
        return (str(self.slots), self.ratio, *figures, f"{self.gap_seconds:.3f}", f"{self.lanes:.1f}", *judged)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a ledger says of a run's slots. Seconds; `evaluated_seconds` is the sum over all of the run."""

    slots: int
    begun: float  # the first evaluation
    closed: float  # nothing is proposed any more
    busy_seconds: float  # of all slots, between these two
    evaluated_seconds: float
    experiments: int  # with a verdict between these two
    gaps: tuple[float, ...]
    lanes: int  # that were working when it closed

    @property
    def slot_seconds(self) -> float:
        return self.slots * (self.closed - self.begun)


def read(lines: Iterable[Iterable[Event]]) -> Reading:
    """Fold a ledger. Raises `ValueError` where nothing was measured."""
    events = [event for line in lines for event in line]
    worker: dict[str, int] = {}
    spans: dict[int, list[tuple[float, float]]] = {}
    last: dict[str, Event] = {}
    fillers: set[str] = set()
    closed, lanes, verdicts = events[-1].at, 0, []
    for event in events:
        match event:
            case Seated(seat=seat):
                worker[seat.lane] = seat.worker
            case Ordered(lane=lane, order=order):
                last[lane] = event
                if isinstance(order, Remeasure) and any(each in order.why for each in _FILLERS):
                    fillers.add(order.id)
            case Measured(attempt=attempt, at=at) if attempt.measurement.wall_seconds and attempt.id not in fillers:
                spans.setdefault(worker[attempt.lane], []).append((at - attempt.measurement.wall_seconds, at))
            case Judged(status=status, at=at) if status is not Status.LOST:
                verdicts.append(at)
            case Closed(at=at) if at < closed:
                closed = at
                lanes = sum(isinstance(each, Ordered) and each.order.kind != "stop" for each in last.values())
    if not spans:
        raise ValueError("nothing was measured")
    begun = min(begin for each in spans.values() for begin, _ in each)
    gaps = [after[0] - before[1] for each in spans.values() for before, after in pairwise(sorted(each))]
    return Reading(
        slots=len(set(worker.values())),
        begun=begun,
        closed=closed,
        busy_seconds=sum(max(0.0, min(end, closed) - begin) for each in spans.values() for begin, end in each),
        evaluated_seconds=sum(end - begin for each in spans.values() for begin, end in each),
        experiments=sum(at <= closed for at in verdicts),
        gaps=tuple(gaps),
        lanes=lanes,
    )


def run(
    folder: Path,
    slots: int,
    seconds: float,
    ratio: float,
    then: float | None,
    minutes: float,
    at_random: bool,
    backend: str,
) -> Cell:
    """One run: `ratio` times `seconds` for an agent, and `then` times from half of its time on."""
    agent, later = ratio * seconds, (ratio if then is None else then) * seconds
    place = folder / f"{slots}-{ratio:g}-{later:g}-{at_random}"
    script = place / "agent.sh"
    hours = minutes / 60
    program = _PROGRAM.format(agent=script, slots=slots, hours=hours, seconds=seconds, backend=backend)
    files = {"changes/first.txt": "0\n", "evaluate.sh": _EVALUATION.format(seconds=seconds)}
    repository = committed(place / "project", program, files)
    pause = _AT_RANDOM if at_random else _EVENLY
    turn = int(time.time() + minutes * 30)
    script.write_text(_AGENT.format(seconds=agent, then=later, pause=pause, turn=turn))
    wall = call(folder, repository, "run")
    reading = read(ledger.read(repository / ".autoresearch" / "bench" / "ledger.jsonl"))
    words = f"{ratio:g}" + ("" if then is None else f", then {then:g}") + (", random" if at_random else "")
    return Cell(
        slots=slots,
        ratio=words,
        sequential=2 * seconds / (2 * seconds + agent + later),
        busy=reading.busy_seconds / reading.slot_seconds,
        whole=reading.evaluated_seconds / (slots * wall),
        experiments=3600 * reading.experiments / reading.slot_seconds,
        gap_seconds=statistics.median(reading.gaps) if reading.gaps else 0.0,
        lanes=reading.lanes / slots,
        target=None if at_random or then is not None else _TARGET,
    )


@click.command()
@click.option("--slots", multiple=True, type=int, default=(4, 8), show_default=True)
@click.option("--ratio", "ratios", multiple=True, type=float, default=(0.1, 0.33, 1.0, 2.0), show_default=True)
@click.option("--then", type=float, help="The ratio changes to this one half-way.")
@click.option("--random", "at_random", is_flag=True, help="Agents take exponentially distributed times.")
@click.option("--minutes", default=8.0, show_default=True, help="Of each run.")
@click.option("--seconds", default=6.0, show_default=True, help="Of one evaluation: E.")
@click.option("--backend", default="ray", show_default=True, type=click.Choice(["ray", "local"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    slots: tuple[int, ...],
    ratios: tuple[float, ...],
    then: float | None,
    at_random: bool,
    minutes: float,
    seconds: float,
    backend: str,
    as_json: bool,
) -> None:
    """How busy slots are while agents think. An agent takes A seconds and an evaluation E."""
    where = machine()
    with scratch() as folder:
        table = [
            run(folder, each, seconds, ratio, then, minutes, at_random, backend) for each in slots for ratio in ratios
        ]
    conclude("busy", where, table, as_json, _HEADS)


if __name__ == "__main__":
    main()
