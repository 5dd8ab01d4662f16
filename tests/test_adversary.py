"""Hostile and unlucky agents, candidates and users, against whole runs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_ray import ledger, process, research
from autoresearch_ray.board import Board, replay
from autoresearch_ray.cli import folder as folders
from autoresearch_ray.errors import AutoresearchError, LedgerError
from autoresearch_ray.evaluator import number
from autoresearch_ray.events import Closed, Measured, Resumed
from autoresearch_ray.model import (
    Brief,
    Failure,
    FailureKind,
    Measurement,
    Parse,
    ParseKind,
    Proposal,
    Propose,
    Remeasure,
    Status,
    Stop,
)
from autoresearch_ray.ports import AgentSetup
from autoresearch_ray.repo import Hub
from tests.conftest import Toy, counted_at_the_limit, processes_of
from tests.game import Game, opened, program
from tests.test_evaluator import Bench

RUN = [sys.executable, "-m", "autoresearch_ray", "run"]
EDIT = "s = open('train.py').read()\nopen('train.py', 'w').write(s.replace('WIDTH = 8', 'WIDTH = 20'))\n"


@pytest.fixture
def bench(toy: Toy, tmp_path: Path) -> Callable[..., Bench]:
    return lambda **changes: Bench(toy, tmp_path / "bench", **changes)


def agent(toy: Toy, code: str, experiments: int = 1, **program: str) -> Path:
    """A program whose agent is this Python code, run in its checkout."""
    path = toy.folder.parent / "agent.py"
    path.write_text(textwrap.dedent(code))
    command = json.dumps(f"{sys.executable} {path}")
    more = f"experiments: {experiments}\nagent_command: {command}"
    return toy.program(agent="command", workers=1, more=more, **program)


def drive(toy: Toy, *flags: str, seconds: float = 100.0) -> subprocess.CompletedProcess[str]:
    argv = [*RUN, str(toy.folder / "program.md"), *flags]
    here = Path(__file__).parents[1]
    return subprocess.run(argv, cwd=here, capture_output=True, text=True, errors="replace", timeout=seconds)


def board_of(toy: Toy) -> Board:
    return replay(ledger.read(toy.run_folder() / "ledger.jsonl"))


def attempts(toy: Toy) -> list[str]:
    lines = ledger.read(toy.run_folder() / "ledger.jsonl")
    return [event.attempt.id for line in lines for event in line if isinstance(event, Measured)]


def talks(error: str) -> bool:
    """Whether a person was told, rather than shown where the code broke."""
    return "error: " in error and "Traceback" not in error


# --- Agents ----------------------------------------------------------------------------------------------------------


def test_what_an_agent_says_is_one_printable_line_wherever_it_is_shown(toy: Toy) -> None:
    said = b'idea: \x1b]0;owned\x07\x1b[2J ``` \xff\xed\xa0\x80 a\tb {"n": 1} \x00 end\n'
    agent(toy, f"{EDIT}import sys\nsys.stdout.buffer.write({said!r})")
    assert drive(toy).returncode == 0
    idea = board_of(toy).experiments[1].idea
    assert idea.isprintable() and len(idea) <= 220 and idea.endswith("end")
    rows = (toy.run_folder() / "results.tsv").read_text().splitlines()
    assert [len(row.split("\t")) for row in rows] == [5, 5, 5]
    shown = subprocess.run(
        [sys.executable, "-m", "autoresearch_ray", "log", "--text", "--folder", toy.folder], capture_output=True
    )
    assert shown.returncode == 0 and b"\x1b" not in shown.stdout and b"\x07" not in shown.stdout


def test_an_agent_that_breaks_its_prompt_file_does_not_break_the_next_proposal(toy: Toy) -> None:
    break_it = "import os\np = os.environ['AUTORESEARCH_PROMPT']\nos.remove(p)\nos.mkdir(p)\n"
    edit = "open('train.py', 'a').write('MORE = %r' % os.environ['AUTORESEARCH_EXPERIMENT'] + chr(10))\n"
    agent(toy, f"{break_it}{edit}print('idea: more')", 2)
    done = drive(toy)
    assert done.returncode == 0, done.stderr
    tried = [each for each in board_of(toy).experiments if each.kind == "propose"]
    assert len(tried) == 2 and all(each.values for each in tried)


def test_an_agent_that_leaves_a_deep_folder_does_not_break_the_way_out(toy: Toy, temporary: Path) -> None:
    code = "import os\nprint('idea: deep')\nos.mkdir('.venv')\nos.chdir('.venv')\n"
    agent(toy, EDIT + code + "for _ in range(1100):\n    os.mkdir('d')\n    os.chdir('d')")
    try:
        done = drive(toy)
        assert done.returncode == 0, done.stderr[-500:]
        assert (toy.run_folder() / "report.md").exists()
        assert [each for each in temporary.rglob("*") if not each.is_dir()] == []
    finally:
        subprocess.run(["rm", "-rf", temporary], check=True)


class Odd:
    """An agent in Python whose idea cannot be written as UTF-8."""

    def __init__(self, setup: AgentSetup) -> None:
        pass

    @classmethod
    def check(cls, options: object, environ: object) -> None:
        pass

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        path = checkout / "train.py"
        path.write_text(path.read_text().replace("WIDTH = 8", "WIDTH = 20"))
        return Proposal(f"a lone {chr(0xDCE9)} surrogate\n" * 9_999, params={"width": 10**5000, "name": chr(0xDCE9)})


def test_an_agent_in_python_cannot_say_what_the_ledger_cannot_hold(toy: Toy) -> None:
    toy.program(workers=1, more="experiments: 1")
    done = drive(toy, "--agent", "tests.test_adversary:Odd")
    assert done.returncode == 0, done.stderr[-300:]
    assert len(board_of(toy).experiments[1].idea) < 1000


# --- Candidates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("printed", ["nan", "1" + "0" * 400, "-inf"])
def test_a_number_that_is_none_is_never_a_value(bench: Callable[..., Bench], printed: str) -> None:
    measured = bench().measure(f"print('loss: {printed}')")
    assert measured is not None and measured.failure is not None
    assert measured.failure.kind is FailureKind.NOT_FINITE


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\x1b[32m0.25\x1b[0m"),
        pytest.param("np.float64(0.25)"),
        "tensor(0.25)",
    ],
)
def test_only_the_number_itself_is_read(text: str) -> None:
    assert number(text, "loss") == 0.25


def test_a_decimal_comma_is_not_a_number_a_hundred_times_as_large() -> None:
    assert number("1,250.5", "loss") == 1250.5
    assert number("0,25", "loss") in (None, 0.25)


def test_a_parse_command_that_fails_gives_no_number(bench: Callable[..., Bench]) -> None:
    parse = Parse(ParseKind.COMMAND, "echo 'awk: line 1: syntax error' >&2; exit 2")
    measured = bench(parse=parse).measure("print('done')")
    assert measured is not None and measured.failure is not None and measured.failure.kind is FailureKind.NO_METRIC


@pytest.mark.parametrize("how", ["os.symlink(OUT, t)", "open(t, 'w').close()"], ids=["link", "file"])
def test_the_next_experiment_has_a_fresh_temporary_folder_whatever_was_made_of_the_last(
    bench: Callable[..., Bench], how: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "left").touch()
    one = bench()
    one.measure(f"import os, shutil\nt = os.environ['TMPDIR']\nshutil.rmtree(t)\nOUT = {str(out)!r}\n{how}\n")
    measured = one.measure("import os\nprint('loss:', len(os.listdir(os.environ['TMPDIR'])))")
    assert measured is not None and measured.value == 0.0, measured


@pytest.mark.parametrize("where", ["os.getcwd()", "os.environ['TMPDIR']"], ids=["tree", "temporary"])
def test_a_deep_folder_that_a_candidate_leaves_is_removed_like_any_other(toy: Toy, temporary: Path, where: str) -> None:
    dig = f"import os\nos.chdir({where})\nfor _ in range(1100):\n    os.mkdir('d')\n    os.chdir('d')\n"
    agent(toy, f"open('train.py', 'a').write({dig!r})\nprint('idea: dig')")
    try:
        done = drive(toy)
        assert done.returncode == 0, done.stderr[-300:]
        assert board_of(toy).experiments[1].values
    finally:
        subprocess.run(["rm", "-rf", temporary], check=True)


@pytest.mark.parametrize(
    "key",
    [
        "NVIDIA_API_KEY",
        "UV_PUBLISH_TOKEN",
        "HF_HUB_TOKEN",
        pytest.param("UV_INDEX_URL"),
    ],
)
def test_a_secret_of_the_agent_never_reaches_an_evaluation_whatever_its_name(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(key, "hush")
    one = Bench(toy, tmp_path / "bench")
    welcome = one.evaluator.welcome
    options = replace(welcome.program.options, secrets=(key,))
    one.evaluator.welcome = replace(welcome, program=replace(welcome.program, options=options))
    one.measure("import os; print('loss: 1', *os.environ.values())")
    assert "hush" not in one.log.read_text()


@pytest.mark.parametrize(
    "become",
    [
        pytest.param("os.mkfifo(log)"),
        pytest.param("os.mkdir(log)"),
        pytest.param("pass"),
    ],
    ids=["pipe", "folder", "nothing"],
)
def test_a_candidate_that_takes_its_log_away_fails_alone(toy: Toy, become: str) -> None:
    spoil = f"import glob, os\nfor log in glob.glob('../*.log'):\n    os.remove(log)\n    {become}\n"
    agent(toy, f"open('train.py', 'a').write({spoil!r})\nprint('idea: spoil')", 3)
    try:
        done = drive(toy)
    except subprocess.TimeoutExpired:
        pytest.fail("it hangs")
    assert done.returncode == 0, done.stderr
    assert counted_at_the_limit(toy.run_folder()) == 3


# --- Rules -----------------------------------------------------------------------------------------------------------


def test_a_baseline_that_was_measured_once_and_then_fails_is_not_measured_for_ever() -> None:
    game = Game.of(1)
    game.turn("gpu0")
    for _ in range(50):
        if not isinstance(game.orders["gpu0"], Remeasure):
            break
        game.turn("gpu0", Measurement(None, Failure(FailureKind.CRASH, "the folder exists")))
    assert not isinstance(game.orders["gpu0"], Remeasure)


def test_candidates_that_feign_a_sick_machine_do_not_end_the_run() -> None:
    game = Game.of(1)
    for _ in range(20):
        assert not isinstance(game.orders["gpu0"], Stop)
        feigned = Measurement(None, Failure(FailureKind.MACHINE, "No space left on device"))
        game.turn("gpu0", feigned if isinstance(game.orders["gpu0"], Propose) else None)


def test_a_clock_that_was_ahead_in_an_earlier_session_uses_up_no_hours() -> None:
    board = Board(replace(opened(hours=1), at=86_400.0))
    board.apply(Closed(86_460.0, "interrupted"))
    for at in (100.0, 300.0):  # the clock is right again
        board.apply(Resumed(at, program(hours=1), "0"))
        board.apply(Closed(at + 60.0, "interrupted"))
    assert board.elapsed_seconds(360.0) == pytest.approx(180.0)


# --- Users -----------------------------------------------------------------------------------------------------------


def test_odd_paths_line_ends_and_a_busy_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in a folder whose name needs every kind of quoting, while its user commits, checks out and deletes."""
    toy = Toy(tmp_path / "a b'\"c\nd ü 雪 $(id) #x")
    odd = tmp_path / "t m'p\" # ü"
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    path = toy.program(workers=2, more="experiments: 8", command="sleep 0.1; python train.py")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    with research(path) as session:
        for experiment in session:
            if experiment.number == 3:
                (toy.folder / "train.py").write_text("print('loss: 0')\n")
                toy.commit()
                toy.git("branch", "-D", "autoresearch/t1-cpu0")
                toy.git("checkout", "-q", "-B", "autoresearch/t1-cpu1")
    assert counted_at_the_limit(toy.run_folder()) == 8 and all(each.value != 0 for each in session.board.experiments)
    assert session.unpublished == ["autoresearch/t1-cpu1"]
    assert toy.git("rev-parse", "autoresearch/t1-cpu0") == session.board.lanes["cpu0"].head
    assert toy.git("status", "--porcelain", "--untracked-files=no") == ""


