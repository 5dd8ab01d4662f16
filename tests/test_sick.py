"""A device that is sick, busy or not given back: what is waited for, what is taken out, what becomes of its work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from autoresearch_ray import checkup, ledger, orders, research
from autoresearch_ray.board import Board, replay
from autoresearch_ray.checkup import Checkup
from autoresearch_ray.cli import main
from autoresearch_ray.cli.live import Lines
from autoresearch_ray.cli.screen import screen
from autoresearch_ray.errors import SetupError
from autoresearch_ray.events import Event, Measured, Paused, Retired, Unpaused
from autoresearch_ray.model import Failure, FailureKind, Measurement, Propose, Remeasure, Replay, Status, Stop
from autoresearch_ray.monitors.none import NoMonitor
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.ports import Monitor, Trouble
from autoresearch_ray.report import markdown
from tests.conftest import Toy, counted_at_the_limit
from tests.game import Game, events
from tests.runs import Run, write
from tests.test_monitors import DEVICE, described
from tests.test_monitors import build as build
from tests.test_monitors import library as library
from tests.test_ray import cluster as cluster
from tests.test_session import RUN

SICK = Failure(FailureKind.MACHINE, "GPU 0: Xid 79: fallen off the bus", fatal=True)
BROKEN = Failure(FailureKind.MACHINE, "No space left on device")


def lost(failure: Failure = SICK) -> Measurement:
    return Measurement(None, failure)


def value(number: float) -> Measurement:
    return Measurement(number)


# --- The checkup -----------------------------------------------------------------------------------------------------


class Scripted(NoMonitor):
    """Tells one trouble after another, a `tick` of seconds apart, and then the last one for ever."""

    def __init__(self, *troubles: Trouble | None, tick: float = 1.0) -> None:
        super().__init__(("0",))
        self.troubles = list(troubles)
        self.tick = tick
        self.now = 0.0

    def trouble(self, alone: bool) -> Trouble | None:  # type: ignore[override]
        self.now += self.tick
        return self.troubles.pop(0) if len(self.troubles) > 1 else self.troubles[0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once, and whoever waits says so at once."""
    monkeypatch.setattr(checkup, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(checkup, "_QUIET_SECONDS", 0.0)


BUSY = Trouble("busy", "process 42 (python, 8,192 MB) on GPU 0")
UNSETTLED = Trouble("unsettled", "8,000 MB that were not given back on GPU 0")


def looked(monitor: Scripted, desk: list[str], *, worth: bool = True) -> Failure | None:
    def pause(reason: str) -> bool:
        desk.append(reason)
        return worth

    return Checkup(True, pause, lambda: monitor.now).before(monitor, threading.Event())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_LOOK_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_what_is_over_in_a_moment_is_waited_for_and_nobody_hears_of_it() -> None:
    desk: list[str] = []
    assert looked(Scripted(UNSETTLED, BUSY, UNSETTLED, None), desk) is None
    assert desk == []


@pytest.mark.usefixtures("at_once")
def test_a_slot_in_other_hands_is_paused_until_they_are_gone() -> None:
    desk: list[str] = []
    assert looked(Scripted(*[BUSY] * 100, None, tick=60.0), desk) is None
    assert set(desk[:-1]) == {BUSY.words} and desk[-1] == ""


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("trouble", "seconds"), [(UNSETTLED, 60), (BUSY, 12 * 3600)])
def test_waiting_has_an_end_and_then_the_slot_is_given_up(trouble: Trouble, seconds: int) -> None:
    monitor, desk = Scripted(trouble, tick=seconds / 20), list[str]()
    failure = looked(monitor, desk)
    assert failure == Failure(FailureKind.MACHINE, f"still so after {seconds} s: {trouble.words}", fatal=True)
    assert desk and "" not in desk


@pytest.mark.usefixtures("at_once")
def test_one_trouble_after_another_is_each_waited_for() -> None:
    monitor = Scripted(*[UNSETTLED] * 3, *[BUSY] * 50, *[UNSETTLED] * 5, None, tick=5.0)
    assert looked(monitor, []) is None


def test_what_is_sick_is_given_up_at_once_before_and_after_an_evaluation() -> None:
    monitor = Scripted(Trouble("sick", SICK.message))
    assert looked(monitor, []) == SICK == Checkup().after(monitor)


