"""The copy of a run elsewhere: losing the head's disk loses minutes, not the night.

All of a run hangs on one ref of the mirror, `refs/autoresearch/<tag>/ledger`. It is a chain of commits, one for each
copy. The tree of such a commit holds the ledger; its parents are the copy before and every commit that was tried since.
So one ref moves, or does not, and no server can show a ledger without the commits that it names. It only moves forward:
what is not a continuation of it, such as another run of the same tag, is refused by git itself. The branches are copied
for people to look at; the ledger knows where they stood.

The ledger lies there in segments that end with a line. All but the last never change, so that a copy brings what is new
and the last segment: 28 kB, with a ledger of 10,000 attempts and 13 MB.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoresearch_ray.bare import LONG_SECONDS, Bare, parse_tree
from autoresearch_ray.errors import AutoresearchError, SetupError
from autoresearch_ray.remote import LEDGER, Kind, Remote, Trouble
from autoresearch_ray.repo import Hub

SEGMENT_BYTES = 128 << 10  # a copy brings half of one, compressed, and a name of 36 bytes for each
_PUSH_SECONDS = 600.0  # for what came since the last copy; the first one brings the whole history
_RETRY_SECONDS = 15.0  # after one failure, twice as long after each more, at most until the next copy is due anyway
_DOUBLINGS = 10
_STALE_SECONDS = 900.0  # a lock of that age in a mirror that is a folder was left by a push that was killed
PUSHED = "refs/mirror"  # in the hub: the last copy that arrived


class Mirror:
    """The copies of the run in `folder`, whose hub and ledger others write. Used by one thread at a time."""

    def __init__(self, remote: Remote, folder: Path, tag: str, clock: Callable[[], float] = time.time) -> None:
        self.remote = remote
        self._folder = folder
        self._tag = tag
        self._clock = clock
        self._ref = LEDGER.format(tag=tag)
        self._there: dict[str, str] | None = None  # the refs of the mirror, once they are known
        self._held: set[str] = set()  # commits that the copy there reaches
        self._segments = Segments(folder / "ledger.jsonl")
        self._tree = ""  # of the copy there
        self.left_alone: set[str] = set()  # branches of the mirror that were moved by somebody, or are protected

    def meet(self, cancel: threading.Event | None = None) -> Trouble | None:
        """See what is there. `TAKEN`: it is not the beginning of this run, and is never written over."""
        there = self.remote.refs(cancel) if self.remote.there else {}
        if isinstance(there, Trouble):
            return there
        if (tip := there.get(self._ref)) and not self._continues(tip):
            words = "holds another run of this tag" if not self._begun else "holds what is not in this run's ledger"
            return Trouble(Kind.TAKEN, f"it {words}")
        self._there = there
        return None

    def push(self, cancel: threading.Event | None = None) -> Trouble | None:
        """Copy what is new, if anything is. None: all that was in the ledger when this was called is there."""
        if trouble := self._reach(cancel):
            return trouble
        assert self._there is not None
        hub, tip = self._hub(), self._there.get(self._ref)
        tree, size = self._segments.tree(hub)  # first: the commits that these lines name are in the hub by now
        commits = [each for each in self._commits(hub) if each not in self._held]
        if not tip or tree != self._tree or commits:
            copy = self._commit(hub, tree, [*([tip] if tip else []), *commits], size)
            seconds = _PUSH_SECONDS if tip else LONG_SECONDS
            refused, trouble = self.remote.push({self._ref: copy}, {}, hub.folder, seconds, cancel)
            if trouble:
                self._there = None
                return (self.meet(cancel) if refused else None) or trouble
            self._there = {**self._there, self._ref: copy}
            self._held.update(commits, [copy])
            self._tree = tree
            hub.git("update-ref", PUSHED, copy)
        return self._push_branches(hub, cancel)

    @property
    def size(self) -> int:
        """The bytes of the ledger that the last copy held, or would have held."""
        return self._segments.size

    @property
    def _begun(self) -> bool:
        return (self._folder / "ledger.jsonl").exists()

    def _hub(self) -> Hub:
        return Hub.open(self._folder / "hub.git")

    def _reach(self, cancel: threading.Event | None) -> Trouble | None:
        """Make the mirror if it is a folder that was never there, and see what it holds if that is not known."""
        path = self.remote.path
        if path and not self.remote.there:
            note = noted(self._folder)
            if (note.get("mirror") == self.remote.word and note.get("at")) or not path.parent.is_dir():
                self._there = None
                return Trouble(Kind.AWAY, f"{path} is not there")  # not mounted: nothing is made in its place
            if trouble := self.remote.make(self._commits(self._hub())[0]):
                return trouble
        if path:
            _unlock(path, [self._ref, *(f"refs/heads/{each}" for each in self._hub().branches())], self._clock())
        return self.meet(cancel) if self._there is None else None

    def _continues(self, tip: str) -> bool:
        """Whether the ledger there is the beginning of the one here; if so, what it reaches is known afterwards."""
        if not self._begun or not (hub := self._hub()).has(tip):
            return False
        there = ledger_of(hub, tip)
        with (self._folder / "ledger.jsonl").open("rb") as file:
            if file.read(len(there)) != there:
                return False
        self._held = set(hub.git("rev-list", tip, "^refs/base").decode().split())
        self._held.add(hub.git("rev-parse", "refs/base").decode().strip())
        self._tree = hub.git("rev-parse", f"{tip}^{{tree}}").decode().strip()
        return True

    def _commits(self, hub: Hub) -> list[str]:
        """What was tried, and the base."""
        names = ("refs/base", "refs/attempts", "refs/submitted", "refs/heads")
        return list(dict.fromkeys(hub.git("for-each-ref", "--format=%(objectname)", *names).decode().split()))

    def _push_branches(self, hub: Hub, cancel: threading.Event | None) -> Trouble | None:
        """Move the branches that stand elsewhere in the mirror. Where they hold what the hub does not know, they stay.

        Only after the ledger: a run that was taken up elsewhere moves them no more.
        """
        assert self._there is not None
        there = self._there
        ours = {f"refs/heads/{name}": commit for name, commit in hub.branches().items()}
        known = set(hub.known([there[ref] for ref in ours if ref in there]))
        self.left_alone = {ref for ref in ours if ref in there and there[ref] not in known}
        moved = {ref: at for ref, at in ours.items() if ref not in self.left_alone and there.get(ref) != at}
        if not moved:
            return None
        leases = {ref: there.get(ref, "") for ref in moved}
        refused, trouble = self.remote.push(moved, leases, hub.folder, _PUSH_SECONDS, cancel)
        self.left_alone |= refused
        self._there = None if trouble else {**there, **moved}
        return trouble if not refused else None

    def _commit(self, hub: Hub, tree: str, parents: list[str], size: int) -> str:
        """Written by hand: the parents of a first copy may be more than a command line holds."""
        who = f"autoresearch <autoresearch@localhost> {int(self._clock())} +0000"
        lines = [f"tree {tree}", *(f"parent {each}" for each in parents), f"author {who}", f"committer {who}", ""]
        text = "\n".join([*lines, f"{self._tag}: {size} bytes of ledger", ""])
        return hub.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=text.encode()).decode().strip()


class Mirroring:
    """Keeps a mirror in a thread of its own: a copy after every keep, every `seconds` at least, and one at the end.

    What goes wrong is a warning, once of each kind, and is tried again. How it stands is in the run's `mirror.json`:
    the time `at` of the last success, the `bytes` of the ledger that it held, the `trouble` of now and `since` when.
    """

    def __init__(self, mirror: Mirror, folder: Path, seconds: float, warnings: list[str]) -> None:
        """`warnings` is appended to, also from the thread."""
        self._mirror = mirror
        self._folder = folder
        self._seconds = seconds
        self._warnings = warnings
        self._warned: set[str] = set()
        self._trouble: Trouble | None = None
        self._wanted, self._ending, self._cancel = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def check(self) -> None:
        """Before anything is written. Raises `SetupError` if the mirror is of another run."""
        remote = self._mirror.remote
        trouble = self._mirror.meet()
        if trouble and trouble.kind is Kind.TAKEN:
            raise SetupError(
                f"the mirror {remote.word} {trouble.kind}: {trouble.words}",
                f"`autoresearch-ray resume --from {remote.word}` in another clone takes up that one;"
                " for this one choose another --tag or --mirror",
            )
        if trouble:
            self._warn(trouble)
        elif remote.path and _device(remote.path) == _device(self._folder):
            self._warnings.append(f"the mirror {remote.word} is on the disk of the run, and would be lost with it")

    def start(self) -> None:
        """Begin with a copy at once."""
        self._wanted.set()
        self._thread.start()

    def soon(self) -> None:
        """There is something worth a copy."""
        self._wanted.set()

    def finish(self, seconds: float) -> None:
        """A last copy, for which so many seconds are left. Calling it again, with less, hurries it."""
        self._ending.set()
        self._wanted.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._cancel.set()
            self._thread.join()
        if self._trouble:
            words = f"the mirror {self._mirror.remote.word} lacks the end of this run: {self._trouble.words}"
            self._warnings.append(words)

    def _follow(self) -> None:
        failures = 0
        while True:
            if failures:
                wait = _RETRY_SECONDS * 2 ** min(failures - 1, _DOUBLINGS)
                self._ending.wait(min(self._seconds, wait))  # no keep makes it sooner
            else:
                self._wanted.wait(self._seconds)
            last = self._ending.is_set()  # before the copy: all that was there until then is in it
            self._wanted.clear()
            failures = 0 if self._copied() else failures + 1
            if last:
                return

    def _copied(self) -> bool:
        began = time.time()
        try:
            trouble = self._mirror.push(self._cancel)
        except (AutoresearchError, OSError) as error:  # the run's own disk: who writes the ledger will say more
            trouble = Trouble(Kind.HERE, error.message if isinstance(error, AutoresearchError) else str(error))
        if trouble:
            self._warn(trouble)
        for ref in sorted(self._mirror.left_alone - self._warned):
            self._warned.add(ref)
            branch = ref.removeprefix("refs/heads/")
            self._warnings.append(f"{branch} of the mirror is protected, or was moved by somebody: it is left alone")
        with suppress(OSError):  # a full disk: see above
            self._note(trouble, began)
        self._trouble = trouble
        return trouble is None

    def _warn(self, trouble: Trouble) -> None:
        if trouble.kind not in self._warned:
            self._warned.add(trouble.kind)
            words = f"the mirror {self._mirror.remote.word} {trouble.kind}: {trouble.words}"
            self._warnings.append(f"{words}; {trouble.hint}; it is tried again")

    def _note(self, trouble: Trouble | None, began: float) -> None:
        word, before = self._mirror.remote.word, noted(self._folder)
        if before.get("mirror") != word:
            before = {"at": None, "bytes": 0}
        note = {"mirror": word, "at": before["at"], "bytes": before["bytes"], "trouble": None, "since": None}
        if trouble:
            since = before.get("since") or began
            note |= {"trouble": f"{trouble.kind}: {trouble.words}", "since": since}
        else:
            note |= {"at": began, "bytes": self._mirror.size}
        new = self._folder / "mirror.json.new"
        new.write_text(json.dumps(note))
        new.rename(self._folder / "mirror.json")


def _device(path: Path) -> int:
    """The file system that `path` is on, or would be."""
    return next(each for each in (path, *path.parents) if each.exists()).stat().st_dev


def _unlock(repository: Path, refs: Sequence[str], now: float) -> None:
    """Remove the locks of these refs that were left by a push that was killed together with its machine."""
    place = repository / ".git" if (repository / ".git").is_dir() else repository
    for ref in refs:
        lock = place / f"{ref}.lock"
        with suppress(FileNotFoundError):
            if now - lock.stat().st_mtime > _STALE_SECONDS:
                lock.unlink()


class Segments:
    """A ledger that grows, as files of a tree: each but the last ends with the first line past `SEGMENT_BYTES`."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._closed: list[str] = []  # the objects of segments that will not change any more
        self._start = 0  # of the one that still grows
        self.size = 0  # bytes of whole lines

    def tree(self, repository: Bare) -> tuple[str, int]:
        """Write what is new of the ledger's whole lines into `repository`; the tree of all, and how many bytes."""
        with self._ledger.open("rb") as file:
            file.seek(self._start)
            data = file.read()
        closed, rest = cut(data[: data.rfind(b"\n") + 1])
        for each in closed:
            self._closed.append(_blob(repository, each))
            self._start += len(each)
        self.size = self._start + len(rest)
        objects = [*self._closed, *([_blob(repository, rest)] if rest else [])]
        listing = "".join(f"100644 blob {each}\t{number:06}.jsonl\n" for number, each in enumerate(objects))
        return repository.git("mktree", stdin=listing.encode()).decode().strip(), self.size


