"""The verbs that read: status, log, best, diff, show, export, report, watch.

They only fold the ledger, so they work while the run goes on, from another terminal, and after the cluster is gone.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoresearch_ray.cli.output import coloured, columns, print_json, printable, reading
from autoresearch_ray.errors import SetupError

if TYPE_CHECKING:
    from autoresearch_ray.board import Board
    from autoresearch_ray.model import Experiment

STATUSES = ("pending", "keep", "discard", "crash", "lost")
LOG_LINES = 50  # of an experiment's log in `show`


@click.command()
@reading()
def status(tag: str | None, folder: Path | None, as_json: bool) -> None:
    """How the run stands: best, counts, pace, time left, and what each lane does.

    \b
    Example:
        autoresearch-ray status
        autoresearch-ray status --json | jq .best.metric
    """
    from autoresearch_ray.cli import status as words
    from autoresearch_ray.cli.folder import driver, find, load, mirrored

    run = find(tag, folder)
    board, alive, mirror = load(run), driver(run), mirrored(run)
    if as_json:
        print_json(words.status(board, alive, time.time(), mirror))
    else:
        click.echo(words.status_text(board, alive, time.time(), mirror))


@click.command()
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last so many; with --ranked the first.")
@click.option("--ranked", "best_first", is_flag=True, help="What has a value, the best first.")
@click.option("--status", "wanted", type=click.Choice(STATUSES), help="Only these.")
@click.option("--lane", help="Only this lane's.")
@reading()
def log(
    last: int | None,
    best_first: bool,
    wanted: str | None,
    lane: str | None,
    tag: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Every experiment in the order of their numbers, one line each; with --json one object per line.

    Where an agent made no edit that could be measured, a column says what came of asking it.

    \b
    Example:
        autoresearch-ray log -n 20
        autoresearch-ray log --status keep --json | jq -r .description
        autoresearch-ray log --ranked -n 5
    """
    from autoresearch_ray.certainty import heading, other, others, over_baseline, rough, value
    from autoresearch_ray.model import Outcome
    from autoresearch_ray.results import described, gained, mark, origin, ranked, record, signed, why

    _, board = _load(tag, folder)
    chosen = [
        each
        for each in (ranked(board) if best_first else board.experiments)
        if (wanted is None or each.status == wanted) and (lane is None or each.lane == lane)
    ]
    if last:
        chosen = chosen[:last] if best_first else chosen[-last:]
    if as_json:
        for each in chosen:
            print_json(record(board, each))
        return
    if not chosen:
        return
    names, several = others(board), len(board.classes) > 1
    beside = (*(["over baseline"] * several), *names)
    asked = any(each.outcome not in (None, Outcome.EDITED) for each in chosen)
    head = ("#", "status", "lane", heading(board), "gain", *beside, *(["outcome"] * asked), "idea", "reason")
    rows = [
        (
            f"#{each.number}",
            mark(each),
            origin(each),
            str(value(board, each) or "-"),
            gained(each),
            *([signed(over_baseline(board, value(board, each)))] * several),
            *(rough(other(each, name)) for name in names),
            *([str(each.outcome or "-")] * asked),
            described(each, 60),
            why(each, 200),
        )
        for each in chosen
    ]
    first, *lines = columns([head, *rows], right=(0, *range(3, 5 + len(beside))))
    click.echo(first)
    for each, text in zip(chosen, lines, strict=True):
        click.echo(coloured(text, each.status))


