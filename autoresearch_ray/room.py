"""A room of its own for each command that is not trusted: a home, a temporary folder and caches, made for it alone.

The home holds nothing but links to what is kept (`Keep:`) and to programs that lie in the user's own. It is the same
with a sandbox and without one, so that a program which works in the one works in the other.
"""

from __future__ import annotations

import posixpath
import re
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_ray import tree as trees
from autoresearch_ray.caches import Caches
from autoresearch_ray.errors import SetupError
from autoresearch_ray.ports import Welcome
from autoresearch_ray.sandbox import Sandbox, home, tools, within

_ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|XDG_CACHE_HOME|CC|CXX|TERM"
    r"|CUDA_(?!VISIBLE_DEVICES)\w+|NVIDIA_\w+|NCCL_\w+|TORCH\w*_(?:HOME|CACHE_DIR)|TRITON_CACHE_DIR|HF_(?!TOKEN)\w+|UV_\w+"
    r"|AUTORESEARCH_DATA"
)
_DATA = (".cache/autoresearch", ".cache/nanochat")  # where programs of this practice keep theirs, unless told otherwise
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL")


def allowed(environ: Mapping[str, str], names: tuple[str, ...] = ()) -> dict[str, str]:
    """The part of an environment that evaluations see; `names` are let through besides."""
    return {
        name: value
        for name, value in environ.items()
        if name in names or (_ALLOWED.fullmatch(name) and not _SECRET.search(name))
    }


@dataclass(frozen=True, slots=True)
class Inside:
    """What to start, where, with which environment, for how many seconds at most."""

    argv: str | Sequence[str]
    cwd: Path
    environ: Mapping[str, str]
    seconds: float
    write: tuple[Path, ...] = ()  # the folders that it may fill
    walled: bool = False


@dataclass(frozen=True, slots=True)
class Rooms:
    """Makes the rooms for the commands of one worker."""

    welcome: Welcome
    shared: Path  # one per node: what Setup made
    gpus: tuple[str, ...]
    cores: int
    environ: Mapping[str, str]  # of this machine
    walls: Sandbox | None

    @property
    def caches(self) -> Caches:
        return Caches(self.shared.parent / "caches")

    def check(self, tracked: Iterable[str]) -> None:
        """Raise `SetupError` where something that is to be kept is not there, or among the `tracked` files."""
        for name in self._kept():
            path = posixpath.join(self.welcome.prefix, name)
            if any(each == path or each.startswith(f"{path}/") for each in tracked):
                raise SetupError(f"Keep: {name} holds committed files", "keep what lies in it beside them, by its name")

    def link(self, tree: Path) -> None:
        """Link into a fresh tree what Setup made and what is kept, where no file of the commit stands. `OSError`."""
        here, done = tree / self.welcome.prefix, self.shared / "done"
        made = done.read_text().split("\n") if done.exists() else []
        places = {name: self._made / name for name in made if name}
        places |= {name: each for name, each in self._kept().items() if not name.startswith(("/", "~"))}
        for name, source in places.items():
            _link(here / name, source)

    def plain(self, command: str, tree: Path, own: Mapping[str, str]) -> Inside:
        """For a command of the program's author on files of the base: the user's home, a fresh TMPDIR, no walls."""
        temporary = tree.parent / f"{tree.name}.tmp"
        trees.empty(temporary)
        environ = {**self._environ(own), "TMPDIR": str(temporary)}
        return Inside(command, tree / self.welcome.prefix, environ, self.welcome.program.eval.kill_after_seconds)

    def enter(self, command: str, tree: Path, own: Mapping[str, str], *, at_home: bool = False) -> Inside:
        """For a command that runs a candidate's code in `tree`: a room beside the tree, and walls if there are any.

        With `at_home` the user's home is there to read: a holdout lies where other evaluations do not find it. Raises
        `OSError`.
        """
        options, folder, house = self.welcome.program.options, tree.parent / "private", home(self.environ)
        plain = self._environ(own)
        data = [house / each for each in _DATA if (house / each).exists()]
        shown = [self._made, *self._kept().values(), *data, *tools(plain, house)]
        ours = _furnish(folder, house, shown, self.caches)
        environ = plain | {name: value for name, value in ours.items() if name not in options.env}
        if at_home:
            environ["HOME"] = str(house)
            shown.append(house)
        cwd, write = tree / self.welcome.prefix, (tree.resolve(), folder.resolve())
        inside = Inside(command, cwd, environ, self.welcome.program.eval.kill_after_seconds, write)
        if self.walls is None:
            return inside
        if not options.network:  # what holds for the machine's network does not hold for a loopback
            environ |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), "lo")
        read = within(shown, self.walls.hidden)
        walls = replace(self.walls, read=read, write=write, temporary=write[1] / "var", network=options.network)
        return replace(inside, argv=walls.argv(command, cwd.resolve()), walled=True)

    # --- Inside ------------------------------------------------------------------------------------------------------

    @property
    def _made(self) -> Path:
        """Where Setup has run."""
        return self.shared / "tree" / self.welcome.prefix

    def _kept(self) -> Mapping[str, Path]:
        """Where each path of `Keep:` lies. Raises `SetupError` where one is not there."""
        beside = [self._made, *([Path(self.welcome.folder).parents[1]] if self.welcome.folder else [])]
        house, found = home(self.environ), {}
        for path in self.welcome.program.eval.keep:
            # An absolute path joined to a folder is that path.
            places = [house / path[2:]] if path.startswith("~/") else [folder / path for folder in beside]
            there = next((each for each in places if each.exists()), None)
            if there is None:
                raise SetupError(
                    f"what is to be kept is not on {socket.gethostname()}: {path}",
                    "make it there, or in `Setup:`, or take it out of `Keep:`",
                )
            found[path] = there
        return found

    def _environ(self, own: Mapping[str, str]) -> dict[str, str]:
        options = self.welcome.program.options
        environ = allowed(self.environ, options.env)
        for secret in options.secrets:
            environ.pop(secret, None)
        path = environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
        ours = str(Path(sys.executable).parent)  # first, unless the user has activated an environment of their own
        active = "VIRTUAL_ENV" in environ or "CONDA_PREFIX" in environ
        return {
            **environ,
            "PATH": f"{path}:{ours}" if active else f"{ours}:{path}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self.cores),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(self.gpus),
            "AUTORESEARCH_OWNER": self.environ.get("AUTORESEARCH_OWNER", ""),
            **own,
        }


def _furnish(folder: Path, home: Path, shown: Iterable[Path], caches: Caches) -> dict[str, str]:
    """Make `folder` a room, whatever stood there: the variables that lead into it. Raises `OSError`.

    What is `shown` of the user's `home` is linked at the same place in the new one. `folder`/var is for what asks for
    /tmp by name, and is used by a sandbox alone.
    """
    trees.empty(folder)
    for name in ("tmp", "var", "home"):
        (folder / name).mkdir()
    furnish(folder / "home", home, shown)
    return {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home"), **caches.copy(folder / "caches")}


def furnish(home: Path, house: Path, shown: Iterable[Path]) -> None:
    """Link what is `shown` of the user's `house` at the same place in `home`. Raises `OSError`."""
    below = {each.relative_to(house) for each in shown if each.is_relative_to(house)}
    for path in below:
        if below.isdisjoint(path.parents):
            _link(home / path, house / path)


def _link(place: Path, source: Path) -> None:
    if not place.exists() and not place.is_symlink():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
