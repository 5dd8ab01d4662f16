"""Measures train.py: the data, the clock and the number. Frozen; run as `python harness.py`.

`train.train(feed, seed)` gets a budget of CPU seconds, counted from its first batch, and returns a model that predicts
the next byte of Python source code. The score is `val_bpb`, bits per byte on files it was not trained on; lower is
better. The guards below are against accidents and obvious shortcuts. This is not a sandbox: train.py runs in this
process.

Environment: AUTORESEARCH_SEED (default 0); AUTORESEARCH_BUDGET_SECONDS (default 4); AUTORESEARCH_STEPS, which puts a
number of batches in the place of the clock, so that a run can be repeated to the last digit. The limit in seconds holds
all the same.
"""

from __future__ import annotations

import os
import sys
import time

STARTED = time.perf_counter()
# One thread for the arithmetic, or the workers race each other for cores. numpy reads this when it is imported.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import contextlib  # noqa: E402
import math  # noqa: E402
import signal  # noqa: E402
import sysconfig  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from types import FrameType  # noqa: E402
from typing import NoReturn, Protocol, TextIO  # noqa: E402

import numpy as np  # noqa: E402

# Pure Python, in every distribution's standard library, and in one file each from Python 3.11 on.
TRAINING_MODULES = (
    "argparse ast calendar configparser csv dataclasses difflib doctest fractions ftplib functools inspect ipaddress "
    "mailbox optparse pdb pickle plistlib pprint shutil smtplib statistics subprocess tarfile textwrap threading "
    "traceback uuid"
)
VALIDATION_MODULES = "bdb enum gettext random selectors shlex tempfile weakref"

LONGEST_CONTEXT = 64  # bytes a model may look back
VALIDATION_BYTES = 32_768  # predictions, spread evenly over the validation text
GRACE_SECONDS = 0.5  # of CPU, for importing train.py, building the model and finishing the last step
EVALUATION_SECONDS = 2.0  # of CPU, for scoring


class Model(Protocol):
    """What `train.train` returns."""

    context: int  # bytes it looks back, 1 to LONGEST_CONTEXT
    num_params: int

    def logits(self, contexts: np.ndarray) -> np.ndarray:
        """For contexts, uint8 [n, context], the unnormalised log-probabilities [n, 256] of the byte that follows."""


def fail(reason: str) -> NoReturn:
    """Say why and leave at once: no `except`, `finally` or `atexit` of train.py gets a word in.

    Past sys.stdout, which a signal may have interrupted in the middle of a write.
    """
    os.write(1, f"\nFAIL: {reason}\n".encode())
    os._exit(1)


@contextlib.contextmanager
def cpu_limit(seconds: float, reason: str) -> Iterator[None]:
    """End the process when the block takes more than `seconds` of its CPU time.

    The timer only wakes the check: it counts in ticks and, with twice as many busy processes as cores, was seen to
    fire 13 % early. The clock that decides is the one that the budget is counted in.
    """
    deadline = time.process_time() + seconds

    def check(number: int, frame: FrameType | None) -> None:
        if time.process_time() >= deadline:
            fail(reason)

    signal.signal(signal.SIGPROF, check)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Indented:
    """Standard output for train.py: no line that it prints can be read as a line of the summary."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._at_line_start = True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self._out.write("  " + line if self._at_line_start else line)
            self._at_line_start = line.endswith("\n")
        self._out.flush()
        return len(text)

    def flush(self) -> None:
        self._out.flush()


def text_of(modules: str) -> np.ndarray:
    """The sources of `modules` as one array of uint8, with line ends normalised."""
    folder = Path(sysconfig.get_path("stdlib"))
    try:
        sources = [(folder / f"{name}.py").read_bytes().replace(b"\r\n", b"\n") for name in modules.split()]
    except OSError as error:
        fail(f"the corpus is the standard library's own source, and a file of it is missing: {error}")
    return np.frombuffer(b"".join(sources), np.uint8)


def windows_of(text: np.ndarray, context: int) -> np.ndarray:
    """Every run of `context` bytes and the byte that follows it, as a view of shape [n, context + 1]."""
    return np.lib.stride_tricks.sliding_window_view(text, context + 1)


# --- Training --------------------------------------------------------------------------------------------------------


class Feed:
    """Random training batches until the budget is spent: CPU seconds or, with `max_steps`, a number of batches."""

    def __init__(self, text: np.ndarray, seed: int, budget_seconds: float, max_steps: int | None) -> None:
        self._text = text
        self._rng = np.random.default_rng(seed)
        self._budget_seconds = budget_seconds
        self._max_steps = max_steps
        self._start_seconds: float | None = None
        self.steps = 0

    @property
    def seconds(self) -> float:
        """CPU seconds since the first batch was asked for."""
        if self._start_seconds is None:
            return 0.0
        return time.process_time() - self._start_seconds

    @property
    def progress(self) -> float:
        """The spent part of the budget; 1 or more when it is over."""
        if self._max_steps is not None:
            return self.steps / self._max_steps
        return self.seconds / self._budget_seconds

    def batches(self, rows: int, context: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Yield (contexts uint8 [rows, context], targets uint8 [rows], progress 0..1) until the budget is spent."""
        if not 1 <= context <= LONGEST_CONTEXT:
            raise ValueError(f"a context has 1 to {LONGEST_CONTEXT} bytes, not {context}")
        windows = windows_of(self._text, context)
        if self._start_seconds is None:
            self._start_seconds = time.process_time()
        while (progress := self.progress) < 1:
            picked = windows[self._rng.integers(len(windows), size=rows)]
            self.steps += 1
            yield picked[:, :-1], picked[:, -1], progress


