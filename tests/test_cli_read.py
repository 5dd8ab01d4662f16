"""The reading verbs on a real folder of a run: a ledger, a hub, logs, and a driver that lives or does not."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from autoresearch_ray.cli import VERBS, main
from autoresearch_ray.cli.live import Lines
from autoresearch_ray.cli.status import doing
from autoresearch_ray.events import Judged
from autoresearch_ray.ledger import Ledger
from autoresearch_ray.model import (
    Ablate,
    Failure,
    FailureKind,
    Holdout,
    Options,
    Order,
    Propose,
    Remeasure,
    Replay,
    Resources,
    Rework,
    Status,
    Stop,
    Try,
    Wait,
)
from tests.runs import Run, git, history, write

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "autoresearch_ray"]
READING = [name for name, where in VERBS.items() if where.startswith(("reading:", "lessons:"))]
DOCUMENTS = {"diff", "export", "report"}  # the same text wherever it goes, unless --json is given

Invoke = Callable[..., Result]


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the closed run nov20: a keep that is the best, a discard, a crash whose log has an escape code."""
    folder = tmp_path_factory.mktemp("project")
    base, best, worse = history(folder / "work", ["rate = 1\n", "rate = 2\n", "rate = 3\n"])
    run = Run(base=base, options=Options(experiments=3, hours=2.0))
    run.seat("gpu0", 0)
    run.seat("gpu1", 1)
    run.remeasure("gpu0", base, 1.0)
    run.remeasure("gpu1", base, 1.002)
    kept = run.propose("gpu0", "rate 2 is better", 0.9, Status.KEEP, commit=best, gain=0.101, reason="clear of noise")
    run.remeasure("gpu0", best, 0.902)
    run.publish(kept, best, 0.901)
    run.propose("gpu1", "rate 3\tis\x1b[31m worse", 1.5, Status.DISCARD, commit=worse, gain=-0.5)
    failure = Failure(FailureKind.OOM, "out of memory", "Traceback\nOutOfMemoryError")
    run.propose("gpu1", "no commit came of it", None, Status.CRASH, failure=failure)
    run.close("3 experiments")
    place = write(run, folder)
    (place / "logs" / "gpu0").mkdir(parents=True)
    (place / "logs" / "gpu0" / "2.log").write_text("step 1\nval_bpb: 0.9\x1b[2J\n")
    git(folder, "clone", "-q", "--bare", str(folder / "work"), str(place / "hub.git"))
    return folder


@pytest.fixture
def invoke(project: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(project)

    def call(*arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == status, result.output
        return result

    return call


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environ(), stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 65536):
            text += piece
    except OSError:  # Linux answers EIO when the other end is closed
        pass
    finally:
        os.close(ours)
    assert done.wait(timeout=30) == 0
    return text.decode()


# --- Every verb ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(VERBS))
def test_every_verb_has_help_with_an_example(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None and command.name == name
    words = CliRunner().invoke(main, [name, "--help"]).output
    assert "Example:" in words and f"autoresearch-ray {name}" in words
    assert all(isinstance(each, click.Argument) or getattr(each, "help", None) for each in command.params)


@pytest.mark.parametrize("name", READING)
def test_every_reading_verb_takes_the_same_options(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert {"--tag", "--folder", "--json"} <= {option for each in command.params for option in each.opts}


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom autoresearch_ray.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "print(sorted({'ray', 'pydantic', 'git', 'rich', 'matplotlib', 'yaml', 'psutil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environ(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", [each for each in READING if each not in ("export", "watch", "log", "lessons")])
def test_json_is_one_document_without_nan(invoke: Invoke, name: str) -> None:
    arguments = [name, "1"] if name == "show" else [name]
    text = invoke(*arguments, "--json").stdout

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert isinstance(json.loads(text, parse_constant=refuse), dict)


@pytest.mark.parametrize("name", READING)
def test_what_is_piped_is_json_unless_it_is_a_document(project: Path, name: str) -> None:
    arguments = [name, "1"] if name == "show" else [name]
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=project, env=environ(), capture_output=True, text=True, check=True
    )
    if name in DOCUMENTS:
        assert not done.stdout.startswith("{")
    else:
        assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines())


