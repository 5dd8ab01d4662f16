"""Claude Code as the agent: headless, file tools only, one fresh conversation per experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_ray.agents._events import dollars, result, tokens
from autoresearch_ray.agents._home import NO_KEY
from autoresearch_ray.agents._trouble import answered
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Trouble, TroubleKind, Usage

_TOOLS = "Read,Edit,Write,Glob,Grep"  # no shell: no git, no training run, nothing that outlives the turn; no web
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


class Claude(_Command):
    """Runs `claude -p` with the prompt on stdin; it may edit files below the checkout and do nothing else.

    Settings of the checkout are not read, those of the user are, so that a login, a gateway or a cloud account works.
    With a key in the environment its state lies in the lane's own folder, conversations included; without one it stays
    in the user's HOME, where the login is, and no conversation is kept there. `base_url` is an endpoint that speaks as
    Anthropic's does, with or without its `/v1`; dollars that claude then reports are at the prices of another model.
    """

    reports = "cost"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `claude` is not on PATH, or is pointed at an endpoint without a model."""
        installed("claude", environ, "install Claude Code (npm install -g @anthropic-ai/claude-code) and log in once")
        if options.base_url:
            modelled("claude", options, "NAME")

    def start(self, checkout: Path) -> Sequence[str]:
        options = self.setup.options
        return [
            *("claude", "-p", "--output-format", "json", "--permission-mode", "acceptEdits", "--tools", _TOOLS),
            *("--setting-sources", "user", "--strict-mcp-config"),
            *(() if self._apart() else ("--no-session-persistence",)),
            *(("--resume", self.session) if self.session else ()),
            *(("--model", options.model) if options.model else ()),
            *options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return (".claude", ".claude.json", ".aws", ".config/gcloud")

    def environ(self) -> dict[str, str]:
        environ = super().environ() | {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
        environ.pop("CLAUDECODE", None)  # left over where the run itself was started from Claude Code
        if self._apart():
            environ.setdefault("CLAUDE_CONFIG_DIR", str(self.folder / "claude"))
        if self.setup.options.base_url:
            environ["ANTHROPIC_BASE_URL"] = self.setup.options.base_url.rstrip("/").removesuffix("/v1")
            environ |= {} if self._key() else {"ANTHROPIC_API_KEY": NO_KEY}
        return environ

    def _key(self) -> bool:
        return any(self.setup.environ.get(each) for each in _KEYS)

    def _apart(self) -> bool:
        """Whether its state lies in the lane's folder, because nothing of the user's home is needed."""
        return self._key() or bool(self.setup.options.base_url)

    def read(self, stdout: str) -> Proposal:
        """Stdout holds one result object. Its verdict is `is_error`: `subtype` may say "success" beside it."""
        found = result(stdout)
        if found is None:
            return Proposal(idea_in(""), error="claude printed no result")
        said, used = str(found.get("result") or ""), found.get("usage")
        used = used if isinstance(used, dict) else {}
        usage = Usage(
            input_tokens=tokens(used.get(f"{each}input_tokens") for each in ("", "cache_creation_", "cache_read_")),
            output_tokens=tokens([used.get("output_tokens")]),
            cost_usd=None if self.setup.options.base_url else dollars([found.get("total_cost_usd")]),
            cached_tokens=tokens([used.get("cache_read_input_tokens")]),
        )
        error = f"claude: {one_line(said) or found.get('subtype', 'error')}" if found.get("is_error") else None
        session = str(found.get("session_id") or "") if self._apart() else ""
        return Proposal(idea_in(said), usage, error=error, trouble=_trouble(found), session=session)


def _trouble(found: Mapping[str, Any]) -> Trouble | None:
    """What the result object itself says of it. Of an error without a known status, the words are read by others."""
    if found.get("is_error") and (trouble := answered(found.get("api_error_status"), str(found.get("result") or ""))):
        return trouble
    return Trouble(TroubleKind.REJECTED) if found.get("permission_denials") else None
