"""The one way git is called, and what the hub and a worker's store have in common: a bare repository of ours.

Git runs as a subprocess with an environment made from nothing, so that no setting of the user or of an agent reaches
it. Commits travel as git bundles. A bundle is made with `pack-objects` under a header written here, because
`git bundle create` packs only what a ref names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray.errors import RepoError

# Every pair holds above the repository's own config. Attributes, excludes, hooks and file-system monitors of others are
# off; nothing is signed, collected in the background or quoted.
_CONFIG = {
    "safe.directory": "*",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.quotePath": "false",
    "core.logAllRefUpdates": "false",
    "core.filesRefLockTimeout": "10000",
    "commit.gpgSign": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.version": "2",
    "rerere.enabled": "false",
    "submodule.recurse": "false",
}
UPLOAD_PACK = "git -c safe.directory='*' upload-pack"  # fetch strips our settings from the other end
LONG_SECONDS = 3600.0  # for what grows with the history
_TIP = " refs/heads/candidate"  # how the branches that a bundle of ours names begin
_CUT = " refs/shallow/"  # and where the history of a shallow clone is cut off, which its receiver must know
BY_ITSELF = "check the room on the disk; the run can be taken up again"
_AGAIN = "ask for a larger bundle, made for one who has nothing"
_UNPACK_LIMIT = 100  # objects; smaller packs become loose objects, as in git's own fetch


def environ(**more: str) -> dict[str, str]:
    """The whole environment of a git process: PATH, fixed settings, and `more`."""
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "autoresearch"), ("EMAIL", "autoresearch@localhost"))
    }
    config = {"GIT_CONFIG_COUNT": str(len(_CONFIG))}
    for number, (key, value) in enumerate(_CONFIG.items()):
        config[f"GIT_CONFIG_KEY_{number}"] = key
        config[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_DEFAULT_REF_FORMAT": "files",
        **who,
        **config,
        **more,
    }


def run(
    *arguments: str,
    folder: Path,
    stdin: bytes = b"",
    more: Mapping[str, str] | None = None,
    timeout_seconds: float = 120.0,
) -> process.Done:
    """Run git in `folder`, whatever its exit status. `more` is added to the environment."""
    argv = ["git", *arguments]
    try:
        return process.call(
            argv, cwd=folder, environ=environ(**(more or {})), stdin=stdin, timeout_seconds=timeout_seconds
        )
    except TimeoutError as error:
        raise RepoError(str(error), "the machine or its disk is overloaded") from error
    except OSError as error:
        hint = "install git 2.31 or newer" if folder.is_dir() else "check the path"
        raise RepoError(f"git cannot run in {folder}: {error}", hint) from error


def git(
    *arguments: str,
    folder: Path,
    stdin: bytes = b"",
    more: Mapping[str, str] | None = None,
    timeout_seconds: float = 120.0,
    hint: str = "",
) -> bytes:
    """Run git in `folder` and return its output. Raises `RepoError` with git's own words when it fails."""
    done = run(*arguments, folder=folder, stdin=stdin, more=more, timeout_seconds=timeout_seconds)
    if done.code != 0:
        said = done.err.strip().removeprefix("fatal: ") or f"exit status {done.code}"
        raise RepoError(f"git {arguments[0]} in {folder} failed: {said}", hint)
    return done.out


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a commit. Its mode is "100644", "100755", "120000" (a symbolic link) or "160000" (a submodule)."""

    mode: str
    oid: str
    size: int | None = None  # bytes, where it was asked for


class Bare:
    """A bare repository that only we write to. Safe to use from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def _init(self, oid: str, config: Mapping[str, str]) -> None:
        """Make the repository, in the object format of `oid`."""
        self.folder.mkdir(parents=True)
        format_ = "sha256" if len(oid) == 64 else "sha1"
        git("init", "-q", "--bare", "--template=", f"--object-format={format_}", ".", folder=self.folder)
        for key, value in config.items():
            git("config", key, value, folder=self.folder)

    def git(
        self, *arguments: str, stdin: bytes = b"", timeout_seconds: float = 120.0, hint: str = "", **more: str
    ) -> bytes:
        """Run git on this repository. Keywords in capitals go into the environment. Raises `RepoError`."""
        here = {"GIT_DIR": str(self.folder), **more}
        return git(*arguments, folder=self.folder, stdin=stdin, more=here, timeout_seconds=timeout_seconds, hint=hint)

    def has(self, commit: str) -> bool:
        return self.known([commit]) == [commit]

    def entries(self, commit: str) -> dict[str, Entry]:
        """Every file of `commit` by its path."""
        return parse_tree(self.git("ls-tree", "-r", "-l", "-z", "--full-tree", commit))

    def pack(self, commits: Sequence[str], have: Sequence[str] = ()) -> bytes:
        """One bundle of all `commits` for one who has the commits `have`; b"" when nothing is missing there.

        Names in `have` that are unknown here are passed over. Raises `RepoError` when one of `commits` is not here.
        """
        have = list(dict.fromkeys(have))
        try:
            pack = self._pack(commits, have)
        except RepoError:  # only then are they looked up one by one: a process more for each hand-in
            have = self.known(have)
            pack = self._pack(commits, have)
        if _objects(pack) == 0:
            return b""
        lines = ["# v3 git bundle", "@object-format=sha256"] if len(commits[0]) == 64 else ["# v2 git bundle"]
        lines += [f"-{each}" for each in have]
        if not have:
            lines += [f"{each}{_CUT}{each}" for each in self._cut()]
        tips = [f"{commit}{_TIP}{number or ''}" for number, commit in enumerate(commits)]
        return "\n".join([*lines, *tips, "", ""]).encode() + pack

    def _pack(self, commits: Sequence[str], have: Sequence[str]) -> bytes:
        options = ("--revs", "--thin", "--stdout", "-q", "--delta-base-offset")
        return self.git("pack-objects", *options, stdin=_revisions(commits, have), timeout_seconds=LONG_SECONDS)

    def take(self, bundle: bytes) -> list[str]:
        """Take in what `bundle` brings and return its commits, which are here afterwards with all they need.

        Taking the same bundle twice changes nothing. Raises `RepoError` when it is damaged or builds on what is not
        here.
        """
        head, _, pack = bundle.partition(b"\n\n")
        lines = head.decode("ascii", "replace").split("\n")
        commits = [line.partition(_TIP)[0] for line in lines if _TIP in line]
        if not lines[0].startswith("# v") or not commits or not _whole(pack):
            raise RepoError("a bundle arrived damaged", "hand it in again")
        have = [line.removeprefix("-") for line in lines if line.startswith("-")]
        if missing := set(have) - set(self.known(have)):
            raise RepoError(f"a bundle builds on commits that are not here: {', '.join(sorted(missing))}", _AGAIN)
        cut = [line.split(" ")[0] for line in lines if _CUT in line]
        if cut and not self._cut():
            (self.folder / "shallow").write_text("".join(f"{each}\n" for each in cut))
        unpack = ("unpack-objects", "-q") if _objects(pack) < _UNPACK_LIMIT else ("index-pack", "--stdin", "--fix-thin")
        self.git(*unpack, stdin=pack, timeout_seconds=LONG_SECONDS)
        # Fails unless every object between `have` and the commits is here.
        wanted = _revisions(commits, have)
        self.git("rev-list", "--objects", "--quiet", "--stdin", stdin=wanted, timeout_seconds=LONG_SECONDS)
        return commits

    def known(self, commits: Sequence[str]) -> list[str]:
        """Those of `commits` that are here, each once."""
        if not commits:
            return []
        asked = list(dict.fromkeys(commits))
        answers = self.git("cat-file", "--batch-check=%(objecttype)", stdin="\n".join(asked).encode() + b"\n")
        return [each for each, line in zip(asked, answers.splitlines(), strict=True) if line == b"commit"]

    def _cut(self) -> list[str]:
        """The commits whose parents are not here because the user's clone is a shallow one."""
        shallow = self.folder / "shallow"
        return shallow.read_text().split() if shallow.exists() else []


def parse_tree(listing: bytes) -> dict[str, Entry]:
    """Read the output of `git ls-tree -r -z`, with or without `-l`."""
    entries = {}
    for line in listing.split(b"\0")[:-1]:
        head, _, path = line.partition(b"\t")
        mode, _, oid, *size = head.decode().split()
        entries[os.fsdecode(path)] = Entry(mode, oid, int(size[0]) if size and size[0] != "-" else None)
    return entries


def _revisions(commits: Sequence[str], have: Sequence[str]) -> bytes:
    """What `--stdin` and `--revs` read for: all that `commits` have and `have` lacks."""
    return "".join(f"{each}\n" for each in (*commits, *(f"^{each}" for each in have))).encode()


def _objects(pack: bytes) -> int:
    """How many objects a pack holds, from its header."""
    return int.from_bytes(pack[8:12], "big")


def _whole(pack: bytes) -> bool:
    """Whether a pack has arrived as it was sent: it ends in the digest of all that comes before."""
    for digest, size in ((hashlib.sha1, 20), (hashlib.sha256, 32)):
        body = memoryview(pack)[:-size]
        if pack[:4] == b"PACK" and digest(body, usedforsecurity=False).digest() == pack[-size:]:
            return True
    return False
