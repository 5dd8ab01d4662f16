"""Gemini CLI as the agent: headless, edits are approved and everything else that asks is denied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_ray.agents._events import objects, tokens
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import bound, idea_in, installed
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Usage

_KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


class Gemini(_Command):
    """Runs `gemini` with the prompt on stdin; it may edit files below the checkout, and run no command.

    With a key in the environment its state lies in the lane's own folder; without one it stays in the user's HOME,
    where the login is. A repair is a new conversation: it resumes by a place in a list, and not by an id. It reports
    tokens and no dollars.
    """

    reports = "tokens"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `gemini` is not on PATH, or is to be pointed at another endpoint."""
        installed("gemini", environ, "install it (npm install -g @google/gemini-cli) and log in once, or give it a key")
        bound("gemini", options)

    def start(self, checkout: Path) -> Sequence[str]:
        options = self.setup.options
        return [
            *("gemini", "--approval-mode", "auto_edit", "--skip-trust", "--output-format", "stream-json"),
            *(("--model", options.model) if options.model else ()),
            *options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return (".gemini",)

    def environ(self) -> dict[str, str]:
        environ = super().environ() | {"GEMINI_CLI_TRUST_WORKSPACE": "true"}
        if any(environ.get(each) for each in _KEYS) and "GEMINI_CLI_HOME" not in environ:
            place = self.folder / "gemini"
            place.mkdir(parents=True, exist_ok=True)
            environ["GEMINI_CLI_HOME"] = str(place)
        return environ

    def read(self, stdout: str) -> Proposal:
        """Messages come in pieces; the last event is the result, with the tokens of all models together."""
        said, error = "", None
        stats: dict[str, Any] = {}
        for event in objects(stdout):
            match event:
                case {"type": "message", "role": "assistant", "content": str(text)}:
                    said += text
                case {"type": "tool_use"}:
                    said += "\n"
                case {"type": "result"}:
                    told, fault = event.get("stats"), event.get("error")
                    stats = told if isinstance(told, dict) else {}
                    if event.get("status") == "error":
                        words = fault.get("message") if isinstance(fault, dict) else None
                        error = f"gemini: {one_line(str(words or 'error'))}"
        usage = Usage(
            input_tokens=tokens([stats.get("input_tokens")]),
            output_tokens=tokens([stats.get("output_tokens")]),
            cached_tokens=tokens([stats.get("cached")]),
        )
        return Proposal(idea_in(said), usage, error=error)
