"""The copy of a run elsewhere: what arrives, what comes back, and what neither a fault nor a stranger may do to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger, research, resume
from autoresearch_ray.board import replay
from autoresearch_ray.errors import AutoresearchError, SetupError
from autoresearch_ray.events import Measured, Moved, Opened, Published
from autoresearch_ray.ledger import Ledger
from autoresearch_ray.mirror import Mirror, Mirroring, Segments, cut, noted
from autoresearch_ray.model import Status
from autoresearch_ray.remote import Kind, Remote, shown
from autoresearch_ray.repo import Hub, Origin
from autoresearch_ray.restore import restore
from autoresearch_ray.store import Candidate, Store
from tests import git_server
from tests.conftest import SmallDisk, Toy, counted_at_the_limit, processes_of
from tests.runs import Run
from tests.runs import git as plain_git
from tests.test_session import RUN, until
from tests.user_repo import UserRepo

RESUME = [*RUN[:-1], "resume"]
STATUS = [*RUN[:-1], "status"]


class Night:
    """A run by hand: real commits in a real hub, and the lines that name them."""

    def __init__(self, folder: Path, tag: str = "nov20", *options: str) -> None:
        self.user = UserRepo(folder, *options)
        self.run = Run(tag, base=self.user.commit(train__py="rate = 0\n"))
        self.folder = folder / ".autoresearch" / tag
        self.folder.mkdir(parents=True)
        self.hub = Hub.create(self.folder / "hub.git", Origin.find(folder), self.run.base)
        self.store = Store.create(folder / ".autoresearch" / "store", self.hub.pack([self.run.base]), self.run.base)
        Ledger.create(self.path, self.run.lines[0])
        self.written = 1
        self.head = self.run.base
        self.run.seat("gpu0")
        self.write()

    @property
    def path(self) -> Path:
        return self.folder / "ledger.jsonl"

    def write(self) -> None:
        writer = Ledger(self.path)
        for events in self.run.lines[self.written :]:
            writer.append(events)
        writer.close()
        self.written = len(self.run.lines)

    def experiment(self, status: Status = Status.KEEP) -> str:
        """One more, as the coordinator stores it: its commit first, then its line, then the branch."""
        made = self.store.stand(tree := self.folder / "tree", self.head)
        number = len(self.run.lines)
        (tree / "train.py").write_text(f"rate = {number}\n")
        made = self.store.commit(tree, self.head, f"rate {number}", self.run.board.program.scope, "", str(number))
        assert isinstance(made, Candidate)
        ref = f"refs/attempts/gpu0/{self.run._attempts['gpu0'] + 1}"
        self.hub.unpack(self.store.pack([made.commit], [self.head]), ref, made.commit)
        self.run.propose("gpu0", f"rate {number}", 1 / number, status, commit=made.commit, parent=self.head)
        self.write()
        if status is Status.KEEP:
            self.head = made.commit
            self.hub.branch(f"autoresearch/{self.run.board.opened.tag}-gpu0", made.commit)
        return made.commit

    def remote(self, word: str | Path, environ: dict[str, str] | None = None) -> Remote:
        return Remote.find(str(word), self.user.folder, {**os.environ, **(environ or {})})

    def mirror(self, word: str | Path, environ: dict[str, str] | None = None) -> Mirror:
        return Mirror(self.remote(word, environ), self.folder, self.run.board.opened.tag)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path / "user")


def back(remote: Remote, folder: Path, tag: str | None = None) -> Path:
    """The run brought back into an empty folder."""
    folder.mkdir(parents=True)
    return restore(remote, folder, tag)


def named(path: Path) -> set[str]:
    """Every commit that a ledger names."""
    found: set[str] = set()
    for event in (event for line in ledger.read(path) for event in line):
        match event:
            case Opened(base=commit) | Moved(head=commit) | Published(commit=commit):
                found.add(commit)
            case Measured(attempt=attempt):
                found |= {attempt.parent, *attempt.line, *([attempt.commit] if attempt.commit else [])}
    return found


def whole(run: Path, begun: bytes, least: int = 0) -> None:
    """Whether what was brought back is the beginning of the ledger `begun`, no shorter than `least`, and complete."""
    lines = (run / "ledger.jsonl").read_bytes()
    assert begun.startswith(lines) and len(lines) >= least and lines.endswith(b"\n")
    hub = Hub.open(run / "hub.git")
    assert set(hub.known(sorted(named(run / "ledger.jsonl")))) == named(run / "ledger.jsonl")
    hub.git("fsck", "--strict", "--connectivity-only")
    attempts = {each.commit for each in replay(ledger.read(run / "ledger.jsonl")).experiments if each.line}
    assert set(hub.git("for-each-ref", "--format=%(objectname)", "refs/attempts").decode().split()) == attempts


def refs(repository: Path) -> dict[str, str]:
    listing = plain_git(repository, "for-each-ref", "--format=%(refname) %(objectname)")
    return dict(line.split(" ") for line in listing.splitlines())


# --- The ledger in segments ------------------------------------------------------------------------------------------

some_lines = st.lists(st.binary(max_size=40).map(lambda each: each.replace(b"\n", b"") + b"\n"), max_size=30)


@given(some_lines, st.data())
def test_a_longer_ledger_keeps_its_closed_segments(lines: list[bytes], data: st.DataObject) -> None:
    whole, size = b"".join(lines), data.draw(st.integers(1, 100))
    closed, rest = cut(whole, size)
    assert b"".join([*closed, rest]) == whole
    assert all(len(each) > size and each[size:].count(b"\n") == 1 and each.endswith(b"\n") for each in closed)
    earlier, left = cut(b"".join(lines[: data.draw(st.integers(0, len(lines)))]), size)
    assert closed[: len(earlier)] == earlier
    assert b"".join([*closed[len(earlier) :], rest]).startswith(left)


def test_a_copy_of_a_long_ledger_costs_its_last_segment(night: Night) -> None:
    chance = iter(range(10**9))
    with night.path.open("a") as file:
        for _ in range(3000):
            file.write(json.dumps([{"line": f"{next(chance):01000x}"}]) + "\n")
    segments = Segments(night.path)
    segments.tree(night.hub)
    before = int(night.hub.git("count-objects").split()[0])
    with night.path.open("a") as file:
        file.write("[]\n")
    tree, size = segments.tree(night.hub)
    assert int(night.hub.git("count-objects").split()[0]) == before + 2  # the last segment, and the tree
    assert size == night.path.stat().st_size
    assert tree == Segments(night.path).tree(night.hub)[0], "a driver that starts anew makes the same segments"


# --- There and back --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "file", "daemon", "name", "name of a path"])
def place(request: pytest.FixtureRequest, tmp_path: Path, night: Night) -> str:
    """What a user writes for `mirror`; the repository is `tmp_path / "there" / "x.git"`."""
    folder = tmp_path / "there" / "x.git"
    if request.param != "path":
        folder.parent.mkdir()
        plain_git(folder.parent, "init", "-q", "--bare", str(folder))
    if request.param == "file":
        return f"file://{folder}"
    if request.param == "daemon":
        server = git_server.daemon(folder.parent)
        url = server.__enter__()
        request.addfinalizer(lambda: server.__exit__(None, None, None))
        return f"{url}/x.git"
    if request.param.startswith("name"):
        night.user.git("remote", "add", "nas", "../there/x.git" if "path" in request.param else f"file://{folder}")
        return "nas"
    folder.parent.mkdir()
    return "../there/x.git"


def test_a_run_comes_back_as_it_was(night: Night, place: str, tmp_path: Path) -> None:
    mirror = night.mirror(place)
    for number in range(3):
        night.experiment()
        night.experiment(Status.DISCARD)
        assert mirror.push() is None
        run = back(night.remote(place), tmp_path / f"back{number}")
        assert (run / "ledger.jsonl").read_bytes() == night.path.read_bytes()
        whole(run, night.path.read_bytes())
    hub = refs(night.hub.folder)
    copied = refs(run / "hub.git")
    assert copied == {name: at for name, at in hub.items() if not name.startswith("refs/heads/")}
    there = refs(tmp_path / "there" / "x.git")
    assert there == {
        "refs/autoresearch/nov20/ledger": hub["refs/mirror"],
        "refs/heads/autoresearch/nov20-gpu0": night.head,
    }
    assert (tmp_path / "back0" / "train.py").read_text() == "rate = 0\n"  # a clone was made at the base
    assert (tmp_path / "back0" / "program.md").read_text() == night.run.board.opened.source
    assert plain_git(tmp_path / "back0", "rev-parse", "HEAD") == night.run.base


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_folder_of_somebody_else_will_do(night: Night, tmp_path: Path) -> None:
    plain_git(tmp_path, "init", "-q", "--bare", "x.git")
    for each in [tmp_path / "x.git", *(tmp_path / "x.git").rglob("*")]:
        os.chown(each, 65534, 65534)
    assert night.mirror(tmp_path / "x.git").push() is None
    whole(back(night.remote(tmp_path / "x.git"), tmp_path / "back"), night.path.read_bytes(), night.path.stat().st_size)


def test_nothing_new_is_nothing_to_send(night: Night, tmp_path: Path) -> None:
    mirror = night.mirror(tmp_path / "x.git")
    assert mirror.push() is None
    tip = refs(tmp_path / "x.git")
    assert mirror.push() is None and refs(tmp_path / "x.git") == tip
    night.mirror(tmp_path / "x.git").push()
    assert refs(tmp_path / "x.git") == tip
    night.experiment()
    assert mirror.push() is None and refs(tmp_path / "x.git") != tip


@pytest.mark.parametrize("kind", ["sha256", "shallow"])
def test_a_repository_of_another_kind(tmp_path: Path, kind: str) -> None:
    if kind == "sha256":
        night = Night(tmp_path / "user", "nov20", "--object-format=sha256")
    else:
        origin = UserRepo(tmp_path / "origin")
        for number in range(3):
            origin.commit(train__py=f"{number}\n")
        subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{origin.folder}", tmp_path / "user"], check=True)
        night = Night(tmp_path / "user")
    night.experiment()
    assert night.mirror(tmp_path / "x.git").push() is None
    whole(back(night.remote(tmp_path / "x.git"), tmp_path / "back"), night.path.read_bytes(), night.path.stat().st_size)


def test_two_runs_share_a_mirror_and_the_users_own_branches_stay(night: Night, tmp_path: Path) -> None:
    other = Night(tmp_path / "other", "nov20-b")
    night.user.git("push", "-q", str(other.user.folder), "HEAD:refs/heads/release")
    shared = other.user.folder  # a repository with a work tree will do
    before = refs(shared)
    for each in (night, other):
        each.experiment()
        assert each.mirror(shared).push() is None
    after = refs(shared)
    assert before.items() <= after.items()
    with pytest.raises(SetupError, match="several runs") as caught:
        back(night.remote(shared), tmp_path / "neither")
    assert "nov20, nov20-b" in caught.value.hint
    with pytest.raises(SetupError, match="no run 'x'"):
        restore(night.remote(shared), tmp_path / "neither", "x")
    for each in (night, other):
        tag = each.run.board.opened.tag
        whole(back(night.remote(shared), tmp_path / f"back-{tag}", tag), each.path.read_bytes(), 1)


def test_a_branch_that_somebody_moved_is_left_alone_and_the_ledger_goes_on(night: Night, tmp_path: Path) -> None:
    night.experiment()
    mirror = night.mirror(tmp_path / "x.git")
    assert mirror.push() is None
    night.user.git("fetch", "-q", str(tmp_path / "x.git"), "autoresearch/nov20-gpu0")
    night.user.git("reset", "-q", "--hard", "FETCH_HEAD")
    theirs = night.user.commit(train__py="by hand\n")
    night.user.git("push", "-q", str(tmp_path / "x.git"), "HEAD:refs/heads/autoresearch/nov20-gpu0")
    for _ in range(2):  # the first finds out, the second knows
        night.experiment()
        assert mirror.push() is None
        assert refs(tmp_path / "x.git")["refs/heads/autoresearch/nov20-gpu0"] == theirs
        run = back(night.remote(tmp_path / "x.git"), tmp_path / f"back{len(night.run.lines)}")
        whole(run, night.path.read_bytes(), night.path.stat().st_size)
    assert mirror.left_alone == {"refs/heads/autoresearch/nov20-gpu0"}


def test_a_lane_that_went_back_goes_back_in_the_mirror(night: Night, tmp_path: Path) -> None:
    first, _ = night.experiment(), night.experiment()
    mirror = night.mirror(tmp_path / "x.git")
    assert mirror.push() is None
    night.hub.branch("autoresearch/nov20-gpu0", first)
    assert mirror.push() is None
    assert refs(tmp_path / "x.git")["refs/heads/autoresearch/nov20-gpu0"] == first


# --- Faults ----------------------------------------------------------------------------------------------------------


def test_what_is_torn_is_not_copied(night: Night, tmp_path: Path) -> None:
    lines = night.path.read_bytes()
    with night.path.open("ab") as file:
        file.write(b'[{"at": 1')
    assert night.mirror(tmp_path / "x.git").push() is None
    assert (back(night.remote(tmp_path / "x.git"), tmp_path / "back") / "ledger.jsonl").read_bytes() == lines


steps = st.lists(st.sampled_from(["experiment", "torn", "copy", "new driver"]) | st.floats(0, 0.12), max_size=7)


@pytest.mark.slow
@given(steps)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_any_moment_a_mirror_holds_a_beginning_with_all_its_commits(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str | float]
) -> None:
    """A number is a copy that is killed after so many seconds."""
    tmp_path = tmp_path_factory.mktemp("any")
    night, there, arrived = Night(tmp_path / "user"), tmp_path / "x.git", 0
    mirror = night.mirror(there)
    for number, step in enumerate([*steps, "copy"]):
        match step:
            case "experiment":
                night.experiment(Status.KEEP if number % 2 else Status.DISCARD)
            case "torn":
                with night.path.open("ab") as file:
                    file.write(b'[{"at": 1')
            case "new driver":
                night.write()  # cuts off what is torn
                mirror = night.mirror(there)
            case "copy":
                aged(there)
                assert mirror.push() is None
                arrived = night.path.read_bytes().rfind(b"\n") + 1
            case float():
                cancel = threading.Event()
                timer = threading.Timer(step, cancel.set)
                timer.start()
                mirror.push(cancel)
                timer.join()
        if step not in ("experiment", "torn", "new driver") and there.exists() and refs(there):
            run = back(night.remote(there), tmp_path / f"back{number}")
            whole(run, night.path.read_bytes(), arrived)
    assert arrived == night.path.read_bytes().rfind(b"\n") + 1


def aged(repository: Path) -> None:
    """What a kill left in the mirror, an hour later."""
    for lock in repository.rglob("*.lock"):
        os.utime(lock, (0, 0))


def test_a_lock_that_was_left_is_removed_when_nobody_can_hold_it_any_more(night: Night, tmp_path: Path) -> None:
    mirror = night.mirror(tmp_path / "x.git")
    assert mirror.push() is None
    left = tmp_path / "x.git" / "refs" / "autoresearch" / "nov20" / "ledger.lock"
    left.touch()
    night.experiment()
    trouble = mirror.push()
    assert trouble is not None and trouble.kind is Kind.REFUSED and left.exists()
    aged(tmp_path / "x.git")
    assert mirror.push() is None and not left.exists()


def test_a_mirror_that_goes_away_and_comes_back(night: Night, tmp_path: Path) -> None:
    there, away = tmp_path / "x.git", tmp_path / "away"
    warnings: list[str] = []
    mirroring = Mirroring(night.mirror(there), night.folder, 0.1, warnings)
    mirroring.start()
    until(lambda: noted(night.folder).get("at") is not None)
    there.rename(away)
    night.experiment()
    mirroring.soon()
    until(lambda: bool(noted(night.folder)["trouble"]))
    note = noted(night.folder)
    assert note["at"] < note["since"] and note["bytes"] < night.path.stat().st_size
    assert not there.exists(), "what is not mounted is not made anew on the disk below"
    away.rename(there)
    until(lambda: noted(night.folder)["trouble"] is None)
    there.rename(away)
    night.experiment()
    until(lambda: bool(noted(night.folder)["trouble"]))
    away.rename(there)
    mirroring.finish(60)
    assert noted(night.folder)["bytes"] == night.path.stat().st_size
    assert len(warnings) == 1 and "cannot be reached" in warnings[0], "once of each kind"
    whole(back(night.remote(there), tmp_path / "back"), night.path.read_bytes(), night.path.stat().st_size)


def test_a_mirror_that_is_full_and_then_is_not(
    night: Night, tmp_path: Path, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("300k")
    there = disk.folder / "x.git"
    mirror = night.mirror(there)
    assert mirror.push() is None
    (disk.folder / "fill").write_bytes(b"x" * shutil.disk_usage(disk.folder).free)
    night.experiment()
    trouble = mirror.push()
    assert trouble is not None and trouble.kind is Kind.FULL
    disk.enlarge()
    assert mirror.push() is None
    whole(back(night.remote(there), tmp_path / "back"), night.path.read_bytes(), night.path.stat().st_size)


def test_what_cannot_be_made_is_denied(night: Night, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trouble = night.mirror(tmp_path / "file" / "x.git").push()
    assert trouble is not None and trouble.kind is Kind.AWAY and "is not there" in trouble.words
    trouble = night.mirror("/proc/x.git").push()
    assert trouble is not None and "/proc/x.git" in trouble.words


def test_a_protected_branch_is_left_alone_and_the_ledger_goes_on(night: Night, tmp_path: Path) -> None:
    there = UserRepo(tmp_path / "there")
    there.commit()
    there.git("fetch", "-q", str(night.user.folder), "HEAD:refs/heads/autoresearch/nov20-gpu0")
    there.git("checkout", "-q", "autoresearch/nov20-gpu0")  # git takes no push to what is checked out
    night.experiment()
    warnings: list[str] = []
    mirroring = Mirroring(night.mirror(there.folder), night.folder, 60, warnings)
    mirroring.start()
    mirroring.finish(60)
    assert len(warnings) == 1 and "autoresearch/nov20-gpu0 of the mirror is protected" in warnings[0]
    assert there.head == night.run.base and noted(night.folder)["trouble"] is None
    whole(back(night.remote(there.folder), tmp_path / "back"), night.path.read_bytes(), night.path.stat().st_size)


HOLD = "#!/bin/sh\ntouch {0}/held\nwhile [ ! -e {0}/go ]; do sleep 0.02; done\n"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A folder with the bare repository x.git, whose server holds every push until there is a file `go` in it."""
    folder = tmp_path / "gate"
    folder.mkdir()
    plain_git(folder, "init", "-q", "--bare", "x.git")
    hook = folder / "x.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOLD.format(folder))
    hook.chmod(0o755)
    return folder