# --- Evaluation ------------------------------------------------------------------------------------------------------


def checked_logits(model: Model, contexts: np.ndarray) -> np.ndarray:
    logits = np.asarray(model.logits(contexts.copy()))
    if logits.shape != (len(contexts), 256):
        fail(f"logits have shape {logits.shape}, expected {(len(contexts), 256)}")
    if not np.isfinite(logits).all():
        fail("logits are not finite: the training has diverged")
    return logits.astype(np.float64)


def bits_per_byte(model: Model, text: np.ndarray) -> float:
    """The mean of -log2 p(byte | the bytes before it), in float64, over evenly spread bytes of `text`.

    The model is handed contexts and never a target. That its answer to a context depends on nothing else, neither the
    rows beside it nor the calls before it, is checked on 64 rows: first, last, and among the others.
    """
    if not 1 <= model.context <= LONGEST_CONTEXT:
        fail(f"the model's context is {model.context} bytes, expected 1 to {LONGEST_CONTEXT}")
    ends = np.linspace(LONGEST_CONTEXT, len(text) - 1, VALIDATION_BYTES).astype(np.int64)
    windows = windows_of(text, model.context)[ends - model.context]
    contexts, targets = windows[:, :-1], windows[:, -1].astype(np.int64)
    sample = np.random.default_rng(0).permutation(len(ends))[:64]

    before = checked_logits(model, contexts[sample])
    among = np.empty_like(before)
    total_nats = 0.0
    for start in range(0, len(ends), 4096):
        rows = slice(start, start + 4096)
        logits = checked_logits(model, contexts[rows])
        inside = (sample >= start) & (sample < start + 4096)
        among[inside] = logits[sample[inside] - start]
        logits -= logits.max(axis=1, keepdims=True)
        log_normaliser = np.log(np.exp(logits).sum(axis=1))
        total_nats += float((log_normaliser - logits[np.arange(len(logits)), targets[rows]]).sum())
    after = checked_logits(model, contexts[sample])

    # Float32 products of another shape round otherwise, by about 1e-6 of the largest logit; a leak moves them by ~1.
    tolerance = 1e-3 * (1.0 + float(np.abs(before).max()))
    if np.abs(after - before).max() > tolerance:
        fail("the same contexts gave other logits the second time: the model keeps state between calls")
    if np.abs(among - before).max() > tolerance:
        fail("logits of a context depend on the rows beside it")
    return total_nats / len(ends) / math.log(2)


def main() -> None:
    seed = int(os.environ.get("AUTORESEARCH_SEED", "0"))
    budget_seconds = float(os.environ.get("AUTORESEARCH_BUDGET_SECONDS", "4"))
    max_steps = int(os.environ["AUTORESEARCH_STEPS"]) if "AUTORESEARCH_STEPS" in os.environ else None
    feed = Feed(text_of(TRAINING_MODULES), seed, budget_seconds, max_steps)

    over = f"training went on after its budget of {budget_seconds:g} CPU seconds"
    with contextlib.redirect_stdout(Indented(sys.stdout)):
        with cpu_limit(budget_seconds + GRACE_SECONDS, over):
            sys.dont_write_bytecode = True  # two edits within a second would share one stale file
            import train

            model: Model = train.train(feed, seed)
            training_seconds = feed.seconds
        with cpu_limit(EVALUATION_SECONDS, f"scoring took more than {EVALUATION_SECONDS:g} CPU seconds"):
            val_bpb = bits_per_byte(model, text_of(VALIDATION_MODULES))
            num_params = model.num_params

    print("\n---")
    print(f"val_bpb: {val_bpb:.6f}")
    print(f"training_seconds: {training_seconds:.2f}")
    print(f"total_seconds: {time.perf_counter() - STARTED:.2f}")
    print(f"num_steps: {feed.steps}")
    print(f"num_params: {num_params}")
    print(f"seed: {seed}")
    print(f"clock: {'cpu' if max_steps is None else 'steps'}", flush=True)
    os._exit(0)  # the summary is the last word: nothing that train.py registered runs after it


if __name__ == "__main__":
    main()
