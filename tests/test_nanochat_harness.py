"""The referee of the nanochat example: it measures an honest train.py to the digit, and says why it believes no other.

The cheats of the first half run as they would in an experiment; the second half asks the referee's checks directly.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from autoresearch_ray import evaluator
from tests.conftest import processes_of

NANOCHAT = Path(__file__).parents[1] / "examples" / "nanochat"
sys.path.insert(0, str(NANOCHAT))
import harness  # noqa: E402
import wire  # noqa: E402
from data import Corpus, Split  # noqa: E402

SUMMARY = [
    "val_bpb",
    "training_seconds",
    "total_seconds",
    "peak_vram_mb",
    "mfu_percent",
    "total_tokens_M",
    "num_steps",
    "num_params_M",
    "depth",
    "device",
    "clock",
    "seed",
]

# A train.py that plays by the rules; the cheats append to it, and replace what they need to.
HONEST = """\
import os, sys, threading, time
import torch
import torch.nn.functional as F
from torch import nn

class Model(nn.Module):
    depth = 1

    def __init__(self, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.head = nn.Linear(32, vocabulary, bias=False)

    def mixed(self, x):
        return x + x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]

    def forward(self, tokens):
        return 0.3 * self.head(self.mixed(self.embedding(tokens)))

def build(run):
    return Model(run.vocabulary)

