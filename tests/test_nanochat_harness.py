"""`python harness.py` of the nanochat example: it measures an honest train.py, and says why it believes no other."""

from __future__ import annotations

import base64
import collections
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

import harness
import numpy as np
import psutil
import pytest
import torch
import wire

from autoresearch_ray import reading
from tests.conftest import processes_of
from tests.nanochat import NANOCHAT, SUMMARY, Corpus, ended, summary_of

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


def summary(status: int, log: str) -> dict[str, str]:
    """The summary of a run that ended well; the only lines of the log that look like one are its own."""
    assert status == 0, log
    printed = summary_of(log)
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


def test_cpu_seconds_do_not_pass_while_a_process_waits() -> None:
    spins = "while time.process_time() < 1: pass"
    code = f"import sys, time\nsys.stdin.readline()\n{spins}\nprint('spun', flush=True)\nsys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        cpu, wall = (wire.Clock(kind, psutil.Process(process.pid)) for kind in ("cpu", "wall"))
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "spun\n"
        spun = cpu.seconds
        assert 0.5 < spun <= wall.seconds + 0.05
        while wall.seconds < 2 * spun:  # the process waits for a line meanwhile
            pass
        assert cpu.seconds - spun < 0.1
        process.stdin.close()


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
    # Both threads were counted, and setting the clocks to zero has not stretched the budget. A step that would not end
    # in time is not begun: where the machine is busy, steps take longer, and more is left over.
    assert 0.5 <= float(printed["training_seconds"]) <= 1.5
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
attempt("read", lambda: open("/etc/../var/nothing"))
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
        "import atexit\n"
        "atexit.register(os.abort)\n"  # as threads may that are left over: the way out of Python is no part of a run
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


# --- Settings, steps and devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ", [{"BUDGET_SECONDS": "nan"}, {"BUDGET_SECONDS": "-1"}, {"STEPS": "-3"}, {"SEED": "x"}, {"SEED": 1 << 40}]
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, data: Path, environ: dict[str, object]) -> None:
    said = reason(*ended(started(tmp_path, data, HONEST, **environ)))
    ((name, value),) = environ.items()
    assert said.startswith(f"AUTORESEARCH_{name} is '{value}', not a ")


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
    assert reading._SICK.search(said.encode())
