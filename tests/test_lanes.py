"""Lanes that come and go in whole runs, without Ray: a slow agent gets company, and a fast one is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch_ray import ledger, research
from autoresearch_ray.events import Event, Measured, Ordered, Seated
from autoresearch_ray.model import Propose, Stop
from tests.conftest import Toy

AGENT = """\
touch {calls}/$AUTORESEARCH_EXPERIMENT
[ $(ls {calls} | wc -l) -gt {slow} ] || sleep {seconds}
echo "# $AUTORESEARCH_EXPERIMENT" >> train.py
echo "X = '$AUTORESEARCH_EXPERIMENT'" >> train.py
"""


def run(toy: Toy, place: Path, *, slow: int, seconds: float, more: str, lanes: str = "auto") -> list[Event]:
    """The events of a run on one slot whose first `slow` proposals take so many seconds, and others next to none."""
    calls = place / "calls"
    calls.mkdir()
    script = place / "agent.sh"
    script.write_text(AGENT.format(calls=calls, slow=slow, seconds=seconds))
    more = f"agent_command: sh {script}\npolicy: greedy\n{more}"
    with research(
        toy.program(agent="command", workers=1, lanes=lanes, more=more, command="sleep 0.5; echo loss: 1")
    ) as session:
        list(session)
    return [event for line in ledger.read(toy.run_folder() / "ledger.jsonl") for event in line]


def test_while_the_first_lane_measures_the_base_a_second_one_proposes(toy: Toy, tmp_path: Path) -> None:
    events = run(toy, tmp_path, slow=0, seconds=0, more="experiments: 2")
    first = next(number for number, event in enumerate(events) if isinstance(event, Measured))
    assert any(isinstance(event, Ordered) and isinstance(event.order, Propose) for event in events[:first])


@pytest.mark.slow
def test_a_slow_agent_gets_more_lanes_which_rest_when_it_is_fast(toy: Toy, tmp_path: Path) -> None:
    events = run(toy, tmp_path, slow=8, seconds=3.0, more="experiments: 40")
    sat = [event.seat.lane for event in events if isinstance(event, Seated)]
    assert {"cpu0", "cpu0b", "cpu0c", "cpu0d"} <= set(sat)
    stops = [event for event in events if isinstance(event, Ordered) and isinstance(event.order, Stop)]
    assert any("rests" in event.order.reason for event in stops if isinstance(event.order, Stop))
    assert stops[-1].order.reason == "40 experiments"  # type: ignore[union-attr]


def test_as_many_lanes_as_are_asked_for_neither_come_nor_go(toy: Toy, tmp_path: Path) -> None:
    events = run(toy, tmp_path, slow=0, seconds=0, more="experiments: 4", lanes="3")
    assert sorted(event.seat.lane for event in events if isinstance(event, Seated)) == ["cpu0", "cpu0b", "cpu0c"]
    assert not any(
        "rests" in event.order.reason
        for event in events
        if isinstance(event, Ordered) and isinstance(event.order, Stop)
    )


def test_when_the_hours_are_over_what_waits_for_the_slot_is_not_measured(toy: Toy, tmp_path: Path) -> None:
    events = run(toy, tmp_path, slow=0, seconds=0, more="hours: 0.001", lanes="6")
    over = next(
        event.at
        for event in events
        if isinstance(event, Ordered) and isinstance(event.order, Stop) and event.order.hard
    )
    late = [event for event in events if isinstance(event, Measured) and event.at > over]
    assert len(late) <= 1  # what ran already


def test_lanes_that_left_something_undone_sit_again(toy: Toy, tmp_path: Path) -> None:
    events = run(toy, tmp_path, slow=100, seconds=0.5, more="hours: 0.001", lanes="3")
    undone = {event.lane: event.order for event in events if isinstance(event, Ordered)}
    left = {lane for lane, order in undone.items() if not isinstance(order, Stop)}
    assert left
    path = toy.folder / "program.md"
    path.write_text(path.read_text().replace("lanes: 3", "lanes: auto").replace("hours: 0.001", "experiments: 14"))
    with research(path) as session:
        session.wait()
    again = [event for line in ledger.read(toy.run_folder() / "ledger.jsonl") for event in line][len(events) :]
    assert left <= {event.seat.lane for event in again if isinstance(event, Seated)}
    handed_in = {event.attempt.id for event in again if isinstance(event, Measured)}
    assert {order.id for order in undone.values() if not isinstance(order, Stop)} <= handed_in
