"""The logs of a lane's experiments as they travel with a hand-in: the end of each, that of two rounds in one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees

MOST_BYTES = 1 << 20  # of a log that travel with a hand-in; its end is what people read


def end(log: Path, most_bytes: int = MOST_BYTES) -> bytes | None:
    """The last bytes of a log; None if there is none, or what ran beside it has replaced it by something else."""
    with suppress(OSError), process.opened(log) as file:
        file.seek(max(0, log.stat().st_size - most_bytes))
        return file.read()
    return None


def taken(logs: Iterable[Path]) -> dict[str, bytes]:
    """The ends of those logs that there are, by file name; handed over, they are deleted here. Raises `OSError`."""
    ends = {}
    for log in logs:
        if (found := end(log)) is not None:
            ends[log.name] = found
        trees.remove(log)
    return ends


@contextmanager
def behind(log: Path, line: str) -> Iterator[None]:
    """What is written to `log` inside stands in the end behind what it holds now, with `line` between them.

    Of each as much as travels with a hand-in when they share it. Raises `OSError` if it cannot be written.
    """
    before, between = end(log, MOST_BYTES // 2) or b"", f"\n--- {line} ---\n".encode()
    trees.remove(log)
    yield
    after = end(log, MOST_BYTES - len(before) - len(between)) or b""
    trees.remove(log)
    log.write_bytes(before + between + after)
