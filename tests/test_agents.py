"""The agents: that each has the shape of the port, and what each does with a checkout.

The tests of `claude` and `codex` are contract tests of our side alone: small stand-ins on PATH take their arguments and
print the documented shapes of their output. No real tool is driven.
"""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import sys
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import autoresearch_ray.agents
from autoresearch_ray.agents._state import recall, remember
from autoresearch_ray.agents._trouble import trouble_in
from autoresearch_ray.agents.claude import Claude
from autoresearch_ray.agents.codex import Codex
from autoresearch_ray.agents.command import Command, idea_in
from autoresearch_ray.agents.none import NoAgent
from autoresearch_ray.agents.scripted import Scripted
from autoresearch_ray.errors import AgentError
from autoresearch_ray.model import (
    Brief,
    Direction,
    Eval,
    Metric,
    Options,
    Program,
    Proposal,
    Scope,
    Trouble,
    TroubleKind,
)
from autoresearch_ray.ports import Agent, AgentSetup, named

PROGRAM = Program(
    "A title", "text", Scope(("train.py",)), Eval("python train.py", Metric("loss", Direction.LOWER), 1, 2)
)
PATH = os.environ["PATH"]
NAMES = sorted(each.name for each in pkgutil.iter_modules(autoresearch_ray.agents.__path__) if each.name[0] != "_")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "train.py").write_text("WIDTH = 64\nDEPTH = 2\n")
    return folder


