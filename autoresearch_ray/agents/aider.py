"""Aider as the agent: one message, one or a few replies with SEARCH/REPLACE blocks, applied by aider itself."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch_ray import tree as trees
from autoresearch_ray.agents._events import dollars, objects, report, tokens
from autoresearch_ray.agents._home import KEY, NO_KEY, own_home
from autoresearch_ray.agents._shown import plain_files
from autoresearch_ray.agents.command import Command as _Command
from autoresearch_ray.agents.command import idea_in, installed, modelled
from autoresearch_ray.model import Options, Proposal, Trouble, TroubleKind, Usage

_SHOWN_BYTES = 256 << 10  # of files that are put into the chat whole, about 64,000 tokens
_ALONE = (
    *("--yes-always", "--edit-format", "diff", "--no-auto-commits", "--no-dirty-commits", "--no-gitignore"),
    *("--no-auto-lint", "--no-suggest-shell-commands", "--no-detect-urls", "--no-check-update", "--no-analytics"),
    *("--no-show-model-warnings", "--no-show-release-notes", "--no-pretty", "--no-stream", "--no-fancy-input"),
    *("--input-history-file", "/dev/null"),
)
_FENCE = re.compile(r"`{3,}|~{3,}")
_CHROME = re.compile(  # what aider itself says round the model's words
    r"^(?:Tokens: .* sent|Applied edit to |Did not apply edit to |Added .* to the chat|Repo-map:|Git repo:|Aider v|"
    r"Main model:|Model:|Weak model:|Restored previous|Skipping edits to|Allow edits to|\S+\.\w{1,4}$).*$",
    re.MULTILINE,
)
_REFUSED = re.compile(r"did not conform to the edit format|SEARCH/REPLACE blocks? failed to match")


class Aider(_Command):
    """Runs `aider --message-file` with the files in scope in the chat, without a shell, git commands and web pages.

    Files of more than 256 KiB together are not put into the chat: the model then gets aider's map of the repository,
    and names the files that it wants to edit. Aider ends with status 0 whatever happens, so its words count, and the
    events that it writes for its analytics, which are sent nowhere. It knows the price of known models alone.
    """

    reports = "tokens"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if `aider` is not on PATH, or no model is named: it would ask somebody."""
        installed("aider", environ, "install it in an environment of its own: uv tool install --python 3.12 aider-chat")
        modelled("aider", options, "sonnet, or openai/NAME")

    def start(self, checkout: Path) -> Sequence[str]:
        options, files = self.setup.options, self._files(checkout)
        events, chat = self.folder / "aider.jsonl", self.folder / "aider.chat.md"
        trees.remove(events)
        if not self.session:
            trees.remove(chat)
        return [
            *("aider", *_ALONE, "--message-file", str(self.prompt), "--analytics-log", str(events)),
            *("--chat-history-file", str(chat), f"--{'' if self.session else 'no-'}restore-chat-history"),
            *(("--no-git", "--map-tokens", "0") if files else ("--subtree-only",)),
            *(word for each in files for word in ("--file", each)),
            *self._model(),
            *options.extra_args,
        ]

    def home(self) -> Sequence[str]:
        return ()

    def environ(self) -> dict[str, str]:
        environ = super().environ() | own_home(self.folder, self.setup.environ)
        environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches one from the network at every start
        if self.setup.options.base_url:
            environ["OPENAI_API_BASE"] = self.setup.options.base_url
            environ.setdefault(KEY, NO_KEY)
        return environ

    def read(self, stdout: str) -> Proposal:
        """The model's words are on stdout; what they cost is in the events `message_send`."""
        sent = [
            each["properties"]
            for each in objects(report(self.folder / "aider.jsonl"))
            if each.get("event") == "message_send" and isinstance(each.get("properties"), dict)
        ]
        usage = Usage(
            input_tokens=tokens(each.get("prompt_tokens") for each in sent),
            output_tokens=tokens(each.get("completion_tokens") for each in sent),
            cost_usd=dollars(each.get("cost") for each in sent),
        )
        idea = idea_in(_CHROME.sub("", _unfenced(stdout)))
        trouble = Trouble(TroubleKind.REJECTED) if _REFUSED.search(stdout) else None
        return Proposal(idea, usage, trouble=trouble, session="chat" if sent else "")

    def _files(self, checkout: Path) -> list[str]:
        """The files in scope, or none if they are too large together."""
        sizes = plain_files(checkout, self.setup.program.scope)
        return list(sizes) if sum(sizes.values()) <= _SHOWN_BYTES else []

    def _model(self) -> Sequence[str]:
        model = self.setup.options.model or ""
        if not self.setup.options.base_url:
            return ("--model", model)
        name = f"openai/{model}"
        known = self.folder / "aider.models.json"  # a model that is not listed is looked for on the network, four times
        known.write_text(json.dumps({name: {"litellm_provider": "openai", "mode": "chat"}}), encoding="utf-8")
        return ("--model", name, "--model-metadata-file", str(known))


def _unfenced(text: str) -> str:
    """The lines outside of fences; one that is never closed is none.

    By hand: a regular expression looks for the end of each such one again, which of 64 KB took a minute.
    """
    lines = text.split("\n")
    ends: dict[str, list[int]] = {}
    for at, line in enumerate(lines):
        if _FENCE.match(line):
            ends.setdefault(line.rstrip(" \t"), []).append(at)
    kept, at = [], 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        closing = ends.get(fence[0], []) if fence else []
        behind = bisect.bisect_right(closing, at)
        if behind == len(closing):
            kept.append(lines[at])
        else:
            at = closing[behind]
        at += 1
    return "\n".join(kept)
