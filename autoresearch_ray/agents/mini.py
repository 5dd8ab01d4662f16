"""mini-swe-agent as the agent: it has a shell and nothing else, so only the sandbox keeps it to its tree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoresearch_ray import tree as trees
from autoresearch_ray.agents._events import dollars, report, tokens
from autoresearch_ray.agents._home import KEY, NO_KEY, own_home
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.model import Options, Proposal, Usage
from autoresearch_ray.ports import redacted

_DONE = "Submitted"


class Mini(_Command):
    """Runs `mini` with the prompt as its task, and reads the trajectory that it leaves, also when it fails.

    Every command it thinks of is run. Its price table is litellm's; what is not in it has no dollars.
    """

    reports = "tokens"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `mini` is not on PATH, or no model is named: it would ask somebody."""
        installed("mini", environ, "install it in an environment of its own: uv tool install mini-swe-agent --with mcp")
        modelled("mini", options, "anthropic/claude-sonnet-4-5")

    def start(self, checkout: Path) -> Sequence[str]:
        options, trajectory = self.setup.options, self.folder / "mini.json"
        trees.remove(trajectory)
        endpoint = options.base_url
        return [
            *("mini", "--yolo", "--exit-immediately", "--agent-class", "default", "--cost-limit", "0"),
            *("--task", self.prompt.read_text(encoding="utf-8"), "--output", str(trajectory)),
            *("--model", f"openai/{options.model}" if endpoint else options.model or ""),
            *(("-c", "mini.yaml", "-c", f"model.model_kwargs.api_base={endpoint}") if endpoint else ()),
            *options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return ()

    def environ(self) -> dict[str, str]:
        environ = super().environ() | own_home(self.folder, self.setup.environ)
        environ |= {
            "MSWEA_CONFIGURED": "true",
            "MSWEA_SILENT_STARTUP": "1",
            "MSWEA_GLOBAL_CONFIG_DIR": str(self.folder / "mini"),
            "MSWEA_COST_TRACKING": "ignore_errors",  # a model without a price would end it
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches one from the network at every start
        }
        if self.setup.options.base_url:
            environ.setdefault(KEY, NO_KEY)
        return environ

    def read(self, stdout: str) -> Proposal:
        """What it submitted, and how it ended, are in the trajectory; tokens are with each of its messages."""
        told: Any = None
        with suppress(ValueError, RecursionError):
            told = json.loads(redacted(report(self.folder / "mini.json"), self.setup.options, self.setup.environ))
        match told:
            case {"info": dict(info), "messages": list(messages)}:
                pass
            case _:
                return Proposal(idea_in(""), error="mini left no trajectory")
        extras = [each.get("extra") for each in messages if isinstance(each, dict)]
        replies = [
            each["response"] for each in extras if isinstance(each, dict) and isinstance(each.get("response"), dict)
        ]
        used = [each.get("usage") or {} for each in replies]
        stats = info.get("model_stats") or {}
        usage = Usage(
            input_tokens=tokens(each.get("prompt_tokens") for each in used),
            output_tokens=tokens(each.get("completion_tokens") for each in used),
            cost_usd=dollars([stats.get("instance_cost")]),
            cached_tokens=tokens((each.get("prompt_tokens_details") or {}).get("cached_tokens") for each in used),
        )
        ended = info.get("exit_status")
        return Proposal(
            idea_in(str(info.get("submission") or "")), usage, error=None if ended == _DONE else f"mini: {ended}"
        )