def propose(
    kind: type[Agent],
    checkout: Path,
    *,
    id: str = "gpu0-1",
    lane: str = "gpu0",
    environ: dict[str, str] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> Proposal:
    folder = checkout.parent / f"state-{lane}"
    setup = AgentSetup(PROGRAM, Options(**options), lane, folder, {"PATH": PATH} if environ is None else environ)
    brief = Brief(id=id, prompt="Make it better.\nÄ line with `marks`.\n", direction=Direction.LOWER)
    return kind(setup).propose(checkout, brief, checkout.parent / "agent.log", cancel or threading.Event())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Any, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


# --- The port --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_file_has_one_public_class_of_the_shape_of_the_port(name: str) -> None:
    agent = named("agents", name)
    for method in ("__init__", "check", "propose"):
        assert list(inspect.signature(getattr(agent, method)).parameters) == list(
            inspect.signature(getattr(Agent, method)).parameters
        )
    assert inspect.ismethod(agent.check), "check is a class method: it is asked before there is a lane"
    assert inspect.getdoc(agent) != inspect.getdoc(object)
    assert agent.__doc__ and agent.propose.__doc__ and agent.check.__doc__


def test_agents_that_can_repair_an_edit_are_those_that_ask_a_model() -> None:
    assert not any(getattr(named("agents", name), "repairs", False) for name in ("knobs", "none", "scripted"))
    assert all(named("agents", name).repairs is True for name in ("claude", "codex", "command"))


def test_the_closet_holds_the_agents_that_the_documentation_names() -> None:
    assert {"claude", "codex", "command", "knobs", "none", "scripted"} <= set(NAMES)


def test_none_changes_nothing(checkout: Path) -> None:
    before = (checkout / "train.py").read_bytes()
    assert propose(NoAgent, checkout).error is None
    assert [each.name for each in checkout.iterdir()] == ["train.py"]
    assert (checkout / "train.py").read_bytes() == before


# --- command ---------------------------------------------------------------------------------------------------------


def test_a_command_gets_the_prompt_on_stdin_and_in_a_file_outside_the_checkout(checkout: Path) -> None:
    script = (
        'cat > stdin.txt; cp "$AUTORESEARCH_PROMPT" file.txt; echo "$AUTORESEARCH_PROMPT" > name.txt; echo "idea: x"'
    )
    proposal = propose(Command, checkout, agent_command=script)
    assert (proposal.idea, proposal.error) == ("x", None)
    assert (checkout / "stdin.txt").read_text() == "Make it better.\nÄ line with `marks`.\n"
    assert (checkout / "file.txt").read_bytes() == (checkout / "stdin.txt").read_bytes()
    assert not Path((checkout / "name.txt").read_text().strip()).is_relative_to(checkout)
    assert proposal.usage.seconds > 0 and proposal.usage.cost_usd is None


def test_a_command_sees_the_environment_that_it_was_given_and_no_other(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODY_ELSES_SECRET", "hidden")
    environ = {"PATH": PATH, "HOME": "/home/of/the/user", "MY_KEY": "given"}
    propose(Command, checkout, environ=environ, agent_command="env > env.txt", model="small")
    seen = dict(line.split("=", 1) for line in (checkout / "env.txt").read_text().splitlines())
    assert "SOMEBODY_ELSES_SECRET" not in seen
    assert (seen["MY_KEY"], seen["HOME"], seen["CUDA_VISIBLE_DEVICES"]) == ("given", "/home/of/the/user", "")
    assert (seen["AUTORESEARCH_LANE"], seen["AUTORESEARCH_EXPERIMENT"]) == ("gpu0", "gpu0-1")
    assert seen["AUTORESEARCH_MODEL"] == "small"
    own = {each for each in seen if each.startswith("AUTORESEARCH_")}
    assert seen.keys() - own - {"_", "PWD", "OLDPWD", "SHLVL"} == environ.keys() | {"CUDA_VISIBLE_DEVICES"}


@pytest.mark.parametrize(
    ("said", "idea"),
    [
        ("thinking\nidea: a wider net\ndone\n", "a wider net"),
        ("idea: first\nidea: second\n", "second"),
        ("Idea:   spaces\tand tabs  \n", "spaces and tabs"),
        ("**idea:** bold", "bold"),
        ("- `idea: quoted`", "quoted"),
        ("no mark here\nbut a last line\n\n  \n", "but a last line"),
        ("idea:\nan empty mark does not count", "an empty mark does not count"),
        ("an idea: in the middle of a line is none", "an idea: in the middle of a line is none"),
        ("idea: \x1b[31mred\x1b[0m\x07 bell\u202e", "red bell"),
        ("idea: " + "x" * 500, "x" * 200),
        ("", "no description"),
    ],
)
def test_the_idea_is_the_last_marked_line_or_else_the_last_line(said: str, idea: str) -> None:
    assert idea_in(said) == idea


@given(st.text())
def test_an_idea_is_one_clean_line_whatever_was_said(said: str) -> None:
    idea = idea_in(said)
    assert 0 < len(idea) <= 200
    assert not any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in idea)


def test_an_agent_that_takes_too_long_is_stopped_with_all_that_it_started(checkout: Path) -> None:
    script = "setsid sleep 300 & echo $! > pid; echo 'WIDTH = 96' > train.py; echo 'idea: half done'; sleep 300"
    proposal = propose(Command, checkout, agent_command=script, agent_minutes=0.02)
    assert proposal.error == "the agent was stopped after 0.02 minutes"
    assert proposal.idea == "half done"
    pid = int((checkout / "pid").read_text())
    assert until(lambda: not alive(pid))


def test_nothing_that_an_agent_started_lives_on_after_it(checkout: Path) -> None:
    proposal = propose(Command, checkout, agent_command="setsid sleep 300 & echo $! > pid; echo 'idea: leave'")
    assert proposal.error is None
    pid = int((checkout / "pid").read_text())
    assert until(lambda: not alive(pid))


def test_a_cancelled_agent_returns_soon(checkout: Path) -> None:
    cancel = threading.Event()
    waiter = threading.Thread(target=lambda: until((checkout / "begun").exists) and cancel.set())
    waiter.start()
    begun = time.monotonic()
    proposal = propose(Command, checkout, agent_command="touch begun; sleep 300", cancel=cancel)
    waiter.join()
    assert proposal.error == "the agent was cancelled"
    assert time.monotonic() - begun < 20


def test_a_failing_agent_is_a_value_with_its_last_words(checkout: Path) -> None:
    proposal = propose(Command, checkout, agent_command="echo 'idea: half'; echo no such model >&2; exit 3")
    assert proposal.idea == "half"
    assert proposal.error is not None and "status 3" in proposal.error and "no such model" in proposal.error


def test_of_a_traceback_the_exception_is_told_and_not_how_it_came_there(checkout: Path) -> None:
    script = f"{sys.executable} -c 'def ask(): return missing\nask()'"
    proposal = propose(Command, checkout, agent_command=script)
    assert proposal.error == "the agent exited with status 1: NameError: name 'missing' is not defined"


def test_an_answer_of_an_earlier_experiment_is_not_read_again(checkout: Path) -> None:
    assert propose(Command, checkout, agent_command="echo 'idea: one'").idea == "one"
    assert propose(Command, checkout, agent_command="true", id="gpu0-2").idea == "no description"


@pytest.mark.parametrize("command", [None, "", "  ", "no-such-agent-anywhere --fast", "\tno-such-agent-anywhere"])
def test_a_command_that_cannot_work_is_refused_before_the_run(command: str | None) -> None:
    with pytest.raises(AgentError) as caught:
        Command.check(Options(agent_command=command), {"PATH": PATH})
    assert "--agent-command" in caught.value.hint


@pytest.mark.parametrize(
    "command", ["sh agent.sh", "./agent.sh", "cd src && ./agent", "KEY=1 anything", "if true; then :; fi", "'my agent'"]
)
def test_a_command_that_only_the_shell_can_judge_is_let_through(command: str) -> None:
    Command.check(Options(agent_command=command), {"PATH": PATH})


class Talks(Command):
    """A preset whose tool can go on with a conversation."""

    def start(self, checkout: Path) -> str:
        return f"echo {self.session or 'fresh'} $AUTORESEARCH_REPAIR >> {self.folder}/asked; echo idea: deeper"

    def read(self, stdout: str) -> Proposal:
        return Proposal(idea_in(stdout), session=f"session-{self.folder.joinpath('asked').read_text().count(chr(10))}")


def test_only_a_repair_goes_on_with_the_conversation_of_its_own_experiment(checkout: Path) -> None:
    folder = checkout.parent / "state"
    agent = Talks(AgentSetup(PROGRAM, Options(), "gpu0", folder, {"PATH": PATH}))
    for id, repair in (("gpu0-1", False), ("gpu0-1", True), ("gpu0-1", True), ("gpu0-1", False), ("gpu0-2", True)):
        brief = Brief(id, "Make it better.", Direction.LOWER, repair=repair)
        assert agent.propose(checkout, brief, folder.parent / "agent.log", threading.Event()).error is None
    asked = (folder / "asked").read_text().split("\n")[:-1]
    assert asked == ["fresh", "session-1 1", "session-2 1", "fresh", "fresh 1"]


# --- claude and codex: our side of the contract ----------------------------------------------------------------------


def stand_in(folder: Path, name: str, output: str, status: int = 0) -> dict[str, str]:
    """An executable `name` that notes how it was called, edits a file, prints `output`; and the environment for it."""
    folder.mkdir()
    (folder / "output").write_text(output)
    program = folder / name
    program.write_text(
        "#!/bin/sh\n"
        'printf "%s\\n" "$@" > ../argv; cat > ../stdin; env > ../env; echo "WIDTH = 96" > train.py\n'
        f'cat "{folder}/output"; exit {status}\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{folder}:{PATH}", "HOME": "/home/of/the/user"}


def claude_result(**changed: Any) -> str:
    result = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "num_turns": 3,
        "result": "I widened the net.\n\nidea: WIDTH 64 -> 96",
        "total_cost_usd": 0.0123,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 3000,
            "output_tokens": 40,
        },
    }
    return json.dumps(result | changed) + "\n"