def test_what_is_busy_after_an_evaluation_is_nobodys_fault() -> None:
    assert Checkup().after(Scripted(BUSY)) is None


@pytest.mark.usefixtures("at_once")
def test_a_slot_is_not_waited_for_when_the_run_is_over() -> None:
    desk: list[str] = []
    failure = looked(Scripted(BUSY), desk, worth=False)
    assert failure == Failure(FailureKind.MACHINE, f"the slot was paused until the run ended: {BUSY.words}")
    assert len(desk) == 1


def test_a_drain_ends_the_wait() -> None:
    drain = threading.Event()
    drain.set()
    assert Checkup().before(Scripted(BUSY), drain) is None


# --- What is decided -------------------------------------------------------------------------------------------------


def begun(slots: int = 2, **words: object) -> Game:
    """The base is known on every slot."""
    game = Game.of(slots, **words)  # type: ignore[arg-type]
    for lane in list(game.orders):
        game.turn(lane)
    return game


def test_a_sick_device_takes_its_slot_out_and_the_run_goes_on_elsewhere() -> None:
    game = begun(3, experiments=12)
    game.sit("gpu0b", 0)
    order = game.turn("gpu0", lost())
    assert isinstance(order, Stop) and "Xid 79" in order.reason
    assert game.board.retired[0].reason == SICK.message
    assert isinstance(game.turn("gpu0b", value(0.9)), Stop)  # the other lane of the slot, when it hands in
    game.play(500)
    assert game.board.closed is not None and game.board.closed.reason == "12 experiments" and not game.active()


def test_a_sick_slot_holds_nothing_up() -> None:
    """Its lanes are not waited for, though one of them has yet to hand in."""
    game = begun(2, experiments=6)
    game.sit("gpu0b", 0)
    game.turn("gpu0", lost())
    del game.orders["gpu0b"]
    game.play(500)
    assert game.board.closed is not None and game.board.closed.reason == "6 experiments" and not game.active()


def test_the_last_slot_that_is_retired_ends_the_run() -> None:
    game = begun(2)
    game.turn("gpu0", lost())
    assert game.board.closed is None
    order = game.turn("gpu1", lost())
    assert isinstance(order, Stop) and game.board.closed is not None and game.board.closed.failed
    assert "no lane is left" in game.board.closed.reason and "Xid 79" in game.board.closed.reason


def test_a_device_that_is_sick_from_the_start_does_not_end_the_run_as_a_failing_baseline_would() -> None:
    game = Game.of(2)
    game.turn("gpu0", lost())
    assert game.board.closed is None and 0 in game.board.retired
    game.turn("gpu1")
    assert game.board.baseline is not None and isinstance(game.orders["gpu1"], Remeasure | Propose)


def test_what_a_sick_device_measured_does_not_count_and_its_candidate_is_measured_elsewhere_once() -> None:
    game = begun(3)
    game.turn("gpu0", lost())
    candidate = game.board.experiments[1]
    assert candidate.status is Status.LOST and candidate.commit is not None
    order = game.turn("gpu1", value(5.0))
    assert isinstance(order, Replay) and order.commits == (candidate.commit,) and order.parent == "base"
    other = game.turn("gpu2", value(5.0))
    assert not isinstance(other, Replay)  # it is being tried
    game.turn("gpu1", lost())  # and brings down the next one
    assert not isinstance(game.turn("gpu2", value(5.0)), Replay)
    assert set(game.board.retired) == {0, 1}


def test_a_candidate_that_another_slot_found_good_is_kept() -> None:
    game = begun(2)
    game.turn("gpu0", lost())
    candidate = game.board.experiments[1]
    assert isinstance(game.turn("gpu1", value(5.0)), Replay)
    while not (found := game.board.experiments[-1]).picked or found.status is Status.PENDING:
        game.turn("gpu1", value(0.5))
    assert found.picked == (candidate.commit,) and found.status is Status.KEEP
    while not game.board.published:
        game.turn("gpu1", value(0.5))
    assert candidate.commit in game.board.contains(game.board.published[-1].commit)


