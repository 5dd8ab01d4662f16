"""Measures train.py: the clock, the data, the seed and the number. Frozen; run as `python harness.py`.

Two processes. This one hands out the batches, counts the time, asks the model for logits and turns them into bits per
byte, in numpy. It starts the trainer (trainer.py), the only one to import train.py. Tokens and logits are all that
passes between them, so nothing that train.py replaces, prints or returns is a measurement.

Environment: AUTORESEARCH_SEED (default 0); AUTORESEARCH_BUDGET_SECONDS (default 300, on a CPU 20); AUTORESEARCH_DATA;
AUTORESEARCH_STEPS, a number of batches in the place of the clock, so that a CPU run repeats to the last digit. The
budget holds all the same.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import secrets
import shlex
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from data import Corpus, Packer, Split
from wire import BUFFER_BYTES, HERE, FailedError, Trainer

STARTED = time.perf_counter()

BUDGET_SECONDS = {"cuda": 300.0, "mps": 300.0, "cpu": 20.0}
# By the clock that counts the budget. Setting up: import, build, compile, warm-up. Grace: the last step and the return.
SETUP_SECONDS = {"wall": 300.0, "cpu": 60.0}
GRACE_SECONDS = {"wall": 3.0, "cpu": 0.5}
# The first request for logits after the training may take so many times what one took before it, and the grace: a model
# that goes on learning when it is asked would need more. Had it learned later, its first answer would not come again.
FIRST_ANSWER_FACTOR = 3.0
SCORING_FACTOR = 5.0
SCORING_SECONDS = 60.0  # that all requests may take in any case

VALIDATION_TOKENS = 1 << 19  # at most: stdlib has fewer, and is read once
LARGEST_REQUEST = 32  # rows
TIMED_REQUESTS = 4  # before the training, to know how long one takes
SAMPLED_ROWS = 64  # are asked again with other tokens after a cut, drawn anew in each run
BATCH_TOKENS = 1 << 24  # of one batch, at most
SOURCE_BYTES = 100_000  # of train.py: a larger file carries weights, not code

# An untrained model guesses: log(vocabulary) nats per token. One that has seen the data for 20 s is at half of that.
UNTRAINED = 0.75
EXPLODED = 3.0  # times log(vocabulary)
# Of the range of the logits. The same row in the same place of the same batch gives the same bits; what could be hidden
# below this, 0.003 up for one logit and down for the others, gains 0.006 nats a token at most.
TOLERANCE = 1e-4
DEEPEST = 30.0  # under the largest: a logit below it has no probability, and must not widen the range
# A row at another place in the batch: products of another shape round otherwise, in bfloat16 by up to 2**-8.
TOLERANCE_MOVED = {"float32": 1e-3, "float64": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}

# Dense bfloat16 FLOP/s of a whole card, from the data sheets; the first name found in the device's name counts.
PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
}


@dataclass
class Measurement:
    """One run of train.py, from its import to its score."""

    trainer: Trainer
    corpus: Corpus
    seed: int
    clock: str  # "wall" or "cpu"
    budget_seconds: float
    max_steps: int | None

    steps: int = 0
    tokens: int = 0
    training_seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # what the trainer says of its model: for the summary alone
    _fresh: np.ndarray = field(init=False)  # training rows, uint16 [rows, context + 1], of the size of a request
    _requests: list[np.ndarray] = field(init=False)  # the validation rows, likewise
    _request_seconds: float = 0.0
    _limit: tuple[float, str] = (0.0, "")  # for a request for logits
    _dtype: str = ""
    _answer: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        # Read before train.py runs, so that nothing it does to the files is measured.
        corpus = self.corpus
        size = max(1, min(LARGEST_REQUEST, BUFFER_BYTES // (4 * corpus.context * corpus.vocabulary)))
        count = min(VALIDATION_TOKENS, len(corpus.validation.tokens)) // (corpus.context + 1)
        rows = packed(corpus, corpus.validation, count, None)
        self._requests = [rows[start : start + size] for start in range(0, count - size + 1, size)]
        self._fresh = packed(corpus, corpus.train, size, self.seed)

    def run(self) -> float:
        """Build, train, score: bits per byte. Raises `FailedError`."""
        trainer, corpus = self.trainer, self.corpus
        setup = SETUP_SECONDS[self.clock]
        trainer.restart_clock(self.clock)
        trainer.send(do="build", seed=self.seed, vocabulary=corpus.vocabulary, bos=corpus.bos, context=corpus.context)
        self.facts = trainer.receive(setup, f"building the model took more than {setup:g} s")
        self._limit = setup, f"building the model and a first answer took more than {setup:g} s"
        self._rehearse()
        self._train()
        return self._score()

    def _rehearse(self) -> None:
        """Ask for logits of random tokens, so that a wrong shape is known now, not after the budget.

        How long an answer takes is known too, and what is compiled for it is compiled.
        """
        shape = len(self._fresh), self.corpus.context
        noise = np.random.default_rng(self.seed).integers(self.corpus.vocabulary, size=shape, dtype=np.uint16)
        self._logits(noise)
        before = self.trainer.clock.seconds
        for _ in range(TIMED_REQUESTS):
            losses(self._logits(noise), noise)
        self._request_seconds = (self.trainer.clock.seconds - before) / TIMED_REQUESTS

    # --- Training ----------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        """Hand out batches until the budget is spent. It starts with the first one."""
        trainer, clock = self.trainer, self.clock
        setup, grace, budget = SETUP_SECONDS[clock], GRACE_SECONDS[clock], self.budget_seconds
        limit = setup, f"setting up took more than {setup:g} s"
        batches = Batches(self.corpus, self.seed)
        started = ended = False
        handed_out = helped = 0.0
        trainer.send(do="train")
        while True:
            message = trainer.receive(*limit)
            if "loss" in message:
                self._curve(message["loss"])
            elif "trained" in message:
                break
            elif ended:
                raise FailedError("train.py asked for a batch after the last one")
            else:
                rows, context = self._asked(message)
                if not started:
                    started = True
                    helped = trainer.helpers_cpu_seconds()
                    trainer.restart_clock(clock)
                    late = f"training went on for more than {grace:g} s after its budget of {budget:g} s ({clock})"
                    limit = budget + grace, late
                    self._check_untrained()
                    handed_out = trainer.clock.seconds
                now = trainer.clock.seconds
                # A step that would not end in time is not begun.
                over = now + (now - handed_out) >= budget or self.steps == self.max_steps
                if over:
                    trainer.send(end=True)
                    ended = True
                else:
                    progress = now / budget if self.max_steps is None else self.steps / self.max_steps
                    trainer.send(batches.take(rows, context), progress=progress)
                    handed_out = now
                    self.steps += 1
                    self.tokens += rows * context
                    batches.pack(rows, context)  # the next one, while the trainer works
        if not started:
            raise FailedError("train.py asked for no batch")
        self.training_seconds = trainer.clock.seconds
        self.facts |= message
        helped = trainer.helpers_cpu_seconds() - helped
        if clock == "cpu" and helped > grace:
            raise FailedError(f"processes that train.py started used {helped:.1f} CPU seconds beside its budget")

    def _asked(self, message: dict[str, Any]) -> tuple[int, int]:
        rows, context = message.get("rows"), message.get("context")
        most = self.corpus.context
        if type(rows) is not int or type(context) is not int or rows < 1 or not 1 <= context <= most:
            raise FailedError(f"a batch has 1 row or more of 1 to {most} tokens, not {rows} of {context}")
        if rows * context > BATCH_TOKENS:
            raise FailedError(f"a batch has at most {BATCH_TOKENS:,} tokens, not {rows} rows of {context}")
        return rows, context

    def _curve(self, loss: Any) -> None:
        """Print a point of the learning curve. Raises `FailedError` if there is no use in going on."""
        worst = EXPLODED * math.log(self.corpus.vocabulary)
        if finite(loss) is None or loss > worst:
            raise FailedError(f"the loss is {loss} at step {self.steps}: the training has diverged")
        seconds, millions = self.trainer.clock.seconds, self.tokens / 1e6
        self.trainer.relay.say(f"  step {self.steps}  seconds {seconds:.1f}  tokens_M {millions:.2f}  loss {loss:.4f}")

    # --- Scoring -----------------------------------------------------------------------------------------------------

    def _logits(self, tokens: np.ndarray) -> np.ndarray:
        """Logits, float32 [rows, context, vocabulary], finite, for tokens [rows, context]. They hold until the next.

        They are copied at once, and each answer alike: the trainer still has its hand on the buffer that they came in.
        """
        shared, self._dtype = self.trainer.logits(tokens, *self._limit)
        expected = (*tokens.shape, self.corpus.vocabulary)
        if shared.shape != expected:
            raise FailedError(f"logits have shape {list(shared.shape)}, expected {list(expected)}")
        if self._dtype not in TOLERANCE_MOVED:
            raise FailedError(f"logits are {self._dtype}, expected {' or '.join(TOLERANCE_MOVED)}")
        if self._answer.shape != expected:
            self._answer = np.empty(expected, np.float32)
        there, own = (each.reshape(-1, self.corpus.vocabulary) for each in (shared, self._answer))

        def take(part: slice) -> bool:
            own[part] = there[part]
            return bool(np.isfinite(own[part]).all())

        if not all(_threads.map(take, [slice(start, start + 256) for start in range(0, len(own), 256)])):
            raise FailedError("logits are not finite" + (": the training has diverged" if self.steps else ""))
        return self._answer

    def _check_untrained(self) -> None:
        """The model that asks for its first batch must not know the language yet. The clock is running."""
        nats = float(losses(self._logits(self._fresh[:, :-1]), self._fresh[:, 1:]).mean())
        guess = math.log(self.corpus.vocabulary)
        if nats < UNTRAINED * guess:
            raise FailedError(
                f"before its first batch the model needs {nats:.2f} nats per token, where a guess needs {guess:.2f}: "
                "it was trained elsewhere"
            )

    def _score(self) -> float:
        """Bits per byte over the pinned validation rows.

        Logits follow from the tokens up to theirs in the same row, and from nothing else: that is checked meanwhile, on
        rows that nobody can foresee, so that no model can behave for them alone.
        """
        corpus, trainer, requests = self.corpus, self.trainer, self._requests
        chance = np.random.default_rng(secrets.randbits(64))
        sampled = set(chance.permutation(len(requests))[: -(-SAMPLED_ROWS // len(requests[0]))].tolist())
        first, *_ = requests
        # To answer takes no longer than to learn from as many tokens: slow answers before the training buy no time.
        learned = self.training_seconds * first[:, 1:].size / self.tokens if self.tokens else math.inf
        limit = FIRST_ANSWER_FACTOR * min(self._request_seconds, learned) + GRACE_SECONDS[self.clock]
        self._limit = limit, f"the first answer after the training took more than {limit:.1f} s"
        trainer.restart_clock(self.clock)
        first_answer = self._logits(first[:, :-1]).copy()
        limit = SCORING_FACTOR * self._request_seconds * (len(requests) + len(sampled) + 2) + SCORING_SECONDS
        self._limit = limit, f"scoring took more than {limit:.0f} s"
        nats, size_bytes = 0.0, 0
        for number, request in enumerate(requests):
            logits = first_answer if request is first else self._logits(request[:, :-1])
            token_bytes = corpus.token_bytes[request[:, 1:]]
            nats += float(losses(logits, request[:, 1:])[token_bytes > 0].sum(dtype=np.float64))
            size_bytes += int(token_bytes.sum())
            if number in sampled:
                self._check_causal(request[:, :-1], logits.copy(), requests[number - 1][:, :-1], chance)
        self._check_stateless(first[:, :-1], first_answer, chance)
        return nats / math.log(2) / size_bytes

    def _check_causal(
        self, tokens: np.ndarray, answer: np.ndarray, others: np.ndarray, chance: np.random.Generator
    ) -> None:
        """After a cut of its own, each row goes on as another does: nothing before the cut may change."""
        cuts = chance.integers(1, self.corpus.context, size=len(tokens))
        kept = np.arange(self.corpus.context) < cuts[:, None]
        why = "logits change with the tokens that come later: the model is not causal"
        try:
            same(self._logits(np.where(kept, tokens, others))[kept], answer[kept], TOLERANCE, why)
        except FailedError:
            self._check_stateless(tokens, answer, chance)  # a nearer reason, if there is one
            raise

    def _check_stateless(self, tokens: np.ndarray, answer: np.ndarray, chance: np.random.Generator) -> None:
        """The first rows, asked again after all others, then in other places among each other, give the same logits."""
        why = "the same rows gave other logits the second time: the model keeps state"
        same(self._logits(tokens), answer, TOLERANCE, why)
        shift = int(chance.integers(1, len(tokens))) if len(tokens) > 1 else 0
        why = "logits of a row change with its place among the others"
        moved = self._logits(np.roll(tokens, shift, axis=0))
        same(moved, np.roll(answer, shift, axis=0), TOLERANCE_MOVED[self._dtype], why)

    # --- Summary -----------------------------------------------------------------------------------------------------

    def summary(self, val_bpb: float, device: str, processes: int) -> dict[str, str]:
        facts = {name: finite(value) for name, value in self.facts.items()}
        flops, depth = facts.get("flops_per_token"), facts.get("depth")
        peak = peak_flops(device)
        mfu = "n/a"
        if peak and flops:
            mfu = f"{100 * flops * self.tokens / self.training_seconds / peak / processes:.2f}"
        return {
            "val_bpb": f"{val_bpb:.6f}",
            "training_seconds": f"{self.training_seconds:.1f}",
            "total_seconds": f"{time.perf_counter() - STARTED:.1f}",
            "peak_vram_mb": f"{facts.get('peak_vram_mb') or 0:.1f}",
            "mfu_percent": mfu,
            "total_tokens_M": f"{self.tokens / 1e6:.3f}",
            "num_steps": str(self.steps),
            "num_params_M": f"{(facts.get('num_params') or 0) / 1e6:.3f}",
            "depth": "n/a" if depth is None else f"{depth:g}",
            "device": device,
            "clock": self.clock if self.max_steps is None else "steps",
            "seed": str(self.seed),
        }


class Batches:
    """Training batches, packed one ahead. Rows of another length go on with an order of their own."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus, self._seed = corpus, seed
        self._packers: dict[int, Packer] = {}
        self._next: np.ndarray | None = None

    def pack(self, rows: int, context: int) -> None:
        if context not in self._packers:
            order = (self._seed, context)
            self._packers[context] = Packer(self._corpus.train, self._corpus.bos, context, order)
        self._next = np.empty((rows, context + 1), np.uint16)
        self._packers[context].fill(self._next)

    def take(self, rows: int, context: int) -> np.ndarray:
        """A batch that was not taken before, uint16 [rows, context + 1]."""
        if self._next is None or self._next.shape != (rows, context + 1):
            self.pack(rows, context)
        batch, self._next = self._next, None
        assert batch is not None
        return batch