CODEX_EVENTS = [
    {"type": "thread.started", "thread_id": "t"},
    {"type": "turn.started"},
    {"type": "item.completed", "item": {"type": "agent_message", "text": "Looking."}},
    {"type": "item.completed", "item": {"type": "file_change", "changes": []}},
    {"type": "item.completed", "item": {"type": "agent_message", "text": "Done.\nidea: WIDTH 64 -> 96"}},
    {"type": "turn.completed", "usage": {"input_tokens": 900, "cached_input_tokens": 800, "output_tokens": 50}},
]


def lines(events: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(each) + "\n" for each in events)


def test_claude_is_called_headless_with_file_tools_only_and_the_prompt_on_stdin(checkout: Path) -> None:
    environ = stand_in(checkout.parent / "bin", "claude", claude_result()) | {"CLAUDECODE": "1"}
    Claude.check(Options(), environ)
    proposal = propose(Claude, checkout, environ=environ, model="some-model")
    argv = (checkout.parent / "argv").read_text().splitlines()
    assert argv[0] == "-p" and argv[argv.index("--model") + 1] == "some-model"
    assert argv[argv.index("--output-format") + 1] == "json"
    assert set(argv[argv.index("--tools") + 1].split(",")) == {"Read", "Edit", "Write", "Glob", "Grep"}
    assert not any("dangerously" in each or "bypass" in each for each in argv)
    assert (checkout.parent / "stdin").read_text().startswith("Make it better.")
    env = (checkout.parent / "env").read_text()
    assert "CLAUDECODE=" not in env and "CLAUDE_CONFIG_DIR=" not in env and "HOME=/home/of/the/user\n" in env
    assert (proposal.idea, proposal.error) == ("WIDTH 64 -> 96", None)
    usage = proposal.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (3210, 40, 0.0123)
    assert usage.cached_tokens == 3000
    assert usage.seconds > 0


