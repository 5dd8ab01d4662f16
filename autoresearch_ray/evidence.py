"""What was measured of one number: means per commit and class of devices, and what follows for a comparison.

Values of unlike devices are never compared as they are. A gain over a parent comes from devices of one class at a
time; what several classes say is weighted by how sure each is. For ranking alone, a value counts as it would read on
the first class: classes differ by a constant, which is taken from the base on each.

The noise is that of all commits alike. One that is far less steady than the rest counts for nothing in it, and has a
noise of its own: so it neither hides what others gain, nor passes for as sure as they are.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping

from autoresearch_ray.layered import LayeredDict
from autoresearch_ray.model import Direction
from autoresearch_ray.noise import Noise, larger
from autoresearch_ray.ports import Score

_MOST = 1e300  # of a squared deviation: sums stay finite, and can be taken apart again


_Spread = tuple[float, int, float]  # squared deviations, degrees of freedom, size of the values


class Scatter:
    """The noise on one class of devices, and the commits that are left out of it.

    Each commit is held against all others. What seems far less steady has a noise of its own. It is no measure for
    others when that is sure; before, while nobody can say which of two is the odd one, it is one of those that the next
    commit is held against. It is looked at again with every measurement that comes.
    """

    def __init__(self) -> None:
        self.noise = Noise()
        self._calm = Noise()
        self._seems: dict[str, _Spread] = {}
        self._is: dict[str, _Spread] = {}

    def take(self, commit: str, squares: float, more: float, degrees_of_freedom: int, size: float) -> None:
        """The squared deviations of `commit` from its mean were `squares`; now there are `more`, and one degree of
        freedom more, which makes `degrees_of_freedom`. `size` is that of its values."""
        if commit not in self._seems and commit not in self._is:
            self._calm.pool(-squares, 1 - degrees_of_freedom)
        self._place(commit, (squares + more, degrees_of_freedom, size))
        for each, spread in [*self._seems.items(), *self._is.items()]:
            if each != commit:
                self._place(each, spread)
        clear = self._calm.degrees_of_freedom and not self._calm.equal(size)
        self.noise = (self._calm if clear else _pooled(self._calm, self._seems)).fork()

    def _place(self, commit: str, spread: _Spread) -> None:
        self._seems.pop(commit, None)
        self._is.pop(commit, None)
        others = _pooled(self._calm, self._seems)
        if others.equal(spread[2]):  # then what differs is odd as long as it is alone
            others = _pooled(others, self._is)
        seems, is_so = others.compare(*spread)
        if is_so:
            self._is[commit] = spread
        elif seems:
            self._seems[commit] = spread
        else:
            self._calm.pool(*spread[:2])

    def own(self, commit: str) -> tuple[float, int] | None:
        """The standard deviation of a commit that seems less steady than others, and its degrees of freedom."""
        spread = self._is.get(commit) or self._seems.get(commit)
        if spread is None or not self._calm.degrees_of_freedom:
            return None
        return math.sqrt(spread[0] / spread[1]), spread[1]

    def fork(self) -> Scatter:
        fork = Scatter.__new__(Scatter)
        fork.noise, fork._calm = self.noise, self._calm.fork()
        fork._seems, fork._is = dict(self._seems), dict(self._is)
        return fork


def _pooled(noise: Noise, more: dict[str, _Spread]) -> Noise:
    pooled = noise.fork()
    for squares, degrees_of_freedom, _ in more.values():
        pooled.pool(squares, degrees_of_freedom)
    return pooled


class Evidence:
    """Running sums. Pure: fed by `Board.apply`."""

    def __init__(self, base: str, direction: Direction) -> None:
        self.base = base
        self.direction = direction
        self.noise = Noise()  # of all classes together
        self._scatters: dict[str, Scatter] = {}
        self._scores: MutableMapping[tuple[str, str], Score] = {}
        self._squares: MutableMapping[tuple[str, str], float] = {}  # deviations from the mean, squared

    def add(self, commit: str, device_class: str, value: float) -> None:
        key = commit, device_class
        before = self._scores.get(key)
        scatter = self._scatters.get(device_class)
        if scatter is None:
            scatter = self._scatters[device_class] = Scatter()
        if before is None:
            self._scores[key] = Score(1, value)
            return
        n, away = before.n, value - before.mean
        squares, more = self._squares.get(key, 0.0), min(away * away * n / (n + 1), _MOST)  # Welford's update
        self._scores[key] = Score(n + 1, before.mean + away / (n + 1))
        self._squares[key] = squares + more
        scatter.take(commit, squares, more, n, max(abs(value), abs(before.mean)))
        self.noise = Noise()
        for each in self._scatters.values():
            self.noise.merge(each.noise)

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
        known = self._scatters.get(device_class)
        sigma = (known.noise if known else Noise()).cautious(self.noise)
        own = self._own(commit)
        return max(sigma or 0.0, own[0] * larger(own[1])) if own else sigma

    def deviation(self, commit: str) -> float | None:
        """The standard deviation of one measurement of `commit`: the noise of all or, where it is set apart, its own,
        if that is larger; None while the noise is not known."""
        noise, own = self.noise.sigma, self._own(commit)
        return max(noise or 0.0, own[0]) if own else noise

    def _own(self, commit: str) -> tuple[float, int] | None:
        """The largest there is: what is unsteady on devices of one class is not believed on those of another."""
        return max((own for each in self._scatters.values() if (own := each.own(commit))), default=None)

    def on(self, commit: str, device_class: str) -> Score | None:
        return self._scores.get((commit, device_class))

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
        for each in self._scatters:
            here, there = self._scores.get((commit, each)), self._scores.get((over, each))
            if here and there:
                one, other = self.sigma(each, commit), self.sigma(each, over)
                certain = not one and not other
                squares = (
                    1 / here.n + 1 / there.n if certain else (one or 0) ** 2 / here.n + (other or 0) ** 2 / there.n
                )
                weights += 1 / squares
                total += self.direction.gain(here.mean, there.mean) / squares
        if not weights:
            return None
        return total / weights, 0.0 if certain else math.sqrt(1 / weights)

    def fork(self) -> Evidence:
        """A copy that reads through to this one and keeps its own changes to itself."""
        fork = Evidence.__new__(Evidence)
        fork.base, fork.direction, fork.noise = self.base, self.direction, self.noise
        fork._scatters = {name: each.fork() for name, each in self._scatters.items()}
        fork._scores = LayeredDict(self._scores)
        fork._squares = LayeredDict(self._squares)
        return fork
