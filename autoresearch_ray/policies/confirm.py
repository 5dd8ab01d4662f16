"""Sequential tests: a gain within the noise is measured again before it counts, and the published best always is."""

from __future__ import annotations

from autoresearch_ray.policies.greedy import Greedy as _Greedy
from autoresearch_ray.ports import Case, Judgement


class Confirm(_Greedy):
    """Keeps what stands out of the noise.

    The margin is two standard errors of the difference between a candidate and its parent, which knows how often either
    was measured. No gain: discard. More than the margin: keep. Between: measure again, at most three times in all, then
    one standard error decides. A tie at the end goes to the simpler code.

    That is lenient, so that small gains add up on a branch. What is published must exceed the best by three standard
    errors: of 60 simulated nights in which no change did anything, 8 lanes and 100 experiments each, 7 published one
    (38 with two standard errors), and nothing was lost where there was something to find.
    """

    confirmations = 2
    most = 3  # measurements of one candidate before it is decided

    def judge(self, case: Case) -> Judgement:
        gain, error = case.gain, case.error
        simpler = case.lines < 0
        last = case.n >= self.most
        words = f"gain {gain:+.3g} against a margin of {2 * error:.3g}, n = {case.n}"
        if gain > 2 * error:
            if (case.lead is None or case.lead > 0) and case.n < self.confirmations:
                return Judgement("again", f"would be the best: {words}")
            return Judgement("keep", words)
        if gain > 0 and not last:
            return Judgement("again", f"within the noise: {words}")
        if gain > error:
            return Judgement("keep", words)
        if simpler and abs(gain) <= error:
            if last or error == 0:
                return Judgement("keep", f"a tie, with {-case.lines} lines less")
            return Judgement("again", f"simpler, and within the noise: {words}")
        return Judgement("discard", f"no gain: {words}" if gain <= 0 else f"not out of the noise: {words}")

    def publishes(self, case: Case) -> Judgement:
        words = f"better than the best by {case.gain:.3g}, with a margin of {3 * case.error:.3g}"
        if case.gain > 3 * case.error:
            return Judgement("keep", words)
        return Judgement("again" if case.gain > 0 and case.n < 2 * self.most else "discard", f"not {words}")
