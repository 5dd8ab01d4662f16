"""Dollars: from tokens, set aside before a proposal, settled after it; and what the cap of a run then holds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger, money
from autoresearch_ray.board import replay
from autoresearch_ray.model import (
    FailureKind,
    Options,
    Order,
    Price,
    Proposal,
    Propose,
    Trouble,
    TroubleKind,
    Usage,
    Wait,
)
from autoresearch_ray.money import FIRST, Money
from autoresearch_ray.ports import named
from autoresearch_ray.proposals import sane, together
from tests.game import Game, failed

OPUS = Price(15.0, 75.0, 1.5)
TIMED_OUT = Trouble(TroubleKind.TIMEOUT)

# --- One proposal ----------------------------------------------------------------------------------------------------


def test_tokens_have_a_price_and_cached_ones_their_own() -> None:
    used = Usage(9.0, 100_000, 2_000, cached_tokens=80_000)
    assert money.billed(used, "tokens", OPUS).cost_usd == pytest.approx(0.3 + 0.12 + 0.15)
    assert money.billed(used, "tokens", Price(15.0, 75.0)).cost_usd == pytest.approx(1.5 + 0.15)
    assert money.billed(used, "tokens", OPUS).cost_source == "priced"


def test_what_an_agent_reports_beats_a_price_and_what_nobody_knows_is_not_zero() -> None:
    assert money.billed(Usage(1.0, 10, 10, 0.5), "cost", OPUS) == Usage(1.0, 10, 10, 0.5, cost_source="reported")
    for usage in (Usage(1.0), Usage(1.0, 10), Usage(1.0, None, 10)):
        assert money.billed(usage, "tokens", OPUS).cost_usd is None
    assert money.billed(Usage(1.0, 10, 10), "tokens", None).cost_usd is None
    assert money.billed(Usage(1.0), "free", None).cost_usd == 0.0


@pytest.mark.parametrize("dollars", [1e200, 10**400, math.inf, math.nan, -1.0, "0.5"])
def test_a_cost_that_cannot_be_is_not_known_and_costs_what_was_set_aside(dollars: Any) -> None:
    """The board squares it. Of 1e200 that raised when it stood in the ledger, and no run could go on from there."""
    reported = sane(Proposal("x", Usage(0.0, 10, 10, dollars)), 9.0, "cost")
    priced = sane(Proposal("x", Usage(0.0, 2**53, 2**53)), 9.0, "tokens", Price(1e300, 1e300))
    for usage in (reported.usage, priced.usage):
        assert (usage.cost_usd, usage.cost_source) == (None, None)
        spent = Money().ended("opus", usage, None, 0.25)
        assert (spent.spent_usd, spent.unknown, spent.known_usd) == (0.25, 1, None)


def test_the_price_is_that_of_the_model_or_where_none_is_said_of_the_agent() -> None:
    prices = {"opus": OPUS, "codex": Price(1.0, 2.0)}
    assert money.price(Options(agent="claude", model="opus", prices=prices)) == OPUS
    assert money.price(Options(agent="codex", prices=prices)) == Price(1.0, 2.0)
    assert money.price(Options(agent="codex", model="mini", prices=prices)) is None


def test_whether_a_cost_will_be_known_is_the_agents_word_or_a_price_and_at_an_endpoint_of_ones_own_a_price() -> None:
    priced = {"prices": {"m": OPUS}}
    for name, words, known in (
        ("claude", {}, True),
        ("claude", {"model": "m", "base_url": "http://host:8000"}, False),
        ("claude", {"model": "m", "base_url": "http://host:8000", **priced}, True),
        ("codex", {"model": "m"}, False),
        ("codex", {"model": "m", **priced}, True),
        ("knobs", {}, True),
        ("command", {"model": "m", **priced}, False),
    ):
        options = Options(agent=name, **words)  # type: ignore[arg-type]
        assert money.is_known(named("agents", name), options) is known, (name, words)


@pytest.mark.parametrize("odd", [-1, 2**60, math.nan, "many", 1.5])
def test_tokens_that_are_no_count_are_not_known(odd: object) -> None:
    said = Proposal("x", Usage(0.0, odd, 10, None, odd))  # type: ignore[arg-type]
    assert sane(said, 2.0, "tokens", OPUS).usage == Usage(2.0, None, 10)


def test_a_sum_of_which_a_part_is_not_known_is_partly_known() -> None:
    one, other = Usage(1.0, 5, 5, 0.25, cost_source="reported"), Usage(2.0, 5, 5, 0.5, cost_source="priced")
    assert together(Usage(), one) == one
    assert together(one, one).cost_source == "reported" and together(one, other).cost_source == "priced"
    partly = together(one, Usage(3.0))
    assert (partly.cost_usd, partly.cost_source) == (0.25, "partly")
    assert together(partly, other).cost_source == "partly" == together(Usage(1.0), one).cost_source
    assert together(Usage(1.0), Usage(2.0)).cost_source is None
    silent = sane(Proposal("x", together(Usage(0.0, 100_000, 2_000), Usage())), 9.0, "tokens", OPUS)
    assert (silent.usage.cost_usd, silent.usage.cost_source) == (pytest.approx(1.65), "partly")
    assert sane(Proposal("x", together(Usage(0.0, 5, 5), Usage())), 9.0).usage == Usage(9.0, 5, 5)


# --- All of them -----------------------------------------------------------------------------------------------------

costs = st.floats(0, 100)


def spent(*each: float) -> Money:
    purse = Money()
    for cost in each:
        purse = purse.ended("a", Usage(1.0, cost_usd=cost), None, 0.0)
    return purse


@given(st.lists(costs, min_size=1, max_size=20))
def test_what_is_set_aside_is_more_than_the_mean_and_no_more_than_the_dearest_and_what_is_not_known_yet(
    seen: list[float],
) -> None:
    asked, mean = spent(*seen).reservation("a", 50.0), sum(seen) / len(seen)
    assert asked >= mean * (1 + 1 / math.sqrt(len(seen))) - 1e-6
    assert asked <= mean + max(2 * max(seen), mean) + 1e-6
    assert spent(*seen).reservation("a", None) == 0.0


def test_before_anything_is_known_a_part_of_the_cap_is_set_aside_and_then_what_the_dearest_agent_takes() -> None:
    assert Money().reservation("a", 50.0) == 50.0 / FIRST
    both = spent(2.0).ended("free", Usage(1.0, cost_usd=0.0), None, 1.0)
    assert both.reservation("new", 50.0) == both.reservation("a", 50.0) == 4.0
    assert both.reservation("free", 50.0) == 0.0
    only_free = Money().ended("free", Usage(1.0, cost_usd=0.0), None, 1.0)
    assert only_free.reservation("new", 50.0) == 1.0, "that one was free says nothing of another"


def test_one_conversation_that_ran_away_does_not_hold_back_all_others_for_good() -> None:
    assert spent(0.5, 20.0).reservation("a", 50.0) > 20.0
    assert spent(*[0.5] * 100, 20.0, *[0.5] * 100).reservation("a", 50.0) < 4.0


def test_what_nobody_knows_is_charged_and_what_was_refused_at_once_or_never_asked_is_not() -> None:
    assert Money().ended("a", Usage(600.0), TIMED_OUT, 2.0).spent_usd == 2.0
    assert Money().ended("a", Usage(600.0, 10, 10, 0.5, cost_source="partly"), None, 2.0).spent_usd == 2.0
    assert Money().ended("a", Usage(600.0, 10, 10, 3.0, cost_source="partly"), None, 2.0).spent_usd == 3.0
    assert Money().lost("a", 2.0).spent_usd == 2.0 and Money().lost("a", 2.0).unknown == 1
    for kind in (TroubleKind.AUTH, TroubleKind.RATE_LIMITED, TroubleKind.UNAVAILABLE):
        assert Money().ended("a", Usage(3.0), Trouble(kind), 2.0) == Money()
        assert Money().ended("a", Usage(300.0), Trouble(kind), 2.0).spent_usd == 2.0, (
            "it may have done part of its work"
        )
    assert Money().ended("a", Usage(), None, 2.0) == Money()
    assert Money().known_usd is None and Money().lost("a", 2.0).known_usd is None
    assert Money().ended("a", Usage(1.0, cost_usd=0.0), None, 0.0).known_usd == 0.0


# --- The cap ---------------------------------------------------------------------------------------------------------


class Night:
    """A run with a cap on the real board, in which this one alone knows what each proposal truly costs."""

    def __init__(self, lanes: int, seed: int, cap: float, most: float) -> None:
        self.game = Game.of(lanes, seed, agents=("dear", "cheap"), cost_known=True, cost_usd=cap)
        self.cap, self.most, self.total = cap, most, 0.0
        self.under_way: dict[str, float] = {}  # by lane: what its proposal will have cost
        self.passed: float | None = None  # what was under way when the cap was passed
        for lane, order in self.game.orders.items():
            self.given(lane, order)

    def given(self, lane: str, order: Order) -> None:
        board = self.game.board
        if isinstance(order, Propose):
            aside = sum(each.reserved_usd for each in board.lanes.values())
            assert board.money.spent_usd + aside <= self.cap + 1e-9
            assert self.passed is None or self.most > 1
            aside = board.lanes[lane].reserved_usd
            # Of a part of what is set aside each time, all of them would become free, and a night would not end.
            self.under_way[lane] = max(aside * self.game.chance.uniform(0, self.most), min(aside, self.cap / 200))

    def pay(self, lane: str, known: bool = True) -> float:
        """What nobody is told is within what was set aside: there is no other way to know of it."""
        cost = self.under_way.pop(lane)
        cost = cost if known else min(cost, self.game.board.lanes[lane].reserved_usd)
        if self.passed is None and self.total + cost > self.cap + 1e-9:
            self.passed = cost + sum(self.under_way.values())
        self.total += cost
        return cost

    def step(self) -> None:
        game, chance = self.game, self.game.chance
        lane = chance.choice(game.active())
        what = chance.random()
        if what < 0.03:  # its worker dies, and another one takes its seat
            if lane in self.under_way:
                self.pay(lane, known=False)
            worker = int(lane.removeprefix("gpu"))
            if chance.random() < 0.5:
                game.vacate(worker)
            self.given(lane, game.sit(lane, worker))
        elif what < 0.04:  # all of it is taken up again
            for each in list(self.under_way):
                self.pay(each, known=False)
            lanes = list(game.orders)
            game.resume()
            for each in lanes:
                self.given(each, game.sit(each, int(each.removeprefix("gpu"))))
        elif lane in self.under_way:
            cost = self.pay(lane, known=what >= 0.2)
            if what < 0.2:
                self.given(lane, game.turn(lane, failed(FailureKind.AGENT), trouble=TIMED_OUT, usage=Usage(600.0)))
            else:
                self.given(lane, game.turn(lane, usage=Usage(60.0, cost_usd=cost)))
        else:
            self.given(lane, game.turn(lane))

    def play(self) -> Night:
        for _ in range(6000):
            if not self.game.active():
                return self
            self.step()
        raise AssertionError("this run does not end")


nights = st.tuples(st.integers(1, 6), st.integers(0, 10_000), st.floats(0.5, 20))


@settings(max_examples=25, deadline=None)
@example((2, 7109, 1.0))
@given(nights)
def test_a_cap_holds_whatever_proposals_cost_within_what_was_set_aside_for_them(night: tuple[int, int, float]) -> None:
    played = Night(*night, most=1.0).play()
    board = played.game.board
    assert played.total <= played.cap + 1e-9 and played.passed is None
    assert board.money.spent_usd <= played.cap + 1e-9
    assert not any(lane.reserved_usd for lane in board.lanes.values())
    again = replay([ledger.decode(ledger.encode(line)) for line in played.game.lines])
    assert again.money == board.money and again.lanes == board.lanes


@settings(max_examples=15, deadline=None)
@given(nights)
def test_where_proposals_cost_more_the_cap_is_passed_by_no_more_than_was_under_way(
    night: tuple[int, int, float],
) -> None:
    played = Night(*night, most=4.0).play()
    assert played.total <= played.cap + (played.passed or 0.0) + 1e-9


def paid(game: Game, lane: str, usd: float) -> Order:
    """The lane's order is carried out; a proposal costs so much, and nothing is better."""
    game.propose = lambda game, parent: 0.05
    proposes = isinstance(game.orders[lane], Propose)
    return game.turn(lane, **({"usage": Usage(60.0, cost_usd=usd)} if proposes else {}))


