"""Measuring one commit for real: a clean tree, a process, a log, a number or the reason why there is none."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray import program as reader
from autoresearch_ray.errors import SetupError
from autoresearch_ray.evaluator import Evaluator, Slot
from autoresearch_ray.model import (
    MEMORY,
    Also,
    Direction,
    Failure,
    FailureKind,
    Measurement,
    Parse,
    ParseKind,
    Resources,
)
from autoresearch_ray.monitors.cpu import Cpu
from autoresearch_ray.ports import Signals, Trouble, Welcome
from autoresearch_ray.reading import named, number
from autoresearch_ray.repo import Hub, Origin
from autoresearch_ray.room import allowed
from autoresearch_ray.store import Store
from tests.conftest import Toy

Measure = Callable[..., Measurement | None]


class Bench:
    """An evaluator on a toy repository; `measure` changes train.py, commits it and measures that."""

    def __init__(self, toy: Toy, folder: Path, **changes: object) -> None:
        self.toy, self.folder = toy, folder
        self.base = toy.head
        program = reader.read(toy.folder / "program.md")
        program = replace(program, eval=replace(program.eval, **changes))  # type: ignore[arg-type]
        hub = Hub.create(folder / "hub.git", Origin.find(toy.folder), self.base)
        self.store = Store.create(folder / "store.git", hub.pack([self.base]), self.base)
        self.signals = Signals()
        self.evaluator = Evaluator(
            welcome=Welcome("run0", "t1", program, self.base, "", b"", ""),
            store=self.store,
            folder=folder / "worker",
            shared=folder / "shared",
            slot=Slot((), 2),
            monitor=Cpu(()),
            environ={**os.environ, "SECRET_KEY": "hush", "AUTORESEARCH_OWNER": "bench"},
        )
        self.log = folder / "run.log"

    def measure(
        self, code: str, beat: float | None = None, name: str = "train.py", guarded: bool = True
    ) -> Measurement | None:
        commit = self.commit(code, name)
        return self.evaluator.measure(commit, "gpu0-1", 7, self.log, self.signals, guarded=guarded, beat=beat)

    def hold_out(self, code: str, name: str = "train.py") -> Measurement | None:
        return self.evaluator.hold_out(self.commit(code, name), "gpu0-2", 8, self.log, self.signals)

    def commit(self, code: str, name: str = "train.py") -> str:
        tree = self.folder / "tree"
        self.store.checkout(tree, self.base)
        (tree / name).write_text(code)
        scope = replace(self.evaluator.welcome.program.scope, can=(".",), cannot=())
        made = self.store.commit(tree, self.base, "idea", scope, "")
        return getattr(made, "commit", self.base)


@pytest.fixture
def bench(toy: Toy, tmp_path: Path) -> Callable[..., Bench]:
    return lambda **changes: Bench(toy, tmp_path / "bench", **changes)


def test_a_number_and_the_runners_own_readings(bench: Callable[..., Bench]) -> None:
    measured = bench().measure("x = [0] * 20_000_000\nfor i in range(3_000_000): pass\nprint('loss: 0.25')")
    assert measured is not None and measured.value == 0.25 and measured.failure is None
    assert measured.exit_code == 0 and measured.seed == 7
    assert 0 < measured.cpu_seconds < measured.wall_seconds * 1.5 + 0.1
    assert measured.resources.device == "cpu" and (measured.resources.peak_mb or 0) > 100


def test_the_environment_is_an_allow_list_and_what_the_runner_says(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.measure("import os\nfor k, v in sorted(os.environ.items()): print(f'{k}={v}')\nprint('loss: 1')")
    seen = dict(line.split("=", 1) for line in one.log.read_text().splitlines() if "=" in line)
    assert seen["AUTORESEARCH_TAG"] == "t1" and seen["AUTORESEARCH_LANE"] == "gpu0"
    assert seen["AUTORESEARCH_EXPERIMENT"] == "gpu0-1" and seen["AUTORESEARCH_SEED"] == "7"
    assert seen["AUTORESEARCH_BUDGET_SECONDS"] == "5" and seen["OMP_NUM_THREADS"] == "2"
    assert seen["CUDA_VISIBLE_DEVICES"] == "" and not Path(seen["HOME"]).exists()
    assert "SECRET_KEY" not in seen and not any(each.startswith(("RAY_", "GIT_", "PYTEST")) for each in seen)
    assert not Path(seen["TMPDIR"]).exists()


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "HF_HUB_TOKEN", "NVIDIA_API_KEY", "UV_INDEX_X_PASSWORD", "OPENAI_API_KEY", "PYTHONPATH", "LD_PRELOAD"],
)
def test_secrets_and_injections_pass_only_by_name(name: str) -> None:
    assert name not in allowed({name: "x"})
    assert allowed({name: "x"}, (name,)) == {name: "x"}


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("raise ValueError('no such shape')", FailureKind.CRASH, "no such shape"),
        ("import sys; sys.exit(3)", FailureKind.CRASH, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", FailureKind.CRASH, ""),
        ("print('all is well')", FailureKind.NO_METRIC, "all is well"),
        ("print('loss: nan')", FailureKind.NOT_FINITE, "nan"),
        ("print('loss: -inf')", FailureKind.NOT_FINITE, "inf"),
        ("print('loss: 1e160')", FailureKind.NOT_FINITE, "1e160"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", FailureKind.OOM, "allocate"),
        ("raise RuntimeError('CUDA error: uncorrectable ECC error encountered')", FailureKind.MACHINE, "ECC"),
        ("import time; print('start', flush=True); time.sleep(60)", FailureKind.TIMEOUT, "start"),
    ],
)
def test_each_failure_is_told_apart_and_carries_the_end_of_its_log(
    bench: Callable[..., Bench], code: str, kind: FailureKind, says: str
) -> None:
    measured = bench(kill_after_seconds=1.5).measure(code)
    assert measured is not None and measured.value is None and measured.failure is not None
    assert measured.failure.kind is kind
    assert says in measured.failure.tail


def test_the_last_line_of_the_metric_counts_and_not_what_looks_like_it(bench: Callable[..., Bench]) -> None:
    measured = bench().measure("print('loss: 9')\nprint('val_loss: 5')\nprint('  loss = 2.5e-1')\nprint('floss: 7')")
    assert measured is not None and measured.value == 0.25


@pytest.mark.parametrize(
    ("parse", "printed", "value"),
    [
        (Parse(ParseKind.COMMAND, 'grep "^loss:" run.log'), "loss: 0.5", 0.5),
        (
            Parse(ParseKind.COMMAND, "grep \"Req/Sec\" run.log | awk '{print $2}'"),
            "  Req/Sec   1.09k  0.3  70%",
            1090.0,
        ),
        (Parse(ParseKind.REGEX, r"final=([0-9.]+)"), "final=3.5 final=4.5", 4.5),
        (Parse(ParseKind.STDOUT), "123456", 123456.0),
        (Parse(ParseKind.COMMAND, "cat harness.py && tail -n 1 run.log"), "7", 7.0),
    ],
)
def test_every_way_to_read_the_metric(bench: Callable[..., Bench], parse: Parse, printed: str, value: float) -> None:
    measured = bench(parse=parse).measure(f"import sys\nprint('noise 99', file=sys.stderr)\nprint({printed!r})")
    assert measured is not None and measured.value == value


def test_a_parse_command_runs_on_the_base_and_not_on_what_the_candidate_left(bench: Callable[..., Bench]) -> None:
    one = bench(parse=Parse(ParseKind.COMMAND, "ls; cat harness.py; echo loss: 1"))
    measured = one.measure("open('planted', 'w').write('x')\nopen('harness.py', 'w').write('evil')\nprint('loss: 5')")
    assert measured is not None and measured.value == 1.0


def test_a_parse_command_that_hangs_is_ended(bench: Callable[..., Bench]) -> None:
    measured = bench(parse=Parse(ParseKind.COMMAND, "sleep 60"), kill_after_seconds=1.0).measure("print('loss: 5')")
    assert measured is not None and measured.failure is not None and measured.failure.kind is FailureKind.NO_METRIC


def test_nothing_out_of_scope_is_measured(bench: Callable[..., Bench]) -> None:
    one = bench()
    measured = one.measure("print('loss: -1')", name="harness.py")
    assert measured is not None and measured.failure is not None
    assert measured.failure.kind is FailureKind.OUT_OF_SCOPE and "harness.py" in measured.failure.message
    assert not one.log.exists()


def test_nothing_is_left_for_the_next_experiment(bench: Callable[..., Bench]) -> None:
    one = bench()
    leave = "import tempfile, os\nfor d in ('.', tempfile.gettempdir()): open(d + '/left', 'w').write('x')\n"
    look = "import tempfile, os\nprint('loss:', sum(os.path.exists(d + '/left') for d in ('.', tempfile.gettempdir())))"
    assert (one.measure(leave + look) or _none()).value == 2
    assert (one.measure(look) or _none()).value == 0
    assert [each.name for each in one.evaluator.folder.rglob("*")] == ["gpu0"]


def test_a_guard_runs_on_what_may_be_kept_and_can_refuse_it(bench: Callable[..., Bench], tmp_path: Path) -> None:
    told = tmp_path / "told"
    one = bench(guard=f"echo ran >> {told}; grep -q honest train.py")
    assert (one.measure("print('loss: 5')", beat=4.0) or _none()).value == 5.0
    assert not told.exists()
    assert (one.measure("print('loss: 3')  # honest", beat=4.0) or _none()).value == 3.0
    refused = one.measure("print('loss: 3')", beat=4.0)
    assert refused is not None and refused.failure is not None and refused.failure.kind is FailureKind.GUARD
    assert told.read_text() == "ran\nran\n"


def test_a_guard_sees_ties_and_near_misses_and_never_a_clearly_worse_value(bench: Callable[..., Bench]) -> None:
    one = bench(guard="false")
    for beat, guarded, kept in (
        (5.0, True, False),
        (5.1, True, False),
        (None, True, False),
        (4.9, True, True),
        (5.0, False, True),
    ):
        measured = one.measure("print('loss: 5')", beat=beat, guarded=guarded)
        assert measured is not None and (measured.value is not None) is kept


def test_what_an_evaluation_writes_over_the_frozen_files_does_not_fool_the_guard(bench: Callable[..., Bench]) -> None:
    one = bench(guard="grep -q train harness.py")
    assert (one.measure("open('harness.py', 'w').write('')\nprint('loss: 1')", beat=2.0) or _none()).value == 1.0


def test_a_parse_command_that_fails_is_no_number(bench: Callable[..., Bench]) -> None:
    measured = bench(parse=Parse(ParseKind.COMMAND, "awk '{print $2' run.log")).measure("print('loss: 5')")
    assert measured is not None and measured.failure is not None
    assert measured.failure.kind is FailureKind.NO_METRIC and "awk" in measured.failure.message


def test_what_setup_makes_is_there_for_every_tree_and_made_once(bench: Callable[..., Bench], tmp_path: Path) -> None:
    told = tmp_path / "told"
    one = bench(setup=f"echo ran >> {told}; mkdir data && echo 42 > data/number")
    one.evaluator.set_up(Signals())
    one.evaluator.set_up(Signals())
    for _ in range(2):
        assert (one.measure("print('loss:', open('data/number').read())") or _none()).value == 42
    assert told.read_text() == "ran\n"


def test_a_setup_that_fails_is_an_error_with_the_end_of_its_log(bench: Callable[..., Bench]) -> None:
    with pytest.raises(SetupError, match="no such dataset"):
        bench(setup="echo no such dataset; exit 4").evaluator.set_up(Signals())


def test_a_drain_starts_nothing_and_a_halt_ends_what_runs(bench: Callable[..., Bench]) -> None:
    one = bench(kill_after_seconds=60.0)
    threading.Timer(0.5, lambda: (one.signals.drain.set(), one.signals.halt.set())).start()
    assert one.measure("import time; time.sleep(50)") is None
    assert one.measure("print('loss: 1')") is None


# --- The other numbers -----------------------------------------------------------------------------------------------

LATENCY, ACCURACY, PEAK = (
    Also("latency ms", Direction.LOWER),
    Also("acc", Direction.HIGHER),
    Also(MEMORY, Direction.LOWER),
)
SAYS = "print('loss: 5\\nlatency ms = 9\\nacc: 0.5\\n  \\x1b[1mlatency ms\\x1b[0m: 1.5k\\nval_acc: 7')"


@pytest.mark.parametrize(
    "parse",
    [
        Parse(),
        Parse(ParseKind.REGEX, "loss: (.*)"),
        Parse(ParseKind.COMMAND, 'grep "^loss:" run.log'),
        Parse(ParseKind.STDOUT),
    ],
)
def test_the_other_numbers_are_lines_of_the_log_whatever_reads_the_metric(
    bench: Callable[..., Bench], parse: Parse
) -> None:
    measured = bench(also=(LATENCY, ACCURACY), parse=parse).measure(f"{SAYS}\nprint('5')")
    assert measured is not None and measured.value == 5.0
    assert measured.also == {"latency ms": 1500.0, "acc": 0.5}


def test_memory_is_the_runners_own_reading_whatever_the_log_says(bench: Callable[..., Bench]) -> None:
    measured = bench(also=(PEAK,)).measure(f"x = [0] * 40_000_000\nprint('{MEMORY}: 0.001')\nprint('loss: 5')")
    assert measured is not None and measured.also == {MEMORY: measured.resources.memory_gb}
    assert 0.3 < measured.also[MEMORY] < 2


def test_memory_that_is_not_named_is_none_of_the_other_numbers(bench: Callable[..., Bench]) -> None:
    assert (bench().measure("print('loss: 5')") or _none()).also == {}


class Mute:
    """A monitor that tells only the memory of the processes, or nothing. It stands in for a GPU that hides its own."""

    device, lost = "mute", ""

    def __init__(self, process_peak_mb: float | None) -> None:
        self.resources = Resources("mute", process_peak_mb=process_peak_mb)

    def watch(self) -> Mute:
        return self

    def __enter__(self) -> Mute:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def follow(self, pid: int) -> None:
        pass

    def trouble(self, alone: bool) -> Trouble | None:
        return None


class Sick(Mute):
    """It is not to be trusted."""

    def trouble(self, alone: bool) -> Trouble | None:
        return Trouble("sick", "GPU 0: Xid 79")


def test_nothing_is_measured_on_a_device_that_is_sick(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.evaluator.monitor = Sick(None)
    measured = one.measure("print('loss: 5')")
    assert measured is not None and measured.failure == Failure(FailureKind.MACHINE, "GPU 0: Xid 79", fatal=True)
    assert measured.wall_seconds == 0 and one.log.read_text() == ""  # the guardian stood by, and started nothing


@pytest.mark.parametrize(("process_peak_mb", "memory"), [(512.0, {MEMORY: 0.5}), (None, {})])
def test_memory_of_the_processes_stands_in_and_what_is_not_known_is_left_out(
    bench: Callable[..., Bench], process_peak_mb: float | None, memory: dict[str, float]
) -> None:
    one = bench(also=(PEAK, ACCURACY))
    one.evaluator.monitor = Mute(process_peak_mb)
    measured = one.measure(SAYS)
    assert measured is not None and measured.value == 5.0 and measured.also == {"acc": 0.5, **memory}


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("print('loss: 5')", FailureKind.NO_METRIC, "'acc'"),
        ("print('loss: 5\\nacc: high')", FailureKind.NO_METRIC, "'acc' in the log: found 'high'"),
        ("print('loss: 5\\nacc: 1\\nacc: nan')", FailureKind.NOT_FINITE, "acc is nan"),
        ("print('acc: 5')", FailureKind.NO_METRIC, "'loss'"),
        ("print('loss: inf')", FailureKind.NOT_FINITE, "loss is inf"),
    ],
)
def test_a_number_that_is_missing_is_named(
    bench: Callable[..., Bench], code: str, kind: FailureKind, says: str
) -> None:
    measured = bench(also=(ACCURACY,)).measure(code)
    assert measured is not None and measured.failure is not None and measured.also == {}
    assert measured.failure.kind is kind and says in measured.failure.message


def test_what_the_guard_refuses_has_no_numbers(bench: Callable[..., Bench]) -> None:
    measured = bench(also=(ACCURACY,), guard="false").measure(SAYS)
    assert measured is not None and measured.failure is not None and measured.failure.kind is FailureKind.GUARD
    assert measured.also == {} and measured.value is None


@pytest.mark.parametrize(
    ("parse", "times"),
    [
        (Parse(), 3),
        (Parse(ParseKind.REGEX, r"loss\s*[:=]\s*([0-9])"), 5),
        (Parse(ParseKind.COMMAND, "tail -n 1 run.log"), 3),
        (Parse(ParseKind.COMMAND, "echo 1; cat harness.py; echo 1"), 3),
        (Parse(ParseKind.STDOUT), 3),
    ],
)
def test_it_is_counted_how_many_lines_give_the_metric(bench: Callable[..., Bench], parse: Parse, times: int) -> None:
    code = "print('loss: 1 loss: 2\\nloss=3\\nval_loss: 4\\rloss : 4\\nmean loss: 4\\n1')"
    assert (bench(parse=parse).measure(code) or _none()).printed == times


def test_a_metric_that_the_log_does_not_name_is_given_once(bench: Callable[..., Bench]) -> None:
    assert (bench(parse=Parse(ParseKind.STDOUT)).measure("print(12)") or _none()).printed == 1


def test_a_group_that_took_no_part_in_the_last_match_is_no_number(bench: Callable[..., Bench]) -> None:
    measured = bench(parse=Parse(ParseKind.REGEX, "=(.)|x")).measure("print('=3\\nx')")
    assert measured is not None and measured.failure is not None
    assert measured.failure.kind is FailureKind.NO_METRIC


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "a b", "a: b", "val_a", "b"]), st.sampled_from([":", " = "]), st.integers(0, 9)
        ),
        max_size=12,
    )
)
def test_each_name_has_its_last_line_and_its_count(said: list[tuple[str, str, int]]) -> None:
    names = ["a", "a b", "a: b"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.write_text("".join(f"{name}{sign}{value}\n" for name, sign, value in said))
        found = named(log, names)
    for name in names:
        values = [value for each, _, value in said if each == name]
        assert found[name].lines == len(values)
        assert found[name].text == (str(values[-1]) if values else "")


# --- The holdout -----------------------------------------------------------------------------------------------------


def test_a_holdout_measures_the_commit_by_its_own_command(bench: Callable[..., Bench], tmp_path: Path) -> None:
    secret, told = tmp_path / "secret.py", tmp_path / "told"
    secret.write_text("import os, train\nprint('loss:', train.x * 100)\nprint('seed', os.environ['AUTORESEARCH_SEED'])")
    one = bench(
        holdout=f"PYTHONPATH=. python {secret}", setup="mkdir data && echo 42 > data/x", guard=f"echo ran >> {told}",
        also=(ACCURACY,),
    )  # fmt: skip
    one.evaluator.set_up(Signals())
    told.unlink()
    measured = one.hold_out("x = int(open('data/x').read())\nprint('loss: 1')")
    assert measured is not None and measured.value == 4200.0 and measured.also == {}
    assert measured.seed == 8 and measured.exit_code == 0 and measured.printed == 2
    assert measured.resources.device == "cpu" and measured.wall_seconds > 0
    assert "seed 8" in one.log.read_text() and not told.exists()
    assert [each.name for each in one.evaluator.folder.rglob("*")] == ["gpu0"]


@pytest.mark.parametrize(
    ("parse", "holdout"),
    [
        (Parse(ParseKind.REGEX, "score=(.*)"), "echo score=7"),
        (Parse(ParseKind.COMMAND, "grep -o '[0-9]' run.log"), "echo the score is 7"),
        (Parse(ParseKind.STDOUT), "echo 9 >&2; echo 7"),
    ],
)
def test_a_holdout_is_read_as_the_metric_is(bench: Callable[..., Bench], parse: Parse, holdout: str) -> None:
    assert (bench(parse=parse, holdout=holdout).hold_out("") or _none()).value == 7.0


@pytest.mark.parametrize(
    ("holdout", "name", "kind"),
    [
        ("exit 3", "train.py", FailureKind.CRASH),
        ("echo nothing", "train.py", FailureKind.NO_METRIC),
        ("sleep 60", "train.py", FailureKind.TIMEOUT),
        ("echo loss: 1", "harness.py", FailureKind.OUT_OF_SCOPE),
    ],
)
def test_a_holdout_fails_as_a_measurement_does(
    bench: Callable[..., Bench], holdout: str, name: str, kind: FailureKind
) -> None:
    measured = bench(holdout=holdout, kill_after_seconds=1.5).hold_out("pass", name)
    assert measured is not None and measured.failure is not None and measured.failure.kind is kind


def test_a_holdout_waits_for_the_slot_and_heeds_drain_and_halt(bench: Callable[..., Bench], tmp_path: Path) -> None:
    one = bench(holdout=f"touch {tmp_path / 'began'}; sleep 50", kill_after_seconds=60.0)
    one.evaluator.slot.lock.acquire()
    got: list[Measurement | None] = []
    thread = threading.Thread(target=lambda: got.append(one.hold_out("pass")))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive() and not (tmp_path / "began").exists()
    one.evaluator.slot.lock.release()
    threading.Timer(0.5, lambda: (one.signals.drain.set(), one.signals.halt.set())).start()
    thread.join()
    assert got == [None] and (tmp_path / "began").exists()
    assert one.hold_out("pass") is None


def test_a_program_without_a_holdout_has_none_to_run(bench: Callable[..., Bench]) -> None:
    with pytest.raises(ValueError, match="no holdout"):
        bench().hold_out("pass")


def _none() -> Measurement:
    raise AssertionError("it was not measured")


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["loss", "performance score", "Req/Sec", "p99 (ms)"]),
)
def test_any_number_is_read_behind_its_name(value: float, metric: str) -> None:
    assert number(f"{metric}: {value!r}", metric) == value
    assert number(f"step 12 {metric} = {value!r} (3 runs)", metric) == value
    assert number(f"{value!r}", metric) == value


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    read = number(text, "loss")
    assert read is None or isinstance(read, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,234,567", 1234567.0), ("1.5M", 1.5e6), ("12k rows", 12e3), ("3 MB", 3.0), ("-", None), ("5m30s", 5.0)],
)
def test_numbers_as_people_write_them(text: str, value: float | None) -> None:
    assert number(text, "loss") == value
    assert not math.isnan(number(text, "loss") or 0.0)
