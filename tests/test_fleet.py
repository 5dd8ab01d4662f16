"""Who sits where in a mixed fleet, and what becomes of a run when one of its providers is gone."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoresearch_ray import fleet, ledger, program
from autoresearch_ray.board import replay
from autoresearch_ray.breaker import GIVE_UP_OPENINGS, Breaker
from autoresearch_ray.errors import ProgramError
from autoresearch_ray.events import Opened
from autoresearch_ray.model import (
    Failure,
    FailureKind,
    Measurement,
    Member,
    Options,
    Propose,
    Remeasure,
    Trouble,
    TroubleKind,
    Wait,
)
from tests.game import Game
from tests.test_program import ML_TRAINING

weights = st.lists(st.integers(1, 9) | st.floats(0.05, 9), min_size=1, max_size=6)


# --- Dealing ---------------------------------------------------------------------------------------------------------


def off(weights: list[float], places: list[int]) -> float:
    """By how many of these places a weight is off its share, at most."""
    had, total = Counter(fleet.dealt(weights, each) for each in places), sum(weights)
    return max(abs(had[index] - len(places) * each / total) for index, each in enumerate(weights))


@given(weights, st.integers(1, 64))
def test_the_first_lanes_of_any_number_of_workers_are_shared_out_to_within_one(weights: list[float], n: int) -> None:
    assert off(weights, list(range(n))) < 1


@given(weights, st.integers(0, 64), st.integers(1, 26))
def test_all_lanes_of_one_worker_and_all_second_lanes_are_shared_out_to_within_two(
    weights: list[float], worker: int, lanes: int
) -> None:
    assert off(weights, list(range(worker, worker + lanes))) < 2


def test_two_to_one_is_two_of_three_lanes() -> None:
    options = Options(agents=(Member("claude", weight=2), Member("codex")))
    assert [fleet.seated(options, each, 0)[0] for each in range(6)] == [
        "claude", "codex", "claude", "claude", "codex", "claude",
    ]  # fmt: skip
    assert [fleet.seated(options, 1, each)[0] for each in range(3)] == ["codex", "claude", "claude"]


def test_a_member_has_its_own_words_and_all_others_of_the_run() -> None:
    options = Options(agent="codex", model="o", temperature=0.5, agent_minutes=3.0, hours=8.0)
    options = replace(options, agents=(Member("llm", model="q", extra_args=()), Member(temperature=1.0)))
    assert fleet.members(options) == {
        "llm:q": replace(options, agents=(), agent="llm", model="q"),
        "codex:o": replace(options, agents=(), temperature=1.0),
    }
    assert set(fleet.OWN) == {each.name for each in fields(Member)} - {"weight", "name"}
    assert set(fleet.OWN) <= {each.name for each in fields(Options)}


def test_a_run_without_a_fleet_has_one_agent() -> None:
    options = Options(agent="claude", model="opus")
    assert fleet.members(options) == {"claude:opus": options}
    assert fleet.seated(options, 7, 3) == ("claude:opus", options)


@given(st.lists(st.sampled_from(["a", "a 2", "b", "a 2 2", None]), min_size=1, max_size=6))
def test_no_two_members_have_one_name(names: list[str | None]) -> None:
    options = Options(agent="a", agents=tuple(Member(name=each) for each in names))
    assert len(fleet.members(options)) == len(names)
    assert {fleet.seated(options, each, 0)[0] for each in range(len(names))} == set(fleet.members(options))


def test_members_that_ask_one_model_at_one_place_share_a_provider_and_others_do_not() -> None:
    options = Options(
        agents=(
            Member("llm", model="q", temperature=0.2),
            Member("llm", model="q", temperature=1.0),
            Member("llm", model="q", base_url="http://other:8000/v1"),
            Member("llm", model="p"),
        )
    )
    one, again, elsewhere, other = fleet.providers(options).values()
    assert one == again and len({one, elsewhere, other}) == 3


# --- Words -----------------------------------------------------------------------------------------------------------


def options(*lines: str) -> Options:
    return program.parse("\n".join(["---", *lines, "---", ML_TRAINING])).options


MIXED = ("agents:", "- {agent: claude, model: opus, weight: 2}", "- {agent: codex, agent_minutes: 3}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("agents: [claude]", "agents must be a list"),
        ("agents: claude", "agents must be a list"),
        ("agents: {agent: claude}", "agents must be a list"),
        ("agents: &a [*a]", "agents must be a list"),
        ("agents: [{agent: claude, weight: 0}]", "agents must be a list"),
        ("agents: [{agent: claude, weight: inf}]", "agents must be a list"),
        ("agents: [{agent: claude, weight: 1e308}, {agent: codex, weight: 1e308}]", "agents must be a list"),
        ("agents: [{agent: claude, name: ''}]", "agents must be a list"),
        ("agents: [{agent: claude}, {agnt: codex}]", "'agnt' is not known in number 2 of agents"),
        ("agents: [{agent: claude, agent_minutes: -1}]", "agent_minutes must be a number above 0"),
        ("agents: [{agent: llm, base_url: 'http://me:secret@host/v1'}]", "base_url must be an http or https URL"),
        ("prices: {opus: {input: 15}}", "prices must be USD per million tokens"),
        ("prices: {opus: {input: 15, output: -1}}", "prices must be USD per million tokens"),
        ("prices: {opus: {input: 15, output: 75, cache: 1}}", "'cache' is not known in the price of opus"),
        ("prices: 15", "prices must be USD per million tokens"),
    ],
)
def test_what_cannot_be_a_fleet_or_a_price_is_an_error_with_its_line(line: str, words: str) -> None:
    with pytest.raises(ProgramError) as caught:
        options("tag: t", line)
    assert caught.value.line == 3 and words in caught.value.message and "secret" not in str(caught.value)


def test_a_fleet_with_its_prices_comes_through_the_ledger_and_between_processes_whole() -> None:
    written = program.parse("\n".join(["---", *MIXED, "prices: {opus: {input: 15, output: 75}}", "---", ML_TRAINING]))
    opened = Opened(0.0, "t", "base", "", written, "", "0")
    assert ledger.decode(ledger.encode([opened])) == (opened,) == (pickle.loads(pickle.dumps(opened)),)


def test_a_flag_that_names_an_agent_stands_for_all_of_them_and_another_goes_for_each() -> None:
    written = options(*MIXED)
    assert program.options(written, {"agent": "none"}) == replace(written, agents=(), agent="none")
    assert program.options(written, {"agent": None, "hours": 8.0}).agents == written.agents
    faster = program.options(written, {"model": "sonnet", "agent_minutes": 1.0})
    assert [(each.model, each.agent_minutes) for each in fleet.members(faster).values()] == [("sonnet", 1.0)] * 2
    both = program.options(written, {"agent": "none", "agents": [{"agent": "knobs"}]})
    assert both.agents == (Member("knobs"),)


# --- Providers -------------------------------------------------------------------------------------------------------


def ends(kind: TroubleKind, game: Game, lane: str) -> None:
    """The lane's proposal comes to nothing, if it makes one; else it does what it was told."""
    if isinstance(game.orders[lane], Propose):
        outcome = Measurement(None, Failure(FailureKind.AGENT, f"of {game.board.lanes[lane].seat.agent}"))
        game.turn(lane, outcome, trouble=Trouble(kind))
    else:
        game.turn(lane)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6), st.sampled_from([TroubleKind.RATE_LIMITED, TroubleKind.AUTH]))
