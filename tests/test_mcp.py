"""The MCP server over stdio, asked by the SDK's own client: what an agent that drives a run reads, and what it does."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from mcp import Client, StdioServerParameters

from autoresearch_ray.agents.opencode import OpenCode
from autoresearch_ray.cli import main
from autoresearch_ray.driving import Driving
from autoresearch_ray.events import Judged
from autoresearch_ray.ledger import Ledger
from autoresearch_ray.mcp_server import server
from autoresearch_ray.model import Direction, Eval, Failure, FailureKind, Holdout, Metric, Options, Status, Stop
from autoresearch_ray.ports import AgentSetup
from autoresearch_ray.tools import LOG_LINES, MOST, TEXT, Tools
from tests.brain import Reply
from tests.conftest import TRAIN, Toy
from tests.provider import Request, provider
from tests.runs import Run, git, history, write
from tests.test_agents import PROGRAM

ROOT = Path(__file__).parents[1]
READING = {"diff", "experiment", "history", "leaderboard", "log_tail", "program", "read_file", "status"}
WRITING = {"results", "submit", "submit_grid", "tell"}


class Asker:
    """A client in the middle of its conversation."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        """What the tool answers, as data."""
        answer = await self.client.call_tool(tool, arguments)
        assert not answer.is_error, answer.content
        (text,) = answer.content
        assert json.loads(text.text) == answer.structured_content  # for clients that read the text alone
        return answer.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """What the tool says where it fails."""
        answer = await self.client.call_tool(tool, arguments)
        assert answer.is_error
        (text,) = answer.content
        return str(text.text)


def asked(server: Any, talk: Callable[[Asker], Awaitable[None]]) -> None:
    """Have a conversation with a server: one in this process, or one that is to be started."""

    async def conversation() -> None:
        async with Client(server) as client:
            await talk(Asker(client))

    anyio.run(conversation)


def started(folder: Path, *flags: str) -> StdioServerParameters:
    """The server as agents start it, over stdio."""
    command = ["-m", "autoresearch_ray", "mcp", "--folder", str(folder), *flags]
    return StdioServerParameters(command=sys.executable, args=command, env={"PYTHONPATH": str(ROOT)})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A closed run: a keep that is the best, a discard, a near miss without a verdict, a crash."""
    base, best, worse = history(tmp_path / "work", ["rate = 1\n", "rate = 2\n", "rate = 3\n"])
    run = Run(base=base)
    run.seat("gpu0", 0)
    run.seat("gpu1", 1)
    run.remeasure("gpu0", base, 1.0)
    run.remeasure("gpu1", base, 1.002)
    kept = run.propose("gpu0", "rate 2 is better", 0.9, Status.KEEP, commit=best, gain=0.101, reason="clear of noise")
    run.publish(kept, best, 0.901)
    run.propose("gpu1", "rate 3\tis\x1b[31m WORSE " + "x" * 400, 1.5, commit=worse, gain=-0.5)
    run.propose("gpu0", "not decided", 0.899, Status.PENDING)
    failure = Failure(FailureKind.OOM, "out of memory", "Traceback\nOutOfMemoryError")
    run.propose("gpu1", "twice as wide", None, Status.CRASH, failure=failure)
    place = write(run, tmp_path)
    (place / "logs" / "gpu0").mkdir(parents=True)
    (place / "logs" / "gpu0" / "2.log").write_text("".join(f"step {each}\n" for each in range(300)))
    git(tmp_path, "clone", "-q", "--bare", str(tmp_path / "work"), str(place / "hub.git"))
    return tmp_path


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_an_agent_reads_a_run(project: Path) -> None:
    async def talk(ask: Asker) -> None:
        told = await ask("program")
        assert (told["metric"], told["direction"], told["command"]) == ("val_bpb", "lower is better", "python train.py")
        assert told["can_modify"] == ["train.py"] and told["best_branch"] == "autoresearch/nov20"

        standing = await ask("status")
        assert standing["state"] == "stopped" and standing["best"]["number"] == 1 and standing["counts"]["crash"] == 1
        assert standing["lanes"]["gpu0"].startswith("proposes on") and standing["baseline"]["measurements"] == 2
        assert standing["merge"] == "git merge autoresearch/nov20"

        board = await ask("leaderboard")
        assert [each["number"] for each in board["ranked"]] == [3, 1, 0, 2] and board["best"] == 1
        assert board["ranked"][1]["over_baseline"] == pytest.approx(0.101) and board["ranked"][1]["error"] > 0
        board = await ask("leaderboard", limit=1)
        assert [each["number"] for each in board["ranked"]] == [3] and board["left_out"] == 3

        past = await ask("history")
        assert [each["number"] for each in past["experiments"]] == [0, 1, 2, 3, 4]
        for given, numbers in (
            ({"limit": 2}, [3, 4]),
            ({"limit": 2, "before": 3}, [1, 2]),
            ({"before": -3}, []),
            ({"status": "crash"}, [4]),
            ({"lane": "gpu0", "contains": "BETTER"}, [1]),
            ({"contains": "because", "limit": 1}, [4]),
        ):
            assert [each["number"] for each in (await ask("history", **given))["experiments"]] == numbers
        assert (await ask("history", contains="because", limit=1))["matched"] == 2

        crashed = await ask("experiment", name="4")
        assert crashed["failure"] == "oom" and "OutOfMemoryError" in crashed["failure_tail"]
        assert crashed["metric"] is None and not crashed["has_log"]
        assert (await ask("experiment", name="best"))["values"] == [0.9]

        assert (await ask("diff"))["text"].splitlines()[-2:] == ["-rate = 1", "+rate = 2"]
        assert (await ask("diff", old="1", new="gpu1-2"))["text"].endswith("+rate = 3\n")
        assert await ask("read_file", path="train.py") == {"text": "rate = 2\n", "total": 9, "next_offset": None}
        assert (await ask("read_file", path="train.py", at="baseline", offset=7))["text"] == "1\n"
        assert (await ask("log_tail", name="1", lines=2))["text"] == "step 298\nstep 299"

    asked(started(project, "--read-only"), talk)