def proposes(game: Game, *lanes: str) -> None:
    """The lanes do what comes before."""
    for lane in lanes:
        while not isinstance(game.orders[lane], Propose):
            game.turn(lane)


def test_a_lane_waits_for_what_others_have_set_aside_and_proposes_when_it_was_not_needed() -> None:
    game = Game.of(2, agents=("a",), cost_known=True, cost_usd=11.0)
    proposes(game, "gpu0", "gpu1")
    assert isinstance(paid(game, "gpu1", 2.0), Propose) and game.board.lanes["gpu1"].reserved_usd == 4.0
    order = paid(game, "gpu0", 2.0)
    while not isinstance(order, Wait):  # it does what needs no model first
        assert not isinstance(order, Propose), "of 11, 4 are spent and 4 set aside; one of its own may take 3.41"
        order = game.turn("gpu0")
    assert "dollars" in order.why and game.board.closed is None
    assert isinstance(paid(game, "gpu1", 0.5), Propose)
    assert isinstance(game.turn("gpu0"), Propose)


def test_the_run_closes_when_nothing_is_under_way_and_no_proposal_can_be_paid() -> None:
    game = Game.of(1, agents=("a",), cost_known=True, cost_usd=3.0)
    proposes(game, "gpu0")
    paid(game, "gpu0", 1.4)  # of the next one 1.4 to 2.8 are to be expected, and 1.6 are left
    closed = game.board.closed
    assert closed is not None and closed.finished and "dollars" in closed.reason