def step(model, run, inputs, targets):
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    model.zero_grad()
    loss.backward()
    run.average(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 30 * parameter.grad
    return loss.item()

def train(model, run):
    model(run.warmup(8, run.context)[0])
    for inputs, targets, progress in run.batches(8, run.context):
        run.report(step(model, run, inputs, targets))

honest = train
"""


@pytest.fixture(scope="session")
def data(nanochat_data: Path) -> Path:
    return nanochat_data


@pytest.fixture(scope="session")
def corpus(data: Path) -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(data))
        return Corpus.open("stdlib")


def started(folder: Path, data: Path, train: str, *options: str, **environ: object) -> subprocess.Popen[str]:
    """`python harness.py` beside this train.py, with standard output and standard error in one log, as in run.log."""
    for each in ("harness.py", "wire.py", "trainer.py", "data.py"):
        shutil.copy(NANOCHAT / each, folder)
    (folder / "train.py").write_text(train)
    own = {name: value for name, value in os.environ.items() if not name.startswith("AUTORESEARCH_")}
    return subprocess.Popen(
        [sys.executable, "harness.py", "--device", "cpu", *options],
        cwd=folder,
        env=own | {"AUTORESEARCH_DATA": str(data)} | {f"AUTORESEARCH_{key}": str(environ[key]) for key in environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=100)
    return process.returncode, output


def summary(status: int, log: str) -> dict[str, str]:
    """The summary of a run that ended well; the only lines of the log that look like one are its own."""
    assert status == 0, log
    printed = dict(re.findall(r"^(\w+): (.+)$", log.rpartition("\n---\n")[2], re.M))
    assert [line for line in log.splitlines() if line.startswith("val_bpb")] == [f"val_bpb: {printed['val_bpb']}"]
    return printed


def reason(status: int, log: str) -> str:
    """Why the run has no result: exit status 1, one line, no summary."""
    assert status == 1, log
    assert not re.search(r"^(---|val_bpb.*)$", log, re.M), log
    (line,) = re.findall(r"^FAIL: (.*)$", log, re.M)
    return str(line)


# --- Honest runs -----------------------------------------------------------------------------------------------------


def test_an_honest_run_trains_for_its_budget_of_cpu_seconds_and_prints_the_summary(tmp_path: Path, data: Path) -> None:
    status, log = ended(started(tmp_path, data, HONEST, BUDGET_SECONDS=1, SEED=3))
    printed = summary(status, log)
    assert list(printed) == SUMMARY
    assert 1.0 <= float(printed["training_seconds"]) <= 1.5
    assert float(printed["total_seconds"]) > float(printed["training_seconds"])
    assert (printed["device"], printed["clock"], printed["seed"]) == ("cpu", "cpu", "3")
    assert (printed["depth"], printed["mfu_percent"], printed["peak_vram_mb"]) == ("1", "n/a", "0.0")
    assert printed["num_params_M"] == f"{2 * 32 * 1024 / 1e6:.3f}"
    steps = int(printed["num_steps"])
    assert printed["total_tokens_M"] == f"{steps * 8 * 128 / 1e6:.3f}"
    curve = re.findall(r"^  step (\d+)  seconds [\d.]+  tokens_M [\d.]+  loss ([\d.]+)$", log, re.M)
    assert [int(step) for step, _ in curve] == list(range(1, steps + 1))
    losses = [float(loss) for _, loss in curve]
    assert losses[0] == pytest.approx(math.log(1024), abs=0.1)
    assert losses[-1] < losses[0] - 0.5


@pytest.fixture(scope="module")
def four_steps(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return summary(*ended(started(tmp_path_factory.mktemp("four"), data, HONEST, STEPS=4, SEED=1)))


def test_a_seed_and_a_number_of_steps_repeat_to_the_last_digit(
    tmp_path: Path, data: Path, four_steps: dict[str, str]
) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "other").mkdir()
    again = started(tmp_path / "again", data, HONEST, STEPS=4, SEED=1)
    other = started(tmp_path / "other", data, HONEST, STEPS=4, SEED=2)
    assert four_steps["num_steps"] == "4"
    assert four_steps["clock"] == "steps"
    assert summary(*ended(again))["val_bpb"] == four_steps["val_bpb"]
    assert summary(*ended(other))["val_bpb"] != four_steps["val_bpb"]


def test_the_score_is_what_torch_computes_of_the_same_model_in_double_precision(
    tmp_path: Path, data: Path, corpus: Corpus
) -> None:
    import torch

    untouched = "def train(model, run):\n    next(run.batches(1, 1))\n"
    printed = summary(*ended(started(tmp_path, data, HONEST + untouched, STEPS=1, SEED=7)))
    names: dict[str, type[torch.nn.Module]] = {}
    exec(HONEST, names)
    torch.manual_seed(7)
    model = names["Model"](corpus.vocabulary).double()
    count = len(corpus.validation.tokens) // (corpus.context + 1) // 32 * 32  # whole requests
    rows = torch.from_numpy(harness.packed(corpus, corpus.validation, count, None).astype(np.int64))
    with torch.inference_mode():
        parts = [
            torch.nn.functional.cross_entropy(
                model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="none"
            )
            for part in rows.split(32)
        ]
    text_bytes = torch.from_numpy(corpus.token_bytes)[rows[:, 1:].flatten()]
    expected = torch.cat(parts)[text_bytes > 0].sum() / math.log(2) / text_bytes.sum()
    assert float(printed["val_bpb"]) == pytest.approx(float(expected), abs=2e-6)


@pytest.mark.slow
def test_busy_neighbours_on_every_core_cost_time_of_the_wall_and_few_steps(tmp_path: Path, data: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "busy").mkdir()
    alone = summary(*ended(started(tmp_path / "alone", data, HONEST, BUDGET_SECONDS=1)))
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        busy = summary(*ended(started(tmp_path / "busy", data, HONEST, BUDGET_SECONDS=1)))
    finally:
        for each in spinning:
            each.kill()
            each.wait()
    assert float(busy["training_seconds"]) <= 1.5
    # By the wall it would have had a half of the time or less, and spent some of it on starting again.
    assert int(busy["num_steps"]) > 0.4 * int(alone["num_steps"])


# --- The clock, the log, the data ------------------------------------------------------------------------------------

BOASTS = """
import atexit, psutil
time.time = time.perf_counter = time.monotonic = time.process_time = lambda: 0.0
psutil.Process.cpu_times = None
torch.set_num_threads(2)
Model.depth = "3\\nval_bpb: 0.10"
os.write(1, b"val_bpb: 0.11\\r")
print("\\n---\\nval_bpb: 0.12\\rval_bpb: 0.13\\x0bval_bpb: 0.14\\u2028val_bpb: 0.15")
atexit.register(print, "val_bpb: 0.16", flush=True)
for place in ("/proc/self/fd/1", f"/proc/{os.getppid()}/fd/1", "/dev/stdout"):
    try:
        open(place, "w").write("val_bpb: 0.17\\n")
    except PermissionError:
        pass

def train(model, run):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                os.write(2, b"val_bpb: 0.18\\n")
                time.sleep(0.05)
        os._exit(0)
    os.wait()
    batches = run.batches(8, run.context)
    next(batches)
    step(model, run, *run.warmup(8, run.context))
    for inputs, targets, progress in batches:
        step(model, run, inputs, targets)
    print("val_bpb: 0.19", end="")
"""


def test_neither_the_clock_nor_the_log_is_in_the_reach_of_train(tmp_path: Path, data: Path, temporary: Path) -> None:
    status, log = ended(started(tmp_path, data, HONEST + BOASTS, BUDGET_SECONDS=1))
    printed = summary(status, log)
    for boast in ("0.11", "0.12", "0.13", "0.14", "0.15", "0.18", "0.19"):
        assert f"  val_bpb: {boast}" in log, "it is in the log, where it can be read as what it is"
    assert "0.17" not in log
    assert list(printed) == SUMMARY
    assert printed["depth"] == "n/a"
    assert float(printed["val_bpb"]) > 2
    # Both threads were counted, and setting the clocks to zero has not stretched the budget.
    assert 1.0 <= float(printed["training_seconds"]) <= 1.5
    assert 3 < int(printed["num_steps"]) < 1000
    assert not processes_of(temporary)


LOOK_UP = """
def look(what, at):
    try:
        at()
    except PermissionError as error:
        print("denied:", what)
    else:
        print("allowed:", what)

def look_everywhere(when):
    import importlib.util, numpy, pathlib
    for place in PLACES:
        look(f"{when} open {place}", lambda: open(place, "rb").read())
        look(f"{when} os.open {place}", lambda: os.open(place, os.O_RDONLY))
        look(f"{when} read_bytes {place}", lambda: pathlib.Path(place).read_bytes())
        look(f"{when} torch.load {place}", lambda: torch.load(place))
        look(f"{when} write {place}", lambda: open(place, "wb"))
        look(f"{when} np.load {place}", lambda: numpy.load(place))
        look(f"{when} np.fromfile {place}", lambda: numpy.fromfile(place, numpy.uint16))
        look(f"{when} np.memmap {place}", lambda: numpy.memmap(place, numpy.uint16, "r"))
        look(f"{when} link {place}", lambda: os.link(place, os.environ["TMPDIR"] + "/mine"))
        look(f"{when} move {place}", lambda: os.rename(place, os.environ["TMPDIR"] + "/mine"))
        os.symlink(place, os.environ["TMPDIR"] + "/link")
        look(f"{when} symlink {place}", lambda: open(os.environ["TMPDIR"] + "/link"))
        os.unlink(os.environ["TMPDIR"] + "/link")
    spec = importlib.util.spec_from_file_location("weights", WEIGHTS)
    look(f"{when} import", lambda: spec.loader.exec_module(importlib.util.module_from_spec(spec)))

look_everywhere("import")

def build(run):
    look_everywhere("build")
    torch.save(torch.ones(3), os.environ["TMPDIR"] + "/own.pt")
    assert torch.load(os.environ["TMPDIR"] + "/own.pt").sum() == 3
    return Model(run.vocabulary)

def train(model, run):
    for inputs, targets, progress in run.batches(8, run.context):
        look_everywhere("train")
        print("and one that is not caught")
        open(PLACES[0])
"""


def test_no_file_brings_a_model_what_it_has_not_learned(tmp_path: Path, data: Path) -> None:
    name = f"nanochat-left-over-{os.getpid()}.pt"
    here = tmp_path / "here"
    here.mkdir()
    left_over = [here / name, Path("/tmp") / name, Path.home() / name, Path("/dev/shm") / name, data / name]
    (tmp_path / "weights.py").write_text("weights = [1]\n")
    places = [*left_over, *sorted(data.glob("stdlib-*/validation.bin"))]
    assert len(places) == 6
    cheat = f"PLACES = {[str(each) for each in places]}\nWEIGHTS = {str(tmp_path / 'weights.py')!r}\n{LOOK_UP}"
    try:
        for each in left_over:
            each.write_bytes(b"weights")
        status, log = ended(started(here, data, HONEST + cheat, STEPS=2))
    finally:
        for each in left_over:
            each.unlink(missing_ok=True)
    why = reason(status, log)
    assert re.findall(r"^ *allowed: .*$", log, re.M) == []
    assert len(re.findall(r"^ *denied: ", log, re.M)) == 3 * (6 * 11 + 1)
    assert "and one that is not caught" in log
    assert why.startswith("train.py: PermissionError: train.py may not read")
    assert str(places[0]) in why


WAYS_OUT = """
import socket, sqlite3
def attempt(what, at):
    try:
        at()
    except PermissionError as error:
        print("denied:", what)
    else:
        print("allowed:", what)

own = os.environ["TMPDIR"] + "/own"
os.path.realpath = lambda path, **_: own
for place in PLACES:
    open(own, "w").write("WEIGHTS = [1]")
    attempt(f"move to {place}", lambda: os.replace(own, place))
    open(own, "w").write("WEIGHTS = [1]")
    attempt(f"link at {place}", lambda: os.link(own, place))
    attempt(f"symbolic link at {place}", lambda: os.symlink(own, place))
attempt("database", lambda: sqlite3.connect(PLACES[1]))
attempt("empty", lambda: os.truncate("harness.py", 0))
attempt("read", lambda: open("/etc/../root/nothing"))
listening = socket.create_server(("127.0.0.1", 0))
attempt("connect", lambda: socket.create_connection(listening.getsockname()))
os.replace(own, own + "-moved")
sqlite3.connect(":memory:")
"""


def test_nothing_is_left_for_the_next_experiment_and_nothing_fetched(tmp_path: Path, data: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    places = [str(here / "left.py"), str(tmp_path / "left.pt")]
    status, log = ended(started(here, data, HONEST + f"PLACES = {places}\n{WAYS_OUT}", STEPS=1))
    summary(status, log)
    assert re.findall(r"^ *allowed: .*$", log, re.M) == []
    assert len(re.findall(r"^ *denied: ", log, re.M)) == 2 * 3 + 4
    assert not any(map(os.path.lexists, places))


def test_what_train_does_to_the_files_of_the_corpus_is_not_measured(tmp_path: Path, data: Path) -> None:
    corrupted = tmp_path / "data"
    shutil.copytree(data, corrupted)
    (validation,) = corrupted.glob("stdlib-*/validation.bin")
    size = validation.stat().st_size // 2
    fills = f"\ntorch.from_file({str(validation)!r}, shared=True, size={size}, dtype=torch.int16).fill_(5)\n"
    printed = summary(*ended(started(tmp_path, corrupted, HONEST + fills, STEPS=1)))
    assert np.fromfile(validation, np.uint16).tolist() == [5] * size, "no audit hook sees what C++ opens"
    assert float(printed["val_bpb"]) > 3


# --- Cheats that are caught, end to end ------------------------------------------------------------------------------

ENDLESS = """
def train(model, run):
    stored = []
    for inputs, targets, progress in run.batches(8, run.context):
        stored.append((inputs, targets))
    while True:
        for batch in stored:
            step(model, run, *batch)
"""
ONE_BATCH_FOR_EVER = """
def train(model, run):
    inputs, targets, _ = next(run.batches(8, run.context))
    while True:
        try:
            step(model, run, inputs, targets)
        except BaseException:
            pass
"""
ASLEEP = """
def train(model, run):
    next(run.batches(8, run.context))
    time.sleep(1000)
"""
AFTER_ITS_RETURN = """
def train(model, run):
    stored = [(inputs, targets) for inputs, targets, _ in run.batches(8, run.context)]
    def go_on():
        while True:
            for batch in stored:
                step(model, run, *batch)
    threading.Thread(target=go_on, daemon=True).start()
"""
BY_A_CHILD = """
def train(model, run):
    import multiprocessing
    child = multiprocessing.get_context("fork").Process(target=lambda: [None for _ in iter(int, 1)], daemon=True)
    for number, batch in enumerate(run.batches(8, run.context)):
        if number == 0:
            child.start()
        time.sleep(0.05)
        step(model, run, *batch[:2])
    # The budget is in CPU seconds of this process: the child had many more of the wall.
"""
BY_A_DETACHED_CHILD = (
    BY_A_CHILD.replace("child.start()", "detach()")
    + """
def detach():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                pass
        os._exit(0)
    os.wait()
"""
)
ONE_MORE_BATCH = """
def train(model, run):
    honest(model, run)
    next(run.batches(8, run.context))
"""
NO_BATCH = """
def train(model, run):
    for _ in range(11):
        step(model, run, *run.warmup(8, run.context))
"""
DIVERGES = """
def train(model, run):
    for number, batch in enumerate(run.batches(8, run.context)):
        run.report(float("nan") if number == 2 else 1.0)
"""
NOT_CAUSAL = "Model.mixed = lambda self, x: x + x.mean(1, keepdim=True)"
RETURNS_A_LOSS = "Model.forward = lambda self, tokens: torch.tensor(0.1)"
LEARNS_WHEN_ASKED = """
own = Model.forward
def forward(self, tokens):
    logits = own(self, tokens)
    if not self.training:
        with torch.inference_mode(False), torch.enable_grad():
            tokens = tokens.clone()
            loss = F.cross_entropy(own(self, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            gradients = torch.autograd.grad(loss, list(self.parameters()))
        for parameter, gradient in zip(self.parameters(), gradients):
            parameter.data -= 30 * gradient
    return logits
Model.forward = forward
"""
BY_A_CHILD_THAT_VANISHES = """
import signal
def train(model, run):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one is told how much a child used
    model.share_memory()
    batches = run.batches(8, run.context)
    inputs, targets, _ = next(batches)
    if os.fork() == 0:
        while time.process_time() < 3:
            step(model, run, inputs, targets)
        os._exit(0)
    time.sleep(5)
"""
STOPS_THE_REFEREE = """
import signal
def train(model, run):
    stored = [batch[:2] for batch in run.batches(8, run.context)]
    time.sleep(0.02)
    os.kill(os.getppid(), signal.SIGSTOP)
    before = time.process_time()
    while time.process_time() < before + 1.5:
        step(model, run, *stored[0])
    os.system(f"(sleep 0.5; kill -CONT {os.getppid()}) &")
"""
SLOW_BEFORE_AND_AFTER = """
own = Model.forward
answers = 0
def forward(self, tokens):
    global answers
    if not self.training:
        answers += 1
        before = time.process_time()
        while time.process_time() < before + (0.7 if answers <= 5 else 2 if answers == 7 else 0):
            pass
    return own(self, tokens)
Model.forward = forward
"""


@pytest.mark.parametrize(
    ("cheat", "said", "environ"),
    [
        (ENDLESS, r"training went on for more than 0.5 s after its budget of 0.3 s \(cpu\)", {"BUDGET_SECONDS": 0.3}),
        (ONE_BATCH_FOR_EVER, r"training went on for more than 0.5 s after its budget", {"BUDGET_SECONDS": 0.3}),
        (AFTER_ITS_RETURN, r"the model keeps state|scoring took more than", {"BUDGET_SECONDS": 0.5}),
        (BY_A_CHILD, r"processes that train.py started used [\d.]+ CPU seconds beside", {"BUDGET_SECONDS": 0.5}),
        (
            BY_A_DETACHED_CHILD,
            r"processes that train.py started used [\d.]+ CPU seconds beside",
            {"BUDGET_SECONDS": 0.5},
        ),
        (
            BY_A_CHILD_THAT_VANISHES,
            r"processes that train.py started used [\d.]+ CPU seconds beside",
            {"BUDGET_SECONDS": 0.5},
        ),
        (STOPS_THE_REFEREE, r"training went on for (more than )?0.5 s", {"BUDGET_SECONDS": 0.5}),
        (SLOW_BEFORE_AND_AFTER, r"the first answer after the training took more than", {"BUDGET_SECONDS": 0.5}),
        (ONE_MORE_BATCH, r"asked for a batch after the last one", {"STEPS": 1}),
        (NO_BATCH, r"asked for no batch", {"STEPS": 1}),
        (DIVERGES, r"the loss is nan at step 3: the training has diverged", {"BUDGET_SECONDS": 600}),
        (NOT_CAUSAL, r"logits change with the tokens that come later: the model is not causal", {"STEPS": 2}),
        (RETURNS_A_LOSS, r"logits have shape \[\], expected \[32, 128, 1024\]", {"STEPS": 2}),
        (LEARNS_WHEN_ASKED, r"the same rows gave other logits the second time: the model keeps state", {"STEPS": 2}),
        ("sys.exit(0)", r"train.py: SystemExit: 0", {}),
        ("os._exit(0)", r"the trainer ended by itself with status 0", {}),
    ],
    ids=[
        "endless",
        "one-batch-for-ever",
        "after-its-return",
        "by-a-child",
        "by-a-detached-child",
        "by-a-child-that-vanishes",
        "stops-the-referee",
        "slow-before-and-after",
        "one-more-batch",
        "no-batch",
        "diverges",
        "not-causal",
        "returns-a-loss",
        "learns-when-asked",
        "exits",
        "exits-hard",
    ],
)
def test_a_cheat_is_caught_with_the_reason(
    tmp_path: Path, data: Path, temporary: Path, cheat: str, said: str, environ: dict[str, object]
) -> None:
    status, log = ended(started(tmp_path, data, HONEST + cheat, **environ))
    assert re.search(said, reason(status, log)), log
    assert not processes_of(temporary)
    assert not list(temporary.iterdir())


def test_a_training_that_sleeps_is_ended_at_its_deadline_on_the_wall(tmp_path: Path, data: Path) -> None:
    said = reason(*ended(started(tmp_path, data, HONEST + ASLEEP, "--clock", "wall", BUDGET_SECONDS=0.2)))
    assert said == "training went on for more than 3 s after its budget of 0.2 s (wall)"


def test_a_model_that_knows_the_text_before_its_first_batch_is_not_scored(
    tmp_path: Path, data: Path, corpus: Corpus
) -> None:
    pairs = collections.Counter(zip(corpus.train.tokens[:-1].tolist(), corpus.train.tokens[1:].tolist(), strict=True))
    usual = np.array([(*pair, 8 * math.log(count)) for pair, count in pairs.most_common(12_000)], np.uint16)
    literal = base64.b85encode(zlib.compress(usual.T.tobytes(), 9))
    knows = f"""
import base64, numpy, zlib
def build(run):
    model = Model(run.vocabulary)
    packed = zlib.decompress(base64.b85decode({literal!r}))
    first, second, weight = numpy.frombuffer(packed, numpy.uint16).reshape(3, -1).astype(int)
    table = torch.zeros(run.vocabulary, run.vocabulary)
    table[first, second] = torch.from_numpy(weight).float() / 8
    model.forward = lambda tokens: table[tokens] + Model.forward(model, tokens)
    return model
"""
    said = reason(*ended(started(tmp_path, data, HONEST + knows, STEPS=1)))
    assert re.match(r"before its first batch the model needs \d\.\d\d nats per token, where a guess needs 6\.93", said)


def test_weights_do_not_fit_into_train_py(tmp_path: Path, data: Path) -> None:
    said = reason(*ended(started(tmp_path, data, HONEST + f"WEIGHTS = '{'x' * 100_000}'\n")))
    assert said.endswith("more than 100,000: code has less, weights have more")


def test_without_a_corpus_the_command_that_makes_it_is_said(tmp_path: Path) -> None:
    said = reason(*ended(started(tmp_path, tmp_path / "nothing", HONEST)))
    assert said.endswith("run `python prepare.py stdlib`")


# --- Its end, whatever brings it -------------------------------------------------------------------------------------


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_referee(tmp_path: Path, data: Path, temporary: Path, number: signal.Signals) -> None:
    busy = "def train(model, run):\n    next(run.batches(8, run.context))\n    print('it runs')\n    time.sleep(1000)\n"
    process = started(tmp_path, data, HONEST + busy)
    assert process.stdout is not None
    for line in process.stdout:
        if "it runs" in line:
            break
    assert len(processes_of(temporary)) == 2
    process.send_signal(number)
    status, log = ended(process)
    wait_until(lambda: not processes_of(temporary))
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 130
        assert re.search(r"^FAIL: interrupted$", log, re.M)
        assert not list(temporary.iterdir())


def test_who_ends_the_referee_has_no_score(tmp_path: Path, data: Path, temporary: Path) -> None:
    kills = "import signal\ndef train(model, run):\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(1000)\n"
    status, log = ended(started(tmp_path, data, HONEST + kills))
    assert status == -signal.SIGKILL
    assert "val_bpb" not in log
    wait_until(lambda: not processes_of(temporary))


# --- Two processes of one experiment ---------------------------------------------------------------------------------

TORCHRUN = f"{Path(sys.executable).with_name('torchrun')} --standalone --nproc_per_node=2"


def test_two_processes_share_the_rows_and_learn_what_one_would(
    tmp_path: Path, data: Path, four_steps: dict[str, str]
) -> None:
    tells = (
        "\nown = step\n"
        "def step(model, run, inputs, targets):\n"
        "    print(f'rank {run.rank} of {run.world} has {tuple(inputs.shape)} from {inputs[:, 1].tolist()};')\n"
        "    return own(model, run, inputs, targets)\n"
    )
    status, log = ended(started(tmp_path, data, HONEST + tells, "--launch", TORCHRUN, STEPS=4, SEED=1))
    printed = summary(status, log)
    assert float(printed["val_bpb"]) == pytest.approx(float(four_steps["val_bpb"]), abs=1e-4)
    assert printed["total_tokens_M"] == four_steps["total_tokens_M"]
    seen = re.findall(r"rank (\d) of 2 has \(4, 128\) from (\[[\d, ]+\]);", log)
    assert sorted(rank for rank, _ in seen) == ["0"] * 4 + ["1"] * 4
    assert len({tokens for _, tokens in seen}) == 8, "no row is in both shares"


def test_a_process_that_dies_ends_the_run(tmp_path: Path, data: Path, temporary: Path) -> None:
    dies = "\ndef step(model, run, inputs, targets):\n    if run.rank == 1: os._exit(3)\n    return 1.0\n"
    said = reason(*ended(started(tmp_path, data, HONEST + dies, "--launch", TORCHRUN, STEPS=100)))
    assert re.match("the trainer ended by itself|train.py: RuntimeError", said), "whichever is noticed first"
    assert not processes_of(temporary)


# --- What the referee asks of logits, without a process --------------------------------------------------------------

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


@pytest.mark.parametrize(
    "environ", [{"BUDGET_SECONDS": "nan"}, {"BUDGET_SECONDS": "-1"}, {"STEPS": "-3"}, {"SEED": "x"}, {"SEED": 1 << 40}]
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, data: Path, environ: dict[str, object]) -> None:
    said = reason(*ended(started(tmp_path, data, HONEST, **environ)))
    ((name, value),) = environ.items()
    assert said.startswith(f"AUTORESEARCH_{name} is '{value}', not a ")


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


def test_a_step_that_would_not_end_in_time_is_not_begun(tmp_path: Path, data: Path) -> None:
    slow = """
def step(model, run, inputs, targets):
    end = time.process_time() + 0.7
    while time.process_time() < end:
        pass
    return 5.0
"""
    printed = summary(*ended(started(tmp_path, data, HONEST + slow, BUDGET_SECONDS=2)))
    assert printed["num_steps"] == "2"
    assert 1.4 <= float(printed["training_seconds"]) < 1.9


def test_a_device_that_is_not_there_is_a_sick_machine(tmp_path: Path, data: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    said = reason(*ended(started(tmp_path, data, HONEST, "--device", "cuda")))
    assert said == "torch finds no GPU (CUDA_ERROR_NO_DEVICE)"
    assert evaluator._SICK.search(said.encode())
