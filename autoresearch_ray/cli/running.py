"""The verbs that start and end a run."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from autoresearch_ray.cli import live
from autoresearch_ray.cli.folder import driver, find
from autoresearch_ray.cli.output import print_json, reading
from autoresearch_ray.errors import SetupError
from autoresearch_ray.results import summary

if TYPE_CHECKING:
    from autoresearch_ray.session import Session


def _words(text: str) -> tuple[str, ...]:
    """The arguments that a shell would take it for. A `ValueError` is a usage error of click's."""
    return tuple(shlex.split(text))


# The words of `model.Options`: a flag that is not given leaves the front matter as it is.
_FLAGS: tuple[tuple[str, str, Any, str], ...] = (
    ("--tag", "TAG", str, "Name of the run and of its branches, autoresearch/TAG-gpu0 and so on; default: the date."),
    (
        "--agent",
        "NAME",
        str,
        "Who proposes: claude, aider, opencode, ..., llm, command, knobs, submitted, none or package.module:Class.",
    ),
    ("--agent-command", "SHELL", str, "The shell command of `--agent command`."),
    ("--agent-minutes", "N", float, "Longest time for one proposal."),
    ("--model", "NAME", str, "The model that the agent is to use."),
    ("--base-url", "URL", str, "An endpoint that speaks as OpenAI's does: vLLM, Ollama, a gateway."),
    ("--temperature", "N", float, "The temperature of the model of `--agent llm`; default: the endpoint's own."),
    (
        "--extra-args",
        "'ARGS'",
        _words,
        "Arguments of the agent's tool, behind its preset's own; quoted as for a shell.",
    ),
    ("--workers", "N", str, "Workers, one per GPU slot; `auto` takes every GPU there is."),
    ("--gpus-per-worker", "N", float, "GPUs of one worker: a share such as 0.5, several, or 0 for the CPU."),
    ("--lanes", "N", str, "Branches that take turns on one worker; `auto` keeps its GPU busy."),
    ("--monitor", "NAME", str, "What reads the device: auto, nvml, cpu or none."),
    (
        "--sandbox",
        "auto|bwrap|none",
        click.Choice(["auto", "bwrap", "none"]),
        "Run evaluations and agents in bubblewrap; `auto` does where it works.",
    ),
    ("--disk-gb", "N", float, "Gigabytes that one evaluation may write."),
    ("--policy", "NAME", str, "What is kept: bayes, confirm or greedy."),
    ("--every", "N", int, "Verdicts of a lane between two moves onto the best."),
    ("--experiments", "N", int, "Stop after so many experiments."),
    ("--evaluations", "N", int, "Evaluate so often at most; what is open at the end is decided within that."),
    ("--hours", "N", float, "Stop after so many hours."),
    ("--cost-usd", "N", float, "Spend no more than so many dollars; what proposals under way may cost is set aside."),
    ("--target", "VALUE", float, "Stop when the best reaches this value of the metric."),
    ("--plateau", "N", int, "Stop after so many experiments without a new best."),
    ("--address", "ADDRESS", str, "A Ray cluster, host:6379 or auto; default: this machine, or $RAY_ADDRESS."),
    ("--backend", "ray|local", click.Choice(["ray", "local"]), "Ray, or threads of this process."),
    ("--mirror", "PLACE", str, "Copy branches, attempts and ledger to this git remote, URL or path while it runs."),
    ("--mirror-minutes", "N", float, "Minutes between two copies; there is one after every keep."),
)


_AS_JOB = "On a cluster: run as a Ray job and follow its log; default: on an ssh terminal, which would end the run."
_AS_JSON = "Print one JSON object per verdict, and no summary."


def _options(function: Any) -> Any:
    function = click.option("--json", "as_json", is_flag=True, help=_AS_JSON)(function)
    function = click.option("--as-job/--foreground", default=None, help=_AS_JOB)(function)
    for name, metavar, kind, text in reversed(_FLAGS):
        function = click.option(name, metavar=metavar, type=kind, help=text)(function)
    return function


@click.command(epilog="Example: autoresearch-ray run program.md --agent claude --hours 8")
@click.argument("program", type=click.Path(path_type=Path), default=Path("program.md"))
@_options
@click.option("--network/--no-network", default=None, help="Leave evaluations in a sandbox the network.")
@click.option("--allow-dirty", is_flag=True, default=None, help="Start from HEAD although files in scope are changed.")
def run(program: Path, as_job: bool | None, as_json: bool, **flags: Any) -> None:
    """Run PROGRAM (default: program.md here). Running a tag again takes the run up where it ended.

    Ctrl-C once finishes what is being measured and stops; twice stops at once. Either way nothing that was measured is
    lost, and the same command goes on.
    """
    from autoresearch_ray.session import research  # git and pydantic: not for --help

    session = research(program, **_given(flags))
    session.as_job = as_job
    _drive(session, as_json)


