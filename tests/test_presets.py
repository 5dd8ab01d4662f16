"""Our side of the presets: how each calls its tool, where it lets it keep its state, and how it reads what it reports.

Stand-ins on PATH take the place of the tools here; tests/transcripts says which reports were recorded from a program.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ray import program
from autoresearch_ray.agents._events import dollars, objects, result, tokens
from autoresearch_ray.agents._home import own_home
from autoresearch_ray.agents.aider import Aider, _unfenced
from autoresearch_ray.agents.codex import Codex
from autoresearch_ray.agents.opencode import _edits
from autoresearch_ray.errors import AgentError, ProgramError
from autoresearch_ray.model import Brief, Direction, Options, Price, Proposal, Scope, TroubleKind
from autoresearch_ray.money import billed
from autoresearch_ray.ports import AgentSetup, named
from autoresearch_ray.sandbox import program as where
from tests.test_agents import PROGRAM

TRANSCRIPTS = Path(__file__).parent / "transcripts"
URL = "http://localhost:8000/v1"
PROGRAMS = {"cursor": "cursor-agent"}
PRESETS = ("aider", "claude", "codex", "copilot", "cursor", "gemini", "goose", "mini", "opencode", "pi", "qwen")
ENDPOINTS = tuple(each for each in PRESETS if each not in ("cursor", "gemini"))
USED = {  # one request each, in the tool's own words
    "pi": {"input": 900, "output": 0, "cacheRead": 9_000, "cacheWrite": 100},
    "opencode": {"input": 900, "output": 0, "reasoning": 0, "cache": {"read": 9_000, "write": 100}},
}
STAND_IN = """\
#!/bin/sh
for each; do printf '%s\\0' "$each"; done > ../argv; cat > ../stdin; env -0 > ../env
while [ $# -gt 0 ]; do [ "$1" = --output ] && cp "{output}" "$2"; shift; done
cat "{output}"; exit {status}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "train.py").write_text("WIDTH = 64\n")
    return folder


class Called:
    """What a stand-in was called with, and what its preset made of the transcript that it played."""

    def __init__(self, checkout: Path, name: str, transcript: str = "", status: int = 0, **options: Any) -> None:
        folder, environ = checkout.parent, dict(options.pop("environ", {}))
        (folder / "bin").mkdir()
        output = TRANSCRIPTS / name / f"{transcript}.jsonl" if transcript else os.devnull
        stand_in = folder / "bin" / PROGRAMS.get(name, name)
        stand_in.write_text(STAND_IN.format(output=output, status=status))
        stand_in.chmod(0o755)
        (folder / "user").mkdir()
        environ |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder / "user")}
        options = {"model": "provider/model-1", **options}
        self.options = Options(agent=name, **options)
        kind = named("agents", name)
        kind.check(self.options, environ)
        self.agent = agent = kind(AgentSetup(PROGRAM, self.options, "gpu0", folder / "state", environ))
        brief = Brief(id="gpu0-1", prompt="Make it better.\n", direction=Direction.LOWER)
        self.proposal: Proposal = agent.propose(checkout, brief, folder / "agent.log", threading.Event())
        self.argv = (folder / "argv").read_text().split("\0")[:-1]
        self.stdin = (folder / "stdin").read_text()
        self.env = dict(each.split("=", 1) for each in (folder / "env").read_text().split("\0")[:-1])
        self.folder = folder


# --- What breaks their reports ---------------------------------------------------------------------------------------

DEEP = "[" * 100_000


def test_a_report_that_nests_without_an_end_or_counts_beyond_all_numbers_is_passed_over() -> None:
    good = '{"type": "result", "n": 1}'
    assert list(objects(f'{{"a":{DEEP}\n{good}\n')) == [{"type": "result", "n": 1}]
    assert result(f"{good}\n{DEEP}\n") == {"type": "result", "n": 1}
    assert (tokens([10**400, 7]), dollars([10**400, 0.5]), dollars([1e308, 1e308])) == (7, 0.5, None)


def test_a_trajectory_that_nests_without_an_end_is_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout.parent / "mini").mkdir()
    (checkout.parent / "mini" / "t.jsonl").write_text(DEEP)
    monkeypatch.setattr("tests.test_presets.TRANSCRIPTS", checkout.parent)
    assert Called(checkout, "mini", "t").proposal.error == "mini left no trajectory"