def test_a_last_copy_that_hangs_is_given_up_and_leaves_no_process(night: Night, gate: Path, temporary: Path) -> None:
    with git_server.daemon(gate) as url:
        warnings: list[str] = []
        mirroring = Mirroring(night.mirror(f"{url}/x.git"), night.folder, 60, warnings)
        mirroring.start()
        until((gate / "held").exists)
        mirroring.finish(0)
        assert len(processes_of(temporary, "AUTORESEARCH_RUN=")) == 0
        assert any("lacks the end of this run" in each for each in warnings)
        (gate / "go").touch()


def test_kill_dash_nine_in_the_middle_of_a_push_and_the_night_goes_on_elsewhere(
    toy: Toy, gate: Path, tmp_path: Path, temporary: Path
) -> None:
    toy.program(more="experiments: 40", command="sleep 0.1; python train.py")
    toy.commit("longer")
    (gate / "go").touch()
    with git_server.daemon(gate) as url:
        argv = [*RUN, str(toy.folder / "program.md"), "--mirror", f"{url}/x.git"]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
            until(lambda: (noted(toy.run_folder()).get("bytes") or 0) > 3000)
            (gate / "go").unlink()
            (gate / "held").unlink()
            until((gate / "held").exists)
            arrived = noted(toy.run_folder())["bytes"]
            driver.kill()
        until(lambda: not processes_of(temporary, "AUTORESEARCH_RUN="), 20)
        (gate / "go").touch()
        before = (toy.run_folder() / "ledger.jsonl").read_bytes()
        shutil.rmtree(toy.run_folder())
        toy.git("clone", "-q", str(toy.folder), str(tmp_path / "clone"))
        counted = before[:arrived].count(b'"event":"judged"')
        argv = [*RESUME, "--from", f"{url}/x.git", "--experiments", str(counted + 2)]
        done = subprocess.run(argv, cwd=tmp_path / "clone", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        run = tmp_path / "clone" / ".autoresearch" / "t1"
        after = (run / "ledger.jsonl").read_bytes()
        begun = after[: after.rindex(b"\n", 0, after.index(b'"event":"resumed"')) + 1]
        assert before.startswith(begun) and len(begun) >= arrived
        assert counted_at_the_limit(run) >= counted + 2
        board = replay(ledger.read(run / "ledger.jsonl"))
        branches = plain_git(tmp_path / "clone", "for-each-ref", "--format=%(refname:short)", "refs/heads/autoresearch")
        assert {f"autoresearch/t1-{name}" for name in board.lanes} <= set(branches.split())
        whole(back(Remote.find(f"{url}/x.git", tmp_path, os.environ), tmp_path / "again"), after, len(after))


# --- Other runs ------------------------------------------------------------------------------------------------------


def test_another_run_of_the_same_tag_is_refused_at_the_start_and_not_written_over(toy: Toy, tmp_path: Path) -> None:
    other = Night(tmp_path / "other", "t1")
    assert other.mirror(tmp_path / "x.git").push() is None
    before = refs(tmp_path / "x.git")
    with pytest.raises(SetupError, match="another run of this tag") as caught:
        research(toy.folder, mirror=str(tmp_path / "x.git")).__enter__()
    assert "resume --from" in caught.value.hint and "--tag" in caught.value.hint
    assert refs(tmp_path / "x.git") == before and not (toy.folder / ".autoresearch").exists()


def test_a_run_that_was_taken_up_elsewhere_does_not_write_over_that(night: Night, tmp_path: Path) -> None:
    there = tmp_path / "x.git"
    mirror = night.mirror(there)
    assert mirror.push() is None
    run = back(night.remote(there), tmp_path / "back")
    writer = Ledger(run / "ledger.jsonl")
    writer.append(night.run.lines[1])
    writer.close()
    assert Mirror(night.remote(there), run, "nov20").push() is None
    taken = refs(there)
    night.experiment()
    for each in (mirror, mirror, night.mirror(there)):
        trouble = each.push()
        assert trouble is not None and trouble.kind is Kind.TAKEN
        assert refs(there) == taken


def test_a_ledger_that_is_behind_its_mirror_is_refused(night: Night, tmp_path: Path) -> None:
    old = night.path.read_bytes()
    night.experiment()
    assert night.mirror(tmp_path / "x.git").push() is None
    night.path.write_bytes(old)
    with pytest.raises(SetupError, match="not in this run's ledger"):
        Mirroring(night.mirror(tmp_path / "x.git"), night.folder, 60, []).check()


# --- Whose git it is -------------------------------------------------------------------------------------------------


def test_the_users_credentials_are_gits_own_and_are_written_nowhere(night: Night, tmp_path: Path) -> None:
    plain_git(tmp_path, "init", "-q", "--bare", "x.git")
    home = tmp_path / "home"
    home.mkdir()
    with git_server.http(tmp_path, "ann", "hunter2") as url:
        trouble = night.mirror(f"{url}/x.git", {"HOME": str(home)}).push()
        assert trouble is not None and trouble.kind is Kind.DENIED
        helper = '"!f() { echo username=ann; echo password=hunter2; }; f"'
        (home / ".gitconfig").write_text(f"[credential]\n\thelper = {helper}\n")
        assert night.mirror(f"{url}/x.git", {"HOME": str(home)}).push() is None
        whole(back(night.remote(f"{url}/x.git", {"HOME": str(home)}), tmp_path / "one"), night.path.read_bytes(), 1)
        # The same in the repository's own configuration, as continuous integration has it.
        night.user.git("config", "credential.helper", helper.strip('"'))
        night.experiment()
        assert night.mirror(f"{url}/x.git").push() is None
        night.user.git("config", "--unset", "credential.helper")
        night.user.git("remote", "add", "ci", f"{url.replace('//', '//ann:hunter2@')}/x.git")
        night.experiment()
        assert night.mirror("ci").push() is None
        whole(back(night.remote("ci"), tmp_path / "two"), night.path.read_bytes(), night.path.stat().st_size)
    written = [each for each in night.folder.rglob("*") if each.is_file() and b"hunter2" in each.read_bytes()]
    assert written == []


def test_a_password_in_the_url_of_a_remote_reaches_no_file_and_no_warning(
    toy: Toy, night: Night, tmp_path: Path
) -> None:
    plain_git(tmp_path, "init", "-q", "--bare", "x.git")
    with git_server.http(tmp_path, "ann", "right") as url:
        for number, wrong in enumerate(("ann:hunter2@", "hunter2@", "hunter2:@", "ann:hunter2@@", "ann:hunter2/@")):
            night.user.git("remote", "add", f"m{number}", f"{url.replace('//', f'//{wrong}')}/x.git")
            trouble = night.mirror(f"m{number}").push()
            assert trouble is not None and "hunter2" not in str(trouble)
        toy.git("remote", "add", "ci", f"{url.replace('//', '//ann:hunter2@')}/x.git")
        with research(toy.program(agent="none", workers=1, more="experiments: 1\nmirror: ci")) as session:
            list(session)
        assert any("denies access" in each for each in session.warnings), session.warnings
        assert "hunter2" not in "\n".join(session.warnings)
        text = subprocess.run([*STATUS, "--text", "--folder", toy.folder], capture_output=True, text=True)
        assert "denies access" in text.stdout and "hunter2" not in text.stdout
    files = [each for each in (toy.folder / ".autoresearch").rglob("*") if each.is_file()]
    assert len(files) > 5 and [each for each in files if b"hunter2" in each.read_bytes()] == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("fatal: could not read Password for 'https://TOKEN@x.org': none", "'https://x.org'"),
        ("fatal: unable to access 'https://a:b@c@x.org/': no", "'https://x.org/'"),
        ("To https://x\nremote: \x1b[2Jboo\nhint: no", "remote:  [2Jboo"),
    ],
)
def test_what_git_says_is_shown_without_passwords_and_escapes(said: str, told: str) -> None:
    assert told in shown(said) and "TOKEN" not in shown(said) and "\x1b" not in shown(said)
    assert "hint" not in shown(said)