@click.command()
@reading()
def best(tag: str | None, folder: Path | None, as_json: bool) -> None:
    """The best that was confirmed, how sure it is, and the command that merges it.

    \b
    Example:
        autoresearch-ray best
        git merge $(autoresearch-ray best --json | jq -r .branch)
    """
    from autoresearch_ray.certainty import claimed, confirmation, gain, heading, holdout, improvement, later
    from autoresearch_ray.cli.status import others_text, scored_text
    from autoresearch_ray.results import line, record

    _, board = _load(tag, folder)
    found = board.best
    branch = f"autoresearch/{board.opened.tag}" if board.published else None
    if found is None:
        click.echo("nothing has been measured yet", err=True)
        if as_json:
            print_json(None)
        return
    if as_json:
        gained = gain(board)
        known = {"claimed": claimed(board), "later": later(board), "holdout": holdout(board, found)}
        words = {
            "over_baseline_error": gained[1] if gained else None,
            **{name: each.facts if each else None for name, each in known.items()},
            "improvement": improvement(board),
            "branch": branch,
        }
        print_json(record(board, found) | words)
        return
    metric = board.program.eval.metric
    click.echo(f"{heading(board)} ({metric.direction} is better): {scored_text(board, found)}")
    click.echo(f"{improvement(board) or 'no change'}, against the baseline: {scored_text(board, board.baseline)}")
    for sentence in confirmation(board):
        click.echo(sentence)
    if others := others_text(board, found):
        click.echo(f"beside it: {others}; of the baseline: {others_text(board, board.experiments[0])}")
    for doubt in found.doubts:
        click.echo(f"suspicious: {line(doubt)}")
    click.echo(f"commit {found.commit}")
    click.echo(f"git merge {branch}" if branch else "nothing better than the baseline was confirmed so far")


@click.command()
@click.argument("old", metavar="[A]", default="baseline")
@click.argument("new", metavar="[B]", default="best")
@reading(document=True)
def diff(old: str, new: str, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """The patch from A to B; default: from the baseline to the best.

    A and B are numbers or ids of experiments, commits, lanes, or the words baseline and best.

    \b
    Example:
        autoresearch-ray diff
        autoresearch-ray diff 12 41 | git apply
    """
    from autoresearch_ray.cli.folder import commit_of

    run, board = _load(tag, folder)
    first, second = commit_of(board, old), commit_of(board, new)
    patch = _hub(run).diff(first, second)
    if as_json:
        print_json({"old": first, "new": second, "diff": patch})
    else:
        click.echo(patch, nl=False)


@click.command()
@click.argument("experiment")
@reading()
def show(experiment: str, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """Everything about one experiment: its facts, its patch, and the tail of its log.

    EXPERIMENT is a number, an id, or a commit.

    \b
    Example:
        autoresearch-ray show 41
        autoresearch-ray show 41 --json | jq -r .log
    """
    from autoresearch_ray.certainty import value
    from autoresearch_ray.cli.folder import experiment_of, logs
    from autoresearch_ray.process import tail

    run, board = _load(tag, folder)
    found = experiment_of(board, experiment)
    log_file, agent_log = logs(run, found)
    log_tail = tail(log_file, LOG_LINES) if log_file.is_file() else ""
    patch = _hub(run).show(found.commit) if found.commit and found.kind != "baseline" else ""
    facts = _facts(board, found) | {
        "log": str(log_file) if log_file.is_file() else None,
        "agent_log": str(agent_log) if agent_log.is_file() else None,
    }
    if as_json:
        print_json(facts | {"patch": patch, "log_tail": log_tail})
        return
    shown = facts | {"metric": str(value(board, found) or "-"), "error": None, "measurements": None}
    for text in columns(
        [(key, printable(_plain(each))) for key, each in shown.items() if each not in (None, "", [], {})]
    ):
        click.echo(text)
    failure_tail = found.failure.tail if found.failure and not log_tail else ""
    for title, text in (("patch", patch), ("log", log_tail), ("failure", failure_tail)):
        if text:
            click.echo(f"\n--- {title}\n{printable(text).rstrip()}")


def _facts(board: Board, experiment: Experiment) -> dict[str, Any]:
    from autoresearch_ray.results import record

    failure = experiment.failure
    return record(board, experiment) | {
        "failure": {"kind": str(failure.kind), "message": failure.message} if failure else None,
        "lines": experiment.lines,
        "params": dict(experiment.params),
        "usage": asdict(experiment.usage),
        "resources": asdict(experiment.resources),
    }


def _plain(value: Any) -> str:
    """A fact on one line; of a group of facts those that are known."""
    from autoresearch_ray.certainty import number

    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items() if each not in (None, "", ()))
    if isinstance(value, float):
        return number(value)
    return " ".join(map(_plain, value)) if isinstance(value, list | tuple) else " ".join(str(value).split())


@click.command()
@click.option("--format", "kind", type=click.Choice(("tsv", "jsonl", "csv")), help="Default: tsv.")
@click.option(
    "--what",
    type=click.Choice(("experiments", "account")),
    default="experiments",
    show_default=True,
    help="All experiments, or what each slot's time went to.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of stdout.")
@reading(document=True)
def export(
    kind: str | None, what: str, output: Path | None, tag: str | None, folder: Path | None, as_json: bool
) -> None:
    """All results as results.tsv (five columns), results.jsonl or CSV. --json means --format jsonl.

    The account says what the time of each slot went to, in seconds: a row for each slot and use.

    \b
    Example:
        autoresearch-ray export > results.tsv
        autoresearch-ray export --format csv -o results.csv
        autoresearch-ray export --what account
    """
    from autoresearch_ray import results, timesheet

    _, board = _load(tag, folder)
    kind = kind or ("jsonl" if as_json else "tsv")
    source = {"experiments": results, "account": timesheet}[what]
    text = {"tsv": source.tsv, "jsonl": source.jsonl, "csv": source.csv}[kind](board)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)


