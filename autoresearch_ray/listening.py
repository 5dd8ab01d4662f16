"""The driver's ear: what comes into the run's inbox, and what changes in program.md, is passed on to the coordinator.

A message is removed when what came of it is in the ledger. A driver that is killed between the two leaves it to the
next one, and the ledger knows its id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from autoresearch_ray import inbox
from autoresearch_ray import program as reader
from autoresearch_ray.brief import one_line
from autoresearch_ray.errors import AutoresearchError, ProgramError, SetupError
from autoresearch_ray.messages import Resteer
from autoresearch_ray.model import Options, Program
from autoresearch_ray.ports import Crew

_AT_A_TIME = 8  # messages between two looks at all else that the driver looks after

_Signature = tuple[tuple[int, int, int], ...]


class Listening:
    """To one run, for one driver."""

    def __init__(self, folder: Path, page: Path | None) -> None:
        """`folder` is the run's; `page` its program.md, None where it came from somewhere else."""
        self._folder = folder
        self._page = page
        self._seen = self._last = self._signature()
        self._began = self._read() if self._seen else None

    def heed(self, crew: Crew) -> list[str]:
        """Pass on what came since the last time. Returns what is to be said of it, in words."""
        return [*self._post(crew), *self._edited(crew)]

    # --- The inbox ---------------------------------------------------------------------------------------------------

    def _post(self, crew: Crew) -> Iterator[str]:
        """A message that cannot be taken up now holds up those behind it, so that their order is kept."""
        for path in inbox.waiting(self._folder)[:_AT_A_TIME]:
            try:
                yield from self._taken_up(path, crew)
            except AutoresearchError as error:
                yield f"the inbox waits: {error.message}"
                return
            except OSError as error:
                yield f"the inbox cannot be tidied: {error.strerror}"
                return

    def _taken_up(self, path: Path, crew: Crew) -> Iterator[str]:
        try:
            letter = inbox.read(path)
        except SetupError as error:
            inbox.refuse(path)
            yield one_line(f"{path.name!r} in the inbox is no message, and was put aside: {error.message}", 500)
            return
        why_not = crew.hear(letter)
        path.unlink(missing_ok=True)
        if why_not:
            yield one_line(f"{letter.kind} {letter.id} was declined: {why_not}", 500)

    # --- program.md --------------------------------------------------------------------------------------------------

    def _edited(self, crew: Crew) -> Iterator[str]:
        """What it says now, once whoever writes it has come to an end: when it looks the same twice."""
        signature, before = self._signature(), self._last
        self._last = signature
        if self._page is None or self._began is None or not signature or signature != before or signature == self._seen:
            return
        try:
            now = reader.read(self._page)
        except ProgramError as error:
            self._seen = signature
            yield f"{self._page.name}, line {error.line}: {error.message}; the run goes on with what it read before"
            return
        if changed := _frozen(self._began, now):
            self._seen = signature
            yield f"the change of {self._page.name} is not taken up: {changed}"
            return
        try:
            crew.hear(Resteer(now.title, now.text, now.strategy, now.notes))
            self._seen = signature
        except AutoresearchError as error:
            yield f"the change of {self._page.name} waits: {error.message}"

    def _read(self) -> Program | None:
        """The page as it is when the driver begins: flags may have changed what of it the run goes by."""
        try:
            return reader.read(self._page) if self._page else None
        except ProgramError:
            return None

    def _signature(self) -> _Signature:
        """What tells one state of the page, and of the file beside it, from another; () while it is not there."""
        if self._page is None:
            return ()
        found = []
        for path in (self._page, self._page.with_name("autoresearch.toml")):
            try:
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:  # an editor may write a new file and rename it
                found.append((0, 0, 0))
        return tuple(found) if found[0][1] else ()


def _frozen(began: Program, now: Program) -> str:
    """What of `now` differs from `began` and cannot be followed, with the reason; "" if nothing does."""
    for name in ("scope", "eval"):
        if getattr(began, name) != getattr(now, name):
            return (
                f"its {name.title()} is frozen, or what was measured could not be compared;"
                " put it back, or start another run with --tag"
            )
    changed = [
        each.name for each in fields(Options) if getattr(began.options, each.name) != getattr(now.options, each.name)
    ]
    if changed:
        return f"{', '.join(changed)}: options hold until the run is stopped and taken up again; put them back"
    return ""
