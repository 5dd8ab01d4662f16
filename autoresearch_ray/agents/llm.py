"""A model by itself as the agent: one request to an endpoint that speaks as OpenAI's does, one reply, one edit."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from autoresearch_ray.agents._edits import WHOLE_LINES, Edited, Refusal, applied
from autoresearch_ray.agents._events import tokens
from autoresearch_ray.agents._shown import LIMIT_BYTES, Shown, shown, why_not_create, write
from autoresearch_ray.agents._trouble import answered
from autoresearch_ray.agents.command import idea_in
from autoresearch_ray.brief import IDEA_LINE, one_line
from autoresearch_ray.errors import AgentError
from autoresearch_ray.model import Brief, Options, Proposal, Trouble, TroubleKind, Usage
from autoresearch_ray.ports import AgentSetup, redacted
from autoresearch_ray.proposals import together

_KEY, _URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
_OPENAI = "https://api.openai.com/v1"
_ROUNDS = 2  # of one proposal: a reply that is refused is answered once
_REPLY_CHARS = 512 << 10  # a model that says more goes round in circles
_CONNECT_SECONDS = 10.0
_NAMED = 20  # of the files that are left out
_TICK_SECONDS = 0.2  # between two looks at whether the run is to end
_NOTHING_SAID = Usage()
_HYPOTHESIS = re.compile(r"(?im)^[ \t*_`#>-]*hypothesis[ \t*_`]*:[ \t*_`]*([^\s*_`].*)")

_FORM = """\

## The form of your answer

You have no tools: you have been shown the files above, and your answer is the edit. Answer in this form, and in plain
text around it:

HYPOTHESIS: <one sentence: what you change, and why it should help>

path/of/the/file.py
<<<<<<< SEARCH
lines of the file, word for word, enough of them to stand there only once
=======
the lines that take their place
>>>>>>> REPLACE

{idea_line}

- As many such blocks as the idea needs, for one file or several, each under the path of its file. All are applied, or
  none: what fits nowhere, or in more than one place, is refused.
- SEARCH holds whole lines, with their indentation, as they stand above: no line numbers, nothing shortened. Each SEARCH
  is looked up in the file as it stands above, before any other block. An empty REPLACE deletes.
- Write everything out: a `...` or a "rest as before" is refused.
- A new file in scope is a block with an empty SEARCH.
- A file of at most {lines} lines may be replaced as a whole, by its complete new text between a line `<<<<<<< FILE` and
  a line `>>>>>>> FILE`, under its path.
"""
_AGAIN = """\
Your answer was not applied, and no file was changed: {why}

