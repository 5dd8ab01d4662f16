"""Whether a slot may measure: its monitor is asked before each evaluation, and once more after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from autoresearch_ray.model import Failure, FailureKind
from autoresearch_ray.ports import Monitor

_LOOK_SECONDS = 2.0
_QUIET_SECONDS = 10.0  # a driver clears away what a process held within seconds, and nobody need hear of it
# How long each kind of trouble is waited for, before the slot is given up. What is sick does not get better.
_PATIENCE_SECONDS = {
    "sick": 0.0,
    "unsettled": 60.0,
    "busy": 12 * 3600.0,  # a night
}


def _alone(reason: str) -> bool:
    """A slot without a desk waits as long as it takes."""
    return True


@dataclass(slots=True)
class Checkup:
    """Of one slot; called behind its lock."""

    alone: bool = True  # nobody but this worker should be on the device; else who is there is not looked at
    pause: Callable[[str], bool] = _alone  # the desk's, for this worker
    clock: Callable[[], float] = time.monotonic
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext  # what waiting is done in, to be counted

    def before(self, monitor: Monitor, drain: threading.Event) -> Failure | None:
        """Wait until nothing speaks against measuring, or until a drain. A `Failure` says why it cannot be done."""
        kind, since, told = "", self.clock(), False
        while (trouble := monitor.trouble(self.alone)) is not None:
            if trouble.kind != kind:
                kind, since = trouble.kind, self.clock()
            waited = self.clock() - since
            if waited >= _PATIENCE_SECONDS[kind]:
                still = "" if kind == "sick" else f"still so after {waited:.0f} s: "
                return Failure(FailureKind.MACHINE, f"{still}{trouble.words}", fatal=True)
            if drain.is_set():
                return None
            if waited >= _QUIET_SECONDS:
                told = True
                if not self.pause(trouble.words):
                    return Failure(FailureKind.MACHINE, f"the slot was paused until the run ended: {trouble.words}")
            with self.waiting():
                drain.wait(_LOOK_SECONDS)
        if told:
            self.pause("")
        return None

    def after(self, monitor: Monitor) -> Failure | None:
        """Why what was just measured is not to be trusted, if the device has become sick meanwhile."""
        trouble = monitor.trouble(self.alone)
        if trouble is None or trouble.kind != "sick":
            return None
        return Failure(FailureKind.MACHINE, trouble.words, fatal=True)
