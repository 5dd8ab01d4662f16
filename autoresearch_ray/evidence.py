"""What was measured of one number: means per commit and class of devices, and what follows for a comparison.

Values of unlike devices are never compared as they are. A gain over a parent comes from devices of one class at a
time; what several classes say is weighted by how sure each is. For ranking alone, a value counts as it would read on
the first class: classes differ by a constant, which is taken from the base on each.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping

from autoresearch_ray.layered import LayeredDict
from autoresearch_ray.model import Direction
from autoresearch_ray.noise import Noise
from autoresearch_ray.ports import Score


class Evidence:
    """Running sums. Pure: fed by `Board.apply`."""

    def __init__(self, base: str, direction: Direction) -> None:
        self.base = base
        self.direction = direction
        self.noise = Noise()  # of all classes together
        self._noises: dict[str, Noise] = {}
        self._scores: MutableMapping[tuple[str, str], Score] = {}

    def add(self, commit: str, device_class: str, value: float) -> None:
        before = self._scores.get((commit, device_class), Score(0, 0.0))
        known = self._noises.get(device_class)
        if known is None:
            known = self._noises[device_class] = Noise()
        known.add(value, before.n, before.mean)
        self.noise.add(value, before.n, before.mean)
        mean = before.mean + (value - before.mean) / (before.n + 1)
        self._scores[commit, device_class] = Score(before.n + 1, mean)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of devices that have measured something, in the order in which they came."""
        return tuple(self._noises)

    def noise_of(self, device_class: str) -> float | None:
        """The standard deviation of one measurement on this class; None while it measured nothing twice."""
        known = self._noises.get(device_class)
        return known.sigma if known else None

    def sigma(self, device_class: str) -> float | None:
        """The noise to decide on: shrunk to that of all classes, and larger while little is known."""
        return self._noises.get(device_class, Noise()).cautious(self.noise)

    def on(self, commit: str, device_class: str) -> Score | None:
        return self._scores.get((commit, device_class))

    def times(self, commit: str) -> int:
        """How often it was measured, on all classes together."""
        return sum(score.n for each in self._noises if (score := self._scores.get((commit, each))))

    def score(self, commit: str) -> Score | None:
        """The mean on all classes, as it would read on the first that has the base. Where that is known of no class,
        or of none that has measured this commit, values stand as they were read."""
        known = [(each, score) for each in self._noises if (score := self._scores.get((commit, each)))]
        if len(self._noises) == 1 or not known:
            return known[0][1] if known else None
        bases = {each: base.mean for each in self._noises if (base := self._scores.get((self.base, each)))}
        first = next(iter(bases.values()), 0.0)
        placed = [(bases[each], score) for each, score in known if each in bases]
        placed = placed or [(first, score) for _, score in known]
        n = sum(score.n for _, score in placed)
        return Score(n, sum(score.n * (score.mean - base + first) for base, score in placed) / n)

    @property
    def commits(self) -> tuple[str, ...]:
        """What was measured, in that order."""
        return tuple(dict.fromkeys(commit for commit, _ in self._scores))

    def gain(self, commit: str, over: str) -> tuple[float, float] | None:
        """How much better `commit` is, and the standard error of that; None where no class has measured both.

        The error is 0 while the noise is not known.
        """
        weights, total, certain = 0.0, 0.0, True
        for each in self._noises:
            here, there = self._scores.get((commit, each)), self._scores.get((over, each))
            if here and there:
                sigma = self.sigma(each)
                certain = not sigma
                weight = 1 / ((sigma or 1.0) ** 2 * (1 / here.n + 1 / there.n))
                weights += weight
                total += weight * self.direction.gain(here.mean, there.mean)
        if not weights:
            return None
        return total / weights, 0.0 if certain else math.sqrt(1 / weights)

    def fork(self) -> Evidence:
        """A copy that reads through to this one and keeps its own changes to itself."""
        fork = Evidence.__new__(Evidence)
        fork.base, fork.direction, fork.noise = self.base, self.direction, self.noise.fork()
        fork._noises = {name: each.fork() for name, each in self._noises.items()}
        fork._scores = LayeredDict(self._scores)
        return fork
