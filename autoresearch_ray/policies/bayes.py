"""The default: what is known of changes and of the noise says how much a gain is worth believing, and measuring."""

from __future__ import annotations

import math
from typing import Literal

from autoresearch_ray.noise import chance_above_zero, expected_excess
from autoresearch_ray.ports import Case, Judgement


class Bayes:
    """A normal prior, shrunk to the history of effects, and a price for every further measurement.

    A change is expected to bring what changes have brought so far in this run; its measurements move that by as much as
    the noise allows (normal prior, normal noise). It is measured again as long as one more measurement can be expected
    to better the decision by more than the same GPU time brings if it is spent on a new change (the knowledge
    gradient of Frazier, Powell and Dayanik, 2008, against the run's own rate). Then it is kept if it is better with a
    probability of `sure`. Bars, priors and the number of measurements were tuned on `python -m benchmarks.landscape`.
    """

    confirmations = 2
    gathers = True
    combines = True
    claims = 32  # a mean of 32 is off by 0.14 sigma on average
    sure = 0.97  # that a kept change is better than its parent
    surer = 0.999  # that a published best is better than the one before: it costs nothing, and 0.98 lets luck through
    few = 3  # measurements of one candidate before it is thrown away that is likely better
    most = 16  # measurements of one candidate, whatever it may be worth

    def judge(self, case: Case) -> Judgement:
        if not case.error:
            return self._exact(case)
        mean, spread = posterior(case)
        sure = chance_above_zero(mean, spread)
        found = f"gain {case.gain:+.3g} ± {case.error:.2g}, n = {case.n}"
        words = f"{found}; likely {mean:+.3g}, and better with {sure:.1%}"
        hardly_missed = 0.75 < sure < self.sure and case.n < self.few and math.isfinite(case.worth)
        worth_it = case.n < self.most and self._value_of_another(case, mean, spread) > case.worth
        if hardly_missed or worth_it:
            return Judgement("again", f"too close to call: {words}", mean, spread)
        if sure >= self.sure and case.gain > 0:  # whatever was expected of it
            return Judgement("keep", words, mean, spread)
        if case.lines < 0 and chance_above_zero(mean + case.sigma / 2, spread) >= self.sure:
            return Judgement("keep", f"a tie, with {-case.lines} lines less: {words}", mean, spread)
        why = "no gain" if min(mean, case.gain) <= 0 else "not sure enough"
        return Judgement("discard", f"{why}: {words}", mean, spread)

    def publishes(self, case: Case) -> Judgement:
        if not case.error:
            return self._exact(case)
        mean, spread = posterior(case)
        sure = chance_above_zero(mean, spread)
        words = f"better than the best by {case.gain:.3g} ± {case.error:.2g}, n = {case.n}, and with {sure:.1%}"
        if sure >= self.surer and case.gain > 0:
            return Judgement("keep", words, mean, spread)
        if sure > 0.5 and case.n < self.most:
            return Judgement("again", words, mean, spread)
        return Judgement("discard", f"not {words}", mean, spread)

    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        return "stay"

    def _value_of_another(self, case: Case, mean: float, spread: float) -> float:
        """By how much one more measurement can be expected to better the decision."""
        # The standard deviation of the next mean.
        moved = spread * (spread / math.hypot(spread, case.noise)) if spread else 0.0
        return expected_excess(mean, moved) - max(0.0, mean)

    def _exact(self, case: Case) -> Judgement:
        """Without noise, a value is what it is."""
        words = f"gain {case.gain:+.3g}, and no noise was seen"
        if case.gain > 0:
            return Judgement("keep", words, case.gain, 0.0)
        if case.gain == 0 and case.lines < 0:
            return Judgement("keep", f"equal, with {-case.lines} lines less", 0.0, 0.0)
        return Judgement("discard", words, case.gain, 0.0)


def posterior(case: Case) -> tuple[float, float]:
    """Mean and standard deviation of the true gain."""
    before, spread = case.prior
    share = spread / math.hypot(spread, case.error)  # the squares of very small ones are 0
    return before + share * share * (case.gain - before), share * case.error
