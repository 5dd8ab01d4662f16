"""Agents' own programs for the tests, each in an environment of its own beside this one, in pinned versions.

    python -m tests.tools          installs what is missing; `make test` does it first

They are kept in `<environment>/agents/<name>` and go with it. Aider is 0.7 GB and takes 27 s of CPU, without being
compiled ahead, which took 16 s more: few of its files are ever imported. pi takes 10 s.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AIDER = "aider-chat==0.86.2"
PI = "@mariozechner/pi-coding-agent@0.73.1"

PLACE = Path(sys.prefix) / "agents"
_PYTHONS = ("python3.12", "python3.11", "python3.10")  # that version of aider runs on no newer one


class MissingError(Exception):
    """This machine lacks what a tool is made with."""


def installed(name: str) -> Path:
    """A folder for the PATH with the program `name`, which is installed if it is not. Raises `MissingError`."""
    folder, make = PLACE / name, {"aider": _aider, "pi": _pi}[name]
    wanted, done = {"aider": AIDER, "pi": PI}[name], PLACE / f"{name}.done"
    place = PLACE / "bin"  # with nothing else in it: a Python of an agent's must not be found first
    place.mkdir(parents=True, exist_ok=True)
    with (PLACE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes of tests may want it at once
        if not done.exists() or done.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            program = make(folder)
            (place / name).unlink(missing_ok=True)
            (place / name).symlink_to(program)
            done.write_text(wanted)
    return place


def _aider(folder: Path) -> Path:
    known = [sys.executable] if sys.version_info < (3, 13) else [*filter(None, map(shutil.which, _PYTHONS))]
    if not known:
        raise MissingError(f"{AIDER} needs one of {', '.join(_PYTHONS)}")
    _run(known[0], "-m", "venv", "--without-pip", str(folder))
    pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"))
    _run(*pip, "install", "--quiet", "--disable-pip-version-check", "--no-compile", AIDER)
    return folder / "bin" / "aider"


def _pi(folder: Path) -> Path:
    if shutil.which("npm") is None:
        raise MissingError(f"{PI} needs node and npm")
    _run("npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", PI)
    return folder / "node_modules" / ".bin" / "pi"


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _told(name: str) -> str:
    try:
        return f"{name}: {installed(name)}"
    except MissingError as error:
        return f"{name}: not here: {error}"


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:
        for said in pool.map(_told, ("aider", "pi")):
            print(said)
