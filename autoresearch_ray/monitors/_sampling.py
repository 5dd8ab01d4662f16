"""What every monitor that samples is made of: a thread that takes the samples, and what is kept of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")

INTERVAL_SECONDS = 0.5
PATIENCE_SECONDS = 5.0  # a driver answers within milliseconds; one that is wedged never does, and cannot be interrupted


class Sampler:
    """Calls `sample` on a thread of its own: at once, then every half second, and once more at the end."""

    def __init__(self, sample: Callable[[], None]) -> None:
        self._sample = sample
        self._begun = threading.Event()
        self._stop = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> bool:
        """Whether the first sample was taken in time; it is taken when this returns."""
        self._thread.start()
        return self._begun.wait(PATIENCE_SECONDS)

    def stop(self) -> bool:
        """Whether the last sample was taken in time. A thread that hangs in a driver is left to its fate."""
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        return self._finished

    def _run(self) -> None:
        self._sample()
        self._begun.set()
        while not self._stop.wait(INTERVAL_SECONDS):
            self._sample()
        self._sample()
        self._finished = True


class Asker(Generic[Answer]):
    """Asks on a thread of its own. A question that hangs in a driver is waited for again, and not asked twice."""

    def __init__(self, question: Callable[..., Answer]) -> None:
        self._question = question
        self._asked: Future[Answer] | None = None

    def ask(self, *arguments: Any) -> Answer:
        """Raises `TimeoutError` if there is no answer in time."""
        asked = self._asked
        if asked is None:
            asked = self._asked = Future()
            threading.Thread(target=self._run, args=(asked, arguments), name="monitor", daemon=True).start()
        try:
            return asked.result(PATIENCE_SECONDS)
        finally:
            self._asked = None if asked.done() else asked

    def _run(self, asked: Future[Answer], arguments: tuple[Any, ...]) -> None:
        try:
            asked.set_result(self._question(*arguments))
        finally:
            asked.cancel()  # no effect on a question that was answered; one that failed is no longer waited for


class Series:
    """The peak and the mean of what was seen; what was not shown (None) does not count."""

    def __init__(self) -> None:
        self.peak: float | None = None
        self._total = 0.0
        self._count = 0

    def add(self, value: float | None) -> None:
        if value is None:
            return
        self.peak = value if self.peak is None else max(self.peak, value)
        self._total += value
        self._count += 1

    @property
    def mean(self) -> float | None:
        return self._total / self._count if self._count else None
