"""What a whole run has learned, in a few kilobytes: counts by category and topic, wins, near misses, failures.

Fed with verdicts, one at a time, and never longer however many there were: a prompt after ten thousand experiments
takes as long to compose as after three hundred. Whom a change helps in company is learned later than that it did not
help alone, so a near miss becomes a win when a group with it is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from autoresearch_ray.categories import Category, Subject, subject
from autoresearch_ray.model import Experiment, FailureKind, Status

FAILED = (  # on the device, or at the guard: what else fails was never tried
    FailureKind.CRASH,
    FailureKind.TIMEOUT,
    FailureKind.OOM,
    FailureKind.NO_METRIC,
    FailureKind.NOT_FINITE,
    FailureKind.GUARD,
)
DEAD_END = 8  # attempts at one topic since the last of them that was kept

_WINS = 8  # of each category, the largest
_NEWS = 24  # wins, the latest
_MISSES = 16  # of each category, the nearest
_FAILURES = 2  # of each kind, the latest
_TOPICS = 128  # those tried last


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of all attempts of one kind."""

    tried: int = 0
    kept: int = 0
    failed: int = 0
    since: int = 0  # tried since the last of them was kept, alone or in company
    best: Experiment | None = None  # of the kept ones, that with the largest gain
    nearest: Experiment | None = None  # of those since then

    def after(self, experiment: Experiment) -> Tally:
        """With one more attempt."""
        kept = experiment.status is Status.KEEP
        return Tally(
            self.tried + 1,
            self.kept + kept,
            self.failed + (experiment.failure is not None),
            0 if kept else self.since + 1,
            _better(self.best, experiment) if kept else self.best,
            None if kept else _better(self.nearest, experiment),
        )


@dataclass(frozen=True, slots=True)
class Win:
    """A change that was kept. `company` is the number of the group in which it was, if it was not kept alone."""

    experiment: Experiment
    company: int | None = None


class Memory:
    """Pure: fed by `Board.apply`, so that the one of a replayed ledger is the one of the live board."""

    def __init__(self) -> None:
        self.categories: dict[Category, Tally] = {}
        self.topics: dict[Subject, Tally] = {}  # that which was tried last is the last
        self._wins: dict[Category, tuple[Win, ...]] = {}
        self._news: tuple[Win, ...] = ()
        self._misses: dict[Category, tuple[Experiment, ...]] = {}
        self._failures: dict[FailureKind, tuple[Experiment, ...]] = {}

    # --- Learning ----------------------------------------------------------------------------------------------------

    def learn(self, experiment: Experiment) -> None:
        """The verdict on one change. What never came to the device, or was lost, says nothing of the idea."""
        failure, about = experiment.failure, subject(experiment.idea, experiment.params)
        if experiment.status in (Status.LOST, Status.PENDING) or (failure and failure.kind not in FAILED):
            return
        self.categories[about.category] = self.categories.get(about.category, Tally()).after(experiment)
        if about.topic:
            self.topics[about] = self.topics.pop(about, Tally()).after(experiment)
            if len(self.topics) > _TOPICS:
                del self.topics[next(iter(self.topics))]
        if failure:
            self._failures[failure.kind] = (*self._failures.get(failure.kind, ()), experiment)[-_FAILURES:]
        elif experiment.status is Status.KEEP:
            self._won(Win(experiment), about.category)
        elif experiment.gain is not None:
            misses = self._misses.get(about.category, ())
            if len(misses) < _MISSES or _rank(experiment) < _rank(misses[-1]):
                self._misses[about.category] = tuple(sorted((*misses, experiment), key=_rank)[:_MISSES])

    def joined(self, experiments: Iterable[Experiment], company: int) -> None:
        """The group `company` was kept, and these are its changes: what was thrown away of them is a win after all."""
        for experiment in experiments:
            if experiment.status is Status.KEEP:
                continue
            about = subject(experiment.idea, experiment.params)
            if about.category in self.categories:
                self.categories[about.category] = replace(self.categories[about.category], since=0, nearest=None)
            if about in self.topics:
                self.topics[about] = replace(self.topics[about], since=0, nearest=None)
            misses = self._misses.get(about.category, ())
            self._misses[about.category] = tuple(each for each in misses if each.number != experiment.number)
            self._won(Win(experiment, company), about.category)

    def _won(self, win: Win, category: Category) -> None:
        number = win.experiment.number
        others = [each for each in self._wins.get(category, ()) if each.experiment.number != number]
        ranked = sorted((*others, win), key=lambda each: _rank(each.experiment))
        self._wins[category] = tuple(ranked[:_WINS])
        self._news = (*(each for each in self._news if each.experiment.number != number), win)[-_NEWS:]

    # --- Reading -----------------------------------------------------------------------------------------------------

    @property
    def wins(self) -> list[Win]:
        """The largest of each category and the latest of all, the largest first."""
        known = {each.experiment.number: each for wins in self._wins.values() for each in wins}
        known |= {each.experiment.number: each for each in self._news}
        return sorted(known.values(), key=lambda each: _rank(each.experiment))

    @property
    def misses(self) -> list[Experiment]:
        """What ran and was thrown away, the most promising first."""
        return sorted((each for misses in self._misses.values() for each in misses), key=_rank)

    @property
    def failures(self) -> list[Experiment]:
        """The latest failures of each kind, the latest first."""
        return sorted((each for failed in self._failures.values() for each in failed), key=lambda each: -each.number)

    @property
    def dead_ends(self) -> list[tuple[Subject, Tally]]:
        """Topics at which much was tried since anything of them was kept, the most tried first."""
        found = [(about, tally) for about, tally in self.topics.items() if tally.since >= DEAD_END]
        return sorted(found, key=lambda each: (-each[1].since, str(each[0])))


def likely(experiment: Experiment) -> float:
    """The gain to be expected of it, or what was measured while nothing was known of what changes bring."""
    return (experiment.gain or 0.0) if experiment.likely is None else experiment.likely


def _rank(experiment: Experiment) -> tuple[float, int]:
    return -likely(experiment), experiment.number


def _better(one: Experiment | None, other: Experiment) -> Experiment | None:
    if other.gain is None or (one is not None and likely(one) >= likely(other)):
        return one
    return other
