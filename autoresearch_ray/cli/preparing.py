"""The verbs before the first run: init and doctor."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from autoresearch_ray.cli.output import answering, columns, print_json
from autoresearch_ray.errors import SetupError

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
@answering()
def init(folder: Path, as_json: bool) -> None:
    """Write a program.md to start from into FOLDER (default: here). What is there is never overwritten.

    \b
    Example:
        autoresearch-ray init
        autoresearch-ray init ~/project
    """
    import importlib.resources  # not for --help

    path = folder / "program.md"
    text = importlib.resources.files("autoresearch_ray").joinpath("blank.md").read_text(encoding="utf-8")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise SetupError(f"{path} is there already", "edit it, or name another folder") from error
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}", "name a folder that can be written") from error
    if as_json:
        print_json({"program": str(path)})
    click.echo(
        f"wrote {path}: say there what may change and what is measured, then `autoresearch-ray doctor`", err=True
    )


@click.command()
@click.argument("program", type=click.Path(path_type=Path), default=Path("program.md"))
@answering()
def doctor(program: Path, as_json: bool) -> None:
    """Say what works on this machine, and whether PROGRAM (default: program.md here) could run on it.

    Nothing is started and nothing is written. The exit status is 2 if a run could not start.

    \b
    Example:
        autoresearch-ray doctor
        autoresearch-ray doctor --json | jq '.checks[] | select(.state != "ok")'
    """
    from autoresearch_ray.doctor import checks

    found = checks(program, os.environ)
    well = all(each.state != "fail" for each in found)
    if as_json:
        print_json({"could_run": well, "checks": [asdict(each) for each in found]})
    else:
        for each, said in zip(found, columns([(each.state, each.name, each.words) for each in found]), strict=True):
            click.echo(click.style(said, fg=_COLOURS[each.state]))
            if each.hint:
                click.echo(f"      hint: {each.hint}")
    if not well:
        sys.exit(2)
