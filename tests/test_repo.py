"""Origin, Hub and the bundles that commits travel in."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from autoresearch_ray.errors import RepoError
from autoresearch_ray.model import Scope
from autoresearch_ray.repo import Candidate, Hub, Origin, Store
from tests.user_repo import UserRepo

SCOPE = Scope(can=("train.py",))


@pytest.fixture
def user(tmp_path: Path) -> UserRepo:
    repo = UserRepo(tmp_path / "user")
    repo.commit("first", old__py="gone later\n")
    repo.git("rm", "-q", "old.py")
    repo.commit("second", train__py="".join(f"line {n}\n" for n in range(400)))
    return repo


def hub_of(user: UserRepo, folder: Path) -> Hub:
    origin = Origin.find(user.folder)
    return Hub.create(folder, origin, origin.head)


def store_of(hub: Hub, base: str, folder: Path) -> Store:
    return Store.create(folder, hub.pack([base]), base)


def candidate(store: Store, tree: Path, parent: str, content: str, idea: str = "an idea") -> Candidate:
    store.stand(tree, parent)
    (tree / "train.py").write_text(content)
    made = store.commit(tree, parent, idea, SCOPE, "")
    assert isinstance(made, Candidate), made
    return made


# --- Origin.find -----------------------------------------------------------------------------------------------------


def test_find_knows_the_top_the_prefix_and_the_head(user: UserRepo) -> None:
    head = user.commit(**{"examples/nanochat/train__py": "x\n"})
    inside = user.folder / "examples" / "nanochat"
    assert Origin.find(inside) == Origin(user.folder, "examples/nanochat", head)
    assert Origin.find(user.folder) == Origin(user.folder, "", head)
    assert Origin.find(inside).files(head) == ["train.py"]
    assert Origin.find(user.folder).files(head) == ["examples/nanochat/train.py", "train.py"]


def test_find_follows_a_link_into_the_repository(user: UserRepo, tmp_path: Path) -> None:
    user.commit(**{"sub/train__py": "x\n"})
    link = tmp_path / "link"
    link.symlink_to(user.folder / "sub")
    assert Origin.find(link).prefix == "sub"


def test_find_is_not_led_astray_by_the_environment(
    user: UserRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = UserRepo(tmp_path / "other")
    other.commit(x="x\n")
    for name, value in (("GIT_DIR", other.folder / ".git"), ("GIT_WORK_TREE", other.folder), ("GIT_INDEX_FILE", "/x")):
        monkeypatch.setenv(name, str(value))
    found = Origin.find(user.folder)
    assert found.top == user.folder
    assert found.files(found.head) == ["train.py"]


def no_repository(tmp_path: Path) -> Path:
    return tmp_path


def not_there(tmp_path: Path) -> Path:
    return tmp_path / "missing"


def a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


def bare(tmp_path: Path) -> Path:
    UserRepo(tmp_path / "bare", "--bare")
    return tmp_path / "bare"


def git_folder(tmp_path: Path) -> Path:
    UserRepo(tmp_path / "user").commit(x="x\n")
    return tmp_path / "user" / ".git"


def unborn(tmp_path: Path) -> Path:
    return UserRepo(tmp_path / "user").folder


def no_files(tmp_path: Path) -> Path:
    UserRepo(tmp_path / "user").commit()
    return tmp_path / "user"


def untracked_folder(tmp_path: Path) -> Path:
    user = UserRepo(tmp_path / "user")
    user.commit(x="x\n", __gitignore="out\n")
    return user.write("out/train.py").parent


def branch_in_the_way(tmp_path: Path) -> Path:
    user = UserRepo(tmp_path / "user")
    user.commit(x="x\n")
    user.git("branch", "autoresearch")
    return user.folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_repository, "not in a git repository"),
        (not_there, "cannot run"),
        (a_file, "cannot run"),
        (bare, "bare"),
        (git_folder, ".git folder"),
        (unborn, "no commit yet"),
        (no_files, "no file"),
        (untracked_folder, "no file"),
        (branch_in_the_way, "stands in the way"),
    ],
)
def test_find_says_what_is_wrong_and_what_to_do(tmp_path: Path, make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(RepoError, match=words) as caught:
        Origin.find(make(tmp_path))
    assert caught.value.hint


def test_a_machine_without_git_is_told_so(user: UserRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RepoError, match="git cannot run") as caught:
        Origin.find(user.folder)
    assert "install git" in caught.value.hint


# --- Origin.dirty, has_branches --------------------------------------------------------------------------------------


def test_dirty_names_what_is_in_scope_and_uncommitted(user: UserRepo) -> None:
    user.commit(**{"sub/a__py": "a\n", "sub/b__py": "b\n", "sub/c__py": "c\n", "sub/keep__py": "k\n", "top__py": "t\n"})
    origin = Origin.find(user.folder / "sub")
    scope = Scope(can=("*",), cannot=("frozen*",))
    assert origin.dirty(scope) == []
    user.write("sub/a.py", "staged\n")
    user.git("add", "sub/a.py")
    user.write("sub/b.py", "unstaged\n")
    (user.folder / "sub" / "c.py").unlink()
    user.write("sub/new\nname.py")
    for litter in ("sub/run.log", "sub/__pycache__/a.pyc", "sub/.autoresearch/x/ledger.jsonl"):
        user.write(litter)
    user.write("sub/frozen.py")
    user.write("top.py", "outside the prefix\n")
    assert origin.dirty(scope) == ["a.py", "b.py", "c.py", "new\nname.py"]
    assert origin.dirty(Scope(can=("b.py",))) == ["b.py"]


def test_has_branches_tells_tags_apart(user: UserRepo) -> None:
    user.git("branch", "autoresearch/nov20-gpu0")
    origin = Origin.find(user.folder)
    assert origin.has_branches("nov20")
    assert not origin.has_branches("nov2")
    assert not origin.has_branches("nov")


# --- Hub -------------------------------------------------------------------------------------------------------------


def test_the_hub_holds_the_history_of_the_base_and_nothing_else(user: UserRepo, tmp_path: Path) -> None:
    base = user.head
    user.git("checkout", "-q", "-b", "secret")
    secret = user.commit(secret__py="s\n")
    user.git("tag", "v1")
    origin = Origin.find(user.folder)
    hub = Hub.create(tmp_path / "hub.git", origin, base)
    assert hub.has(base)
    assert not hub.has(secret)
    assert hub.branches() == {}
    first = user.git("rev-list", "--max-parents=0", base).strip()
    assert "gone later" in hub.show(first)


def test_the_hub_outlives_the_users_repository(user: UserRepo, tmp_path: Path) -> None:
    base = user.head
    hub_of(user, tmp_path / "hub.git")
    shutil.rmtree(user.folder)
    hub = Hub.open(tmp_path / "hub.git")
    store = store_of(hub, base, tmp_path / "store.git")
    store.checkout(tmp_path / "tree", base)
    assert (tmp_path / "tree" / "train.py").read_text().startswith("line 0\n")


def test_a_hub_is_not_made_twice_and_not_opened_where_there_is_none(user: UserRepo, tmp_path: Path) -> None:
    hub_of(user, tmp_path / "hub.git")
    with pytest.raises(RepoError, match="already"):
        hub_of(user, tmp_path / "hub.git")
    with pytest.raises(RepoError, match="not the hub"):
        Hub.open(tmp_path)


def test_a_hub_that_was_being_made_when_the_power_went_is_made_anew(user: UserRepo, tmp_path: Path) -> None:
    (tmp_path / "hub.git.part" / "objects").mkdir(parents=True)
    assert hub_of(user, tmp_path / "hub.git").has(user.head)
    assert not (tmp_path / "hub.git.part").exists()


def test_a_lock_left_by_a_killed_process_is_removed_by_unlock(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    lock = hub.folder / "refs/heads/autoresearch/x.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    hub.unlock()
    hub.branch("autoresearch/x", user.head)
    assert hub.branches() == {"autoresearch/x": user.head}


def test_a_branch_name_that_git_refuses_is_an_error(user: UserRepo, tmp_path: Path) -> None:
    with pytest.raises(RepoError):
        hub_of(user, tmp_path / "hub.git").branch("autoresearch/a..b", user.head)


def test_diff_stat_and_show(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    store = store_of(hub, user.head, tmp_path / "store.git")
    made = candidate(store, tmp_path / "tree", user.head, "tout changé\n", idea="use français")
    hub.unpack(store.pack([made.commit]), "refs/attempts/gpu0/1", made.commit)
    assert "+tout changé\n" in hub.diff(user.head, made.commit)
    assert "train.py | 401 +" in hub.stat(user.head, made.commit)
    assert "use français" in hub.show(made.commit)
    assert made.lines == 1 - 400
    with pytest.raises(RepoError):
        hub.diff(user.head, "0" * 40)


# --- Bundles ---------------------------------------------------------------------------------------------------------


def test_a_bundle_is_one_that_git_reads(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    (tmp_path / "whole.bundle").write_bytes(hub.pack([user.head]))
    (tmp_path / "thin.bundle").write_bytes(hub.pack([user.head], [user.git("rev-parse", "HEAD~1").strip()]))
    user.git("bundle", "verify", str(tmp_path / "whole.bundle"))
    user.git("bundle", "verify", str(tmp_path / "thin.bundle"))
    user.git("clone", "-q", "-b", "candidate", str(tmp_path / "whole.bundle"), str(tmp_path / "clone"))
    assert (tmp_path / "clone" / "train.py").exists()


@pytest.mark.slow
def test_three_hundred_commits_arrive_byte_for_byte(user: UserRepo, tmp_path: Path) -> None:
    chance = Random(20)
    contents = [chance.randbytes(chance.randrange(60)) + b"%d\n" % number for number in range(300)]
    script = b"".join(
        b"commit refs/heads/x\ncommitter A <a@b> 0 +0000\ndata 0\n%sM 644 inline train.py\ndata %d\n%s\n"
        % (b"" if number else b"from %s\n" % user.head.encode(), len(content), content)
        for number, content in enumerate(contents)
    )
    hub = hub_of(user, tmp_path / "hub.git")
    store = store_of(hub, user.head, tmp_path / "store.git")
    store.git("fast-import", "--quiet", stdin=script)
    line = [user.head, *store.git("rev-list", "--reverse", f"{user.head}..refs/heads/x").decode().split()]
    for number, (parent, commit) in enumerate(pairwise(line)):
        hub.unpack(store.pack([commit], [parent]), f"refs/attempts/gpu0/{number}", commit)
    asked = "".join(f"{commit}:train.py\n" for commit in line[1:])
    arrived = hub.git("cat-file", "--batch=%(objectsize)", stdin=asked.encode())
    assert arrived == b"".join(b"%d\n%s\n" % (len(content), content) for content in contents)


def test_one_changed_line_takes_less_than_a_kilobyte(user: UserRepo, tmp_path: Path) -> None:
    store = store_of(hub_of(user, tmp_path / "hub.git"), user.head, tmp_path / "store.git")
    text = (user.folder / "train.py").read_text()
    made = candidate(store, tmp_path / "tree", user.head, text.replace("line 200\n", "line two hundred\n"))
    assert 0 < len(store.pack([made.commit], [user.head])) < 1000


def test_nothing_is_packed_for_one_who_has_it(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    first = user.git("rev-parse", "HEAD~1").strip()
    assert hub.pack([user.head], [user.head]) == b""
    assert hub.pack([first], [user.head]) == b""
    assert hub.pack([user.head], [first]) != b""
    assert hub.pack([user.head], ["0" * 40]) == hub.pack([user.head])
    with pytest.raises(RepoError):
        hub.pack(["0" * 40])


def test_unpacking_twice_is_unpacking_once(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    store = store_of(hub, user.head, tmp_path / "store.git")
    made = candidate(store, tmp_path / "tree", user.head, "new\n")
    bundle = store.pack([made.commit], [user.head])
    for again in (bundle, bundle, b""):
        hub.unpack(again, "refs/attempts/gpu0/1", made.commit)
    assert hub.has(made.commit)
    assert hub.pack([made.commit], [user.head]) != b""


def test_a_bundle_that_lacks_prerequisites_is_refused(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    store = store_of(hub, user.head, tmp_path / "store.git")
    one = candidate(store, tmp_path / "tree", user.head, "one\n")
    two = candidate(store, tmp_path / "tree", one.commit, "two\n")
    with pytest.raises(RepoError, match="not here") as caught:
        hub.unpack(store.pack([two.commit], [one.commit]), "refs/attempts/gpu0/2", two.commit)
    assert "larger bundle" in caught.value.hint
    assert not hub.has(two.commit)


def test_a_bundle_without_the_commit_it_is_said_to_bring_is_refused(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    store = store_of(hub, user.head, tmp_path / "store.git")
    made = candidate(store, tmp_path / "tree", user.head, "new\n")
    for bundle in (b"", store.pack([made.commit], [user.head])):
        with pytest.raises(RepoError, match="did not arrive"):
            hub.unpack(bundle, "refs/attempts/gpu0/1", "1" * 40)
    with pytest.raises(RepoError, match="does not bring"):
        Store.create(tmp_path / "store2.git", hub.pack([user.head]), made.commit)


def test_a_damaged_bundle_is_an_error_and_sets_no_ref(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    store = store_of(hub, user.head, tmp_path / "store.git")
    made = candidate(store, tmp_path / "tree", user.head, "new\n")
    bundle = store.pack([made.commit], [user.head])
    start = bundle.index(b"\n\n") + 2
    places = [2, 20, start - 20, *Random(1).sample(range(start, len(bundle)), 12)]  # header, what it builds on, pack
    damaged = [bytes([*bundle[:at], bundle[at] ^ 0x41, *bundle[at + 1 :]]) for at in places]
    damaged += [bundle[:cut] for cut in (1, 20, 60, start, start + 4, len(bundle) - 1)] + [b"\n\nPACK", b"\0" * 99]
    for each in damaged:
        with pytest.raises(RepoError):
            hub.unpack(each, "refs/attempts/gpu0/1", made.commit)
    assert not hub.has(made.commit)
    assert not (hub.folder / "refs/attempts").exists()
    hub.unpack(bundle, "refs/attempts/gpu0/1", made.commit)
    assert hub.has(made.commit)


def test_eight_threads_hand_in_at_once(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    store = store_of(hub, user.head, tmp_path / "store.git")

    def lane(name: int) -> list[str]:
        head, line = user.head, []
        for number in range(5):
            made = candidate(store, tmp_path / f"tree{name}", head, f"{name} {number}\n", idea=f"{name}-{number}")
            hub.unpack(store.pack([made.commit], [head]), f"refs/attempts/gpu{name}/{number}", made.commit)
            hub.branch(f"autoresearch/x-gpu{name}", made.commit)
            head = made.commit
            line.append(head)
        return line

    with ThreadPoolExecutor(8) as pool:
        lines = list(pool.map(lane, range(8)))
    assert hub.branches() == {f"autoresearch/x-gpu{name}": line[-1] for name, line in enumerate(lines)}
    whole = store_of(hub, lines[3][-1], tmp_path / "late.git")
    whole.checkout(tmp_path / "late", lines[3][2])
    assert (tmp_path / "late" / "train.py").read_text() == "3 2\n"
    assert subprocess.run(["git", "fsck", "--strict"], cwd=hub.folder, capture_output=True).returncode == 0


def test_what_was_confirmed_before_a_kill_is_there_after_it(user: UserRepo, tmp_path: Path) -> None:
    hub = hub_of(user, tmp_path / "hub.git")
    store_of(hub, user.head, tmp_path / "store.git")
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, user.head], cwd=tmp_path, stdout=subprocess.PIPE)
    assert writer.stdout
    with writer.stdout as confirmed:
        first = [confirmed.readline() for _ in range(5)]
        writer.kill()
        lines = [line.decode().split() for line in [*first, *confirmed] if line.endswith(b"\n")]
    writer.wait()
    hub.unlock()
    for ref, commit in lines:
        assert hub.git("rev-parse", ref).decode().strip() == commit
        assert hub.git("show", f"{commit}:train.py") == f"{ref}\n".encode()
    hub.unpack(b"", f"refs/attempts/gpu0/{len(lines)}", lines[-1][1])  # the one that was perhaps under way


_WRITER = """
import sys
from itertools import count
from pathlib import Path
from autoresearch_ray.model import Scope
from autoresearch_ray.repo import Hub, Store
hub, store, tree, head = Hub.open(Path("hub.git")), Store(Path("store.git")), Path("tree"), sys.argv[1]
store.stand(tree, head)
for number in count():
    ref = f"refs/attempts/gpu0/{number}"
    (tree / "train.py").write_text(ref + "\\n")
    commit = store.commit(tree, head, ref, Scope(("train.py",)), "").commit
    hub.unpack(store.pack([commit], [head]), ref, commit)
    head = commit
    print(ref, commit, flush=True)
