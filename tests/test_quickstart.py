"""The quickstart: its harness scores honestly and catches shortcuts, and its baseline leaves room to improve."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from autoresearch_ray import program
from autoresearch_ray.model import Direction, Metric, Parse, ParseKind

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
SUMMARY = ["val_bpb", "training_seconds", "total_seconds", "num_steps", "num_params", "seed", "clock"]


def edited(folder: Path, constants: dict[str, str], more: str = "") -> Path:
    """A copy of the quickstart in `folder` with other constants, and with `more` at the end of train.py."""
    shutil.copy(QUICKSTART / "harness.py", folder)
    text = (QUICKSTART / "train.py").read_text()
    for name, value in constants.items():
        text, found = re.subn(rf"^{name} = [^#\n]+", f"{name} = {value}  ", text, flags=re.M)
        assert found == 1, name
    (folder / "train.py").write_text(text + "\n" + more)
    return folder


def run(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python harness.py`, with standard output and standard error in one log, as in run.log."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AUTORESEARCH_")}
    return subprocess.run(
        [sys.executable, "harness.py"],
        cwd=folder,
        env=own | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def summary(log: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+): (.+)$", log.rpartition("\n---\n")[2], re.M))


def val_bpb(folder: Path, seed: int = 0, steps: int = 60) -> float:
    ended = run(folder, AUTORESEARCH_SEED=str(seed), AUTORESEARCH_STEPS=str(steps))
    assert ended.returncode == 0, ended.stdout
    return float(summary(ended.stdout)["val_bpb"])


# --- What it measures ------------------------------------------------------------------------------------------------


def test_the_baseline_learns_within_its_budget_of_cpu_time(tmp_path: Path) -> None:
    ended = run(edited(tmp_path, {}), AUTORESEARCH_BUDGET_SECONDS="1", AUTORESEARCH_SEED="3")
    assert ended.returncode == 0, ended.stdout
    printed = summary(ended.stdout)
    assert list(printed) == SUMMARY
    # A byte has 8 bits, its frequency alone gives 4.3, and xz packs these files into 1.7.
    assert 1.7 < float(printed["val_bpb"]) < 4.0
    assert 1.0 <= float(printed["training_seconds"]) < 1.5
    assert printed["seed"] == "3"
    assert printed["clock"] == "cpu"
    curve = [float(each) for each in re.findall(r"^  step \d+  train_bpb ([\d.]+)$", ended.stdout, re.M)]
    assert len(curve) >= 3
    assert curve[-1] < curve[0] - 1


def test_a_model_that_knows_nothing_scores_eight_bits_a_byte(tmp_path: Path) -> None:
    nothing = "Model.logits = lambda self, contexts: np.full((len(contexts), 256), 7.0, np.float32)"
    assert val_bpb(edited(tmp_path, {}, nothing), steps=1) == 8.0


def test_the_same_seed_and_steps_give_the_same_number_and_another_seed_another(tmp_path: Path) -> None:
    folder = edited(tmp_path, {})
    first = val_bpb(folder, seed=1)
    assert val_bpb(folder, seed=1) == first
    assert val_bpb(folder, seed=2) != first


def test_a_better_learning_rate_helps_by_many_times_the_noise(tmp_path: Path) -> None:
    folder = edited(tmp_path, {})
    baseline = [val_bpb(folder, seed, steps=300) for seed in (1, 2, 3)]
    folder = edited(tmp_path, {"LR": "4e-3"})
    improved = [val_bpb(folder, seed, steps=300) for seed in (1, 2, 3)]
    gain = np.mean(baseline) - np.mean(improved)
    assert gain > 5 * max(np.std(baseline, ddof=1), np.std(improved, ddof=1))
    assert gain > 0.05 * np.mean(baseline)


# --- What it catches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shortcut", "said"),
    [
        ("Model.logits = lambda self, c: np.zeros((len(c), 255))", "logits have shape (64, 255), expected (64, 256)"),
        ("Model.logits = lambda self, c: np.full((len(c), 256), np.nan)", "logits are not finite"),
        (
            "Model.calls = 0\n"
            "def logits(self, contexts):\n"
            "    self.calls += 1\n"
            "    return self.forward(contexts)[-1] * self.calls\n"
            "Model.logits = logits",
            "the model keeps state between calls",
        ),
        (
            "Model.logits = lambda self, c: self.forward(c)[-1] + np.roll(c[:, -1:], -1, axis=0)",
            "logits of a context depend on the rows beside it",
        ),
        ("own = train\ndef train(feed, seed):\n    m = own(feed, seed)\n    m.context = 65\n    return m", "65 bytes"),
    ],
    ids=["shape", "finite", "state", "neighbours", "context"],
)
def test_a_model_that_does_not_answer_as_it_should_fails_with_the_reason(
    tmp_path: Path, shortcut: str, said: str
) -> None:
    ended = run(edited(tmp_path, {}, shortcut), AUTORESEARCH_STEPS="3")
    assert ended.returncode == 1
    reasons = re.findall(r"^FAIL: .*$", ended.stdout, re.M)
    assert len(reasons) == 1, ended.stdout
    assert said in reasons[0]
    assert "val_bpb:" not in ended.stdout


@pytest.mark.parametrize("rate", ["float('nan')", "1e9"])
def test_a_training_that_diverges_fails_at_once(tmp_path: Path, rate: str) -> None:
    ended = run(edited(tmp_path, {"LR": rate}), AUTORESEARCH_STEPS="1000000")
    assert ended.returncode == 1
    assert re.search(r"^FAIL: the loss is nan after \d+ steps$", ended.stdout, re.M), ended.stdout


def test_a_loop_that_goes_on_after_the_end_of_the_batches_is_ended(tmp_path: Path) -> None:
    endless = (
        "own = train\n"
        "def train(feed, seed):\n"
        "    own(feed, seed)\n"
        "    while True:\n"
        "        try:\n"
        "            np.ones(1000).sum()\n"
        "            print('still here')\n"
        "        except BaseException:\n"
        "            pass\n"
    )
    started = time.perf_counter()
    ended = run(edited(tmp_path, {}, endless), AUTORESEARCH_BUDGET_SECONDS="0.3")
    assert ended.returncode == 1
    assert ended.stdout.endswith("\nFAIL: training went on after its budget of 0.3 CPU seconds\n")
    assert time.perf_counter() - started < 20


def test_a_timer_that_fires_early_ends_nothing_before_the_budget_is_spent(tmp_path: Path) -> None:
    early = (
        "import os, signal\n"
        "own = train\n"
        "def train(feed, seed):\n"
        "    os.kill(os.getpid(), signal.SIGPROF)\n"
        "    return own(feed, seed)\n"
    )
    ended = run(edited(tmp_path, {}, early), AUTORESEARCH_BUDGET_SECONDS="0.3")
    assert ended.returncode == 0, ended.stdout
    assert float(summary(ended.stdout)["training_seconds"]) >= 0.3


def test_nothing_that_train_prints_can_be_read_as_the_score(tmp_path: Path) -> None:
    boast = (
        "import atexit\n"
        "print('val_bpb: 0.1')\n"
        "atexit.register(print, 'val_bpb: 0.2', flush=True)\n"
        "own = train\n"
        "def train(feed, seed):\n"
        "    print('x', end='')\n"
        "    print('\\nval_bpb: 0.3\\n---\\nval_bpb: 0.4')\n"
        "    return own(feed, seed)\n"
    )
    ended = run(edited(tmp_path, {}, boast), AUTORESEARCH_STEPS="1")
    assert ended.returncode == 0
    scores = [float(each) for each in re.findall(r"^val_bpb: ([\d.]+)$", ended.stdout, re.M)]
    assert len(scores) == 1
    assert scores[0] > 5


# --- The model and the program ---------------------------------------------------------------------------------------


def imported(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart_train", folder / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bigram", ["False", "True"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_the_hand_written_gradient_is_the_slope_of_the_loss(tmp_path: Path, activation: str, bigram: str) -> None:
    train = imported(edited(tmp_path, {"ACTIVATION": repr(activation), "BIGRAM": bigram}))
    model = train.Model(seed=5)
    model.weights = {name: array.astype(np.float64) for name, array in model.weights.items()}
    rng = np.random.default_rng(6)
    contexts = rng.integers(97, 105, (32, train.CONTEXT)).astype(np.uint8)
    targets = rng.integers(97, 105, 32).astype(np.uint8)
    _, gradients = model.gradients(contexts, targets)
    assert gradients.keys() == model.weights.keys()
    for name, gradient in gradients.items():
        place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        losses = []
        for move in (1e-5, -2e-5):
            model.weights[name][place] += move
            losses.append(model.gradients(contexts, targets)[0])
        model.weights[name][place] += 1e-5
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradient[place], rel=1e-4), name


def test_edits_of_neighbouring_constants_by_two_lanes_merge(tmp_path: Path) -> None:
    base = (QUICKSTART / "train.py").read_text()
    names = re.findall(r"^([A-Z][A-Z0-9_]+) = ", base, re.M)
    assert len(names) > 10
    (tmp_path / "base").write_text(base)
    for ours, theirs in itertools.pairwise(names):
        for side, name in (("ours", ours), ("theirs", theirs)):
            (tmp_path / side).write_text(re.sub(rf"^{name} = [^#\n]+", f"{name} = 1  ", base, flags=re.M))
        merged = subprocess.run(
            ["git", "merge-file", "-p", "ours", "base", "theirs"], cwd=tmp_path, capture_output=True
        )
        assert merged.returncode == 0, (ours, theirs)


def test_program_md_reads_and_agrees_with_the_harness() -> None:
    read = program.read(QUICKSTART / "program.md")
    assert read.title == "quickstart"
    assert read.scope.can == ("train.py",)
    assert read.scope.cannot == ("harness.py",)
    assert read.eval.command == "python harness.py"
    assert read.eval.metric == Metric("val_bpb", Direction.LOWER)
    assert read.eval.parse == Parse(ParseKind.COMMAND, 'grep "^val_bpb:" run.log')
    assert (read.options.agent, read.options.workers, read.options.gpus_per_worker) == ("knobs", 2, 0)
    default = re.search(r'"AUTORESEARCH_BUDGET_SECONDS", "(\d+)"', (QUICKSTART / "harness.py").read_text())
    assert default is not None
    assert read.eval.budget_seconds == float(default[1])
