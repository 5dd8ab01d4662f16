"""How far two measurements of the same commit lie apart.

The noise floor is the pooled within-commit standard deviation: every commit that was measured more than once adds its
squared deviations and one degree of freedom less than its measurements (the usual pooled variance). It is kept as two
running sums, so adding a measurement costs the same after ten experiments and after ten thousand.
"""

from __future__ import annotations

import math


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
