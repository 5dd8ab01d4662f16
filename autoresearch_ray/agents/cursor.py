"""Cursor's agent: headless, may edit files, and what else would ask somebody is denied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch_ray.agents._events import objects, result, tokens
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import bound, idea_in, installed
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Options, Proposal, Trouble, TroubleKind, Usage

_KEY = "CURSOR_API_KEY"


class Cursor(_Command):
    """Runs `cursor-agent -p` with the prompt as its last argument, without `--force`: edits run, commands do not.

    With a key in the environment its state lies in the lane's own folder; without one it stays in the user's HOME,
    where the login is. It reports no dollars, and tokens in some versions.
    """

    reports = "tokens"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `cursor-agent` is not on PATH, or is to be pointed at another endpoint."""
        installed("cursor-agent", environ, "install it (cursor.com/cli) and log in once, or give it CURSOR_API_KEY")
        bound("cursor", options)

    def start(self, checkout: Path) -> Sequence[str]:
        options = self.setup.options
        return [
            *("cursor-agent", "-p", "--trust", "--output-format", "stream-json"),
            *(("--resume", self.session) if self.session else ()),
            *(("--model", options.model) if options.model else ()),
            *options.extra_args,
            self.prompt.read_text(encoding="utf-8"),
        ]

    def home(self) -> Sequence[str]:
        return (".cursor", ".config/cursor")

    def environ(self) -> dict[str, str]:
        environ = super().environ()
        if environ.get(_KEY) and "CURSOR_CONFIG_DIR" not in environ:
            place = self.folder / "cursor"
            place.mkdir(parents=True, exist_ok=True)
            environ["CURSOR_CONFIG_DIR"] = str(place)
        return environ

    def read(self, stdout: str) -> Proposal:
        """The last event is the result; what it was not allowed to do stands in the calls of its tools."""
        found = result(stdout)
        if found is None:
            return Proposal(idea_in(""), error="cursor-agent printed no result")
        said, used = str(found.get("result") or ""), found.get("usage")
        used = used if isinstance(used, dict) else {}
        usage = Usage(
            input_tokens=tokens(used.get(each) for each in ("inputTokens", "cacheReadTokens", "cacheWriteTokens")),
            output_tokens=tokens([used.get("outputTokens")]),
            cached_tokens=tokens([used.get("cacheReadTokens")]),
        )
        refused = any("rejected" in each for event in objects(stdout) for each in _results(event))
        return Proposal(
            idea_in(said),
            usage,
            error=f"cursor-agent: {one_line(said) or found.get('subtype', 'error')}" if found.get("is_error") else None,
            trouble=Trouble(TroubleKind.REJECTED) if refused and not found.get("is_error") else None,
            session=str(found.get("session_id") or ""),
        )


def _results(event: Mapping[str, object]) -> list[Mapping[str, object]]:
    """What came of the calls in an event such as {"tool_call": {"editToolCall": {"result": {"rejected": {}}}}}."""
    call = event.get("tool_call")
    bodies = call.values() if isinstance(call, dict) else ()
    found = [each.get("result") for each in bodies if isinstance(each, dict)]
    return [each for each in found if isinstance(each, dict)]
