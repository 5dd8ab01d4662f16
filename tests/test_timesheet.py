"""What people are told of where the time went."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from autoresearch_ray import timesheet
from autoresearch_ray.cli import main
from autoresearch_ray.events import Left, Seated
from autoresearch_ray.model import Seat, Spent, Use
from autoresearch_ray.report import markdown
from tests.runs import START, Run, write

HOUR = 3600.0


def night() -> Run:
    """Two slots for an hour: the first waits for its agents, the second comes late and has nothing to do in the end."""
    run = Run()
    run.now = START + 60
    run.add(Seated(run.now, Seat("gpu0", 0, "node0", 1), 1, Spent(0, 1.0, {Use.SETUP: 60.0})))
    run.now = START + 600
    run.add(Seated(run.now, Seat("gpu1", 1, "node1", 1), 1, Spent(1, 2.0, {Use.SETUP: 0.0})))
    run.add(Seated(run.now, Seat("gpu1b", 1, "node1", 1), 1, Spent(1, 2.0, {Use.SETUP: 60.0})))
    run.now = START + 1800
    run.add(Left(run.now, Spent(1, 2.0, {Use.SETUP: 60.0, Use.CANDIDATES: 900.0, Use.AGAIN: 240.0})))
    run.now = START + HOUR
    uses = {Use.SETUP: 60.0, Use.CANDIDATES: 1500.0, Use.AGENT: 2000.0, Use.COORDINATOR: 39.0, Use.PARSE: 1.0}
    run.add(Left(run.now, Spent(0, 1.0, uses)))
    return run


def test_status_has_a_line_for_each_part_and_says_what_may_help() -> None:
    assert timesheet.status_lines(night().board, START + HOUR) == [
        "36.7% measuring: 33.3% candidates, 3.3% again",
        "1.7% setting up: 1.7% setup",
        "27.8% waiting for a candidate: 27.8% agent",
        f"  agent: {timesheet.ADVICE[Use.AGENT]}",
        "0.5% waiting for the coordinator",
        "33.3% down: 25.0% finished, 8.3% starting",
        f"  finished: {timesheet.ADVICE[Use.FINISHED]}",
        f"  starting: {timesheet.ADVICE[Use.STARTING]}",
    ]


def test_while_a_worker_is_there_what_it_has_not_told_yet_is_called_so() -> None:
    run = Run()
    run.add(Seated(run.now, Seat("gpu0", 0, "node0", 1), 1, Spent(0, 1.0, {})))
    assert timesheet.status_lines(run.board, START + 90) == ["100.0% not yet reported"]


def test_the_report_shows_what_the_time_went_to_and_each_slot() -> None:
    text = markdown(night().board, "", None)
    assert "## Where the time went" in text
    assert f"| waiting for a candidate | agent | 33m 20s | 27.8% | {timesheet.ADVICE[Use.AGENT]} |" in text
    assert "| measuring | again | 4m 00s | 3.3% |  |" in text
    head = (
        "| slot | wall clock | measuring | setting up | waiting for a candidate | waiting for the coordinator | down |"
    )
    assert head in text
    assert "| gpu0 | 1h 00m | 41.7% | 1.7% | 55.6% | 1.1% | 0.0% |" in text
    assert "| gpu1 | 1h 00m | 31.7% | 1.7% | 0.0% | 0.0% | 66.7% |" in text
    assert "| all | 2h 00m | 36.7% | 1.7% | 27.8% | 0.5% | 33.3% |" in text


def test_a_run_without_reports_shows_no_account() -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    assert timesheet.status_lines(run.board, run.now) == [] and timesheet.facts(run.board, run.now)["slots"] == 0
    assert "Where the time went" not in markdown(run.board, "", None)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_the_account_is_exported_with_a_row_for_each_slot_and_use(tmp_path: Path, kind: str) -> None:
    write(night(), tmp_path)
    done = CliRunner().invoke(main, ["export", "--what", "account", "--format", kind, "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    if kind == "jsonl":
        rows = [json.loads(line) for line in done.stdout.splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t" if kind == "tsv" else ","))
    for slot in ("gpu0", "gpu1"):
        own = [each for each in rows if each["slot"] == slot]
        assert sum(float(each["seconds"]) for each in own) == HOUR == float(own[0]["wall_seconds"])
    finished = next(each for each in rows if each["use"] == "finished")
    assert (finished["slot"], finished["part"], float(finished["seconds"])) == ("gpu1", "down", 1800.0)


def test_status_gives_the_account_in_both_forms(tmp_path: Path) -> None:
    write(night(), tmp_path)
    facts = json.loads(CliRunner().invoke(main, ["status", "--json", "--folder", str(tmp_path)]).stdout)
    account = facts["account"]
    assert (account["slots"], account["wall_seconds"]) == (2, 2 * HOUR)
    assert account["seconds"]["measuring"] == {"candidates": 2400.0, "again": 240.0}
    assert sum(sum(uses.values()) for uses in account["seconds"].values()) == account["wall_seconds"]
    assert facts["measuring_share"] == pytest.approx(2640 / 7200)
    words = CliRunner().invoke(main, ["status", "--text", "--folder", str(tmp_path)]).stdout
    assert re.search(r"^account +36\.7% measuring: 33\.3% candidates, 3\.3% again$", words, re.M)
