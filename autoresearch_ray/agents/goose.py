"""goose as the agent: headless, its editing tools are allowed and its shell is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_ray.agents._events import dollars, objects, tokens
from autoresearch_ray.agents._home import KEY, NO_KEY, own_home
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.brief import one_line
from autoresearch_ray.errors import AgentError
from autoresearch_ray.model import Options, Proposal, Usage

# Tools are known by name, with the extension's in front of it up to 1.26. In the mode `auto` these rules are not read.
_ALLOWED = ("edit", "write", "tree", "read_image", "analyze", "developer__text_editor", "developer__analyze")
_DENIED = ("shell", "developer__shell")


class Goose(_Command):
    """Runs `goose run` with the prompt from a file. A model is `provider/name`, such as `anthropic/claude-sonnet-4-5`.

    goose asks before a tool that its rules do not name, and nobody answers. A repair is a new conversation.
    """

    reports = "tokens"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `goose` is not on PATH, or no model is named with its provider."""
        installed("goose", environ, "install it: goose-docs.ai, Getting started")
        modelled("goose", options, "anthropic/claude-sonnet-4-5")
        if not options.base_url and "/" not in (options.model or ""):
            raise AgentError(f"goose needs the provider of {options.model}", "--model provider/name")

    def start(self, checkout: Path) -> Sequence[str]:
        return [
            *("goose", "run", "--no-session", "--quiet", "--no-profile", "--with-builtin", "developer"),
            *("--output-format", "stream-json", "--instructions", str(self.prompt)),
            *self.setup.options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return ()

    def environ(self) -> dict[str, str]:
        options = self.setup.options
        environ = super().environ() | own_home(self.folder, self.setup.environ)
        rules = Path(environ["XDG_CONFIG_HOME"]) / "goose" / "permission.yaml"
        rules.parent.mkdir(parents=True, exist_ok=True)
        told = {"user": {"always_allow": _ALLOWED, "ask_before": (), "never_allow": _DENIED}}
        rules.write_text(json.dumps(told), encoding="utf-8")  # JSON is YAML, too
        provider, _, model = (options.model or "").partition("/")
        if options.base_url:
            provider, model = "openai", options.model or ""
            environ["OPENAI_HOST"] = options.base_url.rstrip("/").removesuffix("/v1")
            environ.setdefault(KEY, NO_KEY)
        return environ | {
            "GOOSE_MODE": "approve",
            "GOOSE_PROVIDER": provider,
            "GOOSE_MODEL": model,
            "GOOSE_DISABLE_KEYRING": "1",
            "GOOSE_TELEMETRY_ENABLED": "false",
        }

    def read(self, stdout: str) -> Proposal:
        """Messages come in pieces, each with its id; the last event has the tokens and, where known, the dollars."""
        said: dict[str, str] = {}
        used: dict[str, Any] = {}
        error = None
        for event in objects(stdout):
            match event:
                case {"type": "message", "message": {"role": "assistant", "content": list(content)} as message}:
                    id = str(message.get("id") or len(said))
                    texts = [each.get("text") for each in content if isinstance(each, dict)]
                    said[id] = said.get(id, "") + "".join(each for each in texts if isinstance(each, str))
                case {"type": "error", "error": str(words)}:
                    error = f"goose: {one_line(words)}"
                case {"type": "complete"}:
                    used = event
        usage = Usage(
            input_tokens=tokens([used.get("input_tokens")]),
            output_tokens=tokens([used.get("output_tokens")]),
            cost_usd=dollars([used.get("cost_usd")]),
        )
        return Proposal(idea_in("\n".join(said.values())), usage, error=error)
