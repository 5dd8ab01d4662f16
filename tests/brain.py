"""What the model of the stub provider says: one edit, by whatever means the agent that asks has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Edit = tuple[str, str, str]  # path, what stands there, what shall

_PAIRS = (("oldString", "newString"), ("old_string", "new_string"), ("old_str", "new_str"))
_PATHS = ("filePath", "file_path", "path", "target_file", "absolute_path")
_READERS = ("read", "read_file", "view")
_SHELLS = (
    "bash",
    "shell",
    "exec_command",
    "shell_command",
    "local_shell",
    "run_shell_command",
    "execute_command",
    "terminal",
    "developer__shell",
)
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"  # what one of the agents wants to be printed at the end
_FOLDER = re.compile(r"(?:[Ww]orking directory|working in the directory|cwd)[:=]\s*['\"`]?([^\s'\"`]+)")
_TITLE = re.compile(r"generate a (?:brief |short )?title|title generator|thread title", re.IGNORECASE)


@dataclass(frozen=True)
class Heard:
    """What a client said, whatever the protocol: (role, text) by turns; of each tool the schema of its arguments."""

    system: str
    turns: tuple[tuple[str, str], ...]
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n".join((self.system, *(text for _, text in self.turns)))

    def count(self, role: str) -> int:
        return sum(each == role for each, _ in self.turns)


@dataclass(frozen=True)
class Reply:
    """Words, or a call of one tool; `cut` where the tokens ended."""

    words: str = ""
    call: tuple[str, dict[str, Any]] | None = None
    cut: bool = False


def answer(heard: Heard, edit: Edit, mode: str) -> Reply:
    """The next turn of the conversation that comes to `edit`."""
    path, old, new = edit
    idea = " ".join(new.split()) or f"no {' '.join(old.split())}"
    done = f"I changed {path}.\n\nidea: {idea}"
    if mode == "empty":
        return Reply()
    if mode == "length":
        return Reply(f"HYPOTHESIS: {idea}\n\n{path}\n<<<<<<< SEARCH\n{old}\n=======\n", cut=True)
    if mode == "garbage":
        return Reply("Sure! ```json\n{oops")
    if mode == "badsearch":
        old = "THIS LINE IS NOT IN THE FILE"
    if not heard.tools and _TITLE.search(heard.text):
        return Reply("One constant")
    arguments = {name: frozenset(schema.get("properties", {})) for name, schema in heard.tools.items()}
    shell = next((name for known in _SHELLS for name in arguments if name.lower() == known), None)
    results = heard.count("tool")
    for name, parameters in arguments.items():
        pair = next((each for each in _PAIRS if parameters.issuperset(each)), None)
        several = {"path", "edits"} <= parameters  # each edit is {"oldText", "newText"}
        if pair is None and not several:
            continue
        full = _full(heard, path)
        reader = next((each for each in arguments if each.lower() in _READERS), None)
        if reader and results == 0:  # some refuse to edit what was not read
            return Reply(call=(reader, {_first(_PATHS, arguments[reader]): full}))
        if results == (1 if reader else 0):
            change = {pair[0]: old, pair[1]: new} if pair else {"edits": [{"oldText": old, "newText": new}]}
            return Reply(call=(name, {_first(_PATHS, parameters): full, **change}))
        return Reply(done)
    if shell:
        if results == 0:
            return Reply("I change one constant.", (shell, _shelled(heard.tools[shell], _script(path, old, new))))
        if results == 1 and _SUBMIT in heard.text:
            command = f"echo {_SUBMIT} && echo 'idea: {idea}'"
            return Reply("Done.", (shell, _shelled(heard.tools[shell], command)))
        return Reply(done)
    if "mswea_bash_command" in heard.text:
        command = _script(path, old, new) if heard.count("assistant") == 0 else f"echo {_SUBMIT}"
        return Reply(f"THOUGHT: one constant.\n\n```mswea_bash_command\n{command}\n```")
    return Reply(f"HYPOTHESIS: {idea}\n\n{block((path, old, new))}\n\nidea: {idea}\n")


def block(edit: Edit) -> str:
    """The edit as a SEARCH/REPLACE block in a fence, under its path."""
    path, old, new = edit
    return f"{path}\n```\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n```"


def _full(heard: Heard, path: str) -> str:
    """The whole path, where the agent says in which folder it works."""
    folder = _FOLDER.search(heard.text)
    return f"{folder[1].rstrip('/')}/{path}" if folder else path


def _first(names: tuple[str, ...], among: frozenset[str]) -> str:
    return next((each for each in names if each in among), "path")


def _script(path: str, old: str, new: str) -> str:
    """The edit as a shell command, which fails unless `old` stands there exactly once."""
    return (
        "python3 - <<'EOF'\nimport pathlib\n"
        f"path = pathlib.Path({path!r})\ntext = path.read_text()\nassert text.count({old!r}) == 1\n"
        f"path.write_text(text.replace({old!r}, {new!r}))\nEOF"
    )


def _shelled(schema: dict[str, Any], command: str) -> dict[str, Any]:
    properties = schema.get("properties", {})
    name = "cmd" if "cmd" in properties and "command" not in properties else "command"
    words = ["bash", "-lc", command] if properties.get(name, {}).get("type") == "array" else command
    return {name: words} | ({"description": "edit one constant"} if "description" in properties else {})
