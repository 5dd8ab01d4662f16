"""The driver: one run, from a program to a published branch, as a context manager that can be iterated.

The driver holds no state of its own: it follows the ledger like any other reader. What it adds is the crew, the stop
file, and the branches it fetches into the user's repository.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path

from autoresearch_ray import board as boards
from autoresearch_ray import fleet, ledger, model, money, process, report, results, seating, sections
from autoresearch_ray import picture as pictures
from autoresearch_ray import program as reader
from autoresearch_ray.errors import AgentError, AutoresearchError, ClusterError, LedgerError, RepoError, SetupError
from autoresearch_ray.events import Judged, Published, Retired, Seated
from autoresearch_ray.listening import Listening
from autoresearch_ray.mirror import Mirror, Mirroring
from autoresearch_ray.model import Experiment, Options, Status
from autoresearch_ray.ports import Crew, named
from autoresearch_ray.remote import Remote
from autoresearch_ray.repo import Hub, Origin
from autoresearch_ray.restore import restore
from autoresearch_ray.room import allowed
from autoresearch_ray.run_folder import begin, locked, replayed, sign, take_up, unfinished
from autoresearch_ray.sandbox import sandbox
from autoresearch_ray.team import LocalCrew

_TAG = re.compile(r"(?!.*(?:\.\.|\.lock$|\.$))[A-Za-z0-9_][A-Za-z0-9._-]*")
_TICK_SECONDS = 0.2
ROOM_BYTES = 64 << 20  # sixty of the longest logs that come with a hand-in
_JOIN_SECONDS = 30.0  # nodes were seen to join 6 to 20 s after `ray up`
_LAST_COPY_SECONDS = 120.0  # for the mirror, on the way out


class Program(model.Program):
    """program.md, as `research` takes it."""

    __slots__ = ()

    @classmethod
    def read(cls, path: str | Path) -> Program:
        """Read program.md, or the one in a folder. Raises `ProgramError` with the line and an example."""
        path = Path(path)
        read = replace(reader.read(path), path=str((path / "program.md" if path.is_dir() else path).resolve()))
        return cls(**{each.name: getattr(read, each.name) for each in fields(model.Program)})


def research(program: model.Program | str | Path, **options: object) -> Session:
    """A run of `program`, to be entered with `with`. `options` are the words of its front matter, and beat it."""
    if not isinstance(program, model.Program):
        program = Program.read(program)
    plain = model.Program(**{each.name: getattr(program, each.name) for each in fields(model.Program)})
    return Session(replace(plain, options=reader.options(plain.options, options)))


def resume(source: str, folder: str | Path = ".", **options: object) -> Session:
    """The run that the mirror `source` holds, brought back and then taken up, to be entered with `with`.

    `folder` is anywhere in a clone of the repository that the run was begun in, or empty: then it becomes one. The run
    goes on with the program and the options that it had, `options` over them, and with `source` as its mirror. Raises
    `SetupError` if the mirror cannot be reached or holds several runs and none is named by `tag`.
    """
    folder = Path(folder).absolute()
    given = reader.options(Options(), {**options, "mirror": source})
    remote = Remote.find(source, folder, os.environ)
    run = restore(remote, folder, given.tag)
    program = replayed(run / "ledger.jsonl").program
    had, place = program.options, run.parent.parent
    if had.address not in (None, "auto") and not (given.address or os.environ.get("RAY_ADDRESS")):
        raise SetupError(f"the run was on the cluster at {had.address}", "say which one it is to go on with: --address")
    address = had.address if had.address == "auto" else None
    had = replace(had, tag=run.name, address=address, mirror=str(remote.path or source))
    return Session(replace(program, path=str(place / "program.md"), options=reader.options(had, options)))


class Session:
    """One run. Entering it checks everything, then starts; leaving it stops cleanly. Iterating yields verdicts."""

    def __init__(self, program: model.Program, environ: Mapping[str, str] | None = None) -> None:
        self._environ = dict(os.environ if environ is None else environ)
        options = program.options
        if options.backend == "ray" and options.address is None:
            options = replace(options, address=self._environ.get("RAY_ADDRESS") or None)
        self.program = replace(program, options=options)
        runs = (Path(program.path).parent if program.path else Path.cwd()) / ".autoresearch"
        self.tag = options.tag or unfinished(runs, program) or time.strftime("%b%d").lower()
        self.folder = runs / self.tag
        self.resumed = False
        self.as_job: bool | None = None  # go on as a Ray job; None: where an ssh terminal would take the run with it
        self.sandbox = ""  # of evaluations and agents on this machine, in words
        self.warnings: list[str] = []  # what went wrong on the way and did not stop the run
        self.unpublished: list[str] = []  # branches that could not be updated because somebody has them checked out
        self._hurry = False  # somebody interrupted the way out
        self._fresh: list[Experiment] = []
        self._mirroring: Mirroring | None = None

    # --- Entering and leaving ----------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        """Raises the error of whatever must be fixed first; until all is checked, nothing is written.

        A script on an ssh terminal of a cluster, as under `ray submit`, would die with its connection. There the same
        command goes on as a Ray job; this process follows its log and ends in `SystemExit` with its status.
        """
        self.check()
        self._hand_over()
        with ExitStack() as held:
            start = self._crew_to_be(held)
            held.enter_context(locked(self.folder))
            self._open()
            self.board = boards.replay(self._tail.read())
            self._crew: Crew = start()
            page = Path(self.program.path) if self.program.path else None
            self._listening = Listening(self.folder, page)
            self._held = held.pop_all()
        if self._mirroring:
            self._mirroring.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Finish what is being measured, or after a second interrupt nothing; then publish and report.

        Each step is taken whatever became of the one before: threads and actors must end on a full disk, too.
        """
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "the session was left"
        failures: list[Exception] = []
        stop, finish = lambda: self._stop_if_alive(reason), self._crew.finish
        with self._held:
            for step in (stop, self.wait, finish, self._look_again, self._write_up, self._publish, self._copy):
                try:
                    self._outlast_interrupts(step)
                except (AutoresearchError, OSError) as failure:
                    failures.append(failure)
        self._warn(*self._crew.warnings)
        if error is None and failures:
            raise failures[0]
        closed = self.board.closed
        if error is None and closed and closed.failed:
            hint = f"the logs are in {self.folder / 'logs'}; mend it, then run the same again"
            if self.board.baseline is None:
                walls = any(lane.seat.sandbox == "bwrap" for lane in self.board.lanes.values())
                hint += "; an evaluation sees nothing of your home but what `Keep:` names" + (
                    ", and in its sandbox no network without --network" if walls else ""
                )
            raise SetupError(closed.reason, hint)

    def __iter__(self) -> Iterator[Experiment]:
        """Every experiment as its verdict lands, the baseline first; ends when the run does."""
        alive = True
        while alive:
            alive = self.advance()
            fresh, self._fresh = self._fresh, []
            yield from fresh

    # --- While it runs -----------------------------------------------------------------------------------------------

    @property
    def best(self) -> Experiment | None:
        """The best that was confirmed, or the baseline."""
        return self.board.best

    def advance(self) -> bool:
        """Wait a moment and take in what came; True while the run goes on. For those who draw `board` as it changes."""
        alive = self._crew.wait(_TICK_SECONDS)
        self._heed_stop_file()
        if alive:
            self._warn(*self._listening.heed(self._crew))
        self._take_in()
        self._warn(*self._crew.warnings)
        if shutil.disk_usage(self.folder).free < ROOM_BYTES:
            self._warn(f"the disk of {self.folder} is almost full: while nothing can be written, lanes wait")
        return alive

    def stop(self, reason: str = "stopped", *, now: bool = False) -> None:
        """No new proposals; measurements that run are finished, or with `now` ended. The run can be taken up again."""
        try:
            self._crew.close(reason, hard=True)
        finally:
            if now:
                self._crew.halt()
            else:
                self._crew.drain()

    def wait(self) -> None:
        """Until the run has ended."""
        for _ in self:
            pass

    def report(self, path: str | Path) -> None:
        """Write the report as Markdown, with its picture beside it if matplotlib is installed."""
        path = Path(path)
        picture = path.with_name("progress.png")
        try:
            pictures.picture(self.board, picture)
        except SetupError:
            picture.unlink(missing_ok=True)
        best, base = self.best, self.board.opened.base
        diff = Hub.open(self.folder / "hub.git").diff(base, best.commit) if best and best.commit else ""
        path.write_text(report.markdown(self.board, diff, picture.name if picture.exists() else None))

    # --- Checking, with nothing written ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises the error of whatever must be fixed before this can run; the workers' seats are not looked at."""
        options, scope = self.program.options, self.program.scope
        if not _TAG.fullmatch(self.tag):
            raise SetupError(
                f"git refuses a branch of the tag {self.tag!r}", "letters, digits, '.', '_' and '-': nov20"
            )
        self._origin = Origin.find(self.folder.parent.parent)
        if not any(scope.allows(each) for each in self._origin.files(self._origin.head)):
            raise SetupError(
                f"the scope ({', '.join(scope.can)}) matches no file of the commit {self._origin.head[:7]}",
                "paths in Scope are relative to the folder of program.md, and the files must be committed",
            )
        self._check_holdout()
        begun = (self.folder / "ledger.jsonl").exists()  # then it stands on its own base, whatever is here now
        dirty = [] if options.allow_dirty or begun else self._origin.dirty(scope)
        if dirty:
            raise RepoError(
                f"uncommitted changes in scope: {', '.join(dirty[:5])}{' ...' if len(dirty) > 5 else ''}",
                "commit or stash them, or start from HEAD without them: --allow-dirty",
            )
        named("policies", options.policy)
        if options.monitor != "auto":
            named("monitors", options.monitor)
        self._check_agents()
        if options.address is None:
            self.sandbox = sandbox(options.sandbox, self._environ, self._origin.top)[1]
        if not begun and self._origin.has_branches(self.tag):
            raise SetupError(
                f"the branches autoresearch/{self.tag}* exist, but their run in {self.folder} does not",
                "choose another --tag, or delete those branches",
            )
        if self.folder.exists():
            locked(self.folder).close()
        if options.mirror:
            remote = Remote.find(options.mirror, self.folder.parent.parent, self._environ)
            mirror = Mirror(remote, self.folder, self.tag)
            self._mirroring = Mirroring(mirror, self.folder, 60 * options.mirror_minutes, self.warnings)
            self._mirroring.check()

    def _check_agents(self) -> None:
        """Each of them, here if it works here. A run that ends by its dollars alone must know all of them."""
        options = self.program.options
        for name, own in fleet.members(options).items():
            agent = named("agents", own.agent)
            if options.address is None:
                agent.check(own, {**allowed(self._environ, options.env), **self._secrets()})
            bounded = options.cost_usd is None or options.hours is not None or options.experiments is not None
            if not bounded and not money.is_known(agent, own):
                tokens = money.reports(agent) != "nothing"
                model = own.model or own.agent
                example = f"prices: {{{model}: {{input: 3, output: 15}}}} in USD per million tokens, or " * tokens
                raise SetupError(
                    f"what the agent {name} costs is not known, so {options.cost_usd:g} dollars are no limit of it",
                    f"{example}another limit beside it: --hours or --experiments",
                )

    def _check_holdout(self) -> None:
        """Agents and evaluations are given every committed file: a holdout among them is none."""
        evaluation, scope = self.program.eval, self.program.scope
        if not evaluation.holdout:
            return
        files = set(self._origin.files(self._origin.head))
        page = Path(self.program.path).name if self.program.path else ""
        if page in files:
            raise SetupError(
                f"{page} has a Holdout and is committed, where agents can read it",
                f"git rm --cached {page}, and name it in .gitignore: the run reads it from here",
            )
        shown = {each for each in files if scope.allows(each) or sections.visible(evaluation.command, [each], "")}
        if seen := sections.visible(evaluation.holdout, files - shown, ""):
            raise SetupError(
                f"the holdout needs {seen}, which is committed, where agents can read it",
                "keep what only the holdout needs outside of the repository, and name it by its full path",
            )

    def _secrets(self) -> dict[str, str]:
        options = self.program.options
        missing = [each for each in options.secrets if each not in self._environ]
        if missing and options.address is None:
            raise AgentError(
                f"the secret {missing[0]} is not set", f"export {missing[0]}=..., or take it out of secrets"
            )
        return {each: self._environ[each] for each in options.secrets if each in self._environ}

    def _hand_over(self) -> None:
        """To a Ray job, where one was asked for, or where it is needed and can be had."""
        address = self.program.options.address
        if address is None:
            if self.as_job:
                raise SetupError("there is no cluster to run a job on", "--address, or export RAY_ADDRESS=<head>:6379")
            return
        from autoresearch_ray import actors  # imports Ray, which takes half a second

        wanted = actors.on_ssh_terminal(self._environ) if self.as_job is None else self.as_job
        if not wanted or actors.in_job(self._environ):
            return
        seconds = 2 * self.program.eval.kill_after_seconds + 60  # an evaluation, its guard, and the report
        try:
            status = actors.as_job(address, self.folder, seconds)
        except ClusterError as error:
            if self.as_job:
                raise
            sys.stderr.write(f"this run will end with its terminal: {error.message}\n")
            return
        raise SystemExit(status)

    def _crew_to_be(self, held: ExitStack) -> Callable[[], Crew]:
        """What starts the crew, once it is known that it can be seated; `held` lets go of Ray again."""
        options = self.program.options
        if options.backend == "local":
            slots = _local_slots(options, self._environ)
            return lambda: LocalCrew(self.folder, slots, self._environ)
        if options.address is None and "ray" not in sys.modules:
            # The raylet hands its log on to all that it starts, and names the folder of it after this process.
            leash = held.enter_context(process.leash(f"*/session_*_{os.getpid()}/logs/raylet.out"))
            os.environ.update(single_box(os.environ) | leash)
        from autoresearch_ray import actors  # imports Ray, which takes half a second

        cluster = actors.Cluster(options.address)
        held.callback(cluster.leave)
        if options.address and options.gpus_per_worker and options.workers != "auto":
            cluster.wait_for_room(options.workers, options.gpus_per_worker, _JOIN_SECONDS)
        workers = _seated(sum(cluster.rooms(options.gpus_per_worker).values()), options)
        values = {**self._secrets(), **{each: self._environ[each] for each in options.env if each in self._environ}}
        return lambda: actors.RayCrew(cluster, self.folder, options, workers, values)

    def _open(self) -> None:
        """Open a new run, or take up the one that is there."""
        path, version = self.folder / "ledger.jsonl", metadata.version("autoresearch-ray")
        if path.exists():
            opened = take_up(self.folder, self.program, time.time(), version)
            self.resumed = True
            if self._origin.head != opened.base:
                self.warnings.append(f"the run goes on from {opened.base[:7]}, where it began; HEAD has moved since")
        else:
            begin(self.folder, self.tag, self._origin, self.program, time.time(), version)
        sign(self.folder)
        self._tail = ledger.Tail(path)

    # --- Following ---------------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        for events in self._tail.read():
            had_baseline = self.board.baseline is not None
            for event in events:
                self.board.apply(event)
            if self.board.baseline and not had_baseline:
                self._fresh.append(self.board.baseline)
            for event in events:
                if isinstance(event, Seated) and event.seat.sandbox.startswith("none: "):
                    self._warn(f"no sandbox on {event.seat.host}: {event.seat.sandbox.removeprefix('none: ')}")
                if isinstance(event, Judged):
                    self._fresh += filter(None, [self.board.find(event.id)])
                elif isinstance(event, Published):
                    self._publish_meanwhile()
                elif isinstance(event, Retired):
                    self._warn(f"a slot was retired: {results.whose(self.board, event)}")
            if self._mirroring and any(isinstance(each, Judged) and each.status is Status.KEEP for each in events):
                self._mirroring.soon()

    def _warn(self, *warnings: str) -> None:
        """Each once."""
        self.warnings += [each for each in warnings if each not in self.warnings]

    def _heed_stop_file(self) -> None:
        path = self.folder / "stop"
        if path.is_file():
            wish = path.read_bytes().strip()
            path.unlink()
            self.stop("asked to stop", now=wish == b"now")

    def _publish_meanwhile(self) -> None:
        """The night goes on when the user's repository cannot be written; the way out tries again, and then says so."""
        try:
            self._publish()
        except RepoError as error:
            self._warn(error.message)

    def _publish(self) -> None:
        self.unpublished = self._origin.publish(self.folder / "hub.git", self.tag)

    def _copy(self) -> None:
        if self._mirroring:
            self._mirroring.finish(0.0 if self._hurry else _LAST_COPY_SECONDS)

    def _stop_if_alive(self, reason: str) -> None:
        if self._crew.wait(0):
            self.stop(reason)

    def _outlast_interrupts(self, step: Callable[[], None]) -> None:
        """Take a step of the way out. An interrupt during it ends the measurements; the step is then taken again."""
        while True:
            try:
                if self._hurry:
                    self._crew.halt()
                step()
                return
            except KeyboardInterrupt:
                self._hurry = True

    def _look_again(self) -> None:
        """The board afresh from the ledger: an interrupt may have come between a line and its events."""
        self.board = replayed(self.folder / "ledger.jsonl")

    def _write_up(self) -> None:
        """The files that are derived from the ledger."""
        try:
            (self.folder / "results.tsv").write_text(results.tsv(self.board))
            (self.folder / "results.jsonl").write_text(results.jsonl(self.board))
            self.report(self.folder / "report.md")
        except OSError as error:
            raise LedgerError(f"cannot write in {self.folder}: {error.strerror}", "make room on the disk") from error


