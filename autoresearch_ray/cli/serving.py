"""The verb that lets a coding agent drive a run: `mcp`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from autoresearch_ray.cli.output import naming


@click.command(epilog="Example: autoresearch-ray mcp --folder ~/project")
@click.option("--read-only", is_flag=True, help="Only the tools that read: nothing can be submitted or told.")
@click.option("--by", metavar="NAME", default="mcp", show_default=True, help="Who hands experiments in, for the log.")
@naming
def mcp(read_only: bool, by: str, tag: str | None, folder: Path | None) -> None:
    """Serve a run to a coding agent as MCP tools, on stdin and stdout.

    An agent starts this by itself; `autoresearch-ray install --mcp` prints how to register it with each. The run is
    looked for at each call, so it may begin later.
    """
    from autoresearch_ray.driving import Driving
    from autoresearch_ray.mcp_server import serve
    from autoresearch_ray.tools import Tools

    if sys.stdin.isatty():
        click.echo("this speaks MCP on stdin and stdout, and waits for a client; Ctrl-C ends it", err=True)
    serve(Tools(tag, folder) if read_only else Driving(tag, folder, by))