def test_claude_with_a_key_keeps_its_state_in_the_folder_of_the_lane(checkout: Path) -> None:
    environ = stand_in(checkout.parent / "bin", "claude", claude_result()) | {"ANTHROPIC_API_KEY": "k"}
    propose(Claude, checkout, environ=environ)
    assert f"CLAUDE_CONFIG_DIR={checkout.parent}/state-gpu0/claude\n" in (checkout.parent / "env").read_text()


@pytest.mark.parametrize(
    ("output", "status", "error"),
    [
        (claude_result(is_error=True, result="API Error: 429"), 1, "claude: API Error: 429"),
        (claude_result(is_error=True, subtype="error_max_turns", result=None), 1, "claude: error_max_turns"),
        (claude_result(is_error=True, result="API Error: 500"), 0, "claude: API Error: 500"),
        ("no such option\n", 0, "claude printed no result"),
        ("", 0, "claude printed no result"),
    ],
)
def test_claude_failing_is_a_value(checkout: Path, output: str, status: int, error: str) -> None:
    environ = stand_in(checkout.parent / "bin", "claude", output, status)
    assert propose(Claude, checkout, environ=environ).error == error


def test_a_preset_that_does_not_start_says_what_its_tool_said(checkout: Path) -> None:
    environ = stand_in(checkout.parent / "bin", "claude", "", 1)
    program = checkout.parent / "bin" / "claude"
    program.write_text("#!/bin/sh\necho 'unknown option --tools' >&2; exit 1\n")
    error = propose(Claude, checkout, environ=environ).error
    assert error is not None and "status 1" in error and "unknown option --tools" in error


def test_claude_is_read_among_all_its_events_and_without_a_price(checkout: Path) -> None:
    result = json.loads(claude_result(total_cost_usd=None, usage=None))
    events = json.dumps([{"type": "system"}, {"type": "assistant"}, result])
    proposal = propose(Claude, checkout, environ=stand_in(checkout.parent / "bin", "claude", "a warning\n" + events))
    assert (proposal.idea, proposal.error) == ("WIDTH 64 -> 96", None)
    assert (proposal.usage.input_tokens, proposal.usage.cost_usd) == (None, None)


def test_codex_is_called_in_its_sandbox_without_network_and_the_prompt_on_stdin(checkout: Path) -> None:
    environ = stand_in(checkout.parent / "bin", "codex", lines(CODEX_EVENTS) + '{"type": "turn.comp')
    Codex.check(Options(), environ)
    proposal = propose(Codex, checkout, environ=environ, model="some-model")
    argv = (checkout.parent / "argv").read_text().splitlines()
    assert argv[0] == "exec" and argv[-1] == "-" and argv[argv.index("--model") + 1] == "some-model"
    assert argv[argv.index("--sandbox") + 1] == "workspace-write"
    assert {"sandbox_workspace_write.network_access=false", 'approval_policy="never"'} <= set(argv)
    assert not any("dangerously" in each for each in argv)
    # Without these, its commands may write anywhere in /tmp, where other lanes lie: codex 0.169.0, tried by hand.
    assert "sandbox_workspace_write.exclude_slash_tmp=true" in argv
    temporary = checkout.parent / "state-gpu0" / "codex.tmp"
    assert f"TMPDIR={temporary}\n" in (checkout.parent / "env").read_text() and temporary.is_dir()
    assert (checkout.parent / "stdin").read_text().startswith("Make it better.")
    assert "CODEX_HOME=" not in (checkout.parent / "env").read_text()
    assert (proposal.idea, proposal.error) == ("WIDTH 64 -> 96", None)
    usage = proposal.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (900, 50, None)
    assert usage.cached_tokens == 800


