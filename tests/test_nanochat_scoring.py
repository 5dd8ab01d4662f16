"""What the harness of the nanochat example asks of logits, and what it makes of them, without a process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable

import harness
import numpy as np
import psutil
import pytest
import wire
from data import Split

from tests.nanochat import SUMMARY, Corpus

Model = Callable[[np.ndarray], np.ndarray]


class Answers:
    """In the place of the trainer: a function is the model."""

    def __init__(self, model: Model, dtype: str) -> None:
        self.model = model
        self.dtype = dtype
        self.clock = wire.Clock("wall", psutil.Process())
        self.relay = self
        self.said: list[str] = []
        self.limits: list[tuple[float, str]] = []

    def restart_clock(self, kind: str) -> None:
        self.clock = wire.Clock(kind, self.clock.process)

    def logits(self, tokens: np.ndarray, limit_seconds: float, reason: str) -> tuple[np.ndarray, str]:
        self.limits.append((limit_seconds, reason))
        return np.asarray(self.model(tokens), np.float32), self.dtype

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def short(corpus: Corpus) -> Corpus:
    """Four requests of validation text."""
    validation = Split(corpus.validation.tokens[: 4 * 32 * 129 + 1], np.array([0, 4 * 32 * 129 + 1]))
    return dataclasses.replace(corpus, validation=validation)


@pytest.fixture(scope="module")
def table(corpus: Corpus) -> np.ndarray:
    """Logits, float32 [vocabulary, vocabulary], of a token after another, as training text has them."""
    counts = np.zeros((corpus.vocabulary, corpus.vocabulary), np.float32)
    np.add.at(counts, (corpus.train.tokens[:-1], corpus.train.tokens[1:]), 1)
    return np.log(counts + 0.1)


def measurement(corpus: Corpus, model: Model, dtype: str = "float32") -> harness.Measurement:
    return harness.Measurement(Answers(model, dtype), corpus, seed=0, clock="wall", budget_seconds=1.0, max_steps=None)


def score(corpus: Corpus, model: Model, dtype: str = "float32") -> float:
    measured = measurement(corpus, model, dtype)
    measured._rehearse()
    return measured._score()


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary_for_each_token(short: Corpus) -> None:
    rows = harness.packed(short, short.validation, 4 * 32, None)
    text_bytes = short.token_bytes[rows[:, 1:]]
    expected = math.log2(short.vocabulary) * (text_bytes > 0).sum() / text_bytes.sum()
    found = score(short, lambda tokens: np.full((*tokens.shape, short.vocabulary), 7.0))
    assert found == pytest.approx(expected, rel=1e-6)


def test_only_what_the_logits_say_of_one_another_counts(short: Corpus, table: np.ndarray) -> None:
    bits = score(short, lambda tokens: table[tokens])
    assert 1 < bits < 3
    for shift in (100.0, -3000.0):
        assert score(short, lambda tokens, shift=shift: table[tokens] + np.float32(shift)) == pytest.approx(
            bits, abs=1e-4
        )
    probabilities = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    assert score(short, lambda tokens: probabilities[tokens]) > bits + 1


def peeking(table: np.ndarray, gain: float, shift: float = 0.0, deep: float = 0.0) -> Model:
    """A model that adds `gain` to the logit of each token's successor, which it has seen."""

    def model(tokens: np.ndarray) -> np.ndarray:
        logits = table[tokens] + np.float32(shift)
        logits[..., 0] += deep
        rows, places = np.indices((len(tokens), tokens.shape[1] - 1))
        logits[rows, places, tokens[:, 1:]] += gain
        return logits

    return model