def test_two_runs_in_one_repository_at_once_leave_each_other_alone(toy: Toy) -> None:
    toy.program(workers=1, more="experiments: 3")
    argv = [*RUN, str(toy.folder / "program.md"), "--tag"]
    with subprocess.Popen([*argv, "a"], stderr=subprocess.DEVNULL) as first:
        second = subprocess.run([*argv, "b"], stderr=subprocess.DEVNULL)
        assert (first.wait(60), second.returncode) == (0, 0)
    for tag in ("a", "b"):
        board = replay(ledger.read(toy.run_folder(tag) / "ledger.jsonl"))
        assert counted_at_the_limit(toy.run_folder(tag)) == 3
        assert toy.git("rev-parse", f"autoresearch/{tag}-cpu0") == board.lanes["cpu0"].head


MORE = "echo MORE=\\'$AUTORESEARCH_EXPERIMENT\\' >> train.py; echo 'idea: one more line'"


def test_a_run_is_taken_up_with_fewer_workers_other_lanes_another_agent_and_policy(toy: Toy) -> None:
    with research(toy.program(workers=3, more="experiments: 4")) as session:
        list(session)
    for changes in (
        {"workers": 1},
        {"lanes": 3, "policy": "greedy"},
        {"agent": "command", "agent_command": MORE, "policy": "confirm"},
    ):
        more = session.board.counted + 2
        with research(toy.folder, experiments=more, **changes) as session:
            list(session)
        assert counted_at_the_limit(toy.run_folder()) == more and not session.board.closed.failed  # type: ignore[union-attr]
    assert all(each.values for each in session.board.experiments[-2:])
    assert len(set(attempts(toy))) == len(attempts(toy))


