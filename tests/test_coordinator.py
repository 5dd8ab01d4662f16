"""The desk: what is stored, in which order, and what a late or broken hand-in may not do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_ray import research
from autoresearch_ray.board import replay
from autoresearch_ray.coordinator import Coordinator
from autoresearch_ray.errors import LedgerError
from autoresearch_ray.ledger import Ledger, read
from autoresearch_ray.model import (
    Attempt,
    Failure,
    FailureKind,
    Measurement,
    Propose,
    Remeasure,
    Resumed,
    Seat,
    Stop,
)
from autoresearch_ray.ports import Reply
from autoresearch_ray.store import Candidate, Store
from tests.conftest import Toy


class Lane:
    """One lane by hand: its store, its seat, and what it hands in."""

    def __init__(self, desk: Coordinator, folder: Path, name: str, worker: int) -> None:
        self.desk, self.name = desk, name
        self.welcome = desk.welcome()
        self.store = Store.create(folder, self.welcome.bundle, self.welcome.base)
        self.tree = folder.with_name(f"{folder.name}-tree")
        self.sitting, self.reply = desk.sit(Seat(name, worker, "host", 1))

    def made(self, text: str) -> Candidate:
        order = self.reply.order
        assert isinstance(order, Propose)
        for bundle in self.reply.bundles:
            self.store.unpack(bundle)
        self.store.stand(self.tree, order.parent)
        (self.tree / "train.py").write_text(text)
        made = self.store.commit(self.tree, order.parent, text, self.welcome.program.scope, "", order.id)
        assert isinstance(made, Candidate)
        return made

    def attempt(self, value: float, made: Candidate | None = None) -> tuple[Attempt, bytes]:
        order = self.reply.order
        assert not isinstance(order, Stop)
        parent = order.commit if isinstance(order, Remeasure) else order.parent
        commit, line = (made.commit, made.line) if made else (parent, ())
        attempt = Attempt(
            order.id,
            self.name,
            self.sitting,
            order.kind,
            parent,
            commit,
            Measurement(value, wall_seconds=1.0),
            "",
            line,
        )
        return attempt, self.store.pack(commit, [parent]) if made else b""

    def hand_in(self, attempt: Attempt, bundle: bytes, log: bytes = b"") -> Reply:
        number = attempt.id.rpartition("-")[2]
        self.reply = self.desk.submit(attempt, bundle, {f"{number}.log": log})
        return self.reply


@pytest.fixture
def run_folder(toy: Toy) -> Path:
    """A run that was begun, stopped at once and has no driver."""
    with research(toy.program(more="experiments: 50")):
        pass
    return toy.run_folder()


def lane(desk: Coordinator, tmp_path: Path, name: str = "gpu7", worker: int = 7) -> Lane:
    return Lane(desk, tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}", name, worker)


def calibrated(desk: Coordinator, tmp_path: Path) -> Lane:
    """A lane that has measured the baseline and is to propose."""
    one = lane(desk, tmp_path)
    while isinstance(one.reply.order, Remeasure):
        one.hand_in(*one.attempt(1.0))
    return one


@pytest.fixture
def desk(run_folder: Path) -> Iterator[Coordinator]:
    """The run taken up again, by hand."""
    writer = Ledger(run_folder / "ledger.jsonl")
    writer.append([Resumed(2e9, replay(read(run_folder / "ledger.jsonl")).program, "0")])
    writer.close()
    desk = Coordinator(run_folder, clock=lambda: 2e9)
    yield desk
    desk.leave()


def test_a_commit_is_in_the_hub_and_its_log_in_the_folder_before_the_ledger_names_them(
    desk: Coordinator, run_folder: Path, toy: Toy, tmp_path: Path
) -> None:
    one = calibrated(desk, tmp_path)
    made = one.made("LR = 2\n")
    attempt, bundle = one.attempt(0.5, made)
    one.hand_in(attempt, bundle, b"the log")
    assert toy.git("--git-dir", str(run_folder / "hub.git"), "cat-file", "-t", made.commit) == "commit"
    assert (run_folder / "logs" / "gpu7" / f"{attempt.id.rpartition('-')[2]}.log").read_bytes() == b"the log"


def test_a_late_hand_in_of_an_earlier_sitting_changes_nothing_at_all(
    desk: Coordinator, run_folder: Path, toy: Toy, tmp_path: Path
) -> None:
    old = calibrated(desk, tmp_path)
    late, bundle = old.attempt(0.1, old.made("LR = 2\n"))
    new = lane(desk, tmp_path)
    accepted, _ = new.attempt(2.0, new.made("LR = 3\n"))
    new.hand_in(accepted, new.store.pack(accepted.commit or "", [accepted.parent]), b"accepted")
    before = (run_folder / "ledger.jsonl").read_bytes()
    number = accepted.id.rpartition("-")[2]
    assert isinstance(old.hand_in(late, bundle, b"late").order, Stop)
    assert (run_folder / "ledger.jsonl").read_bytes() == before
    assert (run_folder / "logs" / "gpu7" / f"{number}.log").read_bytes() == b"accepted"
    ref = toy.git("--git-dir", str(run_folder / "hub.git"), "rev-parse", f"refs/attempts/gpu7/{number}")
    assert ref == accepted.commit
    new.made("LR = 4\n")  # and its next order comes with all that it needs


def test_after_a_fault_of_its_machine_a_lane_is_sent_everything_again(
    desk: Coordinator, run_folder: Path, toy: Toy, tmp_path: Path
) -> None:
    one = calibrated(desk, tmp_path)
    for _ in range(2):
        one.hand_in(*one.attempt(0.5, one.made("LR = 2\n") if isinstance(one.reply.order, Propose) else None))
    order = one.reply.order
    assert isinstance(order, Propose) and order.parent != one.welcome.base and not one.reply.bundles
    attempt, _ = one.attempt(0.5)
    broken = Measurement(None, Failure(FailureKind.MACHINE, "the disk is full"))
    fault = Attempt(attempt.id, one.name, one.sitting, "propose", order.parent, None, broken)
    assert one.hand_in(fault, b"").bundles


def test_what_cannot_be_stored_is_an_error_for_all_and_nothing_is_counted(
    desk: Coordinator, run_folder: Path, toy: Toy, tmp_path: Path
) -> None:
    one = calibrated(desk, tmp_path)
    attempt, bundle = one.attempt(0.5, one.made("LR = 2\n"))
    before = (run_folder / "ledger.jsonl").read_bytes()
    with pytest.raises(LedgerError, match="hub"):
        one.hand_in(attempt, bundle[:-30])
    assert (run_folder / "ledger.jsonl").read_bytes() == before
    assert not isinstance(one.hand_in(attempt, bundle).order, Stop)