def packed(corpus: Corpus, split: Split, rows: int, seed: int | None) -> np.ndarray:
    """The first rows of a split, uint16 [rows, context + 1], in the order of `seed`; None: as they lie."""
    out = np.empty((rows, corpus.context + 1), np.uint16)
    Packer(split, corpus.bos, corpus.context, seed).fill(out)
    return out


def finite(value: Any) -> float | None:
    """What the trainer says of its model, if it is a number: text could bring lines of its own into the summary."""
    return value if isinstance(value, int | float) and abs(value) < 1e30 else None


def same(found: np.ndarray, expected: np.ndarray, tolerance: float, why: str) -> None:
    """Raise `FailedError` if two sets of logits differ by more than `tolerance` times their range."""
    found, expected = (
        np.maximum(logits - logits.max(axis=-1, keepdims=True), -DEEPEST) for logits in (found, expected)
    )
    difference = float(np.abs(found - expected).max())
    if difference > tolerance * (1.0 - float(expected.min())):
        raise FailedError(f"{why} (by up to {difference:.2g})")


def peak_flops(device: str) -> float | None:
    """The dense bfloat16 FLOP/s of a device by its name; None for a part of one, and where no data sheet was read."""
    if "MIG" in device or "Laptop" in device:
        return None
    return next((value for name, value in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device)), None)


