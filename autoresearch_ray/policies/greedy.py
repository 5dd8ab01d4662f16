"""Karpathy's rule: better than the parent, keep."""

from __future__ import annotations

from typing import Literal

from autoresearch_ray.ports import Case, Judgement


class Greedy:
    """Believes every single measurement: right without noise, and about half luck with it."""

    confirmations = 1
    gathers = False
    combines = False
    claims = 1

    def judge(self, case: Case) -> Judgement:
        if case.gain > 0:
            return Judgement("keep", f"better than its parent by {case.gain:.3g}")
        if case.gain == 0 and case.lines < 0:
            return Judgement("keep", f"equal, with {-case.lines} lines less")
        words = "equal to its parent" if case.gain == 0 else f"worse than its parent by {-case.gain:.3g}"
        return Judgement("discard", words)

    def publishes(self, case: Case) -> Judgement:
        return Judgement("keep" if case.gain > 0 else "discard", f"better than the best by {case.gain:.3g}")

    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        """The worse half moves onto the best, each lane `every` verdicts after it last did; the leader never does."""
        return "replay" if hand_ins >= every and rank >= (lanes + 1) // 2 else "stay"
