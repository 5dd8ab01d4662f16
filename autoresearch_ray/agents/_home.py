"""Where a tool keeps what it remembers: in a home of the lane's own, where its login is only a key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autoresearch_ray.room import furnish
from autoresearch_ray.sandbox import home, tools

KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # for an endpoint that asks for none: clients refuse to start without one


def own_home(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that lead to a home below `folder`, which is made.

    In it is nothing of the user's but programs: one that stands in ~/.pyenv or ~/.volta looks for itself by HOME.
    Lanes share nothing: of four starts of opencode at once in one fresh home, one broke its database. Raises `OSError`.
    """
    place, house = folder / "home", home(environ)
    place.mkdir(parents=True, exist_ok=True)
    furnish(place, house, tools(environ, house))
    xdg = {"CONFIG": ".config", "DATA": ".local/share", "STATE": ".local/state", "CACHE": ".cache"}
    return {"HOME": str(place)} | {f"XDG_{name}_HOME": str(place / path) for name, path in xdg.items()}