def single_box(environ: Mapping[str, str]) -> dict[str, str]:
    """Ray's settings for one machine: loopback alone, a token of its own, nothing sent home, no niceness.

    Ray reads them once, when it is imported. A program that imported it before keeps its own settings.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the one switch that makes every port bind 127.0.0.1
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_worker_oom_score_adjustment": "0",
    }


def _seated(room: int, options: Options) -> int:
    """The number of workers. Raises `ClusterError` that says how many there is room for."""
    each = f"{options.gpus_per_worker:g} GPU{'' if options.gpus_per_worker == 1 else 's'} each"
    if options.workers == "auto":
        if room == 0:
            raise ClusterError(f"there is no GPU for a worker ({each})", "--gpus-per-worker 0 runs workers on the CPU")
        return room
    if options.gpus_per_worker and options.workers > room:
        raise ClusterError(
            f"{options.workers} workers with {each} cannot be seated: there is room for {room}",
            f"--workers {room}" if room else "--gpus-per-worker 0 runs workers on the CPU",
        )
    return options.workers


def _local_slots(options: Options, environ: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The GPU ids of each worker of this machine, whole GPUs in their order; a share repeats its GPU.

    `CUDA_VISIBLE_DEVICES` limits them, as it does for Ray.
    """
    if not options.gpus_per_worker:
        return [()] * (1 if options.workers == "auto" else options.workers)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named("monitors", "nvml").ids() if visible is None else tuple(filter(None, visible.split(",")))
    workers = _seated(seating.room(len(gpus), options.gpus_per_worker), options)
    return seating.share(gpus, options.gpus_per_worker, workers)
