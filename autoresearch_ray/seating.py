"""Which workers sit on which node: decided from what there is room for, whenever that may have changed. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

_DEATHS = 5  # of a worker in a row without a new order, before it is given up


@dataclass(slots=True)
class Seats:
    """Who sits where, and who stands."""

    most: int | None  # workers in all; None: as many as there is room for
    standing: list[int] = field(default_factory=list)  # they lost their seat
    _seated: dict[str, list[int]] = field(default_factory=dict)  # by node; who was told to stop keeps the seat
    _next: int = 0  # the worker to be seated for the first time
    _deaths: dict[int, tuple[int, int]] = field(default_factory=dict)  # in a row, and the orders before them

    @property
    def taken(self) -> bool:
        """Whether anybody has ever sat."""
        return self._next > 0

    def plan(self, rooms: Mapping[str, int]) -> dict[str, list[int]]:
        """Seat everybody for whom there is room now: the workers to be started, by node."""
        planned = plan(rooms, self._seated, self.standing, self._next, self.most)
        for node, workers in planned.items():
            self._seated.setdefault(node, []).extend(workers)
            self.standing = [each for each in self.standing if each not in workers]
            self._next = max(self._next, *(each + 1 for each in workers))
        return planned

    @property
    def wanting(self) -> bool:
        """Whether somebody waits for a seat."""
        return bool(self.standing) or not self.taken or (self.most is not None and self._next < self.most)

    def rise(self, node: str, workers: Sequence[int]) -> None:
        """They could not take their seats at `node`, and wait for others.

        Where there are as many as there is room for, who has never sat is not wanted after all.
        """
        self._seated[node] = [each for each in self._seated[node] if each not in workers]
        self.standing += [each for each in workers if self.most is not None or each in self._deaths]
        known = {*self.standing, *self._deaths, *(each for seated in self._seated.values() for each in seated)}
        self._next = max(known, default=-1) + 1

    def died(self, node: str, worker: int, orders: int) -> bool:
        """The worker died, and had been given so many `orders` by then. Whether it is to be seated again.

        One that is given up keeps its seat: what killed it there would kill the next one, too.
        """
        times, before = self._deaths.get(worker, (0, orders))
        times = times + 1 if orders == before else 1
        self._deaths[worker] = times, orders
        if times >= _DEATHS:
            return False
        self._seated[node].remove(worker)
        self.standing.append(worker)
        return True


def room(gpus: float, gpus_per_worker: float) -> int:
    """How many workers a node with so many GPUs can seat: two with 0.4 of a GPU each do not leave 0.2 to a third."""
    if gpus_per_worker < 1:
        return int(gpus) * _on_one(gpus_per_worker)
    return int(gpus // gpus_per_worker)


def _on_one(gpus_per_worker: float) -> int:
    return int(1 / gpus_per_worker + 1e-9)


def plan(
    rooms: Mapping[str, int],
    seated: Mapping[str, Collection[int]],
    standing: Sequence[int],
    first_new: int,
    most: int | None,
) -> dict[str, list[int]]:
    """Workers to seat now, by node.

    `rooms` says how many workers each living node can take in all, `seated` who sits where already. `standing` are
    workers that lost their seat: they come first. New ones, counted from `first_new`, follow for as long as there is
    room, but not beyond the number `most`; None is no limit. Nodes fill up one after another, the emptiest first, so
    that one process on it can host them all.
    """
    free = {node: size - len(seated.get(node, ())) for node, size in rooms.items()}
    waiting = list(standing)
    places = sum(each for each in free.values() if each > 0)
    fresh = places if most is None else max(0, most - first_new)
    waiting += range(first_new, first_new + max(0, min(fresh, places - len(waiting))))
    planned: dict[str, list[int]] = {}
    for node in sorted(free, key=lambda each: (-free[each], each)):
        if free[node] > 0 and waiting:
            planned[node], waiting = waiting[: free[node]], waiting[free[node] :]
    return planned


def even(nodes: Sequence[str], workers: int) -> dict[str, int]:
    """Room for `workers` without GPUs: as many on each node, so that they do not crowd one node's cores."""
    return {node: workers // len(nodes) + (number < workers % len(nodes)) for number, node in enumerate(nodes)}


def claim(workers: int, gpus_per_worker: float) -> float:
    """The GPUs that one process asks of Ray for so many workers: more than one can only be had whole."""
    if 0 < gpus_per_worker < 1 < workers / _on_one(gpus_per_worker):
        return float(math.ceil(workers / _on_one(gpus_per_worker)))
    return workers * gpus_per_worker


def share(gpus: Sequence[str], gpus_per_worker: float, workers: int) -> list[tuple[str, ...]]:
    """The GPU ids of each worker: whole GPUs in their order; of a part of one, as many workers as go into it."""
    if not gpus_per_worker:
        return [()] * workers
    if gpus_per_worker < 1:
        return [(gpus[number // _on_one(gpus_per_worker)],) for number in range(workers)]
    whole = int(gpus_per_worker)
    return [tuple(gpus[number * whole : (number + 1) * whole]) for number in range(workers)]
