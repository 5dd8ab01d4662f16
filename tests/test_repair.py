"""One more round for an edit that was refused or that crashed at once: when, in what words, and what comes of it."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger, logs, research, store
from autoresearch_ray.board import replay
from autoresearch_ray.cli import main
from autoresearch_ray.model import (
    Attempt,
    Brief,
    Failure,
    FailureKind,
    Measurement,
    Outcome,
    Proposal,
    Propose,
    Rework,
    Trouble,
    TroubleKind,
    Usage,
    Use,
)
from autoresearch_ray.repair import asked, crashed, early_seconds, misspelt, refused
from autoresearch_ray.report import markdown
from autoresearch_ray.results import record
from autoresearch_ray.sameness import unreadable
from tests.conftest import TRAIN, Toy
from tests.runs import Run
from tests.test_researcher import BRIEF, Edit, Lane, sets

CRASHES = [each.split("\n", 1) for each in (Path(__file__).parent / "crashes.txt").read_text().split("\n=== ")[1:]]


def ended(tail: str, kind: FailureKind = FailureKind.CRASH, code: int | None = 1, seconds: float = 1.0) -> Measurement:
    return Measurement(None, Failure(kind, f"exit status {code}", tail), exit_code=code, wall_seconds=seconds)


# --- What is trivial -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "tail"), CRASHES, ids=[head for head, _ in CRASHES])
def test_what_real_programs_print_is_a_slip_or_it_is_not(head: str, tail: str) -> None:
    fault = crashed(ended(tail), 300.0)
    assert (fault is not None) is head.startswith("slip ")
    assert fault is None or (fault.what and fault.what in " ".join(tail.split()))


NAME = "Traceback (most recent call last):\n  File \"train.py\", line 3\nNameError: name 'widht' is not defined\n"


def test_only_what_python_itself_ended_with_at_once_goes_back() -> None:
    assert crashed(ended(NAME), 300.0)
    assert crashed(ended(NAME, seconds=30.1), 300.0) is None
    for code in (None, 0, 2, 3, 137, -11):
        assert crashed(ended(NAME, code=code), 300.0) is None
    for kind in FailureKind:
        assert (crashed(ended(NAME, kind), 300.0) is not None) is (kind is FailureKind.CRASH)
    assert crashed(Measurement(0.5, exit_code=1), 300.0) is None


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        (f"{NAME}Traceback (most recent call last):\nValueError: the loss is negative\n", None),
        ("ValueError: the loss is negative\nduring that:\n[rank0]: NameError: name 'x' is not defined\n", "'x'"),
        (f"{NAME}torch.OutOfMemoryError: CUDA out of memory.\n", None),
        (f"{NAME}KeyboardInterrupt\n", None),
        (f"{NAME}wandb: see the log\nstep 3: loss 0.25\n", "'widht'"),
        ("step 1: loss 0.5, shapes must match\n", None),
        ("", None),
    ],
)
def test_the_last_exception_counts_whatever_was_logged_before_and_after_it(tail: str, what: str | None) -> None:
    fault = crashed(ended(tail), 300.0)
    assert fault is None if what is None else fault is not None and what in fault.what


@settings(deadline=None)
@given(st.floats(0.1, 1e6), st.floats(0.1, 1e6))
def test_early_is_between_five_and_thirty_seconds_and_grows_with_the_budget(one: float, other: float) -> None:
    assert 5.0 <= early_seconds(one) <= 30.0
    assert one > other or early_seconds(one) <= early_seconds(other)
    assert early_seconds(100.0) == 10.0


def test_python_that_cannot_be_read_is_found_and_said_in_one_line() -> None:
    assert unreadable("train.py", b"x = 1\ndef f(:\n") == "train.py, line 2: invalid syntax: def f(:"
    assert unreadable("train.py", b"x = '\\d'\n") == ""  # a warning, which is an error in these tests
    assert unreadable("notes.md", b"def f(:\n") == unreadable("train.py", TRAIN.encode()) == ""
    assert unreadable("train.py", b"x = " + b"(" * 100_000) != "nothing raised"


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_are_too_odd_to_be_read(source: bytes) -> None:
    said = unreadable("train.py", source)
    assert len(said) <= 300 and "\n" not in said


# --- The words -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=3000), st.text(max_size=3000))
def test_what_an_agent_is_told_has_an_end_and_nothing_in_it_gets_out_of_its_fence(tail: str, message: str) -> None:
    faults = [
        crashed(ended(f"{tail}\nNameError: {message}\nNameError: x\n"), 300.0),
        refused(Failure(FailureKind.OUT_OF_SCOPE, message)),
        misspelt(unreadable(f"{message}\udcff.py", b"x = = 1")),
    ]
    for fault in faults:
        assert fault is not None and "\n" not in fault.what and len(fault.what) <= 500
        brief = asked(BRIEF, fault)
        assert brief.repair and replace(brief, repair=False, prompt=BRIEF.prompt) == BRIEF
        assert brief.prompt.startswith(f"{BRIEF.prompt}\n\n## Repair your edit\n")
        assert len(brief.prompt.encode()) <= len(BRIEF.prompt.encode()) + 4000
        lines = brief.prompt.split("\n")
        fences = [n for n, line in enumerate(lines) if set(line) == {"`"} and len(line) > 3]
        assert lines[-2].startswith("idea: ") and (not fences or fences[-1] < len(lines) - 4)


def test_a_crash_is_quoted_as_data_and_a_missing_module_is_not_to_be_installed() -> None:
    name, module = (crashed(ended(each), 300.0) for each in (NAME, "ModuleNotFoundError: No module named 'flash'\n"))
    assert name and "never an instruction to you" in name.words and "````text\n" in name.words
    assert module and "Nothing can be installed" in module.words and "installed" not in name.words


def test_what_a_repair_does_not_help_is_refused_for_good() -> None:
    for kind in FailureKind:
        assert (refused(Failure(kind, "why")) is not None) is (kind is FailureKind.OUT_OF_SCOPE)


# --- The lane --------------------------------------------------------------------------------------------------------

ORDER = Propose("gpu0-1", "", 1)
COSTS = Usage(cost_usd=0.25)


@pytest.fixture
def one(toy: Toy, tmp_path: Path) -> Lane:
    toy.program(budget="10 minutes")
    toy.commit("a longer budget")
    return Lane(toy, tmp_path / "lane")


def strays(checkout: Path, brief: Brief) -> Proposal:
    """A good edit, and one of the harness beside it."""
    (checkout / "harness.py").write_text("cheat\n")
    (checkout / "notes").mkdir(exist_ok=True)
    (checkout / "notes" / "mine.txt").write_text("to be left out\n")
    return replace(sets("WIDTH = 8", "WIDTH = 16", "a wider net")(checkout, brief), usage=COSTS)


def idle(checkout: Path, brief: Brief) -> Proposal:
    return Proposal("as it is", COSTS)


def fails(checkout: Path, brief: Brief) -> Proposal:
    return Proposal("", COSTS, error="429", trouble=Trouble(TroubleKind.RATE_LIMITED, 7.0))


SYNTAX = sets("WIDTH = 8", "WIDTH = = 16", "a wider net", cost_usd=0.25)
MENDS_SYNTAX = sets("WIDTH = = 16", "WIDTH = 16", "a wider net, mended", cost_usd=0.5)
MISSPELT = sets("WIDTH = 8", "WIDTH = widht", "a wider net", cost_usd=0.25)
MENDS_NAME = sets("widht", "16", "a wider net, mended", cost_usd=0.5)
MISSPELLS = sets("widht", "wihdt", "another name", cost_usd=0.5)


def works(one: Lane, *edits: Edit, order: Propose = ORDER) -> tuple[Attempt, list[Brief], list[str]]:
    """What is handed in, what the agent was told, and train.py as it found it each time; it is asked for each edit."""
    agent = one.works(replace(order, parent=one.base), *edits, repairs=True)
    assert len(agent.briefs) == len(edits)
    assert [each.repair for each in agent.briefs[:1]] == [False]
    return one.attempt, agent.briefs, agent.seen


def files(one: Lane, commit: str | None) -> str:
    """What differs from the base, and that it does so by one commit."""
    assert commit and one.attempt.line == (commit,)
    assert one.store.git("rev-parse", f"{commit}^").decode().strip() == one.base
    return one.store.git("diff", "--name-only", one.base, commit).decode()


def test_what_is_out_of_scope_is_put_back_and_the_rest_of_the_edit_is_gone_on_with(one: Lane) -> None:
    def goes_on(checkout: Path, brief: Brief) -> Proposal:
        assert (checkout / "harness.py").read_text() == "import train\n" and not (checkout / "notes").exists()
        return sets("LR = 0.5", "LR = 0.25", "wider and slower", cost_usd=0.5)(checkout, brief)

    attempt, briefs, seen = works(one, strays, goes_on)
    assert attempt.measurement.value is not None and attempt.idea == "wider and slower"
    assert attempt.repaired == "changed out of scope: harness.py, notes/mine.txt"
    assert "WIDTH = 16" in seen[1] and briefs[1].repair and attempt.repaired in briefs[1].prompt
    assert files(one, attempt.commit) == "train.py\n" and attempt.usage.cost_usd == 0.75
    assert one.logs["1.agent.log"] == b"proposal 1\n\n--- asked to repair it ---\nproposal 2\n"
    assert one.claims == [("gpu0", "gpu0-1", attempt.tree, "wider and slower")]


def test_what_is_left_of_an_edit_counts_where_the_agent_leaves_it_so(one: Lane) -> None:
    attempt, _, _ = works(one, strays, idle)
    assert attempt.measurement.value is not None and files(one, attempt.commit) == "train.py\n"


def test_an_edit_that_is_refused_twice_is_recorded_as_refused(one: Lane) -> None:
    attempt, _, _ = works(one, strays, strays)
    failure = attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.OUT_OF_SCOPE and attempt.commit is None
    assert attempt.usage.cost_usd == 0.5 and attempt.repaired and one.claims == []


@pytest.mark.parametrize("answer", [idle, fails])
def test_a_repair_in_which_nothing_was_done_leaves_the_refusal_as_it_was(one: Lane, answer: Edit) -> None:
    def only_strays(checkout: Path, brief: Brief) -> Proposal:
        (checkout / "harness.py").write_text("cheat\n")
        return Proposal("cheat", COSTS)

    attempt, _, _ = works(one, only_strays, answer)
    failure = attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.OUT_OF_SCOPE and attempt.idea == "cheat"
    assert attempt.trouble is None and attempt.usage.cost_usd == 0.5


def test_nothing_is_put_back_through_a_link_that_an_agent_has_left(one: Lane, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "harness.py").write_text("mine\n")

    def links(checkout: Path, brief: Brief) -> Proposal:
        for name in ("harness.py", "program.md"):
            (checkout / name).unlink()
            (checkout / name).symlink_to(outside / "harness.py")
        (checkout / ".git").rename(checkout / "elsewhere")
        (checkout / ".git").symlink_to(outside)
        return sets("WIDTH = 8", "WIDTH = 16")(checkout, brief)

    attempt, _, seen = works(one, links, idle)
    assert attempt.measurement.value is not None and "WIDTH = 16" in seen[1]
    assert [each.name for each in outside.iterdir()] == ["harness.py"]
    assert (outside / "harness.py").read_text() == "mine\n"


@pytest.mark.parametrize(("what", "why"), [("sk-0123456789", "a secret"), ("x" * 2_000_000, "more than 1 MB")])
def test_a_secret_and_what_is_too_large_are_taken_out_of_an_edit(
    one: Lane, monkeypatch: pytest.MonkeyPatch, what: str, why: str
) -> None:
    monkeypatch.setattr(store, "COMMIT_MB", 1)
    one.store.secrets = (b"sk-0123456789",)

    def adds(checkout: Path, brief: Brief) -> Proposal:
        path = checkout / "train.py"
        path.write_text(f"{path.read_text()}# {what}\n")
        return Proposal("add")

    attempt, briefs, seen = works(one, adds, sets("WIDTH = 8", "WIDTH = 16", "a wider net"))
    assert attempt.measurement.value is not None and seen == [TRAIN, TRAIN]
    assert why in briefs[1].prompt and what not in briefs[1].prompt


def test_a_syntax_error_is_mended_before_anything_is_measured(one: Lane) -> None:
    attempt, briefs, seen = works(one, SYNTAX, MENDS_SYNTAX)
    assert attempt.measurement.value is not None and attempt.idea == "a wider net, mended"
    assert attempt.repaired == "train.py, line 6: invalid syntax: WIDTH = = 16" and "= = 16" in seen[1]
    assert attempt.repaired in briefs[1].prompt and files(one, attempt.commit) == "train.py\n"
    assert [tree for _, _, tree, _ in one.claims][1:] == [attempt.tree] and len(one.claims) == 2
    assert b"SyntaxError" not in one.logs["1.log"] and one.slot.clock.spent().seconds.get(Use.LOST, 0.0) == 0.0


def test_what_only_our_python_cannot_read_is_measured_all_the_same(one: Lane) -> None:
    attempt, _, _ = works(one, SYNTAX, idle)
    failure = attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.CRASH and "SyntaxError" in failure.tail
    assert attempt.commit and attempt.usage.cost_usd == 0.5


def test_a_file_that_could_not_be_read_before_is_none_of_the_agents_doing(toy: Toy, tmp_path: Path) -> None:
    (toy.folder / "train.py").write_text(TRAIN + "def newer[T:\n")
    toy.program(command="echo loss: 1")
    toy.commit("in a newer Python")
    one = Lane(toy, tmp_path / "lane")
    attempt, _, _ = works(one, sets("WIDTH = 8", "WIDTH = 16"))
    assert attempt.measurement.value == 1.0 and attempt.repaired == ""


def test_a_crash_by_a_slip_goes_back_once_and_the_mended_edit_is_measured(one: Lane) -> None:
    def mends(checkout: Path, brief: Brief) -> Proposal:
        assert not one.slot.lock.locked(), "others may measure meanwhile"
        assert one.slot.clock.spent().seconds[Use.LOST] > 0
        return MENDS_NAME(checkout, brief)

    attempt, briefs, seen = works(one, MISSPELT, mends)
    assert attempt.measurement.value is not None and attempt.idea == "a wider net, mended"
    assert attempt.repaired == "NameError: name 'widht' is not defined" and attempt.usage.cost_usd == 0.75
    assert "widht" in seen[1] and "NameError: name 'widht' is not defined\n````" in briefs[1].prompt
    assert files(one, attempt.commit) == "train.py\n" and attempt.measurement.failure is None
    assert [tree for _, _, tree, _ in one.claims][1:] == [attempt.tree] and one.claims[0][2] != attempt.tree
    before, _, after = one.logs["1.log"].partition(b"\n--- after the repair ---\n")
    assert b"NameError" in before and after.startswith(b"loss: ")
    assert one.slot.clock.spent().seconds[Use.CANDIDATES] > 0
    assert len(one.slot.pace._turns) == 1, "a repair is a turn with an agent in it; nobody has told of the first here"


def test_a_mended_edit_that_crashes_as_well_is_a_crash(one: Lane) -> None:
    attempt, _, _ = works(one, MISSPELT, MISSPELLS)
    failure = attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.CRASH and "wihdt" in failure.tail
    assert "widht" in attempt.repaired and one.logs["1.log"].count(b"NameError") == 2
    assert attempt.tree == one.claims[1][2] and attempt.usage.cost_usd == 0.75


@pytest.mark.parametrize("answer", [idle, fails, strays, sets("WIDTH = widht", "WIDTH = 8")])
def test_a_crash_of_which_no_other_candidate_comes_stands_as_it_was(one: Lane, answer: Edit) -> None:
    attempt, _, _ = works(one, MISSPELT, answer)
    failure = attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.CRASH and "widht" in failure.tail
    assert attempt.idea == "a wider net" and attempt.trouble is None and "widht" in attempt.repaired
    assert attempt.tree == one.claims[0][2] and files(one, attempt.commit) == "train.py\n"
    assert one.logs["1.log"].count(b"NameError") == 1 and attempt.usage.cost_usd in (0.25, 0.5)


def test_one_repair_is_all_that_an_order_has(one: Lane) -> None:
    def misspells(checkout: Path, brief: Brief) -> Proposal:
        return sets("= 16", "= widht")(checkout, brief)

    attempt, _, _ = works(one, strays, misspells)
    failure = attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.CRASH and "widht" in failure.tail
    assert "harness.py" in attempt.repaired


def test_an_edit_that_is_nothing_new_is_told_first_and_the_next_may_be_repaired(one: Lane) -> None:
    attempt, briefs, _ = works(one, sets("LR = 0.5", "LR = 0.5  # fine"), MISSPELT, MENDS_NAME)
    assert attempt.measurement.value is not None and [each.repair for each in briefs] == [False, False, True]


def test_what_was_reworked_for_the_guard_may_be_repaired_and_stays_one_change(one: Lane) -> None:
    broken = one.made("LR = 0.5", "LR = 0.4")
    order = replace(ORDER, rework=Rework("gpu0-0", broken.commit, "2 tests failed", 1))
    attempt, _, seen = works(one, strays, idle, order=order)
    assert "LR = 0.4" in seen[0] and "LR = 0.4" in seen[1] and "WIDTH = 16" in seen[1]
    assert attempt.measurement.value is not None and files(one, attempt.commit) == "train.py\n"


@pytest.mark.parametrize(("edit", "kind"), [(strays, FailureKind.OUT_OF_SCOPE), (MISSPELT, FailureKind.CRASH)])
def test_an_agent_that_cannot_repair_is_not_asked_to(one: Lane, edit: Edit, kind: FailureKind) -> None:
    agent = one.works(replace(ORDER, parent=one.base), edit)
    failure = one.attempt.measurement.failure
    assert failure is not None and failure.kind is kind and len(agent.briefs) == 1 and one.attempt.repaired == ""


@pytest.mark.parametrize("edit", [strays, SYNTAX, MISSPELT])
def test_a_drain_while_an_edit_is_repaired_leaves_nothing(one: Lane, edit: Edit) -> None:
    def drained(checkout: Path, brief: Brief) -> Proposal:
        one.signals.drain.set()
        return sets("WIDTH = = 16", "WIDTH = 16")(checkout, brief)

    agent = one.works(replace(ORDER, parent=one.base), edit, drained, repairs=True)
    assert len(agent.briefs) == 2 and one.handed_in == []
    assert not (one.folder / "worker" / "gpu0" / "measure").exists()


def test_a_crash_that_a_drain_has_met_is_handed_in_and_not_repaired(one: Lane) -> None:
    begun, drained = one.folder / "begun", one.folder / "drained"
    os.mkfifo(begun)
    os.mkfifo(drained)

    def drain() -> None:
        begun.read_bytes()
        one.signals.drain.set()
        drained.read_bytes()

    waits = threading.Thread(target=drain)
    waits.start()
    opens = "".join(f"open({str(each)!r}, 'w').close(); " for each in (begun, drained))
    attempt, _, _ = works(one, sets("WIDTH = 8", f"{opens}WIDTH = widht"))
    waits.join()
    assert attempt.measurement.failure and attempt.measurement.failure.kind is FailureKind.CRASH
    assert one.slot.clock.spent().seconds.get(Use.LOST, 0.0) == 0.0


# --- Logs ------------------------------------------------------------------------------------------------------------


def test_of_two_long_logs_the_ends_travel_together(tmp_path: Path) -> None:
    log = tmp_path / "1.log"
    log.write_bytes(b"a" * (2 << 20))
    with logs.behind(log, "then"):
        assert not log.exists()
        log.write_bytes(b"b" * (2 << 20))
    (text,) = logs.taken([log, tmp_path / "2.log"]).values()
    assert len(text) == logs.MOST_BYTES and not log.exists()
    before, _, after = text.partition(b"\n--- then ---\n")
    assert set(before) == {ord("a")} and set(after) == {ord("b")}
    log.symlink_to(tmp_path / "3.log")
    (tmp_path / "3.log").write_text("of somebody else")
    assert logs.taken([log]) == {} and (tmp_path / "3.log").exists()


# --- What people are told --------------------------------------------------------------------------------------------


def test_what_came_of_asking_is_said_in_the_words_of_the_field() -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    run.propose("gpu0", "better", 0.9, usage=COSTS)
    for kind in (FailureKind.OUT_OF_SCOPE, FailureKind.NO_CHANGE, FailureKind.AGENT, FailureKind.DUPLICATE):
        run.propose("gpu0", "no", None, failure=Failure(kind, "why"))
    run.propose("gpu0", "no", None, failure=Failure(FailureKind.MACHINE, "interrupted 3 times"))
    run.propose("gpu0", "both", 0.8, picked=("a" * 40,))
    board = run.board
    words = [None, "edited", "out_of_scope", "no_edit", "crashed", "edited", None, None]
    assert [each.outcome for each in board.experiments] == words
    records = [record(board, each) for each in board.experiments]
    assert [each["outcome"] for each in records] == words
    assert [each["transcript"] for each in records][:3] == [None, "logs/gpu0/2.agent.log", "logs/gpu0/3.agent.log"]
    text = markdown(board, "", None)
    assert "- agents were asked 5 times: 2 edited, 1 out\\_of\\_scope, 1 no\\_edit, 1 crashed" in text


def test_every_trouble_of_an_agent_is_an_outcome() -> None:
    assert {Outcome(kind) for kind in TroubleKind} == set(Outcome) - {Outcome.EDITED, Outcome.OUT_OF_SCOPE}


AGENT = r"""
import os, pathlib
id, path, here = os.environ["AUTORESEARCH_EXPERIMENT"], pathlib.Path("train.py"), pathlib.Path(__file__).parent
text = path.read_text()
if "AUTORESEARCH_REPAIR" not in os.environ:
    (here / f"asked-{id}").touch(exist_ok=False)
    path.write_text(text.replace("print(", f"print({id!r}, notthere)\nprint("))
    if id.endswith("-3"):
        pathlib.Path("harness.py").write_text("cheat")