def test_a_candidate_that_another_slot_found_good_is_brought_together_with_what_else_was_kept() -> None:
    game = begun(4)
    game.propose = lambda game, parent: -0.03
    game.turn("gpu0", lost())
    candidate = game.board.experiments[1]
    assert isinstance(game.turn("gpu1", value(5.0)), Replay)
    game.propose = lambda game, parent: -0.04
    game.turn("gpu2")
    other = game.board.experiments[-1]
    game.propose = lambda game, parent: 1.0
    game.play(100)
    again = next(each for each in game.board.experiments if each.picked == (candidate.commit,))
    assert candidate.status is Status.LOST and again.status is other.status is Status.KEEP
    assert {candidate.commit, other.commit} <= game.board.contains(game.board.published[-1].commit)


def test_what_waits_for_a_verdict_on_a_sick_slot_is_lost_and_tried_elsewhere() -> None:
    game = begun(2)
    assert isinstance(game.turn("gpu0", value(0.997)), Remeasure)
    assert game.board.lanes["gpu0"].pending == 1
    game.turn("gpu0", lost())
    candidate = game.board.experiments[1]
    assert candidate.status is Status.LOST and "retired" in candidate.reason
    order = game.turn("gpu1", value(5.0))
    assert isinstance(order, Replay) and order.commits == (candidate.commit,)


def test_what_a_lane_of_a_sick_slot_had_kept_is_not_lost() -> None:
    game = begun(2, policy=None)
    while not any(each.status is Status.KEEP for each in game.board.experiments[1:]):
        game.turn("gpu0", value(0.9))
    kept = next(each for each in game.board.experiments[1:] if each.status is Status.KEEP)
    game.turn("gpu0", lost())
    assert 0 in game.board.retired
    game.propose = lambda game, parent: 1.0
    game.effects[kept.commit or ""] = -0.1
    while not game.board.published:
        game.turn("gpu1", value(0.9))
    assert kept.commit in game.board.contains(game.board.published[-1].commit)


def test_failures_count_by_slot_whichever_lane_hands_them_in() -> None:
    game = begun(2)
    game.sit("gpu0b", 0)
    game.turn("gpu0", lost(BROKEN))
    game.turn("gpu0b", lost(BROKEN))
    game.turn("gpu0", Measurement(None, Failure(FailureKind.AGENT, "no idea")))  # it shows nothing of the machine
    game.turn("gpu1", lost(BROKEN))  # neither does another slot
    assert isinstance(game.orders["gpu0"], Propose) and not game.board.retired
    order = game.turn("gpu0b", lost(BROKEN))
    assert isinstance(order, Remeasure) and order.commit == "base" and "sound" in order.why


def test_one_lane_of_the_slot_looks_whether_the_machine_is_sound_and_three_candidates_are_tried_elsewhere() -> None:
    game = begun(2)
    game.sit("gpu0b", 0)
    for lane in ("gpu0", "gpu0b", "gpu0"):
        game.turn(lane, lost(BROKEN))
    order = game.orders["gpu0"]
    assert isinstance(order, Remeasure) and order.commit == "base"
    assert isinstance(game.turn("gpu0b", lost(BROKEN)), Propose)  # the base is being measured
    assert 0 not in game.board.retired
    assert isinstance(game.turn("gpu0", lost(BROKEN)), Stop) and 0 in game.board.retired
    assert "5 times in a row" in game.board.retired[0].reason
    tried = set()
    while isinstance(order := game.turn("gpu1", value(5.0)), Replay):
        tried |= set(order.commits)
    assert tried == {each.commit for each in game.board.experiments if each.lane in ("gpu0", "gpu0b")}


def test_a_slot_that_measures_the_base_is_sound() -> None:
    game = begun(2)
    game.sit("gpu0b", 0)
    for _ in range(3):
        game.turn("gpu0", lost(BROKEN))
    assert isinstance(game.turn("gpu0"), Propose) and not game.board.machine_failures
    assert not game.board.retired


def test_a_worker_that_starts_again_on_a_retired_slot_stops_and_a_run_that_is_taken_up_tries_it_again() -> None:
    game = begun(2)
    game.sit("gpu0b", 0)
    game.turn("gpu0b", value(0.997))
    assert game.board.lanes["gpu0b"].pending == 1
    game.turn("gpu0", lost())
    assert all(isinstance(game.sit(lane, 0), Stop) for lane in ("gpu0", "gpu0b", "gpu0c"))
    assert game.board.experiments[1].status is Status.LOST
    game.resume()
    assert not game.board.retired
    assert not isinstance(game.sit("gpu0", 0), Stop)


