"""Reading what tools report of themselves: lines of JSON, some of them cut, and numbers that may be missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoresearch_ray import process

_LARGEST = 1e18  # JSON has integers without an end, and floats cannot hold them
_NO_JSON = (ValueError, RecursionError)  # the latter of what is nested 1,000 deep
_REPORT_BYTES = 32 << 20  # of a file that a tool wrote; what is larger is as good as not there


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The lines of `text` that are JSON objects; others are passed over, such as one cut by the cap of the log."""
    for line in text.splitlines():
        if line.startswith("{"):
            with suppress(*_NO_JSON):
                yield json.loads(line)


def result(text: str) -> dict[str, Any] | None:
    """The object of the type `result`: a line of its own or, where a user's settings ask for all events, in a list."""
    for line in reversed(text.splitlines()):
        with suppress(*_NO_JSON):
            value = json.loads(line)
            for each in reversed(value if isinstance(value, list) else [value]):
                if isinstance(each, dict) and each.get("type") == "result":
                    return each
    return None


def report(path: Path) -> str:
    """What a tool wrote to `path`, or "": the model that it works for may have put something else there."""
    with suppress(OSError), process.opened(path) as file:
        text = file.read(_REPORT_BYTES + 1)
        return "" if len(text) > _REPORT_BYTES else text.decode(errors="replace")
    return ""


def tokens(values: Iterable[object]) -> int | None:
    """The sum of those that are counts; None where there is none."""
    counts = _numbers(values)
    return int(sum(counts)) if counts else None


def dollars(values: Iterable[object]) -> float | None:
    """The sum of those that are amounts; None where that is 0: so tools write what they have no price for."""
    return float(sum(_numbers(values))) or None


def _numbers(values: Iterable[object]) -> list[int | float]:
    numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    return [each for each in numbers if 0 <= each <= _LARGEST]