@click.command(epilog="Example: autoresearch-ray resume --from /mnt/nfs/mirror.git")
@click.option("--from", "source", metavar="MIRROR", required=True, help="The git remote, URL or path of its --mirror.")
@_options
def resume(source: str, as_job: bool | None, as_json: bool, **flags: Any) -> None:
    """Take a run up on another machine, from its mirror: in a clone of its repository, or in an empty folder.

    It goes on with the program and the options it had; flags beat them. --tag says which, where the mirror holds
    several runs. On the machine where the run was, `run` takes it up.
    """
    from autoresearch_ray.session import resume  # git and pydantic: not for --help

    session = resume(source, **_given(flags))
    session.as_job = as_job
    _drive(session, as_json)


def _drive(session: Session, as_json: bool) -> None:
    """Run it to its end, showing what comes, and say what was found: also of a run that ends in an error."""
    told = 0

    def sum_up() -> None:
        board, folder = session.board, session.folder
        if not as_json:
            click.echo(summary(board))
        if board.closed and not board.closed.failed:
            click.echo(f"ended: {board.closed.reason}", err=True)
        if board.best and board.best.number:
            click.echo(f"merge it with: git merge autoresearch/{session.tag}", err=True)
        for branch in session.unpublished:
            click.echo(f"{branch} is checked out, or holds commits of yours: it was left as it is", err=True)
        _warn(session, told)
        click.echo(f"report: {folder / 'report.md'}", err=True)

    with ExitStack() as last, session, live.view(as_json=as_json) as view:
        last.callback(sum_up)
        again = "goes on" if session.resumed else "begins"
        click.echo(f"run {session.tag} {again}; `autoresearch-ray status` from anywhere shows how it stands", err=True)
        if session.sandbox:
            click.echo(f"sandbox: {session.sandbox}", err=True)
        told = _warn(session, 0)
        interrupts = _Interrupts()
        try:
            view.show(session.board)
            while session.advance():
                interrupts.pass_on(session)
                view.show(session.board)
                told = _warn(session, told)
            view.show(session.board)
        finally:
            interrupts.let_go()
    if interrupts.count:
        raise KeyboardInterrupt


def _warn(session: Session, told: int) -> int:
    """Say the warnings that came after the first `told`; returns how many there are now."""
    for warning in session.warnings[told:]:
        click.echo(f"warning: {warning}", err=True)
    return len(session.warnings)


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in flags.items() if value is not None}


def _number(value: Any) -> Any:
    """`auto` or a count, as the front matter would have it."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class _Interrupts:
    """Ctrl-C, a closed terminal and `kill`: counted in the handler, and heeded where it is safe to."""

    def __init__(self) -> None:
        self.count = self._heeded = 0
        self._before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for each, handler in self._before.items():
            if handler is not signal.SIG_IGN:  # as under nohup
                signal.signal(each, self._count)

    def let_go(self) -> None:
        """On the way out the session heeds them by itself."""
        for each, handler in self._before.items():
            if handler is not None:  # None is a handler that was not installed by Python
                signal.signal(each, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def pass_on(self, session: Session) -> None:
        """The first one drains the run, any other ends it now."""
        if self.count > self._heeded:
            self._heeded = self.count
            session.stop("interrupted", now=self.count > 1)
            if self.count == 1:
                click.echo("finishing what is being measured; Ctrl-C once more ends that too", err=True)


@click.command(epilog="Example: autoresearch-ray stop --tag nov20")
@click.option("--now", is_flag=True, help="End the measurements that run, too.")
@reading(document=True)
def stop(now: bool, tag: str | None, folder: Path | None, as_json: bool) -> None:
    """Ask a run to stop, from another terminal: it finishes what is being measured, and can be taken up again."""
    found = find(tag, folder)
    who = driver(found)
    if not who.alive:
        raise SetupError(f"the run {found.name!r} is not running", "`autoresearch-ray status` shows how it ended")
    (found / "stop").write_text("now\n" if now else "drain\n")
    click.echo(f"asked process {who.pid} on {who.host} to stop {found.name}", err=True)
    if as_json:
        print_json({"asked": found.name, "pid": who.pid, "host": who.host, "now": now})
