"""Codex as the agent: headless, in its own sandbox without network, one fresh conversation per experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_ray import tree as trees
from autoresearch_ray.agents._events import objects, tokens
from autoresearch_ray.agents._home import KEY, NO_KEY
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Usage
from autoresearch_ray.ports import AgentSetup, Walls


class Codex(_Command):
    """Runs `codex exec` with the prompt on stdin. Its sandbox lets it write below the checkout, `.git` excepted, and in
    a temporary folder of the lane's.

    It edits through shell commands, so it cannot be kept from a shell; the sandbox keeps it off the network. The user's
    configuration is not read, the login is. With `CODEX_API_KEY` in the environment its state lies in the lane's own
    folder, conversations included; without it, it stays in the user's HOME, where the login is. `base_url` is an
    endpoint that has OpenAI's `/responses`. Codex reports tokens and no dollars.
    """

    reports = "tokens"

    def __init__(self, setup: AgentSetup) -> None:
        super().__init__(setup)
        self._counted = ("", 0, 0, 0)  # of the last conversation: its id, and its tokens: in, out, cached

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `codex` is not on PATH, or is pointed at an endpoint without a model."""
        installed("codex", environ, "install Codex (npm install -g @openai/codex) and log in once")
        if options.base_url:
            modelled("codex", options, "NAME")

    def start(self, checkout: Path) -> Sequence[str]:
        options = self.setup.options
        return [
            *("codex", "exec", "--json", "--color", "never", "--sandbox", "workspace-write"),
            *("--skip-git-repo-check", "--ignore-user-config", "--ignore-rules"),
            *(() if self._apart() else ("--ephemeral",)),
            *("-c", 'approval_policy="never"', "-c", 'web_search="disabled"'),
            *("-c", "sandbox_workspace_write.network_access=false"),
            *("-c", "sandbox_workspace_write.exclude_slash_tmp=true"),  # where other lanes and our own files may lie
            *(("--model", options.model) if options.model else ()),
            *self._endpoint(),
            *options.extra_args,
            *(("resume", self.session, "-") if self.session else ("-",)),
        ]

    def walls(self) -> Walls | None:
        """None: its own sandbox, which keeps its commands off the network, does not start inside another."""
        return None

    def environ(self) -> dict[str, str]:
        environ = super().environ()
        home, temporary = self.folder / "codex", self.folder / "codex.tmp"
        # The temporary folder is open to its commands, and in a home below it it makes no helper for its sandbox.
        trees.empty(temporary)
        environ["TMPDIR"] = str(temporary)
        if self._apart() and "CODEX_HOME" not in environ:
            home.mkdir(parents=True, exist_ok=True)  # codex does not start in a home that is not there
            environ["CODEX_HOME"] = str(home)
        if self.setup.options.base_url:
            environ.setdefault(KEY, NO_KEY)
        return environ

    def _apart(self) -> bool:
        """Whether its state lies in the lane's folder, because nothing of the user's home is needed."""
        return bool(self.setup.environ.get("CODEX_API_KEY") or self.setup.options.base_url)

    def _endpoint(self) -> Sequence[str]:
        url = self.setup.options.base_url
        if not url:
            return ()
        fields = {"name": "endpoint", "base_url": url, "env_key": KEY, "wire_api": "responses"}
        table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
        return ("-c", 'model_provider="endpoint"', "-c", f"model_providers.endpoint={{{table}}}")

    def read(self, stdout: str) -> Proposal:
        """The events are lines of JSON: the last message of the agent, the tokens of its turns, the error of one."""
        said, session, error = "", "", None
        used: dict[str, Any] = {}
        for event in objects(stdout):
            match event:
                case {"type": "thread.started", "thread_id": str(id)} if self._apart():
                    session = id
                case {"type": "item.completed", "item": {"type": "agent_message", "text": str(text)}}:
                    said = text
                case {"type": "turn.completed", "usage": dict(so_far)}:
                    used = so_far
                    error = None
                case {"type": "turn.failed", "error": {"message": str(message)}}:
                    error = f"codex: {one_line(message)}"
                case {"type": "error", "message": str(message)}:
                    error = f"codex: {one_line(message)}"
        return Proposal(idea_in(said), self._usage(session, used), error=error, session=session)

    def _usage(self, session: str, used: Mapping[str, Any]) -> Usage:
        """Of this turn; what codex says is of the whole conversation."""
        asked, said = tokens([used.get("input_tokens")]), tokens([used.get("output_tokens")])
        cached = tokens([used.get("cached_input_tokens")])
        if asked is None or said is None:
            return Usage(input_tokens=asked, output_tokens=said)
        known, before, self._counted = self._counted[0], self._counted[1:], (session, asked, said, cached or 0)
        if not session or session != known:
            before = (0, 0, 0)
        asked, said = max(asked - before[0], 0), max(said - before[1], 0)
        cached = None if cached is None else max(cached - before[2], 0)
        return Usage(input_tokens=asked, output_tokens=said, cached_tokens=cached)