class Remembers:
    """Models with a state. Each keeps to the letter of its name."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table.copy()
        self.calls = 0
        self.seen: set[bytes] = set()

    def counts(self, tokens: np.ndarray) -> np.ndarray:
        self.calls += 1
        return self.table[tokens] * (1 + self.calls / 1000)

    def learns(self, tokens: np.ndarray) -> np.ndarray:
        logits = self.table[tokens]
        np.add.at(self.table, (tokens[:, :-1], tokens[:, 1:]), 0.1)
        return logits

    def knows_again(self, tokens: np.ndarray) -> np.ndarray:
        known = [row.tobytes() in self.seen for row in tokens]
        self.seen.update(row.tobytes() for row in tokens)
        return self.table[tokens] * np.where(known, 1.1, 1.0)[:, None, None]


@pytest.mark.parametrize(
    ("cheat", "said"),
    [
        (lambda table: lambda tokens: table[tokens] + table[tokens].mean(axis=1, keepdims=True), "not causal"),
        (lambda table: peeking(table, 20.0), "not causal"),
        (lambda table: peeking(table, 0.05), "not causal"),
        (lambda table: peeking(table, 0.5, shift=1e4), "not causal"),
        (lambda table: peeking(table, 0.5, deep=-1e5), "not causal"),
        (lambda table: lambda tokens: table[tokens].mean(), "logits have shape []"),
        (lambda table: lambda tokens: table[tokens][..., 0], "logits have shape [32, 128]"),
        (lambda table: lambda tokens: table[tokens][..., :-1], "logits have shape [32, 128, 1023]"),
        (lambda table: lambda tokens: table[tokens][:, -1:], "logits have shape [32, 1, 1024]"),
        (lambda table: lambda tokens: table[tokens] * np.nan, "logits are not finite"),
        (lambda table: lambda tokens: np.where(tokens[..., None] < 9, -np.inf, table[tokens]), "logits are not finite"),
        (lambda table: Remembers(table).counts, "keeps state"),
        (lambda table: Remembers(table).learns, "keeps state"),
        (lambda table: Remembers(table).knows_again, "keeps state"),
        (lambda table: lambda tokens: table[tokens] + table[tokens[::-1]] / 4, "logits of a row change with its place"),
        (
            lambda table: lambda tokens: table[tokens] * np.linspace(0.9, 1.1, len(tokens))[:, None, None],
            "logits of a row change with its place",
        ),
    ],
    ids=[
        "mean-of-the-row",
        "next-token",
        "next-token-a-little",
        "under-a-shift",
        "under-a-deep-one",
        "scalar",
        "losses",
        "vocabulary",
        "last-place",
        "nan",
        "inf",
        "counts",
        "learns",
        "knows-again",
        "neighbours",
        "place",
    ],
)
def test_logits_that_come_from_elsewhere_are_not_scored(
    short: Corpus, table: np.ndarray, cheat: Callable[[np.ndarray], Model], said: str
) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(wire.FailedError, match=re.escape(said)):
        score(short, cheat(table))


@pytest.mark.parametrize("dtype", ["int64", "bool", "float8_e4m3fn"])
def test_logits_are_of_a_floating_type_that_holds_them(short: Corpus, table: np.ndarray, dtype: str) -> None:
    with pytest.raises(wire.FailedError, match=f"logits are {dtype}, expected"):
        score(short, lambda tokens: table[tokens], dtype)


def test_an_untrained_model_passes_and_one_that_knows_pairs_of_tokens_does_not(
    short: Corpus, table: np.ndarray
) -> None:
    for model, knows in ((lambda tokens: table[tokens], True), (lambda tokens: 0.01 * table[tokens], False)):
        measured = measurement(short, model)
        measured._rehearse()
        with pytest.raises(wire.FailedError, match="trained elsewhere") if knows else contextlib.nullcontext():
            measured._check_untrained()


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf", 21.0, None, "low", [1.0], {"loss": 1}])
def test_a_loss_that_is_none_or_explodes_ends_the_run(corpus: Corpus, loss: object) -> None:
    measured = measurement(corpus, lambda tokens: tokens)
    measured._curve(20.0)
    assert len(measured.trainer.said) == 1
    with pytest.raises(wire.FailedError, match="the training has diverged"):
        measured._curve(loss)


@pytest.mark.parametrize(
    ("rows", "context"),
    [(0, 8), (-1, 8), (1, 0), (1, 129), (1.5, 8), ("1", 8), (True, 8), (None, None), (1 << 18, 128), (10**12, 1)],
)
def test_a_batch_that_cannot_be_is_refused(corpus: Corpus, rows: object, context: object) -> None:
    measured = measurement(corpus, lambda tokens: tokens)
    assert measured._asked({"rows": 1, "context": 128}) == (1, 128)
    with pytest.raises(wire.FailedError, match="a batch has"):
        measured._asked({"rows": rows, "context": context})


@pytest.mark.parametrize("bad", ["1\nval_bpb: 0.1", None, math.nan, 10**400, [1], {"a": 1}])
def test_what_the_trainer_says_of_its_model_brings_no_line_into_the_summary(corpus: Corpus, bad: object) -> None:
    measured = measurement(corpus, lambda tokens: tokens)
    measured.training_seconds = 1.0
    for facts in ({}, dict.fromkeys(("depth", "num_params", "peak_vram_mb", "flops_per_token"), bad)):
        measured.facts = facts
        printed = measured.summary(1.5, "NVIDIA H200", 1)
        assert list(printed) == SUMMARY
        assert not any("\n" in value for value in printed.values())
        assert (printed["depth"], printed["mfu_percent"]) == ("n/a", "n/a")


def test_the_first_answer_after_the_training_has_a_limit_of_its_own(short: Corpus, table: np.ndarray) -> None:
    measured = measurement(short, lambda tokens: table[tokens])
    measured._rehearse()
    rehearsed = len(measured.trainer.limits)
    measured._score()
    first, *others = measured.trainer.limits[rehearsed:]
    assert "first answer" in first[1]
    assert first[0] == pytest.approx(3 * measured._request_seconds + 3)
    assert len(others) == 3 + 2 + 2, "the other requests, the cut ones of 64 rows, and the first twice more"
    assert all(limit > 60 and "scoring" in reason for limit, reason in others)


def test_slow_answers_before_the_training_buy_no_time_after_it(short: Corpus, table: np.ndarray) -> None:
    measured = measurement(short, lambda tokens: table[tokens])
    measured._request_seconds, measured.training_seconds, measured.tokens = 50.0, 10.0, 32 * 128 * 100
    measured._score()
    assert measured.trainer.limits[0][0] == pytest.approx(3 * 0.1 + 3)


def test_what_is_scored_is_what_is_checked(short: Corpus, table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that puts an honest answer into the buffer as soon as the other was scored wins nothing."""
    buffer = np.empty((32, 128, short.vocabulary), np.float32)
    own, honest = harness.losses, np.empty_like(buffer)

    def model(tokens: np.ndarray) -> np.ndarray:
        honest[:] = buffer[:] = table[tokens]
        if tokens.tobytes() in pinned:  # and no other, so that no check sees it
            np.put_along_axis(buffer[:, :-1], tokens[:, 1:, None].astype(int), 30.0, axis=2)
        return buffer

    def scored(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        nats = own(logits, targets)
        buffer[:] = honest
        return nats

    measured = measurement(short, model)
    pinned = {request[:, :-1].tobytes() for request in measured._requests[1:]}
    measured._check_stateless = lambda *_: None
    monkeypatch.setattr(harness, "losses", scored)
    with pytest.raises(harness.FailedError, match="not causal"):
        measured._score()


@pytest.fixture(scope="module")
def long(corpus: Corpus) -> Corpus:
    """Requests of two rows, as with the corpora for a GPU, and eight of them."""
    tokens = corpus.validation.tokens[: 16 * 2049 + 1]
    validation = Split(tokens, np.array([0, len(tokens)]))
    return dataclasses.replace(corpus, context=2048, vocabulary=8192, validation=validation)


def test_long_rows_are_checked_as_short_ones(long: Corpus) -> None:
    def model(tokens: np.ndarray) -> np.ndarray:
        asked.append(len(tokens))
        return np.broadcast_to(np.float32(0), (*tokens.shape, long.vocabulary))

    asked: list[int] = []
    measured = measurement(long, model)
    requests = len(measured._requests)
    assert len(measured._requests[0]) == 2
    measured._rehearse()
    before = len(asked)
    measured._score()
    assert len(asked) - before == requests + requests + 2, "each with other tokens after a cut: 64 rows would be more"


def test_rows_that_look_at_their_neighbours_are_found_among_two(long: Corpus) -> None:
    def model(tokens: np.ndarray) -> np.ndarray:
        logits = np.zeros((*tokens.shape, long.vocabulary), np.float32)
        logits[0] += np.arange(long.vocabulary) / 1000
        return logits

    with pytest.raises(wire.FailedError, match="its place among the others"):
        score(long, model)


def test_bfloat16_may_round_otherwise_at_another_place_and_nowhere_else(short: Corpus, table: np.ndarray) -> None:
    def moved(tokens: np.ndarray) -> np.ndarray:
        return table[tokens] * (1 + np.arange(len(tokens))[:, None, None] / 4096)

    assert score(short, moved, "bfloat16") > 1
    with pytest.raises(wire.FailedError, match="its place among the others"):
        score(short, moved, "float32")
    with pytest.raises(wire.FailedError, match="not causal"):
        score(short, peeking(table, 0.05), "bfloat16")


@pytest.mark.parametrize(
    ("device", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L400", None),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device_is_that_of_its_data_sheet(device: str, teraflops: float | None) -> None:
    assert harness.peak_flops(device) == (None if teraflops is None else teraflops * 1e12)


def test_mfu_is_the_part_of_the_peak_that_the_tokens_needed(corpus: Corpus) -> None:
    measured = measurement(corpus, lambda tokens: tokens)
    measured.tokens, measured.training_seconds = 300_000_000, 300.0
    measured.facts = {"flops_per_token": 395.6e6}
    assert measured.summary(1.0, "NVIDIA H200", 1)["mfu_percent"] == "40.00"
    assert measured.summary(1.0, "NVIDIA H200", 2)["mfu_percent"] == "20.00"
    assert measured.summary(1.0, "cpu", 1)["mfu_percent"] == "n/a"


def test_rows_of_another_length_or_number_are_not_the_same_text_again(corpus: Corpus) -> None:
    batches = harness.Batches(corpus, 0)
    begins = [batches.take(rows, context)[:, 1:17].tolist() for rows, context in ((8, 64), (8, 64), (16, 64), (8, 128))]
    rows = [tuple(row) for batch in begins for row in batch]
    assert len(set(rows)) > 0.9 * len(rows)
