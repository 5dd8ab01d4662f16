"""Claude Code as the agent: headless, file tools only, one fresh conversation per experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_ray.agents._trouble import retry_after_seconds, status_trouble
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Trouble, TroubleKind, Usage

_TOOLS = "Read,Edit,Write,Glob,Grep"  # no shell: no git, no training run, nothing that outlives the turn; no web
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


class Claude(_Command):
    """Runs `claude -p` with the prompt on stdin; it may edit files below the checkout and do nothing else.

    Settings of the checkout are not read, those of the user are, so that a login, a gateway or a cloud account works.
    With a key in the environment its state lies in the lane's own folder; without one it stays in the user's HOME,
    where the login is.
    """

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `claude` is not on PATH."""
        installed("claude", environ, "install Claude Code (npm install -g @anthropic-ai/claude-code) and log in once")

    def start(self) -> Sequence[str]:
        model = self.setup.options.model
        return [
            *("claude", "-p", "--output-format", "json", "--permission-mode", "acceptEdits", "--tools", _TOOLS),
            *("--setting-sources", "user", "--strict-mcp-config", "--no-session-persistence"),
            *(("--model", model) if model else ()),
        ]

    def home(self) -> Sequence[str]:
        return (".claude", ".claude.json", ".aws", ".config/gcloud")

    def environ(self) -> dict[str, str]:
        environ = super().environ() | {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
        environ.pop("CLAUDECODE", None)  # left over where the run itself was started from Claude Code
        if any(environ.get(each) for each in _KEYS):
            environ.setdefault("CLAUDE_CONFIG_DIR", str(self.folder / "claude"))
        return environ

    def read(self, stdout: str) -> Proposal:
        """Stdout holds one result object. Its verdict is `is_error`: `subtype` may say "success" beside it."""
        result = _result(stdout)
        if result is None:
            return Proposal(idea_in(""), error="claude printed no result")
        said, used = str(result.get("result") or ""), result.get("usage")
        tokens = used if isinstance(used, dict) else {}
        cost = result.get("total_cost_usd")
        asked = [tokens.get(f"{each}input_tokens") for each in ("", "cache_creation_", "cache_read_")]
        usage = Usage(
            input_tokens=None if asked[0] is None else sum(each or 0 for each in asked),
            output_tokens=tokens.get("output_tokens"),
            cost_usd=float(cost) if isinstance(cost, int | float) else None,
        )
        error = f"claude: {one_line(said) or result.get('subtype', 'error')}" if result.get("is_error") else None
        return Proposal(idea_in(said), usage, error=error, trouble=_trouble(result))


def _trouble(result: Mapping[str, Any]) -> Trouble | None:
    """What the result object itself says of it. Of an error without a known status, the words are read by others."""
    status = result.get("api_error_status")
    kind = status_trouble(status) if result.get("is_error") and isinstance(status, int) else None
    if kind:
        return Trouble(kind, retry_after_seconds(str(result.get("result") or "")))
    return Trouble(TroubleKind.REJECTED) if result.get("permission_denials") else None


def _result(stdout: str) -> dict[str, Any] | None:
    """The result object: a line of its own or, where the user's settings ask for every event, the last of a list."""
    for line in reversed(stdout.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        for each in reversed(value if isinstance(value, list) else [value]):
            if isinstance(each, dict) and each.get("type") == "result":
                return each
    return None
