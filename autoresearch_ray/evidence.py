"""What was measured of one number: means per commit and class of devices, and what follows for a comparison.

Values of unlike devices are never compared as they are. A gain over a parent comes from devices of one class at a
time; what several classes say is weighted by how sure each is. For ranking alone, a value counts as it would read on
the first class: classes differ by a constant, which is taken from the base on each.
"""

from __future__ import annotations

import copy
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

    def score(self, commit: str) -> Score | None:
        """The mean on all classes, as it would read on the first. A class that lacks the base is left out."""
        n, total = 0, 0.0
        for place, each in enumerate(self._noises):
            score = self._scores.get((commit, each))
            offset = self._offset(each) if place and score else 0.0
            if score and offset is not None:
                n, total = n + score.n, total + score.n * (score.mean - offset)
        return Score(n, total / n) if n else None

    def _offset(self, device_class: str) -> float | None:
        """How much higher values read on this class than on the first one."""
        here = self._scores.get((self.base, device_class))
        there = self._scores.get((self.base, next(iter(self._noises))))
        return here.mean - there.mean if here and there else None

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
        fork = copy.copy(self)
        fork.noise = copy.copy(self.noise)
        fork._noises = {name: copy.copy(each) for name, each in self._noises.items()}
        fork._scores = LayeredDict(self._scores)
        return fork
