"""What agents are taught: the skill and its places, the guide, agent-info, and how MCP servers are registered."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from autoresearch_ray import program
from autoresearch_ray.cli import VERBS, main
from autoresearch_ray.errors import SetupError
from autoresearch_ray.remote import Remote
from autoresearch_ray.sandbox import home
from autoresearch_ray.skill import AGENTS, NAME, WITHOUT, file_below, guide, is_ours, registration, skill
from tests.test_readme import fences, refused

CLAUDE, SHARED = Path(".claude/skills/autoresearch/SKILL.md"), Path(".agents/skills/autoresearch/SKILL.md")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to be in, with a home beside it, and no agent on the PATH."""
    project, home, programs = (tmp_path / each for each in ("project", "home", "bin"))
    for each in (project, home, programs):
        each.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(programs))
    return project


def install(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["install", *arguments])
    assert result.exit_code == status, result.output
    return result


def states(result: Result) -> dict[str, str]:
    return {each["path"]: each["state"] for each in json.loads(result.stdout)}


def files(folder: Path) -> list[Path]:
    return sorted(each.relative_to(folder) for each in folder.rglob("*") if each.is_file())


def test_who_has_no_home_is_told_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)  # as in a container that runs as any number
    monkeypatch.delenv("HOME")
    assert "export HOME" in install("claude", "--user", status=2).output
    with pytest.raises(SetupError, match="no home"):
        home({})
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(SetupError, match="is not known"):
        Remote.find("~of-nobody/mirror", place, {})
    assert states(install("claude")) == {str(place / CLAUDE): "written"}


# --- The text --------------------------------------------------------------------------------------------------------


def test_the_skill_is_what_agents_accept() -> None:
    _, front, body = skill("0.1.0").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts.keys() == {"name", "description"}
    assert facts["name"] == NAME == file_below(".claude/skills").parent.name
    assert re.fullmatch(r"[a-z0-9-]{1,64}", facts["name"]) and 0 < len(facts["description"]) <= 1024
    assert body.strip().startswith(guide().strip())


def test_the_guide_keeps_its_word() -> None:
    assert refused(guide()) == []
    (page,) = (block for language, block in fences(guide()) if language == "markdown")
    assert program.parse(page).eval.metric.name == "val_loss"
    assert CliRunner().invoke(main, ["guide"]).stdout == guide()


def test_a_skill_that_anybody_changed_is_not_ours() -> None:
    text = skill("0.1.0")
    assert is_ours(text) and is_ours(skill("9.9"))
    for changed in (text[1:], text + "more\n", text.replace("GPU", "TPU", 1), "# my own skill\n", ""):
        assert not is_ours(changed)


# --- Installing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_each_agent_gets_the_skill_where_it_looks(place: Path, name: str) -> None:
    agent, home = AGENTS[name], place.parent / "home"
    assert agent.project and not Path(agent.project).is_absolute()
    install(name)
    (written,) = files(place)
    assert written == Path(file_below(agent.project)) and is_ours(written.read_text())
    install(name, "--user")
    below = [Path(file_below(agent.user.removeprefix("~/")))] if agent.user else []
    assert files(home) == below and files(place) == [written]


def test_all_agents_share_what_they_can_share(place: Path) -> None:
    rows = json.loads(install("--all", "--json").stdout)
    assert sorted(name for row in rows for name in row["agents"]) == sorted(AGENTS)
    assert {Path(row["path"]).relative_to(place) for row in rows} == set(files(place)) >= {CLAUDE, SHARED}


def test_without_a_name_it_is_for_those_on_the_path(place: Path) -> None:
    assert "--all" in install("--text", status=2).stderr
    for name in ("claude", "cursor-agent"):
        program = place.parent / "bin" / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    assert [row["agents"] for row in json.loads(install("--json").stdout)] == [["claude"], ["cursor"]]


def test_a_dry_run_writes_nothing(place: Path) -> None:
    assert set(states(install("--all", "--dry-run")).values()) == {"would be written"}
    assert files(place) == [] and list(place.iterdir()) == []


def test_what_was_changed_is_left_alone_without_force(place: Path) -> None:
    install("claude", "codex")
    text = CLAUDE.read_text()
    CLAUDE.write_text(text + "Our cluster is called moria.\n")
    for more in ((), ("--dry-run",)):
        result = install("claude", "codex", *more, status=2)
        assert states(result) == {str(place / CLAUDE): "changed", str(place / SHARED): "unchanged"}
        assert "moria" in CLAUDE.read_text() and json.loads(result.stderr)["hint"] == "--force overwrites it"
    assert states(install("claude", "--force", "--dry-run")) == {str(place / CLAUDE): "would be overwritten"}
    assert "moria" in CLAUDE.read_text()
    assert states(install("claude", "--force")) == {str(place / CLAUDE): "overwritten"}
    assert CLAUDE.read_text() == text and files(place) == [SHARED, CLAUDE]


