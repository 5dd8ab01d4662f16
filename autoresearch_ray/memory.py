"""What a whole run has learned, in a few kilobytes: counts by category and topic, wins, near misses, failures.

Fed with verdicts, one at a time, and never longer however many there were: a prompt after ten thousand experiments
takes as long to compose as after three hundred. Whom a change helps in company is learned later than that it did not
help alone, so a near miss becomes a win when a group with it is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """Pure: fed by `Board.apply`, so that the one of a replayed ledger is the one of the live board.

    Verdicts are taken in when somebody reads: a replay that tells nobody would take a third longer for it, and so would
    a decision, which is tried on a copy of the board.
    """

    def __init__(self) -> None:
        self._waiting: list[Experiment | Win] = []
        self._categories: dict[Category, Tally] = {}
        self._topics: dict[Subject, Tally] = {}  # that which was tried last is the last
        self._wins: dict[Category, tuple[Win, ...]] = {}
        self._news: tuple[Win, ...] = ()
        self._misses: dict[Category, tuple[Experiment, ...]] = {}
        self._failures: dict[FailureKind, tuple[Experiment, ...]] = {}

    # --- Learning ----------------------------------------------------------------------------------------------------

    def learn(self, experiment: Experiment) -> None:
        """The verdict on one change. What never came to the device, or was lost, says nothing of the idea."""
        self._waiting.append(experiment)

    def joined(self, experiments: Iterable[Experiment], company: int) -> None:
        """The group `company` was kept, and these are its changes: what was thrown away of them is a win after all."""
        self._waiting += (Win(each, company) for each in experiments if each.status is not Status.KEEP)

    def read(self) -> None:
        """Take in what was learned since the last time. Whatever is asked of a memory does so first."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if isinstance(each, Win):
                self._take_win(each)
            else:
                self._take(each)

    def _take(self, experiment: Experiment) -> None:
        failure = experiment.failure
        if experiment.status in (Status.LOST, Status.PENDING) or (failure and failure.kind not in FAILED):
            return
        about = subject(experiment.idea, experiment.params)
        self._categories[about.category] = self._categories.get(about.category, Tally()).after(experiment)
        if about.topic:
            self._topics[about] = self._topics.pop(about, Tally()).after(experiment)
            if len(self._topics) > _TOPICS:
                del self._topics[next(iter(self._topics))]
        if failure:
            self._failures[failure.kind] = (*self._failures.get(failure.kind, ()), experiment)[-_FAILURES:]
        elif experiment.status is Status.KEEP:
            self._won(Win(experiment), about.category)
        elif experiment.gain is not None:
            misses = self._misses.get(about.category, ())
            if len(misses) < _MISSES or _rank(experiment) < _rank(misses[-1]):
                self._misses[about.category] = tuple(sorted((*misses, experiment), key=_rank)[:_MISSES])

    def _take_win(self, win: Win) -> None:
        experiment = win.experiment
        about = subject(experiment.idea, experiment.params)
        if about.category in self._categories:
            self._categories[about.category] = replace(self._categories[about.category], since=0, nearest=None)
        if about in self._topics:
            self._topics[about] = replace(self._topics[about], since=0, nearest=None)
        misses = self._misses.get(about.category, ())
        self._misses[about.category] = tuple(each for each in misses if each.number != experiment.number)
        self._won(win, about.category)

    def _won(self, win: Win, category: Category) -> None:
        number = win.experiment.number
        others = [each for each in self._wins.get(category, ()) if each.experiment.number != number]
        ranked = sorted((*others, win), key=lambda each: _rank(each.experiment))
        self._wins[category] = tuple(ranked[:_WINS])
        self._news = (*(each for each in self._news if each.experiment.number != number), win)[-_NEWS:]

    # --- Reading -----------------------------------------------------------------------------------------------------

    @property
    def categories(self) -> Mapping[Category, Tally]:
        """What came of each category."""
        self.read()
        return self._categories

    @property
    def topics(self) -> Mapping[Subject, Tally]:
        """What came of each topic, of those that were tried last."""
        self.read()
        return self._topics

    @property
    def wins(self) -> list[Win]:
        """The largest of each category and the latest of all, the largest first."""
        self.read()
        known = {each.experiment.number: each for wins in self._wins.values() for each in wins}
        known |= {each.experiment.number: each for each in self._news}
        return sorted(known.values(), key=lambda each: _rank(each.experiment))

    @property
    def misses(self) -> list[Experiment]:
        """What ran and was thrown away, the most promising first."""
        self.read()
        return sorted((each for misses in self._misses.values() for each in misses), key=_rank)

    @property
    def failures(self) -> list[Experiment]:
        """The latest failures of each kind, the latest first."""
        self.read()
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