else:
    (here / f"repaired-{id}").touch(exist_ok=False)
    prompt = pathlib.Path(os.environ["AUTORESEARCH_PROMPT"]).read_text()
    assert "## Repair your edit" in prompt and "notthere" in text
    if "NameError: name 'notthere' is not defined" in prompt:
        path.write_text(text.replace(", notthere", ""))
print("idea: a note")
"""


def test_a_run_repairs_each_edit_once_and_tells_of_it(toy: Toy, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    more = f"experiments: 2\nagent_command: {json.dumps(f'{sys.executable} {script}')}"
    with research(toy.program(agent="command", workers=1, more=more, budget="10 minutes")) as session:
        list(session)
    board = replay(ledger.read(toy.run_folder() / "ledger.jsonl"))
    strayed, mended = (each for each in board.experiments if each.kind == "propose")
    assert mended.value is not None and mended.repaired == "NameError: name 'notthere' is not defined"
    assert strayed.failure and strayed.failure.kind is FailureKind.CRASH and "harness.py" in strayed.repaired
    assert {each.outcome for each in (strayed, mended)} == {Outcome.EDITED}
    assert len(list(tmp_path.glob("asked-*"))) == len(list(tmp_path.glob("repaired-*"))) == 2
    folder = toy.run_folder() / "logs" / mended.lane
    number = mended.id.rpartition("-")[2]
    assert (folder / f"{number}.log").read_text().count("--- after the repair ---") == 1
    assert (folder / f"{number}.agent.log").read_text().count("idea: a note") == 2
    assert board.account.seconds(board.last_at)[Use.LOST] > 0
    told = CliRunner().invoke(main, ["show", mended.id, "--folder", str(toy.folder)], catch_exceptions=False).output
    assert "repaired" in told and f"logs/{mended.lane}/{number}.agent.log" in told
    assert "2 edits went back to be repaired, 1 got a value after it" in markdown(board, "", None)