@example(230, 5, TroubleKind.AUTH)  # the good lanes had left, as enough was under way
@example(84, 6, TroubleKind.RATE_LIMITED)  # and then it came to nothing
def test_lanes_of_a_provider_that_is_gone_wait_and_all_others_go_on(seed: int, lanes: int, kind: TroubleKind) -> None:
    game = Game.of(lanes, seed, agents=("bad", "good"), experiments=12)
    for _ in range(4000):
        if not game.active():
            break
        lane = game.chance.choice(game.active())
        if game.board.lanes[lane].seat.agent == "bad":
            ends(kind, game, lane)
        else:
            order = game.orders[lane]
            assert not isinstance(order, Wait) or "begin" in order.why or "do the rest" in order.why
            game.turn(lane)
    board = game.board
    assert board.closed is not None and board.closed.finished and board.counted >= 12
    assert board.breaker("gpu1") == Breaker() and not any(
        each.agent == "bad" and each.commit for each in board.experiments
    )
    again = replay([ledger.decode(ledger.encode(line)) for line in game.lines])
    assert again.breakers == board.breakers and again.money == board.money and again.lanes == board.lanes


def test_a_run_is_given_up_when_every_provider_is() -> None:
    game = Game.of(2, agents=("one", "other"))
    for _ in range(500):
        ends(TroubleKind.AUTH, game, "gpu0")
        while not isinstance(game.orders["gpu1"], Propose):
            game.turn("gpu1")
        game.turn("gpu1")
    assert game.board.breaker("gpu0").strikes >= GIVE_UP_OPENINGS and game.board.closed is None
    for _ in range(500):
        for lane in game.active():
            ends(TroubleKind.AUTH, game, lane)
    closed = game.board.closed
    assert closed is not None and closed.failed and closed.reason.endswith("of other")


def test_an_agent_that_fails_at_once_again_and_again_does_not_end_the_run_of_a_slow_one() -> None:
    game = Game.of(2, agents=("hasty", "slow"))
    while not isinstance(game.orders["gpu1"], Propose):
        game.turn("gpu1")
    for _ in range(300):
        nothing = Measurement(None, Failure(FailureKind.NO_CHANGE, "no file was changed"))
        hasty = isinstance(game.orders["gpu0"], Propose)
        game.turn("gpu0", nothing if hasty else None, **({"trouble": Trouble(TroubleKind.NO_EDIT)} if hasty else {}))
    assert game.board.closed is None
    order = game.turn("gpu1")
    while isinstance(order, Remeasure):
        order = game.turn("gpu1")
    assert isinstance(order, Propose)


def test_a_lane_of_a_fleet_may_be_there_for_what_is_submitted_alone() -> None:
    game = Game.of(2, agents=("submitted", "claude"))
    game.resume(agents=(Member("submitted"), Member("claude")))
    for index in range(2):
        game.sit(f"gpu{index}", index)
    for _ in range(40):
        for lane in game.active():
            game.turn(lane)
    proposed = {each.lane for each in game.board.experiments if each.kind == "propose"}
    assert proposed == {"gpu1"} and isinstance(game.orders["gpu0"], Wait | Remeasure)
