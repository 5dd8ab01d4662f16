"""A repository elsewhere, reached as the user's own git would reach it: their ssh, helpers and proxies, and no hooks.

`bare` makes git's environment from nothing; for somebody's server git needs somebody's credentials. So here it gets the
environment of the driver, without the variables that would lead it to another repository. What it says is shown without
what may be a password, and its URL is in no command line of ours. It runs under a guardian: what hangs on a network has
a deadline, can be called off, and does not outlive the driver. It asks nobody: there is no terminal at night.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from autoresearch_ray import bare, process
from autoresearch_ray.errors import SetupError

LEDGER = "refs/autoresearch/{tag}/ledger"  # see mirror.py; here for the search of all tags
NAME = "autoresearch-mirror"  # what the remote is called in the configuration that git is given
_URL = re.compile(r"(?i)[a-z][\w+.-]*://|[^/]+:")  # with a scheme, or host:path as ssh has it
_USER = re.compile(r"(?i)([a-z][\w+.-]*://)[^/\s'\"]*@")
_SHORT_SECONDS = 30.0  # for what sends next to nothing
_ASIDE = ("To ", "!\t", "=\t", "*\t", "Done", "hint:")  # lines of git that say nothing about what is wrong
_LONGEST = 300  # characters of what git said

# Of the variables that steer git these are kept: how a server is reached. The others name repositories, or trace.
_KEPT = ("GIT_ALLOW_PROTOCOL", "GIT_ASKPASS", "GIT_CONFIG_", "GIT_HTTP_", "GIT_PROXY", "GIT_SSH", "GIT_SSL_")
_FIXED = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    "SSH_ASKPASS_REQUIRE": "never",
}
_CONFIG = {
    "core.hooksPath": "/dev/null",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.threads": "1",  # the other cores are measuring
    "push.followTags": "false",
    "push.gpgSign": "false",
    "push.recurseSubmodules": "no",
    "safe.directory": "*",
}
# The other end, where it is a folder: its hooks are not run, its owner does not matter, what has arrived is on its
# disk, and what it collects it collects at once, because the guardian ends what would go on in the background.
_RECEIVE_PACK = (
    "git -c safe.directory='*' -c core.hooksPath=/dev/null -c core.fsync=all -c gc.autoDetach=false"
    " -c maintenance.autoDetach=false -c receive.shallowUpdate=true receive-pack"
)


class Kind(StrEnum):
    """What is wrong with a repository elsewhere."""

    AWAY = "cannot be reached"
    DENIED = "denies access"
    FULL = "is full"
    TAKEN = "is not of this run"  # another run of the same tag is there, or this one was taken up elsewhere
    REFUSED = "refuses"
    HERE = "cannot be read here"  # the fault is this machine's


_WORDS = {
    Kind.DENIED: re.compile(
        r"(?i)authentication failed|permission (to .* )?denied|access denied|insufficient permission|not authorized|"
        r"could not read (username|password)|host key verification|error: 40[13]|object directory"
    ),
    Kind.FULL: re.compile(r"(?i)no space left|quota exceeded|file write error|unable to write|disk full"),
}
_HINTS = {
    Kind.AWAY: "check the network, and that it is there",
    Kind.DENIED: "`git push` there must work for this user without a question: ssh agent, key or credential helper",
    Kind.FULL: "make room there",
    Kind.TAKEN: "end the other run, or give this one another --tag or another --mirror",
    Kind.REFUSED: "it must take refs/autoresearch/* and the branches autoresearch/*",
    Kind.HERE: "look at the disk of the run's folder",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something did not work: a value, because a run goes on without its mirror."""

    kind: Kind
    words: str

    @property
    def hint(self) -> str:
        return _HINTS[self.kind]


