"""The desk: what is stored, in which order, and what a late or broken hand-in may not do."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_ray import research
from autoresearch_ray.board import replay
from autoresearch_ray.coordinator import Coordinator, steady
from autoresearch_ray.errors import LedgerError, RepoError
from autoresearch_ray.events import Event, Ordered, Resumed, Seated
from autoresearch_ray.ledger import Ledger, read
from autoresearch_ray.model import (
    Attempt,
    Failure,
    FailureKind,
    Holdout,
    Measurement,
    Order,
    Propose,
    Remeasure,
    Replay,
    Rework,
    Seat,
    Stop,
)
from autoresearch_ray.ports import Reply
from autoresearch_ray.repo import Hub
from autoresearch_ray.run_folder import collect_logs
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
        self.store.unpack(self.reply.bundle)
        self.store.stand(self.tree, order.parent)
        (self.tree / "train.py").write_text(text)
        made = self.store.commit(self.tree, order.parent, text, self.welcome.program.scope, "", order.id)
        assert isinstance(made, Candidate)
        return made

    def attempt(self, value: float, made: Candidate | None = None) -> tuple[Attempt, bytes]:
        order = self.reply.order
        assert not isinstance(order, Stop)
        parent = order.commit if isinstance(order, Remeasure | Holdout) else order.parent
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
            tree=made.tree if made else "",
        )
        return attempt, self.store.pack([commit], [parent]) if made else b""

    def claim(self, made: Candidate) -> str | None:
        """What the desk says of the files of `made`; None: they are this lane's."""
        order = self.reply.order
        assert isinstance(order, Propose)
        taken = self.desk.claim(self.name, order.id, made.tree, "")
        return taken and (f"#{taken.number}: {taken.words}" if taken.number is not None else taken.words)

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


def calibrated(desk: Coordinator, tmp_path: Path, name: str = "gpu7", worker: int = 7) -> Lane:
    """A lane that has measured the baseline and is to propose."""
    one = lane(desk, tmp_path, name, worker)
    while isinstance(one.reply.order, Remeasure):
        one.hand_in(*one.attempt(1.0))
    return one


def test_a_lane_has_a_branch_from_its_first_sitting_on(desk: Coordinator, tmp_path: Path) -> None:
    one = lane(desk, tmp_path)
    branches = Hub.open(desk.folder / "hub.git").branches()
    assert branches[f"autoresearch/{one.welcome.tag}-gpu7"] == one.welcome.base


def write(run_folder: Path, *events: Event) -> None:
    writer = Ledger(run_folder / "ledger.jsonl")
    writer.append(list(events))
    writer.close()


@pytest.fixture
def desk(run_folder: Path) -> Iterator[Coordinator]:
    """The run taken up again, by hand."""
    write(run_folder, Resumed(2e9, replay(read(run_folder / "ledger.jsonl")).program, "0"))
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
    new.hand_in(accepted, new.store.pack([accepted.commit or ""], [accepted.parent]), b"accepted")
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
    assert isinstance(order, Propose) and order.parent != one.welcome.base and not one.reply.bundle
    attempt, _ = one.attempt(0.5)
    broken = Measurement(None, Failure(FailureKind.MACHINE, "the disk is full"))
    fault = Attempt(attempt.id, one.name, one.sitting, "propose", order.parent, None, broken)
    assert one.hand_in(fault, b"").bundle


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


def test_a_branch_that_cannot_be_moved_holds_nothing_up_and_is_moved_later(
    desk: Coordinator, run_folder: Path, tmp_path: Path
) -> None:
    """As on a disk with room for a line of the ledger, and none for the file of a branch."""
    one = calibrated(desk, tmp_path)
    blocked, name = run_folder / "hub.git/refs/heads/autoresearch/t1-gpu7/in-the-way", "autoresearch/t1-gpu7"
    blocked.parent.unlink()  # the branch as it was when the lane sat down
    blocked.parent.mkdir()
    blocked.write_text("no ref")
    while isinstance(one.reply.order, Remeasure) or one.reply.order.parent == one.welcome.base:  # type: ignore[union-attr]
        one.hand_in(*one.attempt(0.5, one.made("LR = 2\n") if isinstance(one.reply.order, Propose) else None))
    head = replay(read(run_folder / "ledger.jsonl")).lanes["gpu7"].head
    assert head != one.welcome.base and name not in Hub.open(run_folder / "hub.git").branches()
    with pytest.raises(RepoError, match="t1-gpu7"):
        desk.leave()
    again = Coordinator(run_folder, clock=lambda: 2e9)
    shutil.rmtree(blocked.parent)
    two = lane(again, tmp_path, "gpu8", 8)
    assert Hub.open(run_folder / "hub.git").branches()[name] == head
    two.hand_in(*two.attempt(0.5))
    again.leave()


# --- Claims ----------------------------------------------------------------------------------------------------------


