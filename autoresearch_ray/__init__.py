"""Autoresearch on every GPU you have, with results you can believe in the morning.

    from autoresearch_ray import Program, research

    with research(Program.read("program.md"), workers=8, agent="claude", hours=8) as session:
        for experiment in session:
            print(experiment)
    print(session.best)

The names below are imported when they are first used: the package by itself costs no Ray and no git.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoresearch_ray.errors import AutoresearchError as AutoresearchError
    from autoresearch_ray.model import Brief as Brief
    from autoresearch_ray.model import Experiment as Experiment
    from autoresearch_ray.model import Options as Options
    from autoresearch_ray.model import Proposal as Proposal
    from autoresearch_ray.ports import AgentSetup as AgentSetup
    from autoresearch_ray.session import Program as Program
    from autoresearch_ray.session import Session as Session
    from autoresearch_ray.session import research as research
    from autoresearch_ray.session import resume as resume

_ROOMS = {
    "AgentSetup": "ports",
    "AutoresearchError": "errors",
    "Brief": "model",
    "Experiment": "model",
    "Options": "model",
    "Program": "session",
    "Proposal": "model",
    "Session": "session",
    "research": "session",
    "resume": "session",
}

__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"autoresearch_ray.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