def test_no_hook_runs_at_either_end(night: Night, tmp_path: Path) -> None:
    home, ran = tmp_path / "home", tmp_path / "ran"
    hooks = [home / "hooks", night.user.folder / ".git" / "hooks", tmp_path / "x.git" / "hooks"]
    plain_git(tmp_path, "init", "-q", "--bare", "x.git")
    for folder in hooks:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pre-push", "pre-receive", "update", "post-receive", "reference-transaction"):
            (folder / name).write_text(f"#!/bin/sh\necho {folder}/{name} >> {ran}\n")
            (folder / name).chmod(0o755)
    (home / ".gitconfig").write_text(f"[core]\n\thooksPath = {hooks[0]}\n")
    night.experiment()
    assert night.mirror(tmp_path / "x.git", {"HOME": str(home)}).push() is None
    assert not ran.exists()


def test_the_environment_cannot_lead_git_to_another_repository(night: Night, tmp_path: Path) -> None:
    strays = {"GIT_DIR": str(night.user.folder / ".git"), "GIT_OBJECT_DIRECTORY": "/nowhere", "GIT_TRACE": "1"}
    assert night.mirror(tmp_path / "x.git", strays).push() is None
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{tmp_path}/.insteadOf", "GIT_CONFIG_VALUE_0": "far:"}
    night.experiment()
    assert night.mirror("far:x.git", settings).push() is None
    whole(back(night.remote(tmp_path / "x.git"), tmp_path / "back"), night.path.read_bytes(), night.path.stat().st_size)


