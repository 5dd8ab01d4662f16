"""What all verbs share: the options that name a run and pick JSON, and how data is printed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from autoresearch_ray.cli import JSON_MODE

Function = TypeVar("Function", bound=Callable[..., Any])

COLOURS = {"keep": "green", "crash": "red", "lost": "yellow", "discard": "bright_black"}


def naming(function: Function) -> Function:
    """The options `--tag` and `--folder`, which name a run."""
    folder = click.option(
        "--folder",
        metavar="PATH",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="Where program.md lies, or a run's own folder; default: here and above.",
    )
    return click.option("--tag", metavar="TAG", help="The run; default: the latest one.")(folder(function))


def answering(*, document: bool = False) -> Callable[[Function], Function]:
    """The option `--json`: automatic when stdout is not a terminal, but for a `document`, which is the same text
    wherever it goes."""

    def picked(ctx: click.Context, parameter: click.Parameter, value: bool | None) -> bool:
        as_json = not document and not sys.stdout.isatty() if value is None else value
        ctx.meta[JSON_MODE] = as_json
        return as_json

    automatic = "" if document else " JSON is automatic when piped."
    return click.option(
        "--json/--text",
        "as_json",
        default=None,
        is_eager=True,
        callback=picked,
        help=f"Print JSON, or text.{automatic}",
    )


def reading(*, document: bool = False) -> Callable[[Function], Function]:
    """The options `--tag`, `--folder` and `--json` of every reading verb; `document` as in `answering`."""

    def decorate(function: Function) -> Function:
        return naming(answering(document=document)(function))

    return decorate


def print_json(value: Any) -> None:
    """One JSON document on one line. What is not finite becomes null, because JSON has no NaN."""
    click.echo(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """The rows as lines of aligned columns, two blanks apart; the columns of `right` are set flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def coloured(text: str, status: str) -> str:
    """`text` in the colour of a status; click takes the colour off again where stdout is not a terminal."""
    return click.style(text, fg=COLOURS.get(status))


def printable(text: str) -> str:
    """`text` without the control characters that could rewrite a terminal: agents and evaluations write logs."""
    return "".join(each for each in text if each.isprintable() or each in "\n\t")
