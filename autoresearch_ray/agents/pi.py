"""Pi as the agent: headless, with its tools for files and without its shell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch_ray import tree as trees
from autoresearch_ray.agents._events import dollars, objects, tokens
from autoresearch_ray.agents._home import KEY, NO_KEY, own_home
from autoresearch_ray.agents._trouble import begins_with_status
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Trouble, TroubleKind, Usage

_CUT = "terminated"  # all that it says of an answer that the connection cut
_TOOLS = "read,edit,write,grep,find,ls"


class Pi(_Command):
    """Runs `pi --mode json` with the prompt on stdin. Its tools may edit any file: pi knows no paths in scope."""

    reports = "tokens"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `pi` is not on PATH, or no model is named."""
        installed("pi", environ, "install it: npm install -g @mariozechner/pi-coding-agent")
        modelled("pi", options, "anthropic/claude-sonnet-4-5")

    def start(self, checkout: Path) -> Sequence[str]:
        options = self.setup.options
        return [
            *("pi", "--mode", "json", "--tools", _TOOLS, "--session-dir", str(self.folder / "pi" / "sessions")),
            *("--no-extensions", "--no-skills", "--no-prompt-templates"),
            *(("--session", self.session) if self.session else ()),
            *(("--provider", "endpoint") if options.base_url else ()),
            *("--model", options.model or ""),
            *options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return ()

    def environ(self) -> dict[str, str]:
        options, folder = self.setup.options, self.folder / "pi"
        environ = super().environ() | own_home(self.folder, self.setup.environ)
        environ |= {"PI_OFFLINE": "1", "PI_TELEMETRY": "0", "PI_CODING_AGENT_DIR": str(folder)}
        models = folder / "models.json"
        trees.remove(models)
        folder.mkdir(exist_ok=True)
        if options.base_url:
            endpoint = {"baseUrl": options.base_url, "api": "openai-completions", "apiKey": KEY}
            told = {"providers": {"endpoint": endpoint | {"models": [{"id": options.model}]}}}
            models.write_text(json.dumps(told), encoding="utf-8")
            environ.setdefault(KEY, NO_KEY)
        return environ

    def read(self, stdout: str) -> Proposal:
        """Each turn ends with its message and what that cost; a failed one says why, and may be tried again."""
        said, session, error, refused = "", "", None, False
        used = []
        for event in objects(stdout):
            match event:
                case {"type": "session", "id": str(id)}:
                    session = id
                case {"type": "tool_execution_end", "isError": True, "toolName": "edit" | "write"}:
                    refused = True
                case {"type": "turn_end", "message": {"role": "assistant", "content": list(content)} as message}:
                    said = "".join(each.get("text", "") for each in content if isinstance(each, dict)) or said
                    used.append(message.get("usage") or {})
                    error = str(message["errorMessage"]) if message.get("errorMessage") else None
        usage = Usage(
            input_tokens=tokens(each.get(kind) for each in used for kind in ("input", "cacheRead", "cacheWrite")),
            output_tokens=tokens(each.get("output") for each in used),
            cost_usd=dollars((each.get("cost") or {}).get("total") for each in used),
            cached_tokens=tokens(each.get("cacheRead") for each in used),
        )
        trouble = _trouble(error) if error else Trouble(TroubleKind.REJECTED) if refused else None
        return Proposal(
            idea_in(said), usage, error=error and f"pi: {one_line(error)}", trouble=trouble, session=session
        )


def _trouble(error: str) -> Trouble | None:
    return Trouble(TroubleKind.UNAVAILABLE) if error == _CUT else begins_with_status(error)