"""


# --- Unusual repositories --------------------------------------------------------------------------------------------


def through_all(user: UserRepo, tmp_path: Path) -> Candidate:
    """A change from the user's HEAD to a published branch, and onto another one by replay."""
    origin = Origin.find(user.folder)
    hub = Hub.create(tmp_path / "hub.git", origin, origin.head)
    store = store_of(hub, origin.head, tmp_path / "store.git")
    top = (user.folder / "train.py").read_text()
    one = candidate(store, tmp_path / "tree", origin.head, "first\n" + top)
    two = candidate(store, tmp_path / "tree", origin.head, top + "last\n")
    both = store.replay([two.commit], one.commit)
    assert isinstance(both, Candidate), both
    assert both.lines == 1
    assert store.inside(origin.head, both.commit, SCOPE, "") is None
    hub.unpack(store.pack([both.commit], [origin.head]), "refs/attempts/gpu0/1", both.commit)
    hub.branch("autoresearch/x", both.commit)
    other = store_of(hub, origin.head, tmp_path / "other.git")
    other.unpack(hub.pack([both.commit], [origin.head]))
    other.checkout(tmp_path / "measure", both.commit)
    assert (tmp_path / "measure" / "train.py").read_text() == "first\n" + top + "last\n"
    assert origin.publish(hub.folder, "x") == []
    assert user.git("rev-parse", "autoresearch/x").strip() == both.commit
    assert user.git("diff", "--stat", "HEAD", "autoresearch/x").endswith("2 insertions(+)\n")
    return both


