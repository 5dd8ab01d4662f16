"""Measures a commit: a clean tree, the program's command under the guardian, and the metric from the runner's own log.

The clock, the memory and the exit are the runner's readings. The metric is read from a log that the runner wrote, by a
parse command that runs on the base commit's files, so nothing that a candidate leaves behind is run or read here.
"""

from __future__ import annotations

import fcntl
import io
import math
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.errors import RepoError, SetupError
from autoresearch_ray.model import Failure, FailureKind, Measurement, ParseKind, Resources
from autoresearch_ray.ports import Monitor, Signals, Welcome
from autoresearch_ray.store import Store

_ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|XDG_CACHE_HOME|CC|CXX|TERM"
    r"|CUDA_(?!VISIBLE_DEVICES)\w+|NVIDIA_\w+|NCCL_\w+|TORCH\w*_(?:HOME|CACHE_DIR)|TRITON_CACHE_DIR|HF_(?!TOKEN)\w+|UV_\w+"
    r"|AUTORESEARCH_DATA"
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL")
_NUMBER = re.compile(
    r"(?<![\w.,])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?|(?:nan|inf(?:inity)?)\b)"
    r"(?!,\d)",  # "0,25" is no number that we dare to read
    re.IGNORECASE,
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SUFFIX = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_OUT_OF_MEMORY = re.compile(
    rb"CUDA out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|RESOURCE_EXHAUSTED: Out of mem"
)
_SICK = re.compile(
    rb"GPU is lost|has fallen off the bus|uncorrectable ECC error|all CUDA-capable devices are busy or unavailable"
    rb"|CUDA_ERROR_(?:NO_DEVICE|SYSTEM_NOT_READY|ECC_UNCORRECTABLE)|No space left on device"
)


def allowed(environ: Mapping[str, str], names: tuple[str, ...] = ()) -> dict[str, str]:
    """The part of an environment that evaluations see; `names` are let through besides."""
    return {
        name: value
        for name, value in environ.items()
        if name in names or (_ALLOWED.fullmatch(name) and not _SECRET.search(name))
    }


@dataclass(slots=True)
class Slot:
    """What one worker owns: GPU ids as granted, its share of the cores, and the lock that lanes measure behind."""

    gpus: tuple[str, ...]
    cores: int
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class Evaluator:
    """Measures for the lanes of one worker."""

    welcome: Welcome
    store: Store
    folder: Path
    shared: Path  # one per node: what Setup made
    slot: Slot
    monitor: Monitor
    environ: Mapping[str, str]  # of this machine

    def set_up(self, halt: threading.Event) -> None:
        """Run the program's Setup once per node; what it makes beside the tracked files is linked into every tree.

        Then the guard, on the base: one that fails there would refuse every gain of the night. Raises `SetupError` with
        the end of the log.
        """
        wanted = {"setup": self.welcome.program.eval.setup, "guard": self.welcome.program.eval.guard}
        if not any(wanted.values()):
            return
        self.shared.mkdir(parents=True, exist_ok=True)
        tree, log, done = self.shared / "tree", self.shared / "setup.log", self.shared / "done"
        with (self.shared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if done.exists():
                return
            self.store.checkout(tree, self.welcome.base)
            tracked = set(_entries(tree / self.welcome.prefix))
            made: list[str] = []
            for what, command in wanted.items():
                if not command:
                    continue
                seconds = max(3600.0, self.welcome.program.eval.kill_after_seconds)
                ended = self._run(command, tree, log, {}, seconds, halt)
                if ended.why == "cancelled":
                    return
                if ended.code != 0:
                    raise SetupError(
                        f"the program's {what} `{command}` ended with {ended.code}:\n{process.tail(log)}",
                        "run it by hand in a clean clone, then start again",
                    )
                if what == "setup":
                    made = [each for each in _entries(tree / self.welcome.prefix) if each not in tracked]
            done.write_text("\n".join(made))

    def measure(
        self,
        commit: str,
        id: str,
        seed: int,
        log: Path,
        signals: Signals,
        *,
        guarded: bool = True,
        beat: float | None = None,
    ) -> Measurement | None:
        """Measure `commit`. If it is to be `guarded`, the guard runs on any value that is not worse than `beat`.

        None if a drain came before it began or a halt before it ended. Raises `OSError` or `RepoError` when this
        machine cannot give it a tree.
        """
        program, lane = self.welcome.program, id.rpartition("-")[0]
        strayed = self.store.inside(self.welcome.base, commit, program.scope, self.welcome.prefix)
        if strayed:
            return Measurement(None, strayed)
        folder = self.folder / lane
        tree, stdout = folder / "measure", folder / "stdout"
        own = {
            "AUTORESEARCH_TAG": self.welcome.tag,
            "AUTORESEARCH_LANE": lane,
            "AUTORESEARCH_EXPERIMENT": id,
            "AUTORESEARCH_SEED": str(seed),
            "AUTORESEARCH_BUDGET_SECONDS": f"{program.eval.budget_seconds:g}",
        }
        try:
            self._checkout(tree, commit)
            with self.slot.lock:
                if signals.drain.is_set():
                    return None
                limit = program.eval.kill_after_seconds
                with self.monitor.watch() as watch:
                    ended = process.run(
                        program.eval.command,
                        cwd=tree / self.welcome.prefix,
                        environ=self._environ(folder, own),
                        log=log,
                        stdout=stdout if program.eval.parse.kind is ParseKind.STDOUT else None,
                        timeout_seconds=limit,
                        cancel=signals.halt,
                        started=watch.follow,
                    )
            if ended.why == "cancelled":
                return None
            value, failure = self._read(ended, watch.lost, folder, log, stdout, own, signals.halt)
            better = program.eval.metric.direction.better
            if guarded and value is not None and not (beat is not None and better(beat, value)):
                failure = self._guard(tree, commit, log, own, signals.halt)
            if signals.halt.is_set():
                return None
            return Measurement(
                value=None if failure else value,
                failure=failure,
                seed=seed,
                exit_code=ended.code,
                wall_seconds=ended.wall_seconds,
                cpu_seconds=ended.cpu_seconds,
                resources=_with_peak(watch.resources, ended),
            )
        finally:
            for each in (tree, folder / "tmp", folder / "parse"):
                trees.remove(each)
            stdout.unlink(missing_ok=True)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _checkout(self, tree: Path, commit: str) -> None:
        self.store.checkout(tree, commit)
        done = self.shared / "done"
        if done.exists():
            for name in filter(None, done.read_text().split("\n")):
                source, target = self.shared / "tree" / self.welcome.prefix / name, tree / self.welcome.prefix / name
                if not target.exists():
                    target.symlink_to(source)

    def _environ(self, folder: Path, own: Mapping[str, str]) -> dict[str, str]:
        temporary = folder / "tmp"
        trees.empty(temporary)
        options = self.welcome.program.options
        environ = allowed(self.environ, options.env)
        for secret in options.secrets:
            environ.pop(secret, None)
        path = environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
        ours = str(Path(sys.executable).parent)  # first, unless the user has activated an environment of their own
        active = "VIRTUAL_ENV" in environ or "CONDA_PREFIX" in environ
        return {
            **environ,
            "PATH": f"{path}:{ours}" if active else f"{ours}:{path}",
            "TMPDIR": str(temporary),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self.slot.cores),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(self.slot.gpus),
            "AUTORESEARCH_OWNER": self.environ.get("AUTORESEARCH_OWNER", ""),
            **own,
        }

    def _run(
        self,
        command: str,
        tree: Path,
        log: Path,
        own: Mapping[str, str],
        seconds: float,
        halt: threading.Event,
        stdout: Path | None = None,
    ) -> process.Exit:
        return process.run(
            command,
            cwd=tree / self.welcome.prefix,
            environ=self._environ(tree.parent, own),
            log=log,
            stdout=stdout,
            timeout_seconds=seconds,
            cancel=halt,
        )

    def _read(
        self,
        ended: process.Exit,
        lost: str,
        folder: Path,
        log: Path,
        stdout: Path,
        own: Mapping[str, str],
        halt: threading.Event,
    ) -> tuple[float | None, Failure | None]:
        """The metric, or why there is none."""
        metric = self.welcome.program.eval.metric.name
        if ended.why == "lost":
            return None, Failure(FailureKind.MACHINE, "the process that watched the evaluation was killed")
        if lost or ended.log_error:
            return None, Failure(FailureKind.MACHINE, lost or f"the log could not be written: {ended.log_error}")
        if ended.survivors:
            return None, Failure(FailureKind.MACHINE, f"{ended.survivors} processes could not be killed")
        try:
            tail = process.tail(log)
        except OSError as error:
            return None, Failure(FailureKind.CRASH, f"the log that the runner wrote is gone: {error.strerror}")
        if ended.why == "timeout":
            seconds = self.welcome.program.eval.kill_after_seconds
            return None, Failure(FailureKind.TIMEOUT, f"killed after {seconds:g} seconds", tail)
        if ended.code != 0:
            return None, _crash(ended, log, tail)
        text = self._metric_text(folder, log, stdout, own, halt)
        if isinstance(text, Failure):
            return None, text
        value = number(text, metric)
        if value is None:
            said = f"found {text.strip()[:80]!r}" if text.strip() else "found nothing"
            return None, Failure(FailureKind.NO_METRIC, f"no number for {metric!r} in the log: {said}", tail)
        if not math.isfinite(value):
            return None, Failure(FailureKind.NOT_FINITE, f"{metric} is {value}", tail)
        return value, None

    def _metric_text(
        self, folder: Path, log: Path, stdout: Path, own: Mapping[str, str], halt: threading.Event
    ) -> str | Failure:
        """The piece of text that holds the number."""
        parse, metric = self.welcome.program.eval.parse, self.welcome.program.eval.metric.name
        if parse.kind is ParseKind.STDOUT:
            return process.tail(stdout, lines=1)
        if parse.kind is ParseKind.COMMAND:
            return self._parsed(parse.text, folder, log, own, halt)
        pattern = parse.text if parse.kind is ParseKind.REGEX else rf"^\s*{re.escape(metric)}\s*[:=]\s*(\S+)"
        found = ""
        with io.TextIOWrapper(process.opened(log), encoding="utf-8", errors="replace") as file:
            for line in file:
                for match in re.finditer(pattern, _COLOURS.sub("", line[:10_000])):
                    found = match[1] if match.re.groups else match[0]
        return found

    def _parsed(
        self, command: str, folder: Path, log: Path, own: Mapping[str, str], halt: threading.Event
    ) -> str | Failure:
        """The last line that the parse command prints. What it says on standard error is no number."""
        tree, output, errors = folder / "parse", folder / "parse.out", folder / "parse.log"
        self.store.checkout(tree, self.welcome.base)
        link = tree / self.welcome.prefix / "run.log"
        link.unlink(missing_ok=True)
        link.symlink_to(log)
        ended = self._run(command, tree, errors, own, self.welcome.program.eval.kill_after_seconds, halt, output)
        text, said = process.tail(output, lines=1), process.tail(errors)
        output.unlink(missing_ok=True)
        errors.unlink(missing_ok=True)
        if ended.why == "timeout":
            return Failure(FailureKind.NO_METRIC, f"the parse command `{command}` did not end")
        if ended.code and not text.strip() and said.strip():
            return Failure(FailureKind.NO_METRIC, f"the parse command `{command}` failed", said)
        return text

    def _guard(
        self, tree: Path, commit: str, log: Path, own: Mapping[str, str], halt: threading.Event
    ) -> Failure | None:
        """Run the guard where the evaluation ran, on files that are once more what they were."""
        command = self.welcome.program.eval.guard
        if not command:
            return None
        try:
            self.store.restore(tree, commit)
        except RepoError as error:
            return Failure(FailureKind.CRASH, f"the evaluation left no tree for the guard: {error.message}")
        output = log.with_suffix(".guard.log")
        with self.slot.lock:
            ended = self._run(command, tree, output, own, self.welcome.program.eval.kill_after_seconds, halt)
        tail = process.tail(output)
        output.unlink(missing_ok=True)
        if ended.why == "exit" and ended.code == 0:
            return None
        how = "did not end" if ended.why == "timeout" else f"ended with {ended.code}"
        return Failure(FailureKind.GUARD, f"better, but the guard `{command}` {how}", tail)


def number(text: str, metric: str) -> float | None:
    """The number that `text` holds: behind "<metric>:" if that is there, else the first. "1.09k" is 1090."""
    text = _COLOURS.sub("", text)
    _, found, behind = text.rpartition(metric)
    for piece in ([behind.lstrip(" \t:=,")] if found else []) + [text]:
        match = _NUMBER.search(piece)
        if match:
            factor = _SUFFIX.get(piece[match.end() : match.end() + 1], 1.0)
            lone = not piece[match.end() + 1 : match.end() + 2].isalnum()
            return float(match[0].replace(",", "").replace("_", "")) * (factor if lone else 1.0)
    return None


def _with_peak(resources: Resources, ended: process.Exit) -> Resources:
    """On a CPU, the kernel's own peak counts too: a monitor that samples misses what is short."""
    if resources.device != "cpu":
        return resources
    return replace(resources, peak_mb=max(resources.peak_mb or 0.0, ended.peak_mb))


def _crash(ended: process.Exit, log: Path, tail: str) -> Failure:
    """Out of memory and a sick machine are told apart from other crashes, by the end of the log and by the kernel."""
    with process.opened(log) as file:
        file.seek(max(0, log.stat().st_size - (1 << 18)))
        end = file.read()
    how = f"ended by signal {-ended.code}" if ended.code is not None and ended.code < 0 else f"exit status {ended.code}"
    if ended.oom_killed:
        return Failure(FailureKind.OOM, "killed by the kernel for memory", tail)
    if _OUT_OF_MEMORY.search(end):
        return Failure(FailureKind.OOM, "out of GPU memory", tail)
    sick = _SICK.search(end)
    if sick:
        return Failure(FailureKind.MACHINE, sick[0].decode(errors="replace"), tail)
    return Failure(FailureKind.CRASH, how, tail)


def _entries(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())