@pytest.mark.parametrize(("session", "known"), [("0c7df60d-6ff6", True), ("--add-dir=/", False), ("../../x", False)])
def test_what_reads_as_an_option_is_no_conversation_to_go_on_with(checkout: Path, session: str, known: bool) -> None:
    environ = {"ANTHROPIC_API_KEY": "k"}
    (checkout.parent / "claude").mkdir()
    said = json.dumps({"type": "result", "result": "idea: x", "session_id": session})
    (checkout.parent / "claude" / "t.jsonl").write_text(said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.test_presets.TRANSCRIPTS", checkout.parent)
        agent = Called(checkout, "claude", "t", environ=environ).agent
    brief = Brief(id="gpu0-1", prompt="Again.\n", direction=Direction.LOWER, repair=True)
    agent.propose(checkout, brief, checkout.parent / "agent.log", threading.Event())
    argv = (checkout.parent / "argv").read_text().split("\0")
    assert (session in argv, "--resume" in argv) == (known, known)


def test_fences_are_left_out_in_one_pass() -> None:
    said = "a\n```py\nx\n```\nb\n~~~~ x\n````\nc\n```\nd\n````  \ne\n~~~\nf"
    assert _unfenced(said) == "a\nb\n~~~~ x\ne\n~~~\nf"
    for hard in ("~~~a\n" * 200_000, "`" * 1_000_000):
        assert _unfenced(hard) == hard


def test_no_model_reads_as_an_option() -> None:
    with pytest.raises(ProgramError, match="model must be a name"):
        program.options(Options(), {"model": "--yolo"})
    with pytest.raises(ProgramError, match="model must be a name"):
        program.options(Options(), {"agents": [{"agent": "codex", "model": "-c"}]})


# --- What they report ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "idea", "asked", "cached", "said", "dollars"),
    [
        ("claude", "Changed 'LR = 0.04' to", 3000, 0, 150, 0.01875),
        ("codex", "Changed 'LR = 0.04' to", 2000, 0, 100, None),
        ("copilot", "Changed 'LR = 0.04' to", None, None, None, None),
        ("cursor", "LR 0.04 -> 0.02", 3000, 2000, 50, None),
        ("gemini", "LR 0.04 -> 0.02", 3000, 1000, 120, None),
        ("goose", "LR 0.04 -> 0.02", 3000, None, 150, 0.0113),
        ("mini", "Hypothesis: a lower rate trains better", 2000, 0, 100, None),
        ("opencode", "Changed 'LR = 0.04' to", 3000, 0, 150, None),
        ("qwen", "Changed 'LR = 0.04' to", 3000, 0, 150, None),
    ],
)
def test_an_edit_is_read_with_its_idea_and_what_it_cost(
    checkout: Path,
    name: str,
    idea: str,
    asked: int | None,
    cached: int | None,
    said: int | None,
    dollars: float | None,
) -> None:
    proposal = Called(checkout, name, "edit").proposal
    assert proposal.idea.startswith(idea)
    assert (proposal.error, proposal.trouble) == (None, None)
    usage = proposal.usage
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (asked, cached, said)
    assert usage.cost_usd == (pytest.approx(dollars) if dollars else None), "what is not known is None, and never 0"


@pytest.mark.parametrize(
    ("name", "transcript", "status", "kind", "seconds"),
    [
        *((each, "auth", 1, TroubleKind.AUTH, None) for each in ("claude", "codex", "copilot", "cursor", "goose")),
        *((each, "auth", 0, TroubleKind.AUTH, None) for each in ("gemini", "mini", "opencode", "qwen")),
        ("gemini", "limited", 1, TroubleKind.RATE_LIMITED, 34.0),
        ("cursor", "rejected", 0, TroubleKind.REJECTED, None),
    ],
)
def test_a_failure_is_read_with_its_kind_whatever_the_exit_status(
    checkout: Path,
    name: str,
    transcript: str,
    status: int,
    kind: TroubleKind,
    seconds: float | None,
) -> None:
    proposal = Called(checkout, name, transcript, status).proposal
    assert proposal.error and proposal.trouble
    assert (proposal.trouble.kind, proposal.trouble.retry_after_seconds) == (kind, seconds)


@pytest.mark.parametrize("name", PRESETS)
def test_a_tool_that_says_nothing_is_a_failure_or_no_edit_and_no_crash(checkout: Path, name: str) -> None:
    proposal = Called(checkout, name).proposal
    assert proposal.idea == "no description"
    assert proposal.usage.input_tokens is proposal.usage.cost_usd is None


