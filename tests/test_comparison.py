"""The agents of a run side by side, in the report, in `status` and as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from autoresearch_ray import comparison, report, results
from autoresearch_ray.cli import main
from autoresearch_ray.model import Failure, FailureKind, Member, Options, Outcome, Status, Usage
from tests.runs import Run, write

A, B, C = "a1" * 20, "b2" * 20, "c3" * 20
FLEET = Options(agents=(Member("claude", model="opus"), Member("codex"), Member("mine")))


def mixed() -> Run:
    """Of claude, one change in the best and one kept that is not; of codex, one in the best by way of a group."""
    run = Run(options=FLEET)
    for worker, agent in enumerate(("claude:opus", "codex", "mine")):
        run.seat(f"gpu{worker}", worker, agent=agent)
        run.remeasure(f"gpu{worker}", run.base, 1.0 + 0.001 * worker)
    told = Usage(60.0, 1000, 200, 0.25, cost_source="reported")
    run.propose("gpu0", "wider", 0.95, Status.KEEP, commit=A, gain=0.05, likely=0.04, usage=told)
    run.propose("gpu0", "kept later", 0.96, Status.KEEP, commit=C, gain=0.04, likely=0.03, usage=told)
    run.propose("gpu1", "a near miss", 0.995, commit=B, gain=0.005, likely=0.004, usage=Usage(30.0, 500, 50))
    lost = Failure(FailureKind.AGENT, "the agent was stopped after 10 minutes")
    run.propose("gpu1", "", None, Status.LOST, failure=lost, usage=Usage(600.0))
    run.propose("gpu2", "no good", 1.1, usage=Usage(10.0))
    group = "d4" * 20
    id = run.propose("gpu2", "both", 0.94, Status.KEEP, commit=group, gain=0.06, likely=0.05, picked=(A, B))
    run.remeasure("gpu0", group, 0.94)
    run.publish(id, group, 0.94)
    return run


def test_what_came_of_each_agent_and_what_it_took() -> None:
    claude, codex, mine = comparison.compared(mixed().board)
    assert (claude.agent, claude.proposals, claude.edited, claude.kept, claude.confirmed) == ("claude:opus", 2, 2, 2, 1)
    assert (claude.cost_usd, claude.unknown_costs, claude.input_tokens, claude.output_tokens) == (0.5, 0, 2000, 400)
    assert claude.gain == pytest.approx(0.04) and claude.cost_per_gain == pytest.approx(0.5 / 0.04)
    assert claude.seconds_per_gain == pytest.approx((2 * 60 + 2 * 300) / 0.04)
    assert (codex.proposals, codex.edited, codex.kept, codex.confirmed, codex.lanes) == (2, 1, 0, 1, 1)
    assert codex.cost_usd is None and codex.unknown_costs == 2 and codex.cost_per_gain is None
    assert codex.gain == pytest.approx(0.004) and codex.input_tokens == 500
    assert (mine.confirmed, mine.gain, mine.cost_per_gain, mine.seconds_per_gain) == (0, 0.0, None, None)
    assert mine.input_tokens is None and mine.proposals == 1, "the group is nobody's"


def test_an_edit_that_was_tried_before_is_one_here_as_where_the_report_counts_what_came_of_asking() -> None:
    run = mixed()
    run.propose("gpu2", "no good", None, failure=Failure(FailureKind.DUPLICATE, "#5 tried exactly this"))
    edited = [each.edited for each in comparison.compared(run.board)]
    assert edited == [2, 1, 2] and results.outcomes(run.board)[Outcome.EDITED] == 5


def test_the_report_compares_them_and_says_what_is_not_known() -> None:
    text = report.markdown(mixed().board, "", None)
    section = text.partition("## Agents\n")[2].partition("\n## ")[0]
    head, _, claude, codex, mine = (row.split(" | ") for row in section.strip().splitlines()[2:])
    assert head[-2:] == ["dollars per 0.01 gained", "time per 0.01 gained |"]
    assert claude == [
        "| claude:opus", "1", "2", "2", "2", "1", "+0.04", "2,000", "400", r"\$0.50", "2m 00s", "10m 00s", r"\$0.12",
        "3m 00s |",
    ]  # fmt: skip
    assert codex[6:10] == ["+0.004", "500", "50", "unknown"] and codex[-2] == "unknown"
    assert mine[6:10] == ["-", "unknown", "unknown", "unknown"] and mine[-2:] == ["-", "- |"]
    assert "| rank | lane | device | agent |" in text and "3 proposals of which it is not known what they cost" in text


def test_status_and_exports_tell_the_same(tmp_path: Path) -> None:
    run = mixed()
    write(run, tmp_path)
    text, data = (
        CliRunner().invoke(main, ["status", each, "--folder", str(tmp_path)]).stdout for each in ("--text", "--json")
    )
    told = json.loads(data)
    assert [(each["agent"], each["cost_usd"], each["unknown_costs"]) for each in told["agents"]] == [
        ("claude:opus", 0.5, 0), ("codex", None, 2), ("mine", None, 1),
    ]  # fmt: skip
    assert told["agents"] == comparison.facts(run.board)
    assert {each["lane"]: (each["agent"], each["cost_usd"]) for each in told["lanes"]} == {
        "gpu0": ("claude:opus", 0.5), "gpu1": ("codex", None), "gpu2": ("mine", None),
    }  # fmt: skip
    assert told["cost_usd"] == 0.5 and told["money"]["unknown_costs"] == 3
    assert "at least $0.50, 3 proposals of unknown cost" in text and "dollars per 0.01 gained" in text
    rows = [json.loads(each) for each in results.jsonl(run.board).splitlines()]
    assert [each["agent"] for each in rows] == [None, *["claude:opus"] * 2, *["codex"] * 2, "mine", None]
    assert (rows[1]["cost_source"], rows[1]["input_tokens"], rows[3]["cost_usd"]) == ("reported", 1000, None)


def test_of_an_old_ledger_without_names_the_one_agent_of_its_run_is_told() -> None:
    run = Run(options=Options(agent="claude", model="opus"))
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    assert comparison.table(run.board) == []
    run.propose("gpu0", "an idea", 0.9, usage=Usage(9.0, 10, 20, 0.25))
    (only,) = comparison.compared(run.board)
    assert (only.agent, only.lanes, only.cost_usd, only.unknown_costs) == ("claude:opus", 1, 0.25, 0)


def test_a_cap_is_told_with_what_is_set_aside(tmp_path: Path) -> None:
    run = Run(options=Options(cost_usd=5.0))
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    run.propose("gpu0", "an idea", 0.9, usage=Usage(9.0, 10, 20, 0.25))
    write(run, tmp_path)
    text = CliRunner().invoke(main, ["status", "--text", "--folder", str(tmp_path)]).stdout
    assert "$0.25 of $5" in text


def test_less_than_a_cent_is_not_told_as_nothing(tmp_path: Path) -> None:
    run = Run(options=Options(agent="llm", model="small"))
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    run.propose("gpu0", "an idea", 0.9, usage=Usage(9.0, 1000, 20, 0.0012, cost_source="priced"))
    write(run, tmp_path)
    text = CliRunner().invoke(main, ["status", "--text", "--folder", str(tmp_path)]).stdout
    told = [line for line in (*text.splitlines(), *report.markdown(run.board, "", None).splitlines()) if "$" in line]
    assert len(told) >= 3 and all("$0.0012" in line for line in told), told