@dataclass(frozen=True, slots=True)
class Remote:
    """Another repository. `word` is what the user wrote, which holds no password; `path` is set if it is a folder."""

    word: str
    path: Path | None
    url: str = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def find(cls, word: str, folder: Path, environ: Mapping[str, str]) -> Remote:
        """The remote called `word` of the repository that `folder` is in; or a URL; or a path, counted from `folder`.

        Raises `SetupError` where it can be none of them. Nothing is reached yet.
        """
        settings = _settings(folder)
        remotes = {key.split(".", 1)[1].rpartition(".")[0] for key, _ in settings if key.startswith("remote.")}
        path = None
        if word in remotes:
            known = dict(settings)
            url, folder = known.get(f"remote.{word}.pushurl") or known.get(f"remote.{word}.url", ""), _top(folder)
        elif "/" in word or ":" in word or (folder / word).is_dir():
            url = word
        else:
            raise SetupError(
                f"there is no remote {word!r} and no folder of that name",
                f"known remotes: {', '.join(sorted(remotes)) or 'none'}; a path has a slash: ./{word}",
            )
        if not _URL.match(url):
            try:
                path = (folder / Path(url).expanduser()).resolve()
            except RuntimeError as error:
                raise SetupError(f"whose home {url} begins with is not known", "write the path out") from error
            url = str(path)
        if path and path.exists() and not _is_repository(path) and not _is_empty(path):
            raise SetupError(f"{path} is neither a git repository nor empty", "name a folder that may be made")
        config = [*_CONFIG.items(), *((key, value) for key, value in settings if not key.startswith("remote."))]
        return cls(word, path, url, _environ(environ, [*config, (f"remote.{NAME}.url", url)]))

    @property
    def local(self) -> bool:
        """Whether the other end runs on this machine."""
        return self.path is not None or self.url.lower().startswith("file://")

    @property
    def _upload_pack(self) -> list[str]:
        return [f"--upload-pack={bare.UPLOAD_PACK}"] if self.local else []

    @property
    def there(self) -> bool:
        """Whether there may be a repository; of a folder this is known."""
        return self.path is None or _is_repository(self.path)

    def make(self, commit: str) -> Trouble | None:
        """Make the folder a bare repository, in the object format of `commit`."""
        form = "sha256" if len(commit) == 64 else "sha1"
        words = ("init", "-q", "--bare", "--template=", f"--object-format={form}", self.url)
        return self.git(*words, seconds=_SHORT_SECONDS).trouble

    def refs(self, cancel: threading.Event | None = None) -> dict[str, str] | Trouble:
        """The ledgers and the branches of all runs that are there, each with its commit."""
        wanted = (LEDGER.format(tag="*"), "refs/heads/autoresearch/*")
        words = ("ls-remote", *self._upload_pack, NAME, *wanted)
        done = self.git(*words, seconds=_SHORT_SECONDS, cancel=cancel)
        if done.trouble:
            return done.trouble
        rows = (line.partition("\t") for line in done.out.splitlines())
        return {name: commit for commit, _, name in rows}

    def push(
        self,
        refs: Mapping[str, str],
        leases: Mapping[str, str],
        hub: Path,
        seconds: float,
        cancel: threading.Event | None,
    ) -> tuple[frozenset[str], Trouble | None]:
        """Move each of `refs` to its commit, with all that it reaches: forwards, and each for itself.

        A ref of `leases` is moved anywhere, but only if it is still at that commit, "" for nowhere. The first part of
        the answer are those that were refused; with none of them, trouble means that nothing arrived.
        """
        options = [f"--force-with-lease={ref}:{commit}" for ref, commit in leases.items()]
        if self.local:
            options.append(f"--receive-pack={_RECEIVE_PACK}")
        refspecs = [f"{commit}:{ref}" for ref, commit in refs.items()]
        words = ("push", "--porcelain", "--no-verify", *options, NAME, *refspecs)
        done = self.git(*words, hub=hub, seconds=seconds, cancel=cancel)
        rows = (line.split("\t", 2) for line in done.out.splitlines() if line.startswith("!\t"))
        refused = {names.rpartition(":")[2]: why for _, names, why in rows}
        if refused and done.trouble and done.trouble.kind is Kind.AWAY:  # it was reached
            return frozenset(refused), Trouble(Kind.REFUSED, "; ".join(dict.fromkeys(refused.values())))
        return frozenset(refused), done.trouble

    def fetch(self, ref: str, into: str, hub: Path) -> Trouble | None:
        """Fetch one ref, with all that it reaches, into the ref `into` of `hub`."""
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--update-shallow")
        words = ("fetch", *options, *self._upload_pack, NAME, f"{ref}:{into}")
        return self.git(*words, hub=hub, seconds=bare.LONG_SECONDS).trouble

    def git(
        self, *arguments: str, hub: Path | None = None, seconds: float, cancel: threading.Event | None = None
    ) -> Answer:
        """Run git, in `hub` where it needs one, with this remote configured under `NAME`."""
        with tempfile.TemporaryDirectory(prefix="autoresearch-mirror-") as scratch:
            log, out = Path(scratch, "log"), Path(scratch, "out")
            try:
                ended = process.run(
                    ["git", *arguments],
                    cwd=hub or Path(scratch),
                    environ={**self.environ, **({"GIT_DIR": str(hub)} if hub else {})},
                    log=log,
                    stdout=out,
                    timeout_seconds=seconds,
                    cancel=cancel,
                )
            except OSError as error:
                return Answer("", Trouble(Kind.HERE, str(error)))
            said, wrote = log.read_text(errors="replace").replace(self.url, self.word), out.read_text(errors="replace")
        if ended.why != "exit":
            words = f"git {arguments[0]} was ended after {ended.wall_seconds:.0f} s: {ended.why}"
            return Answer(wrote, Trouble(Kind.AWAY, words))
        if ended.code == 0:
            return Answer(wrote)
        kind = next((kind for kind, words in _WORDS.items() if words.search(said)), Kind.AWAY)
        return Answer(wrote, Trouble(kind, shown(said)))