Answer again in the same form, with all blocks of the edit, each against the files as you were shown them.
"""


class Llm:
    """Asks `model` at `base_url` once for an edit, and once more if its reply cannot be applied.

    The endpoint is `base_url`, else `OPENAI_BASE_URL`, if `env` names it, else OpenAI's own. vLLM, Ollama, llama.cpp
    and most providers speak this protocol. The key is `OPENAI_API_KEY`, if `secrets` names it; where there is none,
    "none" is sent. The prompt holds the files in scope, 128 KiB of them at most. Nothing is started and nothing is run:
    files in scope are read, and written only when the whole reply fits. `agent_minutes` holds for both rounds together.
    """

    reports = "tokens"
    repairs = True  # its edit, which it is shown as it stands in the files

    def __init__(self, setup: AgentSetup) -> None:
        self._setup = setup

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if the client is not installed, or the model or a key is missing."""
        if importlib.util.find_spec("openai") is None:
            raise AgentError("the agent `llm` needs the package openai", 'pip install "autoresearch-ray[llm]"')
        if not options.model:
            raise AgentError("the agent `llm` has no model", "name it as its endpoint does, with --model NAME")
        if not _endpoint(options, environ) and not environ.get(_KEY):
            hint = f"export {_KEY} and add `secrets: [{_KEY}]`, or give --base-url http://localhost:8000/v1"
            raise AgentError("the agent `llm` has no key for OpenAI's endpoint", hint)

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        """Apply what the model replies, all of it or nothing. What cannot be had or applied is `Proposal.error`."""
        began, scope = time.monotonic(), self._setup.program.scope
        files = shown(checkout, scope)
        creatable = partial(why_not_create, checkout, scope)
        messages = [{"role": "user", "content": _prompt(brief.prompt, files)}]
        deadline = began + self._setup.options.agent_minutes * 60
        usage, refusal = _NOTHING_SAID, Refusal("")
        with log.open("w", encoding="utf-8", errors="backslashreplace") as transcript:
            self._note(transcript, f"{brief.id}: shown {', '.join(files.texts) or 'no file'}")
            for _ in range(_ROUNDS):
                heard = asyncio.run(_heard(self._stream(messages), deadline, cancel))
                usage = together(usage, heard.usage)
                self._note(transcript, heard.text or "(no words)")
                if heard.error is not None:
                    self._note(transcript, heard.error)
                    return Proposal("", usage, error=self._redacted(heard.error), trouble=heard.trouble)
                edit = heard.refusal or applied(heard.text, files.texts, creatable)
                if isinstance(edit, Edited):
                    write(checkout, edit.texts)
                    self._note(transcript, f"changed {', '.join(edit.texts)}")
                    return Proposal(_idea(replace(edit, prose=self._redacted(edit.prose))), usage)
                refusal = edit
                self._note(transcript, f"refused: {refusal.words}")
                messages.append({"role": "assistant", "content": heard.text or "(no words)"})
                messages.append({"role": "user", "content": _AGAIN.format(why=refusal.words)})
        words = self._redacted(f"the reply was refused: {refusal.words}")
        return Proposal("", usage, error=words, trouble=Trouble(TroubleKind.REJECTED))

    async def _stream(self, messages: Sequence[Any]) -> _Heard:
        """Ask, and listen to the end. Whatever goes wrong between here and the model is an error of the `_Heard`."""
        import openai  # here, because it is an extra of this package

        options, environ = self._setup.options, self._setup.environ
        settings: dict[str, Any] = {} if options.temperature is None else {"temperature": options.temperature}
        text, finish, usage = "", "", _NOTHING_SAID
        try:
            async with openai.AsyncOpenAI(
                base_url=_endpoint(options, environ) or _OPENAI,
                api_key=environ.get(_KEY, "").strip() or "none",
                max_retries=0,  # the breaker of the run decides when to ask again
                timeout=openai.Timeout(options.agent_minutes * 60, connect=_CONNECT_SECONDS),
            ) as client:
                stream = await client.chat.completions.create(
                    model=options.model or "",
                    messages=list(messages),
                    stream=True,
                    stream_options={"include_usage": True},
                    **settings,
                )
                kind = stream.response.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    error = f"the endpoint answers with {kind or 'nothing'}, and not with a stream: is base_url right?"
                    return _Heard(error=error, trouble=Trouble(TroubleKind.CRASHED))
                async for chunk in stream:
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        finish = choice.finish_reason or finish
                    if chunk.usage:
                        told = chunk.usage
                        cached = told.prompt_tokens_details.cached_tokens if told.prompt_tokens_details else None
                        asked, said = tokens([told.prompt_tokens]), tokens([told.completion_tokens])
                        usage = Usage(0.0, asked, said, cached_tokens=tokens([cached]))
                    if len(text) > _REPLY_CHARS:
                        return _Heard(text, usage, Refusal(f"it was longer than {_REPLY_CHARS} characters"))
        except openai.APIStatusError as refused:
            error = f"HTTP {refused.status_code}: {self._line(refused.message)}"
            return _Heard(text, usage, error=error, trouble=_trouble(refused))
        except openai.APIError as broken:
            error = f"{self._line(broken.message)} {self._line(str(broken.__cause__ or ''))}".rstrip()
            return _Heard(text, usage, error=error, trouble=Trouble(TroubleKind.UNAVAILABLE))
        except (ValueError, TypeError, AttributeError, RecursionError) as unreadable:  # the client checks no shapes
            error = f"the endpoint's stream cannot be read: {self._line(str(unreadable))}"
            return _Heard(text, usage, error=error, trouble=Trouble(TroubleKind.UNAVAILABLE))
        if not finish:
            error = "the stream ended before the answer did"
            return _Heard(text, usage, error=error, trouble=Trouble(TroubleKind.UNAVAILABLE))
        return _Heard(text, usage, _UNFINISHED.get(finish))

    def _note(self, transcript: TextIO, words: str) -> None:
        transcript.write(f"{self._redacted(words)}\n\n")
        transcript.flush()

    def _line(self, words: str) -> str:
        """What others say, on a line. A key is looked for before anything is cut off: half of one is not found."""
        return one_line(self._redacted(words), 500)

    def _redacted(self, words: str) -> str:
        return redacted(words, self._setup.options, self._setup.environ)