@pytest.mark.parametrize("place", [("elsewhere", ("0",)), ("host", ("1",)), ("host", ("0",))])
def test_a_worker_that_comes_to_another_device_is_not_held_to_be_on_the_sick_one(place: tuple[str, tuple[str]]) -> None:
    """Its process or its node died later on, and there was room elsewhere."""
    game = begun(2)
    sick = replace(game.board.lanes["gpu0"].seat, gpus=("0",))
    game.record(orders.sit(game.board, sick, game.now, game.policy)[0])
    game.orders["gpu0"] = game.board.lanes["gpu0"].order or game.orders["gpu0"]
    game.turn("gpu0", lost())
    assert 0 in game.board.retired
    game.vacate(0)
    moved = place != (sick.host, sick.gpus)
    for name in ("gpu0b", "gpu0"):
        events, order = orders.sit(
            game.board, replace(sick, lane=name, host=place[0], gpus=place[1]), game.now, game.policy
        )
        game.record(events)
        assert isinstance(order, Stop) != moved and (0 in game.board.retired) != moved


def test_a_paused_slot_takes_part_again_with_the_order_that_it_had() -> None:
    game = begun(3, experiments=30)
    assert game.pause(0, "somebody else is there") and game.pause(0, "somebody else is there")
    assert sum(isinstance(each, Paused) for each in events(game)) == 1
    held = game.orders.pop("gpu0")
    game.play(15)
    game.pause(0, "")
    assert game.board.lanes["gpu0"].order == held and game.board.lanes["gpu0"].active
    game.orders["gpu0"] = held
    game.play(500)
    assert game.board.counted >= 30 and not game.active() and not game.board.paused


def test_a_lane_that_is_added_to_a_paused_slot_is_paused_and_a_worker_that_starts_again_is_not() -> None:
    game = begun(2)
    game.pause(0, "somebody else is there")
    game.sit("gpu0b", 0)
    assert game.board.lanes["gpu0b"].paused and not game.board.lanes["gpu0b"].active
    game.sit("gpu0", 0)
    assert not game.board.paused and game.board.lanes["gpu0"].active and game.board.lanes["gpu0b"].active
    game.pause(0, "somebody else is there")
    game.vacate(0)
    assert not game.board.paused


def test_what_a_paused_slot_was_to_confirm_is_confirmed_by_another() -> None:
    game = begun(3, policy=Confirm())
    while game.board.nominee is None:
        game.turn("gpu0", value(0.5))
    commit = game.board.nominee.commit
    asked = game.turn("gpu1", value(2.0))
    assert isinstance(asked, Remeasure) and asked.commit == commit
    assert not isinstance(other := game.turn("gpu2", value(2.0)), Remeasure) or other.commit != commit
    game.pause(1, "somebody else is there")
    asked = game.turn("gpu2", value(2.0))
    assert isinstance(asked, Remeasure) and asked.commit == commit
    game.turn("gpu2", value(0.5))
    assert [each.commit for each in game.board.published] == [commit]


def test_a_run_ends_without_a_slot_that_is_paused_to_the_end() -> None:
    game = begun(2, experiments=4)
    assert game.pause(0, "somebody else is there")
    held = game.orders.pop("gpu0")
    game.play(500)
    assert game.board.closed is not None and game.board.closed.reason == "4 experiments" and not game.active()
    assert not game.pause(0, "somebody else is there")
    game.orders["gpu0"] = held
    assert isinstance(game.turn("gpu0", lost(BROKEN)), Stop)


def test_nothing_more_is_asked_of_a_slot_that_is_paused_to_the_end() -> None:
    game = begun(2)
    game.pause(0, "somebody else is there")
    game.record(orders.close(game.board, "enough", game.now))
    assert isinstance(game.turn("gpu0", lost(BROKEN)), Stop)


def test_a_pause_ends_with_the_hours_and_with_the_run() -> None:
    game = begun(1, hours=1.0)
    assert game.pause(0, "somebody else is there")
    game.now = 3600.0
    assert not game.pause(0, "somebody else is there")
    assert isinstance(game.turn("gpu0", lost(BROKEN)), Stop)
    assert game.board.closed is not None and game.board.closed.finished


def test_the_last_slot_that_measures_may_be_retired_while_another_one_is_paused() -> None:
    game = begun(2)
    game.pause(1, "somebody else is there")
    assert isinstance(game.turn("gpu0", lost()), Stop)
    assert game.board.closed is None
    game.pause(1, "")
    assert not isinstance(game.turn("gpu1"), Stop)