def test_lessons_are_a_line_for_each_verdict_and_a_digest_of_the_run(invoke: Invoke) -> None:
    lines = invoke("lessons", "--text").stdout.splitlines()
    assert lines[0] == "#1 [gpu0] optimiser: rate 2 is better: +0.101, helps"
    assert lines[1].startswith("#2 [gpu1] ") and "\x1b" not in lines[1] and lines[1].endswith(": -0.5, not kept")
    assert lines[2] == "#3 [gpu1] optimiser: no commit came of it: out of memory"
    tally = "- optimiser: 3 tried, 1 kept, 1 failed; best +0.101 (#1); none of the last 2"
    assert lines[4:] == ["Attempts of the whole run, by category:", tally]
    facts = [json.loads(line) for line in invoke("lessons", "--json").stdout.splitlines()]
    assert [(each["n"], each["meaning"]) for each in facts] == [(1, "helps"), (2, "not kept"), (3, "out of memory")]
    assert len(invoke("lessons", "--json", "-n", "1").stdout.splitlines()) == 1
    assert invoke("lessons", "--json", "--category", "data").stdout == ""


# --- Which run -------------------------------------------------------------------------------------------------------


def test_a_run_is_found_from_below_and_by_its_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = project / "work"
    monkeypatch.chdir(below)
    assert json.loads(CliRunner().invoke(main, ["status"]).stdout)["tag"] == "nov20"
    monkeypatch.chdir("/")
    for folder in (project, project / ".autoresearch" / "nov20", below):
        assert json.loads(CliRunner().invoke(main, ["status", "--folder", str(folder)]).stdout)["tag"] == "nov20"


def test_the_latest_run_is_taken_unless_a_tag_is_given(tmp_path: Path) -> None:
    for age, tag in enumerate(("new", "old")):
        place = write(Run(tag), tmp_path)
        os.utime(place / "ledger.jsonl", (time.time() - 60 * age,) * 2)
    folder = ["--folder", str(tmp_path)]
    assert json.loads(CliRunner().invoke(main, ["status", *folder]).stdout)["tag"] == "new"
    assert json.loads(CliRunner().invoke(main, ["status", *folder, "--tag", "old"]).stdout)["tag"] == "old"


def test_an_unknown_tag_names_the_known_ones(invoke: Invoke) -> None:
    result = invoke("status", "--text", "--tag", "dec24", status=2)
    assert result.stdout == ""
    assert "there is no run 'dec24'" in result.stderr and "hint: known: nov20" in result.stderr


def test_no_run_at_all_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".autoresearch").mkdir()  # another tool's folder of this name is not a run
    result = CliRunner().invoke(main, ["best", "--json"])
    assert result.exit_code == 2 and result.stdout == ""
    error = json.loads(result.stderr)
    assert error["error"] == "SetupError" and "--folder" in error["hint"]


def test_a_ledger_that_is_damaged_in_the_middle_is_an_error_with_its_line(tmp_path: Path) -> None:
    run = Run()
    run.seat("gpu0")
    ledger = write(run, tmp_path) / "ledger.jsonl"
    first, second = ledger.read_bytes().splitlines()
    ledger.write_bytes(first + b"\n" + second[:-9] + b"\n" + second + b"\n")
    result = CliRunner().invoke(main, ["status", "--text", "--folder", str(tmp_path)])
    assert result.exit_code == 1 and "line 2" in result.stderr


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    run = Run()
    run.seat("gpu0")
    ledger = write(run, tmp_path) / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'[{"event":"meas')
    result = CliRunner().invoke(main, ["status", "--folder", str(tmp_path)])
    assert [lane["lane"] for lane in json.loads(result.stdout)["lanes"]] == ["gpu0"]


def test_an_empty_ledger_is_a_run_that_is_just_starting(tmp_path: Path) -> None:
    place = write(Run(), tmp_path)
    (place / "ledger.jsonl").write_bytes(b"")
    result = CliRunner().invoke(main, ["status", "--text", "--folder", str(tmp_path)])
    assert result.exit_code == 1 and "hint: " in result.stderr


# --- Each verb -------------------------------------------------------------------------------------------------------


