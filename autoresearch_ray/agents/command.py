"""Any program as an agent: it gets the prompt, edits files in a clean checkout, and exits.

This is also the ground that the presets for known tools stand on: each says how to start its tool and how to read what
it printed, and inherits the rest.
"""

from __future__ import annotations

import re
import shlex
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.agents._trouble import trouble_in
from autoresearch_ray.brief import one_line
from autoresearch_ray.errors import AgentError
from autoresearch_ray.model import Brief, Options, Proposal, Trouble, TroubleKind
from autoresearch_ray.ports import AgentSetup, Walls, secret_values

_TRANSCRIPT_BYTES = 8 << 20  # of one proposal; what is read back for the idea is never larger
_HEARD = 20  # lines at the end of a transcript in which a failure is looked for
_SAID = 64 << 10  # characters at its end in which the idea is looked for
_SESSION = re.compile(r"[A-Za-z0-9][\w.:-]{0,199}")  # it becomes an argument, and must not read as an option
_TRACED = re.compile(r'^(?:Traceback \(most recent call last\):|\s+File ".+", line \d+)', re.MULTILINE)
_PROGRAM = re.compile(  # a program's plain name, and none of the words that the shell itself knows
    r"\s*(?!(?:case|cd|command|echo|eval|exec|export|for|if|printf|read|set|test|trap|umask|unset|until|while)\s)"
    r"([A-Za-z][\w.+-]*)(?=\s|$)"
)


class Command:
    """Runs `agent_command` through the shell, in a clean checkout of the parent commit.

    The prompt is on stdin and in the file named by `AUTORESEARCH_PROMPT`, outside the checkout. `AUTORESEARCH_LANE`,
    `AUTORESEARCH_EXPERIMENT` and, where they were given, `AUTORESEARCH_MODEL` and `AUTORESEARCH_BASE_URL` are set as
    well. HOME stays the user's own, so that a login works. `CUDA_VISIBLE_DEVICES` is empty, because the GPU is
    measuring another candidate meanwhile. The wall clock is `agent_minutes`; after it, and after a normal exit, no
    process of the agent lives on.

    Asked to repair its edit, it finds the edit in the checkout, the reason in the last section of the prompt, and
    `AUTORESEARCH_REPAIR` set to 1. A preset that can go on with a conversation gives the id of it as
    `Proposal.session`, and finds it as `session` when it starts the repair; what is no plain word, such as `--flag`, is
    not handed on.
    """

    repairs = True

    def __init__(self, setup: AgentSetup) -> None:
        self.setup = setup
        self.folder = setup.folder.absolute()  # the agent's own directory is another one
        self.prompt = self.folder / "prompt.md"
        self.session = ""  # of the conversation to go on with; "" for a fresh one
        self._last = ("", "")  # the last experiment, and the conversation that its proposal came from

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if there is no command, if its first word is a program that is not on PATH, or if there
        are `extra_args`, which only a preset would know where to put.
        """
        if not options.agent_command or not options.agent_command.strip():
            raise AgentError("the agent `command` has no command", "give it one with --agent-command 'SHELL COMMAND'")
        word = _PROGRAM.match(options.agent_command)
        if word:
            installed(word[1], environ, "install it, or give its full path in --agent-command")
        if options.extra_args:
            raise AgentError("the agent `command` takes no extra_args", "write them into --agent-command")

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        """Run the agent once. Its timeout, its exit status and its own report of a failure go to `Proposal.error`.

        Whose doing that is, as far as its words tell, goes to `Proposal.trouble`.
        """
        experiment, session = self._last
        self.session = session if brief.repair and brief.id == experiment else ""
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        # The answer lies beside the log: a sandboxed agent could replace what stands in its own folder.
        prompt, answer = self.prompt, log.with_suffix(".answer")
        for each in (prompt, answer):
            trees.remove(each)
        prompt.write_text(brief.prompt, encoding="utf-8")
        minutes = self.setup.options.agent_minutes
        command, walls = self.start(checkout), self.walls()
        ended = process.run(
            walls.around(command, checkout, self.home()) if walls else command,
            cwd=checkout,
            environ=self.environ()
            | {"AUTORESEARCH_PROMPT": str(prompt), "AUTORESEARCH_EXPERIMENT": brief.id}
            | ({"AUTORESEARCH_REPAIR": "1"} if brief.repair else {}),
            log=log,
            timeout_seconds=minutes * 60,
            stdout=answer,
            stdin=brief.prompt.encode(),
            cap_bytes=_TRANSCRIPT_BYTES,
            cancel=cancel,
            walled=walls is not None,
        )
        self._redact(log, answer)
        text = _taken(answer)
        said = self.read(text)
        self._last = (brief.id, said.session if _SESSION.fullmatch(said.session) else "")
        error = said.error
        if ended.why == "timeout":
            error = f"the agent was stopped after {minutes:g} minutes"
        elif ended.why == "cancelled":
            error = "the agent was cancelled"
        elif ended.why == "lost":
            error = "the agent's guardian vanished"
        elif ended.code != 0 and (error is None or not text.strip()):
            error = f"the agent exited with status {ended.code}: {one_line(_complaint(log), 500)}"
        words = said.error if said.error and text.strip() else process.tail(log, lines=_HEARD)
        failed = said.error is not None or (ended.why == "exit" and ended.code != 0)
        trouble = said.trouble or trouble_in(words, failed=failed)
        if ended.why == "timeout":  # most tools go on trying for longer than anybody waits, and may have said why
            trouble = trouble or Trouble(TroubleKind.TIMEOUT)
        elif trouble and error is None:
            heard = said.idea if said.trouble else words[-500:]  # a preset knows what of it are the model's words
            error = f"the agent ended as if all were well, and said: {one_line(heard, 500)}"
        return replace(said, usage=replace(said.usage, seconds=ended.wall_seconds), error=error, trouble=trouble)

    def start(self, checkout: Path) -> str | Sequence[str]:
        """What is run in `checkout`: a string for the shell, or a program and its arguments. A preset says its own.

        The prompt is on its stdin, and in the file `prompt` by then.
        """
        return self.setup.options.agent_command or ""

    def walls(self) -> Walls | None:
        """The sandbox that it runs in, where there is one."""
        return self.setup.walls

    def home(self) -> Sequence[str] | None:
        """What it needs of the user's home in a sandbox, to read and write: a login. None: all of it, to read."""
        return None

    def environ(self) -> dict[str, str]:
        """The whole environment of the agent. A preset adds to it."""
        added = {"AUTORESEARCH_LANE": self.setup.lane, "CUDA_VISIBLE_DEVICES": ""}
        if self.setup.options.model:
            added["AUTORESEARCH_MODEL"] = self.setup.options.model
        if self.setup.options.base_url:
            added["AUTORESEARCH_BASE_URL"] = self.setup.options.base_url
        return dict(self.setup.environ) | added

    def read(self, stdout: str) -> Proposal:
        """What the agent said of itself on stdout: the idea and, where a preset knows how, tokens, dollars, errors."""
        return Proposal(idea_in(stdout))

    def _redact(self, *files: Path) -> None:
        """Take the values of secrets out of what the agent wrote: logs are kept, and shown to people and agents."""
        values = secret_values(self.setup.options, self.setup.environ)
        for file in files:
            with suppress(OSError), process.opened(file) as opened:  # it is not there, or no file any more
                text = said = opened.read()
                for value in values:
                    text = text.replace(value.encode(), b"[secret]")
                if text != said:
                    file.write_bytes(text)


