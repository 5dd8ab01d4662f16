"""What the project claims of its speed, as commands: `python -m benchmarks.overhead`, `.start` and `.board`.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("autoresearch-ray"))
PROGRAM = """\
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
FILES, FILE_BYTES = 100, 4096  # of the repository: about what a small research project has


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a benchmark's table; without a target it is told and not judged."""

    name: str
    seconds: float
    target_seconds: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target_seconds is None else self.seconds < self.target_seconds


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


def conclude(benchmark: str, where: dict[str, object], rows: Sequence[Row], as_json: bool) -> None:
    """Print the table, or one JSON document, and exit with 1 where a target is missed. `where` is from before."""
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    met = all(each.met is not False for each in rows)
    if as_json:
        table = [asdict(each) | {"met": each.met} for each in rows]
        print(json.dumps({"benchmark": benchmark, "date": date, "machine": where, "met": met, "rows": table}))
    else:
        print(
            f"{benchmark}, {date}\n{where['cores']} cores of {where['cpu']}, Python {where['python']},"
            f" Ray {where['ray']}, load {where['load']} before"
        )
        width = max(len(each.name) for each in rows)
        for each in rows:
            judged = "" if each.met is None else f"  < {each.target_seconds:g} s  {'ok' if each.met else 'MISSED'}"
            print(f"  {each.name:<{width}}  {each.seconds:8.3f} s{judged}")
    sys.exit(not met)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all that a benchmark makes. Ray's sockets lie in it and need a short path."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("RAY_TMPDIR")) as folder:
        yield Path(folder).resolve()


def environ(folder: Path) -> dict[str, str]:
    """The environment of the measured commands: as installed, with compiled modules, and below `folder`."""
    mine = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS")}
    return mine | {
        "TMPDIR": str(folder),
        "RAY_TMPDIR": str(folder),
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


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
    (repository / "changes").mkdir(parents=True)
    (repository / "changes" / "first.py").write_text("x = 0\n")
    for number in range(FILES):
        (repository / f"file{number:03}.py").write_text(f"# {number:04}\n" * (FILE_BYTES // 7))
    program = PROGRAM.format(script=scripts, options=options, command=command)
    (repository / "program.md").write_text(program)
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for step in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *step], cwd=repository, check=True)
    return repository
