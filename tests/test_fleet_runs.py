"""A mixed fleet for real: two agents on two lanes of one run, with prices and a cap."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoresearch_ray import comparison, ledger
from autoresearch_ray.board import replay
from autoresearch_ray.errors import SetupError
from autoresearch_ray.model import Brief, Options, Proposal, Status, Usage
from autoresearch_ray.ports import AgentSetup
from autoresearch_ray.session import research
from tests.conftest import Toy

MINE = "tests.test_fleet_runs:Counting"


class Counting:
    """Makes the net a little wider each time, and tells its tokens: a hundred thousand in, a thousand out."""

    reports = "tokens"

    def __init__(self, setup: AgentSetup) -> None:
        self.setup = setup

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        assert options.model in ("m", "unpriced") and options.agent_minutes == 3.0

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        file = checkout / "train.py"
        text = re.sub(r"WIDTH = (\d+)", lambda found: f"WIDTH = {int(found[1]) + 1 + brief.seed % 7}", file.read_text())
        file.write_text(text)
        return Proposal(f"wider, as {self.setup.options.model} says", Usage(0.0, 100_000, 1_000))


def program(toy: Toy, *, model: str = "m", more: str = "") -> Path:
    fleet = f"agents: [{{agent: knobs}}, {{agent: '{MINE}', model: {model}, agent_minutes: 3, name: counting}}]"
    return toy.program(more=f"{fleet}\nprices: {{m: {{input: 2.5, output: 50}}}}\n{more}")


def test_lanes_have_the_agents_that_were_dealt_to_them_and_a_cap_holds(toy: Toy) -> None:
    with research(program(toy, more="stop: {cost_usd: 1.5}")) as session:  # a proposal is 30 cents
        list(session)
    board = replay(ledger.read(toy.run_folder() / "ledger.jsonl"))
    assert board.closed is not None and board.closed.finished and "dollars" in board.closed.reason
    assert {name: (lane.seat.agent, lane.seat.cost_known) for name, lane in board.lanes.items()} == {
        "cpu0": ("knobs", True),
        "cpu1": ("counting", True),
    }
    knobs, counting = sorted(comparison.compared(board), key=lambda each: each.agent, reverse=True)
    assert knobs.cost_usd == 0.0 and knobs.proposals > 0
    assert counting.cost_usd == pytest.approx(0.3 * counting.proposals) and 0.6 <= counting.cost_usd <= 1.5
    assert {each.usage.cost_source for each in board.experiments if each.agent == "counting"} == {"priced"}
    assert all(each.lane == "cpu1" for each in board.experiments if each.agent == "counting")
    assert not board.counts[Status.PENDING] and board.money.spent_usd <= 1.5
    report = (toy.run_folder() / "report.md").read_text()
    assert "## Agents" in report and "| counting |" in report


def test_a_cap_on_what_nobody_knows_is_refused_unless_something_else_ends_the_run(toy: Toy) -> None:
    unpriced = program(toy, model="unpriced", more="stop: {cost_usd: 2.0}")
    with pytest.raises(SetupError, match="what the agent counting costs is not known") as caught, research(unpriced):
        pass
    assert "prices: {unpriced: {input:" in caught.value.hint and "--experiments" in caught.value.hint
    assert not toy.run_folder().exists() or not (toy.run_folder() / "ledger.jsonl").exists()
    with research(unpriced, experiments=3) as session:
        list(session)
    money = session.board.money
    assert session.board.counted >= 3 and money.charged_usd == 0.0
    assert money.by_agent["counting"].unknown > 0 and money.by_agent["counting"].usd == 0.0