def damaged(toy: Toy, how: str) -> bytes:
    lines = (toy.run_folder() / "ledger.jsonl").read_bytes().split(b"\n")[:-1]
    return {
        "empty": b"",
        "without the seats": b"\n".join(each for each in lines if b'"event":"seated"' not in each) + b"\n",
        "binary": lines[0] + b"\n\xff\xfe\x00\n" + lines[1] + b"\n",
        "cut": b"\n".join(lines[:4]) + b"\n" + lines[4][:20],
    }[how]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        pytest.param("empty", 1),
        pytest.param("without the seats", 1),
        ("binary", 1),
        ("cut", 0),
    ],
)
def test_a_damaged_ledger_is_an_error_for_people_and_a_torn_one_goes_on(toy: Toy, how: str, code: int) -> None:
    with research(toy.program(workers=1, more="experiments: 2")) as session:
        list(session)
    (toy.run_folder() / "ledger.jsonl").write_bytes(damaged(toy, how))
    if code:
        with pytest.raises(LedgerError):
            folders.load(toy.run_folder())
    done = drive(toy)
    assert done.returncode == code, done.stderr[-300:]
    assert code == 0 or talks(done.stderr)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"garbage{",
        *(pytest.param(each) for each in (b"\xff\xfe", b"[1]", b"null")),
    ],
)
def test_status_and_a_second_driver_read_any_note_of_the_first(toy: Toy, note: bytes) -> None:
    with research(toy.program(workers=1, more="experiments: 50")) as session:
        (toy.run_folder() / "driver.json").write_bytes(note)
        assert folders.driver(session.folder).alive
        with pytest.raises(AutoresearchError, match="in use"):
            research(toy.folder).__enter__()