def test_what_an_agent_is_told_is_printable_and_bounded(project: Path) -> None:
    place = project / ".autoresearch" / "nov20"
    work = project / "work"
    (work / "train.py").write_text("x = 1\n" * 10_000)
    git(work, "commit", "-q", "-am", "long")
    commit = git(work, "rev-parse", "HEAD")
    git(work, "push", "-q", str(place / "hub.git"), "HEAD:refs/heads/long")
    ledger = Ledger(place / "ledger.jsonl")
    run = Run()
    run.seat("gpu0")
    for number in range(MOST + 20):
        run.propose("gpu0", f"idea {number}", 1.0, commit=commit if number == 0 else None)
    for line in run.lines[1:]:
        ledger.append(line)
    ledger.close()

    async def talk(ask: Asker) -> None:
        (worse,) = (await ask("history", contains="worse"))["experiments"]
        assert worse["idea"].isprintable() and len(worse["idea"]) <= 300
        assert len((await ask("history", limit=10**6))["experiments"]) == MOST
        assert len((await ask("leaderboard", limit=10**6))["ranked"]) == MOST
        assert len((await ask("history", limit=-5))["experiments"]) == 1
        assert len((await ask("log_tail", name="1", lines=10**6))["text"].splitlines()) == LOG_LINES
        piece, text = {"next_offset": 0}, ""
        while piece["next_offset"] is not None:
            piece = await ask("read_file", path="train.py", at=commit, offset=piece["next_offset"])
            assert len(piece["text"]) <= TEXT
            text += piece["text"]
        assert text == "x = 1\n" * 10_000

    asked(server(Tools(folder=project)), talk)


