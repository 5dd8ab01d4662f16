"""Who sits on which node, whatever nodes come and go."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.seating import claim, even, plan, room, share

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
