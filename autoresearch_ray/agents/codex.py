"""Codex as the agent: headless, in its own sandbox without network, one fresh conversation per experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Usage
from autoresearch_ray.ports import Walls


class Codex(_Command):
    """Runs `codex exec` with the prompt on stdin. Its sandbox lets it write below the checkout, `.git` excepted.

    It edits through shell commands, so it cannot be kept from a shell; the sandbox keeps it off the network. The user's
    configuration is not read, the login is. With `CODEX_API_KEY` in the environment its state lies in the lane's own
    folder; without it, it stays in the user's HOME, where the login is. Codex reports tokens and no dollars.
    """

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `codex` is not on PATH."""
        installed("codex", environ, "install Codex (npm install -g @openai/codex) and log in once")

    def start(self) -> Sequence[str]:
        model = self.setup.options.model
        return [
            *("codex", "exec", "-", "--json", "--color", "never", "--sandbox", "workspace-write"),
            *("--skip-git-repo-check", "--ephemeral", "--ignore-user-config", "--ignore-rules"),
            *("-c", 'approval_policy="never"', "-c", 'web_search="disabled"'),
            *("-c", "sandbox_workspace_write.network_access=false"),
            *(("--model", model) if model else ()),
        ]

    def walls(self) -> Walls | None:
        """None: its own sandbox, which keeps its commands off the network, does not start inside another."""
        return None

    def environ(self) -> dict[str, str]:
        environ = super().environ()
        if environ.get("CODEX_API_KEY") and "CODEX_HOME" not in environ:
            home = self.folder / "codex"
            home.mkdir(parents=True, exist_ok=True)  # codex does not start in a home that is not there
            environ["CODEX_HOME"] = str(home)
        return environ

    def read(self, stdout: str) -> Proposal:
        """The events are lines of JSON: the last message of the agent, the tokens of its turns, the error of one."""
        said, error = "", None
        tokens: list[dict[str, Any]] = []
        for event in _objects(stdout):
            match event:
                case {"type": "item.completed", "item": {"type": "agent_message", "text": str(text)}}:
                    said = text
                case {"type": "turn.completed", "usage": dict(used)}:
                    tokens.append(used)
                    error = None
                case {"type": "turn.failed", "error": {"message": str(message)}}:
                    error = f"codex: {one_line(message)}"
                case {"type": "error", "message": str(message)}:
                    error = f"codex: {one_line(message)}"
        usage = Usage(
            input_tokens=sum(each.get("input_tokens", 0) for each in tokens) if tokens else None,
            output_tokens=sum(each.get("output_tokens", 0) for each in tokens) if tokens else None,
        )
        return Proposal(idea_in(said), usage, error=error)


def _objects(stdout: str) -> list[Any]:
    """The lines of `stdout` that are JSON; others are passed over, such as one cut by the cap of the log."""
    objects = []
    for line in stdout.splitlines():
        try:
            objects.append(json.loads(line))
        except ValueError:
            continue
    return objects