def test_the_holdout_is_not_told(tmp_path: Path) -> None:
    metric = Metric("loss", Direction.LOWER)
    run = Run(evaluation=Eval("python train.py", metric, 300.0, 600.0, holdout="python /secret/score.py"))
    run.seat("gpu0")
    run.seat("gpu1")
    run.remeasure("gpu0", run.base, 1.0)
    id = run.propose("gpu0", "learns by heart", 0.5, Status.KEEP, commit="a1" * 20, gain=0.5)
    run.holdout("gpu0", "a1" * 20, 7.25)
    run.refuse(id, "a1" * 20, "the holdout does not confirm it: 7.25, and 1.5 for the best before it")
    run.order("gpu1", Holdout("gpu1-9", "a1" * 20, 7))
    why = "the holdout fails on the best: exit code 7.25 of /secret/score.py"
    run.order("gpu0", Stop(why))
    run.close(why)
    write(run, tmp_path)

    async def talk(ask: Asker) -> None:
        calls = {"program": {}, "status": {}, "leaderboard": {}, "history": {}, "experiment": {"name": "1"}}
        said = json.dumps([await ask(name, **given) for name, given in calls.items()])
        assert (
            "learns by heart" in said
            and "stopped: what is best was not confirmed" in said
            and "confirms what would be the best" in said
        )
        assert [word for word in ("holdout", "secret", "7.25") if word in said] == []

    asked(server(Tools(folder=tmp_path)), talk)


def test_an_error_says_what_to_do(project: Path) -> None:
    async def talk(ask: Asker) -> None:
        assert "hint: give a number from 0 to 4" in await ask.refused("experiment", name="99")
        assert "#4 has no commit" in await ask.refused("diff", new="4")
        assert "there is no file" in await ask.refused("read_file", path=f"../{project.name}/train.py")
        assert "old logs are removed" in await ask.refused("log_tail", name="2")
        assert "valid integer" in await ask.refused("history", limit="all")
        assert "unknown" in (await ask.refused("fly")).lower()
        assert (await ask("status"))["tag"] == "nov20"  # and it goes on

    asked(server(Tools(folder=project)), talk)


def test_a_server_may_be_there_before_its_run_and_follows_it(tmp_path: Path) -> None:
    async def talk(ask: Asker) -> None:
        assert "there is no run" in await ask.refused("status")
        run = Run()
        run.seat("gpu0")
        run.remeasure("gpu0", run.base, 1.0)
        place = write(run, tmp_path)
        assert (await ask("status"))["experiments"] == 0
        told = len(run.lines)
        id = run.propose("gpu0", "first", 0.9, Status.PENDING)
        ledger = Ledger(place / "ledger.jsonl")
        ledger.append(run.lines[told])
        assert (await ask("history"))["experiments"][-1]["status"] == "pending"
        ledger.append((Judged(run.now, id, "gpu0", Status.KEEP, "better", 0.1),))
        ledger.close()
        assert (await ask("history"))["experiments"][-1]["status"] == "keep"
        (place / "ledger.jsonl").rename(place / "old")
        Ledger.create(place / "ledger.jsonl", Run().lines[0])  # the tag begins anew
        assert (await ask("history"))["matched"] == 1

    asked(server(Tools(folder=tmp_path)), talk)


def test_only_what_reads_is_offered_read_only_and_every_tool_says_what_it_is(project: Path) -> None:
    for tools, names in ((Driving(folder=project), READING | WRITING), (Tools(folder=project), READING)):

        async def talk(ask: Asker, names: set[str] = names) -> None:
            tools = (await ask.client.list_tools()).tools
            assert {each.name for each in tools} == names
            for each in tools:
                assert each.description and each.output_schema and each.output_schema["type"] == "object"
                given = each.input_schema["properties"]
                assert [name for name in given if f"`{name}`" not in each.description and name != "offset"] == []
                assert each.annotations and each.annotations.read_only_hint is (each.name not in WRITING - {"results"})

        asked(server(tools), talk)


