"""What the log of an evaluation says: numbers by their names, and why it crashed."""

from __future__ import annotations

import io
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray.model import Failure, FailureKind

_NUMBER = re.compile(
    r"(?<![\w.,])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?|(?:nan|inf(?:inity)?)\b)"
    r"(?!,\d)",  # "0,25" is no number that we dare to read
    re.IGNORECASE,
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SUFFIX = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_OUT_OF_MEMORY = re.compile(
    rb"CUDA out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|RESOURCE_EXHAUSTED: Out of mem"
)
_SICK = re.compile(
    rb"GPU is lost|has fallen off the bus|uncorrectable ECC error|all CUDA-capable devices are busy or unavailable"
    rb"|CUDA_ERROR_(?:NO_DEVICE|SYSTEM_NOT_READY|ECC_UNCORRECTABLE)|No space left on device"
)


@dataclass(slots=True)
class Found:
    """What was found in a log: the text of the last match, and the number of lines that have one."""

    text: str = ""
    lines: int = 0


def named(log: Path, names: Sequence[str]) -> dict[str, Found]:
    """What the lines "<name>: <number>" of a log say for each of the names, in one pass. Raises `OSError`."""
    found = {name: Found() for name in names}
    longest_first = sorted(names, key=len, reverse=True)  # "loss: dev" is not "loss"
    pattern = re.compile(rf"\s*({'|'.join(map(re.escape, longest_first))})\s*[:=]\s*(\S+)")
    for line in _lines(log):
        if match := pattern.match(line):
            found[match[1]].text = match[2]
            found[match[1]].lines += 1
    return found


def matched(log: Path, pattern: str) -> Found:
    """What a pattern finds in the lines of a log: its first group, or else the whole match. Raises `OSError`."""
    found = Found()
    for line in _lines(log):
        match = None
        for match in re.finditer(pattern, line):
            found.text = match[1 if match.re.groups else 0] or ""
        found.lines += match is not None
    return found


def _lines(log: Path) -> Iterator[str]:
    """The lines of a log, each state of a progress bar as one of them; of a very long one its beginning."""
    with io.TextIOWrapper(process.opened(log), encoding="utf-8", errors="replace") as file:
        for line in file:
            yield _COLOURS.sub("", line[:10_000])


def number(text: str, metric: str) -> float | None:
    """The number that `text` holds: behind "<metric>:" if that is there, else the first. "1.09k" is 1090."""
    text = _COLOURS.sub("", text)
    _, found, behind = text.rpartition(metric)
    for piece in ([behind.lstrip(" \t:=,")] if found else []) + [text]:
        match = _NUMBER.search(piece)
        if match:
            factor = _SUFFIX.get(piece[match.end() : match.end() + 1], 1.0)
            lone = not piece[match.end() + 1 : match.end() + 2].isalnum()
            return float(match[0].replace(",", "").replace("_", "")) * (factor if lone else 1.0)
    return None


def crash(ended: process.Exit, log: Path, tail: str) -> Failure:
    """Out of memory and a sick machine are told apart from other crashes, by the end of the log and by the kernel."""
    with process.opened(log) as file:
        file.seek(max(0, log.stat().st_size - (1 << 18)))
        end = file.read()
    code = ended.code or 0
    number = -code if code < 0 else code - 128  # a shell, and a sandbox, tells of a signal in its exit status
    how = f"ended by signal {number}" if number in signal.valid_signals() else f"exit status {code}"
    if ended.oom_killed:
        return Failure(FailureKind.OOM, "killed by the kernel for memory", tail)
    if _OUT_OF_MEMORY.search(end):
        return Failure(FailureKind.OOM, "out of GPU memory", tail)
    sick = _SICK.search(end)
    if sick:
        return Failure(FailureKind.MACHINE, sick[0].decode(errors="replace"), tail)
    return Failure(FailureKind.CRASH, how, tail)
