"""The verbs that steer a run while it goes on: tell, pause, resume-lane, submit, results.

They write messages into the run's folder and read its ledger. Where no driver lives, a message waits for the next one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch_ray.cli.folder import driver, find
from autoresearch_ray.cli.output import coloured, columns, print_json, reading
from autoresearch_ray.errors import SetupError

if TYPE_CHECKING:
    from autoresearch_ray.steering import Patch, Result

_TAKEN_UP_SECONDS = 30.0  # a driver looks five times a second, and may be busy for some of them

_PATH = re.compile(r"^\+\+\+ (?:[ab]/)?(\S+)", re.MULTILINE)


@click.command()
@click.argument("text")
@click.option(
    "--lane", "lanes", metavar="NAME", multiple=True, help="Tell this lane alone; may be given several times."
)
@click.option("--all", "everybody", is_flag=True, help="Tell all lanes, which is the default.")
@click.option("--keep", is_flag=True, help="For the rest of the run; default: for the next three proposals of a lane.")
@reading()
def tell(
    text: str, lanes: tuple[str, ...], everybody: bool, keep: bool, tag: str | None, folder: Path | None, as_json: bool
) -> None:
    """Say TEXT to the agents: it stands in their next prompts, and nothing is stopped for it.

    \b
    Example:
        autoresearch-ray tell "try rotary base 50k"
        autoresearch-ray tell "leave the optimiser alone" --lane gpu3 --keep
    """
    from autoresearch_ray import steering

    if lanes and everybody:
        raise SetupError("--all and --lane contradict each other", "give one of them")
    _send(find(tag, folder), as_json, lambda run: steering.tell(run, text, lanes, keep=keep))


@click.command()
@click.argument("lane")
@reading()
def pause(lane: str, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """Have LANE finish what it is about and wait; the others go on, and the run does not wait for it.

    \b
    Example:
        autoresearch-ray pause gpu3
    """
    from autoresearch_ray import steering

    _send(find(tag, folder), as_json, lambda run: steering.hold(run, lane))


@click.command()
@click.argument("lane")
@reading()
def resume_lane(lane: str, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """Let LANE go on that was paused.

    \b
    Example:
        autoresearch-ray resume-lane gpu3
    """
    from autoresearch_ray import steering

    _send(find(tag, folder), as_json, lambda run: steering.release(run, lane))


@click.command()
@click.option("--patch", "files", metavar="FILE", multiple=True, required=True, help="A unified diff; - is stdin.")
@click.option("--idea", "ideas", metavar="TEXT", multiple=True, help="What it changes, for each patch in turn.")
@click.option("--parent", metavar="NAME", default="", help="What it is against: a commit, an experiment or a lane.")
@click.option("--by", metavar="NAME", default="human", show_default=True, help="Whose change it is.")
@reading()
def submit(
    files: tuple[str, ...],
    ideas: tuple[str, ...],
    parent: str,
    by: str,
    tag: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Have your own changes measured, each as an experiment, before what agents propose.

    Paths count from the top of the repository, as in `git diff`. Without --parent a patch is against the published
    best. Without --idea it is called as its first line says, or its file.

    \b
    Example:
        autoresearch-ray submit --patch wide.diff --patch deep.diff
        git diff | autoresearch-ray submit --patch - --idea "rotary base 50k"
    """
    from autoresearch_ray import steering

    if len(ideas) > len(files):
        raise SetupError(f"{len(ideas)} ideas for {len(files)} patches", "give each patch one --idea, or none")
    run = find(tag, folder)
    said = [*ideas, *[""] * (len(files) - len(ideas))]
    ids = steering.submit(
        run, [_patch(file, idea) for file, idea in zip(files, said, strict=True)], parent=parent, by=by
    )
    here = steering.taken_up(run, ids, _TAKEN_UP_SECONDS)
    found = steering.results(run, ids)
    if as_json:
        print_json({"taken_up": here, "submissions": [each.facts for each in found]})
    else:
        _show(found)
    if not here:
        click.echo(_waits(run), err=True)
    declined = [each for each in found if each.state == "declined"]
    if declined:
        raise SetupError(
            f"{len(declined)} of {len(found)} were declined: {declined[0].reason}",
            "mend the patch, or say with --parent what it is against; `autoresearch-ray diff` shows the best",
        )


