"""Where the time of whole runs went, against stamps that the evaluations and the agents themselves have left."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoresearch_ray import research
from autoresearch_ray.account import Part, parts
from autoresearch_ray.board import Board
from autoresearch_ray.model import Use
from autoresearch_ray.run_folder import replayed
from tests.conftest import Toy

STAMPED = """\
begun=$(date +%s.%N)
{what}
echo $begun $(date +%s.%N) >> {log}
"""
EDIT = "sed -i \"s/WIDTH = .*/WIDTH = 30 + 0 * len('$AUTORESEARCH_EXPERIMENT')/\" train.py"


@dataclass
class Stamps:
    """A toy whose evaluations and agents take some time, and write down how long they took."""

    toy: Toy
    folder: Path

    def program(self, experiments: int, evaluation: str = "sleep 0.5", lanes: int = 1, backend: str = "local") -> Path:
        for name, what in (("evaluation", f"{evaluation}; python train.py"), ("agent", f"sleep 0.3; {EDIT}")):
            (self.folder / f"{name}.sh").write_text(STAMPED.format(what=what, log=self.folder / name))
        return self.toy.program(
            agent="command",
            lanes=lanes,
            backend=backend,
            command=f"sh {self.folder}/evaluation.sh",
            more=f"experiments: {experiments}\nagent_command: sh {self.folder}/agent.sh",
        )

    def seconds(self, name: str) -> float:
        """All that was stamped, together."""
        spans = (map(float, line.split()) for line in (self.folder / name).read_text().splitlines())
        return sum(end - begun for begun, end in spans)

    def session(self, began: str) -> float:
        """The wall clock of one session, by the files: from when `began` was made to the last line of the ledger."""
        run = self.toy.run_folder()
        return (run / "ledger.jsonl").stat().st_mtime - (run / began).stat().st_mtime


@pytest.fixture
def stamps(toy: Toy, tmp_path: Path) -> Stamps:
    return Stamps(toy, tmp_path)


def spent(board: Board) -> dict[Use, float]:
    return board.account.seconds(board.last_at)


def measuring(board: Board) -> float:
    return sum(parts(spent(board))[Part.MEASURING].values())


def adds_up(board: Board, wall: float) -> None:
    """All slots together to the wall clock, and each to its own, to the hundredth part."""
    slots = board.account.slots.values()
    assert sum(spent(board).values()) == pytest.approx(len(slots) * wall, rel=0.01)
    for slot in slots:
        assert sum(slot.seconds(board.last_at).values()) == pytest.approx(wall, rel=0.01)


def test_lanes_that_overlap_use_no_second_twice(stamps: Stamps) -> None:
    with research(stamps.program(5, lanes=2)) as session:
        list(session)
    board = replayed(stamps.toy.run_folder() / "ledger.jsonl")
    assert board.account.slots == session.board.account.slots and len(board.account.slots) == 2
    adds_up(board, stamps.session("driver.lock"))
    told = spent(board)
    assert measuring(board) >= stamps.seconds("evaluation")
    assert {Use.CANDIDATES, Use.BASELINES, Use.TREES, Use.SETUP, Use.STARTING} <= told.keys()
    assert told.keys().isdisjoint({Use.LOST, Use.DIED, Use.UNREPORTED})
    assert told.get(Use.AGENT, 0.0) < stamps.seconds("agent")  # while one thought, the other one was measured


def test_a_run_that_was_interrupted_tells_what_was_lost_and_not_how_long_it_lay_stopped(stamps: Stamps) -> None:
    seconds = stamps.folder / "seconds"
    seconds.write_text("60")
    begun = stamps.folder / "begun"
    program = stamps.program(3, evaluation=f"touch {begun}-$AUTORESEARCH_LANE; sleep $(cat {seconds})")
    opened = time.time()
    with research(program) as session:
        # Long enough that a hundredth of it is more than what a busy machine takes to start a process.
        while session.advance() and (len(list(stamps.folder.glob("begun-*"))) < 2 or time.time() < opened + 4):
            pass
        interrupted = time.time()
        session.stop(now=True)
        session.wait()
    first, board = stamps.session("driver.lock"), session.board
    adds_up(board, first)
    ran = sum(interrupted - each.stat().st_mtime for each in stamps.folder.glob("begun-*"))
    assert ran <= spent(board)[Use.LOST] == measuring(board)
    seconds.write_text("0.2")
    with research(program) as session:
        list(session)
    adds_up(session.board, first + stamps.session("driver.json"))
    again = spent(session.board)
    assert again[Use.LOST] == spent(board)[Use.LOST] and again[Use.BASELINES] > 0


@pytest.mark.slow
def test_over_ray_every_second_is_told_and_a_worker_that_was_killed_is_down(stamps: Stamps) -> None:
    with research(stamps.program(4, backend="ray")) as session:
        killed = 0.0
        while session.advance():
            if not killed and session.board.attempts >= 3:
                killed = time.time()
                os.kill(session.board.lanes["cpu0"].seat.pid, signal.SIGKILL)
    board = session.board
    adds_up(board, stamps.session("driver.lock"))
    told = spent(board)
    assert killed and told[Use.DIED] > 0 and Use.UNREPORTED not in told
    assert min(told[Use.AGENT], told[Use.COORDINATOR], told[Use.CANDIDATES]) > 0
    assert measuring(board) + told[Use.DIED] >= stamps.seconds("evaluation")
    assert told[Use.AGENT] + told[Use.DIED] >= stamps.seconds("agent")