def test_status_tells_how_the_run_stands(invoke: Invoke, project: Path) -> None:
    facts = json.loads(invoke("status").stdout)
    assert (facts["state"], facts["reason"]) == ("closed", "3 experiments")
    assert facts["best"]["metric"] == pytest.approx(0.901) and facts["best"]["measurements"] == 2
    assert facts["gain"] == pytest.approx(0.1)
    assert facts["counts"]["keep"] == facts["counts"]["discard"] == facts["counts"]["crash"] == 1
    assert facts["measuring_share"] == pytest.approx(900 / (2 * facts["elapsed_seconds"]))
    assert facts["driver"] == {"alive": False, "pid": None, "host": None}
    words = invoke("status", "--text").stdout
    assert "0.9010 ± 0.0010, n = 2" in words and "closed: 3 experiments" in words
    assert "proposes on" in words and "9.99" in words


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (Propose("gpu0-4", "a1" * 20, 7), "proposes on a1a1a1a"),
        (
            Propose("gpu0-4", "a1" * 20, 7, rework=Rework("gpu0-3", "b2" * 20, "FAIL", 2)),
            "mends gpu0-3, which broke the guard: attempt 2",
        ),
        (Remeasure("gpu0-4", "a1" * 20, 7, "too close\nto call"), "measures a1a1a1a: too close to call"),
        (
            Replay("gpu0-4", "b" * 40, ("a1" * 20, "c3" * 20), 7, why="what was kept"),
            "replays 2 of gpu0, gpu1 onto bbbbbbb: what was kept",
        ),
        (Replay("gpu0-4", "b" * 40, ("a1" * 20,), 7), "replays 1 of its own onto bbbbbbb"),
        (Holdout("gpu0-4", "a1" * 20, 7), "measures the holdout of a1a1a1a"),
        (Ablate("gpu0-4", "b" * 40, "a1" * 20, 7, why="without #1: one"), "tries bbbbbbb without #1: one"),
        (
            Try("gpu0-4", "b" * 40, "a1" * 20, "m1", 7, idea="a\nwider net", by="ann"),
            "measures on bbbbbbb what ann submitted: a wider net",
        ),
        (Wait("gpu0-4", 9.0, "the provider limits the rate"), "waits: the provider limits the rate"),
        (Stop("3 experiments"), "stopped: 3 experiments"),
    ],
)
def test_every_order_has_its_words(order: Order, words: str) -> None:
    run = Run()
    run.seat("gpu0", 0)
    run.seat("gpu1", 1)
    run.propose("gpu0", "one", 0.9, Status.KEEP, commit="a1" * 20)
    run.propose("gpu1", "two", 0.9, Status.KEEP, commit="c3" * 20)
    run.order("gpu0", order)
    assert doing(run.board, "gpu0") == words


def test_status_and_log_tell_what_is_suspicious_and_what_was_refused(tmp_path: Path) -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    id = run.propose("gpu0", "prints a lot", 0.9, Status.KEEP, commit="a1" * 20, printed=3, reason="a large gain")
    run.refuse(id, "a1" * 20, "the holdout does not confirm it")
    write(run, tmp_path)

    def said(*arguments: str) -> str:
        return CliRunner().invoke(main, [*arguments, "--folder", str(tmp_path)]).stdout

    words = said("status", "--text")
    assert re.search(r"^suspicious +#1$", words, re.M) and "#1: the holdout does not confirm it" in words
    facts = json.loads(said("status", "--json"))
    assert facts["suspicious"] == [1] and facts["refused"][0]["commit"] == "a1" * 20
    words = said("log", "--text")
    assert "#1  keep?" in words and "suspicious (gave its metric 3 times, its parent 1): a large gain" in words


def test_status_tells_why_no_agent_is_asked(tmp_path: Path) -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)

    def said(folder: Path) -> tuple[str, list[dict[str, object]]]:
        write(run, folder)
        text, data = (
            CliRunner().invoke(main, ["status", each, "--folder", str(folder)]).stdout for each in ("--text", "--json")
        )
        return text, json.loads(data)["agents_left_alone"]

    for _ in range(3):
        run.propose("gpu0", "", None, Status.LOST, failure=Failure(FailureKind.AGENT, "exit status 1: no such model"))
    text, left_alone = said(tmp_path / "failing")
    assert re.search(r"^agents +the agents fail: one lane tries \(exit status 1: no such model\)$", text, re.M)
    assert [(each["trouble"], each["openings"], each["agents"]) for each in left_alone] == [("crashed", 1, [""])]
    run.propose("gpu0", "works", 0.9)
    text, left_alone = said(tmp_path / "working")
    assert "the agents fail" not in text and left_alone == []


