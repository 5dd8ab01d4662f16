"""The sandbox: what a command may see of the machine, as an argument list for bubblewrap (`bwrap`).

Inside, the whole system is there to read. Empty are the folders in which others leave things: homes, temporary
folders, /run with its sockets, the repository of program.md. In these, what a command needs is put back, read-only;
what it may write is its tree and folders made for it alone. It sees no process but its own, and no network but a
loopback of its own.

bubblewrap needs user namespaces or root. As root every capability is dropped, and /proc/sys, which the user 0 may write
to without any (bubblewrap 0.8 leaves it open: a candidate could set `core_pattern` of the whole machine), is read-only.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.errors import AgentError, SetupError

_WALLS = (
    *("--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL", "--die-with-parent"),
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
)
_SETTINGS = ("/proc/sys", "/proc/sysrq-trigger")
_DEVICES = ("nvidia*", "dri", "kfd", "dxg")  # NVIDIA, AMD and Intel, AMD's compute, and WSL
_TEMPORARY = ("/tmp", "/var/tmp")
_SHARED = (*_TEMPORARY, "/run", "/home", "/root")
_RESOLVER = Path("/etc/resolv.conf")  # a link into /run on many systems
_NEEDED = ("/run/opengl-driver",)  # where NixOS keeps the libraries of the GPU's driver
_OF_LOCAL = ("bin", "lib", "share/uv", "share/pipx", "pipx")  # programs and libraries below ~/.local
_MPS = "/tmp/nvidia-mps"
_HINT = (
    "install bubblewrap (apt-get install bubblewrap) and allow user namespaces (a container: its seccomp profile;"
    " Ubuntu 24.04: kernel.apparmor_restrict_unprivileged_userns), or run without: --sandbox none"
)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The walls round one command, over which other commands differ by `replace`."""

    bwrap: str  # the program
    hidden: tuple[Path, ...] = ()  # folders that are empty inside
    read: tuple[Path, ...] = ()  # what of these is there all the same
    write: tuple[Path, ...] = ()  # what can be written, and is really there
    temporary: Path | None = None  # the folder that is /tmp and /var/tmp inside; without it they lie in memory
    network: bool = False
    devices: bool = True  # the GPUs

    def argv(self, command: str | Sequence[str], cwd: Path) -> list[str]:
        """The command, a string for the shell or a program and its arguments, inside the walls and in `cwd`."""
        mounts: dict[Path, tuple[str, ...]] = {}  # what lies deeper is mounted later, and what comes later here counts
        for folder in self.hidden:
            on_disk = self.temporary and str(folder) in _TEMPORARY
            mounts[folder] = ("--bind", str(self.temporary)) if on_disk else ("--tmpfs",)
        for path in (*self.read, *within([_RESOLVER] if self.network else [], self.hidden)):
            mounts[path] = _read(path)
        for path in self.write:
            mounts[path] = _write(path)
        words = [self.bwrap, *_WALLS, *([] if self.network else ["--unshare-net"])]
        for each in _SETTINGS:
            words += ["--ro-bind-try", each, each]
        for path in devices() if self.devices else ():
            words += ["--dev-bind-try", str(path), str(path)]
        for path in sorted(mounts, key=lambda each: len(each.parts)):
            above = next((each for each in path.parents if each in mounts), None)
            known = above is not None and mounts[above] == _read(above) and mounts[path] == _read(path)
            if not known:  # what lies in a folder that is there to read is there with it
                words += [*mounts[path], str(path)]
        words += ["--chdir", str(cwd), "--"]
        return [*words, "/bin/sh", "-c", command] if isinstance(command, str) else [*words, *command]


def _read(path: Path) -> tuple[str, str]:
    return "--ro-bind-try", str(path)


def _write(path: Path) -> tuple[str, str]:
    return "--bind", str(path)


def devices() -> list[Path]:
    """The nodes of the GPUs of this machine, all of them: which one is used is said by CUDA_VISIBLE_DEVICES."""
    return sorted(path for pattern in _DEVICES for path in Path("/dev").glob(pattern))


def sandbox(mode: str, environ: Mapping[str, str], checkout: Path | None) -> tuple[Sandbox | None, str]:
    """The walls that this machine can give, and what is to be said of them: "bwrap", or "none: " and why.

    `mode` is that of `Options.sandbox`; `checkout` is where the user's own files lie. It is tried, with the very
    arguments of an evaluation. Raises `SetupError` if it must be bwrap and that does not work here.
    """
    if mode == "none":
        return None, "none"
    fault = ""
    bwrap = shutil.which("bwrap", path=environ.get("PATH", os.defpath))
    if bwrap is None:
        fault = "bubblewrap is not installed"
    elif "CUDA_MPS_PIPE_DIRECTORY" in environ or Path(_MPS).exists():
        fault = "CUDA MPS, which is running, is out of reach in a sandbox"
    else:
        walls = Sandbox(bwrap, hidden=_hidden(environ, checkout))
        fault = _fault(walls)
        if not fault:
            return walls, "bwrap"
    if mode == "bwrap":
        raise SetupError(f"there is no sandbox: {fault}", _HINT)
    return None, f"none: {fault}"


