"""What was measured of one number: means per commit and class of devices, and what follows for a comparison.

Values of unlike devices are never compared as they are. A gain over a parent comes from devices of one class at a
time; what several classes say is weighted by how sure each is. For ranking alone, a value counts as it would read on
the first class: classes differ by a constant, which is taken from the base on each.

The noise is that of all commits alike. One that is far less steady than the rest counts for nothing in it, and has a
noise of its own: so it neither hides what others gain, nor passes for as sure as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping

from autoresearch_ray.layered import LayeredDict
from autoresearch_ray.model import Direction
from autoresearch_ray.noise import Noise, larger
from autoresearch_ray.ports import Score

_MOST = 1e300  # of a squared deviation: sums stay finite, and can be taken apart again
_FEW, _RARE = 2, 0.1  # what so many do, and one in ten, is not odd: it is how this metric scatters
_LEAST = 1e-300  # of a squared error: its inverse is finite
_Spread = tuple[float, int, float]  # squared deviations, degrees of freedom, size of the values


class Scatter:
    """The noise on one class of devices, and the commits that are left out of it.

    Each commit is held against all others. What seems far less steady has a noise of its own. It is no measure for
    others when that is sure; before, while nobody can say which of two is the odd one, it is one of those that the next
    commit is held against, and the base is taken to be steady. It is looked at again with every measurement that comes.
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self.noise = Noise()
        self._calm = Noise()
        self._maybe: dict[str, _Spread] = {}  # what seems odd
        self._odd: dict[str, _Spread] = {}  # what surely is

    def take(self, commit: str, squares: float, more: float, degrees_of_freedom: int, size: float) -> None:
        """The squared deviations of `commit` from its mean were `squares`; now there are `more`, and one degree of
        freedom more, which makes `degrees_of_freedom`. `size` is that of its values."""
        if commit not in self._maybe and commit not in self._odd:
            self._calm.pool(-squares, 1 - degrees_of_freedom)
        self._place(commit, (squares + more, degrees_of_freedom, size))
        for each, spread in [*self._maybe.items(), *self._odd.items()]:
            if each != commit:
                self._place(each, spread)
        freedom, counts = self._calm.degrees_of_freedom, self._calm
        few = max(_FEW, _RARE * freedom)
        if not freedom or self._calm.equal(size) or len(self._maybe) + len(self._odd) > few:
            counts = _pooled(counts, self._maybe)
        if len(self._odd) > few:  # but for those that are the oddest
            by_scatter = sorted(self._odd.items(), key=lambda each: each[1][0] / each[1][1])
            counts = _pooled(counts, dict(by_scatter[:-_FEW]))
        self.noise = counts.fork()

    def _place(self, commit: str, spread: _Spread) -> None:
        self._maybe.pop(commit, None)
        self._odd.pop(commit, None)
        others = _pooled(self._calm, self._maybe)
        if others.equal(spread[2]):  # then what differs is odd as long as it is alone
            others = _pooled(others, self._odd)
        seems, is_so = others.compare(*spread)
        if is_so:
            self._odd[commit] = spread
        elif seems and commit != self.base:
            self._maybe[commit] = spread
        else:
            self._calm.pool(*spread[:2])

    def own(self) -> Iterator[tuple[str, tuple[float, int]]]:
        """The commits that seem less steady than others, each with its standard deviation and degrees of freedom."""
        if self._calm.degrees_of_freedom:  # else there are no others
            for commit, (squares, degrees_of_freedom, _) in (self._maybe | self._odd).items():
                yield commit, (math.sqrt(squares / degrees_of_freedom), degrees_of_freedom)

    def fork(self) -> Scatter:
        fork = Scatter.__new__(Scatter)
        fork.base, fork.noise, fork._calm = self.base, self.noise, self._calm.fork()
        fork._maybe, fork._odd = dict(self._maybe), dict(self._odd)
        return fork


def _pooled(noise: Noise, more: dict[str, _Spread]) -> Noise:
    """Only to be read: with nothing more it is `noise` itself."""
    if not more:
        return noise
    pooled = noise.fork()
    for squares, degrees_of_freedom, _ in more.values():
        pooled.pool(squares, degrees_of_freedom)
    return pooled


class Means:
    """Running means per commit and class of devices. Pure: fed by `Board.apply`."""

    def __init__(self) -> None:
        self._scores: MutableMapping[tuple[str, str], Score] = {}

    def add(self, commit: str, device_class: str, value: float) -> None:
        before = self._scores.get((commit, device_class)) or Score(0, 0.0)
        mean = before.mean + (value - before.mean) / (before.n + 1)
        self._scores[commit, device_class] = Score(before.n + 1, mean)

    def on(self, commit: str, device_class: str) -> Score | None:
        return self._scores.get((commit, device_class))

    def fork(self) -> Means:
        """A copy that reads through to this one and keeps its own changes to itself."""
        fork = Means.__new__(Means)
        fork._scores = LayeredDict(self._scores)
        return fork