def test_lanes_that_stand_on_their_own_branches_lose_no_branch() -> None:
    game = begun(2, policy=Confirm(), experiments=20)
    for _ in range(4):
        game.turn("gpu0", value(0.5))
    head, own = game.board.lanes["gpu0"].head, game.board.lanes["gpu0"].own
    assert head != "base" and own
    game.turn("gpu0", lost())
    assert (game.board.lanes["gpu0"].head, game.board.lanes["gpu0"].own) == (head, own)


# --- What people see -------------------------------------------------------------------------------------------------


def test_status_and_report_tell_which_slot_is_out_of_use_since_when_and_why(tmp_path: Path) -> None:
    run = Run()
    for worker in range(3):
        run.seat(f"gpu{worker}", worker)
    run.seat("gpu1b", 1)
    run.remeasure("gpu0", run.base, 1.0)
    run.add(Retired(run.now, 1, "GPU 1: Xid 79: fallen off the bus"))
    run.add(Paused(run.now, 2, "process 42 (python, 8,192 MB) on GPU 2"))
    write(run, tmp_path)

    def said(form: str) -> str:
        return CliRunner().invoke(main, ["status", form, "--folder", str(tmp_path)]).stdout

    words = said("--text")
    assert re.search(r"^retired +for 1m 00s  gpu1, gpu1b: GPU 1: Xid 79: fallen off the bus$", words, re.M)
    assert re.search(r"^paused +for 0s  gpu2: process 42 \(python, 8,192 MB\) on GPU 2$", words, re.M)
    assert "paused: measures bbbbbbb: the baseline" in words
    facts = json.loads(said("--json"))
    (retired,), (paused,) = facts["retired"], facts["paused"]
    assert (retired["worker"], retired["lanes"], retired["reason"]) == (
        1,
        ["gpu1", "gpu1b"],
        run.board.retired[1].reason,
    )
    assert (paused["worker"], paused["lanes"]) == (2, ["gpu2"])
    report = markdown(run.board, "", None)
    assert "A slot was retired after 5m 00s: gpu1, gpu1b: GPU 1: Xid 79: fallen off the bus." in report
    assert "A slot was paused after 6m 00s: gpu2: process 42 (python, 8,192 MB) on GPU 2." in report


def test_lines_tell_on_stderr_what_became_of_a_slot_each_time_once(capsys: pytest.CaptureFixture[str]) -> None:
    run, lines = Run(), Lines()
    run.seat("gpu0", 0)
    lines.show(run.board)
    run.add(Paused(run.now, 0, BUSY.words))
    lines.show(run.board)
    lines.show(run.board)
    run.add(Unpaused(run.now, 0))
    lines.show(run.board)
    run.add(Retired(run.now, 0, SICK.message))
    lines.show(run.board)
    said = capsys.readouterr()
    assert said.err.splitlines() == [f"paused: gpu0: {BUSY.words}", f"retired: gpu0: {SICK.message}"] and not said.out
    shown = Console(width=120)
    with shown.capture() as caught:
        shown.print(screen(run.board, run.now, 9))
    assert f"retired   for 1m 00s  gpu0: {SICK.message}" in caught.get()


# --- Whole runs ------------------------------------------------------------------------------------------------------


class Fragile(NoMonitor):
    """Each GPU but the first is sick from its third evaluation on."""

    lasts = 2

    def __init__(self, gpus: tuple[str, ...]) -> None:
        super().__init__(gpus)
        self.gpu, self.looks = gpus[0], 0

    @property
    def watched(self) -> int:
        """Evaluations so far, the one that runs included: there is a look before each and one after it."""
        return self.looks // 2

    def trouble(self, alone: bool) -> Trouble | None:  # type: ignore[override]
        self.looks += 1
        sick = self.gpu != "0" and self.watched > self.lasts
        return Trouble("sick", f"GPU {self.gpu}: Xid 79: fallen off the bus") if sick else None


class Hopeless(Fragile):
    """All of them are."""

    def trouble(self, alone: bool) -> Trouble | None:  # type: ignore[override]
        self.looks += 1
        return Trouble("sick", f"GPU {self.gpu}: Xid 95: uncontained memory error") if self.watched > 1 else None


