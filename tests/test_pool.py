"""What the best lacks: groups that may be tried, halves of those that brought nothing, and nothing twice."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.pool import Change, Pool

ALL = 1000  # more than there are


def change(number: int, likely: float = 1.0, lane: str = "gpu0") -> Change:
    return Change(f"c{number}", lane, number, likely, 1.0)


def pool_of(count: int) -> Pool:
    pool = Pool()
    for number in range(count):
        pool.keep(change(number))
    return pool


def names(group: list[Change]) -> list[str]:
    return [each.commit for each in group]


def contents(pool: Pool) -> dict[str, object]:
    return {name: dict(each) if isinstance(each, dict) else each for name, each in vars(pool).items()}


class Model:
    """A pool, what it must hold, and in how large a group each may be tried."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.kept: set[str] = set()
        self.missed: set[str] = set()
        self.limits: dict[str, int] = {}
        self.made = 0

    def step(self, kind: str, pick: list[int], likely: float) -> None:
        there = sorted(self.kept | self.missed)
        some = list(dict.fromkeys(there[each % len(there)] for each in pick)) if there else []
        match kind:
            case "keep" | "miss":
                new = change(self.made, likely, f"gpu{self.made % 3}")
                self.made += 1
                (self.pool.keep if kind == "keep" else self.pool.miss)(new)
                (self.kept if kind == "keep" else self.missed).add(new.commit)
            case "share":
                self.pool.shared(some)
                self.lose(some)
            case "drop":
                self.pool.drop(some)
                self.lose(some)
            case "promote":
                self.pool.promote(some, 1.0, 1.0)
                self.kept |= self.missed & set(some)
                self.missed -= set(some)
            case "fail":
                group = names(self.pool.next_kept(5) if pick and pick[0] % 2 else self.pool.next_missed(5, some))
                half = len(group) // 2
                self.pool.halve(group)
                self.lose([each for each in group if half < (1 if each in self.kept else 2)])
                self.limits |= {each: half for each in group if each in self.kept | self.missed}

    def lose(self, commits: list[str]) -> None:
        self.kept -= set(commits)
        self.missed -= set(commits)

    def largest(self, among: set[str]) -> int:
        """The size of the largest group that its members' limits allow."""
        limits = sorted((self.limits.get(each, ALL) for each in among), reverse=True)
        return max((size for size in range(len(limits) + 1) if all(each >= size for each in limits[:size])), default=0)


steps = st.lists(
    st.tuples(
        st.sampled_from(["keep", "keep", "miss", "miss", "fail", "fail", "share", "drop", "promote"]),
        st.lists(st.integers(0, 20), max_size=4),
        st.floats(-1.0, 3.0),
    ),
    max_size=40,
)


@given(steps=steps)
def test_no_change_is_in_two_lists_and_groups_are_as_large_as_their_limits_allow(
    steps: list[tuple[str, list[int], float]],
) -> None:
    model = Model()
    for each in steps:
        model.step(*each)
        kept, missed = model.pool.next_kept(ALL), model.pool.next_missed(ALL, ())
        assert not set(names(kept)) & set(names(missed))
        for group, among in ((kept, model.kept), (missed, model.missed)):
            assert len(set(names(group))) == len(group) == model.largest(among)
            assert set(names(group)) <= among
            assert all(model.limits.get(name, ALL) >= len(group) for name in names(group))
        assert {name for name in model.kept | model.missed if model.pool.is_kept(name)} == model.kept
        assert model.pool.tried_before(kept) == any(name in model.limits for name in names(kept))


@given(steps=steps, more=steps)
def test_a_fork_goes_its_own_way(steps: list[tuple[str, list[int], float]], more: list) -> None:
    model = Model()
    for each in steps:
        model.step(*each)
    original, before = model.pool, contents(model.pool)
    model.pool = original.fork()
    assert names(model.pool.next_missed(ALL, ())) == names(original.fork().next_missed(ALL, ()))
    for each in more:
        model.step(*each)
        model.pool.next_missed(ALL, ())
    assert contents(original) == before