# --- Runs with a mirror ----------------------------------------------------------------------------------------------


def test_a_keep_is_copied_while_the_run_goes_on_and_the_end_is_copied_too(toy: Toy, tmp_path: Path) -> None:
    there = tmp_path / "x.git"
    program = toy.program(more="experiments: 40\nmirror: ../x.git\nmirror_minutes: 1000")
    toy.commit("a mirror")
    with research(program) as session:
        until(lambda: (there / "objects" / "pack").is_dir() and bool(refs(there)))  # git makes that folder last
        kept = next(each for each in session if each.number and each.status is Status.KEEP)
        until(lambda: kept.commit in plain_git(there, "rev-list", "refs/autoresearch/t1/ledger").split())
        session.stop("enough")
    assert [each for each in session.warnings if "on the disk of the run" not in each] == []
    run = back(Remote.find(str(there), tmp_path, os.environ), tmp_path / "back")
    path = toy.run_folder() / "ledger.jsonl"
    whole(run, path.read_bytes(), path.stat().st_size)
    shutil.rmtree(toy.folder / ".autoresearch")
    with resume(str(there), tmp_path / "back", experiments=session.board.counted + 2) as again:
        assert again.resumed and again.board.experiments == session.board.experiments
        list(again)
    assert counted_at_the_limit(run) == session.board.counted + 2
    assert refs(tmp_path / "back").keys() >= {"refs/heads/autoresearch/t1-cpu0", "refs/heads/autoresearch/t1-cpu1"}