def test_a_client_of_2024_is_served_and_nothing_but_the_protocol_is_on_stdout(project: Path) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}},
    }
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    command = [sys.executable, "-m", "autoresearch_ray", "mcp", "--folder", str(project)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout

        def ask(*messages: dict[str, Any]) -> dict[str, Any]:
            for each in messages:
                process.stdin.write(json.dumps(each) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())["result"]

        def call(tool: str, **given: str) -> dict[str, Any]:
            return ask(
                {"jsonrpc": "2.0", "id": tool, "method": "tools/call", "params": {"name": tool, "arguments": given}}
            )

        try:
            greeting = ask(hello)
            assert greeting["protocolVersion"] == "2024-11-05" and greeting["serverInfo"]["name"] == "autoresearch"
            process.stdin.write(json.dumps(ready) + "\n")
            assert call("status")["structuredContent"]["tag"] == "nov20"
            assert call("experiment", name="99")["isError"] is True
            rest, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert rest == "" and process.returncode == 0


def test_without_the_sdk_there_is_a_hint() -> None:
    script = "import sys; sys.modules['mcp'] = None; from autoresearch_ray.cli import main; main(['mcp'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and 'pip install "autoresearch-ray[mcp]"' in done.stderr


# --- Driving a run ---------------------------------------------------------------------------------------------------


def change(rate: float) -> str:
    """The patch that sets the learning rate of the toy, whose best is 0.1."""
    new = TRAIN.replace("LR = 0.5", f"LR = {rate}")
    return "".join(difflib.unified_diff(TRAIN.splitlines(True), new.splitlines(True), "a/train.py", "b/train.py"))


def test_what_is_handed_in_before_a_run_is_driven_waits_for_it(project: Path) -> None:
    async def talk(ask: Asker) -> None:
        grid = [{"patch": change(rate), "idea": f"rate {rate}"} for rate in range(130)]
        first = await ask("submit_grid", patches=grid)
        assert {each["state"] for each in first["results"]} == {"sent"} and first["left_out"] == 0
        assert first["done"] and first["undecided"] == 130 and "run again" in first["note"]
        await ask("submit_grid", patches=grid)
        every = await ask("results", wait_seconds=1e9)
        assert (len(every["results"]), every["left_out"], every["undecided"]) == (256, 4, 260)
        assert "is empty" in await ask.refused("submit", patch=" ", idea="nothing")
        assert "no lane 'gpu7'" in await ask.refused("tell", text="go on", lanes=["gpu7"])
        assert not (await ask("tell", text="go on", lanes=["gpu1"], keep=True))["taken_up"]

    asked(server(Driving(folder=project)), talk)


@contextmanager
def running(toy: Toy) -> Iterator[Path]:
    """A run whose lanes measure what is handed in, and its folder. It must end well when it is asked to stop."""
    toy.program(agent="submitted", more="experiments: 40")
    command = [sys.executable, "-m", "autoresearch_ray"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "run", "program.md"], cwd=toy.folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as driver:
        assert driver.stderr and b"begins" in driver.stderr.readline()
        try:
            yield toy.run_folder()
            subprocess.run([*command, "stop"], cwd=toy.folder, env=environ, check=True, capture_output=True)
            _, said = driver.communicate(timeout=60)
            assert driver.returncode == 0, said.decode()
        finally:
            driver.kill()


def test_an_agent_hands_in_a_grid_and_reads_the_ranked_result(toy: Toy) -> None:
    rates = [0.9, 0.2, 0.6, 0.1, 0.8, 0.4, 0.3, 0.7]
    grid = [{"patch": change(rate), "idea": f"rate {rate}"} for rate in rates]
    outside = change(0.1).replace("train.py", "harness.py")

    async def talk(ask: Asker) -> None:
        answer = await ask("submit_grid", patches=grid)
        ids = [each["id"] for each in answer["results"]]
        assert (
            len(set(ids)) == 8
            and answer["note"] == ""
            and not any(each["state"] == "declined" for each in answer["results"])
        )
        (declined,) = (await ask("submit", patch=outside, idea="cheat"))["results"]
        assert declined["state"] == "declined" and "does not apply" in declined["reason"]
        assert (await ask("tell", text="to whom it may concern"))["taken_up"]

        found, asks = answer, 0
        while not found["done"] and asks < 20:
            found, asks = await ask("results", ids=ids, wait_seconds=5), asks + 1
        assert found["done"] and found["undecided"] == 0
        assert [each["idea"] for each in found["results"]] == [f"rate {each}" for each in sorted(rates)]
        best, *_, worst = found["results"]
        assert best["state"] == "keep" and best["gain"] > 0.1 and best["error"] > 0
        assert worst["state"] == "discard" and worst["gain"] < 0 and worst["reason"]

        ranked = [each for each in (await ask("leaderboard"))["ranked"] if each["by"] == "hal"]
        assert [each["number"] for each in ranked] == [each["number"] for each in found["results"]]
        detail = await ask("experiment", name=str(best["number"]))
        assert detail["by"] == "hal" and detail["values"] and detail["has_log"]
        assert "+LR = 0.1" in (await ask("diff", new=str(best["number"])))["text"]
        assert (await ask("results", wait_seconds=0))["results"][-1]["id"] == declined["id"]
        assert "nobody has submitted 'x'" in await ask.refused("results", ids=["x"])
        assert "a grid has 1 to 256" in await ask.refused("submit_grid", patches=[])

    async def afterwards(ask: Asker) -> None:
        answer = await ask("submit", patch=change(0.11), idea="too late")
        assert answer["done"] and answer["undecided"] == 1 and "run again" in answer["note"]
        assert not (await ask("tell", text="anybody here?"))["taken_up"]

    with running(toy) as run:
        asked(started(run, "--by", "hal"), talk)
        by_hand(toy)
    asked(server(Driving(folder=run)), afterwards)


@pytest.mark.skipif(shutil.which("opencode") is None, reason="opencode is not installed")
def test_opencode_hands_in_a_grid_and_reads_the_ranked_result(toy: Toy, tmp_path: Path) -> None:
    """A whole agent, its model played by the stub, with the registration that `install --mcp` prints."""
    rates = [0.9, 0.2, 0.6, 0.1, 0.8, 0.4, 0.3, 0.7]
    grid = [{"patch": change(rate), "idea": f"rate {rate}"} for rate in rates]

    def say(request: Request) -> Reply:
        tools = {name.rpartition("autoresearch_")[2]: name for name in request.heard.tools}
        told = [text for role, text in request.heard.turns if role == "tool"]
        if "submit_grid" not in tools:
            return Reply("A title")
        if not told:
            return Reply(call=(tools["submit_grid"], {"patches": grid}))
        found = json.loads(told[-1])
        if not found["done"] and len(told) < 20:
            return Reply(call=(tools["results"], {"wait_seconds": 5}))
        return Reply(" > ".join(each["idea"] for each in found["results"]))

    with running(toy), provider(say=say) as stub:
        options = Options(agent="opencode", model="stub-1", base_url=stub.url)
        environ = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        register = [sys.executable, "-m", "autoresearch_ray", "install", "opencode", "--mcp", "--json"]
        (row,) = json.loads(
            subprocess.run(register, cwd=toy.folder, env=environ, capture_output=True, check=True).stdout
        )
        agent = OpenCode(AgentSetup(PROGRAM, options, "gpu0", tmp_path / "state", environ))
        command = agent.start(toy.folder)
        settings = json.loads(agent.environ()["OPENCODE_CONFIG_CONTENT"]) | {"permission": {"*": "allow"}}
        settings |= json.loads(row["text"])
        environ |= agent.environ() | {"OPENCODE_CONFIG_CONTENT": json.dumps(settings)}
        said = subprocess.run(
            command, cwd=toy.folder, env=environ, input="Try eight learning rates.", capture_output=True, text=True
        )
    ranked = " > ".join(f"rate {each}" for each in sorted(rates))
    assert any(each.get("part", {}).get("text") == ranked for each in map(json.loads, said.stdout.splitlines())), said


def by_hand(toy: Toy) -> None:
    """The same from a shell: a grid, its results, the ranking."""

    def say(verb: str, *arguments: str) -> str:
        done = CliRunner().invoke(main, [verb, "--folder", str(toy.folder), *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    patches = []
    for rate in (0.15, 0.25):
        path = toy.folder.parent / f"rate-{rate}.patch"
        path.write_text(change(rate))
        patches += ["--patch", str(path)]
    sent = json.loads(say("submit", *patches, "--parent", "baseline", "--by", "shell", "--json"))["submissions"]
    found = json.loads(say("results", *(each["id"] for each in sent), "--wait", "--json"))
    assert found["done"] and [each["by"] for each in found["submissions"]] == ["shell", "shell"]
    values = [each["value"] for each in found["submissions"]]
    assert values[0] < values[1]
    ranked = [json.loads(line)["over_baseline"] for line in say("log", "--ranked", "--json").splitlines()]
    assert ranked == sorted(ranked, reverse=True) and len(ranked) > 10
    assert [json.loads(line)["over_baseline"] for line in say("log", "--ranked", "-n", "3").splitlines()] == ranked[:3]