class Evidence(Means):
    """The same, with how sure they are."""

    def __init__(self, base: str, direction: Direction) -> None:
        super().__init__()
        self.base = base
        self.direction = direction
        self.noise = Noise()  # of all classes together
        self._scatters: dict[str, Scatter] = {}
        self._squares: MutableMapping[tuple[str, str], float] = {}  # deviations from the mean, squared
        self._sigmas: dict[str, float | None] = {}  # by class; a new one with every measurement, which forks share
        self._own: dict[str, tuple[float, int]] = {}  # of commits that seem unsteady; the same

    def add(self, commit: str, device_class: str, value: float) -> None:
        before = self.on(commit, device_class)
        super().add(commit, device_class, value)
        scatter = self._scatters.get(device_class)
        if scatter is None:
            scatter = self._scatters[device_class] = Scatter(self.base)
            self._learn()
        if before is None:
            return
        key, n, away = (commit, device_class), before.n, value - before.mean
        squares, more = self._squares.get(key, 0.0), min(away * away * n / (n + 1), _MOST)  # Welford's update
        self._squares[key] = squares + more
        scatter.take(commit, squares, more, n, max(abs(value), abs(before.mean)))
        self._learn()

    def _learn(self) -> None:
        """What follows from the scatter on each class; every comparison asks for it."""
        self.noise = Noise()
        for each in self._scatters.values():
            self.noise.merge(each.noise)
        self._sigmas = {name: each.noise.cautious(self.noise) for name, each in self._scatters.items()}
        # Of several classes, the largest: what is unsteady on one of them is not believed on another.
        self._own = {}
        for each in self._scatters.values():
            for commit, own in each.own():
                self._own[commit] = max(own, self._own.get(commit, own))

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of devices that have measured something, in the order in which they came."""
        return tuple(self._scatters)

    def noise_of(self, device_class: str) -> float | None:
        """The standard deviation of one measurement on this class; None while it measured nothing twice."""
        known = self._scatters.get(device_class)
        return known.noise.sigma if known else None

    def sigma(self, device_class: str, commit: str = "") -> float | None:
        """The noise to decide on: shrunk to that of all classes, and larger while little is known.

        Of a `commit` that is set apart, its own, if that is larger.
        """
        known = device_class in self._sigmas
        sigma = self._sigmas[device_class] if known else Noise().cautious(self.noise)
        own = self._own.get(commit)
        return max(sigma or 0.0, own[0] * larger(own[1])) if own else sigma

    def deviation(self, commit: str) -> float | None:
        """The standard deviation of one measurement of `commit`: the noise of all or, where it is set apart, its own,
        if that is larger; None while the noise is not known."""
        noise, own = self.noise.sigma, self._own.get(commit)
        return max(noise or 0.0, own[0]) if own else noise

    def times(self, commit: str) -> int:
        """How often it was measured, on all classes together."""
        return sum(score.n for each in self._scatters if (score := self._scores.get((commit, each))))

    def score(self, commit: str) -> Score | None:
        """The mean on all classes, as it would read on the first that has the base. Where that is known of no class,
        or of none that has measured this commit, values stand as they were read."""
        known = [(each, score) for each in self._scatters if (score := self._scores.get((commit, each)))]
        if len(self._scatters) == 1 or not known:
            return known[0][1] if known else None
        bases = {each: base.mean for each in self._scatters if (base := self._scores.get((self.base, each)))}
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
        for each, sigma in self._sigmas.items():
            here, there = self._scores.get((commit, each)), self._scores.get((over, each))
            if here and there:
                one = (self.sigma(each, commit) if commit in self._own else sigma) or 0.0
                other = (self.sigma(each, over) if over in self._own else sigma) or 0.0
                square = one * one / here.n + other * other / there.n
                certain = square < _LEAST
                square = 1 / here.n + 1 / there.n if certain else square
                weights += 1 / square
                total += self.direction.gain(here.mean, there.mean) / square
        if not weights:
            return None
        return total / weights, 0.0 if certain else math.sqrt(1 / weights)

    def fork(self) -> Evidence:
        fork = Evidence.__new__(Evidence)
        fork.base, fork.direction, fork.noise = self.base, self.direction, self.noise
        fork._scatters = {name: each.fork() for name, each in self._scatters.items()}
        fork._scores = LayeredDict(self._scores)
        fork._squares = LayeredDict(self._squares)
        fork._sigmas, fork._own = self._sigmas, self._own
        return fork