# --- How they are called ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_the_prompt_the_model_and_further_arguments_reach_the_tool(checkout: Path, name: str) -> None:
    called = Called(checkout, name, extra_args=("--some", "thing else"))
    at = called.argv.index("--some")
    assert called.argv[at + 1] == "thing else"
    prompt = str(called.folder / "state" / "prompt.md")
    assert called.stdin == "Make it better.\n"
    assert (
        "Make it better.\n" in called.argv or prompt in called.argv or name not in ("aider", "cursor", "goose", "mini")
    )
    told = " ".join(
        (*called.argv, *(f"{key}={value}" for key, value in called.env.items() if "AUTORESEARCH" not in key))
    )
    assert "model-1" in told
    assert not any("dangerous" in each or each in ("--force", "--allow-all") for each in called.argv)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_endpoint_reaches_the_tool_and_its_state_stays_in_the_folder_of_the_lane(
    checkout: Path,
    name: str,
) -> None:
    called = Called(checkout, name, base_url=URL)
    written = [
        each.read_text() for each in (called.folder / "state").rglob("*.json") if each.name != "aider.models.json"
    ]
    told = "\n".join((*called.argv, *(f"{k}={v}" for k, v in called.env.items() if "AUTORESEARCH" not in k), *written))
    assert "http://localhost:8000" in told
    assert any(key.endswith("_API_KEY") and value == "none" for key, value in called.env.items()), "clients want a key"
    assert list((called.folder / "user").iterdir()) == []
    state = str(called.folder / "state")
    places = ("HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_HOME")
    assert any(called.env.get(each, "").startswith(state) for each in places)


@pytest.mark.parametrize("name", [each for each in PRESETS if each not in ENDPOINTS])
def test_a_tool_that_knows_its_own_provider_alone_is_not_pointed_at_another(name: str, tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        named("agents", name).check(Options(base_url=URL, model="m"), with_program(tmp_path, name))
    assert "base_url" in caught.value.hint


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_endpoint_without_a_model_is_refused_before_the_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        named("agents", name).check(Options(base_url=URL), with_program(tmp_path, name))
    assert "--model" in caught.value.hint


@pytest.mark.parametrize("name", PRESETS)
def test_a_tool_that_is_not_installed_is_refused_with_a_way_to_install_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        named("agents", name).check(Options(model="provider/m"), {"PATH": str(tmp_path)})
    assert "install" in caught.value.hint


def with_program(folder: Path, name: str) -> dict[str, str]:
    program = folder / PROGRAMS.get(name, name)
    program.touch(0o755)
    return {"PATH": str(folder)}


def test_goose_wants_the_provider_of_a_model(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        named("agents", "goose").check(Options(model="claude"), with_program(tmp_path, "goose"))
    assert "provider/name" in caught.value.hint


def test_further_arguments_of_a_command_belong_into_the_command() -> None:
    with pytest.raises(AgentError) as caught:
        named("agents", "command").check(Options(agent_command="./agent", extra_args=("--x",)), {})
    assert "--agent-command" in caught.value.hint


def test_a_command_is_told_the_endpoint(checkout: Path) -> None:
    options = Options(
        agent_command='echo "idea: $AUTORESEARCH_MODEL at $AUTORESEARCH_BASE_URL"', model="m", base_url=URL
    )
    agent = named("agents", "command")(
        AgentSetup(PROGRAM, options, "gpu0", checkout.parent / "state", dict(os.environ))
    )
    brief = Brief("gpu0-1", "x", Direction.LOWER)
    assert agent.propose(checkout, brief, checkout.parent / "log", threading.Event()).idea == f"m at {URL}"


def test_opencode_is_held_to_the_scope_wherever_the_program_lies(checkout: Path) -> None:
    (checkout.parent / ".git").mkdir()
    scope = Scope(can=("train.py", "./src/", "*.yaml"), cannot=("src/frozen.py",))
    rules = _edits(scope, checkout)
    assert next(iter(rules)) == "*" and rules["*"] == "deny", "the last rule that fits counts"
    allowed = {path for path, rule in rules.items() if rule == "allow"}
    assert {"checkout/train.py", "checkout/src/*", "checkout/*.yaml"} <= allowed
    assert rules["checkout/src/frozen.py"] == "deny" and list(rules).index("checkout/src/frozen.py") > list(
        rules
    ).index("checkout/src/*")
    assert _edits(Scope(can=(".",)), checkout)["checkout/*"] == "allow"


def test_a_home_of_the_lane_holds_the_users_programs_and_nothing_else(checkout: Path) -> None:
    user = checkout.parent / "user"
    for each in (".volta/bin", ".volta/lib", ".ssh", ".aider"):
        (user / each).mkdir(parents=True)
    for _ in range(2):  # each proposal makes sure of it
        made = own_home(checkout.parent / "state", {"HOME": str(user), "PATH": f"{user}/.volta/bin:/usr/bin"})
    home = Path(made["HOME"])
    assert [each.name for each in home.iterdir()] == [".volta"] and (home / ".volta/bin").is_dir()
    assert made["XDG_CONFIG_HOME"] == f"{home}/.config"


def test_a_sandbox_shows_a_program_with_the_packages_that_it_lies_among(tmp_path: Path) -> None:
    """A tool that npm had put into a folder of the user's was not found by its name inside."""
    packaged, alone = tmp_path / "node_modules/tool/bin/tool.js", tmp_path / "share/claude/versions/2.1"
    for real, link in ((packaged, tmp_path / "node_modules/.bin/tool"), (alone, tmp_path / "bin/claude")):
        for each in (real, link):
            each.parent.mkdir(parents=True, exist_ok=True)
        real.touch(0o755)
        link.symlink_to(real)
    environ = {"PATH": f"{tmp_path}/node_modules/.bin:{tmp_path}/bin", "HOME": "/nowhere"}
    assert where("tool", environ) == [tmp_path / "node_modules"]
    assert where("claude", environ) == [alone.parent]
    assert where("nothing", environ) == []


def test_aider_gets_the_files_in_scope_or_its_map_where_they_are_too_many(checkout: Path) -> None:
    (checkout / "harness.py").write_text("frozen\n")
    few = Called(checkout, "aider")
    assert few.argv[few.argv.index("--file") + 1] == "train.py" and "harness.py" not in few.argv
    assert "--no-git" in few.argv
    (checkout / "train.py").write_text("x = 1\n" * 100_000)
    agent = Aider(AgentSetup(PROGRAM, few.options, "gpu0", few.folder / "state", {}))
    assert not {"--file", "--no-git"} & set(agent.start(checkout)) and "--subtree-only" in agent.start(checkout)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("pi", {"type": "turn_end", "message": {"role": "assistant", "content": [], "usage": USED["pi"]}}),
        ("opencode", {"type": "step_finish", "part": {"tokens": USED["opencode"]}}),
    ],
)
def test_what_the_provider_had_read_before_has_its_own_price(
    checkout: Path, name: str, event: dict[str, object]
) -> None:
    """Of a long conversation most is cached: at the price of new tokens it would cost five times what it did."""
    setup = AgentSetup(PROGRAM, Options(agent=name, model="m"), "gpu0", checkout.parent / "state", {})
    usage = named("agents", name)(setup).read(json.dumps(event)).usage
    assert (usage.input_tokens, usage.cached_tokens) == (10_000, 9_000)
    assert billed(usage, "tokens", Price(1.0, 0.0, cached=0.1)).cost_usd == pytest.approx(0.0019)


