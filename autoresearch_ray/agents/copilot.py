"""GitHub Copilot CLI as the agent: headless, file tools only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch_ray.agents._events import objects
from autoresearch_ray.agents._home import KEY, NO_KEY
from autoresearch_ray.agents._trouble import answered
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Trouble, TroubleKind

_TOOLS = "view,edit,create,grep,glob"
_TOKENS = ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN")


class Copilot(_Command):
    """Runs `copilot` with the prompt on stdin; it may edit files below the checkout, and has no shell and no web.

    With a token in the environment, or with `base_url`, its state lies in the lane's own folder; without either it
    stays in the user's HOME, where the login is. It reports neither tokens nor dollars.
    """

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `copilot` is not on PATH, or is pointed at an endpoint without a model."""
        installed("copilot", environ, "install it (npm install -g @github/copilot) and log in once")
        if options.base_url:
            modelled("copilot", options, "NAME")

    def start(self, checkout: Path) -> Sequence[str]:
        options = self.setup.options
        return [
            *("copilot", "--allow-all-tools", f"--available-tools={_TOOLS}", "--disable-builtin-mcps"),
            *("--no-ask-user", "--no-auto-update", "--no-color", "--stream", "off", "--output-format", "json"),
            *((f"--resume={self.session}",) if self.session else ()),
            *(("--model", options.model) if options.model else ()),
            *options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return () if self._apart() else (".copilot",)

    def environ(self) -> dict[str, str]:
        environ = super().environ()
        if self._apart():
            environ.setdefault("COPILOT_HOME", str(self.folder / "copilot"))
        if self.setup.options.base_url:
            environ |= {
                "COPILOT_PROVIDER_BASE_URL": self.setup.options.base_url,
                "COPILOT_PROVIDER_TYPE": "openai",
                "COPILOT_PROVIDER_API_KEY": environ.get(KEY) or NO_KEY,
                "COPILOT_OFFLINE": "true",  # without it, it asks GitHub who is there
            }
        return environ

    def read(self, stdout: str) -> Proposal:
        """The last message that has words is the answer; an error is an event of its own, with its status."""
        said, session, error, trouble, refused = "", "", None, None, False
        for event in objects(stdout):
            match event:
                case {"type": "assistant.message", "data": {"content": str(text)}} if text.strip():
                    said = text
                case {"type": "tool.execution_complete", "data": {"success": False}}:
                    refused = True
                case {"type": "session.error", "data": {"message": str(message)} as data}:
                    error, trouble = f"copilot: {one_line(message)}", answered(data.get("statusCode"), message)
                case {"type": "result", "sessionId": str(id)} if self._apart():
                    session = id
        if refused and error is None:
            trouble = Trouble(TroubleKind.REJECTED)
        return Proposal(idea_in(said), error=error, trouble=trouble, session=session)

    def _apart(self) -> bool:
        """Whether nothing of the user's home is needed."""
        return bool(self.setup.options.base_url or any(self.setup.environ.get(each) for each in _TOKENS))
