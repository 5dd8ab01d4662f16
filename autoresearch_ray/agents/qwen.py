"""Qwen Code as the agent: headless, file tools only, one conversation per experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch_ray.agents._events import objects, result, tokens
from autoresearch_ray.agents._home import KEY, NO_KEY, own_home
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Trouble, TroubleKind, Usage

_FAILED = "[API Error:"  # so an answer begins that is none, in a result that says "success"


class Qwen(_Command):
    """Runs `qwen` with the prompt on stdin; it may edit files and run no command.

    With `OPENAI_API_KEY` in the environment, or with `base_url`, its state lies in a home of the lane's own; without
    either it stays in the user's HOME, where the login is. Qwen Code reports tokens and no dollars.
    """

    reports = "tokens"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `qwen` is not on PATH, or works with a key or an endpoint and no model is named."""
        installed("qwen", environ, "install it (npm install -g @qwen-code/qwen-code) and log in once, or give it a key")
        if options.base_url or environ.get(KEY):
            modelled("qwen", options, "qwen3-coder-plus")

    def start(self, checkout: Path) -> Sequence[str]:
        options = self.setup.options
        return [
            *("qwen", "--bare", "--approval-mode", "auto-edit", "--exclude-tools", "run_shell_command"),
            *("--output-format", "stream-json"),
            *(("--auth-type", "openai") if self._apart() else ()),
            *(("--resume", self.session) if self.session else ()),
            *(("--model", options.model) if options.model else ()),
            *options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return () if self._apart() else (".qwen",)

    def environ(self) -> dict[str, str]:
        environ = super().environ()
        if self._apart():
            environ |= own_home(self.folder, self.setup.environ)
        if self.setup.options.base_url:
            environ["OPENAI_BASE_URL"] = self.setup.options.base_url
            environ.setdefault(KEY, NO_KEY)
        return environ

    def read(self, stdout: str) -> Proposal:
        """The last event is the result. An error of the provider is its text, and no error by its fields.

        Its tokens are those of the whole conversation, so those of each message are added up.
        """
        found = result(stdout)
        if found is None:
            return Proposal(idea_in(""), error="qwen printed no result")
        fault = found.get("error")
        said = str(found.get("result") or (fault.get("message") if isinstance(fault, dict) else "") or "")
        messages = [each.get("message") for each in objects(stdout) if each.get("type") == "assistant"]
        used = [each["usage"] for each in messages if isinstance(each, dict) and isinstance(each.get("usage"), dict)]
        usage = Usage(
            input_tokens=tokens(each.get("input_tokens") for each in used),
            output_tokens=tokens(each.get("output_tokens") for each in used),
            cached_tokens=tokens(each.get("cache_read_input_tokens") for each in used),
        )
        failed = found.get("is_error") or said.startswith(_FAILED)
        return Proposal(
            idea_in("" if failed else said),
            usage,
            error=f"qwen: {one_line(said) or found.get('subtype', 'error')}" if failed else None,
            trouble=Trouble(TroubleKind.REJECTED) if found.get("permission_denials") and not failed else None,
            session=str(found.get("session_id") or "") if self._apart() else "",
        )

    def _apart(self) -> bool:
        """Whether nothing of the user's home is needed."""
        return bool(self.setup.options.base_url or self.setup.environ.get(KEY))
