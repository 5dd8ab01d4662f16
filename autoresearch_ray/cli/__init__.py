"""The command line. stdout is data, stderr is talk.

Exit status 0: done, 1: failed and a retry may help, 2: something must be fixed first, 130: interrupted.

A verb is a function in a file of this folder, and one line in `VERBS`. It is imported when it is used, so that `--help`
and the reading verbs start without Ray, pydantic or git.
"""

from __future__ import annotations

import importlib
import json

import click

from autoresearch_ray.errors import AutoresearchError

VERBS = {
    "init": "preparing:init",
    "doctor": "preparing:doctor",
    "run": "running:run",
    "resume": "running:resume",
    "status": "reading:status",
    "log": "reading:log",
    "lessons": "lessons:lessons",
    "best": "reading:best",
    "diff": "reading:diff",
    "show": "reading:show",
    "export": "reading:export",
    "report": "reading:report",
    "watch": "reading:watch",
    "stop": "running:stop",
    "tell": "steering:tell",
    "pause": "steering:pause",
    "resume-lane": "steering:resume_lane",
    "submit": "steering:submit",
    "results": "steering:results",
    "mcp": "serving:mcp",
    "install": "installing:install",
    "guide": "installing:guide",
    "agent-info": "installing:agent_info",
}

JSON_MODE = "autoresearch_ray.json"  # in click's `meta`: whether the verb answers in JSON, and errors with it


class Verbs(click.Group):
    """A group that imports a verb when it is asked for, and turns errors into a message, a hint and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, function = VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AutoresearchError as error:
            click.echo(_as_json(error) if ctx.meta.get(JSON_MODE) else f"error: {error}", err=True)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            ctx.exit(130)


def _as_json(error: AutoresearchError) -> str:
    return json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint})


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autoresearch-ray")
def main() -> None:
    """Autoresearch on every GPU you have, with results you can believe in the morning."""
