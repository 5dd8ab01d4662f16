"""Measures a commit: a clean tree, the program's command under the guardian, and numbers from the runner's own log.

The clock, the memory and the exit are the runner's readings. The metric is read from a log that the runner wrote, by a
parse command that runs on the base commit's files, so nothing that a candidate leaves behind is run or read here.
"""

from __future__ import annotations

import fcntl
import math
import os
import posixpath
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.caches import Caches
from autoresearch_ray.errors import RepoError, SetupError
from autoresearch_ray.model import MEMORY, Also, Failure, FailureKind, Measurement, ParseKind, Resources
from autoresearch_ray.ports import Monitor, Signals, Welcome
from autoresearch_ray.reading import crash, matched, named, number
from autoresearch_ray.room import furnish, kept, link
from autoresearch_ray.sandbox import Sandbox, home, tools, within
from autoresearch_ray.store import Store

_ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|XDG_CACHE_HOME|CC|CXX|TERM"
    r"|CUDA_(?!VISIBLE_DEVICES)\w+|NVIDIA_\w+|NCCL_\w+|TORCH\w*_(?:HOME|CACHE_DIR)|TRITON_CACHE_DIR|HF_(?!TOKEN)\w+|UV_\w+"
    r"|AUTORESEARCH_DATA"
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL")


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