def test_what_codex_leaves_in_its_temporary_folder_is_not_there_for_the_next_proposal(checkout: Path) -> None:
    environ = stand_in(checkout.parent / "bin", "codex", lines(CODEX_EVENTS))
    left = checkout.parent / "state-gpu0" / "codex.tmp" / "left"
    left.parent.mkdir(parents=True)
    left.write_text("for the next one")
    propose(Codex, checkout, environ=environ)
    assert left.parent.is_dir() and not left.exists()


def test_codex_with_a_key_gets_a_home_of_its_own_that_exists(checkout: Path) -> None:
    environ = stand_in(checkout.parent / "bin", "codex", lines(CODEX_EVENTS)) | {"CODEX_API_KEY": "k"}
    propose(Codex, checkout, environ=environ)
    home = checkout.parent / "state-gpu0" / "codex"
    assert f"CODEX_HOME={home}\n" in (checkout.parent / "env").read_text() and home.is_dir()


@pytest.mark.parametrize(
    ("last", "status", "error"),
    [
        ({"type": "turn.failed", "error": {"message": "usage limit"}}, 1, "codex: usage limit"),
        ({"type": "error", "message": "stream lost"}, 1, "codex: stream lost"),
    ],
)
def test_codex_failing_is_a_value(checkout: Path, last: dict[str, Any], status: int, error: str) -> None:
    environ = stand_in(checkout.parent / "bin", "codex", lines([*CODEX_EVENTS[:3], last]), status)
    assert propose(Codex, checkout, environ=environ).error == error


def test_codex_recovering_from_an_error_is_no_failure(checkout: Path) -> None:
    events = [CODEX_EVENTS[0], {"type": "error", "message": "reconnecting"}, *CODEX_EVENTS[1:]]
    assert propose(Codex, checkout, environ=stand_in(checkout.parent / "bin", "codex", lines(events))).error is None


@pytest.mark.parametrize("kind", [Claude, Codex])
def test_a_preset_that_is_not_installed_is_refused_with_a_way_to_install_it(kind: type[Agent], tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        kind.check(Options(), {"PATH": str(tmp_path)})
    assert "install" in caught.value.hint


# --- scripted --------------------------------------------------------------------------------------------------------


def entry(idea: str, *edits: tuple[str, str, str]) -> str:
    return json.dumps({"idea": idea, "edits": [{"file": f, "old": old, "new": new} for f, old, new in edits]}) + "\n"


def write_script(path: Path, *entries: str) -> str:
    path.write_text("# a remark\n\n" + "".join(entries), encoding="utf-8")
    return str(path)


def test_a_script_is_played_line_by_line_and_then_ends(checkout: Path) -> None:
    script = write_script(
        checkout.parent / "script.jsonl",
        entry("wider", ("train.py", "WIDTH = 64", "WIDTH = 96")),
        entry("deeper, with notes", ("train.py", "DEPTH = 2", "DEPTH = 3"), ("notes/new.md", "", "why\n")),
    )
    assert propose(Scripted, checkout, id="gpu0-1", agent_command=script).idea == "wider"
    assert propose(Scripted, checkout, id="gpu0-2", agent_command=script).idea == "deeper, with notes"
    assert (checkout / "train.py").read_text() == "WIDTH = 96\nDEPTH = 3\n"
    assert (checkout / "notes" / "new.md").read_text() == "why\n"
    assert propose(Scripted, checkout, id="gpu0-7", agent_command=script).error == "the script has ended"


def test_an_experiment_that_is_made_again_gets_the_same_line(checkout: Path) -> None:
    script = write_script(checkout.parent / "s", entry("one", ("a", "", "1")), entry("two", ("b", "", "2")))
    for _ in range(2):
        assert propose(Scripted, checkout, id="gpu0-4", agent_command=script).idea == "one"
        (checkout / "a").unlink()
    assert propose(Scripted, checkout, id="gpu0-5", agent_command=script).idea == "two"


def test_what_an_agent_remembers_is_replaced_whole_so_that_a_kill_leaves_the_old(tmp_path: Path) -> None:
    """Written in place, a file that a kill cut short had ended the lane's agent for good."""
    path = tmp_path / "agents" / "gpu0" / "place.json"
    assert recall(path, "nothing yet") == "nothing yet"
    remember(path, {"line": 1})
    path.with_suffix(".new").write_text('{"li')  # as a kill leaves it
    with path.open() as before:
        remember(path, {"line": 2})
        assert json.load(before) == {"line": 1}
    assert recall(path, None) == {"line": 2} and [each.name for each in path.parent.iterdir()] == ["place.json"]


def test_each_lane_plays_the_script_of_its_own_name_in_a_folder(checkout: Path) -> None:
    folder = checkout.parent / "scripts"
    folder.mkdir()
    for lane in ("gpu0", "gpu1"):
        write_script(folder / f"{lane}.jsonl", entry(f"from {lane}", (lane, "", "x")))
        assert propose(Scripted, checkout, lane=lane, agent_command=str(folder)).idea == f"from {lane}"
    missing = propose(Scripted, checkout, lane="gpu2", agent_command=str(folder))
    assert missing.error is not None and "gpu2.jsonl" in missing.error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            entry("x", ("train.py", "WIDTH = 64", "WIDTH = 1"), ("train.py", "HEIGHT", "y")),
            "stands 0 times in train.py",
        ),
        (entry("x", ("train.py", " = ", "=")), "stands 2 times in train.py"),
        (entry("x", ("train.py", "", "all new")), "exists"),
        (entry("x", ("../escape.py", "", "y")), "outside the checkout"),
        ('{"idea": "x"}\n', "expected"),
        ('{"idea": "x", "edits": [3]}\n', "an edit is"),
        ("not json\n", "line 1 of the script"),
    ],
)
def test_a_line_that_does_not_fit_is_an_error_and_changes_nothing(checkout: Path, line: str, words: str) -> None:
    proposal = propose(Scripted, checkout, agent_command=write_script(checkout.parent / "s.jsonl", line))
    assert proposal.error is not None and words in proposal.error
    assert (checkout / "train.py").read_text() == "WIDTH = 64\nDEPTH = 2\n"
    assert not (checkout.parent / "escape.py").exists()