def test_a_repository_with_sha256_names(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user", "--object-format=sha256")
    user.commit(train__py="".join(f"{n}\n" for n in range(20)))
    assert len(through_all(user, tmp_path).commit) == 64


def test_a_shallow_clone(user: UserRepo, tmp_path: Path) -> None:
    user.commit(other__py="x\n")
    user.git("clone", "-q", "--depth=2", f"file://{user.folder}", str(tmp_path / "clone"))
    clone = UserRepo(tmp_path / "clone")
    marks = (clone.folder / ".git/shallow").read_bytes()
    through_all(clone, tmp_path)
    assert (clone.folder / ".git/shallow").read_bytes() == marks
    shown = subprocess.run(["git", "log", "--format=%s"], cwd=tmp_path / "tree", capture_output=True, text=True)
    assert shown.stdout.splitlines()[-2:] == ["change", "second"]


def test_a_clone_whose_history_was_fetched_during_the_run(user: UserRepo, tmp_path: Path) -> None:
    user.git("clone", "-q", "--depth=1", f"file://{user.folder}", str(tmp_path / "clone"))
    clone = UserRepo(tmp_path / "clone")
    origin = Origin.find(clone.folder)
    hub = Hub.create(tmp_path / "hub.git", origin, origin.head)
    made = candidate(store_of(hub, origin.head, tmp_path / "s.git"), tmp_path / "tree", origin.head, "new\n")
    hub.unpack(Store(tmp_path / "s.git").pack([made.commit], [origin.head]), "refs/attempts/gpu0/1", made.commit)
    hub.branch("autoresearch/x", made.commit)
    clone.git("fetch", "-q", "--unshallow")
    assert origin.publish(hub.folder, "x") == []
    assert clone.git("log", "--format=%s", "autoresearch/x").split("\n")[1:3] == ["second", "first"]


def test_a_partial_clone_works_or_says_that_it_lacks_objects(user: UserRepo, tmp_path: Path) -> None:
    user.git("config", "uploadpack.allowFilter", "true")
    user.git("clone", "-q", "--filter=blob:none", f"file://{user.folder}", str(tmp_path / "clone"))
    try:
        through_all(UserRepo(tmp_path / "clone"), tmp_path)
    except RepoError as error:
        assert "partial clone" in error.hint


def test_a_repository_that_borrows_its_objects(user: UserRepo, tmp_path: Path) -> None:
    user.git("clone", "-q", "--shared", str(user.folder), str(tmp_path / "clone"))
    through_all(UserRepo(tmp_path / "clone"), tmp_path)
    assert not (tmp_path / "hub.git/objects/info/alternates").exists()


def test_a_base_that_the_user_has_since_amended_away(user: UserRepo, tmp_path: Path) -> None:
    origin = Origin.find(user.folder)
    hub = Hub.create(tmp_path / "hub.git", origin, origin.head)
    user.git("commit", "-q", "--amend", "-m", "amended")
    user.git("reflog", "expire", "--expire=now", "--all")
    user.git("gc", "-q", "--prune=now")
    hub.branch("autoresearch/x", origin.head)
    assert origin.publish(hub.folder, "x") == []
    assert user.git("log", "--format=%s", "autoresearch/x").split("\n")[:2] == ["second", "first"]


def test_submodules_stay_empty_folders(user: UserRepo, tmp_path: Path) -> None:
    inner = UserRepo(tmp_path / "inner")
    inner.commit(lib__py="y\n")
    user.git("submodule", "add", "-q", str(inner.folder), "vendor/inner")
    user.commit()
    assert Origin.find(user.folder).files(user.head) == [".gitmodules", "train.py"]
    through_all(user, tmp_path)
    assert list((tmp_path / "measure/vendor/inner").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_repository_that_belongs_to_another_user(user: UserRepo, tmp_path: Path) -> None:
    for root, folders, files in os.walk(user.folder):
        for name in [".", *folders, *files]:
            os.chown(Path(root, name), 65534, 65534)
    origin = Origin.find(user.folder)
    hub = Hub.create(tmp_path / "hub.git", origin, origin.head)
    assert hub.has(origin.head)
    hub.branch("autoresearch/x", origin.head)
    assert origin.publish(hub.folder, "x") == []


@pytest.mark.slow
def test_five_thousand_files(user: UserRepo, tmp_path: Path) -> None:
    for number in range(5000):
        user.write(f"data/{number % 50}/{number}.txt", f"{number}\n")
    user.commit()
    origin = Origin.find(user.folder)
    hub = Hub.create(tmp_path / "hub.git", origin, origin.head)
    made = candidate(store_of(hub, origin.head, tmp_path / "s.git"), tmp_path / "tree", origin.head, "new\n")
    store = Store(tmp_path / "s.git")
    store.checkout(tmp_path / "measure", made.commit)
    assert sum(path.is_file() for path in (tmp_path / "measure").rglob("*")) == 5001


# --- Hub.tidy --------------------------------------------------------------------------------------------------------


def test_a_tidy_hub_has_few_files_and_all_that_it_had_while_others_write(user: UserRepo, tmp_path: Path) -> None:
    hub, base = hub_of(user, tmp_path / "hub.git"), user.head
    store = store_of(hub, base, tmp_path / "store.git")
    made = [candidate(store, tmp_path / "tree", base, f"LR = {number}\n").commit for number in range(24)]

    def arrive(number: int) -> None:
        hub.unpack(store.pack([made[number]], [base]), f"refs/attempts/gpu0/{number}", made[number])

    for number in range(8):
        arrive(number)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(arrive, number) for number in range(8, 24)]
        for _ in range(3):
            hub.tidy()
        for each in jobs:
            each.result()
    hub.tidy()
    assert hub.known(made) == made
    refs = hub.git("for-each-ref", "--format=%(objectname)", "refs/attempts").decode().split()
    assert sorted(refs) == sorted(made)
    hub.git("fsck", "--strict", "--connectivity-only")
    left = [each for each in hub.folder.rglob("*") if each.is_file() and each.parent.parent.name == "objects"]
    assert [each for each in left if each.parent.name not in ("pack", "info")] == []