def test_unlike_devices_are_told_apart_in_status_and_log(tmp_path: Path) -> None:
    run = Run()
    for worker, (lane, name, base) in enumerate((("gpu0", "H200", 1.0), ("gpu1", "H100", 1.1))):
        run.seat(lane, worker, f"NVIDIA {name}", f"NVIDIA {name}, driver 550")
        for value in (base - 0.001, base + 0.001):
            run.remeasure(lane, run.base, value)
        run.propose(lane, "a step", base - 0.05, Status.KEEP, commit=f"a{worker}" * 20, gain=0.05)
    write(run, tmp_path)
    arguments = ["--folder", str(tmp_path)]
    words = CliRunner().invoke(main, ["status", "--text", *arguments]).stdout
    assert "0.00141 on NVIDIA H100, driver 550, baseline 1.1000 ± 0.0010, n = 2" in words
    assert re.search(r"gpu1 +NVIDIA H100, driver 550 +0\.9500 ± 0\.0014, n = 1 +\+0\.05 ", words)
    classes = json.loads(CliRunner().invoke(main, ["status", "--json", *arguments]).stdout)["classes"]
    assert [each["lanes"] for each in classes] == [["gpu0"], ["gpu1"]]
    assert classes[1]["baseline"]["metric"] == pytest.approx(1.1) and classes[1]["noise"] == pytest.approx(
        0.00141, 0.01
    )
    log = CliRunner().invoke(main, ["log", "--text", *arguments]).stdout.splitlines()
    assert "over baseline" in log[0] and re.search(r"gpu1 +0\.9500 ± 0\.0014, n = 1 +\+0\.05 +\+0\.05 ", log[3])


