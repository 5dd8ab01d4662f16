"""Which processes belong to an experiment, asked of /proc for one pid at a time.

Climbing from the few processes on a GPU costs some reads; walking all of /proc down costs thousands on a large node.
"""

from __future__ import annotations

from pathlib import Path

from autoresearch_ray.process import RUN


def exists(pid: int) -> bool:
    """Whether this machine (this container) knows the process."""
    return Path(f"/proc/{pid}").exists()


def name(pid: int) -> str:
    """The process's own short name, such as "python"; "" if it is not known here."""
    return _read(pid, "comm").decode(errors="replace").strip()


class Tree:
    """The followed process and its descendants, also those that detached: they carry the tag of `process.run`."""

    def __init__(self) -> None:
        self._root = 0
        self._tag = b""
        self._members: set[int] = set()

    def follow(self, pid: int) -> None:
        self._root = pid
        self._members.add(pid)

    def __contains__(self, pid: int) -> bool:
        line: list[int] = []
        while pid > 1 and pid not in self._members and not self._tagged(pid):
            line.append(pid)
            pid = _parent(pid)
        if pid <= 1:
            return False
        self._members.update(line, (pid,))
        return True

    def _tagged(self, pid: int) -> bool:
        if not self._tag and self._root:
            self._tag = _tag(self._root)
        return bool(self._tag) and _tag(pid) == self._tag


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _tag(pid: int) -> bytes:
    entries = _read(pid, "environ").split(b"\0")
    return next((each for each in entries if each.startswith(f"{RUN}=".encode())), b"")


def _read(pid: int, name: str) -> bytes:
    """A file of a process, empty when the process is gone or is not ours to read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
