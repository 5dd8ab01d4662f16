"""The method as text: one source, `guide.md`, for people, for `autoresearch-ray guide`, and for agents as a skill.

A skill is a folder `autoresearch` with a SKILL.md in it. Where each agent looks for skills and for MCP servers is data:
`AGENTS`. Pure, but for reading the source.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

NAME = "autoresearch"  # a skill's name is that of its folder
DESCRIPTION = (
    "Improve any number that a command can measure, by many small experiments on all GPUs of a machine or a cluster,"
    " each measured by the runner and kept only when it is better beyond the noise. Use when there is working code, a"
    " metric (training loss, accuracy, latency, score) and a budget of time: to write program.md, to start and follow a"
    " run of autoresearch-ray, to read its results, or to feed it experiments of your own, one by one or as a grid."
)
_STAMP = re.compile(r"<!-- autoresearch-ray \S+ ([0-9a-f]{64}) -->\n\Z")


@dataclass(frozen=True, slots=True)
class Agent:
    """Where one coding agent looks: for skills in a project and in the home ("~/..."), for MCP servers in `mcp_file`.

    None is "it does not" or "not known". `program` is what it is started as, where that is a name of its own.
    """

    name: str
    program: str | None
    project: str | None
    user: str | None
    mcp_file: str | None = None
    mcp_form: str = "mcpServers"


# By the documentation of each in November 2026; opencode, qwen and pi were tried as well.
AGENTS = {
    each.name: each
    for each in (
        Agent("claude", "claude", ".claude/skills", "~/.claude/skills", ".mcp.json"),
        Agent("codex", "codex", ".agents/skills", "~/.agents/skills", "~/.codex/config.toml", "toml"),
        Agent("gemini", "gemini", ".agents/skills", "~/.agents/skills", ".gemini/settings.json"),
        Agent("opencode", "opencode", ".agents/skills", "~/.agents/skills", "opencode.json", "opencode"),
        Agent("copilot", "copilot", ".agents/skills", "~/.copilot/skills", "~/.copilot/mcp-config.json"),
        Agent("cursor", "cursor-agent", ".agents/skills", "~/.cursor/skills", ".cursor/mcp.json"),
        Agent("windsurf", "windsurf", ".agents/skills", "~/.codeium/windsurf/skills"),
        Agent("goose", "goose", ".agents/skills", "~/.config/goose/skills", "the command line", "goose"),
        Agent("qwen", "qwen", ".agents/skills", "~/.agents/skills", ".qwen/settings.json"),
        Agent("pi", "pi", ".agents/skills", "~/.agents/skills"),
        Agent("amp", "amp", ".agents/skills", None, "settings.json", "amp.mcpServers"),
        Agent("augment", None, ".augment/skills", "~/.augment/skills"),
        Agent("roo", None, ".roo/skills", "~/.roo/skills"),
    )
}
WITHOUT = {  # what reads no skills, and what helps there
    "aider": "`autoresearch-ray guide > GUIDE.md`, then `aider --read GUIDE.md`",
    "mini": "`autoresearch-ray guide > GUIDE.md`, and name that file in its task",
}


def guide() -> str:
    """The method, as Markdown."""
    return importlib.resources.files(__package__).joinpath("guide.md").read_text(encoding="utf-8")


def skill(version: str) -> str:
    """SKILL.md: the front matter that agents pick it by, the method, and a stamp that tells whether it was changed."""
    text = f"---\nname: {NAME}\ndescription: {json.dumps(DESCRIPTION)}\n---\n\n{guide()}\n"
    return f"{text}<!-- autoresearch-ray {version} {_hash(text)} -->\n"


def is_ours(text: str) -> bool:
    """Whether `text` is a SKILL.md just as this version or an earlier one wrote it."""
    stamp = _STAMP.search(text)
    return stamp is not None and stamp[1] == _hash(text[: stamp.start()])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file_below(skills: str) -> PurePosixPath:
    """Where the skill goes in a folder of skills."""
    return PurePosixPath(skills) / NAME / "SKILL.md"


def registration(agent: Agent, command: Sequence[str]) -> str:
    """What registers the MCP server `command` with `agent`: the text to add to `agent.mcp_file`, or a flag."""
    program, *arguments = command
    plain = {"command": program, "args": arguments}
    match agent.mcp_form:
        case "toml":
            return f"[mcp_servers.{NAME}]\ncommand = {json.dumps(program)}\nargs = {json.dumps(arguments)}"
        case "opencode":
            server = {"type": "local", "command": list(command), "enabled": True}
            return json.dumps({"mcp": {NAME: server}}, indent=2)
        case "goose":
            return f"goose run --with-extension {shlex.quote(f'{NAME}:{shlex.join(command)}')}"
        case key:
            return json.dumps({key: {NAME: plain}}, indent=2)