@click.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of stdout.")
@reading(document=True)
def report(output: Path | None, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """The morning report in Markdown; with -o also the progress picture, progress.png, beside it.

    \b
    Example:
        autoresearch-ray report | less
        autoresearch-ray report -o report.md
    """
    from autoresearch_ray import report as reports

    run, board = _load(tag, folder)
    picture = _picture(board, output.with_name("progress.png")) if output else None
    patch = ""
    if board.published:
        patch = _hub(run).diff(board.opened.base, board.published[-1].commit)
    text = reports.markdown(board, patch, picture.name if picture else None)
    if output:
        _write(output, text)
    if as_json:
        files = {"report": str(output) if output else None, "picture": str(picture) if picture else None}
        print_json(files | {"markdown": text})
    elif not output:
        click.echo(text, nl=False)


def _picture(board: Board, path: Path) -> Path | None:
    """Draw the picture; a report without one is better than none, so a missing matplotlib is only talked about."""
    from autoresearch_ray.picture import picture

    try:
        picture(board, path)
    except SetupError as error:
        click.echo(f"no picture: {error}", err=True)
        return None
    except OSError as error:
        raise _unwritable(path, error) from error
    click.echo(f"wrote {path}", err=True)
    return path


@click.command()
@click.option("-i", "--interval", type=click.FloatRange(min=0.1), default=2.0, help="Seconds between looks.")
@reading()
def watch(interval: float, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """Follow the run until its driver ends; the exit status is 1 if it ended without having closed the run.

    A live leaderboard on a terminal; elsewhere one line per verdict from now on, with --json one object per verdict.

    \b
    Example:
        autoresearch-ray watch
        autoresearch-ray watch --json | jq -r 'select(.status == "keep") | .description'
    """
    from autoresearch_ray.cli.folder import LEDGER, driver, find, folded
    from autoresearch_ray.cli.live import view
    from autoresearch_ray.ledger import Tail
    from autoresearch_ray.results import progress_line, summary

    run = find(tag, folder)
    tail = Tail(run / LEDGER)
    board = folded(run, tail.read())
    click.echo(f"following {board.opened.tag}: {progress_line(board)}", err=True)
    with view(as_json=as_json) as screen:
        screen.show(board)
        alive = True
        while alive:
            alive = driver(run).alive  # looked at before the last read, so that its last words are read
            if alive:
                time.sleep(interval)
            for event in (event for events in tail.read() for event in events):
                board.apply(event)
            screen.show(board)
    if not as_json:
        click.echo(summary(board))
    if not board.closed:
        click.echo("the driver is not running; the command that started it takes the run up again", err=True)
        sys.exit(1)


# --- What the verbs share --------------------------------------------------------------------------------------------


def _load(tag: str | None, folder: Path | None) -> tuple[Path, Board]:
    from autoresearch_ray.cli.folder import find, load

    run = find(tag, folder)
    return run, load(run)


def _hub(run: Path) -> Any:
    from autoresearch_ray.repo import Hub

    return Hub.open(run / "hub.git")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise _unwritable(path, error) from error
    click.echo(f"wrote {path}", err=True)


def _unwritable(path: Path, error: OSError) -> SetupError:
    return SetupError(f"cannot write {path}: {error.strerror}", "name a file in a folder that can be written")
