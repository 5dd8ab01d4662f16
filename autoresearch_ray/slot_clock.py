"""The clock of one slot: every second since its worker began has exactly one use.

Its lanes are threads, and each says what it is doing while it does it. What the slot is doing is the best of that, in
the order of `Use`: while one lane measures, nothing that the others wait for counts. A change of any lane books the
time since the last change, so the uses add up to the age of the worker, whatever the lanes do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from autoresearch_ray.model import Spent, Use


@dataclass(slots=True)
class Trial:
    """One evaluation of one thread: what it is for, and whether anything came of it."""

    use: Use
    counts: bool = False  # to be set by who has the result
    seconds: float = 0.0  # of measuring


@dataclass(slots=True)
class SlotClock:
    """Safe to be called from many threads. A thread that says nothing does nothing; with none, the slot is set up."""

    worker: int = 0
    since: float = 0.0  # seconds since the epoch: the name of this life of the worker
    monotonic: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _doing: dict[int, list[Use]] = field(default_factory=dict, init=False)  # by thread, the innermost last
    _trials: dict[int, Trial] = field(default_factory=dict, init=False)  # by thread
    _seconds: dict[Use, float] = field(init=False)
    _rank: dict[Use, int] = field(init=False)
    _use: Use = field(default=Use.SETUP, init=False)
    _booked: float = field(init=False)  # until when

    def __post_init__(self) -> None:
        self._seconds = dict.fromkeys(Use, 0.0)
        self._rank = {use: rank for rank, use in enumerate(Use)}
        self._booked = self.monotonic()

    @contextmanager
    def doing(self, use: Use) -> Iterator[None]:
        """This thread does `use`; inside another one, that one waits."""
        thread = threading.get_ident()
        with self._lock:
            self._doing.setdefault(thread, []).append(use)
            self._book()
        try:
            yield
        finally:
            with self._lock:
                uses = self._doing[thread]
                uses.pop()
                if not uses:
                    del self._doing[thread]
                self._book()

    @contextmanager
    def trial(self, use: Use) -> Iterator[Trial]:
        """What this thread measures is for `use`. In the end, unless it counts, its seconds are moved to `LOST`."""
        thread = threading.get_ident()
        trial = self._trials[thread] = Trial(use)
        try:
            yield trial
        finally:
            del self._trials[thread]
            if not trial.counts:
                with self._lock:
                    self._seconds[use] -= trial.seconds
                    self._seconds[Use.LOST] += trial.seconds

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """This thread has the device, for its trial. One thread at a time: the slot's lock sees to that."""
        trial = self._trials.get(threading.get_ident(), Trial(Use.LOST))
        with self._lock:
            self._book()
            before = self._seconds[trial.use]
        try:
            with self.doing(trial.use):
                yield
        finally:
            with self._lock:
                trial.seconds += self._seconds[trial.use] - before

    def spent(self) -> Spent:
        """All that the slot has spent until now, to the millisecond."""
        with self._lock:
            self._book()
            seconds = {use: round(spent, 3) for use, spent in self._seconds.items() if spent >= 0.0005}
        return Spent(self.worker, self.since, seconds)

    def _book(self) -> None:
        """The time since the last change goes to what the slot was doing; then look what it does from here on."""
        now = self.monotonic()
        self._seconds[self._use] += now - self._booked
        self._booked = now
        self._use = min((uses[-1] for uses in self._doing.values()), key=self._rank.__getitem__, default=Use.SETUP)
