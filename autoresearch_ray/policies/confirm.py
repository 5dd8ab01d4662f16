"""The default: a gain within the noise is measured again before it counts, and the published best always is."""

from __future__ import annotations

import math

from autoresearch_ray.policies.greedy import Greedy as _Greedy
from autoresearch_ray.ports import Case, Judgement


class Confirm(_Greedy):
    """Keeps what stands out of the noise.

    The margin is two standard errors of the difference, `2 sigma sqrt(1/n + 1/m)` for a candidate measured n times and
    a parent measured m times. No gain: discard. More than the margin: keep. Between: measure again, at most three times
    in all, then one standard error decides. A tie at the end goes to the simpler code.

    That is lenient, so that small gains add up on a branch. What is published must exceed the best by three standard
    errors: of 60 simulated nights in which no change did anything, 8 lanes and 100 experiments each, 7 published one
    (38 with two standard errors), and nothing was lost where there was something to find.
    """

    confirmations = 2
    most = 3  # measurements of one candidate before it is decided

    def judge(self, case: Case) -> Judgement:
        gain = case.direction.gain(case.candidate.mean, case.parent.mean)
        error = (case.sigma or 0.0) * math.sqrt(1 / case.candidate.n + 1 / case.parent.n)
        simpler = case.lines < 0
        last = case.candidate.n >= self.most
        words = f"gain {gain:+.3g} against a margin of {2 * error:.3g}, n={case.candidate.n}"
        if gain > 2 * error:
            leads = case.best is None or case.direction.better(case.candidate.mean, case.best.mean)
            if leads and case.candidate.n < self.confirmations:
                return Judgement("again", f"would be the best: {words}")
            return Judgement("keep", words)
        if gain > 0 and not last:
            return Judgement("again", f"within the noise: {words}")
        if gain > error:
            return Judgement("keep", words)
        if simpler and abs(gain) <= error:
            return (
                Judgement("keep", f"a tie, with {-case.lines} lines less")
                if last or error == 0
                else Judgement("again", f"simpler, and within the noise: {words}")
            )
        return Judgement("discard", f"no gain: {words}" if gain <= 0 else f"not out of the noise: {words}")

    def publishes(self, case: Case) -> bool:
        if case.best is None:
            return True
        error = (case.sigma or 0.0) * math.sqrt(1 / case.candidate.n + 1 / case.best.n)
        return case.direction.gain(case.candidate.mean, case.best.mean) > 3 * error
