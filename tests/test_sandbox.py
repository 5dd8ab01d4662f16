"""The sandbox where it works and where it does not, what is kept, warm caches, and where a key must never be found."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_ray import guardian, ledger, program, research
from autoresearch_ray.agents.claude import Claude
from autoresearch_ray.agents.codex import Codex
from autoresearch_ray.board import replay
from autoresearch_ray.errors import AgentError, ProgramError, SetupError
from autoresearch_ray.events import Seated
from autoresearch_ray.model import FailureKind, Measurement, Options
from autoresearch_ray.ports import AgentSetup, Signals
from autoresearch_ray.sandbox import AgentWalls, Sandbox, sandbox
from tests.conftest import PROGRAM, Toy
from tests.test_evaluator import Bench

WALLS, SAID = sandbox("auto", os.environ, None)
needs_bwrap = pytest.mark.skipif(WALLS is None, reason=f"no sandbox here: {SAID}")
MODES = ["none", pytest.param("bwrap", marks=needs_bwrap)]
KEY = "sk-planted-fedcba9876543210"


@pytest.fixture
def bench(toy: Toy, tmp_path: Path, mode: str) -> Callable[..., Bench]:
    """A bench in a mode, whose program has these options; `Bench`'s own arguments are of its evaluation."""

    def made(folder: str = "bench", options: Options | None = None, **changes: object) -> Bench:
        one = Bench(toy, tmp_path / folder, **changes)
        evaluator = one.evaluator
        run = toy.folder / ".autoresearch" / "t1"
        changed = replace(evaluator.welcome.program, options=options or Options())
        evaluator.welcome = replace(evaluator.welcome, program=changed, folder=str(run))
        evaluator.walls, _ = sandbox(mode, os.environ, toy.folder)
        return one

    return made


def value(measured: Measurement | None) -> float | FailureKind | None:
    assert measured is not None
    return measured.failure.kind if measured.failure else measured.value


# --- Whether there is one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bwrap", "why"),
    [
        (None, "bubblewrap is not installed"),
        ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", "uid map: Permission denied"),
        ("exit 0", "it ended with 0"),  # walls that let nothing be written are as bad as none
    ],
)
def test_where_it_does_not_work_auto_goes_without_and_says_why_and_bwrap_is_an_error(
    tmp_path: Path, bwrap: str | None, why: str
) -> None:
    if bwrap is not None:
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{bwrap}\n")
        (tmp_path / "bwrap").chmod(0o755)
    environ = {"PATH": str(tmp_path), "HOME": "/nonexistent"}
    walls, said = sandbox("auto", environ, None)
    assert walls is None and said.startswith("none: ") and said.endswith(why)
    with pytest.raises(SetupError, match="there is no sandbox") as raised:
        sandbox("bwrap", environ, None)
    assert "--sandbox none" in raised.value.hint
    assert sandbox("none", environ, None) == (None, "none")