def test_a_free_agent_and_one_that_tells_nothing_have_nothing_set_aside() -> None:
    game = Game.of(1, agents=("knobs",), cost_known=True, cost_usd=1.0, experiments=70)
    while game.active():
        paid(game, "gpu0", 0.0)
    assert game.board.counted >= 70 and game.board.money.known_usd == 0.0
    silent = Game.of(1, agents=("mine",), cost_usd=1.0, experiments=70)
    while silent.active():
        silent.turn("gpu0")
    assert silent.board.counted >= 70 and silent.board.money.known_usd is None


def test_a_lane_that_comes_back_without_money_for_its_proposal_is_not_told_to_make_it() -> None:
    game = Game.of(1, agents=("a",), cost_known=True, cost_usd=3.0)
    proposes(game, "gpu0")
    paid(game, "gpu0", 0.6)
    assert game.board.lanes["gpu0"].reserved_usd == pytest.approx(1.2)
    game.vacate(0)
    assert game.board.money.charged_usd == pytest.approx(1.2) and game.board.money.unknown == 1
    order = game.sit("gpu0", 0)
    assert isinstance(order, Propose) and game.board.lanes["gpu0"].reserved_usd == pytest.approx(1.2)
    game.vacate(0)
    assert not isinstance(game.sit("gpu0", 0), Propose)
    assert game.board.money.spent_usd == pytest.approx(0.6 + 2 * 1.2)
    assert game.board.closed is not None and game.board.closed.finished
