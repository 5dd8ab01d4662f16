"""How far two measurements of the same commit lie apart, and how much changes usually do.

The noise is the pooled within-commit standard deviation: every commit that was measured more than once on a class of
devices adds its squared deviations and one degree of freedom less than its measurements (the usual pooled variance).
All estimates are running sums, so a measurement costs the same after ten experiments and after ten thousand.
"""

from __future__ import annotations

import math

_SHRINK = 8.0  # degrees of freedom that the noise of all classes together counts for in that of one
# Student's t over the normal at 97 %, by the number of degrees of freedom, as the first terms of Fisher's expansion:
# sigma is taken 3.4 times as large with one, 1.5 times with three.
_FEW = (1.13, 1.27)


class Noise:
    """A running estimate. Pure: it is fed by `Board.apply` and never looks at a clock or a disk."""

    def __init__(self) -> None:
        self._squares = 0.0
        self.degrees_of_freedom = 0

    def fork(self) -> Noise:
        """A copy of its own."""
        fork = Noise.__new__(Noise)  # `copy.copy` takes ten times as long, and a decision makes a dozen
        fork._squares, fork.degrees_of_freedom = self._squares, self.degrees_of_freedom
        return fork

    def add(self, value: float, n: int, mean: float) -> None:
        """Take in `value` of a commit that had `n` measurements of this `mean` before (Welford's update)."""
        if n:
            away = value - mean
            self._squares += away * away * n / (n + 1)  # not `**`, which raises where this is infinite
            self.degrees_of_freedom += 1

    @property
    def sigma(self) -> float | None:
        """The standard deviation of one measurement; None while no commit was measured twice."""
        return math.sqrt(self._squares / self.degrees_of_freedom) if self.degrees_of_freedom else None

    def cautious(self, pooled: Noise) -> float | None:
        """The same to decide on: shrunk to the noise `pooled` over all classes, and larger while little is known."""
        if not pooled.degrees_of_freedom:
            return None
        everywhere = pooled._squares / pooled.degrees_of_freedom
        variance = (self._squares + _SHRINK * everywhere) / (self.degrees_of_freedom + _SHRINK)
        few = 1 / pooled.degrees_of_freedom
        return math.sqrt(variance) * (1 + few * (_FEW[0] + few * _FEW[1]))


class Effects:
    """What a change is worth before it is measured: mean and standard deviation of true gains, by their history.

    Method of moments (empirical Bayes): the variance of first gains less the variance that noise gives them. Gains far
    below the noise are disasters that say nothing about changes near zero: they are cut off at `_FLOOR` errors. Old
    ones fade, because what is easy is found first.
    """

    _FLOOR = -6.0
    _DOUBT = 6.0  # gains that the guess for an unknown program counts for
    _GUESS = 2.0  # its standard deviation, in sigmas of one measurement
    _SCARCE, _SOON = 16.0, 40.0  # tuned, as are the other constants here, on `benchmarks.landscape`
    _MEMORY = 100.0  # gains after which one has faded to a third

    def __init__(self) -> None:
        self.n = 0.0  # gains, those that have faded counted as what is left of them
        self.seen = 0
        self._sum = 0.0
        self._squares = 0.0
        self._errors = 0.0

    def add(self, gain: float, error: float) -> None:
        """Take in the gain of one measurement over its parent, and the standard error of that."""
        gain = max(gain, self._FLOOR * error)
        kept = 1 - 1 / self._MEMORY
        self.n = kept * self.n + 1
        self.seen += 1
        self._sum = kept * self._sum + gain
        self._squares = kept * self._squares + gain * gain
        self._errors = kept * self._errors + error * error

    def prior(self, sigma: float) -> tuple[float, float]:
        """Mean and standard deviation of the true gain of the next change."""
        mean = self._sum / self.n if self.n else 0.0
        own = max(0.0, (self._squares - self._errors) / self.n - mean * mean) if self.n else 0.0
        weight = self.n / (self.n + self._DOUBT)
        variance = weight * own + (1 - weight) * (self._GUESS * sigma) ** 2
        return weight * mean, math.sqrt(max(variance, (0.1 * sigma) ** 2))

    def worth(self, sigma: float) -> float:
        """What one evaluation can be expected to bring if it is spent on something new.

        At first half of what a change is expected to bring, since finding out which are better takes about as many
        evaluations again; ever less of it as a run goes on, because the good ones run out before the time does.
        """
        scarce = min(self._SCARCE, 2.0 + self.seen / self._SOON)
        return expected_excess(*self.prior(sigma)) / scarce


def expected_excess(mean: float, spread: float) -> float:
    """The expectation of max(0, x) for a normal x."""
    if spread <= 0:
        return max(0.0, mean)
    z = mean / spread
    return mean * cumulative(z) + spread * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def cumulative(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def chance_above_zero(mean: float, spread: float) -> float:
    """The probability that a normal x is above 0."""
    return cumulative(mean / spread) if spread > 0 else float(mean > 0)
