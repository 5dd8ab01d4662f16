"""The agent that changes nothing: for runs that only measure the baseline, its noise and the machines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from autoresearch_ray.model import Brief, Options, Proposal
from autoresearch_ray.ports import AgentSetup


class NoAgent:
    """Proposes no edit, ever; every attempt after the baseline is recorded as `no_change`."""

    reports = "free"

    def __init__(self, setup: AgentSetup) -> None:
        self.lane = setup.lane

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Always passes."""

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        """Leave `checkout` as it is."""
        log.write_text(f"{brief.id}: the agent `none` changes nothing\n", encoding="utf-8")
        return Proposal(idea="no change")