@click.command()
@click.argument("ids", nargs=-1)
@click.option("--wait", is_flag=True, help="Until all have a verdict, or the run is over; status 1 if some have none.")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(min=0), help="Wait no longer than that.")
@reading()
def results(
    ids: tuple[str, ...], wait: bool, timeout: float | None, tag: str | None, folder: Path | None, as_json: bool
) -> None:
    """What came of the changes that were submitted: of IDS, or of all.

    \b
    Example:
        autoresearch-ray results
        autoresearch-ray results --wait --timeout 900 --json | jq '.submissions[] | [.state, .value]'
    """
    from autoresearch_ray import steering

    waits = wait or timeout is not None
    found = steering.results(find(tag, folder), ids, (math.inf if timeout is None else timeout) if waits else 0.0)
    if as_json:
        done = all(each.decided for each in found)
        print_json({"done": done, "submissions": [each.facts for each in found]})
    else:
        _show(found)
    if waits and not all(each.decided for each in found):
        click.get_current_context().exit(1)


# --- Inside ----------------------------------------------------------------------------------------------------------


def _send(run: Path, as_json: bool, send: Callable[[Path], str]) -> None:
    """Send a message, and say what became of it."""
    from autoresearch_ray import steering

    id = send(run)
    here = steering.taken_up(run, [id], _TAKEN_UP_SECONDS)
    if as_json:
        print_json({"id": id, "taken_up": here})
    click.echo(f"the run {run.name} has taken it up" if here else _waits(run), err=True)


def _waits(run: Path) -> str:
    if driver(run).alive:
        return f"the run {run.name} is busy, and has not taken all of it up yet: it will"
    return f"no driver has taken it up: it waits for the next `autoresearch-ray run` of {run.name}"


def _patch(file: str, idea: str) -> Patch:
    """Raises `SetupError` for what is no text, or cannot be read."""
    from autoresearch_ray.inbox import PATCH_BYTES
    from autoresearch_ray.steering import Patch

    try:
        with click.open_file(file, "rb") as source:
            text = source.read(PATCH_BYTES + 1).decode()
    except OSError as error:
        raise SetupError(f"cannot read {file}: {error.strerror}", "give a file with a unified diff, or -") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{file} is not UTF-8", "a patch is text; binary files cannot be submitted") from error
    return Patch(text, idea or _called(file, text))


def _called(file: str, text: str) -> str:
    """An idea from the patch's first line, where that is one; or from the name of the file, or of what it changes."""
    first = next((each.strip() for each in text.splitlines() if each.strip()), "")
    if not first.startswith(("diff ", "--- ", "+++ ", "@@", "Index: ", "From ")):
        return first[:200]
    if subject := re.search(r"^Subject: (?:\[PATCH[^\]]*\] )?(.+)$", text, re.MULTILINE):
        return subject[1][:200]
    if file != "-":
        return Path(file).stem
    return f"a change of {', '.join(dict.fromkeys(_PATH.findall(text)))}"[:200]


def _show(found: Sequence[Result]) -> None:
    """A line for each submission."""
    rows = [_row(each) for each in found]
    if not rows:
        click.echo("nothing was submitted", err=True)
        return
    first, *lines = columns([("id", "state", "#", "lane", "value", "gain", "idea", "reason"), *rows], right=(2, 4, 5))
    click.echo(first)
    for each, text in zip(found, lines, strict=True):
        click.echo(coloured(text, each.state))


def _row(result: Result) -> tuple[str, ...]:
    from autoresearch_ray.certainty import plus_minus
    from autoresearch_ray.results import line, signed

    known = "-" if result.value is None else plus_minus(result.value, result.error)
    number = "" if result.number is None else f"#{result.number}"
    words = (line(result.idea, 60), line(result.reason, 200))
    return result.id, result.state, number, result.lane or "-", known, signed(result.gain), *words