def test_what_codex_counts_in_a_whole_conversation_is_told_once(checkout: Path) -> None:
    codex = Codex(AgentSetup(PROGRAM, Options(base_url=URL, model="m"), "gpu0", checkout.parent / "state", {}))

    def usage(asked: int) -> int | None:
        events = [
            {"type": "thread.started", "thread_id": "t1"},
            {"type": "turn.completed", "usage": {"input_tokens": asked, "output_tokens": 10}},
        ]
        return codex.read("\n".join(map(json.dumps, events))).usage.input_tokens

    assert [usage(2000), usage(3000)] == [2000, 1000]


@pytest.mark.parametrize(
    ("line", "options"),
    [
        (f"base_url: {URL}", {"base_url": URL}),
        ("extra_args: [--effort, high]", {"extra_args": ("--effort", "high")}),
    ],
)
def test_the_front_matter_takes_them(line: str, options: dict[str, Any]) -> None:
    assert program.parse(page(line)).options == Options(**options)


@pytest.mark.parametrize(
    "line",
    ["base_url: localhost:8000", "base_url: http://user:hunter2@host/v1", "extra_args: --effort", "extra_args: ['']"],
)
def test_the_front_matter_refuses_what_is_none(line: str) -> None:
    with pytest.raises(ProgramError) as caught:
        program.parse(page(line))
    assert "hunter2" not in str(caught.value), "a password is not shown"


def page(line: str) -> str:
    scope, measured = "## Scope\n- Files you CAN modify: a\n", "Metric: `m` (lower is better)\nTime budget: 1 minute\n"
    return f"---\n{line}\n---\n# T\n{scope}## Eval\nCommand: `x`\n{measured}"
