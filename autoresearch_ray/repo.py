"""Git: the user's repository, the hub that holds every commit of a run, and the store that a worker works from."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoresearch_ray.bare import LONG_SECONDS, UPLOAD_PACK, Bare, git, parse_tree, run
from autoresearch_ray.errors import RepoError
from autoresearch_ray.model import Scope
from autoresearch_ray.store import Candidate, Store
from autoresearch_ray.tree import SUBMODULE, litter

__all__ = ["Candidate", "Hub", "Origin", "Store"]

_FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-prune")


@dataclass(frozen=True, slots=True)
class Origin:
    """The user's repository: read, and given our branches; nothing else of it is ever touched.

    `prefix` is the folder of program.md below `top`, with forward slashes, "" at the top; `head` is the commit of HEAD.
    """

    top: Path
    prefix: str
    head: str

    @classmethod
    def find(cls, folder: Path) -> Origin:
        """The repository that `folder` is in. Raises `RepoError` when experiments cannot start from its HEAD."""
        folder = folder.resolve()
        bare = run("rev-parse", "--is-bare-repository", folder=folder)
        if bare.code != 0:
            hint = "put the project under git: git init && git add . && git commit -m start"
            raise RepoError(f"{folder} is not in a git repository", hint)
        if bare.out.strip() == b"true":
            raise RepoError(f"{folder} is in a bare repository", "run in a clone of it, with files")
        place = run("rev-parse", "--show-toplevel", folder=folder)
        if place.code != 0:
            raise RepoError(f"{folder} is inside a .git folder", "run in the folder of program.md")
        top = Path(os.fsdecode(place.out.removesuffix(b"\n")))
        head = run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", folder=folder)
        if head.code != 0:
            raise RepoError(f"{top} has no commit yet", "git add the project's files and git commit")
        prefix = folder.relative_to(top.resolve()).as_posix()
        origin = cls(top, "" if prefix == "." else prefix, head.out.decode().strip())
        if not origin.files(origin.head):
            hint = "git add its files (not ignored ones) and git commit: experiments start from a commit"
            raise RepoError(f"no file of {folder} is in the commit {origin.head[:10]}", hint)
        if run("show-ref", "--verify", "--quiet", "refs/heads/autoresearch", folder=top).code == 0:
            hint = "rename it: git branch -m autoresearch autoresearch-old"
            raise RepoError("a branch named autoresearch stands in the way of branches below autoresearch/", hint)
        return origin

    @classmethod
    def make(cls, folder: Path, hub: Hub) -> None:
        """Make the empty `folder` a repository that stands on the base of `hub`, for one who has no clone."""
        base = hub.git("rev-parse", "refs/base").decode().strip()
        form = "sha256" if len(base) == 64 else "sha1"
        git("init", "-q", "-b", "main", "--template=", f"--object-format={form}", folder=folder)
        there = (f"--upload-pack={UPLOAD_PACK}", str(hub.folder), "refs/base:refs/heads/main")
        git(*_FETCH, "--update-shallow", "--update-head-ok", *there, folder=folder, timeout_seconds=LONG_SECONDS)
        git("reset", "-q", "--hard", folder=folder)

    def dirty(self, scope: Scope) -> list[str]:
        """The files in scope, relative to `prefix`, with changes that are not committed; new files count."""
        options = ("--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=all")
        found = []
        for line in git("status", *options, "--", self.prefix or ".", folder=self.top).split(b"\0")[:-1]:
            path = os.fsdecode(line[3:])
            inner = path.removeprefix(f"{self.prefix}/") if self.prefix else path
            if scope.allows(inner) and not (line.startswith(b"??") and litter(path)):
                found.append(inner)
        return sorted(found)

    def files(self, commit: str) -> list[str]:
        """The files of `commit` below `prefix`, relative to it. Submodules are not followed."""
        start = f"{self.prefix}/" if self.prefix else ""
        entries = parse_tree(git("ls-tree", "-r", "-z", "--full-tree", commit, folder=self.top))
        return sorted(
            path.removeprefix(start)
            for path, entry in entries.items()
            if path.startswith(start) and entry.mode != SUBMODULE
        )

    def has_branches(self, tag: str) -> bool:
        """Whether a run with this tag has published branches here."""
        return bool(_ours(_refs(self.top), tag))

    def publish(self, hub: Path, tag: str) -> list[str]:
        """Bring the branches of `tag` up to date from the hub, and return those left alone.

        Left alone is what is checked out somewhere, and what holds a commit that the hub does not know: somebody's own.
        """
        wanted, here = _ours(_refs(hub), tag), _refs(self.top)
        known = set(Hub(hub).known([here[name].commit for name in wanted if name in here]))
        free = [name for name in wanted if name not in here or (not here[name].taken and here[name].commit in known)]
        if free:
            refspecs = [f"+refs/heads/{name}:refs/heads/{name}" for name in free]
            git(*_FETCH, f"--upload-pack={UPLOAD_PACK}", str(hub.resolve()), *refspecs, folder=self.top, hint=_BY_HAND)
        return [name for name in wanted if name not in free]


class Hub(Bare):
    """The bare repository of a run; every attempt stays reachable in it."""

    @classmethod
    def create(cls, folder: Path, origin: Origin, base: str) -> Hub:
        """Make the hub from the history of `base`, copied, so that it outlives whatever happens to the user's clone."""
        if folder.exists():
            raise RepoError(f"{folder} is there already", "take the run up again, or choose another tag")
        part = cls.empty(folder.with_name(folder.name + ".part"), base)  # renamed when complete
        part.git(
            *_FETCH,
            "--update-shallow",
            f"--upload-pack={UPLOAD_PACK}",
            str(origin.top.resolve()),
            f"{base}:refs/base",
            timeout_seconds=LONG_SECONDS,
            hint="a partial clone lacks objects: clone again without --filter; if this is none, run git fsck",
        )
        part.folder.rename(folder)
        return cls(folder)

    @classmethod
    def empty(cls, folder: Path, commit: str) -> Hub:
        """A hub with nothing in it, in the object format of `commit`; what was in `folder` goes."""
        if folder.exists():
            shutil.rmtree(folder)
        hub = cls(folder)
        hub._init(commit, {"core.fsync": "all", "gc.auto": "0", "maintenance.auto": "false"})
        return hub

    @classmethod
    def open(cls, folder: Path) -> Hub:
        if not (folder / "objects").is_dir():
            raise RepoError(f"{folder} is not the hub of a run", "look for .autoresearch/<tag>/hub.git")
        return cls(folder)

    def unlock(self) -> None:
        """Remove the locks that a killed process left. Only for the one process that writes, before it starts."""
        for lock in (*(self.folder / "refs").rglob("*.lock"), *self.folder.glob("*.lock")):
            lock.unlink()

    def tidy(self) -> None:
        """Pack what has arrived since the last time: a file for each ref and object is a block of the disk each.

        Safe beside others that write: a loose object or ref goes only when it is in a pack. Raises `RepoError`.
        """
        self.git("pack-refs", "--all")
        self.git("repack", "-d", "-q", timeout_seconds=LONG_SECONDS)

    def unpack(self, bundle: bytes, ref: str, commit: str) -> None:
        """Take in a bundle (b"" is none) and set `ref` to `commit`; doing so twice changes nothing.

        Raises `RepoError` when the bundle is damaged, builds on what is not here, or does not bring `commit`.
        """
        arrived = self.take(bundle) if bundle else []
        if commit not in arrived and not self.has(commit):
            raise RepoError(f"the commit {commit} did not arrive", "hand it in again with a larger bundle")
        self.git("update-ref", ref, commit)

    def branch(self, name: str, commit: str) -> None:
        """Point the branch `name` at `commit`."""
        self.git("update-ref", f"refs/heads/{name}", commit)

    def branches(self) -> dict[str, str]:
        """The commit of each branch by its name."""
        listing = self.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").decode()
        return dict(line.split(" ") for line in listing.splitlines())

    def diff(self, old: str, new: str) -> str:
        """The unified diff between two commits."""
        return self.git("diff", *_PLAIN, old, new).decode(errors="replace")

    def stat(self, old: str, new: str) -> str:
        """How many lines of which files differ between two commits."""
        return self.git("diff", *_PLAIN, "--stat", old, new).decode(errors="replace")

    def show(self, commit: str) -> str:
        """The message and the diff of a commit."""
        return self.git("show", *_PLAIN, commit).decode(errors="replace")


_PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color")
_BY_HAND = "the branches are in the hub: git fetch <hub> 'refs/heads/autoresearch/*:refs/heads/autoresearch/*'"


@dataclass(frozen=True, slots=True)
class _Branch:
    commit: str
    taken: bool  # checked out in some work tree


def _refs(repository: Path) -> dict[str, _Branch]:
    """The branches below autoresearch/."""
    form = "--format=%(if)%(worktreepath)%(then)*%(else)-%(end) %(objectname) %(refname:lstrip=2)"
    listing = git("for-each-ref", form, "refs/heads/autoresearch/", folder=repository).decode()
    rows = (line.split(" ", 2) for line in listing.splitlines())
    return {name: _Branch(commit, taken == "*") for taken, commit, name in rows}


def _ours(names: Iterable[str], tag: str) -> list[str]:
    """The branches of one run: its best, and its lanes. The tag "a-2" is not a lane of "a"."""
    ours = re.compile(rf"autoresearch/{re.escape(tag)}(-(gpu|cpu)\d+[a-z]?)?")
    return sorted(name for name in names if ours.fullmatch(name))
