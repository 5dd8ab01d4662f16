"""How far two measurements of the same commit lie apart, and how much changes usually do.

The noise floor is the pooled within-commit standard deviation: every commit that was measured more than once on a
class of devices adds its squared deviations and one degree of freedom less than its measurements (the usual pooled
variance). Both estimates are kept as running sums, so a measurement costs the same after ten experiments and after ten
thousand.
"""

from __future__ import annotations

import math

_SHRINK = 8.0  # degrees of freedom that the noise of all classes together counts for in that of one
_FEW = 2.0  # inflation while there are few: with one degree of freedom, sigma is taken 1.7 times as large


class Noise:
    """A running estimate. Pure: it is fed by `Board.apply` and never looks at a clock or a disk."""

    def __init__(self) -> None:
        self._squares = 0.0
        self.degrees_of_freedom = 0

    def add(self, value: float, n: int, mean: float) -> None:
        """Take in `value` of a commit that had `n` measurements of this `mean` before (Welford's update)."""
        if n:
            self._squares += (value - mean) ** 2 * n / (n + 1)
            self.degrees_of_freedom += 1

    @property
    def sigma(self) -> float | None:
        """The standard deviation of one measurement; None while no commit was measured twice."""
        return math.sqrt(self._squares / self.degrees_of_freedom) if self.degrees_of_freedom else None

    def cautious(self, all: Noise) -> float | None:
        """The same to decide on: shrunk to that of `all` classes, and larger while little is known."""
        if not all.degrees_of_freedom:
            return None
        weight = _SHRINK if all is not self else 0.0
        pooled = all._squares / all.degrees_of_freedom
        variance = (self._squares + weight * pooled) / (self.degrees_of_freedom + weight)
        return math.sqrt(variance * (all.degrees_of_freedom + _FEW) / all.degrees_of_freedom)


class Effects:
    """What a change is worth before it is measured: mean and standard deviation of true gains, by their history.

    Method of moments (empirical Bayes): the variance of first gains less the variance that noise gives them. Gains far
    below the noise are disasters that say nothing about changes near zero: they are cut off at `_FLOOR` errors.
    """

    _FLOOR = -6.0
    _DOUBT = 6.0  # gains that the guess for an unknown program counts for
    _GUESS = 2.0  # its standard deviation, in sigmas of one measurement

    def __init__(self) -> None:
        self.n = 0
        self._mean = 0.0
        self._squares = 0.0
        self._errors = 0.0

    def add(self, gain: float, error: float) -> None:
        """Take in the gain of one measurement over its parent, and the standard error of that."""
        gain = max(gain, self._FLOOR * error)
        self.n += 1
        away = gain - self._mean
        self._mean += away / self.n
        self._squares += away * (gain - self._mean)
        self._errors += error * error

    def prior(self, sigma: float) -> tuple[float, float]:
        """Mean and standard deviation of the true gain of the next change."""
        guess = (self._GUESS * sigma) ** 2
        own = max(0.0, (self._squares - self._errors) / self.n) if self.n else 0.0
        weight = self.n / (self.n + self._DOUBT)
        variance = weight * own + (1 - weight) * guess
        return weight * self._mean, math.sqrt(max(variance, (0.1 * sigma) ** 2))
