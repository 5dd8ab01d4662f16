"""The store: the folders it makes, and the one commit it makes of whatever an agent left behind."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_ray import tree as trees
from autoresearch_ray.errors import RepoError
from autoresearch_ray.model import Failure, FailureKind, Scope
from autoresearch_ray.repo import Candidate, Hub, Origin, Store
from tests.user_repo import UserRepo

SCOPE = Scope(can=("train.py", "src/"), cannot=("src/frozen.py",))
PATH = os.environ["PATH"]


class World:
    """A user's repository, a store made from it, and a folder that an agent was given."""

    def __init__(self, folder: Path, user: UserRepo) -> None:
        self.folder = folder
        self.user = user
        self.base = user.head
        origin = Origin.find(user.folder)
        hub = Hub.create(folder / "hub.git", origin, self.base)
        self.store = Store.create(folder / "store.git", hub.pack([self.base]), self.base)
        self.tree = folder / "tree"
        self.store.stand(self.tree, self.base)

    def commit(self, scope: Scope = SCOPE, prefix: str = "", parent: str = "") -> Candidate | Failure:
        return self.store.commit(self.tree, parent or self.base, "an idea", scope, prefix)

    def agent_git(self, *arguments: str) -> str:
        """What the agent's own git says in its folder, with nothing set for it."""
        return subprocess.run(
            ["git", *arguments],
            cwd=self.tree,
            env={"PATH": PATH, "HOME": str(self.folder)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def contents(self, commit: str) -> dict[str, bytes]:
        """What is measured: the files of a checkout."""
        measure = self.folder / "measure"
        self.store.checkout(measure, commit)
        return {
            str(path.relative_to(measure)): path.read_bytes()
            for path in measure.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    def changed(self, commit: str) -> list[str]:
        out = self.store.git("diff-tree", "-r", "-z", "--name-only", self.base, commit)
        return [os.fsdecode(each) for each in out.split(b"\0")[:-1]]


def start(user: UserRepo) -> None:
    """A small project: files in and out of scope, rules of what to ignore, an executable, a link."""
    user.write("train.py", "".join(f"line {n}\n" for n in range(30)))
    user.write("prepare.py", "frozen\n")
    user.write("src/model.py", "m = 1\n")
    user.write("src/frozen.py", "f = 1\n")
    user.write("run.sh", "#!/bin/sh\n").chmod(0o755)
    user.write(".gitignore", "*.log\n/data/\n")
    user.write("src/.gitignore", "!keep.log\n*.tmp\n")
    (user.folder / "link").symlink_to("train.py")
    user.commit("start")


@pytest.fixture
def world(tmp_path: Path) -> World:
    user = UserRepo(tmp_path / "user")
    start(user)
    return World(tmp_path, user)


def made(result: Candidate | Failure) -> Candidate:
    assert isinstance(result, Candidate), result
    return result


def refused(result: Candidate | Failure | None, kind: FailureKind = FailureKind.OUT_OF_SCOPE) -> str:
    assert isinstance(result, Failure), result
    assert result.kind == kind
    return result.message


def nest(folder: Path, name: str, levels: int) -> None:
    """A file that many folders deep, by steps: the whole path may be longer than the system allows."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)


# --- What the agent is given, and what is measured -------------------------------------------------------------------


def test_the_agent_gets_a_clean_repository_it_can_look_around_in(world: World) -> None:
    assert world.agent_git("status", "--porcelain") == ""
    assert world.agent_git("log", "--format=%s") == "start\n"
    assert world.agent_git("rev-parse", "--abbrev-ref", "HEAD") == "experiment\n"
    (world.tree / "train.py").write_text("new\n")
    (world.tree / "run.log").touch()
    assert "+new\n" in world.agent_git("diff")
    assert world.agent_git("status", "--porcelain") == " M train.py\n"
    world.agent_git("commit", "-qam", "mine")
    assert (world.tree / "run.sh").stat().st_mode & 0o111


def test_nothing_the_agent_does_to_its_repository_reaches_the_store(world: World) -> None:
    def print_of_store() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in world.store.folder.rglob("*") if path.is_file()}

    before = print_of_store()
    (world.tree / "train.py").write_text("new\n")
    world.agent_git("checkout", "-q", "--orphan", "other")
    world.agent_git("commit", "-qam", "orphan")
    world.agent_git("branch", "-D", "experiment")
    world.agent_git("reflog", "expire", "--expire=now", "--all")
    world.agent_git("gc", "-q", "--prune=now", "--aggressive")
    world.agent_git("repack", "-adq")
    world.agent_git("prune", "--expire=now")
    assert print_of_store() == before
    assert made(world.commit()).line


def test_a_checkout_holds_the_files_of_the_commit_and_nothing_else(world: World) -> None:
    measure = world.folder / "measure"
    (measure / "left" / "behind").mkdir(parents=True)
    world.store.checkout(measure, world.base)
    names = sorted(str(path.relative_to(measure)) for path in measure.rglob("*") if not path.is_dir())
    assert names == [
        ".gitignore",
        "link",
        "prepare.py",
        "run.sh",
        "src/.gitignore",
        "src/frozen.py",
        "src/model.py",
        "train.py",
    ]
    assert (measure / "link").readlink() == Path("train.py")
    assert not (measure / ".git").exists()


def test_files_are_the_bytes_of_the_commit_whatever_the_attributes_say(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user")
    attributes = (
        "*.bat text eol=crlf\n*.bin filter=lfs diff=lfs merge=lfs -text\n*.c ident\n*.u working-tree-encoding=UTF-16\n"
    )
    user.write("train.py", "dos\r\nand unix\n")
    user.write("a.bat", "one\ntwo\n")
    user.write("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    user.write("a.c", "$Id$\n")
    user.commit()
    user.write(".gitattributes", attributes + "* text=auto\n")
    user.git("add", ".gitattributes")
    user.git("commit", "-qm", "attributes, and files that are not as they say")
    world = World(tmp_path, user)
    assert world.agent_git("status", "--porcelain") == ""
    refused(world.commit(), FailureKind.NO_CHANGE)
    assert (world.tree / "train.py").read_bytes() == b"dos\r\nand unix\n"
    assert (world.tree / "a.bat").read_bytes() == b"one\ntwo\n"
    (world.tree / "train.py").write_bytes(b"more\r\nof both\n")
    commit = made(world.commit()).commit
    assert world.contents(commit)["train.py"] == b"more\r\nof both\n"
    assert world.changed(commit) == ["train.py"]


def test_emptying_a_tree_touches_nothing_it_links_to(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "precious").write_text("keep me\n")
    (world.tree / "to-folder").symlink_to(outside)
    (world.tree / "to-file").symlink_to(outside / "deep" / "precious")
    (world.tree / os.fsdecode(b"-rf \xff\n")).mkdir()
    locked = world.tree / "locked"
    (locked / "inner").mkdir(parents=True)
    (locked / "inner").chmod(0)
    locked.chmod(0o500)
    os.mkfifo(world.tree / "pipe")
    world.store.stand(world.tree, world.base)
    assert (outside / "deep" / "precious").read_text() == "keep me\n"
    assert world.agent_git("status", "--porcelain", "--ignored") == ""
    shutil.rmtree(world.tree)
    world.tree.symlink_to(outside)
    world.store.checkout(world.tree, world.base)
    assert not world.tree.is_symlink()
    assert [path.name for path in outside.iterdir()] == ["deep"]


def test_a_tree_of_a_thousand_levels_is_emptied(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    nest(tree, "d", 1200)
    trees.empty(tree)
    assert list(tree.iterdir()) == []


# --- Candidates ------------------------------------------------------------------------------------------------------


def test_a_change_becomes_one_commit_on_its_parent(world: World) -> None:
    (world.tree / "train.py").write_text("line 0\nline 1\nline 1.5\n")
    (world.tree / "src" / "deep").mkdir()
    (world.tree / "src" / "deep" / "new.py").write_text("a\nb\n")
    (world.tree / "src" / "model.py").unlink()
    one = made(world.commit())
    assert one.line == (one.commit,)
    assert one.lines == (3 - 30) + 2 - 1
    assert world.changed(one.commit) == ["src/deep/new.py", "src/model.py", "train.py"]
    about = world.store.git("log", "-1", "--format=%P|%an|%ae|%cn|%s", one.commit).decode()
    assert about == f"{world.base}|autoresearch|autoresearch@localhost|autoresearch|an idea\n"
    contents = world.contents(one.commit)
    assert contents["train.py"] == b"line 0\nline 1\nline 1.5\n"
    assert "src/model.py" not in contents
    world.store.stand(world.tree, one.commit)
    refused(world.commit(parent=one.commit), FailureKind.NO_CHANGE)


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = UserRepo(tmp_path / "user")
    start(user)
    monkeypatch.chdir(tmp_path)
    world = World(Path(), user)
    (world.tree / "train.py").write_text("new\n")
    assert world.contents(made(world.commit()).commit)["train.py"] == b"new\n"


def test_nothing_changed_is_said(world: World) -> None:
    os.utime(world.tree / "train.py", (1, 1))
    world.agent_git("commit", "-q", "--allow-empty", "-m", "look, I did it")
    assert refused(world.commit(), FailureKind.NO_CHANGE)


@pytest.mark.parametrize(
    ("idea", "subject"),
    [
        ("wider layers", "wider layers"),
        ("", "experiment"),
        (" \n\t\n", "experiment"),
        ("\n\n  first\tline \nsecond", "first line"),
        ("bell\a and \x1b[31mred\x1b[0m", "bell and [31mred [0m"),
        ("lone \udcff surrogate", "lone surrogate"),
        ("é" * 200, "é" * 119 + "…"),
        ("data 5\nfrom refs/heads/x", "data 5"),
    ],
)
def test_the_subject_is_the_idea_made_fit_for_a_line(world: World, idea: str, subject: str) -> None:
    (world.tree / "train.py").write_text("new\n")
    commit = made(world.store.commit(world.tree, world.base, idea, SCOPE, "")).commit
    assert world.store.git("log", "-1", "--format=%B", commit).decode().rstrip("\n") == subject


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200 and not trees.litter(name)
)
RAW_NAMES = st.binary(min_size=1, max_size=12).map(lambda raw: os.fsdecode(raw.translate(None, b"/\0") or b"\xff"))
ODD = st.sampled_from(["new\nline", '"', "'", "\\", " ", "..odd", "-n", ":top", "*", "[a]", "a\tb", "!x", "#x", "~"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        (NAMES | ODD | RAW_NAMES).filter(lambda name: name.lower() not in (".", "..", ".git", "git~1", ".gitignore")),
        st.tuples(st.binary(max_size=50), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_any_files_in_scope_come_back_as_they_were(world: World, files: dict[str, tuple[bytes, bool]]) -> None:
    world.store.stand(world.tree, world.base)
    kept = {name: each for name, each in files.items() if not trees.litter(name)}
    kept = {name: each for name, each in kept.items() if not name.endswith((".log", ".tmp"))}
    (world.tree / "src" / "new").mkdir()
    for name, (content, executable) in kept.items():
        path = world.tree / "src" / "new" / name
        path.write_bytes(content)
        path.chmod(0o755 if executable else 0o644)
    if not kept:
        return
    commit = made(world.commit()).commit
    assert sorted(world.changed(commit)) == sorted(f"src/new/{name}" for name in kept)
    world.store.checkout(world.folder / "measure", commit)
    for name, (content, executable) in kept.items():
        path = world.folder / "measure" / "src" / "new" / name
        assert path.read_bytes() == content
        assert bool(path.stat().st_mode & 0o100) == executable


def test_scope_counts_from_the_prefix(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user")
    for name in ("examples/nanochat/train.py", "examples/nanochat/prepare.py", "train.py"):
        user.write(name)
    user.commit()
    world = World(tmp_path, user)
    (world.tree / "examples/nanochat/train.py").write_text("new\n")
    one = made(world.commit(Scope(can=("train.py",)), "examples/nanochat"))
    assert world.changed(one.commit) == ["examples/nanochat/train.py"]
    (world.tree / "train.py").write_text("not this one\n")
    (world.tree / "examples/nanochat/prepare.py").write_text("nor this\n")
    message = refused(world.commit(Scope(can=("train.py",)), "examples/nanochat"))
    assert message == "changed out of scope: prepare.py, ../../train.py"


def test_several_lanes_share_one_store(world: World) -> None:
    def lane(number: int) -> str:
        tree = world.folder / f"tree{number}"
        head = world.base
        for step in range(4):
            world.store.stand(tree, head)
            (tree / "train.py").write_text(f"{number} {step}\n")
            (tree / "notes.log").touch()  # asks for the rules of what is ignored
            head = made(world.store.commit(tree, head, "x", SCOPE, "")).commit
        return head

    with ThreadPoolExecutor(6) as pool:
        heads = list(pool.map(lane, range(6)))
    assert [world.contents(head)["train.py"] for head in heads] == [b"%d 3\n" % n for n in range(6)]


# --- What has no effect ----------------------------------------------------------------------------------------------


def test_a_candidate_names_its_files(world: World) -> None:
    (world.tree / "src" / "model.py").write_text("m = 2\n")
    one = made(world.store.commit(world.tree, world.base, "one way", SCOPE, ""))
    two = made(world.store.commit(world.tree, world.base, "another way", SCOPE, ""))
    assert one.commit != two.commit and one.tree == two.tree == world.store.tree(two.commit)
    (world.tree / "src" / "model.py").write_text("m = 3\n")
    assert made(world.commit()).tree != one.tree != world.store.tree(world.base)


def seed_and_comment(tree: Path) -> None:
    (tree / "src" / "model.py").write_text("# what m is\nm   =  1\n")
    (tree / "src" / "new.py").write_text("# nothing yet\n")
    (tree / "src" / "config.yaml").write_text("seed: 2\n")


def comment_and_more(tree: Path) -> None:
    (tree / "src" / "a.py").write_text("# nothing yet\n")
    (tree / "src" / "model.py").write_text("m = 2\n")


def new_mode(tree: Path) -> None:
    (tree / "src" / "model.py").write_text("m = 1  # now to be run\n")
    (tree / "src" / "model.py").chmod(0o755)


def comment_and_deleted(tree: Path) -> None:
    (tree / "src" / "model.py").write_text("m = 1  # one\n")
    (tree / "src" / "config.yaml").unlink()


@pytest.mark.parametrize("change", [comment_and_more, new_mode, comment_and_deleted], ids=lambda each: each.__name__)
def test_one_change_that_counts_is_enough(world: World, change: Callable[[Path], None]) -> None:
    base = with_config(world)
    change(world.tree)
    assert made(world.commit(parent=base)).line


def test_a_change_without_an_effect_is_refused_and_named(world: World) -> None:
    base = with_config(world)
    seed_and_comment(world.tree)
    message = refused(world.commit(parent=base), FailureKind.NO_EFFECT)
    assert message == "only a seed, a comment or white space differs: src/config.yaml, src/model.py, src/new.py"
    assert refused(world.commit(parent=base, prefix="src", scope=Scope((".",))), FailureKind.NO_EFFECT).endswith(
        ": config.yaml, model.py, new.py"
    )


def with_config(world: World) -> str:
    """A commit with one more file; the agent stands on it."""
    (world.tree / "src" / "config.yaml").write_text("seed: 1\n")
    base = made(world.commit()).commit
    world.store.stand(world.tree, base)
    return base


def test_what_stands_on_another_candidate_is_compared_with_the_parent(world: World) -> None:
    broken = edit(world, world.base, "line 5\n", "broken\n")
    world.store.stand(world.tree, broken.commit)
    assert made(world.commit()).tree == broken.tree
    path = world.tree / "train.py"
    path.write_text(path.read_text().replace("broken", "mended"))
    mended = made(world.commit())
    assert world.store.git("rev-parse", f"{mended.commit}^").decode().strip() == world.base
    assert b"mended" in world.contents(mended.commit)["train.py"]
    path.write_text(path.read_text().replace("mended", "line 5"))
    refused(world.commit(), FailureKind.NO_CHANGE)


# --- What is out of scope --------------------------------------------------------------------------------------------


def test_a_failure_names_up_to_five_files(world: World) -> None:
    for name in ("prepare.py", "run.sh", "a", "b", "c\nd", "e", "f"):
        (world.tree / name).write_text("changed\n")
    message = refused(world.commit())
    assert message == "changed out of scope: a, b, 'c\\nd', e, f and 2 more"


def change_frozen(tree: Path) -> None:
    (tree / "prepare.py").write_text("cheat\n")


def change_frozen_below(tree: Path) -> None:
    (tree / "src" / "frozen.py").write_text("cheat\n")


def keep_size_and_time(tree: Path) -> None:
    before = (tree / "prepare.py").stat()
    (tree / "prepare.py").write_text("FROZEN\n")
    os.utime(tree / "prepare.py", ns=(before.st_atime_ns, before.st_mtime_ns))


def new_file(tree: Path) -> None:
    (tree / "sitecustomize.py").write_text("cheat\n")


def new_file_of_odd_name(tree: Path) -> None:
    (tree / "train.py\n").write_text("cheat\n")


def delete_frozen(tree: Path) -> None:
    (tree / "prepare.py").unlink()


def delete_everything(tree: Path) -> None:
    shutil.rmtree(tree)


def replace_by_link(tree: Path) -> None:
    copy = tree.with_name("copy")
    tree.rename(copy)
    (copy / "train.py").write_text("new\n")
    tree.symlink_to(copy)


def make_executable(tree: Path) -> None:
    (tree / "prepare.py").chmod(0o755)


def link_out_of_tree(tree: Path) -> None:
    (tree / "train.py").unlink()
    (tree / "train.py").symlink_to("/etc/passwd")


def new_link_in_scope(tree: Path) -> None:
    (tree / "src" / "data").symlink_to("../prepare.py")


def folder_by_link(tree: Path) -> None:
    (tree / "src").rename(tree.with_name("moved"))
    (tree / "src").symlink_to(tree.with_name("moved"))


def move_link(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("prepare.py")


def pipe_in_scope(tree: Path) -> None:
    (tree / "train.py").unlink()
    os.mkfifo(tree / "train.py")


def nested_repository(tree: Path) -> None:
    UserRepo(tree / "src" / "nested").commit(inner__py="x\n")


def nested_git_file(tree: Path) -> None:
    (tree / "src" / ".git").write_text("gitdir: /somewhere/else\n")


def nested_git_of_other_case(tree: Path) -> None:
    (tree / "src" / ".GIT").mkdir()
    (tree / "src" / ".GIT" / "config").write_text("[core]\n")


def edit_gitignore(tree: Path) -> None:
    (tree / ".gitignore").write_text("*\n")
    (tree / "cheat.py").touch()


def hide_by_new_gitignore(tree: Path) -> None:
    (tree / "extra").mkdir()
    (tree / "extra" / ".gitignore").write_text("*\n")
    (tree / "extra" / "cheat.py").touch()


def hide_by_own_exclude(tree: Path) -> None:
    (tree / ".git" / "info" / "exclude").write_text("*\n")
    (tree / "cheat.py").touch()


def hide_by_index(tree: Path) -> None:
    (tree / "prepare.py").write_text("cheat\n")
    for flag in ("--assume-unchanged", "--skip-worktree"):
        subprocess.run(["git", "update-index", flag, "prepare.py"], cwd=tree, check=True)


def hide_by_attributes(tree: Path) -> None:
    (tree / ".gitattributes").write_text("prepare.py filter=hide\n")
    subprocess.run(["git", "config", "filter.hide.clean", "echo frozen"], cwd=tree, check=True)
    (tree / "prepare.py").write_text("cheat\n")


def hide_by_commit(tree: Path) -> None:
    (tree / "prepare.py").write_text("cheat\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a")
    subprocess.run(["git", *identity, "commit", "-qam", "all fine"], cwd=tree, check=True)


def path_too_long(tree: Path) -> None:
    nest(tree / "src", "d" * 250, 20)


def too_much(tree: Path) -> None:
    with (tree / "src" / "weights.bin").open("wb") as file:
        file.truncate(1 << 40)  # a hole: no memory could hold it


def too_much_in_place(tree: Path) -> None:
    with (tree / "prepare.py").open("wb") as file:
        file.truncate(1 << 40)


OUT_OF_SCOPE = [
    (change_frozen, "prepare.py"),
    (change_frozen_below, "src/frozen.py"),
    (keep_size_and_time, "prepare.py"),
    (new_file, "sitecustomize.py"),
    (new_file_of_odd_name, "'train.py\\n'"),
    (delete_frozen, "prepare.py"),
    (delete_everything, "prepare.py"),
    (replace_by_link, "prepare.py"),
    (make_executable, "prepare.py"),
    (link_out_of_tree, "train.py (a symbolic link)"),
    (new_link_in_scope, "src/data (a symbolic link)"),
    (folder_by_link, "src/frozen.py"),
    (move_link, "link"),
    (pipe_in_scope, "train.py (not a plain file)"),
    (nested_repository, "src/nested/.git/ (a nested repository)"),
    (nested_git_file, "src/.git (a nested repository)"),
    (nested_git_of_other_case, "src/.GIT/ (a nested repository)"),
    (edit_gitignore, "cheat.py"),
    (hide_by_new_gitignore, "extra/cheat.py"),
    (hide_by_own_exclude, "cheat.py"),
    (hide_by_index, "prepare.py"),
    (hide_by_attributes, "prepare.py"),
    (hide_by_commit, "prepare.py"),
    (path_too_long, "a path is longer than"),
    (too_much, "src/weights.bin"),
    (too_much_in_place, "prepare.py"),
]


@pytest.mark.parametrize(("attack", "named"), OUT_OF_SCOPE, ids=lambda each: getattr(each, "__name__", ""))
def test_out_of_scope_is_refused_and_named(world: World, attack: Callable[[Path], None], named: str) -> None:
    attack(world.tree)
    message = refused(world.commit())
    assert named in message
    world.store.stand(world.tree, world.base)  # and the next one starts clean
    refused(world.commit(), FailureKind.NO_CHANGE)


# --- What an agent cannot do -----------------------------------------------------------------------------------------


def plant_hooks(tree: Path, trap: str) -> None:
    for name in ("pre-commit", "post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman"):
        hook = tree / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{trap}\n")
        hook.chmod(0o755)


def plant_settings(tree: Path, trap: str) -> None:
    keys = ("core.fsmonitor", "core.sshCommand", "core.editor", "filter.x.clean", "filter.x.smudge", "diff.external")
    keys += ("filter.x.process", "core.hooksPath", "gpg.program", "merge.x.driver", "core.alternateRefsCommand")
    for key in keys:
        subprocess.run(["git", "config", key, trap], cwd=tree, check=True)
    (tree / ".git" / "info" / "attributes").write_text("* filter=x merge=x diff=x\n")


def point_elsewhere(tree: Path, trap: str) -> None:
    subprocess.run(["git", "config", "core.worktree", "/"], cwd=tree, check=True)
    subprocess.run(["git", "--git-dir=.git", "config", "core.bare", "true"], cwd=tree, check=True)


def move_head(tree: Path, trap: str) -> None:
    (tree / ".git" / "HEAD").write_text("ref: refs/heads/gone\n")


def rewrite_history(tree: Path, trap: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a")
    subprocess.run(["git", *identity, "commit", "-q", "--amend", "-m", "rewritten"], cwd=tree, check=True)
    subprocess.run(["git", "replace", "-f", "HEAD", "HEAD^{tree}"], cwd=tree, check=False, capture_output=True)


def delete_git(tree: Path, trap: str) -> None:
    shutil.rmtree(tree / ".git")


def git_file(tree: Path, trap: str) -> None:
    other = UserRepo(tree.with_name("other"))
    other.commit(train__py="other\n")
    delete_git(tree, trap)
    (tree / ".git").write_text(f"gitdir: {other.folder}/.git\n")


def git_link(tree: Path, trap: str) -> None:
    (tree / ".git").rename(tree.with_name("other.git"))
    (tree / ".git").symlink_to(tree.with_name("other.git"))


def lock_index(tree: Path, trap: str) -> None:
    (tree / ".git" / "index.lock").touch()


def break_index(tree: Path, trap: str) -> None:
    (tree / ".git" / "index").write_bytes(b"DIRC" + b"\xff" * 100)


TRICKS = [
    plant_hooks,
    plant_settings,
    point_elsewhere,
    move_head,
    rewrite_history,
    delete_git,
    git_file,
    git_link,
    lock_index,
    break_index,
]


@pytest.mark.parametrize("trick", TRICKS, ids=lambda each: each.__name__)
def test_the_agents_repository_changes_nothing_and_runs_nothing(
    world: World, trick: Callable[[Path, str], None]
) -> None:
    trap = world.folder / "SPRUNG"
    trick(world.tree, f"touch {trap}; cat")
    (world.tree / "train.py").write_text("honest\n")
    one = made(world.commit())
    world.store.stand(world.tree, one.commit)
    (world.tree / "src" / "model.py").write_text("m = 2\n")
    two = made(world.commit(parent=one.commit))
    assert made(world.store.replay([two.commit], world.base)).lines == 0
    assert world.changed(two.commit) == ["src/model.py", "train.py"]
    assert world.contents(two.commit)["train.py"] == b"honest\n"
    assert not trap.exists()


def test_what_is_ignored_is_neither_refused_nor_committed(world: World) -> None:
    for name in (
        "run.log",
        "__pycache__/train.pyc",
        "src/__pycache__/model.pyc",
        ".venv/lib/x/.git/config",
        ".aider.chat.history.md",
        ".autoresearch/prompt.md",
        ".DS_Store",
        "data/corpus/part.bin",
        "data/repo/.git/HEAD",
        "src/debug.log",
        "src/a.tmp",
    ):
        path = world.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
    (world.tree / "data" / "link").symlink_to("/etc")
    os.mkfifo(world.tree / "pipe")  # a commit cannot hold it
    refused(world.commit(), FailureKind.NO_CHANGE)
    (world.tree / "src" / "keep.log").write_text("kept by the rules of src\n")
    assert world.changed(made(world.commit()).commit) == ["src/keep.log"]


def test_tracked_files_are_seen_even_where_rules_ignore_them(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user")
    for name in ("train.py", "data/table.csv", "__pycache__/odd.pyc", "run.log"):
        user.write(name)
    user.commit(__gitignore="data/\n*.log\n")
    world = World(tmp_path, user)
    for name in ("data/table.csv", "__pycache__/odd.pyc", "run.log"):
        (world.tree / name).write_text("changed\n")
    assert refused(world.commit()) == "changed out of scope: __pycache__/odd.pyc, data/table.csv, run.log"


def test_a_gitignore_in_scope_may_change_but_counts_from_the_next_commit_on(world: World) -> None:
    scope = Scope(can=(".gitignore", "train.py"))
    (world.tree / ".gitignore").write_text("*.log\n/data/\n*.cache\n")
    (world.tree / "x.cache").touch()
    assert "x.cache" in refused(world.commit(scope))
    (world.tree / "x.cache").unlink()
    head = made(world.commit(scope)).commit
    world.store.stand(world.tree, head)
    (world.tree / "x.cache").touch()
    refused(world.commit(scope, parent=head), FailureKind.NO_CHANGE)


def test_a_file_may_become_a_folder_and_a_folder_a_file(world: World) -> None:
    (world.tree / "train.py").unlink()
    (world.tree / "src" / "model.py").unlink()
    (world.tree / "src" / "model.py").mkdir()
    (world.tree / "src" / "model.py" / "part.py").write_text("p\n")
    (world.tree / "src" / "pack").write_text("a file\n")
    one = made(world.commit()).commit
    assert world.contents(one)["src/model.py/part.py"] == b"p\n"
    world.store.stand(world.tree, one)
    shutil.rmtree(world.tree / "src" / "model.py")
    (world.tree / "src" / "model.py").write_text("m = 1\n")
    (world.tree / "src" / "pack").unlink()
    (world.tree / "src" / "pack").mkdir()
    (world.tree / "src" / "pack" / "x.py").write_text("x\n")
    two = made(world.commit(parent=one)).commit
    assert world.contents(two).keys() >= {"src/model.py", "src/pack/x.py"}


def test_a_submodule_may_not_be_filled_or_replaced(tmp_path: Path) -> None:
    inner = UserRepo(tmp_path / "inner")
    inner.commit(lib__py="y\n")
    user = UserRepo(tmp_path / "user")
    user.commit(train__py="x\n")
    user.git("submodule", "add", "-q", str(inner.folder), "src/inner")
    user.commit()
    world = World(tmp_path, user)
    place = world.tree / "src" / "inner"
    refused(world.commit(), FailureKind.NO_CHANGE)
    (place / "lib.py").write_text("cheat\n")
    assert "inside a submodule" in refused(world.commit())
    shutil.rmtree(place)
    refused(world.commit(), FailureKind.NO_CHANGE)
    place.write_text("a file\n")
    assert "in place of a submodule" in refused(world.commit())


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_permissions_taken_away_hide_nothing(world: World) -> None:
    for root, folders, files in os.walk(world.folder):
        for name in [".", *folders, *files]:
            os.chown(Path(root, name), 65534, 65534, follow_symlinks=False)
    for parent in world.folder.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    with as_nobody():
        (world.tree / "train.py").write_text("new\n")
        (world.tree / "train.py").chmod(0)
        (world.tree / "src").chmod(0)
        assert world.changed(made(world.commit()).commit) == ["train.py"]
        (world.tree / "src").chmod(0o300)
        (world.tree / "src" / "deep").mkdir()
        (world.tree / "src" / "deep" / "cheat").touch()
        (world.tree / "src" / "deep").chmod(0o400)
        (world.tree / "src").chmod(0o500)
        assert world.changed(made(world.commit()).commit) == ["src/deep/cheat", "train.py"]
        (world.tree / "src" / "deep").chmod(0)
        world.store.stand(world.tree, world.base)
        refused(world.commit(), FailureKind.NO_CHANGE)


# --- Replay ----------------------------------------------------------------------------------------------------------


def edit(world: World, parent: str, old: str, new: str) -> Candidate:
    world.store.stand(world.tree, parent)
    path = world.tree / "train.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return made(world.store.commit(world.tree, parent, f"{old.strip()} to {new.split()[-1]}", SCOPE, ""))


def test_replay_puts_one_lanes_commits_on_top_of_anothers(world: World) -> None:
    leader = edit(world, world.base, "line 1\n", "leader\n")
    one = edit(world, world.base, "line 20\n", "twenty\n")
    two = edit(world, one.commit, "line 29\n", "last\nvery last\n")
    both = made(world.store.replay([one.commit, two.commit], leader.commit))
    assert len(both.line) == 2
    assert both.line[-1] == both.commit
    assert both.picked == (one.commit, two.commit) and both.left_out == ()
    assert both.tree == world.store.tree(both.commit)
    assert both.lines == 1
    text = world.contents(both.commit)["train.py"].decode()
    assert "leader\n" in text
    assert "twenty\n" in text
    assert text.endswith("very last\n")
    subjects = world.store.git("log", "--format=%s", f"{leader.commit}..{both.commit}").decode().splitlines()
    assert subjects == ["line 29 to last", "line 20 to twenty"]


def test_replay_names_the_files_in_conflict(world: World) -> None:
    leader = edit(world, world.base, "line 5\n", "leader\n")
    mine = edit(world, world.base, "line 5\n", "mine\n")
    assert refused(world.store.replay([mine.commit], leader.commit), FailureKind.CONFLICT) == "in conflict: train.py"
    made(world.store.replay([mine.commit], world.base))  # nothing is left in the way of the next one


def test_replay_leaves_out_what_the_leader_has(world: World) -> None:
    mine = edit(world, world.base, "line 5\n", "five\n")
    more = edit(world, mine.commit, "line 25\n", "twenty-five\n")
    leader = edit(world, world.base, "line 5\n", "five\n")
    both = made(world.store.replay([mine.commit, more.commit], leader.commit))
    assert len(both.line) == 1
    assert both.picked == (more.commit,) and both.left_out == (mine.commit,)
    assert refused(world.store.replay([mine.commit], leader.commit), FailureKind.NO_CHANGE)
    assert refused(world.store.replay([mine.commit, mine.commit], leader.commit), FailureKind.NO_CHANGE)
    assert refused(world.store.replay([], leader.commit), FailureKind.NO_CHANGE)


def test_a_group_from_many_lanes_and_parents_comes_together_without_what_conflicts(world: World) -> None:
    """Each is picked for what it changes on its own parent, whether that is there or not."""
    leader = edit(world, world.base, "line 29\n", "leader\n")
    (world.tree / "src" / "model.py").write_text("m = 2\n")
    leader = made(world.commit(parent=leader.commit))
    first = edit(world, world.base, "line 0\n", "zero\n")
    here = edit(world, first.commit, "line 3\n", "three\n")
    again = edit(world, world.base, "line 29\n", "leader\n")  # is there already
    there = edit(world, world.base, "line 6\nline 7\n", "six\n")
    against = edit(world, world.base, "line 29\n", "not the leader\n")
    late = edit(world, there.commit, "line 20\n", "twenty\n")
    order = [here, against, there, again, late]
    group = made(world.store.replay([each.commit for each in order], leader.commit))
    assert group.picked == (here.commit, there.commit, late.commit)
    assert group.left_out == (against.commit, again.commit)
    assert len(group.line) == 3 and group.line[-1] == group.commit
    contents = world.contents(group.commit)
    text = contents["train.py"].decode()
    assert all(each in text for each in ("line 0\n", "three\n", "six\n", "twenty\n", "leader\n"))
    assert contents["src/model.py"] == b"m = 2\n"
    for step, source in zip(group.line, group.picked, strict=True):
        subject = ("log", "-1", "--format=%s")
        assert world.store.git(*subject, step) == world.store.git(*subject, source)


def test_replay_of_an_unknown_commit_is_an_error(world: World) -> None:
    with pytest.raises(RepoError):
        world.store.replay(["0" * 40], world.base)


# --- Replay, merged by lines -----------------------------------------------------------------------------------------


def change(world: World, parent: str, idea: str, **files: str | None) -> Candidate:
    """A commit that writes these files below src/. None: the file goes."""
    world.store.stand(world.tree, parent)
    for name, content in files.items():
        path = world.tree / "src" / name.replace("__", ".")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode())
    return made(world.store.commit(world.tree, parent, idea, SCOPE, ""))


def test_changes_of_neighbouring_lines_come_together(world: World) -> None:
    leader = edit(world, world.base, "line 5\n", "leader\n")
    mine = edit(world, world.base, "line 6\n", "mine\n")
    both = made(world.store.replay([mine.commit], leader.commit))
    assert both.picked == (mine.commit,) and both.left_out == () and len(both.line) == 1
    assert "line 4\nleader\nmine\nline 7\n" in world.contents(both.commit)["train.py"].decode()
    assert both.tree == world.store.tree(both.commit)
    what = ("log", "-1", "--format=%an %ae %at %B")
    assert world.store.git(*what, both.commit) == world.store.git(*what, mine.commit)
    assert world.store.git("rev-parse", f"{both.commit}^").decode().strip() == leader.commit


def test_twenty_constants_on_twenty_lines_come_together_from_twenty_lanes(world: World) -> None:
    start = change(world, world.base, "start", model__py="".join(f"C{n} = 0\n" for n in range(20))).commit
    lanes = []
    for lane in range(20):
        text = "".join(f"C{n} = {int(n == lane)}\n" for n in range(20))
        lanes.append(change(world, start, f"C{lane} to 1", model__py=text).commit)
    order = lanes[1::2] + lanes[::2]
    group = made(world.store.replay(order[1:], order[0]))
    assert group.picked == tuple(order[1:]) and group.left_out == () and len(group.line) == 19
    assert world.contents(group.commit)["src/model.py"].decode() == "".join(f"C{n} = 1\n" for n in range(20))


def test_one_line_changed_twice_is_left_out_and_the_rest_goes_on(world: World) -> None:
    leader = edit(world, world.base, "line 5\n", "leader\n")
    against = edit(world, world.base, "line 5\n", "against\n")
    before = edit(world, world.base, "line 4\n", "before\n")
    alike = edit(world, world.base, "line 5\nline 6\n", "leader\nalike\n")  # half of it is there already
    fewer = edit(world, world.base, "line 7\nline 8\n", "fewer\n")
    order = [before.commit, against.commit, alike.commit, fewer.commit]
    group = made(world.store.replay(order, leader.commit))
    assert group.picked == (before.commit, alike.commit, fewer.commit) and group.left_out == (against.commit,)
    assert "line 3\nbefore\nleader\nalike\nfewer\nline 9\n" in world.contents(group.commit)["train.py"].decode()


def test_a_pick_is_merged_with_all_of_its_files_or_with_none(world: World) -> None:
    start = change(world, world.base, "start", one__py="a\nb\n", two__py="a\nb\n").commit
    leader = change(world, start, "leader", one__py="A\nb\n", two__py="A\nb\n").commit
    half = change(world, start, "half", one__py="a\nB\n", two__py="x\nb\n", new__py="new\n").commit
    both = change(world, start, "both", one__py="a\nB\n", two__py="a\nB\n", new__py="other\n").commit
    done = made(world.store.replay([half, both], leader))
    assert done.picked == (both,) and done.left_out == (half,)
    contents = world.contents(done.commit)
    assert contents["src/one.py"] == contents["src/two.py"] == b"A\nB\n" and contents["src/new.py"] == b"other\n"
    assert refused(world.store.replay([half], leader), FailureKind.CONFLICT) == "in conflict: src/one.py, src/two.py"


def test_what_a_merge_finds_there_already_is_left_out_and_no_conflict(world: World) -> None:
    start = change(world, world.base, "start", model__py="a\nb\nc\n").commit
    leader = change(world, start, "leader", model__py="A\nB\nC\n").commit
    there = change(world, start, "there", model__py="a\nB\nc\n").commit
    assert refused(world.store.replay([there], leader), FailureKind.NO_CHANGE) == "all of it is there already"
    other = edit(world, start, "line 5\n", "other\n").commit
    done = made(world.store.replay([there, other], leader))
    assert done.picked == (other,) and done.left_out == (there,)


@pytest.mark.parametrize(
    ("start", "leader", "mine"),
    [
        pytest.param("a\nb\n", {"model__py": None}, {"model__py": "a\nB\n"}, id="a file that the other removed"),
        pytest.param("a\nb\n", {"new__py": "a\n"}, {"new__py": "b\n"}, id="a file that both added"),
        pytest.param("\0\na\nb\n", {"model__py": "\0\nA\nb\n"}, {"model__py": "\0\na\nB\n"}, id="a binary file"),
    ],
)
def test_what_are_no_lines_of_three_files_stays_a_conflict(
    world: World, start: str, leader: dict[str, str | None], mine: dict[str, str | None]
) -> None:
    base = change(world, world.base, "start", model__py=start).commit
    best, against = change(world, base, "leader", **leader).commit, change(world, base, "mine", **mine).commit
    assert refused(world.store.replay([against], best), FailureKind.CONFLICT)


def test_a_file_that_became_executable_on_one_side_stays_a_conflict(world: World) -> None:
    start = change(world, world.base, "start", model__py="a\nb\n").commit
    world.store.stand(world.tree, start)
    path = world.tree / "src" / "model.py"
    path.write_text("A\nb\n")
    path.chmod(0o755)
    leader = made(world.store.commit(world.tree, start, "leader", SCOPE, "")).commit
    mine = change(world, start, "mine", model__py="a\nB\n").commit
    assert refused(world.store.replay([mine], leader), FailureKind.CONFLICT)
    again = change(world, leader, "again", model__py="A\nc\n").commit
    assert world.store.entries(again)["src/model.py"].mode == "100755"
    other = change(world, leader, "other", model__py="X\nb\n").commit
    both = made(world.store.replay([other], again)).commit
    assert world.store.entries(both)["src/model.py"].mode == "100755"
    assert world.contents(both)["src/model.py"] == b"X\nc\n"


@pytest.mark.parametrize("idea", ["# a comment, as git sees it", "#", "-- >8 --", "a  b"])
def test_a_merged_pick_keeps_its_message(world: World, idea: str) -> None:
    start = change(world, world.base, "start", model__py="a\nb\n").commit
    leader = change(world, start, "leader", model__py="A\nb\n").commit
    mine = change(world, start, idea, model__py="a\nB\n").commit
    done = made(world.store.replay([mine], leader)).commit
    raw = [world.store.git("cat-file", "commit", each).partition(b"\n\n")[2] for each in (done, mine)]
    assert raw[0] == raw[1]


def test_a_merge_keeps_bytes_and_odd_names_and_asks_no_attributes(tmp_path: Path) -> None:
    user = UserRepo(tmp_path / "user")
    user.write(".gitattributes", "* text=auto eol=crlf ident filter=x merge=x\n*.py -merge\n")
    names = ("train.py", "src/a\tb.txt", "src/:(top)é.txt", 'src/"q".txt')
    for name in names:
        user.write(name, b"$Id$\r\n\xff\nc\n")
    user.commit()
    world = World(tmp_path, user)
    made_of = []
    for content in (b"$Id$\r\n\xfe\nc\n", b"$Id$\r\n\xff\nC"):
        world.store.stand(world.tree, world.base)
        for name in names:
            (world.tree / name).write_bytes(content)
        made_of.append(made(world.commit()).commit)
    both = made(world.store.replay(made_of[1:], made_of[0])).commit
    contents = world.contents(both)
    assert [contents[each] for each in names] == [b"$Id$\r\n\xfe\nC"] * 4


# --- Inside ----------------------------------------------------------------------------------------------------------


def test_inside_accepts_what_is_in_scope_and_names_what_is_not(world: World) -> None:
    user = world.user
    fine = user.commit("fine", train__py="new\n")
    bad = user.commit("bad", prepare__py="cheat\n")
    (user.folder / "src" / "data").symlink_to("/etc")
    linked = user.commit("link")
    hub = Hub.create(world.folder / "hub2.git", Origin.find(user.folder), user.head)
    world.store.unpack(hub.pack([linked], [world.base]))
    assert world.store.inside(world.base, world.base, SCOPE, "") is None
    assert world.store.inside(world.base, fine, SCOPE, "") is None
    assert refused(world.store.inside(world.base, bad, SCOPE, "")) == "changed out of scope: prepare.py"
    assert "src/data (a symbolic link)" in refused(world.store.inside(bad, linked, SCOPE, ""))
    assert refused(world.store.inside(world.base, fine, SCOPE, "src")) == "changed out of scope: ../train.py"
    with pytest.raises(RepoError):
        world.store.inside(world.base, "0" * 40, SCOPE, "")


# --- Coming back -----------------------------------------------------------------------------------------------------


def test_a_store_is_made_anew_over_what_a_dead_worker_left(world: World) -> None:
    (world.store.folder / "HEAD.lock").touch()
    (world.store.folder / "objects").rename(world.folder / "elsewhere")
    hub = Hub.open(world.folder / "hub.git")
    store = Store.create(world.store.folder, hub.pack([world.base]), world.base)
    assert store.has(world.base)
    store.unpack(b"")
    with pytest.raises(RepoError, match="damaged"):
        store.unpack(b"rubbish")
