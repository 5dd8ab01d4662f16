"""Whole runs on this machine, without Ray: real git, real processes, real verdicts."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_ray import ledger, research
from autoresearch_ray.agents.knobs import Knobs
from autoresearch_ray.board import Board, replay
from autoresearch_ray.errors import AgentError, AutoresearchError, ClusterError, ProgramError, RepoError, SetupError
from autoresearch_ray.events import Measured, Ordered
from autoresearch_ray.model import Remeasure, Status
from autoresearch_ray.ports import AgentSetup
from autoresearch_ray.repo import Hub
from autoresearch_ray.session import Session
from tests.conftest import SmallDisk, Toy, counted_at_the_limit, processes_of

RUN = [sys.executable, "-m", "autoresearch_ray", "run"]


def board_of(toy: Toy, tag: str = "t1") -> Board:
    return replay(ledger.read(toy.run_folder(tag) / "ledger.jsonl"))


def attempts(toy: Toy) -> list[str]:
    lines = ledger.read(toy.run_folder() / "ledger.jsonl")
    return [event.attempt.id for line in lines for event in line if isinstance(event, Measured)]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def measured(toy: Toy) -> int:
    path = toy.run_folder() / "ledger.jsonl"
    return path.read_bytes().count(b'"event":"measured"') if path.exists() else 0


def tree_of(folder: Path) -> dict[str, str]:
    return {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in sorted(folder.rglob("*"))
        if each.is_file() and ".git/" not in str(each) and ".autoresearch" not in str(each)
    }


def test_a_run_ends_with_a_better_commit_that_can_be_merged(toy: Toy, temporary: Path) -> None:
    head, files = toy.head, tree_of(toy.folder)
    with research(toy.program(more="experiments: 10")) as session:
        seen = list(session)
    best = session.best
    assert seen[0].kind == "baseline" and len(seen) == len(session.board.experiments)
    assert best is not None and best.number > 0 and len(best.values) >= 2
    assert toy.head == head and tree_of(toy.folder) == {**files, "program.md": tree_of(toy.folder)["program.md"]}
    assert toy.git("rev-parse", "autoresearch/t1") == best.commit
    board = board_of(toy)
    assert board.experiments == session.board.experiments and counted_at_the_limit(toy.run_folder()) == 10
    hub = Hub.open(toy.run_folder() / "hub.git")
    assert all(hub.has(each.commit) for each in board.experiments if each.commit)
    assert {name: lane.head for name, lane in board.lanes.items()} == {
        name: toy.git("rev-parse", f"autoresearch/t1-{name}") for name in board.lanes
    }
    toy.git("merge", "-q", "--ff-only", "autoresearch/t1")
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=toy.folder, capture_output=True, text=True, env={"AUTORESEARCH_SEED": "1"}
    )
    assert float(done.stdout.split()[1]) == pytest.approx(best.value, abs=0.01)
    rows = (toy.run_folder() / "results.tsv").read_text().splitlines()
    assert len(rows) == 1 + len(seen) and rows[0].split("\t") == [
        "commit",
        "metric",
        "memory_gb",
        "status",
        "description",
    ]
    assert "autoresearch/t1" in (toy.run_folder() / "report.md").read_text()
    assert [each for each in temporary.rglob("*") if each.is_file()] == [] and processes_of(temporary) == []
    assert toy.git("status", "--porcelain") == "M program.md"


def test_an_agent_that_edits_by_shell_and_logs_are_kept(toy: Toy) -> None:
    command = "sed -i 's/WIDTH = .*/WIDTH = 30/' train.py; echo thinking; echo 'idea: a wider model'"
    program = toy.program(agent="command", workers=1, more=f'experiments: 1\nagent_command: "{command}"')
    with research(program) as session:
        experiments = list(session)
    assert [each.idea for each in experiments] == ["baseline", "a wider model"]
    assert experiments[1].status is Status.KEEP
    number = experiments[1].id.rpartition("-")[2]
    assert "thinking" in (toy.run_folder() / "logs" / "cpu0" / f"{number}.agent.log").read_text()
    assert "loss:" in (toy.run_folder() / "logs" / "cpu0" / f"{number}.log").read_text()


def test_lanes_share_a_worker_and_measure_one_at_a_time(toy: Toy, tmp_path: Path) -> None:
    log = tmp_path / "spans"
    code = (
        f"import time\nstart = time.time()\ntime.sleep(0.15)\n"
        f"open({str(log)!r}, 'a').write(f'{{start}} {{time.time()}}\\n')\nLR = 0.5\nprint('loss:', LR)\n"
    )
    (toy.folder / "train.py").write_text(code)
    toy.commit()
    with research(toy.program(workers=1, lanes=3, more="experiments: 8")) as session:
        list(session)
    assert set(session.board.lanes) <= {"cpu0", "cpu0b", "cpu0c"} and len(session.board.lanes) == 3
    spans = sorted(tuple(map(float, line.split())) for line in log.read_text().splitlines())
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_a_program_below_the_top_of_its_repository(toy: Toy) -> None:
    below = toy.folder / "examples" / "small"
    below.mkdir(parents=True)
    (toy.folder / "train.py").rename(below / "train.py")
    (toy.folder / "program.md").rename(below / "program.md")
    toy.commit()
    with research(below / "program.md", experiments=3) as session:
        list(session)
    assert session.board.opened.prefix == "examples/small"
    assert (below / ".autoresearch" / "t1" / "ledger.jsonl").exists()
    assert session.best is not None and counted_at_the_limit(below / ".autoresearch" / "t1") == 3


# --- Stopping and taking up ------------------------------------------------------------------------------------------


def test_a_run_that_is_run_again_goes_on_without_the_baseline(toy: Toy) -> None:
    with research(toy.program(more="experiments: 3")) as session:
        list(session)
    before, first = attempts(toy), list(ledger.read(toy.run_folder() / "ledger.jsonl"))
    with research(toy.program(more="experiments: 7")) as session:
        assert session.resumed
        list(session)
    after = attempts(toy)
    assert after[: len(before)] == before and len(set(after)) == len(after)
    assert counted_at_the_limit(toy.run_folder()) == 7
    base, lines = session.board.opened.base, list(ledger.read(toy.run_folder() / "ledger.jsonl"))
    assert len(lines) > len(first)
    ordered = [event.order for line in lines for event in line if isinstance(event, Ordered)]
    wanted = [each for each in ordered if isinstance(each, Remeasure) and each.commit == base]
    calibrated = [each.why for each in wanted if each.why.startswith("the baseline")]
    assert calibrated == ["the baseline"] * 2  # one for each of the two workers, in the first session


def test_leaving_early_stops_cleanly_and_can_be_taken_up(toy: Toy) -> None:
    with research(toy.program(more="experiments: 50")) as session:
        for experiment in session:
            if experiment.number >= 2:
                break
    assert 2 <= session.board.counted < 50
    assert session.board.closed is not None and not session.board.closed.failed
    with research(toy.folder, experiments=session.board.counted + 2) as again:
        list(again)
    assert counted_at_the_limit(toy.run_folder()) == session.board.counted + 2


def test_kill_dash_nine_of_the_driver_loses_no_finished_experiment_and_leaves_no_process(
    toy: Toy, temporary: Path
) -> None:
    toy.program(more="experiments: 40", command="sleep 0.2; python train.py")
    with subprocess.Popen([*RUN, str(toy.folder / "program.md")], stderr=subprocess.DEVNULL) as driver:
        until(lambda: measured(toy) >= 6)
        driver.send_signal(signal.SIGKILL)
    until(lambda: not processes_of(temporary), 60)
    before = attempts(toy)
    assert len(before) >= 6
    board = board_of(toy)
    done = subprocess.run(
        [*RUN, str(toy.folder / "program.md"), "--experiments", str(board.counted + 2)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "goes on" in done.stderr
    after = attempts(toy)
    assert after[: len(before)] == before and len(set(after)) == len(after)
    assert counted_at_the_limit(toy.run_folder()) == board.counted + 2
    hub = Hub.open(toy.run_folder() / "hub.git")
    assert all(hub.has(each.commit) for each in board_of(toy).experiments if each.commit)


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_finishes_what_is_measured_and_a_second_one_does_not(
    toy: Toy, temporary: Path, times: int
) -> None:
    toy.program(workers=1, more="experiments: 40", command="python train.py; sleep 3")
    with subprocess.Popen(
        [*RUN, str(toy.folder / "program.md")], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        until(lambda: bool(processes_of(temporary, "AUTORESEARCH_EXPERIMENT=cpu0-1")))
        driver.send_signal(signal.SIGINT)
        assert driver.stderr is not None
        assert any("finishing" in line for line in driver.stderr)
        if times == 2:
            driver.send_signal(signal.SIGINT)
        assert driver.wait(60) == 130
    assert measured(toy) == (1 if times == 1 else 0)
    assert board_of(toy).closed is not None and processes_of(temporary) == []


def test_run_in_json_prints_one_object_per_verdict(toy: Toy) -> None:
    toy.program(more="experiments: 3")
    done = subprocess.run([*RUN, str(toy.folder / "program.md"), "--json"], capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and counted_at_the_limit(toy.run_folder()) == 3
    assert sorted(row["n"] for row in rows) == list(range(len(board_of(toy).experiments)))
    assert {row["status"] for row in rows} <= {"keep", "discard"}


def test_stop_from_another_terminal(toy: Toy) -> None:
    toy.program(more="experiments: 500")
    with subprocess.Popen([*RUN, str(toy.folder / "program.md")], stderr=subprocess.DEVNULL) as driver:
        until(lambda: measured(toy) >= 2)
        stop = [sys.executable, "-m", "autoresearch_ray", "stop", "--folder", str(toy.folder)]
        assert subprocess.run(stop).returncode == 0
        assert driver.wait(30) == 0
    assert subprocess.run(stop, capture_output=True).returncode == 2
    assert "asked to stop" in board_of(toy).closed.reason  # type: ignore[union-attr]


def test_a_tag_in_use_is_refused_with_its_process_and_host(toy: Toy) -> None:
    with research(toy.program(more="experiments: 30")), pytest.raises(SetupError, match=f"process {os.getpid()} on "):
        research(toy.folder).__enter__()


def test_the_same_command_goes_on_after_midnight_and_begins_anew_when_it_was_finished(toy: Toy) -> None:
    untagged = toy.program(more="experiments: 40").read_text().replace("tag: t1\n", "")
    (toy.folder / "program.md").write_text(untagged)
    with research(toy.folder, tag="eve") as session:
        for experiment in session:
            if experiment.number == 1:
                break
    with research(toy.folder, experiments=3) as again:
        list(again)
    assert again.resumed and again.tag == "eve"
    assert research(toy.folder).tag != "eve"


def test_scope_and_eval_are_frozen_while_strategy_may_change(toy: Toy) -> None:
    with research(toy.program(more="experiments: 1")) as session:
        list(session)
    with pytest.raises(SetupError, match="eval of the program"):
        research(toy.program(budget="7 seconds")).__enter__()
    path = toy.program(more="experiments: 2")
    path.write_text(path.read_text() + "\nDo try a wider model.\n")
    with research(path) as session:
        list(session)
    assert counted_at_the_limit(toy.run_folder()) == 2 and "wider" in session.board.program.strategy


# --- Faults ----------------------------------------------------------------------------------------------------------


def test_a_baseline_that_fails_stops_the_run_with_the_end_of_its_log(toy: Toy) -> None:
    program = toy.program(command="echo the data are missing; exit 1")
    with pytest.raises(SetupError, match="the data are missing"), research(program) as session:
        list(session)
    assert session.board.closed is not None and session.board.closed.failed
    with pytest.raises(SetupError), research(program) as session:
        list(session)
    assert session.resumed


def test_an_agent_that_always_fails_stops_the_run_with_the_reason_and_it_resumes(toy: Toy) -> None:
    broken = toy.program(agent="command", more='experiments: 30\nagent_command: "echo quota is used up; exit 7"')
    with pytest.raises(SetupError, match="quota is used up"), research(broken) as session:
        list(session)
    assert session.board.counted == 0
    with research(toy.program(more="experiments: 2")) as session:
        list(session)
    assert counted_at_the_limit(toy.run_folder()) == 2


def test_crashes_are_recorded_and_the_run_goes_on(toy: Toy) -> None:
    command = r"echo raise ValueError\\(\"'$AUTORESEARCH_EXPERIMENT'\"\\) >> train.py; echo 'idea: crash'"
    with research(toy.program(agent="command", more=f'experiments: 3\nagent_command: "{command}"')) as session:
        list(session)
    assert session.board.counts[Status.CRASH] == 3
    failure = session.board.experiments[1].failure
    assert failure is not None and "ValueError" in failure.tail


def test_out_of_scope_edits_are_never_measured(toy: Toy, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (toy.folder / "harness.py").write_text("raise SystemExit(5)")
    toy.commit()
    command = f"echo 'open(chr(47) + {str(ran)!r}[1:], chr(119))' > harness.py; echo 'idea: cheat'"
    program = toy.program(agent="command", more=f'experiments: 2\nagent_command: "{command}"')
    with research(program) as session:
        list(session)
    assert session.board.counts[Status.DISCARD] == 2 and not ran.exists()
    assert "harness.py" in session.board.experiments[1].reason


def soon_full(disk: SmallDisk) -> Toy:
    """A repository on that disk, which a run fills within seconds."""
    small = Toy(disk.folder / "toy")
    small.program(more="experiments: 400")
    return small


def test_a_disk_that_fills_makes_the_lanes_wait_and_nothing_is_lost(small_disk: Callable[[str], SmallDisk]) -> None:
    disk = small_disk("1200k")
    small = soon_full(disk)
    run = [*RUN, str(small.folder / "program.md")]
    with subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as driver:
        until(lambda: not shutil.disk_usage(small.folder).free or driver.poll() is not None)
        finished = attempts(small)
        assert driver.poll() is None and len(finished) > 2
        disk.enlarge()
        until(lambda: len(attempts(small)) >= len(finished) + 4)
        driver.send_signal(signal.SIGINT)
        said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130 and "almost full" in said and "Traceback" not in said, said
    after = attempts(small)
    assert after[: len(finished)] == finished and len(set(after)) == len(after)
    assert not board_of(small).machine_failures


def test_a_run_that_waits_for_room_can_be_stopped_and_taken_up_again(small_disk: Callable[[str], SmallDisk]) -> None:
    disk = small_disk("1200k")
    small = soon_full(disk)
    run = [*RUN, str(small.folder / "program.md")]
    with subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as driver:
        until(lambda: not shutil.disk_usage(small.folder).free or driver.poll() is not None)
        driver.send_signal(signal.SIGINT)
        said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 1 and "make room on the disk" in said and "Traceback" not in said, said
    finished = attempts(small)
    assert len(finished) > 2
    disk.enlarge()
    more = str(board_of(small).counted + 2)
    again = subprocess.run([*run, "--experiments", more], capture_output=True)
    assert again.returncode == 0, again.stderr
    assert attempts(small)[: len(finished)] == finished


def test_a_git_that_fails_for_a_moment_loses_nothing_and_ends_nothing(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the kernel runs out of memory: while a result is packed, and while the coordinator makes its reply."""
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    failures = tmp_path / "failures"  # one file for each failure that is to come, named after git's word
    failures.mkdir()
    fails = f'[ -e {failures}/"$1".1 ] && rm $(ls {failures}/"$1".* | tail -n 1) && exit 1'
    wrapper.write_text(f'#!/bin/sh\n{fails}\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o755)
    (failures / "diff.1").touch()
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    with research(toy.program(more="experiments: 4", workers=1)) as session:
        for _ in session:
            if session.board.counted == 1:
                for number in (1, 2):  # it is tried twice at once
                    (failures / f"pack-objects.{number}").touch()
    assert session.board.counted >= 4 and not list(failures.iterdir())
    assert not session.board.counts[Status.LOST] and not session.board.machine_failures


def test_a_setup_that_fails_is_tried_once_and_not_by_each_worker_in_turn(toy: Toy, tmp_path: Path) -> None:
    toy.program(eval_more=f"Setup: `echo tried >> {tmp_path / 'tries'}; exit 3`", workers=4)
    with pytest.raises(SetupError, match="ended with 3"), research(toy.folder) as session:
        list(session)
    assert (tmp_path / "tries").read_text() == "tried\n" and not session.board.lanes


def nothing_is_written(folder: Path) -> bool:
    return not list(folder.rglob(".autoresearch"))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"agent": "claude"}, AgentError, "claude"),
        ({"agent": "nobody"}, SetupError, "known"),
        ({"policy": "nobody"}, SetupError, "confirm"),
        ({"monitor": "nobody"}, SetupError, "nvml"),
        ({"tag": "a..b"}, AutoresearchError, "tag"),
        ({"gpus_per_worker": 1}, AutoresearchError, "GPU"),
        ({"workers": 0}, ProgramError, "workers"),
        ({"hours": -1}, ProgramError, "hours"),
        ({"secrets": ["NO_SUCH_KEY"]}, AgentError, "NO_SUCH_KEY"),
    ],
)
def test_what_must_be_fixed_first_is_said_and_nothing_is_written(
    toy: Toy, change: dict[str, object], error: type[AutoresearchError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(error, match=says) as caught:
        research(toy.folder, **change).__enter__()
    assert caught.value.hint and caught.value.exit_status == 2
    assert nothing_is_written(toy.folder)


def test_a_scope_without_files_no_repository_and_dirty_files(toy: Toy, tmp_path: Path) -> None:
    path = toy.program()
    text = path.read_text()
    path.write_text(text.replace("modify: train.py", "modify: trian.py"))
    with pytest.raises(SetupError, match=r"trian\.py"):
        research(path).__enter__()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "program.md").write_text(text)
    with pytest.raises(RepoError, match="git"):
        research(alone).__enter__()
    path.write_text(text)
    (toy.folder / "train.py").write_text("LR = 1\n")
    with pytest.raises(RepoError, match="allow-dirty"):
        research(path).__enter__()
    assert nothing_is_written(toy.folder) and nothing_is_written(alone)
    with research(path, allow_dirty=True, experiments=1) as session:
        list(session)
    assert counted_at_the_limit(toy.run_folder()) == 1 and (toy.folder / "train.py").read_text() == "LR = 1\n"


def test_the_command_line_says_it_on_one_line_and_exits_with_two(toy: Toy) -> None:
    done = subprocess.run([*RUN, str(toy.folder / "nowhere.md")], capture_output=True, text=True)
    assert done.returncode == 2 and "nowhere.md" in done.stderr and "Traceback" not in done.stderr


def test_branches_without_their_run_are_not_overwritten(toy: Toy) -> None:
    toy.git("branch", "autoresearch/t1-cpu0")
    with pytest.raises(SetupError, match="another --tag"):
        research(toy.folder).__enter__()


def test_a_branch_that_is_checked_out_is_left_alone_and_named(toy: Toy) -> None:
    with research(toy.program(more="experiments: 6")) as session:
        list(session)
    toy.git("checkout", "-q", "-f", "autoresearch/t1")
    head = toy.head
    with research(toy.program(more="experiments: 12")) as session:
        list(session)
    assert toy.head == head and session.unpublished == ["autoresearch/t1"]


def test_a_branch_that_somebody_worked_on_is_left_alone_and_named(toy: Toy) -> None:
    with research(toy.program(more="experiments: 6")) as session:
        list(session)
    toy.git("stash", "-q")
    toy.git("checkout", "-q", "autoresearch/t1")
    (toy.folder / "mine.txt").write_text("by hand")
    mine = toy.commit("by hand")
    toy.git("checkout", "-q", "main")
    with research(toy.program(more="experiments: 12")) as session:
        list(session)
    assert toy.git("rev-parse", "autoresearch/t1") == mine and session.unpublished == ["autoresearch/t1"]


def test_nohup_outlives_its_terminal_and_a_plain_run_drains(toy: Toy) -> None:
    toy.program(workers=1, more="experiments: 2", command="python train.py; sleep 0.4")
    for start, status in (("exec", 130), ("trap '' HUP; exec", 0)):
        words = " ".join(RUN)
        with subprocess.Popen(
            ["/bin/sh", "-c", f"{start} {words} {toy.folder / 'program.md'} --tag {'a' if status else 'b'}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as driver:
            tag = "a" if status else "b"
            path = toy.run_folder(tag) / "ledger.jsonl"
            until(lambda path=path: path.exists() and b'"measured"' in path.read_bytes())  # type: ignore[misc]
            driver.send_signal(signal.SIGHUP)
            assert driver.wait(30) == status


def test_an_agent_that_raises_is_an_agent_that_fails(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="no such idea"), research(toy.folder, agent=f"{__name__}:Raising") as session:
        list(session)
    assert session.board.counts[Status.LOST] > 0 and (toy.run_folder() / "report.md").exists()


def test_a_lane_that_ends_in_an_error_lets_the_other_finish_and_does_not_burn_a_core_meanwhile(toy: Toy) -> None:
    toy.program(workers=1, lanes=2, more="experiments: 9", command="python train.py; sleep 2")
    used = time.process_time()
    with pytest.raises(AgentError, match="cpu0b"), research(toy.folder, agent=f"{__name__}:Unmade") as session:
        list(session)
    assert measured(toy) == 1 and (toy.run_folder() / "report.md").exists()
    assert time.process_time() - used < 1.5  # a loop that spins takes the two seconds of the evaluation, and more


class Unmade(Knobs):
    """An agent of the user's own that cannot be made for a second lane."""

    def __init__(self, setup: AgentSetup) -> None:
        if setup.lane.endswith("b"):
            raise KeyError("no second one")
        super().__init__(setup)


class Raising:
    """An agent of the user's own, with a mistake in it."""

    def __init__(self, setup: object) -> None:
        pass

    @classmethod
    def check(cls, options: object, environ: object) -> None:
        pass

    def propose(self, checkout: Path, brief: object, log: Path, cancel: object) -> object:
        raise KeyError("no such idea")


def test_lanes_with_the_same_idea_make_commits_of_their_own(toy: Toy) -> None:
    own = r"sed -i \"s/WIDTH = .*/WIDTH = 30 + 0 * len('$AUTORESEARCH_EXPERIMENT')/\" train.py"
    command = f"{own}; echo 'idea: the same'"
    program = toy.program(agent="command", workers=3, more=f'experiments: 3\nagent_command: "{command}"')
    with research(program) as session:
        list(session)
    tried = [each for each in session.board.experiments if each.kind == "propose"]
    assert {each.idea for each in tried} == {"the same"} and all(each.values for each in tried)
    assert len({each.commit for each in tried}) == len(tried) == 3


def test_a_guard_that_fails_on_the_base_is_said_at_once(toy: Toy) -> None:
    program = toy.program(eval_more="Guard: `echo tests are broken; exit 1`")
    with pytest.raises(SetupError, match="tests are broken"), research(program) as session:
        list(session)
    assert session.board.attempts == 0


def test_cluster_and_gpu_shortage_say_how_many_there_is_room_for() -> None:
    from autoresearch_ray.model import Options
    from autoresearch_ray.session import _seated

    with pytest.raises(ClusterError, match="room for 3"):
        _seated(3, Options(workers=8))
    assert _seated(3, Options(workers="auto")) == 3


def test_a_program_object_and_a_session_are_what_the_readme_says(toy: Toy) -> None:
    from autoresearch_ray import Program

    session = research(Program.read(toy.folder / "program.md"), workers=1, experiments=1)
    assert isinstance(session, Session)
    with session:
        for experiment in session:
            assert str(experiment)
    session.report(toy.folder / "morning.md")
    assert (toy.folder / "morning.md").read_text()
    assert json.loads((toy.run_folder() / "driver.json").read_text())["pid"] == os.getpid()
