"""What one worker owns, and its lanes take in turns: a GPU, some of them, or a share of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from autoresearch_ray.model import Order, Propose, Stop, Wait
from autoresearch_ray.pace import Pace
from autoresearch_ray.slot_clock import SlotClock


@dataclass(slots=True)
class Slot:
    """GPU ids as granted, a share of the cores, and the lock that lanes measure behind. Safe to use from threads."""

    gpus: tuple[str, ...]
    cores: int
    pace: Pace = field(default_factory=Pace)
    clock: SlotClock = field(default_factory=SlotClock)
    lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _pacing: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def taken(self, lane: str) -> Iterator[None]:
        """The slot is this lane's alone, as soon as it is free."""
        with self._pacing:
            self.pace.arrived(lane, time.monotonic())
        with self.lock:
            with self._pacing:
                self.pace.took(lane, time.monotonic())
            try:
                yield
            finally:
                with self._pacing:
                    self.pace.left(lane, time.monotonic())

    def seat(self, lane: str) -> None:
        """Somebody sits down on the lane, and has no order yet."""
        with self._pacing:
            self.pace.came(lane, time.monotonic())

    def told(self, lane: str, order: Order) -> None:
        """The lane has its next order; after a Stop nobody sits there any more."""
        with self._pacing:
            if isinstance(order, Stop):
                self.pace.gone(lane)
            else:
                self.pace.ordered(lane, isinstance(order, Propose), time.monotonic(), isinstance(order, Wait))

    def is_short(self) -> bool:
        """Whether the lanes that sit here leave the slot idle, so that one more should begin."""
        with self._pacing:
            return self.pace.short(time.monotonic())

    def spares(self, lane: str) -> bool:
        """Whether the slot is as busy without this lane, which then counts as gone until it is told something."""
        with self._pacing:
            spare = self.pace.spare(time.monotonic())
            if spare:
                self.pace.gone(lane)
            return spare
