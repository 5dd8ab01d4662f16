"""A worker's own commits, and the folders it makes from them: for an agent to edit, and for an evaluation to run in.

Nothing that an agent does in its folder is trusted. What it changed is found by `tree.changes` and written to this
repository as one commit; its own `.git` is a throw-away.
"""

from __future__ import annotations

import errno
import itertools
import os
import posixpath
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from autoresearch_ray import bare
from autoresearch_ray import tree as trees
from autoresearch_ray.bare import Bare, Entry
from autoresearch_ray.errors import RepoError
from autoresearch_ray.merge import three_way
from autoresearch_ray.model import Failure, FailureKind, Scope
from autoresearch_ray.sameness import LARGEST_BYTES, no_effect, unreadable
from autoresearch_ray.tree import SUBMODULE, SYMLINK, Change

COMMIT_MB = 32  # that one commit may add: bundles travel inside calls
_NOT_INSIDE = {SYMLINK: "a symbolic link", SUBMODULE: "a submodule"}
_RAW = "* -text -ident -filter -eol -working-tree-encoding\n"  # files are the very bytes of the commit


@dataclass(frozen=True, slots=True)
class Candidate:
    """A commit to be measured. `line`: from the parent to it, oldest first. `lines`: added minus removed.

    `tree` names its files: two commits with the same files have the same. Of a replay, `picked` are the commits that
    `line` was made from, one for one, and `left_out` those that conflict or change nothing there.
    """

    commit: str
    line: tuple[str, ...] = ()
    lines: int = 0
    tree: str = ""
    picked: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unreadable: str = ""  # a Python file that our Python cannot read, and could before: where, and why


