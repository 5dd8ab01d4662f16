"""The benchmarks work and count what they say; how fast this machine is, is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ray import ledger
from autoresearch_ray.board import replay
from autoresearch_ray.events import Closed, Event, Judged, Measured, Ordered, Seated
from autoresearch_ray.model import (
    Attempt,
    Failure,
    FailureKind,
    Measurement,
    Propose,
    Remeasure,
    Seat,
    Status,
    Stop,
    Usage,
)
from benchmarks import Row, busy
from benchmarks.board import play
from benchmarks.overhead import steady
from benchmarks.peers.__main__ import spans


@pytest.fixture
def traces() -> Iterator[Path]:
    """The folder that a benchmark works in; it is empty again afterwards. Ray needs a short path."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


def bench(name: str, traces: Path, *arguments: str) -> dict[str, Any]:
    """The document that a benchmark prints. It may miss its targets here, where other work runs beside it."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--json", *arguments],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "RAY_TMPDIR": str(traces)},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) is document["met"]
    assert document["met"] is all(each["met"] is not False for each in document["rows"])
    assert document["benchmark"] == name
    assert document["machine"]["cores"] >= 1
    return document


def test_the_board_benchmark_judges_all_of_its_cpu_together(traces: Path) -> None:
    whole, *parts = bench("board", traces, "--experiments", "200", "--lanes", "4")["rows"]
    assert len(parts) == 3
    assert all(each["seconds"] > 0 and each["target_seconds"] is None for each in parts)
    assert whole["seconds"] == pytest.approx(sum(each["seconds"] for each in parts))
    assert whole["target_seconds"] > 0


@pytest.mark.slow
def test_the_start_benchmark_measures_every_wait(traces: Path) -> None:
    rows = bench("start", traces, "--runs", "1", "--ray-runs", "1", "--experiments", "50")["rows"]
    assert len(rows) == 5
    assert all(0 < each["seconds"] < 60 and each["target_seconds"] > 0 for each in rows)


@pytest.mark.slow
def test_the_overhead_benchmark_judges_the_mean_of_each_policy(traces: Path) -> None:
    short = ("--workers", "2", "--experiments", "8", "--seconds", "0.1", "--policy", "greedy")
    rows = bench("overhead", traces, *short)["rows"]
    assert [each["name"].split(":")[0] for each in rows] == ["greedy"] * len(rows)
    assert [each["target_seconds"] is not None for each in rows] == [True] + [False] * (len(rows) - 1)
    assert all(0 < each["seconds"] < 60 for each in rows)


def test_the_busy_benchmark_gives_a_line_for_each_ratio(traces: Path) -> None:
    short = ("--slots", "2", "--ratio", "0.1", "--ratio", "1", "--seconds", "0.3", "--minutes", "0.1")
    rows = bench("busy", traces, *short, "--backend", "local")["rows"]
    assert [each["ratio"] for each in rows] == ["0.1", "1"]
    assert all(0 < each["whole"] < each["busy"] < 1 and each["experiments"] > 0 for each in rows)
    assert all(each["met"] is (each["busy"] >= each["target"]) for each in rows)


def test_a_benchmark_in_words_names_the_machine_and_the_verdict() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.board", "--experiments", "20", "--lanes", "2"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Python" in done.stdout and "cores" in done.stdout
    assert done.stdout.count("  ok\n") == 1


def test_a_row_meets_its_target_only_below_it() -> None:
    assert Row("a", 0.2, 0.3).met is True
    assert Row("a", 0.3, 0.3).met is False
    assert Row("a", 9.9).met is None


def test_the_played_run_replays_from_its_ledger() -> None:
    game = play(300, 8)
    board = replay(map(ledger.decode, map(ledger.encode, game.lines)))
    assert board.counted == game.board.counted >= 300
    assert board.experiments == game.board.experiments


# --- How busy the slots of a run were --------------------------------------------------------------------------------


def test_a_slot_is_busy_by_what_the_runner_measured_and_only_if_it_was_wanted() -> None:
    filler = Remeasure("a-3", "base", 1, "the agent is failing: meanwhile the best is measured once more")
    lines = [
        [seated("a")],
        [measured("a", 10.0, 4.0), ordered("a", 10.0)],
        [measured("a", 15.0, 4.0, number=2), judged("a", 15.0), Ordered(15.0, "a", filler)],
        [measured("a", 20.0, 4.0, number=3), ordered("a", 20.0)],
        [measured("a", 25.0, None, number=4), judged("a", 25.0)],
        [Closed(26.0, "enough"), ordered("a", 26.0)],
        [measured("a", 28.0, 4.0, number=5), ordered("a", 28.0, stop=True)],
    ]
    reading = busy.read(lines)
    assert (reading.begun, reading.closed) == (6.0, 26.0)
    assert reading.busy_seconds == 4.0 + 4.0 + 2.0  # of the last one, what lies before the end
    assert reading.evaluated_seconds == 12.0
    assert reading.slot_seconds == 20.0
    assert reading.experiments == 2
    assert reading.gaps == (1.0, 9.0)


def test_the_lanes_of_a_slot_share_its_time() -> None:
    lines = [
        [seated("a"), seated("b"), seated("c", worker=1)],
        [measured("a", 10.0, 10.0), measured("c", 12.0, 10.0)],
        [measured("b", 21.0, 10.0), Closed(22.0, "enough")],
    ]
    reading = busy.read(lines)
    assert (reading.slots, reading.gaps, reading.busy_seconds, reading.slot_seconds) == (2, (1.0,), 30.0, 44.0)


def test_a_run_that_measured_nothing_is_not_read() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        busy.read([[seated("a")], [measured("a", 1.0, None)]])


# --- Peers -----------------------------------------------------------------------------------------------------------


def test_a_peers_evaluation_that_was_killed_counts_to_its_end() -> None:
    notes = [["1-1", "begins", 10.0], ["2-2", "begins", 11.0], ["1-1", "ends", 16.0]]
    assert spans(map(json.dumps, notes), 20.0) == [(10.0, 16.0), (11.0, 20.0)]


def test_the_stub_of_a_model_thinks_and_answers_with_another_program_each_time(tmp_path: Path) -> None:
    stub = Path(__file__).parents[1] / "benchmarks" / "peers" / "stub.py"
    with subprocess.Popen([sys.executable, stub, "0.01", "random"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1/chat/completions"
        answers = []
        for _ in range(2):
            with urllib.request.urlopen(urllib.request.Request(url, b'{"messages": []}', method="POST")) as reply:
                answers.append(json.load(reply)["choices"][0]["message"]["content"])
        server.kill()
    assert "X = 1\n" in answers[0] and "X = 2\n" in answers[1]


def test_the_evaluation_of_peers_notes_what_it_did(tmp_path: Path) -> None:
    evaluate = Path(__file__).parents[1] / "benchmarks" / "peers" / "evaluate.py"
    (tmp_path / "program.py").write_text("# EVOLVE-BLOCK-START\nX = 12\n# EVOLVE-BLOCK-END\n")
    environ = {**os.environ, "PEER_SECONDS": "0.2", "PEER_SPANS": str(tmp_path / "spans")}
    words = ["--program_path", str(tmp_path / "program.py"), "--results_dir", str(tmp_path / "results")]
    subprocess.run([sys.executable, evaluate, *words], env=environ, check=True)
    assert json.loads((tmp_path / "results" / "correct.json").read_text())["correct"] is True
    ((begin, end),) = spans((tmp_path / "spans").read_text().splitlines(), 0.0)
    assert end - begin >= 0.2


# --- The steady part of a run ----------------------------------------------------------------------------------------


def seated(lane: str, worker: int = 0) -> Event:
    return Seated(0.0, Seat(lane, worker, "host", 1), 1)


def judged(lane: str, at: float) -> Event:
    return Judged(at, f"{lane}-1", lane, Status.DISCARD, "worse")


def measured(lane: str, at: float, wall_seconds: float | None, agent_seconds: float = 0.0, *, number: int = 1) -> Event:
    failure = Failure(FailureKind.CONFLICT, "in conflict") if wall_seconds is None else None
    measurement = Measurement(None if failure else 1.0, failure, wall_seconds=wall_seconds or 0.0)
    usage = Usage(seconds=agent_seconds)
    return Measured(at, Attempt(f"{lane}-{number}", lane, 1, "propose", "base", None, measurement, usage=usage))


def ordered(lane: str, at: float, *, stop: bool = False) -> Event:
    return Ordered(at, lane, Stop("enough") if stop else Propose(f"{lane}-2", "base", 1))


def test_the_overhead_of_a_turn_is_what_lies_between_two_hand_ins_besides_the_evaluation() -> None:
    lines = [
        [seated("a")],
        [measured("a", 10.0, 2.0), ordered("a", 10.0)],
        [measured("a", 12.5, 2.0, agent_seconds=0.2), ordered("a", 12.5)],
        [measured("a", 12.75, None), ordered("a", 12.75, stop=True)],
    ]
    first, conflict = steady(lines)
    assert (first.overhead_seconds, first.agent_seconds) == (0.5, 0.2)
    assert (conflict.overhead_seconds, conflict.evaluation_seconds) == (0.25, 0.0)


def test_the_steady_part_begins_when_the_last_lane_has_handed_in_and_ends_with_the_first_stop() -> None:
    times = [("a", 10.0), ("a", 13.0), ("b", 14.0), ("a", 16.0), ("b", 17.5), ("a", 19.0), ("b", 21.0)]
    lines = [
        [seated("a"), seated("b")],
        *([measured(lane, at, 2.0)] for lane, at in times),
        [ordered("b", 20.0, stop=True)],
    ]
    assert [each.seconds for each in steady(lines)] == [3.0, 3.5]


def test_a_run_in_which_a_lane_never_handed_in_has_no_steady_part() -> None:
    assert steady([[seated("a"), seated("b")], [measured("a", 1.0, 0.5), ordered("a", 1.0, stop=True)]]) == []
