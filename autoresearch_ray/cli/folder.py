"""Where a run lies on the disk, and whether its driver lives.

A run is the folder `.autoresearch/<tag>` beside its program.md. Everything that is read here is read without writing,
so it works while the run goes on, from another terminal, and after the cluster is gone.
"""

from __future__ import annotations

import fcntl
import gc
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoresearch_ray.board import Board, replay
from autoresearch_ray.errors import LedgerError, SetupError
from autoresearch_ray.events import Event
from autoresearch_ray.model import Experiment

LEDGER = "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Driver:
    """The process that runs, or ran, the experiments; `pid` and `host` are None where it left no note of itself."""

    alive: bool
    pid: int | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """How far the copy of a run elsewhere has come. Times are seconds since the epoch, `None` where there is none."""

    place: str
    at: float | None  # of the last success
    behind_bytes: int  # of the ledger, that are only here
    trouble: str | None  # what is wrong now, in words
    since: float | None  # when that began


def mirrored(folder: Path) -> Mirrored | None:
    """What the driver of the run in `folder` noted about its mirror; None where it has none."""
    try:
        note = dict(json.loads((folder / "mirror.json").read_bytes()))
        behind = (folder / LEDGER).stat().st_size - note["bytes"]
        return Mirrored(note["mirror"], note["at"], max(0, behind), note["trouble"], note["since"])
    except (FileNotFoundError, KeyError, ValueError, TypeError):  # there is none, or somebody wrote over it
        return None


def find(tag: str | None = None, start: Path | None = None) -> Path:
    """The run `tag`, or the one written to last, below the nearest `.autoresearch` at or above `start` (default: here).

    `start` may also be the run's own folder. Raises `SetupError`.
    """
    start = Path.cwd() if start is None else start.absolute()
    if (start / LEDGER).is_file():
        return start
    for folder in (start, *start.parents):
        runs = [each.parent for each in folder.glob(f".autoresearch/*/{LEDGER}")]
        if not runs:
            continue
        if tag is None:
            return max(runs, key=lambda run: ((run / LEDGER).stat().st_mtime, run.name))
        named = [run for run in runs if run.name == tag]
        if not named:
            known = ", ".join(sorted(run.name for run in runs))
            raise SetupError(f"there is no run {tag!r} in {folder / '.autoresearch'}", f"known: {known}")
        return named[0]
    raise SetupError(
        f"there is no run at or above {start}", "go to the folder of program.md, or name it with --folder PATH"
    )


def driver(folder: Path) -> Driver:
    """Alive while it holds its lock: the kernel lets go of that even after a SIGKILL."""
    try:
        note = dict(json.loads((folder / "driver.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):  # not begun, just being written, or not ours
        note = {}
    return Driver(_locked(folder / "driver.lock"), note.get("pid"), note.get("host"))


def _locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def load(folder: Path) -> Board:
    """The board of the run in `folder`. Raises `LedgerError`."""
    from autoresearch_ray.ledger import read  # pydantic: not for --help

    return folded(folder, read(folder / LEDGER))


def folded(folder: Path, lines: Iterable[tuple[Event, ...]]) -> Board:
    """The board after these lines of the ledger in `folder`."""
    gc.disable()  # nothing that is made here is garbage, and looking for some takes a tenth of the time
    try:
        return replay(lines)
    except ValueError as error:
        raise LedgerError(f"{folder / LEDGER}: {error}", "is the run just starting? ask again in a moment") from error
    finally:
        gc.freeze()  # nor is it to be looked through again when something later is
        gc.enable()


def logs(folder: Path, experiment: Experiment) -> tuple[Path, Path]:
    """The logs of the experiment's first evaluation and of the agent that proposed it; either may be missing."""
    lane, _, number = experiment.id.rpartition("-")
    return folder / "logs" / lane / f"{number}.log", folder / "logs" / lane / f"{number}.agent.log"


def experiment_of(board: Board, name: str) -> Experiment:
    """The experiment that `name` means: a number, an id, a commit, "baseline" or "best". Raises `SetupError`."""
    found = {"baseline": board.experiments[0], "best": board.best}.get(name) or board.find(name)
    if found is None:
        last = len(board.experiments) - 1
        raise SetupError(f"there is no experiment {name!r}", f"give a number from 0 to {last}, an id, or a commit")
    return found


def commit_of(board: Board, name: str) -> str:
    """The commit that `name` means: as `experiment_of`, or where a lane stands. Raises `SetupError`."""
    if name in board.lanes:
        return board.lanes[name].head
    if name == "best" and board.best is None:
        return board.opened.base
    experiment = experiment_of(board, name)
    if experiment.commit is None:
        raise SetupError(f"#{experiment.number} has no commit: {experiment.reason}", "pick another experiment")
    return experiment.commit
