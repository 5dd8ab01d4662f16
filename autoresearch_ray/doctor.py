"""What works on this machine, and whether a program could run on it: each finding with what to do about it.

Nothing is started and nothing is written. Whether a run could start is asked of the session itself (`Session.check`),
so that it and the doctor cannot differ.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from autoresearch_ray import bare, seating
from autoresearch_ray.errors import AutoresearchError, ClusterError, GpuError, SetupError
from autoresearch_ray.model import Options
from autoresearch_ray.ports import named, names
from autoresearch_ray.room import allowed
from autoresearch_ray.sandbox import sandbox
from autoresearch_ray.session import ROOM_BYTES, Program, Session

GIT = (2, 31)  # the oldest that has all the options that we use
EXTRAS = {"matplotlib": "plot", "optuna": "knobs", "openai": "llm", "mcp": "mcp"}  # by package, the extra that has it
_GB = 1 << 30

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `fail`: a run could not start; `warn`: it could, but not with all that there is."""

    name: str
    state: State
    words: str
    hint: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


def checks(program: Path, environ: Mapping[str, str]) -> list[Check]:
    """All findings for a run of `program`; where there is no such file, for the machine alone. Takes a few seconds."""
    session, read = _session(program, environ)
    options = session.program.options if session else Options()
    folder = (session.folder if session else program.absolute()).parent
    here = next(each for each in (folder, *folder.parents) if each.is_dir())
    return [
        Check("python", "ok", platform.python_version()),
        _found("git", lambda: _git(here)),
        _found("ray", _ray, "warn" if options.backend == "local" else "fail"),
        _gpus(options, environ, "fail" if session and options.address is None else "warn"),
        _sandbox(options, environ, here),
        _found("disk", lambda: _disk(here, options), "warn"),
        _found("temporary", _temporary),
        _agents(options, environ),
        _extras(),
        read,
        *([_run(session)] if session else []),
    ]


def _found(name: str, look: Callable[[], str], otherwise: State = "fail") -> Check:
    """What `look` says, or the error that it raises."""
    try:
        return Check(name, "ok", look())
    except AutoresearchError as error:
        return Check(name, otherwise, error.message, error.hint)


# --- The program -----------------------------------------------------------------------------------------------------


def _session(program: Path, environ: Mapping[str, str]) -> tuple[Session | None, Check]:
    """The run that would be, and what is to be said of its program."""
    if not (program / "program.md" if program.is_dir() else program).exists():
        asked: State = "warn" if program == Path("program.md") else "fail"  # whoever names a file means that one
        return None, Check("program", asked, f"there is no {program}", "`autoresearch-ray init` writes one")
    try:
        session = Session(Program.read(program), environ)
    except AutoresearchError as error:
        return None, Check("program", "fail", str(error).partition("\n")[0], error.hint)
    metric = session.program.eval.metric
    title = session.program.title or str(program)
    return session, Check("program", "ok", f"{title}: {metric.name}, {metric.direction} is better")


def _run(session: Session) -> Check:
    """Whether it could start, and what it would warn of."""
    at = session.program.options.address
    words = f"{session.tag} could start{f'; the cluster at {at} was not asked' if at else ''}"

    def look() -> str:
        session.check()
        return words

    found = _found("run", look)
    if found.state == "ok" and session.warnings:
        return Check("run", "warn", f"{words}, and would warn: {'; '.join(session.warnings)}")
    return found


# --- The machine -----------------------------------------------------------------------------------------------------


def _git(here: Path) -> str:
    said = bare.git("--version", folder=here).decode().strip()
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < GIT:
        raise SetupError(f"{said} is too old", f"install git {GIT[0]}.{GIT[1]} or newer")
    return said


def _ray() -> str:
    try:
        import_module("autoresearch_ray.actors")  # which imports Ray
    except ImportError as error:
        raise ClusterError(
            f"Ray does not import: {error}", "pip install --force-reinstall ray, or --backend local"
        ) from error
    return f"Ray {metadata.version('ray')}"


def _gpus(options: Options, environ: Mapping[str, str], otherwise: State) -> Check:
    """The GPUs that NVML shows, and whether there is room on them for what the program asks."""
    try:
        gpus = named("monitors", "nvml").ids()
        kinds = Counter(named("monitors", "nvml")((each,)).device_class for each in gpus)
    except GpuError as error:
        if not options.gpus_per_worker:
            return Check("gpus", "ok", f"none is asked for ({error.message})")
        return Check("gpus", otherwise, error.message, error.hint)
    words = ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "there is none"
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    seen = len(gpus) if visible is None else len(list(filter(None, visible.split(","))))
    asked = options.gpus_per_worker
    workers = 1 if options.workers == "auto" else options.workers
    if asked and seating.room(seen, asked) < workers:
        hint = "fewer --workers, or --gpus-per-worker 0 for the CPU; CUDA_VISIBLE_DEVICES counts, too"
        return Check("gpus", otherwise, f"{words}: no room for {workers} with {asked:g} each", hint)
    return Check("gpus", "ok", words)


def _sandbox(options: Options, environ: Mapping[str, str], here: Path) -> Check:
    try:
        said = sandbox(options.sandbox, environ, here)[1]
    except SetupError as error:
        return Check("sandbox", "fail", error.message, error.hint)
    if said.startswith("none: "):
        hint = "evaluations and agents then see the whole machine; SECURITY.md says what that means"
        return Check("sandbox", "warn", said, hint)
    return Check("sandbox", "ok", said)


def _disk(here: Path, options: Options) -> str:
    free = shutil.disk_usage(here).free
    if free < ROOM_BYTES or free < options.disk_gb * _GB:
        raise SetupError(
            f"{free / _GB:.1f} GB free in {here}, and one evaluation may write {options.disk_gb:g}",
            "make room, or say what it really writes: --disk-gb",
        )
    return f"{free / _GB:.0f} GB free in {here}"


def _temporary() -> str:
    place = Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        raise SetupError(f"nothing can be written in {place}: {error.strerror}", "make room, or set TMPDIR") from error
    return f"{shutil.disk_usage(place).free / _GB:.0f} GB free in {place}"


def _agents(options: Options, environ: Mapping[str, str]) -> Check:
    """Which agents could propose here: each is asked itself. The program's own is asked by the session as well."""
    seen = allowed(environ, (*options.env, *options.secrets))
    details = {}
    for name in names("agents"):
        try:
            named("agents", name).check(options, seen)
            details[name] = "ready"
        except AutoresearchError as error:
            details[name] = f"{error.message}: {error.hint}"
    ready = [name for name, said in details.items() if said == "ready"]
    return Check("agents", "ok", f"ready: {', '.join(ready)}", details=details)


def _extras() -> Check:
    missing = [extra for package, extra in EXTRAS.items() if importlib.util.find_spec(package) is None]
    if missing:
        hint = f'pip install "autoresearch-ray[{",".join(missing)}]"'
        return Check("extras", "warn", f"not installed: {', '.join(missing)}", hint)
    return Check("extras", "ok", ", ".join(EXTRAS.values()))
