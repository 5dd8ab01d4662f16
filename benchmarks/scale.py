"""Many slots on one machine: what the coordinator costs, how long a hand-in waits, and the memory of a lane.

Logical GPUs of a local Ray and evaluations that sleep, so that only the engine works. Evaluations begin spread over
their first length, as they are on real machines after the first minutes.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil

from autoresearch_ray import ledger, research
from autoresearch_ray.events import Event, Measured
from benchmarks import machine, project, scratch
from benchmarks.soak import Look, look

_CORE, _REPLY_SECONDS, _LANE_MB = 0.05, 0.05, 60.0  # targets


@dataclass(frozen=True, slots=True)
class Scale:
    """What was measured of so many slots."""

    slots: int
    seconds: float  # of an evaluation
    minutes: float  # measured, once every slot had handed in
    lanes: int
    hand_ins: int
    core: float  # that the coordinator used
    reply_99: float  # seconds from a hand-in to its reply, at the 99th percentile
    reply_median: float
    lane_mb: float  # of the teams, beyond one that holds nothing, by lane
    guardian_mb: float  # and of what guards the evaluations, by lane
    team_mb: float  # all of it
    processes: int  # of workers

    @property
    def met(self) -> bool:
        return self.core < _CORE and self.reply_99 < _REPLY_SECONDS and self.lane_mb + self.guardian_mb < _LANE_MB


def replies(lines: Iterable[Iterable[Event]], since: float) -> list[float]:
    """Seconds from a hand-in to its reply, sorted; those of hand-ins after `since`."""
    return sorted(
        each.attempt.reply_seconds
        for line in lines
        for each in line
        if isinstance(each, Measured) and each.at >= since and each.attempt.reply_seconds is not None
    )


def percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def used(looks: Sequence[Look], role: str) -> float:
    """The share of a core that a process used between the first and the last look."""
    mine = [each for each in looks if each.role == role]
    return (mine[-1].cpu_seconds - mine[0].cpu_seconds) / (mine[-1].at - mine[0].at)


def guardians() -> float:
    """PSS in MB of what stands between this run's workers and their evaluations."""
    total = 0.0
    for each in psutil.process_iter():
        try:
            if "from guardian import main" in " ".join(each.cmdline()):
                total += each.memory_full_info().pss / 2**20
        except psutil.Error:
            continue  # it has just ended
    return total


def run(folder: Path, slots: int, seconds: float, minutes: float) -> Scale:
    import ray

    ray.init(
        address="local", num_cpus=2, num_gpus=slots, include_dashboard=False, object_store_memory=200 << 20,
        log_to_driver=False, logging_level="ERROR", _temp_dir=str(folder / "ray"),
    )  # fmt: skip
    try:
        lanes = [f"gpu{index}" for index in range(slots)]
        # An evaluation takes its time within a quarter: what began together does not end together.
        spread = f"sleep $((({seconds:.0f} * 7 / 8) + AUTORESEARCH_SEED % ({seconds:.0f} / 4)))"
        command = f"{spread}; echo loss: 0.$(printf %010d $AUTORESEARCH_SEED)"
        repository = project(folder, command, f"workers: {slots}", lanes, 400)
        with research(repository, gpus_per_worker=1, lanes=1, monitor="none", agent="scripted") as session:
            empty = _team(look(psutil.Process().pid, 0))
            while session.board.attempts < 2 * slots:
                session.advance()
            since, begun, looks = time.time(), time.monotonic(), list[Look]()
            while time.monotonic() < begun + 60 * minutes:
                looks += look(psutil.Process().pid, session.board.counted)
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline:
                    session.advance()
            lanes_now, between, teams = len(session.board.lanes), guardians(), _team(looks)
            processes = len([each for each in looks if each.role == "team" and each.at == looks[-1].at])
            session.stop("measured", now=True)
        waited = replies(ledger.read(repository / ".autoresearch" / "bench" / "ledger.jsonl"), since)
    finally:
        ray.shutdown()
    return Scale(
        slots=slots,
        seconds=seconds,
        minutes=minutes,
        lanes=lanes_now,
        hand_ins=len(waited),
        core=used(looks, "coordinator"),
        reply_99=percentile(waited, 0.99),
        reply_median=statistics.median(waited),
        lane_mb=(teams - empty) / lanes_now,
        guardian_mb=between / lanes_now,
        team_mb=teams,
        processes=processes,
    )


def _team(looks: Sequence[Look]) -> float:
    """PSS in MB of all teams at the latest look."""
    teams = [each for each in looks if each.role == "team"]
    return sum(each.pss_mb for each in teams if each.at == teams[-1].at) if teams else 0.0


@click.command()
@click.option("--slots", "many", multiple=True, type=int, default=(64, 256), show_default=True)
@click.option("--seconds", "lengths", multiple=True, type=click.FloatRange(4), default=(60.0, 300.0), show_default=True)
@click.option("--minutes", default=5.0, show_default=True, help="Of measuring, once every slot has handed in twice.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(many: Sequence[int], lengths: Sequence[float], minutes: float, as_json: bool) -> None:
    """What many slots cost their coordinator, and the memory of a lane."""
    where, rows = machine(), []
    for slots in many:
        for seconds in lengths:
            with scratch() as folder:
                rows.append(run(folder, slots, seconds, minutes))
    if as_json:
        print(json.dumps({"benchmark": "scale", "machine": where, "rows": [asdict(each) for each in rows]}))
        return
    print(f"scale, {where['cores']} cores, Ray {where['ray']}; targets: under {100 * _CORE:g} % of a core,")
    print(f"a reply in {1000 * _REPLY_SECONDS:g} ms at the 99th percentile, {_LANE_MB:g} MB for each lane")
    print("  slots  evaluation  hand-ins  core   reply: median, 99 %   MB of a lane, of its guardian   processes")
    for each in rows:
        print(
            f"  {each.slots:5}  {each.seconds:8.0f} s  {each.hand_ins:8}  {100 * each.core:3.1f} %"
            f"  {1000 * each.reply_median:6.0f} ms {1000 * each.reply_99:6.0f} ms"
            f"  {each.lane_mb:8.1f} {each.guardian_mb:8.1f}  {each.processes:12}  {'ok' if each.met else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
