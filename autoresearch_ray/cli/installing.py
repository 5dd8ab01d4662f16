"""The verbs that teach agents: install, guide, agent-info."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoresearch_ray.cli.output import answering, columns, print_json
from autoresearch_ray.errors import SetupError

if TYPE_CHECKING:
    from autoresearch_ray.skill import Agent


@dataclass(frozen=True, slots=True)
class Place:
    """One file to be, the agents that read it, and what becomes of it: written, updated, unchanged or changed."""

    path: Path
    agents: tuple[str, ...]
    state: str


@click.command()
@click.argument("agents", metavar="[AGENT]...", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="For every agent that is known.")
@click.option("--project/--user", default=True, help="Into this folder (the default), or into the home.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.option("--force", is_flag=True, help="Overwrite a skill that somebody has changed.")
@click.option("--mcp", is_flag=True, help="Write nothing; print how each registers the MCP server of this folder.")
@answering()
def install(
    agents: tuple[str, ...], everyone: bool, project: bool, dry_run: bool, force: bool, mcp: bool, as_json: bool
) -> None:
    """Write the skill, one SKILL.md, where coding agents look for it; default: for those that are on the PATH.

    Agents that look in the same place share the file. A file that was changed since it was written is left alone, and
    the exit status is 2 then.

    \b
    Example:
        autoresearch-ray install claude codex
        autoresearch-ray install --all --user --dry-run
        autoresearch-ray install opencode --mcp
    """
    from importlib import metadata  # not for --help

    from autoresearch_ray.skill import skill

    chosen = _chosen(agents, everyone)
    if mcp:
        _print_registrations(chosen, as_json)
        return
    text = skill(metadata.version("autoresearch-ray"))
    places = [_state(path, names, text) for path, names in _paths(chosen, project).items()]
    for each in places:
        if not dry_run and (each.state in ("written", "updated") or (force and each.state == "changed")):
            _write(each.path, text)
    done = [_told(each, dry_run, force) for each in places]
    if as_json:
        print_json([{"path": str(path), "agents": list(names), "state": state} for path, names, state in done])
    else:
        for said in columns([(state, str(path), ", ".join(names)) for path, names, state in done]):
            click.echo(said)
    changed = [str(each.path) for each in places if each.state == "changed" and not force]
    if changed:
        raise SetupError(f"changed by somebody, and left alone: {', '.join(changed)}", "--force overwrites it")


def _chosen(names: tuple[str, ...], everyone: bool) -> list[Agent]:
    from autoresearch_ray.skill import AGENTS, WITHOUT

    for name in names:
        if name in WITHOUT:
            raise SetupError(f"{name} reads no skills", WITHOUT[name])
        if name not in AGENTS:
            raise SetupError(f"there is no agent {name!r}", f"known: {', '.join(AGENTS)}")
    if everyone or names:
        return [each for name, each in AGENTS.items() if everyone or name in names]
    found = [each for each in AGENTS.values() if each.program and shutil.which(each.program)]
    if not found:
        raise SetupError("no agent that is known is on the PATH", f"name one, or --all: {', '.join(AGENTS)}")
    return found


def _paths(agents: Iterable[Agent], project: bool) -> dict[Path, list[str]]:
    """The files to be, each with the agents that read it."""
    from autoresearch_ray.skill import file_below

    found: dict[Path, list[str]] = {}
    for each in agents:
        skills = each.project if project else each.user
        if skills is None:
            click.echo(f"{each.name}: where it looks in the home is not known; --project is", err=True)
            continue
        try:
            path = Path(file_below(skills)).expanduser()
        except RuntimeError as error:
            raise SetupError("this user has no home", "export HOME, or leave --user out") from error
        found.setdefault(path if path.is_absolute() else Path.cwd() / path, []).append(each.name)
    return found


def _state(path: Path, agents: list[str], text: str) -> Place:
    from autoresearch_ray.skill import is_ours

    try:
        if path.exists() and not path.is_file():  # of a pipe, reading would wait for a writer
            raise SetupError(f"{path} is not a file", "move it away, and install again")
        there = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        state = "written"
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {path}: {error}", "move it away, and install again") from error
    else:
        state = "unchanged" if there == text else "updated" if is_ours(there) else "changed"
    return Place(path, tuple(agents), state)


def _told(place: Place, dry_run: bool, force: bool) -> tuple[Path, tuple[str, ...], str]:
    state = "overwritten" if force and place.state == "changed" else place.state
    would = dry_run and state in ("written", "updated", "overwritten")
    return place.path, place.agents, f"would be {state}" if would else state


def _write(path: Path, text: str) -> None:
    """Beside it first: an interrupted write would look like somebody's change."""
    path = path.resolve()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise SetupError(f"cannot write {path}: {error.strerror}", "make that folder writable") from error


def _print_registrations(agents: list[Agent], as_json: bool) -> None:
    from autoresearch_ray.skill import registration

    command = [sys.executable, "-m", "autoresearch_ray", "mcp", "--folder", str(Path.cwd())]
    known = [(each, registration(each, command)) for each in agents if each.mcp_file]
    if as_json:
        print_json([{"agent": each.name, "file": each.mcp_file, "text": text} for each, text in known])
        return
    for each in agents:
        if not each.mcp_file:
            click.echo(f"{each.name}: it has no MCP, or where it is registered is not known", err=True)
    click.echo("\n\n".join(f"# {each.name}: {each.mcp_file}\n{text}" for each, text in known))


@click.command(epilog="Example: autoresearch-ray guide")
def guide() -> None:
    """Print the method: how to write program.md, run it, read its results, and feed it experiments. Markdown."""
    from autoresearch_ray import skill

    click.echo(skill.guide(), nl=False)


@click.command("agent-info", epilog="Example: autoresearch-ray agent-info | jq '.verbs.submit.options'")
@answering()
def agent_info(as_json: bool) -> None:
    """What this program can do, for machines: its verbs with their options, exit statuses, formats and files."""
    from autoresearch_ray.cli.describing import described, in_words

    facts: dict[str, Any] = described()
    if as_json:
        print_json(facts)
    else:
        click.echo(in_words(facts))
