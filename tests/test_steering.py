"""Steering real runs: prompts that change while nothing stops, lanes that wait, and changes that people submit."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from autoresearch_ray import inbox, ledger, steering
from autoresearch_ray import tree as trees
from autoresearch_ray.cli import main
from autoresearch_ray.cli.steering import _called
from autoresearch_ray.coordinator import Coordinator
from autoresearch_ray.errors import SetupError
from autoresearch_ray.events import Closed, Declined, Event, Measured, Resteered, Resumed, Seated, Submitted, Told
from autoresearch_ray.messages import Hold, Submit, Tell
from autoresearch_ray.mirror import Mirror
from autoresearch_ray.model import Status, Wait
from autoresearch_ray.remote import Remote
from autoresearch_ray.repo import Hub, Origin
from autoresearch_ray.restore import restore
from autoresearch_ray.run_folder import begin
from autoresearch_ray.session import Program, Session, research
from autoresearch_ray.steering import Patch
from tests.conftest import TRAIN, Toy
from tests.runs import Run, write

SEEN = 'cat > "$SEEN/$$"; sed -i "s/^WIDTH.*/WIDTH = 1$(date +%N)/" train.py; echo "idea: width"'


def diff(toy: Toy, old: str, new: str, name: str = "train.py") -> str:
    """What `git diff` says of an edit, which is put back."""
    path = toy.folder / name
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    text = toy.git("diff", "--", name) + "\n"
    path.write_text(before)
    return text


def events(folder: Path) -> list[Event]:
    return [each for line in ledger.read(folder / "ledger.jsonl") for each in line]


def until(session: Session, done: Callable[[], bool]) -> None:
    """Drive the run until `done`. It ends with an error before it would hang."""
    for _ in range(200):
        if done():
            return
        assert session.advance(), "the run ended before"
    raise AssertionError(f"that never came: {session.warnings}")


@contextmanager
def waiting_run(toy: Toy, **words: object) -> Iterator[Session]:
    """A run that measures what is submitted, with its baseline measured."""
    words = {"agent": "submitted", "workers": 1, "more": "hours: 1", **words}
    with research(toy.program(**words)) as session:  # type: ignore[arg-type]
        until(session, lambda: session.board.baseline is not None)
        yield session
        session.stop("enough", now=True)


@contextmanager
def driven(toy: Toy, backend: str) -> Iterator[subprocess.Popen[str]]:
    """The same in a process of its own, which is to be told to end."""
    page = toy.program(agent="submitted", backend=backend, workers=1, more="hours: 1")
    command = [sys.executable, "-m", "autoresearch_ray", "run", str(page)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        try:
            assert driver.stdout and "baseline" in driver.stdout.readline()
            yield driver
            driver.communicate(timeout=60)
        except BaseException:
            driver.kill()
            raise


# --- Prompts ---------------------------------------------------------------------------------------------------------


def test_what_is_told_and_what_is_edited_reach_the_next_prompts_and_nothing_is_stopped(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv("SEEN", str(seen))
    page = toy.program(agent="command", workers=2, more=f"hours: 1\nenv: [SEEN]\nagent_command: {json.dumps(SEEN)}")

    def prompts(words: str) -> int:
        return sum(words in each.read_text() for each in seen.iterdir())

    with research(page) as session:
        until(session, lambda: prompts("Try constants.") > 0)
        assert prompts("From the human") == 0
        id = steering.tell(session.folder, "try rotary base 50k\n## Rules\n1. none", ["cpu0"])
        until(session, lambda: prompts("> try rotary base 50k\n> ## Rules\n> 1. none") > 0)
        page.write_text(page.read_text().replace("Try constants.", "Try wider nets.") + "\n## Notes\nMind the clock.\n")
        until(session, lambda: prompts("Try wider nets.") > 0 and prompts("Mind the clock.") > 0)

        good = page.read_text()
        page.write_text(good.replace("`python train.py`", "`python cheat.py`"))
        until(session, lambda: any("its Eval is frozen" in each for each in session.warnings))
        page.write_text(good.replace("modify: train.py", "modify: *"))
        until(session, lambda: any("its Scope is frozen" in each for each in session.warnings))
        page.write_text(good.replace("hours: 1", "hours: 2"))
        until(session, lambda: any("not taken up: hours:" in each for each in session.warnings))
        page.write_text(good.replace("Metric:", "Metrik:"))
        until(session, lambda: any("goes on with what it read before" in each for each in session.warnings))
        page.unlink()
        session.advance()
        page.write_text(good.replace("Mind the clock.", "Mind the gap."))
        until(session, lambda: prompts("Mind the gap.") > 0)
        session.stop("enough", now=True)
    said = events(session.folder)
    assert [each.id for each in said if isinstance(each, Told)] == [id] and not inbox.waiting(session.folder)
    assert [each.notes for each in said if isinstance(each, Resteered)] == ["Mind the clock.", "Mind the gap."]
    assert sum(isinstance(each, Seated) for each in said) == 2 and not any(isinstance(each, Resumed) for each in said)
    assert sum(isinstance(each, Closed) for each in said) == 1 and len(session.warnings) == 4
    assert prompts("> try rotary base 50k") <= 3 and "`cpu1`" not in "".join(
        each.read_text() for each in seen.iterdir() if "rotary base" in each.read_text()
    )


def test_a_lane_that_is_paused_waits_until_it_is_resumed(toy: Toy) -> None:
    run = ["--folder", str(toy.folder)]
    with research(toy.program(more="experiments: 400")) as session:
        until(session, lambda: len(session.board.lanes) == 2 and session.board.baseline is not None)
        with pytest.raises(SetupError, match="no lane 'cpu7'"):
            steering.hold(session.folder, "cpu7")
        steering.hold(session.folder, "cpu0")
        lane = lambda: session.board.lanes["cpu0"]  # noqa: E731
        until(session, lambda: isinstance(lane().order, Wait))
        status = CliRunner().invoke(main, ["status", "--text", *run]).output
        assert "waits: it was paused by hand" in status
        (row,) = (
            each
            for each in json.loads(CliRunner().invoke(main, ["status", *run]).output)["lanes"]
            if each["lane"] == "cpu0"
        )
        assert row["paused_by_hand"] is True
        before = session.board.attempts
        until(session, lambda: session.board.attempts > before + 3)
        assert isinstance(lane().order, Wait) and sorted(session.board.lanes) == ["cpu0", "cpu1"]
        steering.release(session.folder, "cpu0")
        until(session, lambda: not isinstance(lane().order, Wait))
        steering.hold(session.folder, "cpu0")
        session.stop("enough")
    assert session.board.closed is not None


# --- Changes of one's own --------------------------------------------------------------------------------------------


def test_a_grid_is_measured_and_judged_and_the_user_s_files_are_left_alone(toy: Toy) -> None:
    toy.program(agent="submitted", workers=2, more="hours: 1")
    toy.commit("the page")
    grid = [Patch(diff(toy, "LR = 0.5", f"LR = {each}"), f"LR {each}") for each in (0.1, 0.2, 0.9)]
    with research(toy.folder) as session:
        ids = steering.submit(session.folder, grid, by="ann")
        assert {each.state for each in steering.results(session.folder, ids)} <= {"sent", "queued"}
        until(session, lambda: all(each.decided for each in steering.results(session.folder, ids)))
        first, second, third = steering.results(session.folder, ids, timeout=60.0)
        assert (first.state, third.state) == ("keep", "discard") and first.by == "ann"
        assert first.value is not None and second.value is not None and first.value < second.value < 0.75
        assert first.gain is not None and first.gain > 0.1 and third.gain is not None and third.gain < 0
        assert {first.lane, second.lane, third.lane} <= {"cpu0", "cpu1"}
        until(session, lambda: any(each.best for each in steering.results(session.folder, ids)))
        more = steering.submit(session.folder, [Patch(grid[1].patch, "again")], parent=session.board.opened.base)
        until(session, lambda: steering.results(session.folder, more)[0].decided)
        assert "tried exactly this" in steering.results(session.folder, more)[0].reason
        on_top = diff(toy, "WIDTH = 8", "WIDTH = 30")
        (wide,) = steering.submit(session.folder, [Patch(on_top, "wide")])  # its neighbour line is another one by now
        until(session, lambda: steering.results(session.folder, [wide])[0].decided)
        assert "does not apply" in steering.results(session.folder, [wide])[0].reason
        (wide,) = steering.submit(session.folder, [Patch(on_top, "wide")], parent="#0")
        until(session, lambda: steering.results(session.folder, [wide])[0].decided)
        found = steering.results(session.folder, [wide])[0]
        assert (found.state, found.parent) == ("keep", session.board.opened.base)
        session.stop("enough", now=True)
    assert toy.git("status", "--porcelain") == ""
    tried = [each for each in session.board.experiments if each.submission]
    assert [each.lane for each in tried] and session.board.counted >= 4
    text = CliRunner().invoke(main, ["results", "--json", "--folder", str(toy.folder)]).output
    listed = json.loads(text)
    assert listed["done"] and len(listed["submissions"]) == 6
    shown = CliRunner().invoke(main, ["log", "--folder", str(toy.folder)]).output
    assert {json.loads(line)["by"] for line in shown.splitlines()} >= {None, "ann", "human"}


NEW = "diff --git a/{0} b/{0}\nnew file mode {1}\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+x\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Toy, Coordinator]]:
    """The coordinator of a run, without any lane."""
    toy = Toy(tmp_path_factory.mktemp("desk") / "toy")
    program = Program.read(toy.program())
    toy.run_folder().mkdir(parents=True)
    begin(toy.run_folder(), "t1", Origin.find(toy.folder), program, 1.0, "0")
    coordinator = Coordinator(toy.run_folder())
    yield toy, coordinator
    coordinator.leave()


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (NEW.format("harness.py", "100644").replace("new file mode 100644\n", ""), "does not apply"),
        (NEW.format("other.py", "100644"), "changed out of scope: other.py"),
        (NEW.format("../x", "100644"), "invalid path"),
        (NEW.format("a/../../x", "100644"), "invalid path"),
        (NEW.format(".git/hooks/post-checkout", "100755"), "invalid path"),
        (NEW.format(".GIT/config", "100644"), "invalid path"),
        ("--- /dev/null\n+++ /etc/cron.d/x\n@@ -0,0 +1 @@\n+x\n", "out of scope: etc/cron.d/x"),
        (NEW.format("link", "120000"), "out of scope: link"),
        ("diff --git a/train.py b/train.py\nold mode 100644\nnew mode 120000\n", "does not apply"),
        ("diff --git a/train.py b/train.py\nGIT binary patch\nliteral 10\nRcmZQzWMT#Y01f~L\n\n", "a binary file"),
        ("diff --git a/train.py b/train.py\nindex 1..2 100644\nBinary files a/train.py and b/train.py differ\n",
         "does not apply"),
        ("diff --git a/train.py b/train.py\nold mode 100644\nnew mode 160000\n", "does not apply"),
        ("hello", "it is no unified diff"),
        ("--- a/train.py\n+++ b/train.py\n@@ -1,3 +1,3 @@\n-import nothing\n+import os\n import random\n import time\n",
         "does not apply to"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_declined_with_the_reason(
    desk: tuple[Toy, Coordinator], patch: str, words: str
) -> None:
    toy, coordinator = desk
    (id,) = inbox.ids(1)
    assert words in coordinator.hear(Submit(id, patch, "evil"))
    (declined,) = (each for each in events(toy.run_folder()) if isinstance(each, Declined) and each.id == id)
    assert words in declined.reason
    assert sorted(each.name for each in toy.folder.parent.iterdir()) == ["toy"]
    assert toy.git("status", "--porcelain").split() in ([], ["M", "program.md"])


def test_a_patch_that_copies_a_large_file_again_and_again_is_declined(tmp_path: Path) -> None:
    """Each copy is a line of the patch, and its whole size in every tree that is made of it."""
    toy = Toy(tmp_path / "toy")
    (toy.folder / "data").mkdir()
    (toy.folder / "data" / "large").write_text("0123456\n" * (1 << 19))
    toy.commit()
    (toy.folder / "program.md").write_text((toy.folder / "program.md").read_text().replace("train.py\n", "data/\n", 1))
    toy.run_folder().mkdir(parents=True)
    begin(toy.run_folder(), "t1", Origin.find(toy.folder), Program.read(toy.folder / "program.md"), 1.0, "0")
    desk = Coordinator(toy.run_folder())
    copy = "diff --git a/data/large b/data/{0}\nsimilarity index 100%\ncopy from data/large\ncopy to data/{0}\n"
    assert desk.hear(Submit(inbox.ids(1)[0], "".join(map(copy.format, range(8))), "x")) == ""
    assert "more than 32 MB" in desk.hear(Submit(inbox.ids(1)[0], "".join(map(copy.format, range(9))), "x"))
    desk.leave()


def test_what_has_no_effect_and_what_changes_nothing_is_declined(desk: tuple[Toy, Coordinator]) -> None:
    toy, coordinator = desk
    comment = diff(toy, "LR = 0.5", "LR = 0.5  # the rate")
    assert "only a seed, a comment" in coordinator.hear(Submit(inbox.ids(1)[0], comment, "a comment"))
    same = "--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n-import os\n+import os\n import random\n"
    assert "no file is changed" in coordinator.hear(Submit(inbox.ids(1)[0], same, "nothing"))
    assert "no measured commit" in coordinator.hear(Submit(inbox.ids(1)[0], comment, "nowhere", "feedbeef"))


def test_wrong_counts_in_a_hunk_are_mended_and_the_same_message_counts_once(desk: tuple[Toy, Coordinator]) -> None:
    toy, coordinator = desk
    patch = diff(toy, "LR = 0.5", "LR = 0.25").replace("@@ -2,7 +2,7 @@", "@@ -2,9 +2,4 @@")
    (id,) = inbox.ids(1)
    for _ in range(3):
        assert coordinator.hear(Submit(id, patch, "a rate")) == ""
    submitted = [each for each in events(toy.run_folder()) if isinstance(each, Submitted)]
    assert [each.id for each in submitted] == [id]
    files = subprocess.run(
        ["git", "show", f"{submitted[0].commit}:train.py"],
        cwd=toy.run_folder() / "hub.git",
        capture_output=True,
        text=True,
        check=True,
    )
    assert files.stdout == TRAIN.replace("LR = 0.5", "LR = 0.25")


def test_a_mirror_holds_what_waits_to_be_measured(desk: tuple[Toy, Coordinator], tmp_path: Path) -> None:
    toy, coordinator = desk
    (id,) = inbox.ids(1)
    assert coordinator.hear(Submit(id, diff(toy, "WIDTH = 8", "WIDTH = 16"), "a wider net")) == ""
    toy.git("init", "-q", "--bare", str(tmp_path / "there.git"))
    remote = Remote.find(str(tmp_path / "there.git"), toy.folder, os.environ)
    assert Mirror(remote, toy.run_folder(), "t1").push() is None
    (tmp_path / "again").mkdir()
    again = restore(remote, tmp_path / "again", None)
    (event,) = (each for each in events(again) if isinstance(each, Submitted) and each.id == id)
    assert Hub.open(again / "hub.git").git("rev-parse", f"refs/submitted/{id}").decode().strip() == event.commit


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ("\udcff", "not UTF-8"),
        ("x" * (10 << 20), "at most 1 MB"),
        ("é" * 600_000, "at most 1 MB"),
        (" \n", "the patch is empty"),
    ],
)
def test_what_is_too_long_or_empty_is_never_sent(tmp_path: Path, patch: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        steering.submit(tmp_path, [Patch("fine", "fine"), Patch(patch, "idea")])
    with pytest.raises(SetupError, match="at most 2000 characters"):
        steering.tell(tmp_path, "x" * 2001)
    assert inbox.waiting(tmp_path) == []


def test_a_grid_is_against_the_best_that_was_there_when_it_was_sent(tmp_path: Path) -> None:
    """While it was taken up its first patch became the best, and the others did not apply to that."""
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    before = write(run, tmp_path / "before")
    id = run.propose("gpu0", "better", 0.9, Status.KEEP, commit="c" * 40, gain=0.1)
    run.publish(id, "c" * 40, 0.9)
    after = write(run, tmp_path / "after")
    for folder, best in ((before, run.base), (after, "c" * 40)):
        steering.submit(folder, [Patch("a", "one"), Patch("b", "two")])
        sent = [inbox.read(each) for each in inbox.waiting(folder)]
        assert [each.parent for each in sent if isinstance(each, Submit)] == [best, best]


# --- The inbox -------------------------------------------------------------------------------------------------------


def test_what_is_no_message_is_put_aside_and_the_rest_goes_on(toy: Toy, tmp_path: Path) -> None:
    with waiting_run(toy) as session:
        box = session.folder / "inbox"
        box.mkdir()
        (tmp_path / "secret").write_text(json.dumps({"kind": "tell", "id": "a", "text": "from elsewhere"}))
        (box / "a.json").symlink_to(tmp_path / "secret")
        (box / "b.json").write_bytes(b"\xff\x00{")
        (box / "c.json").write_text('{"kind": "stop"}')
        (box / "00000000001-0000.json").write_text('{"kind": "tell", "id": "00000000002-0000", "text": "hi"}')
        (box / "00000000004-0000.json").write_text('{"kind": "tell", "id": "00000000004-0000", "text": "\\ud800"}')
        (box / "00000000003-0000.json").write_text('{"kind": "tell", "id": "00000000003-0000", "text": " "}')
        os.mkfifo(box / "d.json")
        (box / ".half.new").write_text("{")
        steering.tell(session.folder, "what counts")
        until(session, lambda: not inbox.waiting(session.folder))
    names = sorted(each.name[:3] for each in (box / "refused").iterdir())
    assert names == ["000", "000", "000", "a.j", "b.j", "c.j", "d.j"]
    assert sum("is no message" in each for each in session.warnings) == 7
    assert [each.text for each in events(session.folder) if isinstance(each, Told)] == ["what counts"]


def test_nothing_in_the_inbox_holds_up_what_comes_behind_it(toy: Toy) -> None:
    with waiting_run(toy) as session:
        box = session.folder / "inbox"
        (box / "refused" / "a.json").mkdir(parents=True)
        for name in (b"a.json", b"\x1b[2J\n\xff.json", b"c.json"):
            Path(os.fsdecode(bytes(box) + b"/" + name)).write_text("{")
        (box / "b.json").mkdir()
        steering.tell(session.folder, "what counts")
        until(session, lambda: not inbox.waiting(session.folder))
        (box / "b.json").mkdir()
        trees.remove(box / "refused")
        (box / "refused").write_text("a file")
        steering.tell(session.folder, "what counts, too")
        until(session, lambda: not inbox.waiting(session.folder))
    assert len([each for each in events(session.folder) if isinstance(each, Told)]) == 2
    assert all(each.isprintable() and each.encode() for each in session.warnings), "they go to a terminal"


def test_what_is_declined_is_told_in_printable_words(desk: tuple[Toy, Coordinator]) -> None:
    _, coordinator = desk
    for number, name in enumerate(("\u202egnp.py", "\x9b2J.py")):
        patch = f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-a\n+b\n"
        assert coordinator.hear(Submit(f"0000000001{number}-0000", patch, "x")).isprintable()


def test_who_waits_for_a_time_that_is_no_number_does_not_wait(toy: Toy) -> None:
    with waiting_run(toy) as session:
        (id,) = steering.submit(session.folder, [Patch(diff(toy, "LR = 0.5", "LR = 0.2"), "a rate")])
        assert [each.state for each in steering.results(session.folder, [id], math.nan)] == ["sent"]


def test_names_without_an_end_are_never_sent(tmp_path: Path) -> None:
    for letter in (Hold(inbox.ids(1)[0], "x" * 30_000), Tell(inbox.ids(1)[0], "x", ("gpu0",) * 10_000)):
        with pytest.raises(SetupError, match="too long"):
            inbox.send(tmp_path, [letter])


def test_messages_wait_for_the_next_run_and_one_that_was_taken_up_before_a_kill_counts_once(toy: Toy) -> None:
    patch = diff(toy, "LR = 0.5", "LR = 0.2")
    with waiting_run(toy) as session:
        pass
    run = toy.run_folder()
    asked = ["--folder", str(toy.folder)]
    told = CliRunner().invoke(main, ["tell", "later", "--json", *asked])
    assert told.exit_code == 0 and json.loads(told.stdout)["taken_up"] is False
    assert "waits for the next" in told.stderr
    (toy.folder / "a-better-rate.diff").write_text(patch)
    sent = CliRunner().invoke(main, ["submit", "--patch", str(toy.folder / "a-better-rate.diff"), "--json", *asked])
    answer = json.loads(sent.stdout)["submissions"][0]
    assert (answer["state"], answer["idea"]) == ("sent", "a-better-rate")
    assert CliRunner().invoke(main, ["results", answer["id"], "--wait", *asked]).exit_code == 1, "nobody measures it"

    desk = Coordinator(run)  # takes both up, and dies before it removes them
    for path in inbox.waiting(run):
        assert desk.hear(inbox.read(path)) == ""
    desk.leave()
    with research(toy.folder) as session:
        until(session, lambda: steering.results(run, [answer["id"]])[0].decided)
        session.stop("enough", now=True)
    said = events(run)
    assert not inbox.waiting(run)
    assert sum(isinstance(each, Told) for each in said) == 1 and sum(isinstance(each, Submitted) for each in said) == 1
    assert sum(isinstance(each, Measured) and each.attempt.kind == "submit" for each in said) == 1
    assert CliRunner().invoke(main, ["results", "--wait", *asked]).exit_code == 0


def test_kill_dash_nine_of_a_driver_loses_no_submission(toy: Toy) -> None:
    """Each is measured once for the record, whenever the driver dies."""
    grid = [Patch(diff(toy, "LR = 0.5", f"LR = 0.{each}"), f"LR 0.{each}") for each in range(1, 5)]
    with driven(toy, "local") as driver:
        ids = steering.submit(toy.run_folder(), grid)
        assert (
            driver.stdout and "LR 0." in driver.stdout.readline()
        )  # the first has its verdict, the second is being measured
        driver.send_signal(signal.SIGKILL)
    with research(toy.folder) as session:
        until(session, lambda: all(each.decided for each in steering.results(session.folder, ids)))
        session.stop("enough", now=True)
    said = events(toy.run_folder())
    assert sorted(each.id for each in said if isinstance(each, Submitted)) == ids
    tried = [each for each in session.board.experiments if each.submission]
    assert sorted(each.submission for each in tried) == ids and Status.LOST not in {each.status for each in tried}


# --- The command line ------------------------------------------------------------------------------------------------


def verb(toy: Toy, *words: str, stdin: str = "", status: int = 0) -> str:
    """What a verb says, on stdout and stderr."""
    done = CliRunner().invoke(main, [*words, "--folder", str(toy.folder)], input=stdin)
    assert done.exit_code == status, done.output
    return done.output


def test_the_verbs_on_a_living_run_over_ray(toy: Toy) -> None:
    patch = diff(toy, "LR = 0.5", "LR = 0.2")
    with driven(toy, "ray") as driver:
        assert '"taken_up": true' in verb(toy, "tell", "a hint", "--lane", "cpu0")
        assert "no lane 'gpu9'" in verb(toy, "pause", "gpu9", status=2)
        out = verb(toy, "submit", "--patch", "-", stdin=patch)
        assert '"idea": "a change of train.py"' in out and '"taken_up": true' in out
        done = json.loads(verb(toy, "results", "--wait", "--timeout", "60"))
        assert done["done"] and done["submissions"][0]["state"] == "keep"
        stray = NEW.format("b.py", "100644")
        assert "1 of 1 were declined: out_of_scope" in verb(toy, "submit", "--patch", "-", stdin=stray, status=2)
        assert "nobody has submitted 'x'" in verb(toy, "results", "x", status=2)
        assert "a change of train.py" in verb(toy, "results", "--text")
        assert '"hints": [{"id": ' in verb(toy, "status", "--json")
        driver.send_signal(signal.SIGINT)
    assert driver.returncode == 130


@pytest.mark.parametrize(
    ("file", "text", "idea"),
    [
        ("-", "a wider net\n\n--- a/x\n+++ b/x\n", "a wider net"),
        ("wide.diff", "--- a/x\n+++ b/x\n", "wide"),
        ("-", "diff --git a/x b/x\n--- a/x\n+++ b/x\n", "a change of x"),
        ("0001.patch", "From 1 Mon\nSubject: [PATCH 1/2] rotary base\n\n---\n", "rotary base"),
    ],
)
def test_a_patch_without_an_idea_is_called_by_its_first_line_or_its_file(file: str, text: str, idea: str) -> None:
    assert _called(file, text) == idea


def test_messages_that_are_sent_together_keep_their_order(tmp_path: Path) -> None:
    ids = inbox.ids(30)
    assert sorted(ids) == ids and len(set(ids)) == 30
    inbox.send(tmp_path, [Tell(id, f"{number}") for number, id in enumerate(ids)])
    assert [inbox.read(each).id for each in inbox.waiting(tmp_path)] == ids