class Shared(NoMonitor):
    """Somebody else is on the second GPU, until the test lets go of it."""

    free = threading.Event()

    def __init__(self, gpus: tuple[str, ...]) -> None:
        super().__init__(gpus)
        self.mine = gpus[0] == "0"

    def trouble(self, alone: bool) -> Trouble | None:  # type: ignore[override]
        assert alone
        return None if self.mine or self.free.is_set() else BUSY


_: type[Monitor] = Shared


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two of them, as far as the runner knows."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    yield
    Shared.free.clear()


def lines_of(toy: Toy) -> list[tuple[Event, ...]]:
    return list(ledger.read(toy.run_folder() / "ledger.jsonl"))


def events_of(toy: Toy) -> list[Event]:
    return [each for line in lines_of(toy) for each in line]


def board_of(toy: Toy) -> Board:
    return replay(lines_of(toy))


GOOD, BAD = ("A = 0.0", "A = 0.1"), [("C = 0.0", f"C = -0.{each}") for each in range(1, 10)]


def scripted(toy: Toy, folder: Path) -> Path:
    """The second GPU finds something good when it gets sick; what the first one tries is bad."""
    (toy.folder / "train.py").write_text(
        "import os, random\nA = 0.0\n# apart\n\n# from\nC = 0.0\nrandom.seed(os.environ['AUTORESEARCH_SEED'])\n"
        "print('loss:', 1 - A - C + random.gauss(0, 0.001))\n"
    )
    toy.commit()
    for lane, edits in {"gpu0": BAD[1:], "gpu1": [BAD[0], GOOD]}.items():
        proposals = [{"idea": new, "edits": [{"file": "train.py", "old": old, "new": new}]} for old, new in edits]
        (folder / f"{lane}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in proposals))
    return toy.program(agent="scripted", more=f"agent_command: {folder}\nexperiments: 6")


@pytest.mark.usefixtures("gpus")
def test_a_run_goes_on_without_the_gpu_that_got_sick_and_with_what_it_had_found(toy: Toy, tmp_path: Path) -> None:
    with research(scripted(toy, tmp_path), gpus_per_worker=1, monitor=f"{__name__}:Fragile") as session:
        list(session)
    board, told = board_of(toy), events_of(toy)
    assert set(board.retired) == {1} and isinstance(board.lanes["gpu1"].order, Stop)
    assert session.warnings == ["a slot was retired: gpu1: GPU 1: Xid 79: fallen off the bus"]
    there = [each.attempt for each in told if isinstance(each, Measured) and each.attempt.lane == "gpu1"]
    assert len(there) == 3 and there[-1].idea == GOOD[1]
    sick = Failure(FailureKind.MACHINE, "GPU 1: Xid 79: fallen off the bus", fatal=True)
    assert there[-1].measurement.failure == sick and there[-1].measurement.exit_code == 0  # its number is not trusted
    (again,) = (each for each in board.experiments if each.picked == (there[-1].commit,))
    assert again.lane == "gpu0" and again.status is Status.KEEP
    assert [each.commit for each in board.published] == [again.commit]
    assert toy.git("rev-parse", "autoresearch/t1") == again.commit
    assert counted_at_the_limit(toy.run_folder()) == 6
    assert "A slot was retired" in (toy.run_folder() / "report.md").read_text()


@pytest.mark.usefixtures("gpus")
def test_a_run_without_a_gpu_that_is_left_ends_in_an_error_and_can_be_taken_up(toy: Toy) -> None:
    program = toy.program(more="experiments: 5")
    with (
        pytest.raises(SetupError, match=r"no lane is left: its slot was retired: GPU .: Xid 95") as caught,
        research(program, gpus_per_worker=1, monitor=f"{__name__}:Hopeless") as session,
    ):
        list(session)
    assert "run the same again" in caught.value.hint and len(session.warnings) == 2
    with research(program, gpus_per_worker=1, monitor="none") as session:
        list(session)
    assert not session.board.retired and counted_at_the_limit(toy.run_folder()) == 5


@pytest.mark.usefixtures("gpus", "quick")
def test_a_slot_that_somebody_else_uses_is_paused_and_works_when_they_are_gone(toy: Toy) -> None:
    shown = ""
    with research(toy.program(), gpus_per_worker=1, monitor=f"{__name__}:Shared", experiments=8) as session:
        for _ in session:
            if session.board.counted >= 3 and not Shared.free.is_set():
                assert session.board.paused[1].reason == BUSY.words
                shown = CliRunner().invoke(main, ["status", "--text", "--folder", str(toy.folder)]).stdout
                assert {each.lane for each in session.board.experiments[1:]} == {"gpu0"}
                Shared.free.set()
    assert BUSY.words in shown and "paused: measures" in shown
    told = events_of(toy)
    pauses = [type(each) for each in told if isinstance(each, Paused | Unpaused)]
    assert pauses == [Paused, Unpaused] and not session.board.paused
    there = [each.attempt for each in told if isinstance(each, Measured) and each.attempt.lane == "gpu1"]
    assert there and there[0].measurement.value is not None  # the very order that it had waited with
    assert counted_at_the_limit(toy.run_folder()) >= 8


@pytest.mark.usefixtures("gpus", "quick")
def test_a_run_does_not_wait_for_a_slot_that_somebody_else_uses_to_the_end(toy: Toy) -> None:
    with research(toy.program(), gpus_per_worker=1, monitor=f"{__name__}:Shared", experiments=4) as session:
        list(session)
    board = board_of(toy)
    assert counted_at_the_limit(toy.run_folder()) == 4 and board.closed is not None and board.closed.finished
    assert set(board.paused) == {1} and isinstance(board.lanes["gpu1"].order, Stop)
    assert "A slot was paused" in (toy.run_folder() / "report.md").read_text()


@pytest.mark.usefixtures("gpus", "quick")
def test_who_stops_a_run_does_not_wait_for_a_paused_slot(toy: Toy) -> None:
    with research(toy.program(), gpus_per_worker=1, monitor=f"{__name__}:Shared", experiments=50) as session:
        for _ in session:
            if session.board.paused:
                session.stop()
    assert session.board.closed is not None and session.board.closed.reason == "stopped"
    left = session.board.lanes["gpu1"].order
    assert isinstance(left, Remeasure) and left.commit == session.board.opened.base  # ordered again next time


class Remote(NoMonitor):
    """In another process: the second GPU is in other hands until a file says that it is free, and then sick."""

    def trouble(self, alone: bool) -> Trouble | None:  # type: ignore[override]
        if not alone or self.gpu == "0":
            return None
        return Trouble("sick", SICK.message) if Path(os.environ["TMPDIR"], "free").exists() else BUSY

    def __init__(self, gpus: tuple[str, ...]) -> None:
        super().__init__(gpus)
        self.gpu = gpus[0]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_over_ray_a_slot_is_paused_and_retired(toy: Toy, temporary: Path) -> None:
    program = toy.program(backend="ray", workers=2, more="experiments: 400")
    with research(program, gpus_per_worker=1, monitor=f"{__name__}:Remote") as session:
        for _ in session:
            if session.board.paused:
                (temporary / "free").touch()
            if session.board.retired:
                session.stop()
    assert [each.reason for each in events_of(toy) if isinstance(each, Paused)] == [BUSY.words]
    assert session.board.retired[1].reason == SICK.message and len(session.warnings) == 1
    assert isinstance(session.board.lanes["gpu1"].order, Stop) and not session.board.paused


@pytest.mark.usefixtures("gpus")
def test_the_command_line_goes_on_without_a_gpu_of_which_the_driver_reports_an_xid(
    toy: Toy, library: Path, tmp_path: Path
) -> None:
    """The NVML monitor, on a driver that reports it after some readings, in a process of its own."""
    device = {**DEVICE, "xids": "", "ecc": "0"}
    quiet = [""] * 8  # readings: one for the class of the device, two for a checkup, and two or more for a measurement
    steps = "\nstep\n".join([described(device, device), *quiet, "1.xids 13", "1.xids 13 79"])
    (tmp_path / "scenario").write_text(steps + "\n")
    environ = {**os.environ, "LD_LIBRARY_PATH": str(library), "NVML_STAND_IN": str(tmp_path / "scenario")}
    command = [*RUN, str(toy.program(more="experiments: 8")), "--gpus-per-worker", "1"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "retired: gpu1: GPU 1: Xid 79: fallen off the bus" in done.stderr.splitlines()
    assert "warning: a slot was retired: gpu1: GPU 1: Xid 79: fallen off the bus" in done.stderr.splitlines()
    board = board_of(toy)
    assert set(board.retired) == {1} and board.lanes["gpu1"].seat.device == "NVIDIA H200"
    assert counted_at_the_limit(toy.run_folder()) == 8
