"""No agent of its own: the lanes of the run measure what is submitted to it, and wait for more."""

from __future__ import annotations

import threading
from pathlib import Path

from autoresearch_ray.agents.none import NoAgent as _NoAgent
from autoresearch_ray.model import Brief, Proposal


class Submitted(_NoAgent):
    """For people and agents that bring their own changes: `autoresearch-ray submit`. It is never asked to propose."""

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        """Nothing: `orders` gives its lanes what was submitted, and lets them wait else."""
        log.write_text(f"{brief.id}: nobody proposes in this run\n", encoding="utf-8")
        return Proposal("", error="nobody proposes in this run")