def test_a_script_that_is_not_there_is_refused_before_the_run(tmp_path: Path) -> None:
    for command in (None, str(tmp_path / "missing.jsonl")):
        with pytest.raises(AgentError):
            Scripted.check(Options(agent_command=command), {})
    Scripted.check(Options(agent_command=str(tmp_path)), {})


# --- What kept an agent from an edit ---------------------------------------------------------------------------------

LIMITED, GONE, AUTH = TroubleKind.RATE_LIMITED, TroubleKind.UNAVAILABLE, TroubleKind.AUTH


@pytest.mark.parametrize(
    ("words", "kind", "after"),
    [
        ("HTTP 429 Too Many Requests\nRetry-After: 30", LIMITED, 30.0),
        ("HTTP/1.1 503 Service Unavailable\nretry-after: 7", GONE, 7.0),
        (
            "litellm.RateLimitError: RateLimitError: OpenAIException - stub says 429\nRetrying in 0.2 seconds",
            LIMITED,
            None,
        ),
        ("litellm.AuthenticationError: AuthenticationError: OpenAIException - stub says 401", AUTH, None),
        ('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', GONE, None),
        ('{"statusCode":429,"message":"Rate limit reached. Please try again in 1m30.5s."}', LIMITED, 90.5),
        ('{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"34s"}]}}', LIMITED, 34.0),
        ("openai.RateLimitError: Error code: 429 - {'error': {'code': 'rate_limit_exceeded'}}", LIMITED, None),
        ("Error code: 429 - {'error': {'code': 'insufficient_quota'}}", AUTH, None),
        ("Error code: 401 - {'error': {'code': 'invalid_api_key'}}", AUTH, None),
        ('API Error: 529 {"type":"error"}', GONE, None),
        ("anthropic.InternalServerError: Error code: 500", GONE, None),
        ("Error: connect ECONNREFUSED 127.0.0.1:11434", GONE, None),
        ("attempt 1: status 500\nattempt 2: HTTP 429, retry-after-ms: 1500", LIMITED, 1.5),
    ],
)
def test_what_programs_print_is_known_whatever_they_end_with(
    words: str, kind: TroubleKind, after: float | None
) -> None:
    assert trouble_in(words, failed=False) == trouble_in(words, failed=True) == Trouble(kind, after)


