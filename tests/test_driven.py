"""Aider and pi, as they are installed from their registries, against a provider on the loopback that fails in each way.

Nothing else is asked: no account, no key, no other host. How they come to be here is in tests/tools.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autoresearch_ray import ledger
from autoresearch_ray.board import replay
from autoresearch_ray.evaluator import Evaluator, Slot
from autoresearch_ray.model import (
    Attempt,
    Brief,
    Direction,
    Failure,
    FailureKind,
    Options,
    Propose,
    Status,
    Stop,
    TroubleKind,
)
from autoresearch_ray.monitors.cpu import Cpu
from autoresearch_ray.ports import Agent, AgentSetup, Reply, Signals, Taken, Welcome, named
from autoresearch_ray.program import read
from autoresearch_ray.proposals import trouble_with
from autoresearch_ray.repo import Hub, Origin
from autoresearch_ray.researcher import Researcher
from autoresearch_ray.store import Store
from tests import tools
from tests.conftest import Toy, git, processes_of
from tests.provider import provider
from tests.test_agents import PROGRAM, until

pytestmark = pytest.mark.timeout(600)  # where `make agents` was not run, the first test installs them

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
AGENTS = ("aider", "pi")
EDIT = ("train.py", "LR = 0.5", "LR = 0.1")
OUTCOMES = {
    "ok": None,
    "401": TroubleKind.AUTH,
    "garbage": TroubleKind.NO_EDIT,
    "empty": TroubleKind.NO_EDIT,
    "badsearch": TroubleKind.REJECTED,
    "429": TroubleKind.RATE_LIMITED,
    "500": TroubleKind.UNAVAILABLE,
    "truncate": TroubleKind.UNAVAILABLE,
    "hang": TroubleKind.TIMEOUT,
}
ENDLESS = ("429", "500", "truncate")


@pytest.fixture(scope="session", params=AGENTS)
def agent(request: pytest.FixtureRequest) -> str:
    """The name of a preset whose program is installed."""
    try:
        tools.installed(request.param)
    except tools.MissingError as error:
        pytest.skip(str(error))
    return str(request.param)


def path_with(name: str) -> str:
    return f"{tools.installed(name)}:{os.environ['PATH']}"


def preset(name: str, folder: Path, temporary: Path, url: str, minutes: float = 10.0) -> Agent:
    """The agent `name`, with its state in `folder` and its processes known by `temporary`."""
    environ = {"HOME": str(folder), "TMPDIR": str(temporary), "PATH": path_with(name)}
    options = Options(agent=name, model="stub-1", base_url=url, agent_minutes=minutes)
    kind = named("agents", name)
    kind.check(options, environ)
    made: Agent = kind(AgentSetup(PROGRAM, options, "gpu0", folder / "state", environ))
    return made


def proposed(folder: Path, agent: Agent) -> tuple[Attempt, Store]:
    """What a lane with this agent hands in, when it is to propose a change of a toy repository."""
    toy = Toy(folder / "toy")
    welcome = Welcome("run0", "t1", read(toy.folder / "program.md"), toy.head, "", b"", "")
    hub = Hub.create(folder / "hub.git", Origin.find(toy.folder), toy.head)
    store = Store.create(folder / "store.git", hub.pack([toy.head]), toy.head)
    work = folder / "work"
    work.mkdir()
    handed_in: list[Attempt] = []

    def submit(attempt: Attempt, bundle: bytes, logs: object) -> Reply:
        handed_in.append(attempt)
        return Reply(Stop("enough"))

    def claim(lane: str, id: str, tree: str, idea: str) -> Taken | None:
        return None

    Researcher(
        lane="gpu0",
        sitting=1,
        welcome=welcome,
        submit=submit,
        claim=claim,
        store=store,
        agent=agent,
        evaluator=Evaluator(
            welcome=welcome,
            store=store,
            folder=work,
            shared=folder / "shared",
            slot=Slot((), 1),
            monitor=Cpu(()),
            environ={**os.environ, "AUTORESEARCH_OWNER": "gpu0"},
        ),
        folder=work,
        signals=Signals(),
    ).run(Reply(Propose("gpu0-1", toy.head, 7), brief=brief()))
    (attempt,) = handed_in
    return attempt, store


def brief(again: bool = False) -> Brief:
    words = "Make one change to train.py. End with one line of this form:\n\nidea: <what you changed>\n"
    return Brief("gpu0-1", "Once more, on top of that." if again else words, Direction.LOWER, repair=again)


def outcome(folder: Path, name: str, mode: str, temporary: Path) -> TroubleKind | None:
    """What came of one proposal; a candidate has to be the edit that was meant, and measured."""
    minutes = 0.05 if mode == "hang" else 10.0
    with provider(EDIT, mode) as stub:
        attempt, store = proposed(folder, preset(name, folder, temporary, stub.url, minutes))
    failure = attempt.measurement.failure
    if failure is None:
        assert attempt.commit and "LR = 0.1\n" in store.git("show", f"{attempt.commit}:train.py").decode()
        assert (attempt.idea, attempt.trouble) == ("LR = 0.1", None)
        assert attempt.usage.input_tokens and attempt.usage.output_tokens and attempt.usage.cost_usd is None
        return None
    assert failure.kind in (FailureKind.AGENT, FailureKind.NO_CHANGE) and attempt.trouble
    return attempt.trouble.kind


@pytest.mark.parametrize("mode", [each for each in OUTCOMES if each not in ENDLESS])
def test_what_becomes_of_a_proposal_is_known_whatever_the_provider_does(
    agent: str, mode: str, tmp_path: Path, temporary: Path
) -> None:
    assert outcome(tmp_path, agent, mode, temporary) == OUTCOMES[mode]
    assert processes_of(temporary) == []


def stopped(folder: Path, name: str, mode: str, temporary: Path) -> TroubleKind | None:
    """What an agent that tries again and again has said by its fourth request, when it is stopped."""
    checkout, cancel = folder / "checkout", threading.Event()
    checkout.mkdir(parents=True)
    (checkout / "train.py").write_text("LR = 0.5\n")
    with provider(EDIT, mode) as stub:
        watch = threading.Thread(target=lambda: until(lambda: len(stub.requests) > 3, 300) and cancel.set())
        watch.start()
        proposal = preset(name, folder, temporary, stub.url).propose(checkout, brief(), folder / "agent.log", cancel)
        cancel.set()
        watch.join()
    trouble = trouble_with(proposal, Failure(FailureKind.AGENT, proposal.error or ""))
    return trouble.kind if trouble else None


def test_why_an_agent_tries_again_is_known_when_it_is_stopped(agent: str, tmp_path: Path, temporary: Path) -> None:
    with ThreadPoolExecutor(len(ENDLESS)) as pool:
        found = pool.map(lambda mode: stopped(tmp_path / mode, agent, mode, temporary), ENDLESS)
        assert dict(zip(ENDLESS, found, strict=True)) == {mode: OUTCOMES[mode] for mode in ENDLESS}
    assert processes_of(temporary) == []


def test_a_repair_goes_on_with_the_conversation(agent: str, tmp_path: Path, temporary: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "train.py").write_text("LR = 0.5\nWIDTH = 8\n")
    git(checkout, "init", "-q")
    second = ("train.py", "WIDTH = 8", "WIDTH = 9")
    with provider(lambda request: second if "Once more" in request.text else EDIT) as stub:
        one = preset(agent, tmp_path, temporary, stub.url)
        first = one.propose(checkout, brief(), tmp_path / "agent.log", threading.Event())
        asked = len(stub.requests)
        one.propose(checkout, brief(again=True), tmp_path / "agent.log", threading.Event())
        assert first.session and "Make one change to train.py." in stub.requests[asked].text
        one.propose(checkout, brief(), tmp_path / "agent.log", threading.Event())
        assert "Once more" not in stub.requests[-1].text, "the next proposal starts afresh"
    assert (checkout / "train.py").read_text().startswith("LR = 0.1\n")
    assert sorted(each.name for each in checkout.iterdir()) == [".git", "train.py"]


def test_aider_finds_a_better_quickstart_in_a_whole_run(tmp_path: Path, temporary: Path) -> None:
    try:
        tools.installed("aider")
    except tools.MissingError as error:
        pytest.skip(str(error))
    folder = tmp_path / "quickstart"
    shutil.copytree(QUICKSTART, folder, ignore=shutil.ignore_patterns("__pycache__", ".autoresearch"))
    page = folder / "program.md"
    page.write_text(page.read_text().replace("4 seconds per", "1 second per"))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    with provider(("train.py", "LR = 5e-4  # 1e-4..3e-2 log", "LR = 5e-3  # 1e-4..3e-2 log")) as stub:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "autoresearch_ray", "run", str(page), "--json"),
                *("--agent", "aider", "--model", "stub-1", "--base-url", stub.url, "--extra-args", "--timeout 30"),
                *("--backend", "local", "--workers", "1", "--tag", "t1", "--experiments", "1", "--policy", "greedy"),
            ],
            cwd=folder,
            env={**os.environ, "PATH": path_with("aider")},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    board = replay(ledger.read(folder / ".autoresearch" / "t1" / "ledger.jsonl"))
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()][-1] == Status.KEEP
    assert board.best and board.best.idea.startswith("LR = 5e-3"), done.stdout
    assert "LR = 5e-3" in git(folder, "show", "autoresearch/t1:train.py")
    assert processes_of(temporary) == []