def test_a_stop_file_stops_the_run_whatever_is_in_it(toy: Toy) -> None:
    toy.program(workers=1, more="experiments: 200")
    with subprocess.Popen([*RUN, str(toy.folder / "program.md")], stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None and "begins" in driver.stderr.readline()
        (toy.run_folder() / "stop").write_bytes(b"\xff\xfe\x00")
        said = driver.stderr.read()
        assert driver.wait(60) == 0, said
    closed = board_of(toy).closed
    assert closed is not None and "asked" in closed.reason


@pytest.mark.parametrize("what", ["the run's folder", "the temporary folder"])
def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(toy: Toy, temporary: Path, what: str) -> None:
    toy.program(workers=1, more="experiments: 1")
    if what == "the run's folder":
        (toy.folder / ".autoresearch").write_text("in the way")
    else:
        (temporary / f"autoresearch-{os.getuid()}").write_text("in the way")
    done = drive(toy)
    assert done.returncode in (1, 2) and talks(done.stderr) and "hint: " in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else")
def test_a_scratch_folder_that_belongs_to_somebody_else_is_refused(toy: Toy, temporary: Path) -> None:
    theirs = temporary / f"autoresearch-{os.getuid()}"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, 12345, 12345)
    toy.program(workers=1, more="experiments: 1")
    done = drive(toy)
    assert done.returncode == 2 and talks(done.stderr)


