"""A run brought back from its mirror, on a machine that never saw it.

What comes back is the ledger, the hub with every commit that was tried, and program.md. The logs of evaluations and
what agents kept for themselves were on the disk that was lost. The folder appears whole: it is made beside its place.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from autoresearch_ray import bare, ledger
from autoresearch_ray.errors import SetupError
from autoresearch_ray.events import Measured, Opened, Submitted
from autoresearch_ray.mirror import PUSHED, ledger_of
from autoresearch_ray.remote import LEDGER, Remote, Trouble
from autoresearch_ray.repo import Hub, Origin
from autoresearch_ray.run_folder import replayed


def restore(remote: Remote, folder: Path, tag: str | None = None) -> Path:
    """Bring the run `tag`, or the only one there is, back beside its program.md, and return its folder.

    `folder` is anywhere in a clone of the user's repository, or empty: then it becomes one, at the base of the run. A
    run that is there already is left as it is. Raises `SetupError`.
    """
    if not _in_repository(folder) and any(each.name != ".autoresearch" for each in folder.iterdir()):
        raise SetupError(f"{folder} is not in a git repository", "go into a clone of it, or into an empty folder")
    tag, tip = _found(remote, tag)
    if (folder / ".autoresearch" / tag / "ledger.jsonl").exists():
        return folder / ".autoresearch" / tag
    runs = folder / ".autoresearch"
    try:
        runs.mkdir(exist_ok=True)
        (runs / ".gitignore").write_text("*\n")
        return _brought(remote, folder, runs / f".{tag}.part", tag, tip)
    except OSError as error:
        raise SetupError(f"cannot write in {folder}: {error.strerror}", "make room there, or another folder") from error
    finally:
        if runs.is_dir() and {each.name for each in runs.iterdir()} <= {".gitignore"}:
            shutil.rmtree(runs)  # the run came to another folder of the repository, or not at all


def _brought(remote: Remote, folder: Path, part: Path, tag: str, tip: str) -> Path:
    shutil.rmtree(part, ignore_errors=True)
    try:
        opened = _fetched(remote, part, tag, tip)
        if not _in_repository(folder):
            Origin.make(folder, Hub.open(part / "hub.git"))
        return _placed(part, Origin.find(folder).top / opened.prefix, opened)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _found(remote: Remote, tag: str | None) -> tuple[str, str]:
    """The tag of the run, and its latest copy."""
    there: dict[str, str] | Trouble = remote.refs() if remote.there else {}
    if isinstance(there, Trouble):
        raise _error(remote, there)
    pattern = LEDGER.format(tag="([^/]+)")
    runs = {found[1]: commit for ref, commit in there.items() if (found := re.fullmatch(pattern, ref))}
    if not runs:
        raise SetupError(f"the mirror {remote.word} holds no run", "is it the place that --mirror named?")
    if tag is None and len(runs) > 1:
        raise SetupError(f"the mirror {remote.word} holds several runs", f"--tag with one of {', '.join(sorted(runs))}")
    tag = next(iter(runs)) if tag is None else tag
    if tag not in runs:
        raise SetupError(f"the mirror {remote.word} holds no run {tag!r}", f"it holds {', '.join(sorted(runs))}")
    return tag, runs[tag]


def _error(remote: Remote, trouble: Trouble) -> SetupError:
    return SetupError(f"the mirror {remote.word} {trouble.kind}: {trouble.words}", trouble.hint)


def _fetched(remote: Remote, part: Path, tag: str, tip: str) -> Opened:
    """Make the hub and the rest of the folder in `part`; the ledger is not called so yet."""
    hub = Hub.empty(part / "hub.git", tip)
    if trouble := remote.fetch(LEDGER.format(tag=tag), PUSHED, hub.folder):
        raise _error(remote, trouble)
    path = part / "ledger.new"
    with path.open("wb") as file:
        file.write(ledger_of(hub, PUSHED))
        os.fsync(file.fileno())
    opened = replayed(path).opened
    refs: dict[str, str | None] = {}
    for event in (each for events in ledger.read(path) for each in events):
        if isinstance(event, Submitted):
            refs[f"refs/submitted/{event.id}"] = event.commit
        elif isinstance(event, Measured) and event.attempt.line:
            refs[f"refs/attempts/{event.attempt.lane}/{event.attempt.id.rpartition('-')[2]}"] = event.attempt.commit
    lines = "".join(f"update {name} {commit}\n" for name, commit in {"refs/base": opened.base, **refs}.items())
    hub.git("update-ref", "--stdin", stdin=lines.encode(), hint="a commit that the ledger names is not in the mirror")
    (part / "program.md").write_text(opened.source)
    return opened


def _placed(part: Path, place: Path, opened: Opened) -> Path:
    """Move the folder to where it belongs, beside program.md, which is written if it is not there."""
    run = place / ".autoresearch" / opened.tag
    if (run / "ledger.jsonl").exists():
        return run
    run.parent.mkdir(parents=True, exist_ok=True)
    (run.parent / ".gitignore").write_text("*\n")
    if not (place / "program.md").exists():
        (place / "program.md").write_text(opened.source)
    shutil.rmtree(run, ignore_errors=True)
    part.rename(run)
    (run / "ledger.new").rename(run / "ledger.jsonl")
    return run


def _in_repository(folder: Path) -> bool:
    return bare.run("rev-parse", "--git-dir", folder=folder).code == 0
