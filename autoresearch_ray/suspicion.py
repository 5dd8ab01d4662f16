"""Why a measurement may not be what it seems, in words: a doubtful value is measured again, and stays marked."""

from __future__ import annotations

import math

from autoresearch_ray.model import Experiment, Measurement
from autoresearch_ray.noise import Effects

_HISTORY = 8.0  # gains that must have been seen before one can be too good
_TOO_GOOD = 6.0  # standard deviations beyond the mean gain
_TOO_EARLY = 0.5  # of the seconds that its parent takes
_MOMENT_SECONDS = 0.25  # a start of a process may differ by as much on a busy machine
_IDLE_PERCENT, _BUSY_PERCENT = 1.0, 10.0  # utilisation of a GPU


def doubts(
    measurement: Measurement,
    gain: float | None,
    effects: Effects,
    sigma: float | None,
    parent: Experiment | None,
    usual: float | None,
) -> tuple[str, ...]:
    """What speaks against a value that was measured once.

    `gain` is over the `parent`, whose figures it is held to; `usual` are the seconds of an evaluation of that on a
    device of the same class.
    """
    found = []
    if gain is not None and sigma and effects.n >= _HISTORY:
        mean, spread = effects.prior(sigma)
        most = mean + _TOO_GOOD * math.hypot(spread, sigma)
        if gain > most:
            found.append(f"too good: a gain of {gain:.3g}, where {most:.3g} would be much in this run")
    wall = measurement.wall_seconds
    if usual is not None and 0 < wall < _TOO_EARLY * usual and usual - wall > _MOMENT_SECONDS:
        found.append(f"ended after {wall:.3g} s, where its parent takes {usual:.3g} s")
    if parent is None or not parent.values:
        return tuple(found)
    busy, used = parent.resources.utilisation_percent, measurement.resources.utilisation_percent
    if busy is not None and used is not None and busy >= _BUSY_PERCENT and used <= _IDLE_PERCENT:
        found.append(f"left the GPU idle, which its parent uses to {busy:.0f} %")
    if measurement.printed > parent.printed:
        found.append(f"gave its metric {measurement.printed} times, its parent {parent.printed}")
    return tuple(found)