def test_a_mirror_that_cannot_be_reached_never_stops_a_run(toy: Toy, tmp_path: Path) -> None:
    program = toy.program(workers=1, more="experiments: 2")
    with research(program, mirror=str(tmp_path / "not" / "mounted" / "x.git")) as session:
        list(session)
    assert counted_at_the_limit(toy.run_folder()) == 2 and not (tmp_path / "not").exists()
    first, last = (each for each in session.warnings if "cannot be reached" in each or "lacks the end" in each)
    assert "tried again" in first and "lacks the end" in last
    shown = subprocess.run([*STATUS, "--json", "--folder", toy.folder], capture_output=True, text=True, check=True)
    told = json.loads(shown.stdout)["mirror"]
    assert told["last_success"] is None and "is not there" in told["trouble"] and told["trouble_since"]
    assert told["behind_bytes"] == (toy.run_folder() / "ledger.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("make", "word", "says"),
    [
        (lambda folder: None, "nas", "no remote 'nas'"),
        (lambda folder: (folder / "taken").write_text("x"), "./taken", "neither a git repository nor empty"),
        (lambda folder: (folder / "full" / "x").mkdir(parents=True), "./full", "neither a git repository nor empty"),
    ],
)
def test_a_mirror_that_can_be_none_is_said_at_once(
    toy: Toy, make: Callable[[Path], object], word: str, says: str
) -> None:
    make(toy.folder)
    with pytest.raises(SetupError, match=says) as caught:
        research(toy.folder, mirror=word).__enter__()
    assert caught.value.hint and not (toy.folder / ".autoresearch").exists()


