"""opencode as the agent: headless, may edit the files in scope, and has no shell and no web."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_ray.agents._events import dollars, objects, tokens
from autoresearch_ray.agents._home import KEY, NO_KEY, own_home
from autoresearch_ray.agents._trouble import answered
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Scope, Trouble, TroubleKind, Usage
from autoresearch_ray.ports import AgentSetup

_READING = ("read", "grep", "glob", "list")


class OpenCode(_Command):
    """Runs `opencode run` with the prompt on stdin; its own permissions hold it to the files in scope.

    One process takes about 0.6 GB of memory.
    """

    reports = "tokens"

    def __init__(self, setup: AgentSetup) -> None:
        super().__init__(setup)
        self._told = ""  # its settings for this checkout

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `opencode` is not on PATH, or no model is named."""
        installed("opencode", environ, "install it: npm install -g opencode-ai")
        modelled("opencode", options, "anthropic/claude-sonnet-4-5")

    def start(self, checkout: Path) -> Sequence[str]:
        self._told = json.dumps(self._settings(checkout))
        return [
            *("opencode", "run", "--format", "json", "--title", "experiment"),  # a title would be one more request
            *(("--session", self.session) if self.session else ()),
            *self.setup.options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return ()

    def environ(self) -> dict[str, str]:
        environ = super().environ() | own_home(self.folder, self.setup.environ)
        environ |= {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
        environ["OPENCODE_CONFIG_CONTENT"] = self._told  # beats an opencode.json of the checkout
        if self.setup.options.base_url:
            environ["OPENCODE_DISABLE_MODELS_FETCH"] = "1"
            environ.setdefault(KEY, NO_KEY)
        return environ

    def read(self, stdout: str) -> Proposal:
        """Tokens and dollars stand at the end of each step; the last text is the answer."""
        said, session, error, trouble, refused = "", "", None, None, False
        used: list[dict[str, Any]] = []
        for event in objects(stdout):
            session = str(event.get("sessionID") or session)
            match event:
                case {"type": "text", "part": {"text": str(text)}}:
                    said = text
                case {"type": "tool_use", "part": {"tool": "edit" | "write", "state": {"status": "error"}}}:
                    refused = True
                case {"type": "step_finish", "part": dict(part)}:
                    used.append(part)
                case {"type": "error", "error": dict(fault)}:
                    told = fault.get("data")
                    data = told if isinstance(told, dict) else {}
                    error = f"opencode: {one_line(str(data.get('message') or fault.get('name') or 'error'))}"
                    trouble = answered(data.get("statusCode"), json.dumps(data))
        counts = [part.get("tokens") or {} for part in used]
        asked = [each.get("input") for each in counts]
        caches = [each.get("cache") or {} for each in counts]
        cached = [each.get("read") for each in caches]
        usage = Usage(
            input_tokens=tokens([*asked, *cached, *(each.get("write") for each in caches)]),
            output_tokens=tokens(each.get(kind) for each in counts for kind in ("output", "reasoning")),
            cost_usd=dollars(part.get("cost") for part in used),
            cached_tokens=tokens(cached),
        )
        if refused and error is None:
            trouble = Trouble(TroubleKind.REJECTED)
        return Proposal(idea_in(said), usage, error=error, trouble=trouble, session=session)

    def _settings(self, checkout: Path) -> dict[str, Any]:
        options = self.setup.options
        model = f"endpoint/{options.model}" if options.base_url else options.model
        settings: dict[str, Any] = {
            "model": model,
            "small_model": model,
            "share": "disabled",
            "autoupdate": False,
            "snapshot": False,
            "permission": {
                "*": "deny",
                **dict.fromkeys(_READING, "allow"),
                "edit": _edits(self.setup.program.scope, checkout),
            },
        }
        if options.base_url:
            endpoint = {
                "npm": "@ai-sdk/openai-compatible",  # it is inside the program: nothing is downloaded
                "options": {"baseURL": options.base_url, "apiKey": f"{{env:{KEY}}}"},
                "models": {options.model: {"tool_call": True}},
            }
            settings |= {"enabled_providers": ["endpoint"], "provider": {"endpoint": endpoint}}
        return settings


def _edits(scope: Scope, checkout: Path) -> dict[str, str]:
    """The scope as opencode's rules, of which the last that fits counts. Its paths begin at the root of the tree."""
    root = next((each for each in (checkout, *checkout.parents) if (each / ".git").exists()), checkout)
    rules = {"*": "deny"}
    for patterns, rule in ((scope.can, "allow"), (scope.cannot, "deny")):
        for pattern in patterns:
            path = (checkout.relative_to(root) / pattern.removeprefix("./")).as_posix()
            rules |= {path: rule, f"{path}/*": rule} if path != "." else {"*": rule}
    return rules