@dataclass(frozen=True, slots=True)
class Answer:
    """What git wrote, and what was wrong."""

    out: str
    trouble: Trouble | None = None


def shown(text: str) -> str:
    """What git said, on one line: without what may be a password, and without what could rewrite a terminal."""
    lines = (line.strip() for line in _USER.sub(r"\1", text).split("\n"))
    told = "; ".join(line for line in lines if line and not line.startswith(_ASIDE))
    return "".join(each if each.isprintable() else " " for each in told)[:_LONGEST]


def _settings(folder: Path) -> list[tuple[str, str]]:
    """What the user's repository, if `folder` is in one, says about servers: the rest of its configuration is not read.

    Continuous integration keeps its token in there, for one.
    """
    if not folder.is_dir():
        return []
    wanted = r"^(credential|http|url)\.|^remote\..*\.(push)?url$|^core\.sshcommand$"
    done = bare.run("config", "--local", "--null", "--get-regexp", wanted, folder=folder)
    pairs = (entry.partition("\n") for entry in done.out.decode(errors="replace").split("\0")[:-1])
    return [(key, value) for key, _, value in pairs] if done.code == 0 else []


def _top(folder: Path) -> Path:
    """Where relative paths in the configuration of a repository count from."""
    return Path(os.fsdecode(bare.git("rev-parse", "--show-toplevel", folder=folder).removesuffix(b"\n")))


def _environ(user: Mapping[str, str], config: list[tuple[str, str]]) -> dict[str, str]:
    kept = {key: value for key, value in user.items() if not key.startswith("GIT_") or key.startswith(_KEPT)}
    first = int(count) if (count := kept.get("GIT_CONFIG_COUNT", "")).isdecimal() else 0
    for number, (key, value) in enumerate(config, start=first):
        kept[f"GIT_CONFIG_KEY_{number}"], kept[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return {**kept, **_FIXED, "GIT_CONFIG_COUNT": str(first + len(config))}


def _is_repository(path: Path) -> bool:
    return (path / "HEAD").is_file() or (path / ".git").exists()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
