"""What this program can do, as data: taken from the commands, the classes and the folders themselves."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from autoresearch_ray import errors
from autoresearch_ray.board import Board
from autoresearch_ray.cli import VERBS, main
from autoresearch_ray.events import Opened
from autoresearch_ray.model import Direction, Eval, Metric, Options, Program, Scope, Status
from autoresearch_ray.ports import names
from autoresearch_ray.results import record, tsv

STATUSES = {
    "0": "done",
    "1": "failed, and a retry may help",
    "2": "something must be fixed first: the message says what, the hint how",
    "130": "interrupted",
}
FILES = {
    "program.md": "what a human writes: Scope, Eval, Strategy, Notes; front matter says how to run",
    ".autoresearch/TAG/ledger.jsonl": "every event of the run, a JSON array for each hand-in; all else is its replay",
    ".autoresearch/TAG/program.md": "the program as the run began with it",
    ".autoresearch/TAG/hub.git": "a bare repository with every commit that was tried",
    ".autoresearch/TAG/inbox/": "messages to the living run, one JSON document each; written by `submit` and `tell`",
    ".autoresearch/TAG/logs/LANE/N.log": "what an evaluation printed; N.agent.log what its agent did",
    ".autoresearch/TAG/results.tsv": "five columns, written at the end, as `export` prints it at any time",
    ".autoresearch/TAG/results.jsonl": "one object for each experiment, as `export --format jsonl` prints it",
    ".autoresearch/TAG/report.md": "the report, with progress.png beside it",
}
_CLOSETS = ("agents", "policies", "monitors")


def described() -> dict[str, Any]:
    """All of it, as JSON."""
    from autoresearch_ray.driving import Driving
    from autoresearch_ray.mcp_server import offered

    board = _blank()
    return {
        "name": "autoresearch-ray",
        "version": metadata.version("autoresearch-ray"),
        "stdout": "data; JSON with --json, which reading verbs take by themselves when they are piped",
        "stderr": "talk; with --json an error is one object with the keys error, message and hint",
        "exit_statuses": STATUSES,
        "errors": {each.__name__: {"exit_status": each.exit_status, "means": _first(each)} for each in _errors()},
        "verbs": {name: _verb(name) for name in VERBS},
        "mcp_tools": {name: _first(each) for name, each in offered(Driving()).items()},
        "front_matter": {each.name: None if each.default is MISSING else each.default for each in fields(Options)},
        "names": {closet: names(closet) for closet in _CLOSETS},
        "statuses": [str(each) for each in Status],
        "formats": {
            "results.tsv": tsv(board).splitlines()[0].split("\t"),
            "results.jsonl": list(record(board, board.experiments[0])),
        },
        "files": FILES,
    }


def in_words(facts: dict[str, Any]) -> str:
    """The same for a terminal, in short."""
    verbs = "\n".join(f"  {name:<12}{each['summary']}" for name, each in facts["verbs"].items())
    statuses = "\n".join(f"  {code:<12}{meaning}" for code, meaning in facts["exit_statuses"].items())
    return f"{facts['name']} {facts['version']}\n\nverbs\n{verbs}\n\nexit statuses\n{statuses}\n\n--json has all of it"


def _verb(name: str) -> dict[str, Any]:
    command = main.get_command(click.Context(main), name)
    assert command is not None, name
    parameters = [_parameter(each) for each in command.params]
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    return {
        "summary": command.get_short_help_str(200),
        "help": "\n\n".join(filter(None, (text, command.epilog))),
        "json": any("--json" in each.opts for each in command.params),
        "arguments": [each for each in parameters if not each["flags"]],
        "options": [each for each in parameters if each["flags"]],
    }


def _parameter(parameter: click.Parameter) -> dict[str, Any]:
    facts = parameter.to_info_dict()
    default = str(facts["default"]) if isinstance(facts["default"], Path) else facts["default"]
    flags = [*parameter.opts, *parameter.secondary_opts] if isinstance(parameter, click.Option) else []
    return {
        "name": parameter.name,
        "flags": flags,
        "type": parameter.type.name,
        "choices": list(parameter.type.choices) if isinstance(parameter.type, click.Choice) else None,
        "required": parameter.required,
        "multiple": parameter.multiple if isinstance(parameter, click.Option) else parameter.nargs == -1,
        "default": default if isinstance(default, bool | int | float | str) else None,
        "help": facts.get("help"),
    }


def _errors() -> list[type[errors.AutoresearchError]]:
    every = [each for each in vars(errors).values() if inspect.isclass(each)]
    return [each for each in every if issubclass(each, errors.AutoresearchError)]


def _first(documented: object) -> str:
    """The first line of what its docstring says."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _blank() -> Board:
    """A run in which nothing has happened: its exports have their columns."""
    evaluation = Eval("true", Metric("metric", Direction.LOWER), 1.0, 2.0)
    return Board(Opened(0.0, "tag", "", "", Program("", "", Scope(("*",)), evaluation), "", ""))
