"""Measures a commit: a clean tree, the program's command under the guardian, and numbers from the runner's own log.

The clock, the memory and the exit are the runner's readings. The metric is read from a log that the runner wrote, by a
parse command that runs on the base commit's files, so nothing that a candidate leaves behind is run or read here.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.checkup import Checkup
from autoresearch_ray.errors import RepoError, SetupError
from autoresearch_ray.model import MEMORY, Also, Failure, FailureKind, Measurement, ParseKind, Resources, Use
from autoresearch_ray.ports import Monitor, Signals, Watch, Welcome
from autoresearch_ray.reading import crash, matched, named, number
from autoresearch_ray.room import Inside, Rooms
from autoresearch_ray.sandbox import Sandbox
from autoresearch_ray.slot import Slot as Slot
from autoresearch_ray.store import Store

_LARGEST = 1e100  # of a number that is compared: its square, and sums of such, are finite


class _DrainedError(Exception):
    """A drain came while a candidate waited for the slot."""


class _UnfitError(Exception):
    """The slot's device cannot measure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


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
    def lane(self) -> str:
        return self.folder.name

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
    checkup: Checkup = field(default_factory=Checkup)
    walls: Sandbox | None = None

    def set_up(self, signals: Signals) -> None:
        """Run the program's Setup once per node; what it makes beside the tracked files is linked into every tree.

        Then the guard, on the base: one that fails there would refuse every gain of the night. Raises `SetupError` with
        the end of the log, or where something is not there that is to be kept. Nothing is done after a drain, which
        a failure is for the other workers of the process: each would try the same once more.
        """
        self._set_up(signals)
        self._rooms.check(self.store.entries(self.welcome.base))

    def _set_up(self, signals: Signals) -> None:
        wanted = {"setup": self.welcome.program.eval.setup, "guard": self.welcome.program.eval.guard}
        if not any(wanted.values()):
            return
        self.shared.mkdir(parents=True, exist_ok=True)
        tree, log, done = self.shared / "tree", self.shared / "setup.log", self.shared / "done"
        with (self.shared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if done.exists() or signals.drain.is_set():
                return
            self.store.checkout(tree, self.welcome.base)
            tracked = set(_entries(tree / self.welcome.prefix))
            made: list[str] = []
            for what, command in wanted.items():
                if not command:
                    continue
                # The author's own command gets the user's home and the network; the guard what it will have later.
                make = self._rooms.plain if what == "setup" else self._rooms.enter
                inside = make(command, tree, {})
                ended = self._run(replace(inside, seconds=max(3600.0, inside.seconds)), log, signals.halt)
                if ended.why == "cancelled":
                    return
                if ended.code != 0:
                    signals.drain.set()
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
        cold = not self._rooms.caches.known
        first = self._measured(trial, command, also)
        if not cold or first is None or first.value is None:
            return first
        used = any(files for _, _, files in os.walk(trial.room / "caches"))
        if trial.commit == self.welcome.base:
            self._rooms.caches.keep(trial.room / "caches")
        if not used:
            return first
        if not self._rooms.caches.known:
            base = self._measured(replace(trial, commit=self.welcome.base), command, ())
            if base is None:
                return None
            if base.failure:
                told = f"the base, run to fill this node's caches, fails here: {base.failure.message}"
                return Measurement(None, replace(base.failure, kind=FailureKind.MACHINE, message=told))
            self._rooms.caches.keep(trial.room / "caches")
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
        inside = self._rooms.enter(command, trial.tree, trial.own, at_home=at_home)
        stdout = trial.stdout if program.eval.parse.kind is ParseKind.STDOUT else None
        watch, found = self.monitor.watch(), list[Failure]()
        try:
            turn = self._turn(trial, watch, found)
            ended = self._run(inside, trial.log, signals.halt, stdout, watch.follow, turn)
        except _DrainedError:
            return None
        except _UnfitError as error:
            return Measurement(None, error.failure)
        if ended.why == "cancelled":
            return None
        resources = _with_peak(watch.resources, ended)
        with self.slot.clock.doing(Use.PARSE):
            read = found[0] if found else self._read(trial, ended, watch.lost, resources, [each.name for each in also])
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

    @contextmanager
    def _turn(self, trial: _Trial, watch: Watch, found: list[Failure]) -> Iterator[None]:
        """The slot, once all that can be done ahead is done. What has made its device sick meanwhile goes to `found`.

        Raises `_DrainedError` if the slot comes too late, and `_UnfitError` if its device cannot measure.
        """
        drain = trial.signals.drain
        with self.slot.taken(trial.lane):
            unfit = None if drain.is_set() else self.checkup.before(self.monitor, drain)
            if drain.is_set():
                raise _DrainedError
            if unfit:
                raise _UnfitError(unfit)
            with self.slot.clock.measuring(), watch:
                yield
            found += filter(None, [self.checkup.after(self.monitor)])

    def _checkout(self, tree: Path, commit: str) -> None:
        self.store.checkout(tree, commit)
        self._rooms.link(tree)

    @property
    def _rooms(self) -> Rooms:
        return Rooms(self.welcome, self.shared, self.slot.gpus, self.slot.cores, self.environ, self.walls)

    def _run(
        self,
        inside: Inside,
        log: Path,
        halt: threading.Event,
        stdout: Path | None = None,
        started: Callable[[int], None] | None = None,
        turn: AbstractContextManager[object] | None = None,
    ) -> process.Exit:
        program = self.welcome.program
        return process.run(
            inside.argv,
            cwd=inside.cwd,
            environ=inside.environ,
            log=log,
            stdout=stdout,
            timeout_seconds=inside.seconds,
            cancel=halt,
            started=started,
            turn=turn,
            walled=inside.walled,
            folders=inside.write,
            folders_bytes=int(program.options.disk_gb * (1 << 30)) if inside.write else 0,
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
        if ended.why == "full":
            return Failure(FailureKind.CRASH, f"more than {self.welcome.program.options.disk_gb:g} GB written", tail)
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
            if not abs(value) <= _LARGEST:  # nor if it is no number at all
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
        ended = self._run(self._rooms.plain(command, tree, trial.own), errors, trial.signals.halt, output)
        text, said = process.tail(output, lines=1), process.tail(errors)
        if ended.why == "timeout":
            return Failure(FailureKind.NO_METRIC, f"the parse command `{command}` did not end")
        if ended.code and not text.strip() and said.strip():
            return Failure(FailureKind.NO_METRIC, f"the parse command `{command}` failed", said)
        return text

    def _guard(self, trial: _Trial) -> Failure | None:
        """Run the guard where the evaluation ran, on files that are once more what they were."""
        command = self.welcome.program.eval.guard
        if not command:
            return None
        try:
            self.store.restore(trial.tree, trial.commit)
        except RepoError as error:
            return Failure(FailureKind.CRASH, f"the evaluation left no tree for the guard: {error.message}")
        output = trial.log.with_suffix(".guard.log")
        inside = self._rooms.enter(command, trial.tree, trial.own)
        with self.slot.taken(trial.lane), self.slot.clock.doing(Use.GUARD):
            ended = self._run(inside, output, trial.signals.halt)
        tail = process.tail(output)
        output.unlink(missing_ok=True)
        if ended.why == "exit" and ended.code == 0:
            return None
        how = {"timeout": "did not end", "full": "filled the disk"}.get(ended.why, f"ended with {ended.code}")
        return Failure(FailureKind.GUARD, f"better, but the guard `{command}` {how}", tail)


def _with_peak(resources: Resources, ended: process.Exit) -> Resources:
    """On a CPU, the kernel's own peak counts too: a monitor that samples misses what is short."""
    if resources.device != "cpu":
        return resources
    return replace(resources, peak_mb=max(resources.peak_mb or 0.0, ended.peak_mb))


def _entries(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())
