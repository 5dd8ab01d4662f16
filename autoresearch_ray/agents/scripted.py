"""The agent that plays a script of edits: for tests, for replays of a known sequence, for demonstrations."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_ray.agents._state import recall, remember
from autoresearch_ray.brief import one_line
from autoresearch_ray.errors import AgentError
from autoresearch_ray.model import Brief, Options, Proposal, Trouble, TroubleKind
from autoresearch_ray.ports import AgentSetup


class Scripted:
    """Plays the script that `agent_command` names, a path on the machine of the lane: JSON lines, one proposal a line.

        {"idea": "a wider net", "edits": [{"file": "train.py", "old": "WIDTH = 64", "new": "WIDTH = 96"}]}

    `old` must stand exactly once in `file`; an empty `old` writes a new file. A line is applied whole or not at all.
    Blank lines and lines that start with `#` are skipped. If `agent_command` names a folder, each lane plays its own
    `<lane>.jsonl` in it; with a single file every lane plays all of it, from its first line. The place in the script is
    kept in the lane's own folder: a lane that comes back goes on where it was, and one experiment always gets one line.
    """

    reports = "free"

    def __init__(self, setup: AgentSetup) -> None:
        script = Path(setup.options.agent_command or "")
        self._script = script / f"{setup.lane}.jsonl" if script.is_dir() else script
        self._place = setup.folder / "script.json"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` unless `agent_command` names a file or a folder that exists."""
        if not options.agent_command:
            raise AgentError("the agent `scripted` has no script", "give it one with --agent-command FILE.jsonl")
        if not Path(options.agent_command).exists():
            raise AgentError(f"there is no script {options.agent_command}", "give a file of JSON lines, or a folder")

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        """Apply the next line of the script. A line that does not fit is `Proposal.error`, and is passed over."""
        try:
            lines = self._script.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            return self._noted(log, Proposal("", error=f"the script cannot be read: {error}"))
        lines = [each for each in lines if each.strip() and not each.lstrip().startswith("#")]
        place = self._next(brief.id)
        if place >= len(lines):
            return self._noted(log, Proposal("", error="the script has ended", trouble=Trouble(TroubleKind.NO_EDIT)))
        try:
            idea, written = _read(checkout, lines[place])
        except ValueError as error:
            words = f"line {place + 1} of the script: {error}"
            return self._noted(log, Proposal("", error=words, trouble=Trouble(TroubleKind.REJECTED)))
        for path, text in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        return self._noted(log, Proposal(idea))

    def _next(self, experiment: str) -> int:
        """Which line `experiment` gets, from 0."""
        place = recall(self._place, {"experiment": "", "line": -1})
        if place["experiment"] != experiment:
            place = {"experiment": experiment, "line": place["line"] + 1}
            remember(self._place, place)
        return int(place["line"])

    def _noted(self, log: Path, proposal: Proposal) -> Proposal:
        log.write_text(f"{self._script.name}: {proposal.error or proposal.idea}\n", encoding="utf-8")
        return proposal


def _read(checkout: Path, line: str) -> tuple[str, dict[Path, str]]:
    """The idea of a line of the script, and the files as they will be. Raises `ValueError` where it does not fit."""
    entry: Any = json.loads(line)
    match entry:
        case {"idea": str(idea), "edits": list(edits)}:
            pass
        case _:
            raise ValueError('expected {"idea": ..., "edits": [{"file": ..., "old": ..., "new": ...}]}')
    written: dict[Path, str] = {}
    root = checkout.resolve()
    for edit in edits:
        match edit:
            case {"file": str(name), "old": str(old), "new": str(new)}:
                path = (root / name).resolve()
            case _:
                raise ValueError('an edit is {"file": ..., "old": ..., "new": ...}')
        if not path.is_relative_to(root):
            raise ValueError(f"{name} is outside the checkout")
        text = written[path] if path in written else path.read_bytes().decode() if path.is_file() else ""
        if old == "" and text:
            raise ValueError(f"{name} exists, and an empty `old` writes a new file")
        if old and text.count(old) != 1:
            raise ValueError(f"{old!r} stands {text.count(old)} times in {name}, not once")
        written[path] = text.replace(old, new) if old else new
    return one_line(idea), written
