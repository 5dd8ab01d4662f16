"""A room of its own for each command that is not trusted: a home, a temporary folder and caches, made for it alone.

The home holds nothing but links to what is kept (`Keep:`) and to programs that lie in the user's own. It is the same
with a sandbox and without one, so that a program which works in the one works in the other.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from autoresearch_ray import tree as trees
from autoresearch_ray.caches import Caches
from autoresearch_ray.errors import SetupError


def furnish(folder: Path, home: Path, shown: Iterable[Path], caches: Caches) -> dict[str, str]:
    """Make `folder` a room, whatever stood there: the variables that lead into it. Raises `OSError`.

    What is `shown` of the user's `home` is linked at the same place in the new one. `folder`/var is for what asks for
    /tmp by name, and is used by a sandbox alone.
    """
    trees.empty(folder)
    for name in ("tmp", "var", "home"):
        (folder / name).mkdir()
    below = sorted(each.relative_to(home) for each in shown if each.is_relative_to(home))
    for path in below:
        if not any(parent in path.parents for parent in below):
            link(folder / "home" / path, home / path)
    return {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home"), **caches.copy(folder / "caches")}


def link(place: Path, source: Path) -> None:
    """A link to `source` at `place`, unless something stands there. Raises `OSError`."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)


def kept(paths: Iterable[str], home: Path, beside: Iterable[Path]) -> Mapping[str, Path]:
    """Where each path of `Keep:` lies: from ~ in `home`, relative ones in the first of `beside` that has it.

    Raises `SetupError` where one is not there.
    """
    found = {}
    for path in paths:
        # An absolute path joined to a folder is that path.
        places = [home / path[2:]] if path.startswith("~/") else [folder / path for folder in beside]
        there = next((each for each in places if each.exists()), None)
        if there is None:
            raise SetupError(
                f"what is to be kept is not on {socket.gethostname()}: {path}",
                "make it there, or in `Setup:`, or take it out of `Keep:`",
            )
        found[path] = there
    return found