def test_what_an_earlier_version_wrote_is_brought_up_to_date(place: Path) -> None:
    install("claude")
    new = CLAUDE.read_text()
    CLAUDE.write_text(skill("0.0.1"))
    assert states(install("claude")) == {str(place / CLAUDE): "updated"} and CLAUDE.read_text() == new
    assert states(install("claude")) == {str(place / CLAUDE): "unchanged"}


def test_a_link_is_followed_and_stays(place: Path) -> None:
    install("codex")
    CLAUDE.parent.parent.mkdir(parents=True)
    CLAUDE.parent.symlink_to(place / SHARED.parent)
    SHARED.write_text(skill("0.0.1"))
    assert states(install("claude")) == {str(place / CLAUDE): "updated"}
    assert CLAUDE.parent.is_symlink() and SHARED.read_text() == CLAUDE.read_text()


def test_what_cannot_be_written_or_is_not_known_has_a_hint(place: Path) -> None:
    assert "known: claude" in install("hal", "--text", status=2).stderr
    for name in WITHOUT:
        assert "guide" in install(name, "--text", status=2).stderr
    (place / ".claude").write_text("a file, where a folder should be\n")
    assert "hint: " in install("claude", "--text", status=2).stderr
    skill = place / ".agents" / "skills" / NAME / "SKILL.md"
    skill.parent.mkdir(parents=True)
    os.mkfifo(skill)
    assert "is not a file" in install("codex", "--text", status=2).stderr


def test_the_registrations_are_what_each_agent_reads(place: Path) -> None:
    rows = {row["agent"]: row["text"] for row in json.loads(install("--all", "--mcp", "--json").stdout)}
    assert rows.keys() == {name for name, agent in AGENTS.items() if agent.mcp_file} and files(place) == []
    command = [sys.executable, "-m", "autoresearch_ray", "mcp", "--folder", str(place)]
    plain = {"command": command[0], "args": command[1:]}
    for name in ("claude", "gemini", "qwen", "cursor", "copilot"):
        assert json.loads(rows[name]) == {"mcpServers": {NAME: plain}}
    assert tomllib.loads(rows["codex"]) == {"mcp_servers": {NAME: plain}}
    assert json.loads(rows["opencode"])["mcp"][NAME]["command"] == command
    assert f"# claude: .mcp.json\n{rows['claude']}" in install("claude", "--mcp", "--text").stdout
    spaced = registration(AGENTS["goose"], ["/a b/python", "-m", "x"])
    assert "autoresearch:'\"'\"'/a b/python'\"'\"' -m x" in spaced


# --- agent-info ------------------------------------------------------------------------------------------------------


def test_agent_info_is_what_the_command_line_takes() -> None:
    facts = json.loads(CliRunner().invoke(main, ["agent-info"]).stdout)
    assert list(facts["verbs"]) == list(VERBS)
    for name, said in facts["verbs"].items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        flags = {flag for option in said["options"] for flag in option["flags"]}
        assert flags == {
            flag
            for each in command.params
            if isinstance(each, click.Option)
            for flag in (*each.opts, *each.secondary_opts)
        }
        assert said["summary"] and "Example:" in said["help"] and "\b" not in said["help"]
        assert said["json"] == ("--json" in flags)
    log = {each["name"]: each for each in facts["verbs"]["log"]["options"]}
    assert log["wanted"]["choices"] == facts["statuses"] and log["best_first"]["default"] is False
    assert facts["verbs"]["run"]["arguments"][0]["default"] == "program.md"
    assert facts["formats"]["results.tsv"] == ["commit", "metric", "memory_gb", "status", "description"]
    assert {"n", "commit", "gain", "over_baseline"} <= set(facts["formats"]["results.jsonl"])
    assert (
        facts["exit_statuses"].keys() == {"0", "1", "2", "130"} and facts["errors"]["LedgerError"]["exit_status"] == 1
    )
    assert facts["front_matter"]["agent"] == "claude" and "knobs" in facts["names"]["agents"]
    assert {"submit_grid", "results", "leaderboard"} <= facts["mcp_tools"].keys() and all(facts["mcp_tools"].values())


def test_agent_info_for_people_is_short() -> None:
    words = CliRunner().invoke(main, ["agent-info", "--text"]).stdout
    assert all(re.search(rf"^  {verb} ", words, re.M) for verb in VERBS) and len(words.splitlines()) < 60


def test_neither_costs_the_sdk_or_a_run() -> None:
    script = (
        "import sys\nfrom autoresearch_ray.cli import main\n"
        "main(['guide'], standalone_mode=False)\nmain(['agent-info', '--text'], standalone_mode=False)\n"
        "print(sorted({'mcp', 'ray', 'optuna', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr
