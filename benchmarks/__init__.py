"""What the project claims of its speed, as commands: `python -m benchmarks.overhead`, `.start`, `.board` and `.busy`.

Each prints what it measured, what is claimed, and on which machine; it exits with 1 where a claim is missed. They need
no GPU and leave nothing behind.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import click

_COMMAND = str(Path(sys.executable).with_name("autoresearch-ray"))
_PROGRAM = """\
---
tag: bench
agent: scripted
agent_command: {script}
gpus_per_worker: 0
lanes: 1
{options}
---
# Autoresearch: a benchmark
## Scope
- Files you CAN modify: changes/
## Eval
Command: `{command}`
Metric: `loss` (lower is better)
Time budget: 60 seconds
"""
_NOT_MINE = ("PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS")  # they change what is measured
_FILES, _FILE_BYTES = 100, 4096  # of the repository that is checked out twice for every experiment


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a benchmark's table; without a target it is told and not judged."""

    name: str
    seconds: float
    target_seconds: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target_seconds is None else self.seconds < self.target_seconds

    @property
    def cells(self) -> tuple[str, ...]:
        judged = () if self.met is None else (f"< {self.target_seconds:g} s", "ok" if self.met else "MISSED")
        return (self.name, f"{self.seconds:8.3f} s", *judged)


class Line(Protocol):
    """What `conclude` prints of a table's line: a dataclass, such as `Row`, that says whether its target is met."""

    @property
    def met(self) -> bool | None: ...
    @property
    def cells(self) -> tuple[str, ...]:
        """As it is shown: a table of text is aligned to the left, so numbers come with their padding."""


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": next((each.partition(":")[2].strip() for each in lines if each.startswith("model name")), "unknown"),
        "python": platform.python_version(),
        "ray": metadata.version("ray"),
        "load": round(os.getloadavg()[0], 2),
    }


def conclude(
    benchmark: str, where: dict[str, object], rows: Sequence[Line], as_json: bool, heads: Sequence[str] = ()
) -> None:
    """Print the table under its `heads`, or one JSON document, and exit with 1 where a target is missed.

    `where` is what `machine` said before the benchmark began, so that its load is that of others.
    """
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    met = all(each.met is not False for each in rows)
    if as_json:
        fields: Sequence[Any] = rows
        table = [asdict(each) | {"met": each.met} for each in fields]
        print(json.dumps({"benchmark": benchmark, "date": date, "machine": where, "met": met, "rows": table}))
    else:
        print(
            f"{benchmark}, {date}\n{where['cores']} cores of {where['cpu']}, Python {where['python']},"
            f" Ray {where['ray']}, load {where['load']} before"
        )
        lines = [heads, *(each.cells for each in rows)] if heads else [each.cells for each in rows]
        widths = [max(map(len, column)) for column in zip_longest(*lines, fillvalue="")]
        for cells in lines:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip())
    sys.exit(0 if met else 1)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all that a benchmark makes. Ray's sockets lie in it and need a short path."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("RAY_TMPDIR")) as folder:
        yield Path(folder).resolve()


def call(folder: Path, cwd: Path, *arguments: str) -> float:
    """Run `autoresearch-ray` in `cwd`, as installed: with compiled modules. Its traces go into `folder`.

    Returns its seconds. Raises `click.ClickException` with what it said, if it fails.
    """
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_MINE} | {
        "TMPDIR": str(folder),
        "RAY_TMPDIR": str(folder),
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }
    begun = time.monotonic()
    done = subprocess.run(
        [_COMMAND, *arguments], cwd=cwd, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    seconds = time.monotonic() - begun
    if done.returncode:
        raise click.ClickException(f"autoresearch-ray {arguments[0]} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def project(folder: Path, command: str, options: str, lanes: Sequence[str], proposals: int) -> Path:
    """A git repository to run in, with a program.md that measures with `command`, and a script for each lane's agent.

    Every proposal adds a small file of its own, so that it fits on whatever commit a lane stands.
    """
    scripts, repository = folder / "scripts", folder / "project"
    scripts.mkdir(parents=True)
    for lane in lanes:
        lines = (
            {
                "idea": f"change {number}",
                "edits": [{"file": f"changes/{lane}-{number}.py", "old": "", "new": "x = 1\n"}],
            }
            for number in range(proposals)
        )
        (scripts / f"{lane}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    program = _PROGRAM.format(script=scripts, options=options, command=command)
    return committed(repository, program, {"changes/first.py": "x = 0\n"})


def committed(repository: Path, program: str, files: Mapping[str, str]) -> Path:
    """A git repository with this program.md, these files, and a hundred more that nothing changes."""
    for name, text in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    for number in range(_FILES):
        (repository / f"file{number:03}.py").write_text(f"# {number:04}\n" * (_FILE_BYTES // 7))
    (repository / "program.md").write_text(program)
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for step in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *step], cwd=repository, env={**os.environ, **plain}, check=True)
    return repository