@dataclass(frozen=True, slots=True)
class _Heard:
    """A reply; with a `refusal` where it cannot be one, and with an `error` where there is none."""

    text: str = ""
    usage: Usage = _NOTHING_SAID
    refusal: Refusal | None = None
    error: str | None = None
    trouble: Trouble | None = None


_UNFINISHED = {
    "length": Refusal("it was cut off, because it was too long: say less around the blocks"),
    "content_filter": Refusal("the endpoint's filter cut it off"),
}


async def _heard(asking: Coroutine[Any, Any, _Heard], deadline: float, cancel: threading.Event) -> _Heard:
    """What comes of `asking`, unless it is `deadline` before, or the run is to end: then the connection is closed."""
    task = asyncio.ensure_future(asking)
    while not task.done():
        left = deadline - time.monotonic()
        if cancel.is_set() or left <= 0:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if cancel.is_set():
                return _Heard(error="the agent was cancelled")
            return _Heard(error="the model did not end in time", trouble=Trouble(TroubleKind.TIMEOUT))
        await asyncio.wait({task}, timeout=min(left, _TICK_SECONDS))
    return task.result()


def _endpoint(options: Options, environ: Mapping[str, str]) -> str:
    """The URL of the endpoint; "" is OpenAI's own."""
    return options.base_url or environ.get(_URL, "")


def _prompt(brief: str, files: Shown) -> str:
    """The files first: lanes that stand on the same commit begin alike, which is what caches of providers look at."""
    parts = [f"# The files in scope\n\n{len(files.texts)} files, as they stand, word for word.\n"]
    for path, text in files.texts.items():
        fence = "`" * max(4, 1 + max(map(len, re.findall("`+", text)), default=0))
        parts.append(f"{path}\n{fence}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}\n")
    if files.left_out:
        named = [f"- {path}: {why}" for path, why in files.left_out.items()]
        more = [f"- and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
        what = f"Left out, and not yours to change (there is room for {LIMIT_BYTES} bytes):"
        parts.append("\n".join((what, *named[:_NAMED], *more, "")))
    return "\n".join((*parts, brief.rstrip(), _FORM.format(idea_line=IDEA_LINE, lines=WHOLE_LINES)))


def _idea(edit: Edited) -> str:
    """The last line `idea:` of the reply, else its hypothesis."""
    hypothesis = _HYPOTHESIS.search(edit.prose)
    otherwise = hypothesis[1] if hypothesis else f"an edit of {', '.join(edit.texts)}"
    return idea_in(f"idea: {otherwise}\n{edit.prose}")


def _trouble(error: Any) -> Trouble:
    """What an HTTP status says, and the seconds of its `Retry-After`."""
    spent = error.code == "insufficient_quota"  # it comes with 429, and waiting does not mend it
    if spent:
        return Trouble(TroubleKind.AUTH)
    asked = error.response.headers.get("retry-after", "")
    return answered(error.status_code, f"Retry-After: {asked}") or Trouble(TroubleKind.CRASHED)
