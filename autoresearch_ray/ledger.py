"""The ledger: one file that only grows, and that everything else is the replay of.

Each line is one hand-in: a JSON array of the events that came of it, so a hand-in is there whole or not at all. A line
is on the disk (fsync) before its order goes out. A torn last line is what a crash left behind: it never counted,
readers pass over it and the next writer cuts it off. Any other broken line is a `LedgerError` with its number.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from autoresearch_ray.errors import LedgerError
from autoresearch_ray.events import Event

_WHERE = "the run's folder must be on a disk that its coordinator can write: that of the head node"

_READS = 10  # of the same bytes at most: a line that still is no event then is none

_LINE: TypeAdapter[tuple[Event, ...]] = TypeAdapter(tuple[Annotated[Event, Field(discriminator="event")], ...])


def encode(events: Sequence[Event]) -> bytes:
    """One line, without its newline."""
    return _LINE.dump_json(tuple(events))


def decode(line: bytes) -> tuple[Event, ...]:
    """The events of one line. Raises `ValueError`."""
    return _LINE.validate_json(line)


def read(path: Path) -> Iterator[tuple[Event, ...]]:
    """Every whole line of the ledger, oldest first. Safe while it is being written."""
    for number, line in enumerate(_whole_lines(path, 0), start=1):
        yield _decoded(line, path, number)


def _whole_lines(path: Path, offset: int) -> list[bytes]:
    """The lines from byte `offset` on, each with its end.

    Reading takes a while, in which a torn last line may be cut off and another be written where it stood: half of the
    one and half of the other is neither. So it is read until it reads the same again.
    """
    try:
        with path.open("rb") as file:
            there = os.fstat(file.fileno()).st_size - offset
            data = os.pread(file.fileno(), max(0, there), offset)
            for _ in range(_READS):
                before, data = data, os.pread(file.fileno(), len(data), offset)
                if data == before:
                    break
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}", _WHERE) from error
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _decoded(line: bytes, path: Path, number: int) -> tuple[Event, ...]:
    try:
        return decode(line)
    except ValidationError as error:
        raise LedgerError(
            f"{path}, line {number}, is not an event of this ledger: {error.errors()[0]['msg']}",
            "a line before the last one was changed by hand or by the disk: restore the file from a copy",
        ) from error


class Tail:
    """Follows a ledger that somebody else writes: each `read` returns the whole lines that came since the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lines = 0

    def read(self) -> list[tuple[Event, ...]]:
        lines = _whole_lines(self._path, self._offset)
        events = [_decoded(line, self._path, self._lines + number) for number, line in enumerate(lines, start=1)]
        self._offset += sum(map(len, lines))
        self._lines += len(lines)
        return events


class Ledger:
    """The one writer. It holds a lock on the file for as long as it is open."""

    def __init__(self, path: Path, patience_seconds: float = 0.0) -> None:
        """Open for appending; a torn last line is cut off.

        Raises `LedgerError` if another writer does not let go of it within `patience_seconds`: the coordinator of a
        driver that was killed needs a few seconds to notice.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise LedgerError(f"cannot write {path}: {error.strerror}", _WHERE) from error
        deadline = time.monotonic() + patience_seconds
        while not self._locked():
            if time.monotonic() >= deadline:
                os.close(self._fd)
                raise LedgerError(f"{path} is being written by another process", "wait for it to end")
            time.sleep(0.1)
        self._size = self._cut_torn_line()

    @classmethod
    def create(cls, path: Path, events: Sequence[Event]) -> None:
        """A new ledger with its first line, there whole or not at all."""
        new = path.with_suffix(".new")
        new.write_bytes(encode(events) + b"\n")
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.rename(path)

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _cut_torn_line(self) -> int:
        size = os.fstat(self._fd).st_size
        end, piece = size, 1 << 16
        while end > 0:
            start = max(0, end - piece)
            found = os.pread(self._fd, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
        return end

    def append(self, events: Sequence[Event]) -> None:
        """Write one line and wait until it is on the disk. A failed write leaves nothing, and may be repeated."""
        line = encode(events) + b"\n"
        try:
            os.ftruncate(self._fd, self._size)  # should an earlier failure have left half a line
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise LedgerError(
                f"cannot write {self.path}: {error.strerror}", "make room on the disk, then run the same command again"
            ) from error
        self._size += len(line)

    def close(self) -> None:
        """Let another writer have it. Closing twice is closing once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