class Store(Bare):
    """A worker's own bare repository. Safe to use from several threads: every call works in files of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.secrets: tuple[bytes, ...] = ()  # that no commit may hold
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path, bundle: bytes, base: str) -> Store:
        """Make the store from the whole history in `bundle`; what was in `folder` goes. Raises `RepoError`."""
        trees.remove(folder)
        store = cls(folder)
        store._init(base, {"core.fsync": "none"})  # lost with its machine, and made again
        for name in ("info", "scratch", "rules"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "info" / "attributes").write_text(_RAW)
        store.take(bundle)
        if not store.has(base):
            raise RepoError(f"the bundle does not bring the base commit {base}", "make it for one who has nothing")
        return store

    def unpack(self, bundle: bytes) -> None:
        """Take in a bundle; b"" is none. Raises `RepoError` when it is damaged or builds on what is not here."""
        if bundle:
            self.take(bundle)

    def checkout(self, tree: Path, commit: str) -> None:
        """Empty `tree` and fill it with the files of `commit`, and nothing else: for measuring."""
        tree = tree.absolute()
        trees.empty(tree)
        with self._scratch() as scratch:
            self.git("read-tree", "--reset", "-u", commit, GIT_WORK_TREE=str(tree), GIT_INDEX_FILE=f"{scratch}/index")

    def stand(self, tree: Path, commit: str) -> None:
        """Empty `tree` and fill it with the files of `commit` and a throw-away `.git` for the agent to look around in.

        That repository reads our objects and writes its own; it is on the branch "experiment", with a clean status.
        """
        tree = tree.absolute()
        trees.empty(tree)
        own = tree / ".git"
        extension = "[extensions]\n\tobjectFormat = sha256\n" if len(commit) == 64 else ""
        contents = {
            "HEAD": "ref: refs/heads/experiment\n",
            "refs/heads/experiment": f"{commit}\n",
            "config": _AGENT_CONFIG.format(version=1 if extension else 0) + extension,
            "info/attributes": _RAW,
            "info/exclude": "".join(f"{each}\n" for each in trees.LITTER),
            "objects/info/alternates": f"{self.folder / 'objects'}\n",
        }
        if cut := self._cut():
            contents["shallow"] = "".join(f"{each}\n" for each in cut)
        for name, content in contents.items():
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).write_text(content)
        bare.git("read-tree", "--reset", "-u", commit, folder=tree, more=_inside(tree))

    def restore(self, tree: Path, commit: str) -> None:
        """Write the files of `commit` over `tree` once more; what was added beside them stays."""
        with self._scratch() as scratch:
            index = f"{scratch}/index"
            self.git("read-tree", commit, GIT_INDEX_FILE=index)
            self.git("checkout-index", "-a", "-f", "-q", GIT_WORK_TREE=str(tree), GIT_INDEX_FILE=index)

    def commit(
        self, tree: Path, parent: str, idea: str, scope: Scope, prefix: str, attempt: str = ""
    ) -> Candidate | Failure:
        """Commit what differs between `tree` and `parent`, if all of it is in `scope`, which counts from `prefix`.

        `attempt` stands in the message, so that two lanes with the same idea in the same second make two commits. A
        `Failure` says what is out of scope, or that nothing was changed, or nothing that can have an effect. Ignored
        are litter and what the .gitignore files of `parent` name, whatever the agent made of those.
        """
        tracked = self.entries(parent)
        changed = self._changes(tree, tracked)
        if changed is None:
            return Failure(FailureKind.OUT_OF_SCOPE, "a path is longer than the system allows")
        if failure := _judge(changed, scope, prefix):
            return failure
        if not changed:
            return Failure(FailureKind.NO_CHANGE, "no file was changed")
        sizes = {each.path: os.lstat(tree / each.path).st_size for each in changed if each.mode}
        if sum(sizes.values()) > COMMIT_MB << 20:
            largest = _shown(max(sizes, key=lambda path: sizes[path]))
            return Failure(FailureKind.OUT_OF_SCOPE, f"more than {COMMIT_MB} MB of changes, most in {largest}")
        contents = {path: trees.read(tree, path) for path in sizes}
        for path, content in contents.items():
            if any(each in content for each in self.secrets):
                return Failure(FailureKind.OUT_OF_SCOPE, f"a secret was written into {_shown(path)}")
        if all(self._idle(each, tracked.get(each.path), contents.get(each.path)) for each in changed):
            named = _names([posixpath.relpath(each, prefix or ".") for each in sizes])
            return Failure(FailureKind.NO_EFFECT, f"only a seed, a comment or white space differs: {named}")
        made = self.candidate(parent, [self._import(parent, message(idea, attempt), changed, contents)])
        return replace(made, unreadable=self._unreadable(contents, tracked, prefix))

    def within(self, tree: Path, parent: str, scope: Scope, prefix: str) -> str:
        """A commit on `parent` of what `commit` would not refuse of the changes in `tree`, or `parent` if that is none.

        For an agent to go on from. Of more than a commit may hold, the largest files are left out, too.
        """
        changed = [
            each for each in self._changes(tree, self.entries(parent)) or () if not _judge([each], scope, prefix)
        ]
        sizes = {each.path: os.lstat(tree / each.path).st_size for each in changed if each.mode}
        room, contents = COMMIT_MB << 20, dict[str, bytes]()
        for path in sorted(sizes, key=lambda path: sizes[path]):
            room -= sizes[path]
            if room >= 0:
                content = trees.read(tree, path)
                if not any(each in content for each in self.secrets):
                    contents[path] = content
        changed = [each for each in changed if each.mode is None or each.path in contents]
        return self._import(parent, b"what may stay of an edit", changed, contents) if changed else parent

    def replay(self, commits: Sequence[str], onto: str) -> Candidate | Failure:
        """Pick `commits`, each once and in order, onto `onto`: what each changes on its own parent, wherever that is.

        Picks that change nothing there, or that conflict, are left out; changes of neighbouring lines do not conflict
        (merge.py). A `Failure` names the files in conflict, or says that all of it is there already, where nothing is
        left.
        """
        if not commits:
            return Failure(FailureKind.NO_CHANGE, "there is nothing to replay")
        picked: list[str] = []
        left_out: list[str] = []
        conflicts: list[str] = []
        with self._scratch() as scratch:
            tree = scratch / "tree"
            self.stand(tree, onto)
            for commit in dict.fromkeys(commits):
                done, files = self._pick(tree, commit)
                (picked if done else left_out).append(commit)
                conflicts += files
            head = bare.git("rev-parse", "HEAD", folder=tree, more=_inside(tree)).decode().strip()
        if not picked and conflicts:
            return Failure(FailureKind.CONFLICT, f"in conflict: {_names(list(dict.fromkeys(conflicts)))}")
        if not picked:
            return Failure(FailureKind.NO_CHANGE, "all of it is there already")
        line = self.git("rev-list", "--reverse", f"{onto}..{head}").decode().split()
        return replace(self.candidate(onto, line), picked=tuple(picked), left_out=tuple(left_out))

    def without(self, commit: str, onto: str) -> Candidate | Failure:
        """Take what `commit` changes on its parent out of `onto`. A `Failure` if later changes stand in the way."""
        words = self.git("log", "-1", "--format=%s", commit).decode(errors="replace").strip()
        opposite = self.git("commit-tree", f"{commit}^^{{tree}}", "-p", commit, stdin=message(f"without: {words}", ""))
        made = self.replay((opposite.decode().strip(),), onto)
        return made if isinstance(made, Failure) else replace(made, picked=(), left_out=(commit,))

    def tree(self, commit: str) -> str:
        """The name of the files of `commit`."""
        return self.git("rev-parse", "--verify", f"{commit}^{{tree}}").decode().strip()

    def inside(self, base: str, commit: str, scope: Scope, prefix: str) -> Failure | None:
        """None if all that differs between two commits is in `scope` and plain files; if not, what is not."""
        fields = self.git("diff-tree", "-r", "-z", "--raw", "--no-renames", base, commit).split(b"\0")[:-1]
        changed = []
        for head, path in zip(fields[::2], fields[1::2], strict=True):
            old, new = head.decode().lstrip(":").split(" ")[:2]
            trouble = _NOT_INSIDE.get(new, _NOT_INSIDE[SUBMODULE] if old == SUBMODULE else "")
            changed.append(Change(os.fsdecode(path), new, trouble))
        return _judge(changed, scope, prefix)

    def _changes(self, tree: Path, tracked: Mapping[str, Entry]) -> list[Change] | None:
        """What differs between `tree` and the files of a commit; None where a path is longer than the system allows."""
        try:
            return trees.changes(tree, tracked, lambda paths: self._ignored(paths, tracked))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return None

    def _import(self, parent: str, words: bytes, changed: Sequence[Change], contents: Mapping[str, bytes]) -> str:
        """One commit of these changes on `parent`, with `words` as its message."""
        ref = f"refs/candidates/{next(self._numbers)}"
        script = _script(ref, parent, words, changed, contents)
        return self.git("fast-import", "--quiet", "--force", "--done", stdin=script).decode().strip()

    def _unreadable(self, contents: Mapping[str, bytes], tracked: Mapping[str, Entry], prefix: str) -> str:
        """Which of the new `contents` Python cannot read, and why; of one that it could not read before, nothing."""
        for path, content in contents.items():
            why = unreadable(posixpath.relpath(path, prefix or "."), content)
            known = tracked.get(path) if why else None
            if why and not (known and unreadable(path, self.git("cat-file", "blob", known.oid))):
                return why
        return ""

    def candidate(self, parent: str, line: Sequence[str]) -> Candidate:
        """The commits of `line`, made on `parent` one after the other, as one candidate: its last one."""
        commit = line[-1]
        counts = self.git("diff-tree", "-r", "-z", "--numstat", "--no-renames", parent, commit).split(b"\0")[:-1]
        lines = 0
        for count in counts:
            added, removed, _ = count.split(b"\t", 2)
            if added != b"-":  # a binary file has no lines
                lines += int(added) - int(removed)
        return Candidate(commit, tuple(line), lines, self.tree(commit))

    def _pick(self, tree: Path, commit: str) -> tuple[bool, list[str]]:
        """Put what `commit` changes on top of what `tree` stands on. Whether it is there now, and what is in conflict.

        Neither of them: it changes nothing there.
        """
        here = {**_inside(tree), "GIT_OBJECT_DIRECTORY": str(self.folder / "objects")}
        done = bare.run("cherry-pick", commit, folder=tree, more=here)
        if done.code == 0:
            return True, []
        conflicts = _conflicts(bare.git("ls-files", "--unmerged", "-z", folder=tree, more=here))
        merged = bool(conflicts) and self._merge(tree, here, conflicts)
        empty = bare.run("diff", "--cached", "--quiet", folder=tree, more=here).code == 0
        if done.code != 1 or not (conflicts or empty):
            raise RepoError(f"git cherry-pick failed: {done.err.strip()}", bare.BY_ITSELF)
        if merged and not empty:
            bare.git("commit", "-q", "--cleanup=verbatim", f"--reuse-message={commit}", folder=tree, more=here)
            return True, []
        bare.git("cherry-pick", "--skip", folder=tree, more=here)
        return False, [] if empty else list(conflicts)

    def _merge(self, tree: Path, here: Mapping[str, str], conflicts: Mapping[str, Mapping[str, Entry]]) -> bool:
        """Put the files in conflict, merged by lines, into the index and `tree`. False: one of them cannot be."""
        entries = []
        for path, stages in conflicts.items():
            modes = {each.mode for each in stages.values()}
            if len(stages) < 3 or len(modes) > 1 or modes & _NOT_INSIDE.keys():
                return False
            base, ours, theirs = (self.git("cat-file", "blob", stages[each].oid) for each in ("1", "2", "3"))
            if (merged := three_way(base, ours, theirs)) is None:
                return False
            oid = self.git("hash-object", "-w", "--stdin", stdin=merged).strip()
            entries.append(b"%s %s\t%s\0" % (modes.pop().encode(), oid, os.fsencode(path)))
        bare.git("update-index", "-z", "--index-info", folder=tree, more=here, stdin=b"".join(entries))
        paths = b"".join(os.fsencode(each) + b"\0" for each in conflicts)
        bare.git("checkout-index", "-f", "-u", "-q", "-z", "--stdin", folder=tree, more=here, stdin=paths)
        return True

    def _idle(self, change: Change, before: Entry | None, after: bytes | None) -> bool:
        """Whether a change that may be made has no effect."""
        if before is None:
            return no_effect(change.path, None, after)
        if change.mode != before.mode or (before.size or 0) > LARGEST_BYTES:
            return False
        return no_effect(change.path, self.git("cat-file", "blob", before.oid), after)

    def _ignored(self, paths: Sequence[str], tracked: Mapping[str, Entry]) -> set[str]:
        """Those of `paths` that the tracked .gitignore files exclude."""
        rules = {path: entry for path, entry in tracked.items() if path.rpartition("/")[2] == ".gitignore"}
        if not rules or not paths:
            return set()
        folder = self._rules(rules)
        here = {"GIT_DIR": str(self.folder), "GIT_WORK_TREE": str(folder), "GIT_LITERAL_PATHSPECS": "0"}
        # check-ignore takes no literal path specs: "./" keeps a leading colon from being magic.
        asked = b"\0".join(b"./" + os.fsencode(each) for each in paths)
        done = bare.run("check-ignore", "--no-index", "--stdin", "-z", folder=folder, stdin=asked, more=here)
        if done.code > 1:  # 1 is "none"
            raise RepoError(f"git check-ignore failed: {done.err.strip()}", bare.BY_ITSELF)
        return {each.removeprefix("./") for each in _paths(done.out)}

    def _rules(self, rules: Mapping[str, Entry]) -> Path:
        """A folder that holds nothing but these .gitignore files; made once for each set of them."""
        name = sha256(repr(sorted((path, entry.oid) for path, entry in rules.items())).encode()).hexdigest()
        folder = self.folder / "rules" / name
        with self._lock:
            if not folder.is_dir():
                with self._scratch() as scratch:
                    for path, entry in rules.items():
                        if entry.mode not in _NOT_INSIDE:
                            file = scratch / "rules" / path
                            file.parent.mkdir(parents=True, exist_ok=True)
                            file.write_bytes(self.git("cat-file", "blob", entry.oid))
                    (scratch / "rules").rename(folder)
        return folder

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder / "scratch") as scratch:
            yield Path(scratch)


_AGENT_CONFIG = """\
[core]
\trepositoryformatversion = {version}
\tbare = false
\tautocrlf = false
[user]
\tname = autoresearch
\temail = autoresearch@localhost
[gc]
\tauto = 0
"""


def _inside(tree: Path) -> dict[str, str]:
    """The environment of git in a `.git` that we have just made, and nobody else has seen."""
    return {"GIT_DIR": str(tree / ".git"), "GIT_WORK_TREE": str(tree)}


def _judge(changed: Sequence[Change], scope: Scope, prefix: str) -> Failure | None:
    """The `Failure` that these changes are, if one of them may not be."""
    start = f"{prefix}/" if prefix else ""
    outside = [
        posixpath.relpath(each.path, prefix or ".")
        for each in changed
        if not each.path.startswith(start) or not scope.allows(each.path.removeprefix(start))
    ]
    if outside:
        return Failure(FailureKind.OUT_OF_SCOPE, f"changed out of scope: {_names(outside)}")
    odd = [each for each in changed if each.trouble]
    if odd:
        said = ", ".join(f"{_shown(each.path)} ({each.trouble})" for each in odd[:5])
        return Failure(FailureKind.OUT_OF_SCOPE, f"only plain files may be changed: {said}")
    return None


def message(idea: str, attempt: str) -> bytes:
    """What a commit of ours says: the idea, and which attempt it was."""
    text = _subject(idea) + (f"\n\nAttempt: {attempt}\n" if attempt else "")
    return text.encode("utf-8", "replace")


def _script(ref: str, parent: str, message: bytes, changed: Sequence[Change], contents: Mapping[str, bytes]) -> bytes:
    """The stream for `git fast-import` that makes one commit and prints its name. Deletions come first."""
    who = b"autoresearch <autoresearch@localhost> now"
    parts = [b"feature date-format=now\ncommit %s\nmark :1\ncommitter %s\n" % (ref.encode(), who)]
    parts.append(b"data %d\n%s\nfrom %s\n" % (len(message), message, parent.encode()))
    parts += [b"D %s\n" % _quoted(each.path) for each in changed if each.path not in contents]
    for each in changed:
        if each.mode:
            content = contents[each.path]
            parts.append(b"M %s inline %s\ndata %d\n" % (each.mode.encode(), _quoted(each.path), len(content)))
            parts += [content, b"\n"]
    return b"".join([*parts, b"get-mark :1\ndone\n"])


def _subject(idea: str) -> str:
    """The first line of an idea, printable and not longer than 120 characters."""
    for line in idea.splitlines():
        words = " ".join("".join(each if each.isprintable() else " " for each in line).split())
        if words:
            return words if len(words) <= 120 else words[:119] + "…"
    return "experiment"


def _quoted(path: str) -> bytes:
    raw = os.fsencode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"%s"' % raw


def _conflicts(listing: bytes) -> dict[str, dict[str, Entry]]:
    """Read the output of `git ls-files -u -z`: for each path, what "1" the parent, "2" we and "3" the pick have."""
    conflicts: dict[str, dict[str, Entry]] = {}
    for line in listing.split(b"\0")[:-1]:
        head, _, path = line.partition(b"\t")
        mode, oid, stage = head.decode().split(" ")
        conflicts.setdefault(os.fsdecode(path), {})[stage] = Entry(mode, oid)
    return conflicts


def _paths(listing: bytes) -> list[str]:
    return [os.fsdecode(each) for each in listing.split(b"\0")[:-1]]


def _names(paths: Sequence[str]) -> str:
    """Up to five of them, in words."""
    rest = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(map(_shown, paths[:5])) + rest


def _shown(path: str) -> str:
    """A path as a terminal can show it."""
    return path if path.isprintable() else ascii(path)