@given(count=st.integers(1, 64), bad=st.data())
def test_one_change_that_does_harm_is_cornered_in_a_few_tries_and_all_others_get_in(
    count: int, bad: st.DataObject
) -> None:
    pool, harmful = pool_of(count), f"c{bad.draw(st.integers(0, count - 1))}"
    inside: list[str] = []
    tries = 0
    while group := names(pool.next_kept(64)):
        tries += 1
        if harmful in group:
            pool.halve(group)
        else:
            pool.shared(group)
            inside += group
    assert sorted(inside) == sorted({f"c{number}" for number in range(count)} - {harmful})
    assert tries <= 3 * math.log2(count) + 2


@given(kept=st.integers(0, 40), missed=st.integers(0, 40))
def test_groups_that_never_bring_anything_come_to_an_end(kept: int, missed: int) -> None:
    pool = pool_of(kept)
    for number in range(missed):
        pool.miss(change(100 + number))
    tries = 0
    while group := names(pool.next_kept(64)) or names(pool.next_missed(16, ())):
        pool.halve(group)
        tries += 1
    assert tries <= 2 * (kept + missed)


@given(
    changes=st.lists(st.tuples(st.sampled_from(["gpu0", "gpu1", "gpu2"]), st.floats(0.0, 3.0)), max_size=12),
    most=st.integers(1, 8),
)
def test_a_lane_s_changes_are_picked_in_the_order_in_which_they_were_made(
    changes: list[tuple[str, float]], most: int
) -> None:
    pool = Pool()
    for number, (lane, likely) in enumerate(changes):
        pool.keep(change(number, likely, lane))
    group = pool.next_kept(most)
    assert len(group) == min(most, len(changes))
    lanes = [lane for lane, _ in itertools.groupby(each.lane for each in group)]
    assert len(lanes) == len(set(lanes))
    for lane in lanes:
        numbers = [each.number for each in group if each.lane == lane]
        assert numbers == sorted(numbers)
    totals = [sum(each.likely for each in group if each.lane == lane) for lane in lanes]
    assert totals == pytest.approx(sorted(totals, reverse=True))
    least = min((each.likely for each in group), default=0.0)
    assert all(likely <= least for number, (_, likely) in enumerate(changes) if f"c{number}" not in names(group))


def test_near_misses_that_are_being_tried_are_left_alone() -> None:
    pool = Pool()
    for number in range(6):
        pool.miss(change(number))
    first = names(pool.next_missed(4, ()))
    second = names(pool.next_missed(4, first))
    assert len(first) == 4 and len(second) == 2 and not set(first) & set(second)


def test_a_change_that_brought_nothing_alone_is_dropped_and_a_near_miss_is_not_tried_alone() -> None:
    pool = Pool()
    pool.keep(change(0))
    pool.halve(["c0"])
    assert pool.next_kept(64) == []
    pool.miss(change(1))
    pool.miss(change(2))
    pool.halve(["c1", "c2"])
    assert pool.next_missed(64, ()) == []


def test_what_was_halved_stays_in_small_groups_when_it_is_kept_after_all() -> None:
    pool = Pool()
    for number in range(8):
        pool.miss(change(number))
    pool.halve([f"c{number}" for number in range(8)])
    pool.promote([f"c{number}" for number in range(8)], 1.0, 1.0)
    assert len(pool.next_kept(64)) == 4


def test_near_misses_that_were_kept_together_have_their_share_of_what_they_bring() -> None:
    pool = Pool()
    for number in range(3):
        pool.miss(change(number, likely=0.01))
    pool.keep(change(3, likely=5.0))
    pool.promote([f"c{number}" for number in range(4)], 8.0, 2.0)
    likely = {each.commit: each.likely for each in pool.next_kept(64)}
    assert likely == {"c0": 2.0, "c1": 2.0, "c2": 2.0, "c3": 5.0}
    spread = math.hypot(*(each.spread for each in pool.next_kept(64) if each.commit != "c3"), 1.0)
    assert spread == pytest.approx(2.0)