def test_where_mps_runs_there_is_no_sandbox() -> None:
    _, said = sandbox("auto", {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": "/run/mps"}, None)
    assert said.startswith("none: ") and ("MPS" in said or WALLS is None)


def test_deeper_mounts_come_later_and_what_a_mount_brings_along_is_not_mounted_again() -> None:
    walls = Sandbox(
        "bwrap",
        hidden=(Path("/home"), Path("/home/u"), Path("/tmp")),
        read=(Path("/home/u/.venv"), Path("/home/u/.venv/bin/python"), Path("/home/u/.venv/tree/kept")),
        write=(Path("/home/u/.venv/tree"),),
        temporary=Path("/srv/tmp"),
        devices=False,
    )
    argv = walls.argv("true", Path("/home/u/.venv/tree"))
    places = [argv[at + 1 :] for at, word in enumerate(argv) if word in ("--tmpfs", "--ro-bind-try", "--bind")]
    named = [
        each[1] if each[1].startswith("/") else each[0]
        for each in places
        if each[0] not in ("/proc/sys", "/proc/sysrq-trigger")
    ]
    assert named == ["/home", "/tmp", "/home/u", "/home/u/.venv", "/home/u/.venv/tree", "/home/u/.venv/tree/kept"]
    assert argv[-3:] == ["/bin/sh", "-c", "true"] and "--unshare-net" in argv
    assert "--unshare-net" not in replace(walls, network=True).argv(["true"], Path("/"))


@needs_bwrap
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_it_works_for_a_user_who_is_not_root() -> None:
    assert WALLS is not None
    argv = WALLS.argv("id -u; ls -A /tmp; touch /x", Path("/"))
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    done = subprocess.run([*become, *argv], capture_output=True, text=True)
    if ("Permission denied" in done.stderr and "bwrap" in done.stderr) or "not permitted" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr}")
    assert done.stdout.split() == ["65534"] and "Read-only file system" in done.stderr


# --- What an evaluation has in it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_runners_readings_are_the_same_in_a_sandbox(bench: Callable[..., Bench], mode: str) -> None:
    one = bench()
    measured = one.measure("x = [0] * 20_000_000\nfor i in range(3_000_000): pass\nprint('loss: 0.25')")
    assert value(measured) == 0.25 and measured is not None
    assert 0.02 < measured.cpu_seconds < measured.wall_seconds * 1.5 + 0.1
    assert (measured.resources.peak_mb or 0) > 100
    crashed = one.measure("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert crashed is not None and crashed.failure is not None and crashed.failure.message == "ended by signal 11"


@pytest.mark.parametrize("mode", MODES)
def test_an_evaluation_has_a_loopback(bench: Callable[..., Bench], mode: str) -> None:
    code = "import socket\ns = socket.create_server(('127.0.0.1', 0))\nsocket.create_connection(s.getsockname(), 3)\n"
    assert value(bench().measure(f"{code}print('loss: 1')")) == 1.0


@pytest.mark.parametrize("mode", [pytest.param("bwrap", marks=needs_bwrap)])
@pytest.mark.parametrize("network", [False, True])
def test_an_evaluation_has_the_network_if_it_is_asked_for(
    bench: Callable[..., Bench], mode: str, network: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (
            f"import socket\nprint('loss:', socket.socket().connect_ex(('127.0.0.1', {server.getsockname()[1]})) == 0)"
        )
        code = code.replace("print('loss:', ", "print('loss:', 0 + (").replace("== 0)", "== 0))")
        assert value(bench(options=Options(network=network)).measure(code)) == float(network)


@needs_bwrap
@pytest.mark.parametrize("mode", ["bwrap"])
def test_an_evaluation_in_a_sandbox_dies_with_its_worker(
    bench: Callable[..., Bench], mode: str, tmp_path: Path
) -> None:
    walls = replace(WALLS or Sandbox(""), hidden=())
    code = (
        "import pathlib, sys\nfrom autoresearch_ray import process\n"
        f"process.run({walls.argv(['sleep', '300'], Path('/'))!r}, cwd=pathlib.Path('/'),"
        f" environ={{'MARK': {str(tmp_path)!r}}},"
        f" log=pathlib.Path({str(tmp_path / 'log')!r}), timeout_seconds=60, walled=True, grace_seconds=0.5,"
        " started=lambda pid: print(pid, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as worker:
        assert worker.stdout is not None and worker.stdout.readline().strip().isdigit()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    while guardian.carrying("MARK", [str(tmp_path)]):  # the time limit of all tests ends it if it lives on
        pass


# --- Kept paths and the home -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_is_there_by_its_name_whereever_it_lies(
    bench: Callable[..., Bench], mode: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    data = home / ".cache/autoresearch/e"
    for path in (home / ".cache/corpus/a", data, home / ".ssh/id", toy.folder / "data/deep/b", tmp_path / "c"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    monkeypatch.setenv("HOME", str(home))
    one = bench(keep=("~/.cache/corpus", "data/deep", str(tmp_path / "c"), "made"), setup="mkdir made; echo 1 > made/d")
    one.evaluator.set_up(Signals())
    paths = ["~/.cache/corpus/a", "~/.cache/autoresearch/e", "data/deep/b", str(tmp_path / "c"), "made/d"]
    look = f"from os.path import expanduser\nprint('loss:', sum(int(open(expanduser(p)).read()) for p in {paths}))"
    assert value(one.measure(look)) == 5.0
    look = "import os\nprint('loss:', len(os.listdir(os.path.expanduser('~'))))"
    assert value(one.measure(look)) == 1.0  # .cache, and no .ssh


@pytest.mark.parametrize("mode", ["none"])
@pytest.mark.parametrize(
    ("path", "says"), [("~/none", "is not on"), ("none/x", "is not on"), ("train.py", "committed")]
)
def test_what_cannot_be_kept_is_an_error_before_anything_is_measured(
    bench: Callable[..., Bench], mode: str, path: str, says: str
) -> None:
    with pytest.raises(SetupError, match=says):
        bench(keep=(path,)).evaluator.set_up(Signals())


KEEP = PROGRAM.replace("{eval_more}", "Keep: {keep}").format(
    agent="none", workers=1, lanes=1, backend="local", sandbox="none", more="", command="x", budget="5 s", keep="{keep}"
)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (".venv, `data/`, ~/.cache/x", (".venv", "data", "~/.cache/x")),
        ("/data/images (the images), `a b`", ("/data/images", "a b")),
        ("\n- .venv\n- /data/", (".venv", "/data")),
        ("./a\nKeep: b, a", ("a", "b")),
        ("none", ()),
    ],
)
def test_keep_is_a_list_of_paths(written: str, kept: tuple[str, ...]) -> None:
    assert program.parse(KEEP.replace("{keep}", written)).eval.keep == kept


@pytest.mark.parametrize("written", ["", "~", "/", "..", "../x", "~/../x", "~root/x", "a/*", "the data folder", "."])
def test_a_keep_that_is_unclear_or_too_much_is_refused_at_its_line(written: str) -> None:
    with pytest.raises(ProgramError) as raised:
        program.parse(KEEP.replace("{keep}", written))
    assert raised.value.line == KEEP[: KEEP.index("Keep:")].count("\n") + 1


@needs_bwrap
def test_an_agent_may_write_where_agent_home_says_and_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    assert WALLS is not None
    home = tmp_path / "home"
    for name in ("home/.tool", "home/.login", "tree", "state", "objects"):
        (tmp_path / name).mkdir(parents=True)
    walls = AgentWalls(
        WALLS, tmp_path / "tree", tmp_path / "state", tmp_path / "objects", None, home, ("~/.tool",), os.environ
    )
    write = f"for each in {home}/.tool {home}/.login {home} {tmp_path}/objects; do touch $each/x; done; ls {home}"

    def ran(parts: tuple[str, ...] | None) -> list[bool]:
        subprocess.run(
            walls.around(write, tmp_path / "tree", parts), capture_output=True, env={"PATH": os.environ["PATH"]}
        )
        made = [tmp_path / each / "x" for each in ("home/.tool", "home/.login", "home", "objects")]
        there = [each.exists() for each in made]
        for each in made:
            each.unlink(missing_ok=True)
        return there

    assert ran(None) == [True, False, False, False]
    assert ran((".login", ".missing")) == [True, True, False, False]
    with pytest.raises(AgentError, match="agent_home: there is no"):
        replace(walls, more=("~/gone",)).around("true", tmp_path / "tree", None)


def test_codex_brings_its_own_sandbox_and_runs_in_no_other(tmp_path: Path) -> None:
    walls = AgentWalls(Sandbox("bwrap"), tmp_path, tmp_path, tmp_path, None, tmp_path, (), {})
    setup = AgentSetup(program.parse(KEEP.replace("{keep}", "none")), Options(), "gpu0", tmp_path, {}, walls)
    assert Codex(setup).walls() is None and Claude(setup).walls() is walls


# --- Caches ----------------------------------------------------------------------------------------------------------

COMPILES = """
import os
folder = os.environ["TRITON_CACHE_DIR"]
kernel = os.path.join(folder, "kernel")
print("loss:", open(kernel).read() if os.path.exists(kernel) else 9)
{then}
"""


@pytest.mark.parametrize("mode", MODES)
def test_every_evaluation_has_what_the_base_compiled_and_nothing_that_another_experiment_put_there(
    bench: Callable[..., Bench], mode: str, toy: Toy
) -> None:
    write = "open(kernel, 'w').write('{}')"
    (toy.folder / "train.py").write_text(COMPILES.format(then=write.format(1)))
    toy.commit()
    one = bench()
    measure = lambda commit: value(one.evaluator.measure(commit, "gpu0-1", 7, one.log, one.signals))  # noqa: E731
    # On a node that knows nothing, the candidate's cold run does not count: the base runs, and fills the caches.
    assert measure(one.commit(COMPILES.format(then=write.format(5)) + "#")) == 1.0
    for poison in (2, 3):
        assert measure(one.commit(COMPILES.format(then=write.format(poison)))) == 1.0
    assert measure(one.base) == 1.0
    fresh = bench("fresh")
    assert value(fresh.evaluator.measure(fresh.base, "gpu0-1", 7, fresh.log, fresh.signals)) == 1.0  # warm, not 9


@pytest.mark.parametrize("mode", ["none"])
@pytest.mark.parametrize(("code", "runs"), [("pass", 1), (COMPILES.format(then="open(kernel, 'w').write('1')"), 2)])
def test_the_base_runs_twice_only_where_it_leaves_something_in_a_cache(
    bench: Callable[..., Bench], mode: str, toy: Toy, tmp_path: Path, code: str, runs: int
) -> None:
    count = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\nprint('loss: 1')\n"
    (toy.folder / "train.py").write_text(count + code)
    toy.commit()
    one = bench()
    for _ in range(2):
        one.evaluator.measure(one.base, "gpu0-1", 7, one.log, one.signals)
    assert (tmp_path / "runs").read_text() == "x" * (runs + 1)


@pytest.mark.parametrize("mode", ["none"])
def test_a_base_that_fails_where_it_is_to_fill_the_caches_is_the_machines_fault(
    bench: Callable[..., Bench], mode: str, toy: Toy
) -> None:
    (toy.folder / "train.py").write_text("raise SystemExit(3)")
    toy.commit()
    measured = bench().measure(COMPILES.format(then="open(kernel, 'w').write('1')"))
    assert value(measured) is FailureKind.MACHINE


# --- Whole runs ------------------------------------------------------------------------------------------------------

AGENT = """
import os
s = open('train.py').read()
more = 'MORE = %r' % os.environ['AUTORESEARCH_EXPERIMENT']
open('train.py', 'w').write(s.replace('WIDTH = 8', 'WIDTH = 20') + more + chr(10))
print(dict(os.environ), open(os.environ['AUTORESEARCH_PROMPT']).read())
print('idea: wider', os.environ.get('MY_KEY'))
"""


def driven(toy: Toy, *flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "autoresearch_ray", "run", str(toy.folder / "program.md"), *flags]
    here = Path(__file__).parents[1]
    return subprocess.run(argv, cwd=here, capture_output=True, text=True, timeout=100, env=os.environ | more)


def with_agent(toy: Toy, sandbox: str, backend: str = "local") -> None:
    script = toy.folder.parent / "agent.py"
    script.write_text(AGENT)
    more = f"experiments: 2\nsecrets: [MY_KEY]\nagent_command: {json.dumps(f'{sys.executable} {script}')}"
    toy.program(agent="command", workers=1, more=more, sandbox=sandbox, backend=backend)


def sandboxes(toy: Toy) -> list[str]:
    lines = ledger.read(toy.run_folder() / "ledger.jsonl")
    return [event.seat.sandbox for line in lines for event in line if isinstance(event, Seated)]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_says_what_walls_it_has_and_keeps_it_in_the_ledger(toy: Toy, mode: str) -> None:
    with_agent(toy, mode)
    done = driven(toy, MY_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert f"sandbox: {mode}\n" in done.stderr and sandboxes(toy) == [mode]
    tried = replay(ledger.read(toy.run_folder() / "ledger.jsonl")).experiments
    assert [each.failure for each in tried] == [None] * len(tried) and len(tried) > 2


def test_a_run_without_walls_says_why(toy: Toy, tmp_path: Path) -> None:
    with_agent(toy, "auto")
    for tool in ("git", "python", "sh", "rm", "cp", "chmod", "env"):
        (tmp_path / tool).symlink_to(sys.executable if tool == "python" else subprocess.getoutput(f"which {tool}"))
    done = driven(toy, MY_KEY=KEY, PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "sandbox: none: bubblewrap is not installed\n" in done.stderr
    assert "warning: no sandbox on" in done.stderr
    assert sandboxes(toy) == ["none: bubblewrap is not installed"]


@pytest.mark.parametrize("mode", MODES)
def test_a_baseline_that_misses_what_is_in_the_users_home_is_told_of_keep(
    toy: Toy, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "corpus").write_text("loss: 1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    options = {"agent": "none", "workers": 1, "sandbox": mode, "command": "cat ~/corpus", "more": "experiments: 1"}
    toy.program(**options)  # type: ignore[arg-type]
    done = driven(toy)
    assert done.returncode == 2 and "No such file" in done.stderr and "`Keep:` names" in done.stderr
    assert ("--network" in done.stderr) == (mode == "bwrap")
    toy.program(**options, eval_more="Keep: ~/corpus")  # type: ignore[arg-type]
    assert driven(toy, "--tag", "t2").returncode == 0


def holding_the_key(*folders: Path) -> tuple[list[Path], int]:
    """The files below that hold the key, and how many bytes were looked at."""
    found, searched = [], 0
    for path in (each for folder in folders for each in folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            searched += len(data)
            found += [path] if KEY.encode() in data else []
    return found, searched


@pytest.mark.parametrize(
    ("mode", "backend"), [("none", "local"), pytest.param("bwrap", "ray", marks=needs_bwrap), ("none", "ray")]
)
def test_a_key_is_in_no_byte_that_a_run_leaves_behind(toy: Toy, temporary: Path, mode: str, backend: str) -> None:
    with_agent(toy, mode, backend)
    with tempfile.TemporaryDirectory(dir="/tmp") as traces:  # Ray's sockets need a short path
        done = driven(toy, MY_KEY=KEY, RAY_TMPDIR=traces)
        found, searched = holding_the_key(toy.folder, temporary, Path(traces))
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert found == [] and searched > 10_000
    board = replay(ledger.read(toy.run_folder() / "ledger.jsonl"))
    ideas = {each.idea for each in board.experiments if each.kind == "propose"}
    assert ideas == {"wider [secret]"}
    logs = [each.read_text() for each in toy.run_folder().rglob("*.agent.log")]
    assert logs and all("'MY_KEY': '[secret]'" in each for each in logs)


@needs_bwrap
def test_where_program_md_lies_deep_in_a_repository_all_of_that_is_hidden(toy: Toy) -> None:
    """Its .git, its branches and what is not committed; temporary folders are empty anyway, so the mounts are read."""
    toy.program(sandbox="bwrap", workers=1, agent="none", command="python train.py; cat /proc/self/mountinfo")
    deep = toy.folder / "a" / "b"
    deep.mkdir(parents=True)
    for name in ("program.md", "train.py"):
        (toy.folder / name).rename(deep / name)
    toy.commit()
    with research(deep, experiments=1) as session:
        while session.advance() and session.board.baseline is None:
            pass
    said = (deep / ".autoresearch/t1/logs/cpu0/1.log").read_text()
    assert f" {toy.folder.resolve()} " in said
