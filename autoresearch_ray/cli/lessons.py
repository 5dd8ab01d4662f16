"""The verb that tells what was learned: a line for each verdict, as agents are told it, and the run as a whole."""

from __future__ import annotations

from pathlib import Path

import click

from autoresearch_ray.categories import Category
from autoresearch_ray.cli.output import coloured, print_json, reading


@click.command()
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last so many.")
@click.option("--category", type=click.Choice([each.value for each in Category]), help="Only of these ideas.")
@reading()
def lessons(last: int | None, category: str | None, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """What was learned: one line for each verdict on an idea, then the attempts by category and the dead ends.

    With --json one object per verdict, and nothing else.

    \b
    Example:
        autoresearch-ray lessons -n 20
        autoresearch-ray lessons --category schedule
        autoresearch-ray lessons --json | jq -r 'select(.meaning == "helps") | .lesson'
    """
    from autoresearch_ray.cli.folder import find, load
    from autoresearch_ray.digest import companies, facts, learned, overview

    board = load(find(tag, folder))
    company = companies(board)
    chosen = [facts(each, company.get(each.commit or "")) for each in learned(board)]
    chosen = [each for each in chosen if category is None or each["category"] == category]
    chosen = chosen[-last:] if last else chosen
    for each in chosen:
        if as_json:
            print_json(each)
        else:
            click.echo(coloured(f"#{each['n']} [{each['lane']}] {each['lesson']}", each["status"]))
    if not as_json:
        for title, lines in overview(board.memory):
            click.echo("\n" + "\n".join((title, *lines)))
