"""A model by itself as the agent, against a provider on the loopback: real requests, real replies, real edits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ray import ledger
from autoresearch_ray.agents._shown import shown, why_not_create, write
from autoresearch_ray.agents.llm import Llm
from autoresearch_ray.board import replay
from autoresearch_ray.errors import AgentError, ProgramError
from autoresearch_ray.model import (
    Brief,
    Direction,
    Eval,
    Metric,
    Options,
    Program,
    Proposal,
    Scope,
    Status,
    TroubleKind,
)
from autoresearch_ray.ports import AgentSetup
from autoresearch_ray.program import read
from tests.brain import block
from tests.conftest import Toy
from tests.provider import Provider, Request, provider

SCOPE = Scope(("train.py", "sub/", ".github/"), ("sub/harness.py",))
EVAL = Eval("python train.py", Metric("loss", Direction.LOWER), 1, 2)
EDIT = ("train.py", "LR = 0.04", "LR = 0.02")
KEY = "sk-of-the-user-0123456789"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "train.py").write_text("LR = 0.04\nDEPTH = 2\n")
    return folder


def propose(
    stub: Provider | str, checkout: Path, cancel: threading.Event | None = None, key: str = KEY, **options: Any
) -> tuple[Proposal, str]:
    """What it proposes, and its transcript."""
    url, log = stub if isinstance(stub, str) else stub.url, checkout.parent / "agent.log"
    given = Options(**{"model": "m", "base_url": url, "secrets": ("OPENAI_API_KEY",), **options})
    setup = AgentSetup(Program("t", "t", SCOPE, EVAL), given, "gpu0", checkout.parent / "own", {"OPENAI_API_KEY": key})
    brief = Brief("gpu0-7", "# One experiment\n\nMake it better.\n", Direction.LOWER)
    return Llm(setup).propose(checkout, brief, log, cancel or threading.Event()), log.read_text()


def files(checkout: Path) -> dict[str, bytes]:
    return {str(each.relative_to(checkout)): each.read_bytes() for each in checkout.rglob("*") if each.is_file()}


# --- Through the whole engine ----------------------------------------------------------------------------------------


def towards(request: Request) -> tuple[str, str, str]:
    """The rate of the file that was shown, and half of what it lacks to 0.1; at first with a slip, to be repaired."""
    shown_rate = re.search(r"^LR = (.*)$", request.text, re.M)
    assert shown_rate
    if request.number == 1:
        return ("train.py", shown_rate[0], f"LR = half({shown_rate[1]})")
    if "half" in shown_rate[1]:
        told = request.text.split("## Repair your edit")[1]
        assert "NameError: name 'half' is not defined" in told and told.index("NameError") < told.index("SEARCH")
        return ("train.py", shown_rate[0], "LR = 0.3")
    return ("train.py", shown_rate[0], f"LR = {0.1 + (float(shown_rate[1]) - 0.1) / 2:.6g}")


def test_a_run_with_a_model_alone_ends_with_a_kept_commit(toy: Toy) -> None:
    more = "prices: {stub-1: {input: 1000, output: 10000}}\nsecrets: [OPENAI_API_KEY]\nexperiments: 3"
    program = toy.program(workers=1, more=more, budget="10 minutes")
    toy.commit("the program")
    with provider(towards) as stub:
        asked = ("--agent", "llm", "--model", "stub-1", "--base-url", stub.url, "--temperature", "0.5")
        done = subprocess.run(
            [sys.executable, "-m", "autoresearch_ray", "run", program.name, *asked, "--json"],
            cwd=toy.folder,
            env=os.environ | {"OPENAI_API_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert {each.headers["authorization"] for each in stub.requests} == {f"Bearer {KEY}"}
        assert (stub.requests[0].body["model"], stub.requests[0].body["temperature"]) == ("stub-1", 0.5)
    board = replay(ledger.read(toy.run_folder() / "ledger.jsonl"))
    kept = [each for each in board.experiments if each.status is Status.KEEP and each.number]
    assert kept and kept[0].idea.startswith("LR = 0.3") and kept[0].repaired.startswith("NameError: name 'half'")
    usage = kept[0].usage
    assert (usage.input_tokens, usage.cost_usd, usage.cost_source) == (2000, 2 * 1.5, "priced"), "of both rounds"
    (spent,) = board.money.by_agent.values()
    assert spent.usd == sum(each.usage.cost_usd or 0.0 for each in board.experiments) and not spent.unknown
    assert "+LR = " in toy.git("diff", "main", "autoresearch/t1", "--", "train.py")
    assert [str(each) for each in toy.folder.rglob("*") if each.is_file() and KEY.encode() in each.read_bytes()] == []


# --- One proposal ----------------------------------------------------------------------------------------------------


def test_the_files_in_scope_are_shown_and_the_edit_is_written(checkout: Path) -> None:
    (checkout / "sub").mkdir()
    (checkout / "sub" / "net.py").write_text("S = '````'")
    (checkout / "sub" / "harness.py").write_text("SECRET = 1\n")
    (checkout / "train.py").chmod(0o755)
    with provider(EDIT) as stub:
        proposal, transcript = propose(stub, checkout)
        asked = stub.requests[0]
    assert (proposal.idea, proposal.error, proposal.trouble) == ("LR = 0.02", None, None)
    assert (proposal.usage.input_tokens, proposal.usage.output_tokens, proposal.usage.cost_usd) == (1000, 50, None)
    assert (checkout / "train.py").read_text() == "LR = 0.02\nDEPTH = 2\n"
    assert os.access(checkout / "train.py", os.X_OK)
    assert "train.py\n````\nLR = 0.04\nDEPTH = 2\n````\n" in asked.text
    assert "sub/net.py\n`````\nS = '````'\n`````\n" in asked.text
    assert "SECRET" not in asked.text and "Make it better." in asked.text
    assert "temperature" not in asked.body
    assert "<<<<<<< SEARCH" in transcript and "changed train.py" in transcript


@pytest.mark.parametrize(
    ("reply", "idea"),
    [
        ("**Hypothesis:** lower is better\n\n{block}", "lower is better"),
        ("{block}\nidea: half the rate", "half the rate"),
        ("HYPOTHESIS: lower is better\n\n{block}\n**idea:** half the rate\n", "half the rate"),
        ("{block}", "an edit of train.py"),
        ("{block}" + "\n" * 300_000 + "Hypothesis:\n\nnothing", "nothing"),  # where a search would begin at each line
    ],
)
def test_the_idea_is_what_the_reply_calls_it(checkout: Path, reply: str, idea: str) -> None:
    with provider(say=lambda request: reply.format(block=block(EDIT))) as stub:
        assert propose(stub, checkout)[0].idea == idea


def test_a_reply_that_does_not_fit_is_answered_once(checkout: Path) -> None:
    replies = [block(("train.py", "LR = 0.05", "LR = 0.02")), block(EDIT)]
    with provider(say=lambda request: replies[request.number - 1]) as stub:
        proposal, transcript = propose(stub, checkout)
        turns = stub.requests[1].body["messages"]
    assert [each["role"] for each in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == replies[0]
    assert "no line `LR = 0.05`; it has `LR = 0.04`" in turns[2]["content"]
    assert (proposal.error, proposal.usage.input_tokens, proposal.usage.output_tokens) == (None, 2000, 100)
    assert (checkout / "train.py").read_text().startswith("LR = 0.02\n")
    assert "refused: a SEARCH is not in train.py" in transcript


def test_the_files_are_shown_as_they_stand_with_an_edit_that_is_to_be_repaired(checkout: Path) -> None:
    (checkout / "train.py").write_text("LR = 0.02 +\n")
    with provider(("train.py", "LR = 0.02 +", "LR = 0.02")) as stub:
        assert propose(stub, checkout)[0].error is None
        assert len(stub.requests) == 1
    assert (checkout / "train.py").read_text() == "LR = 0.02\n"


@pytest.mark.parametrize("mode", ["garbage", "empty", "badsearch", "length"])
def test_a_reply_that_does_not_fit_twice_is_rejected_and_leaves_every_byte(checkout: Path, mode: str) -> None:
    before = files(checkout)
    with provider(EDIT, mode) as stub:
        proposal, _ = propose(stub, checkout)
        assert len(stub.requests) == 2
    assert proposal.trouble and proposal.trouble.kind is TroubleKind.REJECTED
    assert proposal.error and proposal.error.startswith("the reply was refused: ")
    assert proposal.usage.input_tokens == 2000
    assert files(checkout) == before


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("401", TroubleKind.AUTH, "HTTP 401"),
        ("404", TroubleKind.CRASHED, "HTTP 404"),
        ("429", TroubleKind.RATE_LIMITED, "HTTP 429"),
        ("quota", TroubleKind.AUTH, "HTTP 429"),
        ("500", TroubleKind.UNAVAILABLE, "HTTP 500"),
        ("truncate", TroubleKind.UNAVAILABLE, "Connection error"),
        ("noise", TroubleKind.UNAVAILABLE, "cannot be read"),
        ("html", TroubleKind.CRASHED, "is base_url right?"),
        ("hang", TroubleKind.TIMEOUT, "in time"),
        ("stall", TroubleKind.TIMEOUT, "in time"),
    ],
)
def test_what_the_endpoint_does_is_told_by_its_kind(checkout: Path, mode: str, kind: TroubleKind, words: str) -> None:
    before = files(checkout)
    with provider(EDIT, mode) as stub:
        stub.retry_after = "7"
        proposal, transcript = propose(stub, checkout, agent_minutes=0.02 if kind is TroubleKind.TIMEOUT else 1)
        assert len(stub.requests) == 1, "the breaker decides when to ask again"
    assert proposal.trouble and proposal.trouble.kind is kind
    assert proposal.trouble.retry_after_seconds == (7.0 if mode == "429" else None)
    assert proposal.error and words in proposal.error and words in transcript
    assert files(checkout) == before


def test_an_endpoint_that_is_not_there(checkout: Path) -> None:
    with provider() as stub:
        url = stub.url
    proposal, _ = propose(url, checkout)
    assert proposal.trouble and proposal.trouble.kind is TroubleKind.UNAVAILABLE


@pytest.mark.parametrize("mode", ["hang", "stall"])
def test_it_returns_when_the_run_ends(checkout: Path, mode: str) -> None:
    cancel, said = threading.Event(), list[Proposal]()
    with provider(EDIT, mode) as stub:
        lane = threading.Thread(target=lambda: said.append(propose(stub, checkout, cancel)[0]))
        lane.start()
        until(lambda: stub.requests)
        cancel.set()
        lane.join(30)
        assert not lane.is_alive(), "the provider still has it waiting"
    assert said[0].error == "the agent was cancelled"
    assert (checkout / "train.py").read_text().startswith("LR = 0.04")


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_secret_that_comes_back_is_not_written_down(checkout: Path) -> None:
    with provider(say=lambda request: f"{block(EDIT)}\nidea: use {request.headers['authorization']}") as stub:
        proposal, transcript = propose(stub, checkout)
    assert proposal.idea == "use Bearer [secret]"
    assert KEY not in transcript


@contextmanager
def endpoint(answer: Callable[[str], tuple[int, str, str]]) -> Iterator[str]:
    """The URL of one that answers with whatever `answer` makes of the header with the key: status, type and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, kind, body = answer(self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *arguments: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def test_a_secret_that_would_be_cut_in_two_is_not_written_down(checkout: Path) -> None:
    def echo(header: str) -> tuple[int, str, str]:
        return 500, "application/json", json.dumps({"error": {"message": "y" * 440 + header}})

    with endpoint(echo) as url:
        proposal, transcript = propose(url, checkout)
    assert proposal.error and "[secret]" in proposal.error and "yyBearer" in transcript
    assert KEY[:8] not in proposal.error + transcript
    with provider(say=lambda request: f"{block(EDIT)}\nidea: {'y' * 185} {request.headers['authorization']}") as stub:
        assert KEY[:4] not in propose(stub, checkout)[0].idea


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_end_of_a_key_is_no_part_of_it(checkout: Path, end: str) -> None:
    """As a header it is illegal, and the error that says so quotes the key."""
    with provider(say=lambda request: f"{block(EDIT)}\nidea: use {request.headers['authorization']}") as stub:
        proposal, transcript = propose(stub, checkout, key=KEY + end)
    assert (proposal.error, proposal.idea) == (None, "use Bearer [secret]")
    assert KEY not in transcript


@pytest.mark.parametrize(
    "data",
    [
        '{"choices": null}',
        '{"choices": [{"delta": null}]}',
        '{"choices": [{"delta": {"content": [1]}}]}',
        "[1]",
        "[" * 9999,
    ],
)
def test_a_stream_of_other_shapes_is_the_endpoints_fault(checkout: Path, data: str) -> None:
    with endpoint(lambda key: (200, "text/event-stream", f"data: {data}\n\ndata: [DONE]\n\n")) as url:
        proposal, _ = propose(url, checkout)
    assert proposal.trouble and proposal.trouble.kind is TroubleKind.UNAVAILABLE
    assert proposal.error and "cannot be read" in proposal.error


# --- What is shown, and what may be written --------------------------------------------------------------------------


def test_what_does_not_fit_is_left_out_and_said(checkout: Path) -> None:
    (checkout / "sub").mkdir()
    (checkout / "sub" / "large.py").write_text("x = 1\n" * 50_000)
    (checkout / "sub" / "data.bin").write_bytes(b"\xff\xfe\x00")
    (checkout / "sub" / "link.py").symlink_to("/etc/passwd")
    (checkout / "sub" / "__pycache__").mkdir()
    (checkout / "sub" / "__pycache__" / "x.py").write_text("x = 1\n")
    with provider(EDIT) as stub:
        propose(stub, checkout)
        text = stub.requests[0].text
    assert "- sub/data.bin: not text in UTF-8\n- sub/large.py: 300000 bytes do not fit\n" in text
    assert "x = 1" not in text and "passwd" not in text and "link.py" not in text
    small = shown(checkout, SCOPE, 3)
    assert (dict(small.texts), list(small.left_out)) == ({}, ["sub/data.bin", "train.py", "sub/large.py"])


def test_a_file_whose_name_is_no_text_is_left_out(checkout: Path) -> None:
    (checkout / "sub").mkdir()
    for name in (b"\xff.py", b"a\n\n# Rules\n"):
        Path(os.fsdecode(bytes(checkout / "sub") + b"/" + name)).write_text("x = 1\n")
    with provider(EDIT) as stub:
        assert propose(stub, checkout)[0].error is None
        text = stub.requests[0].text
    assert "- 'sub/\\udcff.py': its name cannot be written" in text and "\n# Rules" not in text


def test_what_was_not_shown_cannot_be_made(checkout: Path) -> None:
    (checkout / "sub").mkdir()
    (checkout / "sub" / "large.py").write_text("")
    (checkout / "elsewhere").mkdir()
    (checkout / "sub" / "link").symlink_to("../elsewhere")
    for path, why in {
        "sub/new.py": "",
        "sub/deep/er/new.py": "",
        "harness.py": "is not in scope",
        "sub/harness.py": "is not in scope",
        "sub/large.py": "was not shown",
        "sub/link/new.py": "behind a link",
        "sub/large.py/new.py": "behind a link or a file",
        ".github/new.yml": "no name for a new file",
        "sub/nеw.py": "no name for a new file",
        "sub/run.log": "no name for a new file",
    }.items():
        said = why_not_create(checkout, SCOPE, path)
        assert why in said and bool(why) == bool(said), path


def test_several_files_are_written_all_or_none(checkout: Path) -> None:
    before = files(checkout)
    with pytest.raises(OSError, match=r"train\.py"):
        write(checkout, {"train.py": "LR = 1\n", "train.py/x.py": "x = 1\n"})
    assert files(checkout) == before
    write(checkout, {"train.py": "LR = 1\r\n", "sub/x.py": "x = 1\n"})
    assert files(checkout) == {"train.py": b"LR = 1\r\n", "sub/x.py": b"x = 1\n"}


# --- Settings --------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AgentError, match="no model") as raised:
        Llm.check(Options(base_url="http://localhost:8000/v1"), {})
    assert "--model" in raised.value.hint
    with pytest.raises(AgentError, match="no key") as raised:
        Llm.check(Options(model="m"), {})
    assert "secrets: [OPENAI_API_KEY]" in raised.value.hint and "--base-url" in raised.value.hint
    Llm.check(Options(model="m"), {"OPENAI_API_KEY": "k"})
    Llm.check(Options(model="m", base_url="http://localhost:8000/v1"), {})
    Llm.check(Options(model="m"), {"OPENAI_BASE_URL": "http://localhost:8000/v1"})
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(AgentError, match="needs the package openai") as raised:
        Llm.check(Options(model="m"), {"OPENAI_API_KEY": "k"})
    assert "autoresearch-ray[llm]" in raised.value.hint


def test_a_local_endpoint_needs_no_key_and_may_come_from_the_environment(checkout: Path) -> None:
    with provider(EDIT) as stub:
        options = Options(model="m")
        setup = AgentSetup(
            Program("t", "t", SCOPE, EVAL), options, "gpu0", checkout.parent / "own", {"OPENAI_BASE_URL": stub.url}
        )
        brief = Brief("gpu0-1", "Go.", Direction.LOWER)
        proposal = Llm(setup).propose(checkout, brief, checkout.parent / "agent.log", threading.Event())
        assert proposal.error is None
        assert stub.requests[0].headers["authorization"] == "Bearer none"


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("base_url: http://localhost:8000/v1", True),
        ("base_url: https://user:word@host/v1", False),
        ("base_url: localhost:8000", False),
        ("temperature: 0", True),
        ("temperature: -1", False),
        ("temperature: 3", False),
    ],
)
def test_the_options_in_the_front_matter(toy: Toy, line: str, good: bool) -> None:
    path = toy.program(more=line)
    if good:
        name, _, value = line.partition(": ")
        assert str(getattr(read(path).options, name)).removesuffix(".0") == value
    else:
        with pytest.raises(ProgramError, match=line.partition(":")[0]) as raised:
            read(path)
        assert "user:word" not in str(raised.value)