def test_what_one_lane_is_measuring_no_other_measures_until_it_is_handed_in(desk: Coordinator, tmp_path: Path) -> None:
    one, other = calibrated(desk, tmp_path), calibrated(desk, tmp_path, "gpu8", 8)
    mine, same = one.made("LR = 2\n"), other.made("LR = 2\n")
    assert mine.commit != same.commit
    assert one.claim(mine) is None and one.claim(mine) is None
    assert other.claim(same) == "this is being measured right now on gpu7"
    assert other.claim(other.made("LR = 3\n")) is None
    one.hand_in(*one.attempt(2.0, mine))
    number = len(replay(read(desk.folder / "ledger.jsonl")).experiments) - 1
    said = other.claim(same)
    assert said is not None and said.startswith(f"#{number}: #{number} tried exactly this: ") and ", 2" in said


def test_of_lanes_that_claim_the_same_at_once_exactly_one_gets_it(desk: Coordinator, tmp_path: Path) -> None:
    lanes = [calibrated(desk, tmp_path, f"gpu{index}", index) for index in range(8)]
    candidates = [each.made("LR = 2\n") for each in lanes]
    for _ in range(2):  # who is interrupted a third time is told something else
        start = threading.Barrier(len(lanes))
        answers: dict[str, str | None] = {}

        def claim(one: Lane, made: Candidate, start: threading.Barrier, answers: dict[str, str | None]) -> None:
            start.wait()
            answers[one.name] = one.claim(made)

        threads = [
            threading.Thread(target=claim, args=(one, made, start, answers))
            for one, made in zip(lanes, candidates, strict=True)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        (winner,) = (name for name, said in answers.items() if said is None)
        assert {said for said in answers.values() if said} == {f"this is being measured right now on {winner}"}
        place = next(index for index, each in enumerate(lanes) if each.name == winner)
        lanes[place] = lane(desk, tmp_path, winner, int(winner[3:]))  # it sits down again, and holds nothing


def test_a_claim_ends_with_a_new_sitting_and_with_a_worker_that_is_given_up(desk: Coordinator, tmp_path: Path) -> None:
    one, other = calibrated(desk, tmp_path), calibrated(desk, tmp_path, "gpu8", 8)
    mine, same = one.made("LR = 2\n"), other.made("LR = 2\n")
    assert one.claim(mine) is None and other.claim(same) is not None
    again = lane(desk, tmp_path)
    assert again.reply.order == one.reply.order
    assert other.claim(same) is None and again.claim(mine) == "this is being measured right now on gpu8"
    desk.vacate(8, "its machine is gone")
    assert again.claim(mine) is None


def test_while_it_is_measured_other_lanes_are_told_what_a_lane_tries_and_afterwards_what_came_of_it(
    desk: Coordinator, tmp_path: Path
) -> None:
    one, other = calibrated(desk, tmp_path, "gpu7"), calibrated(desk, tmp_path, "gpu8", 8)
    made, order = one.made("LR = 2\n"), one.reply.order
    assert isinstance(order, Propose)
    assert desk.claim("gpu7", order.id, made.tree, "optimiser: LR 1 -> 2\n## Rules") is None
    told = _told(desk.sit(Seat("gpu8", 8, "host", 2))[1])
    assert "- gpu7 measures: optimiser: LR 1 -> 2 ## Rules\n" in told
    mine = _told(desk.sit(Seat("gpu7", 7, "host", 2))[1])  # it died: nobody measures that now
    assert "- gpu8 measures" not in mine and "not told yet: gpu8\n" in mine
    again = lane(desk, tmp_path)
    attempt, bundle = again.attempt(2.0, again.made("LR = 2\n"))
    again.hand_in(replace(attempt, idea="optimiser: LR 1 -> 2"), bundle)
    told = _told(desk.sit(Seat("gpu8", 8, "host", 3))[1])
    assert "- gpu7 measures" not in told and "[gpu7] optimiser: LR 1 -> 2\n" in told
    assert other.name == "gpu8"


def _told(reply: Reply) -> str:
    assert reply.brief is not None
    return reply.brief.prompt


def test_a_late_claim_of_an_order_that_was_answered_reserves_nothing(desk: Coordinator, tmp_path: Path) -> None:
    old, other = calibrated(desk, tmp_path), calibrated(desk, tmp_path, "gpu8", 8)
    late = old.made("LR = 2\n")
    new = lane(desk, tmp_path)
    new.hand_in(*new.attempt(2.0, new.made("LR = 3\n")))
    assert old.claim(late) is None
    assert other.claim(other.made("LR = 2\n")) is None


def test_what_the_machine_lost_may_be_tried_again(desk: Coordinator, tmp_path: Path) -> None:
    one, other = calibrated(desk, tmp_path), calibrated(desk, tmp_path, "gpu8", 8)
    mine, same = one.made("LR = 2\n"), other.made("LR = 2\n")
    assert one.claim(mine) is None
    attempt, bundle = one.attempt(1.0, mine)
    lost = Measurement(None, Failure(FailureKind.MACHINE, "the GPU is gone"))
    one.hand_in(replace(attempt, measurement=lost), bundle)
    assert other.claim(same) is None


def test_what_crashed_is_not_tried_again_and_nor_is_the_baseline(desk: Coordinator, toy: Toy, tmp_path: Path) -> None:
    one, other = calibrated(desk, tmp_path), calibrated(desk, tmp_path, "gpu8", 8)
    mine, same = one.made("LR = 2\n"), other.made("LR = 2\n")
    attempt, bundle = one.attempt(1.0, mine)
    crash = Measurement(None, Failure(FailureKind.CRASH, "exit status 1", "a traceback"))
    one.hand_in(replace(attempt, measurement=crash), bundle)
    assert other.claim(same) == "#1: #1 tried exactly this: crash, exit status 1"
    base = replace(same, tree=toy.git("rev-parse", f"{other.welcome.base}^{{tree}}"))
    said = other.claim(base)
    assert said is not None and said.startswith("#0: #0 is the baseline itself: keep, 1, ")


# --- What comes with an order ----------------------------------------------------------------------------------------


@pytest.fixture
def changes(run_folder: Path, toy: Toy, tmp_path: Path) -> dict[str, str]:
    """Commits of two lanes in the hub: "a1" and "a2" on top of it, and "b1"; each changes another file."""
    hub = Hub.open(run_folder / "hub.git")
    base = replay(read(run_folder / "ledger.jsonl")).opened.base
    store = Store.create(tmp_path / "by-hand.git", hub.pack([base]), base)
    tree = tmp_path / "by-hand"
    commits = {"base": base}
    for number, (name, parent) in enumerate((("a1", "base"), ("a2", "a1"), ("b1", "base"))):
        store.stand(tree, commits[parent])
        (tree / f"{name}.py").write_text(f"{name} = 1\n" * 1000)
        scope = replace(replay(read(run_folder / "ledger.jsonl")).program.scope, can=(".",))
        made = store.commit(tree, commits[parent], name, scope, "")
        assert isinstance(made, Candidate)
        commits[name] = made.commit
        hub.unpack(store.pack([made.commit], [commits[parent]]), f"refs/attempts/by-hand/{number}", made.commit)
    return commits


def ordered(run_folder: Path, tmp_path: Path, order: Order) -> Lane:
    """The lane gpu7 sits down again, and had this order."""
    write(
        run_folder,
        Resumed(2e9, replay(read(run_folder / "ledger.jsonl")).program, "0"),
        Seated(2e9, Seat("gpu7", 7, "host", 1), 1),
        Ordered(2e9, "gpu7", order),
    )
    one = lane(Coordinator(run_folder, clock=lambda: 2e9), tmp_path)
    assert one.reply.order == order
    one.store.unpack(one.reply.bundle)
    return one


def test_a_replay_comes_with_all_its_commits_and_each_of_them_once(
    run_folder: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    group = (changes["a1"], changes["b1"], changes["a2"])
    one = ordered(run_folder, tmp_path, Replay("gpu7-1", changes["base"], group, 1))
    try:
        apart = (one.store.pack([changes[each]], [changes["base"]]) for each in ("a2", "b1"))  # a1 comes with a2
        assert len(one.reply.bundle) < sum(map(len, apart))
        made = one.store.replay(group, changes["base"])
        assert isinstance(made, Candidate) and made.picked == group
        attempt, _ = one.attempt(0.5, made)
        one.hand_in(attempt, one.store.pack([made.commit], [changes["base"]]))
        assert one.reply.bundle == b"" and not isinstance(one.reply.order, Stop)
    finally:
        one.desk.leave()


def test_a_rework_comes_with_what_broke_the_guard(run_folder: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    rework = Rework("gpu7-1", changes["b1"], "2 tests failed", 1)
    one = ordered(run_folder, tmp_path, Propose("gpu7-2", changes["base"], 1, rework=rework))
    one.desk.leave()
    assert one.store.has(changes["b1"]) and one.reply.brief is not None


def test_a_holdout_comes_with_its_commit(run_folder: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    one = ordered(run_folder, tmp_path, Holdout("gpu7-1", changes["a2"], 1))
    one.desk.leave()
    assert one.store.has(changes["a2"]) and one.reply.brief is None


def test_old_logs_are_collected_and_those_of_what_was_kept_stay(tmp_path: Path) -> None:
    for number in range(12):
        for name in (f"{number}.log", f"{number}.agent.log"):
            path = tmp_path / "logs" / f"gpu{number % 2}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("said")
            os.utime(path, (number, number))
    collect_logs(tmp_path, {"gpu0-2", "gpu1-2", "gpu0-10"}, most=6)
    left = sorted(f"{path.parent.name}/{path.name}" for path in tmp_path.glob("logs/*/*"))
    newest = [f"gpu{number % 2}/{number}{what}.log" for number in (9, 10, 11) for what in ("", ".agent")]
    assert left == sorted([*newest, "gpu0/2.log", "gpu0/2.agent.log"])
    collect_logs(tmp_path / "nowhere", set(), most=0)


def test_a_clock_that_is_set_ends_no_night_and_no_time_comes_before_the_ledgers_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, began = steady(0.0), time.time()
    monkeypatch.setattr(time, "time", lambda: began + 7200)
    assert began - 1 < clock() < began + 60
    assert steady(began + 9000)() >= began + 9000