def _fault(walls: Sandbox) -> str:
    """Why these walls cannot be had here, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        tree, temporary = Path(folder).resolve() / "tree", Path(folder).resolve() / "tmp"
        tree.mkdir()
        temporary.mkdir()
        read = within(tools({}, home(os.environ)), walls.hidden)
        trial = replace(walls, read=read, write=(tree,), temporary=temporary)
        argv = trial.argv("echo here > it", tree)
        try:
            done = process.call(argv, environ={"PATH": os.defpath}, timeout_seconds=20)
        except OSError as error:
            return f"bwrap does not work here: {error}"
        if done.code == 0 and (tree / "it").exists():
            return ""
        said = done.err.strip().splitlines()
        return f"bwrap does not work here: {said[-1] if said else f'it ended with {done.code}'}"


def _hidden(environ: Mapping[str, str], checkout: Path | None) -> tuple[Path, ...]:
    """The folders to be empty: those that exist, in their real places, and none that the system itself lies in."""
    others = [Path(tempfile.gettempdir()), home(environ), *([checkout] if checkout else [])]
    found = dict.fromkeys(each.resolve() for each in [*map(Path, _SHARED), *others])
    return tuple(each for each in found if each.is_dir() and not Path("/usr").is_relative_to(each))


# --- Agents ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentWalls:
    """`ports.Walls` for one lane: the machine to read, its own places to write, the network, and no GPU."""

    walls: Sandbox
    tree: Path  # which the agent edits
    state: Path  # its own folder, kept from proposal to proposal
    objects: Path  # which the .git of the tree refers to
    program_folder: Path | None
    home: Path
    more: tuple[str, ...]  # `Options.agent_home`
    environ: Mapping[str, str]

    def around(self, command: str | Sequence[str], cwd: Path, home: Sequence[str] | None) -> list[str]:
        """See `ports.Walls`. /tmp is empty each time. Raises `AgentError` where a folder of `agent_home` is missing."""
        temporary = self.tree.with_name("agent.tmp")
        trees.empty(temporary)
        more = [self.home / each.removeprefix("~/") for each in self.more]
        if missing := next((each for each in more if not each.exists()), None):
            raise AgentError(f"agent_home: there is no {missing}", "start the agent once by hand, or make that folder")
        read = [self.objects, *tools(self.environ, self.home)]
        if not isinstance(command, str):
            read += program(command[0], self.environ)
        runs = []
        if self.program_folder:
            runs = [self.program_folder / ".autoresearch"]
        if home is None:
            read += [self.home, *([self.program_folder] if self.program_folder else []), *_named(command)]
        else:
            more += [self.home / each for each in home if (self.home / each).exists()]
        hidden = (*self.walls.hidden, *(each.resolve() for each in runs))
        walls = replace(
            self.walls,
            hidden=hidden,
            read=within(read, hidden),
            write=(self.tree.resolve(), self.state.resolve(), *more),
            temporary=temporary,
            network=True,
            devices=False,
        )
        return walls.argv(command, cwd.resolve())


def _named(command: str | Sequence[str]) -> list[Path]:
    """The files that a command names by their full path, such as a script of the user's."""
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError:  # a quote that is never closed: the shell will say so
        return []
    return [Path(each) for each in words if each.startswith("/") and Path(each).is_file()]


# --- What is put back ------------------------------------------------------------------------------------------------


def home(environ: Mapping[str, str]) -> Path:
    """The user's own home. Raises `SetupError` where nothing says which it is."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:  # a container's user need not be in its list of users
        raise SetupError("this user has no home", "export HOME=/a/folder/that/is/yours") from error


def tools(environ: Mapping[str, str], home: Path) -> list[Path]:
    """Where programs and their libraries lie: this interpreter, an activated environment, what is on the PATH, what
    `environ` names by its full path (`HF_HOME`), and the parts of ~/.local that are made of programs.
    """
    found = [
        Path(sys.prefix),
        Path(sys.base_prefix),
        *map(Path, _NEEDED),
        *(home / ".local" / each for each in _OF_LOCAL),
    ]
    for folder in map(Path, environ.get("PATH", "").split(":")):
        found.append(_prefix(folder, home))
        found += [_prefix((folder / name).resolve().parent, home) for name in ("python3", "python", "node", "uv")]
    for name, value in environ.items():
        if name not in ("PATH", "HOME", "TMPDIR", "PWD", "OLDPWD"):
            found += [Path(each) for each in value.split(":") if each.startswith("/")]
    too_much = {home, home.parent, *map(Path, ("/", "/tmp", "/var/tmp", tempfile.gettempdir()))}
    return [each for each in dict.fromkeys(found) if each.is_absolute() and each not in too_much and each.exists()]


def program(name: str, environ: Mapping[str, str]) -> list[Path]:
    """Where a program on the PATH really lies, which may be far from there: a package of npm with all that it needs, or
    a folder such as ~/.local/share/claude/versions.
    """
    found = shutil.which(name, path=environ.get("PATH", os.defpath))
    if found is None:
        return []
    real = Path(found).resolve()
    packages = next((each for each in reversed(real.parents) if each.name == "node_modules"), None)
    return [packages or _prefix(real.parent, home(environ))]


def _prefix(folder: Path, home: Path) -> Path:
    """The environment that a folder of programs belongs to; ~/.local/bin belongs to none, nor does ~/.cargo/bin."""
    whole = folder.name in ("bin", "shims") and folder.parent not in (home, home / ".local")
    return folder.parent if whole and any((folder.parent / each).is_dir() for each in ("lib", "libexec")) else folder


def within(paths: Iterable[Path], folders: Sequence[Path]) -> tuple[Path, ...]:
    """Of `paths` those that lie in one of the folders; each where it is named, and where it really is."""
    places = dict.fromkeys(place for path in paths for place in (path.parent.resolve() / path.name, path.resolve()))
    return tuple(each for each in places if any(each.is_relative_to(folder) for folder in folders))
