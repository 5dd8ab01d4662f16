"""Karpathy's rule: better than the parent, keep."""

from __future__ import annotations

from autoresearch_ray.ports import Case, Judgement


class Greedy:
    """Believes every single measurement: right without noise, and about half luck with it."""

    confirmations = 1

    def judge(self, case: Case) -> Judgement:
        gain = case.direction.gain(case.candidate.mean, case.parent.mean)
        if gain > 0:
            return Judgement("keep", f"better than its parent by {gain:.3g}")
        if gain == 0 and case.lines < 0:
            return Judgement("keep", f"equal, with {-case.lines} lines less")
        return Judgement("discard", "equal to its parent" if gain == 0 else f"worse than its parent by {-gain:.3g}")

    def publishes(self, case: Case) -> bool:
        return case.best is None or case.direction.better(case.candidate.mean, case.best.mean)

    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> bool:
        """The worse half moves onto the best, each lane `every` verdicts after it last did; the leader never does."""
        return hand_ins >= every and rank >= (lanes + 1) // 2