# --- Interrupts ------------------------------------------------------------------------------------------------------


def test_an_interrupt_at_the_terminal_does_not_reach_our_own_git() -> None:
    group = process.call([sys.executable, "-I", "-c", "import os; print(os.getpgrp())"], environ={})
    assert int(group.out) != os.getpgrp()


@pytest.mark.parametrize(
    ("how", "rounds"),
    [("kill", 2), ("terminal", 2), *(pytest.param(how, 5, marks=pytest.mark.slow) for how in ("kill", "terminal"))],
)
def test_a_run_that_is_ended_again_and_again_loses_nothing(toy: Toy, temporary: Path, how: str, rounds: int) -> None:
    toy.program(workers=2, lanes=2, more="experiments: 100000")
    chance = random.Random(rounds)
    before: list[str] = []
    for _ in range(rounds):
        argv = [*RUN, str(toy.folder / "program.md")]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as driver:
            try:
                assert driver.stderr is not None
                assert "begins" in (said := driver.stderr.readline()) or "goes on" in said
                time.sleep(chance.uniform(0.0, 1.0))
                if how == "terminal":
                    os.killpg(driver.pid, signal.SIGINT)
                    assert driver.wait(60) == 130, driver.stderr.read()
            finally:
                driver.kill()
        after = attempts(toy)
        assert after[: len(before)] == before
        before = after
    board = board_of(toy)
    assert drive(toy, "--experiments", str(board.counted + 2)).returncode == 0
    board, ids = board_of(toy), attempts(toy)
    hub = Hub.open(toy.run_folder() / "hub.git")
    assert len(set(ids)) == len(ids) and ids[: len(before)] == before
    assert all(hub.has(each.commit) for each in board.experiments if each.commit)
    lost = [each.failure.message for each in board.experiments if each.status is Status.LOST and each.failure]
    assert board.counts[Status.LOST] == len(lost) and (how == "kill" or not lost)
    assert all(each.startswith("interrupted 3 times") for each in lost)
    for name, lane in board.lanes.items():
        assert toy.git("rev-parse", f"autoresearch/t1-{name}") == lane.head
    assert processes_of(temporary) == []
    assert [each for each in temporary.rglob("*") if not each.is_dir()] == []