def test_a_driver_is_alive_while_it_holds_its_lock(tmp_path: Path) -> None:
    run = Run(options=Options(hours=1e6))
    run.seat("gpu0")
    place = write(run, tmp_path)
    (place / "driver.json").write_text('{"pid": 77, "host": "node0"}')
    with (place / "driver.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        facts = json.loads(CliRunner().invoke(main, ["status", "--folder", str(tmp_path)]).stdout)
        assert facts["driver"] == {"alive": True, "pid": 77, "host": "node0"} and facts["state"] == "running"
        assert facts["limit"] == "1e+06 hours" and 0 < facts["seconds_left"] < 1e6 * 3600
        assert facts["lanes"][0]["for_seconds"] > 1000
        assert facts["lanes"][0]["doing"] == "measures bbbbbbb: the baseline"
    facts = json.loads(CliRunner().invoke(main, ["status", "--folder", str(tmp_path)]).stdout)
    assert facts["state"] == "stopped" and facts["driver"]["alive"] is False


def test_log_filters_and_keeps_the_order(invoke: Invoke) -> None:
    def numbers(*arguments: str) -> list[int]:
        return [json.loads(line)["n"] for line in invoke("log", *arguments).stdout.splitlines()]

    assert numbers() == [0, 1, 2, 3]
    assert numbers("-n", "2") == [2, 3]
    assert numbers("--status", "keep") == [0, 1]
    assert numbers("--lane", "gpu1") == [2, 3]
    assert numbers("--lane", "gpu9") == []
    assert numbers("--ranked") == [1, 0, 2] and numbers("--ranked", "-n", "1") == [1]
    assert invoke("log", "--lane", "gpu9", "--text").stdout == ""


def test_no_idea_and_no_log_writes_escape_codes_to_a_terminal(invoke: Invoke, project: Path) -> None:
    assert "val_bpb: 0.9[2J" in on_a_terminal(project, "show", "1")
    for arguments in (["log"], ["show", "2"], ["status"]):
        assert "\x1b[31m worse" not in on_a_terminal(project, *arguments)
    assert "rate 3 is[31m worse" in invoke("log", "--text").stdout


def test_best_prints_the_command_that_merges_it(invoke: Invoke, project: Path) -> None:
    words = invoke("best", "--text").stdout
    assert "git merge autoresearch/nov20" in words and "rate 2 is better" in words
    assert json.loads(invoke("best").stdout)["branch"] == "autoresearch/nov20"


def test_best_tells_what_is_confirmed_of_the_gain(tmp_path: Path) -> None:
    run = Run()
    run.seat("gpu0")
    for value in (1.0, 1.002):
        run.remeasure("gpu0", run.base, value)
    best = "a1" * 20
    used = Resources(peak_mb=2048.0)
    id = run.propose("gpu0", "a step", 0.9, Status.KEEP, commit=best, gain=0.101, resources=used)
    run.publish(id, best, 0.9, 1)
    for value in (0.902, 0.904):
        run.remeasure("gpu0", best, value)
    run.holdout("gpu0", best, 0.95)
    write(run, tmp_path)
    arguments = ["best", "--folder", str(tmp_path)]
    words = CliRunner().invoke(main, [*arguments, "--text"]).stdout
    assert "Against the baseline the metric changed by -0.0990 ± 0.0017 (59 standard errors)." in words
    assert "published as 0.9000 ± 0.0018, n = 1; measured again since, it reads 0.9030 ± 0.0013, n = 2." in words
    assert "On the holdout the best reads 0.95, n = 1." in words and "beside it: memory_gb 2" in words
    facts = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert facts["claimed"]["metric"] == 0.9 and facts["later"]["metric"] == pytest.approx(0.903)
    assert facts["holdout"] == {"metric": 0.95, "error": None, "measurements": 1}
    assert facts["error"] == pytest.approx(0.001, 0.1) and facts["measurements"] == 3
    assert facts["over_baseline"] == pytest.approx(0.099) and facts["over_baseline_error"] == pytest.approx(0.0016, 0.1)


def test_best_of_nothing_is_null(tmp_path: Path) -> None:
    write(Run(), tmp_path)
    result = CliRunner().invoke(main, ["best", "--folder", str(tmp_path)])
    assert result.exit_code == 0 and json.loads(result.stdout) is None and "nothing" in result.stderr


def test_diff_is_a_patch_that_applies(invoke: Invoke, project: Path, tmp_path: Path) -> None:
    patch = invoke("diff").stdout
    (commit,) = history(tmp_path / "copy", ["rate = 1\n"])
    (tmp_path / "patch").write_text(patch)
    git(tmp_path / "copy", "apply", str(tmp_path / "patch"))
    assert (tmp_path / "copy" / "train.py").read_text() == "rate = 2\n"
    assert commit not in patch


@pytest.mark.parametrize("names", [("0", "2"), ("baseline", "#2"), ("gpu1", "gpu1-2")])
def test_diff_takes_numbers_ids_lanes_and_words(invoke: Invoke, names: tuple[str, str]) -> None:
    assert invoke("diff", *names).stdout.splitlines()[-2:] == ["-rate = 1", "+rate = 3"]


def test_diff_takes_commits(invoke: Invoke) -> None:
    commits = [json.loads(line)["commit"] for line in invoke("log", "-n", "4").stdout.splitlines()]
    facts = json.loads(invoke("diff", commits[1][:8], commits[2], "--json").stdout)
    assert (facts["old"], facts["new"]) == (commits[1], commits[2])
    assert "+rate = 3" in facts["diff"]


@pytest.mark.parametrize(("name", "words"), [("99", "no experiment '99'"), ("3", "#3 has no commit")])
def test_diff_of_what_is_not_there_says_so(invoke: Invoke, name: str, words: str) -> None:
    assert words in invoke("diff", name, status=2).stderr


def test_show_has_the_facts_the_patch_and_the_log(invoke: Invoke, project: Path) -> None:
    words = invoke("show", "1", "--text").stdout
    assert "clear of noise" in words and "+rate = 2" in words and "val_bpb: 0.9" in words and "lr 0.04" in words
    assert not re.search(r"\d\.\d{8}", words), "numbers are for people here"
    facts = json.loads(invoke("show", "gpu0-2").stdout)
    assert facts["log_tail"].startswith("step 1\nval_bpb: 0.9") and facts["params"] == {"lr": 0.04}
    assert Path(facts["log"]).is_file() and facts["agent_log"] is None


def test_show_of_a_crash_without_a_log_has_the_tail_of_its_failure(invoke: Invoke) -> None:
    words = invoke("show", "3", "--text").stdout
    assert "oom" in words and "OutOfMemoryError" in words


def test_show_of_what_is_not_there_says_what_there_is(invoke: Invoke) -> None:
    assert "from 0 to 3" in invoke("show", "4", status=2).stderr


def test_exports_go_to_stdout_or_to_a_file(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("export").stdout.startswith("commit\tmetric\tmemory_gb\tstatus\tdescription\n")
    assert len(list(csv.reader(io.StringIO(invoke("export", "--format", "csv").stdout)))) == 5
    result = invoke("export", "--format", "jsonl", "-o", str(tmp_path / "results.jsonl"))
    assert result.stdout == "" and "wrote" in result.stderr
    assert (tmp_path / "results.jsonl").read_text() == invoke("export", "--json").stdout


def test_a_file_that_cannot_be_written_is_an_error(invoke: Invoke, tmp_path: Path) -> None:
    assert "cannot write" in invoke("export", "-o", str(tmp_path / "no" / "results.tsv"), status=2).stderr


def test_report_writes_the_picture_beside_it(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("report", "-o", str(tmp_path / "report.md"))
    assert result.stdout == ""
    text = (tmp_path / "report.md").read_text()
    assert "![Progress](progress.png)" in text and "+rate = 2" in text
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert "progress.png" not in invoke("report").stdout
    assert "cannot write" in invoke("report", "-o", str(tmp_path / "no" / "report.md"), status=2).stderr


def test_without_matplotlib_there_is_a_report_without_a_picture(project: Path, tmp_path: Path) -> None:
    script = "import sys; sys.modules['matplotlib'] = None; from autoresearch_ray.cli import main; main()"
    command = [sys.executable, "-c", script, "report", "-o", str(tmp_path / "report.md")]
    done = subprocess.run(command, cwd=project, env=environ(), capture_output=True, text=True, check=True)
    assert "no picture" in done.stderr and 'pip install "autoresearch-ray[plot]"' in done.stderr
    assert "progress.png" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "progress.png").exists()


# --- Watching --------------------------------------------------------------------------------------------------------


def test_watch_of_a_closed_run_ends_with_the_summary(invoke: Invoke) -> None:
    assert invoke("watch", "--text").stdout.startswith("=== Autoresearch Complete (3 experiments) ===")


def test_watch_of_a_run_that_died_fails(tmp_path: Path) -> None:
    write(Run(), tmp_path)
    result = CliRunner().invoke(main, ["watch", "--text", "--folder", str(tmp_path)])
    assert result.exit_code == 1 and "driver is not running" in result.stderr


@pytest.mark.parametrize("as_json", [True, False])
def test_watch_follows_verdicts_until_the_driver_ends(tmp_path: Path, as_json: bool) -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    run.propose("gpu0", "before", 1.1)
    place = write(run, tmp_path)
    told = len(run.lines)
    for number in range(5):
        run.propose("gpu0", f"idea {number}", 1.0 + number)
    run.close()
    with (place / "driver.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        flag = "--json" if as_json else "--text"
        command = [*COMMAND, "watch", "-i", "0.1", flag, "--folder", str(tmp_path)]
        with subprocess.Popen(
            command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watcher:
            assert watcher.stdout is not None and watcher.stderr is not None
            try:
                assert watcher.stderr.readline().startswith("following nov20")  # it has read what was there
                ledger = Ledger(place / "ledger.jsonl")
                for line in run.lines[told:-1]:
                    ledger.append(line)
                first = watcher.stdout.readline()
                ledger.append(run.lines[-1])
                ledger.close()
                lock.close()
                lines = [first.rstrip("\n"), *watcher.stdout.read().splitlines()]
                watcher.wait(timeout=30)
            finally:
                watcher.kill()
    assert watcher.returncode == 0
    if as_json:
        assert [json.loads(line)["description"] for line in lines] == [f"idea {number}" for number in range(5)]
        return
    assert lines[0] == "#2 [discard] gpu0 1, n = 1  idea 0: because"
    assert lines[5].startswith("=== Experiment 6: val_bpb at 1, n = 1, 0 keeps / 6 discards")
    assert lines[6].startswith("=== Autoresearch Complete (6 experiments) ===")


def test_watch_draws_a_leaderboard_on_a_terminal(project: Path) -> None:
    text = on_a_terminal(project, "watch")
    assert "gpu0" in text and "rate 2 is better" in text and "█" in text
    assert "=== Autoresearch Complete (3 experiments) ===" in text
    assert "\x1b[31m worse" not in text


def test_every_verdict_is_told_once_although_they_come_out_of_order(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run()
    run.seat("gpu0")
    run.seat("gpu1")
    with Lines() as view:
        view.show(run.board)
        first = run.propose("gpu0", "slow", 1.0, Status.PENDING, commit="a1" * 20)
        run.propose("gpu1", "fast", 2.0)
        for _ in range(2):
            view.show(run.board)
        run.add(Judged(run.now, first, "gpu0", Status.DISCARD, "at last"))
        for _ in range(2):
            view.show(run.board)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["#2", "#1"]


def test_an_interrupt_ends_with_130(tmp_path: Path) -> None:
    place = write(Run(), tmp_path)
    with (place / "driver.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [*COMMAND, "watch", "--text", "--folder", str(tmp_path)]
        watcher = subprocess.Popen(command, env=environ(), stderr=subprocess.PIPE, text=True)
        assert watcher.stderr is not None and watcher.stderr.readline().startswith("following nov20")
        watcher.send_signal(signal.SIGINT)
        watcher.communicate(timeout=30)
    assert watcher.returncode == 130