@pytest.mark.parametrize(
    ("words", "kind", "after"),
    [
        ("You've hit your usage limit. Try again in 3 hours 12 minutes.", LIMITED, 3 * 3600 + 12 * 60.0),
        ("Claude usage limit reached, resets in 2h", LIMITED, 7200.0),
        ("Rate limit hit: please retry in 1 day, 2 hours and 3 s", LIMITED, 86400 + 7200 + 3.0),
        ("too many requests, available again in 500ms", LIMITED, 0.5),
        ("Invalid API key · Please run /login", AUTH, None),
        ("Not logged in. Run `codex login` first", AUTH, None),
        ("no API key was found", AUTH, None),
        ("stream disconnected: error sending request for url", GONE, None),
        ("could not resolve host", GONE, None),
    ],
)
def test_what_people_are_told_counts_only_where_the_tool_says_that_it_failed(
    words: str, kind: TroubleKind, after: float | None
) -> None:
    assert trouble_in(words, failed=True) == Trouble(kind, after)
    assert trouble_in(words, failed=False) is None


@pytest.mark.parametrize(
    "words",
    [
        "",
        "Traceback (most recent call last):\nValueError: batch size 429 is odd",
        "no such model: Error code: 404",
        "read 401 lines, 500 tokens; the learning rate limits the width",
        "Error code: 400 - max_tokens is too large",
    ],
)
def test_what_says_nothing_of_the_provider_is_not_taken_for_it(words: str) -> None:
    assert trouble_in(words, failed=True) is trouble_in(words, failed=False) is None


@given(st.text(max_size=300))
def test_whatever_a_tool_prints_can_be_read(words: str) -> None:
    after = (trouble_in(words, failed=True) or Trouble(LIMITED)).retry_after_seconds
    assert after is None or after >= 0


@pytest.mark.parametrize(
    ("script", "trouble", "error"),
    [
        ("exit 0", None, None),
        ("exit 3", None, "status 3"),
        ("echo 'HTTP 429, Retry-After: 9'; exit 1", Trouble(LIMITED, 9.0), "status 1"),
        ("echo 'AuthenticationError: no' >&2; exit 0", Trouble(AUTH), "as if all were well"),
        ("echo 'the rate limit is a constant of train.py'; exit 0", None, None),
        ("echo 'litellm.RateLimitError: again in a while'; sleep 60", Trouble(LIMITED), "stopped after"),
        ("echo 'I think about a rate limit'; sleep 60", Trouble(TroubleKind.TIMEOUT), "stopped after"),
    ],
)
def test_a_command_in_trouble_says_of_which_kind(
    checkout: Path, script: str, trouble: Trouble | None, error: str | None
) -> None:
    proposal = propose(Command, checkout, agent_command=script, agent_minutes=0.5 / 60 if "sleep" in script else 1.0)
    assert proposal.trouble == trouble
    assert proposal.error is None if error is None else error in (proposal.error or "")


@pytest.mark.parametrize(
    ("changed", "status", "trouble"),
    [
        (
            {"is_error": True, "api_error_status": 429, "result": "Limited. Try again in 20s."},
            1,
            Trouble(LIMITED, 20.0),
        ),
        ({"is_error": True, "api_error_status": 529, "result": None}, 1, Trouble(GONE)),
        ({"is_error": True, "result": "Invalid API key · Please run /login"}, 1, Trouble(AUTH)),
        ({"is_error": True, "result": "API Error: 429"}, 0, Trouble(LIMITED)),
        ({"permission_denials": [{"tool_name": "Bash"}], "result": "I may not."}, 0, Trouble(TroubleKind.REJECTED)),
        ({"is_error": True, "subtype": "error_max_turns", "result": None}, 1, None),
        ({}, 0, None),
    ],
)
def test_claude_in_trouble_says_of_which_kind(
    checkout: Path, changed: dict[str, Any], status: int, trouble: Trouble | None
) -> None:
    environ = stand_in(checkout.parent / "bin", "claude", claude_result(**changed), status)
    assert propose(Claude, checkout, environ=environ).trouble == trouble


@pytest.mark.parametrize(
    ("message", "trouble"),
    [
        ("exceeded retry limit, last status: 429 Too Many Requests", Trouble(LIMITED)),
        ("You've hit your usage limit. Try again in 2 hours.", Trouble(LIMITED, 7200.0)),
        ("unexpected status 401 Unauthorized: Missing bearer", Trouble(AUTH)),
        ("the model refused", None),
    ],
)
def test_codex_in_trouble_says_of_which_kind(checkout: Path, message: str, trouble: Trouble | None) -> None:
    events = [*CODEX_EVENTS[:3], {"type": "turn.failed", "error": {"message": message}}]
    environ = stand_in(checkout.parent / "bin", "codex", lines(events), 1)
    assert propose(Codex, checkout, environ=environ).trouble == trouble
