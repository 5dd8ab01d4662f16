"""What an agent left behind in a folder, read without git: which files differ from those of a commit.

Git never opens such a folder, so nothing in it (a `.git` of its own, hooks, filters, attributes, ignore rules) can run
or change what is seen. Files are compared as bytes. Symbolic links are never followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from autoresearch_ray import process
from autoresearch_ray.bare import Entry, environ

# What tools strew about. Ignored besides what the repository's own .gitignore files name.
LITTER = (
    "__pycache__",
    "*.pyc",
    ".venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    ".DS_Store",
    ".autoresearch",
    ".aider*",
    "run.log",
)
SYMLINK, SUBMODULE = "120000", "160000"


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. `mode` is the new one, None for a deleted file; `trouble` says why it cannot be taken."""

    path: str
    mode: str | None = None
    trouble: str = ""


def litter(path: str) -> bool:
    """Whether a file or any folder on the way to it is what tools strew about."""
    return any(fnmatchcase(part, pattern) for part in path.split("/") for pattern in LITTER)


def empty(tree: Path) -> None:
    """Make `tree` an empty folder, whatever stood there. Raises `OSError`."""
    remove(tree)
    tree.mkdir(parents=True)


def remove(tree: Path) -> None:
    """Remove whatever stands at `tree`, and nothing that a link in it points to. Raises `OSError`."""
    if not os.path.lexists(tree):
        return
    if tree.is_symlink() or not tree.is_dir():
        tree.unlink()
        return
    command = ("rm", "-rf", "--", str(tree))
    done = process.call(command, environ=environ())
    if done.code != 0:  # folders without write permission
        process.call(("chmod", "-R", "u+rwX", "--", str(tree)), environ=environ())
        done = process.call(command, environ=environ())
    if done.code != 0:
        raise OSError(f"cannot remove {tree}: {done.err.strip()}")


def changes(tree: Path, tracked: Mapping[str, Entry], ignored: Callable[[Sequence[str]], set[str]]) -> list[Change]:
    """How the files below `tree` differ from `tracked`, sorted by path.

    `ignored` picks, from paths that are not tracked, those to be passed over; folders are given with a closing slash.
    """
    submodules = {path for path, entry in tracked.items() if entry.mode == SUBMODULE}
    known = {parent for path in tracked for parent in _parents(path)} | submodules
    present: set[str] = set(submodules)
    found: list[Change] = []
    ahead = [""] if tree.is_dir() and not tree.is_symlink() else []
    while ahead:
        unknown = []
        for path, status in _walk(tree, ahead, known):
            entry = tracked.get(path)
            if entry is None:
                unknown.append(path)
            elif entry.mode == SUBMODULE:
                found.append(Change(path, trouble="in place of a submodule"))
            else:
                present.add(path)
                found += _compare(tree, path, status, entry)
        asked = [path for path in unknown if not litter(path.rstrip("/"))]
        passed = ignored(asked)
        ahead = []
        for path in asked:
            if path in passed:
                continue
            if _is_git(path):
                found.append(Change(path, trouble="a nested repository"))
            elif path.endswith("/"):
                ahead.append(path)
            else:
                found += _new(tree, path, submodules)
    found += [Change(path) for path in tracked if path not in present]
    return sorted(found, key=lambda each: each.path)


def _walk(tree: Path, folders: Iterable[str], known: set[str]) -> Iterator[tuple[str, os.stat_result]]:
    """What is in `folders` and, below them, in `known` ones: paths and what lstat says; unknown folders end in "/".

    The agent's own `.git` at the top is left out.
    """
    ahead = list(folders)
    while ahead:
        folder = ahead.pop()
        for name, status in _listing(tree / folder):
            path = folder + name
            if _is_git(path) and not folder:
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield path, status
            elif path in known:
                ahead.append(path + "/")
            else:
                yield path + "/", status


def _listing(folder: Path) -> list[tuple[str, os.stat_result]]:
    """The entries of one folder, whatever its permissions."""
    try:
        return _stats(folder)
    except PermissionError:
        folder.chmod(0o700)
        return _stats(folder)


def _stats(folder: Path) -> list[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        return [(each.name, each.stat(follow_symlinks=False)) for each in entries]


def _compare(tree: Path, path: str, status: os.stat_result, entry: Entry) -> list[Change]:
    """The change of one tracked file, if it has changed."""
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(os.fsencode(tree / path))  # noqa: PTH115 - Path.readlink tidies what it returns
        same = entry.mode == SYMLINK and _oid([target], len(target), entry.oid) == entry.oid
        return [] if same else [Change(path, SYMLINK, "a symbolic link")]
    if not stat.S_ISREG(status.st_mode):
        return [Change(path, trouble="not a plain file")]
    mode = _mode(status)
    if mode != entry.mode or status.st_size != entry.size:
        return [Change(path, mode)]
    with _opened(tree, path) as file:
        pieces = iter(lambda: file.read(1 << 20), b"")
        return [] if _oid(pieces, status.st_size, entry.oid) == entry.oid else [Change(path, mode)]


def _new(tree: Path, path: str, submodules: set[str]) -> list[Change]:
    """The change that one new file is. Sockets and the like are none: a commit cannot hold them."""
    status = os.lstat(tree / path)
    if any(parent in submodules for parent in _parents(path)):
        return [Change(path, trouble="inside a submodule")]
    if stat.S_ISLNK(status.st_mode):
        return [Change(path, SYMLINK, "a symbolic link")]
    return [Change(path, _mode(status))] if stat.S_ISREG(status.st_mode) else []


def read(tree: Path, path: str) -> bytes:
    """The bytes of a plain file, whatever its permissions."""
    with _opened(tree, path) as file:
        return file.read()


def _opened(tree: Path, path: str) -> BinaryIO:
    """A plain file, opened whatever its permissions; no link is followed, no pipe waited for."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(tree / path, flags), "rb")
    except PermissionError:
        (tree / path).chmod(0o600)
        return os.fdopen(os.open(tree / path, flags), "rb")


def _oid(pieces: Iterable[bytes], size: int, like: str) -> str:
    """The object id of a file with this content, in the object format of `like`."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % size)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _mode(status: os.stat_result) -> str:
    return "100755" if status.st_mode & stat.S_IXUSR else "100644"


def _is_git(path: str) -> bool:
    """Whether git, on one file system or another, takes this for a `.git`."""
    return path.rstrip("/").rpartition("/")[2].lower() in (".git", "git~1")


def _parents(path: str) -> list[str]:
    """The folders on the way to `path`: a, a/b for a/b/c."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
