"""The MCP server: what an agent may ask of a run (`tools`), over stdio. Nothing but the protocol goes to stdout.

The only file that imports `mcp`, the official SDK, which is an extra.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import metadata
from typing import Any

from autoresearch_ray.errors import AutoresearchError, SetupError
from autoresearch_ray.tools import Tools

INSTRUCTIONS = """\
You drive a research run: you propose changes to the files in scope as patches, the run measures each on its own GPUs
with a fixed time budget, and decides what is kept. Read `program`, then `leaderboard` and `history`. Hand in several
different ideas at once with `submit_grid`, one change each, ask for them with `results`, and let what you learn decide
the next grid. Numbers have standard errors; what differs by less than two of them is not told apart.
"""
WRITES = {"submit", "submit_grid", "tell"}  # clients may ask their human before these


def offered(tools: Tools) -> dict[str, Callable[..., Any]]:
    """The tools of a server by their names: the public methods."""
    return {name: each for name, each in inspect.getmembers(tools, inspect.ismethod) if not name.startswith("_")}


def server(tools: Tools) -> Any:
    """The SDK's server with these tools. Raises `SetupError` if the SDK is not installed."""
    try:
        from mcp.server import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError as error:
        raise SetupError(f"the MCP server needs the SDK: {error}", 'pip install "autoresearch-ray[mcp]"') from error
    version = metadata.version("autoresearch-ray")
    made = MCPServer("autoresearch", instructions=INSTRUCTIONS, version=version, log_level="WARNING")
    for name, tool in offered(tools).items():
        made.add_tool(_told(tool), name=name, annotations=ToolAnnotations(read_only_hint=name not in WRITES))
    return made


def serve(tools: Tools) -> None:
    """Serve on stdin and stdout until the client closes them."""
    server(tools).run(transport="stdio")


def _told(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with our errors as the model should read them: the SDK keeps the words of all others to itself."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(tool)
    def told(**arguments: Any) -> Any:
        try:
            return tool(**arguments)
        except AutoresearchError as error:
            raise ToolError(str(error)) from error

    return told