def _taken(answer: Path) -> str:
    """The text of a plain file, "" where there is none; whatever stands there is removed."""
    text = b""
    with suppress(OSError), process.opened(answer) as file:  # without a sandbox an agent may have put a pipe there
        text = file.read()
    trees.remove(answer)
    return text.decode(errors="replace")


def _complaint(log: Path) -> str:
    """What a log ends with: of a traceback its last line alone, since the rest would take the room that there is."""
    end = process.tail(log, lines=5)
    return end.rstrip().rpartition("\n")[2] if _TRACED.search(end) else end


def idea_in(text: str) -> str:
    """The last line `idea: ...` of what an agent said; without one, its last line that is not empty."""
    lines = [each for each in (one_line(line, 220) for line in text[-_SAID:].splitlines()) if each]
    for line in reversed(lines):
        mark, colon, idea = line.lstrip("*_`#>- ").partition(":")
        if colon and mark.strip("*_` ").lower() == "idea" and idea.strip("*_` "):
            return one_line(idea.strip("*_` "))
    return one_line(lines[-1]) if lines else "no description"


def installed(program: str, environ: Mapping[str, str], hint: str) -> None:
    """Raise `AgentError` with `hint` unless `program` is found on the PATH of `environ`."""
    if shutil.which(program, path=environ.get("PATH", "")) is None:
        raise AgentError(f"{shlex.quote(program)} is not on PATH", hint)


def modelled(agent: str, options: Options, example: str) -> None:
    """Raise `AgentError` unless a model is named; `example` is one in the words of the agent's tool."""
    if not options.model:
        words = " for --base-url" if options.base_url else ""
        raise AgentError(f"the agent `{agent}` has no model{words}", f"name it with --model, for example {example}")


def bound(agent: str, options: Options) -> None:
    """Raise `AgentError` if `agent` is to be pointed at an endpoint, and its tool knows its own provider alone."""
    if options.base_url:
        raise AgentError(
            f"the agent `{agent}` speaks with its own provider, and with no other endpoint",
            "leave base_url out, or take aider, opencode, pi or qwen",
        )