@dataclass(frozen=True, slots=True)
class _Trial:
    """One measurement of one commit: where it runs, what it is told, and what ends it."""

    commit: str
    seed: int
    folder: Path  # of its lane
    log: Path
    own: Mapping[str, str]
    signals: Signals

    @property
    def tree(self) -> Path:
        return self.folder / "measure"

    @property
    def stdout(self) -> Path:
        return self.folder / "stdout"

    @property
    def room(self) -> Path:
        return self.folder / "private"


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
    walls: Sandbox | None = None

    def set_up(self, halt: threading.Event) -> None:
        """Run the program's Setup once per node; what it makes beside the tracked files is linked into every tree.

        Then the guard, on the base: one that fails there would refuse every gain of the night. Raises `SetupError` with
        the end of the log, or where something is not there that is to be kept.
        """
        self._set_up(halt)
        tracked = self.store.entries(self.welcome.base)
        for name in self._kept():
            path = posixpath.join(self.welcome.prefix, name)
            if any(each == path or each.startswith(f"{path}/") for each in tracked):
                raise SetupError(f"Keep: {name} holds committed files", "keep what lies in it beside them, by its name")

    def _set_up(self, halt: threading.Event) -> None:
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
                if what == "setup":
                    ended = self._plainly(command, tree, log, {}, seconds, halt)
                else:
                    ended = self._guarded(command, tree, log, {}, seconds, halt)
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
        evaluation = self.welcome.program.eval
        better = evaluation.metric.direction.better
        with self._trial(commit, id, seed, log, signals) as trial:
            measured = self._warm(trial, evaluation.command, evaluation.also)
            if not guarded or measured is None or measured.value is None:
                return measured
            fault = None if beat is not None and better(beat, measured.value) else self._guard(trial)
            if signals.halt.is_set():
                return None
            return replace(measured, value=None, failure=fault, also={}) if fault else measured

    def hold_out(self, commit: str, id: str, seed: int, log: Path, signals: Signals) -> Measurement | None:
        """Measure `commit` by the program's holdout: the metric alone, and no guard. Its log is not for agents.

        None and errors as for `measure`. Raises `ValueError` where the program has no holdout.
        """
        command = self.welcome.program.eval.holdout
        if command is None:
            raise ValueError("the program has no holdout")
        with self._trial(commit, id, seed, log, signals) as trial:
            return self._measured(trial, command, (), at_home=True)

    # --- Inside ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _trial(self, commit: str, id: str, seed: int, log: Path, signals: Signals) -> Iterator[_Trial]:
        """The place and the words for one measurement; leaving removes all of it but the log."""
        lane = id.rpartition("-")[0]
        own = {
            "AUTORESEARCH_TAG": self.welcome.tag,
            "AUTORESEARCH_LANE": lane,
            "AUTORESEARCH_EXPERIMENT": id,
            "AUTORESEARCH_SEED": str(seed),
            "AUTORESEARCH_BUDGET_SECONDS": f"{self.welcome.program.eval.budget_seconds:g}",
        }
        trial = _Trial(commit, seed, self.folder / lane, log, own, signals)
        try:
            yield trial
        finally:
            for each in (trial.tree, trial.room, trial.folder / "parse"):
                trees.remove(each)
            trial.stdout.unlink(missing_ok=True)

    def _warm(self, trial: _Trial, command: str, also: Sequence[Also]) -> Measurement | None:
        """Measure on this node's caches. A run on cold ones counts only if it leaves nothing in its own."""
        cold = not self._caches.known
        first = self._measured(trial, command, also)
        if not cold or first is None or first.value is None:
            return first
        is_base = trial.commit == self.welcome.base
        if is_base and not self._caches.keep(trial.room / "caches"):
            return first
        if not is_base and not self._caches.known:
            if not any(files for _, _, files in os.walk(trial.room / "caches")):
                return first
            base = self._measured(replace(trial, commit=self.welcome.base), command, ())
            if base is None:
                return None
            if base.failure:
                told = f"the base, run to fill this node's caches, fails here: {base.failure.message}"
                return Measurement(None, Failure(FailureKind.MACHINE, told, base.failure.tail))
            self._caches.keep(trial.room / "caches")
        return self._measured(trial, command, also)

    def _measured(
        self, trial: _Trial, command: str, also: Sequence[Also], *, at_home: bool = False
    ) -> Measurement | None:
        """Run the command on the commit, in a clean tree, and read its numbers."""
        program, signals = self.welcome.program, trial.signals
        strayed = self.store.inside(self.welcome.base, trial.commit, program.scope, self.welcome.prefix)
        if strayed:
            return Measurement(None, strayed)
        self._checkout(trial.tree, trial.commit)
        argv, environ = self._inside(command, trial.tree, trial.own, at_home=at_home)
        with self.slot.lock:
            if signals.drain.is_set():
                return None
            with self.monitor.watch() as watch:
                ended = process.run(
                    argv,
                    cwd=trial.tree / self.welcome.prefix,
                    environ=environ,
                    log=trial.log,
                    stdout=trial.stdout if program.eval.parse.kind is ParseKind.STDOUT else None,
                    timeout_seconds=program.eval.kill_after_seconds,
                    cancel=signals.halt,
                    started=watch.follow,
                    walled=self.walls is not None,
                )
        if ended.why == "cancelled":
            return None
        resources = _with_peak(watch.resources, ended)
        read = self._read(trial, ended, watch.lost, resources, [each.name for each in also])
        if signals.halt.is_set():
            return None
        return replace(
            Measurement(None, read) if isinstance(read, Failure) else read,
            seed=trial.seed,
            exit_code=ended.code,
            wall_seconds=ended.wall_seconds,
            cpu_seconds=ended.cpu_seconds,
            resources=resources,
        )

    def _checkout(self, tree: Path, commit: str) -> None:
        self.store.checkout(tree, commit)
        here = tree / self.welcome.prefix
        done = self.shared / "done"
        if done.exists():
            for name in filter(None, done.read_text().split("\n")):
                link(here / name, self._made / name)
        for name, source in self._kept().items():
            if not name.startswith(("/", "~")):
                link(here / name, source)

    @property
    def _made(self) -> Path:
        """Where Setup has run."""
        return self.shared / "tree" / self.welcome.prefix

    @property
    def _caches(self) -> Caches:
        return Caches(self.shared.parent / "caches")

    def _kept(self) -> Mapping[str, Path]:
        beside = [self._made, *([Path(self.welcome.folder).parents[1]] if self.welcome.folder else [])]
        return kept(self.welcome.program.eval.keep, home(self.environ), beside)

    def _environ(self, own: Mapping[str, str]) -> dict[str, str]:
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
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self.slot.cores),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(self.slot.gpus),
            "AUTORESEARCH_OWNER": self.environ.get("AUTORESEARCH_OWNER", ""),
            **own,
        }

    def _inside(
        self, command: str, tree: Path, own: Mapping[str, str], *, at_home: bool = False
    ) -> tuple[str | Sequence[str], dict[str, str]]:
        """What to start, and its environment, for a command that runs a candidate's code in `tree`.

        It gets a room of its own beside the tree and, where there are walls, sees nothing of what others have. With
        `at_home` the user's home is there to read: a holdout is to lie where other evaluations do not find it.
        """
        options, room, house = self.welcome.program.options, tree.parent / "private", home(self.environ)
        environ = self._environ(own)
        shown = [self._made, *self._kept().values(), *tools(environ, house)]
        ours = furnish(room, house, shown, self._caches)
        environ |= {name: value for name, value in ours.items() if name not in options.env}
        if at_home:
            environ["HOME"] = str(house)
            shown.append(house)
        if self.walls is None:
            return command, environ
        if not options.network:  # what a user set for the network of the machine does not hold for a loopback
            environ |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), "lo")
        walls = replace(
            self.walls,
            read=within(shown, self.walls.hidden),
            write=(tree.resolve(), room.resolve()),
            temporary=room / "var",
            network=options.network,
        )
        return walls.argv(command, tree.resolve() / self.welcome.prefix), environ

    def _plainly(
        self,
        command: str,
        tree: Path,
        log: Path,
        own: Mapping[str, str],
        seconds: float,
        halt: threading.Event,
        stdout: Path | None = None,
    ) -> process.Exit:
        """Run a command of the program's author on files of the base: in the user's own home, without walls."""
        temporary = tree.parent / f"{tree.name}.tmp"
        trees.empty(temporary)
        return process.run(
            command,
            cwd=tree / self.welcome.prefix,
            environ={**self._environ(own), "TMPDIR": str(temporary)},
            log=log,
            stdout=stdout,
            timeout_seconds=seconds,
            cancel=halt,
        )

    def _guarded(
        self, command: str, tree: Path, log: Path, own: Mapping[str, str], seconds: float, halt: threading.Event
    ) -> process.Exit:
        argv, environ = self._inside(command, tree, own)
        return process.run(
            argv,
            cwd=tree / self.welcome.prefix,
            environ=environ,
            log=log,
            timeout_seconds=seconds,
            cancel=halt,
            walled=self.walls is not None,
        )

    def _read(
        self, trial: _Trial, ended: process.Exit, lost: str, resources: Resources, also: Sequence[str]
    ) -> Measurement | Failure:
        """The metric and the numbers named in `also`, or why they are not there."""
        if ended.why == "lost":
            return Failure(FailureKind.MACHINE, "the process that watched the evaluation was killed")
        if lost or ended.log_error:
            return Failure(FailureKind.MACHINE, lost or f"the log could not be written: {ended.log_error}")
        if ended.survivors:
            return Failure(FailureKind.MACHINE, f"{ended.survivors} processes could not be killed")
        try:
            tail = process.tail(trial.log)
        except OSError as error:
            return Failure(FailureKind.CRASH, f"the log that the runner wrote is gone: {error.strerror}")
        evaluation = self.welcome.program.eval
        if ended.why == "timeout":
            return Failure(FailureKind.TIMEOUT, f"killed after {evaluation.kill_after_seconds:g} seconds", tail)
        if ended.code != 0:
            return crash(ended, trial.log, tail)
        metric, parse = evaluation.metric.name, evaluation.parse
        found = named(trial.log, [metric, *(name for name in also if name != MEMORY)])
        if parse.kind is ParseKind.REGEX:
            found[metric] = matched(trial.log, parse.text)
        texts = {name: each.text for name, each in found.items()}
        if parse.kind is ParseKind.STDOUT:
            texts[metric] = process.tail(trial.stdout, lines=1)
        elif parse.kind is ParseKind.COMMAND:
            parsed = self._parsed(trial, parse.text)
            if isinstance(parsed, Failure):
                return parsed
            texts[metric] = parsed
        values: dict[str, float] = {}
        for name, text in texts.items():
            value = number(text, name)
            if value is None:
                said = f"found {text.strip()[:80]!r}" if text.strip() else "found nothing"
                return Failure(FailureKind.NO_METRIC, f"no number for {name!r} in the log: {said}", tail)
            if not math.isfinite(value):
                return Failure(FailureKind.NOT_FINITE, f"{name} is {value}", tail)
            values[name] = value
        value = values.pop(metric)
        if MEMORY in also and resources.memory_gb is not None:
            values[MEMORY] = resources.memory_gb
        return Measurement(value, also=values, printed=max(1, found[metric].lines))

    def _parsed(self, trial: _Trial, command: str) -> str | Failure:
        """The last line that the parse command prints. What it says on standard error is no number."""
        tree, output, errors = (trial.folder / "parse" / name for name in ("tree", "out", "log"))
        self.store.checkout(tree, self.welcome.base)
        link = tree / self.welcome.prefix / "run.log"
        link.unlink(missing_ok=True)
        link.symlink_to(trial.log)
        seconds = self.welcome.program.eval.kill_after_seconds
        ended = self._plainly(command, tree, errors, trial.own, seconds, trial.signals.halt, output)
        text, said = process.tail(output, lines=1), process.tail(errors)
        if ended.why == "timeout":
            return Failure(FailureKind.NO_METRIC, f"the parse command `{command}` did not end")
        if ended.code and not text.strip() and said.strip():
            return Failure(FailureKind.NO_METRIC, f"the parse command `{command}` failed", said)
        return text

    def _guard(self, trial: _Trial) -> Failure | None:
        """Run the guard where the evaluation ran, on files that are once more what they were."""
        command, seconds = self.welcome.program.eval.guard, self.welcome.program.eval.kill_after_seconds
        if not command:
            return None
        try:
            self.store.restore(trial.tree, trial.commit)
        except RepoError as error:
            return Failure(FailureKind.CRASH, f"the evaluation left no tree for the guard: {error.message}")
        output = trial.log.with_suffix(".guard.log")
        with self.slot.lock:
            ended = self._guarded(command, trial.tree, output, trial.own, seconds, trial.signals.halt)
        tail = process.tail(output)
        output.unlink(missing_ok=True)
        if ended.why == "exit" and ended.code == 0:
            return None
        how = "did not end" if ended.why == "timeout" else f"ended with {ended.code}"
        return Failure(FailureKind.GUARD, f"better, but the guard `{command}` {how}", tail)


def _with_peak(resources: Resources, ended: process.Exit) -> Resources:
    """On a CPU, the kernel's own peak counts too: a monitor that samples misses what is short."""
    if resources.device != "cpu":
        return resources
    return replace(resources, peak_mb=max(resources.peak_mb or 0.0, ended.peak_mb))


def _entries(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())
