"""Who sits on which node, whatever nodes come and go."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.seating import Seats, claim, even, plan, room, share

SHARES = st.sampled_from([0.1, 0.25, 0.3, 0.4, 0.5, 1.0, 2.0, 3.0])


@given(
    rooms=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9)),
    seated=st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 9)),
    standing=st.integers(0, 5),
    most=st.none() | st.integers(0, 60),
)
def test_everybody_gets_a_seat_as_long_as_there_is_room_and_nobody_gets_two(
    rooms: dict[str, int], seated: dict[str, int], standing: int, most: int | None
) -> None:
    numbers = iter(range(1000))
    sitting = {node: [next(numbers) for _ in range(count)] for node, count in seated.items()}
    waiting = [next(numbers) for _ in range(standing)]
    first_new = next(numbers)
    planned = plan(rooms, sitting, waiting, first_new, most)
    placed = [each for workers in planned.values() for each in workers]
    assert len(set(placed)) == len(placed) and all(planned.values())
    for node, workers in planned.items():
        assert len(workers) + len(sitting.get(node, ())) <= rooms[node]
    free = sum(max(0, size - len(sitting.get(node, ()))) for node, size in rooms.items())
    fresh = math.inf if most is None else max(0, most - first_new)
    assert len(placed) == min(free, len(waiting) + fresh)
    assert set(placed) <= set(waiting) | set(range(first_new, first_new + len(placed)))
    assert set(waiting) <= set(placed) or len(placed) <= len(waiting)  # who lost a seat comes first


@given(gpus=st.integers(0, 16), each=SHARES)
def test_a_node_seats_no_more_than_its_gpus_carry_and_each_worker_its_own(gpus: int, each: float) -> None:
    workers = room(gpus, each)
    ids = [str(number) for number in range(gpus)]
    shares = share(ids, each, workers)
    assert len(shares) == workers and claim(workers, each) <= gpus
    for id in ids:
        assert sum(id in mine for mine in shares) * min(each, 1.0) <= 1 + 1e-9
    assert all(len(mine) == max(1, int(each)) for mine in shares)
    if workers:
        asked = claim(workers, each)
        assert asked <= 1 or asked == int(asked)  # what Ray accepts
        assert len({id for mine in shares for id in mine}) <= max(1, math.ceil(asked))
    assert (workers + 1) * each > gpus or each < 1  # no room is left over


@given(nodes=st.integers(1, 9), workers=st.integers(0, 50))
def test_without_gpus_workers_are_spread_evenly(nodes: int, workers: int) -> None:
    rooms = even([str(each) for each in range(nodes)], workers)
    assert sum(rooms.values()) == workers and max(rooms.values()) - min(rooms.values()) <= 1


@given(most=st.none() | st.integers(0, 6), gpus=st.integers(0, 4), dies=st.sets(st.integers(0, 3)))
def test_where_every_worker_dies_at_once_seating_comes_to_an_end(most: int | None, gpus: int, dies: set[int]) -> None:
    """Whoever sits on some of the GPUs dies without an order; with `workers: auto`, nobody new takes such a seat."""
    seats, rooms, sitting, deaths = Seats(most), {"a": gpus, "b": 1}, dict[int, str](), 0
    for _ in range(60):
        sitting |= {worker: node for node, workers in seats.plan(rooms).items() for worker in workers}
        dying = [worker for worker in sitting if worker in dies]
        for worker in dying:
            deaths += 1
            seats.died(sitting.pop(worker), worker, 0)
    wanted = gpus + 1 if most is None else min(most, gpus + 1)
    assert deaths == 5 * len(dies & set(range(wanted)))
    assert sorted(sitting) == [each for each in range(wanted) if each not in dies] and not seats.standing


def test_a_worker_that_was_given_orders_between_its_deaths_is_never_given_up() -> None:
    seats = Seats(1)
    for orders in range(1, 40):
        assert seats.plan({"a": 1}) == {"a": [0]}
        assert seats.died("a", 0, orders)


def test_who_loses_a_node_sits_down_on_the_next_one_that_has_room() -> None:
    seats = Seats(None)
    assert seats.plan({"a": 2}) == {"a": [0, 1]}
    assert all(seats.died("a", worker, 3) for worker in (0, 1))
    assert seats.plan({}) == {} and seats.standing == [0, 1]
    assert seats.plan({"b": 1}) == {"b": [0]} and seats.standing == [1]
    assert seats.plan({"b": 1, "c": 2}) == {"c": [1, 2]}


def test_who_was_asked_for_without_room_waits_and_who_has_never_sat_is_forgotten_where_all_room_is_taken() -> None:
    for most in (4, None):
        seats = Seats(most)
        assert seats.wanting
        assert seats.plan({"a": 4}) == {"a": [0, 1, 2, 3]} and not seats.wanting
        assert seats.died("a", 1, 7) and seats.wanting
        assert seats.plan({"a": 4}) == {"a": [1]}
        seats.rise("a", [1])
        seats.rise("a", [3])
        assert seats.wanting and seats.standing == ([1] if most is None else [1, 3])
        assert seats.plan({"a": 4}) == {"a": [1, 3]} and not seats.wanting


@given(most=st.none() | st.integers(1, 9), asked=st.integers(1, 9), there=st.sets(st.integers(0, 8)))
def test_asking_without_room_seats_as_many_as_there_is_room_for_in_the_end(
    most: int | None, asked: int, there: set[int]
) -> None:
    seats = Seats(most)
    planned = seats.plan({"a": asked}).get("a", [])
    for each in planned:
        if each not in there:
            seats.rise("a", [each])
    left = [each for each in planned if each in there]
    again = seats.plan({"a": asked}).get("a", [])
    assert not {*left} & {*again} and len(left) + len(again) == (asked if most is None else min(most, asked))
    assert not seats.standing
