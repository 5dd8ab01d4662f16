"""The user's repository is the same, byte for byte, after everything that a run does to it; our branches excepted."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_ray.model import Scope
from autoresearch_ray.repo import Hub, Origin, Store
from tests.user_repo import UserRepo

SCOPE = Scope(can=("train.py",))
OURS = (".git/objects", ".git/refs/heads/autoresearch", ".git/logs/refs/heads/autoresearch")


def fingerprint(top: Path) -> dict[str, str]:
    """A digest of every file, link and folder below `top`, but for git's objects and our branches."""
    prints = {}
    for root, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = Path(root, name)
            inner = path.relative_to(top).as_posix()
            if inner.startswith(OURS):
                continue
            status = path.lstat()
            if path.is_symlink():
                content = bytes(path.readlink())
            elif path.is_dir():
                prints[inner] = f"folder {stat.S_IMODE(status.st_mode):o}"
                continue
            else:
                content = path.read_bytes()
            prints[inner] = f"{status.st_mode:o} {status.st_mtime_ns} {hashlib.sha256(content).hexdigest()}"
    return prints


def said(user: UserRepo) -> str:
    return user.git("--no-optional-locks", "status", "--porcelain") + user.git("stash", "list")


def clean(user: UserRepo) -> None:
    pass


def dirty(user: UserRepo) -> None:
    user.write("other.py", "staged\n")
    user.git("add", "other.py")
    user.write("train.py", "not staged\n")
    user.write("new.py", "untracked\n")


def touched(user: UserRepo) -> None:
    """The index has stale times, which `git status` would like to refresh."""
    os.utime(user.folder / "train.py", ns=(10**18, 10**18))


def stash(user: UserRepo) -> None:
    user.write("train.py", "put aside\n")
    user.git("stash")


def submodule(user: UserRepo) -> None:
    inner = UserRepo(user.folder.parent / "inner")
    inner.commit(lib__py="y\n")
    user.git("submodule", "add", "-q", str(inner.folder), "vendor/inner")
    user.commit("with a submodule")


def odd_names(user: UserRepo) -> None:
    for name in ("a b", 'quo"te', "new\nline", "..odd", "-n", ":colon", "back\\slash", "tab\t"):
        user.write(name)
    (user.folder / os.fsdecode(b"latin-\xe9")).write_text("x\n")
    user.commit("odd names")
    user.write("new\nline", "changed\n")


def detached(user: UserRepo) -> None:
    user.git("checkout", "-q", "--detach")


def packed(user: UserRepo) -> None:
    user.git("branch", "autoresearch/x-gpu0", "main")
    user.git("tag", "v1")
    user.git("pack-refs", "--all")
    user.git("gc", "-q")


def checked_out(user: UserRepo) -> None:
    user.git("checkout", "-q", "-b", "autoresearch/x")


def own_settings(user: UserRepo) -> None:
    """Hooks that would leave a trace, and settings that make fetch do more than asked."""
    for name in ("post-checkout", "reference-transaction", "post-merge", "pre-auto-gc"):
        user.write(f".git/hooks/{name}", "#!/bin/sh\ntouch HOOK-RAN\n").chmod(0o755)
    for key in ("fetch.prune", "fetch.pruneTags", "fetch.writeCommitGraph", "gc.autoDetach", "core.logAllRefUpdates"):
        user.git("config", key, "true")
    user.git("config", "gc.auto", "1")
    user.git("tag", "mine")


STATES = [
    clean,
    dirty,
    touched,
    stash,
    submodule,
    odd_names,
    detached,
    packed,
    checked_out,
    own_settings,
]


def through_a_run(user: UserRepo, top: Path, scratch: Path) -> list[str]:
    """All that reads the user's repository or writes to it, in order. Returns the skipped branches."""
    origin = Origin.find(top)
    origin.dirty(SCOPE)
    origin.files(origin.head)
    origin.has_branches("x")
    hub = Hub.create(scratch / "hub.git", origin, origin.head)
    store = Store.create(scratch / "store.git", hub.pack([origin.head]), origin.head)
    tree = scratch / "tree"
    skipped = []
    for number, content in enumerate(["one\n", "two\n"]):  # the second is no descendant of the first: a forced update
        store.stand(tree, origin.head)
        (tree / "train.py").write_text(content)
        made = store.commit(tree, origin.head, content, SCOPE, "")
        assert made.line  # a candidate
        hub.unpack(store.pack([made.commit], [origin.head]), f"refs/attempts/gpu0/{number}", made.commit)
        for name in ("autoresearch/x-gpu0", "autoresearch/x"):
            hub.branch(name, made.commit)
        skipped = origin.publish(hub.folder, "x")
        assert user.git("rev-parse", "autoresearch/x-gpu0").strip() == made.commit
    return skipped


@pytest.mark.parametrize("state", STATES, ids=lambda each: each.__name__)
def test_a_run_leaves_the_users_repository_as_it_was(tmp_path: Path, state: Callable[[UserRepo], None]) -> None:
    user = UserRepo(tmp_path / "user")
    user.commit("start", train__py="x = 1\n", other__py="y = 1\n", __gitignore="*.log\n")
    state(user)
    in_words = said(user)
    before = fingerprint(user.folder)
    skipped = through_a_run(user, user.folder, tmp_path)
    assert fingerprint(user.folder) == before
    assert said(user) == in_words
    assert skipped == (["autoresearch/x"] if state is checked_out else [])


def test_a_linked_work_tree_and_its_main_one_stay_as_they_were(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user")
    user.commit(train__py="x = 1\n")
    linked = tmp_path / "linked"
    user.git("worktree", "add", "-q", "-b", "autoresearch/x", str(linked))
    (linked / "train.py").write_text("unfinished\n")
    before = fingerprint(user.folder), fingerprint(linked)
    assert through_a_run(user, linked, tmp_path) == ["autoresearch/x"]
    assert (fingerprint(user.folder), fingerprint(linked)) == before


def test_a_branch_that_is_no_longer_checked_out_is_brought_up_to_date(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user")
    user.commit(train__py="x = 1\n")
    checked_out(user)
    assert through_a_run(user, user.folder, tmp_path) == ["autoresearch/x"]
    old = user.head
    user.git("checkout", "-q", "main")
    assert Origin.find(user.folder).publish(tmp_path / "hub.git", "x") == []
    assert user.git("rev-parse", "autoresearch/x") == user.git("rev-parse", "autoresearch/x-gpu0") != old


def test_other_branches_of_the_hub_do_not_come_along(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user")
    user.commit(train__py="x = 1\n")
    origin = Origin.find(user.folder)
    hub = Hub.create(tmp_path / "hub.git", origin, origin.head)
    for name in ("main", "autoresearch/y", "autoresearch/x", "autoresearch/xy-gpu0"):
        hub.branch(name, origin.head)
    origin.publish(hub.folder, "x")
    names = user.git("for-each-ref", "--format=%(refname)").split()
    assert names == ["refs/heads/autoresearch/x", "refs/heads/main"]