def _blob(repository: Bare, content: bytes) -> str:
    return repository.git("hash-object", "-w", "--stdin", stdin=content).decode().strip()


def cut(lines: bytes, segment_bytes: int = SEGMENT_BYTES) -> tuple[list[bytes], bytes]:
    """Whole segments and what is left: the same for the same lines, however they came."""
    closed, start = [], 0
    while len(lines) - start > segment_bytes:
        end = lines.index(b"\n", start + segment_bytes) + 1
        closed.append(lines[start:end])
        start = end
    return closed, lines[start:]


def ledger_of(repository: Bare, copy: str) -> bytes:
    """The ledger that the commit `copy` holds."""
    segments = parse_tree(repository.git("ls-tree", "-r", "-z", copy))
    asked = "".join(f"{segments[name].oid}\n" for name in sorted(segments))
    answer = repository.git("cat-file", "--batch=%(objectsize)", stdin=asked.encode())
    lines, at = [], 0
    while at < len(answer):
        size, _, _ = answer[at : at + 20].partition(b"\n")
        start = at + len(size) + 1
        at = start + int(size)
        lines.append(answer[start:at])
        at += 1  # a newline behind each
    return b"".join(lines)


def noted(folder: Path) -> dict[str, Any]:
    """What is known about the mirror of the run in `folder`: see `Mirroring`. Empty where there is none."""
    try:
        return dict(json.loads((folder / "mirror.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):  # it has none, or somebody wrote over it
        return {}