def test_a_program_below_the_top_comes_back_to_its_folder(toy: Toy, tmp_path: Path) -> None:
    below = toy.folder / "examples" / "small"
    below.mkdir(parents=True)
    (toy.folder / "train.py").rename(below / "train.py")
    (toy.folder / "program.md").rename(below / "program.md")
    toy.git("rm", "-q", "--cached", "program.md")
    (toy.folder / ".gitignore").write_text("program.md\n")  # as with a holdout
    toy.commit("below")
    with research(below / "program.md", experiments=1, mirror=str(tmp_path / "x.git")) as session:
        list(session)
    (tmp_path / "fresh").mkdir()
    for number in (2, 3):  # the second finds it there, as a Ray job does, and goes on
        with resume(str(tmp_path / "x.git"), tmp_path / "fresh", experiments=number) as again:
            list(again)
        assert again.resumed
    run = tmp_path / "fresh" / "examples" / "small" / ".autoresearch" / "t1"
    assert counted_at_the_limit(run) == 3
    assert (run.parent.parent / "program.md").read_text() == (below / "program.md").read_text()
    assert not (tmp_path / "fresh" / ".autoresearch").exists()


def test_resuming_where_it_cannot_be_says_so_and_leaves_nothing(night: Night, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    assert night.mirror(tmp_path / "x.git").push() is None
    plain_git(tmp_path, "init", "-q", "--bare", "bare.git")
    cases = [("full", tmp_path / "x.git", "not in a git repository"), ("empty", tmp_path / "y.git", "holds no run")]
    cases += [
        ("empty", tmp_path / "bare.git", "holds no run"),
        ("empty", Path("nowhere:x.git"), "cannot be reached|deni"),
    ]
    for folder, source, says in cases:
        with pytest.raises(AutoresearchError, match=says) as caught:
            resume(str(source), tmp_path / folder)
        assert caught.value.hint
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_run_of_another_cluster_asks_which_one_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    night = Night(tmp_path / "user")
    line = night.path.read_bytes().replace(b'"address":null', b'"address":"10.0.0.1:6379"')
    night.path.write_bytes(line)
    assert night.mirror(tmp_path / "x.git").push() is None
    (tmp_path / "fresh").mkdir()
    with pytest.raises(SetupError, match=r"10\.0\.0\.1") as caught:
        resume(str(tmp_path / "x.git"), tmp_path / "fresh")
    assert "--address" in caught.value.hint
    assert resume(str(tmp_path / "x.git"), tmp_path / "fresh", address="auto").program.options.address == "auto"


def test_a_run_without_a_mirror_says_nothing_of_one(toy: Toy) -> None:
    with research(toy.program(workers=1, more="experiments: 1")) as session:
        list(session)
    told = subprocess.run([*STATUS, "--json", "--folder", toy.folder], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["mirror"] is None and session.warnings == []
    assert not (toy.run_folder() / "mirror.json").exists()