# As many as the runner grants: several experiments share a node.
_granted = re.match(r"[1-9]\d{0,3}", os.environ.get("OMP_NUM_THREADS", ""))
_threads = ThreadPoolExecutor(int(_granted[0]) if _granted else os.cpu_count())


def losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] in nats, float32: logits [rows, context, vocabulary], targets [rows, context]."""
    flat = logits.reshape(-1, logits.shape[-1])
    wanted = targets.reshape(-1).astype(np.int64)
    nats = np.empty(len(flat), np.float32)

    def part(start: int) -> None:  # a few MB at a time: they stay in the cache, and numpy lets the other threads run
        rows = slice(start, start + 256)
        shifted = flat[rows] - flat[rows].max(axis=1, keepdims=True)
        picked = shifted[np.arange(len(shifted)), wanted[rows]]
        np.exp(shifted, out=shifted)
        nats[rows] = np.log(shifted.sum(axis=1)) - picked

    list(_threads.map(part, range(0, len(flat), 256)))
    return nats.reshape(targets.shape)


def setting(name: str, form: str, what: str) -> str:
    """AUTORESEARCH_{name}, or nothing. Raises `FailedError` where it has another form."""
    text = os.environ.get(f"AUTORESEARCH_{name}", "").strip()
    if text and not re.fullmatch(form, text, re.ASCII):
        raise FailedError(f"AUTORESEARCH_{name} is {text!r}, not {what}")
    return text


def measured(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """The summary of one run. Raises `FailedError`, and what `Corpus.open` raises."""
    if not (HERE / "train.py").is_file():
        raise FailedError(f"there is no train.py in {HERE}")
    if (size := (HERE / "train.py").stat().st_size) > SOURCE_BYTES:
        raise FailedError(f"train.py has {size:,} bytes, more than {SOURCE_BYTES:,}: code has less, weights have more")
    corpus = Corpus.open(options.corpus)
    print(f"corpus: {corpus.name}, digest {corpus.digest}", flush=True)
    trainer = Trainer(shlex.split(options.launch), options.device, options.readable, folder)
    try:
        device = trainer.connect()
        single_cpu = device["type"] == "cpu" and device["world"] == 1
        clock = options.clock or ("cpu" if single_cpu else "wall")
        if clock == "cpu" and not single_cpu:
            raise FailedError("CPU seconds are a clock for one process on a CPU")
        budget = setting("BUDGET_SECONDS", r"\d{1,9}(\.\d*)?|\.\d+", "a number of seconds")
        steps = setting("STEPS", r"\d{1,9}", "a whole number")
        measurement = Measurement(
            trainer,
            corpus,
            seed=int(setting("SEED", r"\d{1,9}|[1-3]\d{9}", "a whole number below 4 * 10**9") or 0),
            clock=clock,
            budget_seconds=float(budget or BUDGET_SECONDS[device["type"]]),
            max_steps=int(steps) if steps else None,
        )
        return measurement.summary(measurement.run(), device["name"], device["world"])
    finally:
        trainer.end()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure train.py: train it for its budget, print val_bpb.")
    parser.add_argument("--corpus", default="stdlib", help="what prepare.py has made (default: stdlib)")
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"], help="fail without it (default: what is there)")
    parser.add_argument("--clock", choices=["wall", "cpu"], help="what the budget counts (default: cpu on a CPU)")
    parser.add_argument("--launch", default="", help="a launcher of the trainer: 'torchrun --nproc_per_node=2'")
    parser.add_argument("--readable", action="append", default=[], help="a folder that train.py may read")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, as Ctrl-C does
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < 70 else "/tmp"  # a socket's path: 104 bytes at most
    with tempfile.TemporaryDirectory(prefix="nanochat-", dir=short) as folder:
        try:
            summary = measured(options, Path(folder))
        except (FailedError, FileNotFoundError, ValueError) as error:
            print(f"\nFAIL: {' '.join(str(error).split())}", flush=True)
            return 1
        except KeyboardInterrupt:
            print("\nFAIL: interrupted", flush=True)
            return 130
    print("\n---")
    for key, value in summary.items():
        print(f"{key}: {value}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
