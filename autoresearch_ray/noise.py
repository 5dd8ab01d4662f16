"""How far two measurements of the same commit lie apart, and how much changes usually do.

The noise is the pooled within-commit standard deviation: every commit that was measured more than once on a class of
devices adds its squared deviations and one degree of freedom less than its measurements (the usual pooled variance).
All estimates are running sums, so a measurement costs the same after ten experiments and after ten thousand.
"""

from __future__ import annotations

import math
from functools import cache

_SHRINK = 8.0  # degrees of freedom that the noise of all classes together counts for in that of one
# Student's t over the normal at 97 %, by the number of degrees of freedom, as the first terms of Fisher's expansion:
# sigma is taken 3.4 times as large with one, 1.5 times with three.
_FEW = (1.13, 1.27)
_FAR = 3.0  # standard deviations of a variance beyond chance: 1 of 700 commits that are as steady as all gets there
_ROUNDING = 1e-12  # relative: values that differ by no more are equal
_EQUAL = 4  # degrees of freedom: fewer equal values may be those of a metric that is printed with few digits


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

    def pool(self, squares: float, degrees_of_freedom: int) -> None:
        """Take in the squared deviations of a commit from its mean; with both negative, take them out again."""
        self._squares = max(0.0, self._squares + squares)
        self.degrees_of_freedom += degrees_of_freedom

    def merge(self, other: Noise) -> None:
        """Take in all that `other` has."""
        self.pool(other._squares, other.degrees_of_freedom)

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
        return math.sqrt(variance) * larger(pooled.degrees_of_freedom)

    def equal(self, size: float) -> bool:
        """Whether all values of a commit have been equal, but for the rounding of values of this size."""
        return self._squares <= self.degrees_of_freedom * (_ROUNDING * size) ** 2

    def compare(self, squares: float, degrees_of_freedom: int, size: float) -> tuple[bool, bool]:
        """Whether a commit with these squared deviations, of values of this size, seems less steady, and surely is.

        An F test. It seems so where it would be sure if this noise were known to the last digit; while this has one or
        two degrees of freedom, nothing is sure.
        """
        if not self.degrees_of_freedom:
            return True, False  # there is nothing to hold it against
        variance, own = self._squares / self.degrees_of_freedom, squares / degrees_of_freedom
        if own <= max(variance * _limit(degrees_of_freedom), (_ROUNDING * size) ** 2):
            return False, False
        if self.equal(size):
            return True, self.degrees_of_freedom >= _EQUAL
        return True, _surprise(own / variance, degrees_of_freedom, self.degrees_of_freedom) > _FAR


@cache
def larger(degrees_of_freedom: int) -> float:
    """How many times as large a standard deviation is taken that so few degrees of freedom tell."""
    few = 1 / degrees_of_freedom
    return 1 + few * (_FEW[0] + few * _FEW[1])


def _surprise(ratio: float, own: int, others: int) -> float:
    """How far beyond chance a ratio of variances is, in standard deviations (Paulson's cube root of F, 1942).

    It is 1.7 and 2.7 at most where the `others` have one and two degrees of freedom, whatever the ratio.
    """
    root, up, down = math.cbrt(ratio), 2 / (9 * own), 2 / (9 * others)
    return ((1 - down) * root - (1 - up)) / math.sqrt(down * root * root + up)


@cache
def _limit(own: int) -> float:
    """The ratio that is just not far beyond chance if the noise is known for sure."""
    up = 2 / (9 * own)
    return (1 - up + _FAR * math.sqrt(up)) ** 3


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

    def fork(self) -> Effects:
        """A copy of its own."""
        fork = Effects.__new__(Effects)
        fork.n, fork.seen = self.n, self.seen
        fork._sum, fork._squares, fork._errors = self._sum, self._squares, self._errors
        return fork

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
