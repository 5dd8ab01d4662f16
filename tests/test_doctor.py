"""`init` and `doctor`: from an empty folder to a program that could run, and what is said where it could not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autoresearch_ray import program
from autoresearch_ray.cli import main
from tests.conftest import Toy, git


def examine(*arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == status, result.output
    facts = json.loads(result.stdout)
    assert facts["could_run"] == (status == 0)
    return {each["name"]: each for each in facts["checks"]}


# --- init ------------------------------------------------------------------------------------------------------------


def test_what_init_writes_reads_as_it_stands(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", str(tmp_path / "new"), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout) == {"program": str(tmp_path / "new" / "program.md")}
    read = program.read(tmp_path / "new")
    assert (read.options.agent, read.options.hours) == ("claude", 8.0)
    assert read.scope.can == ("train.py",) and read.eval.command == "python train.py"
    assert read.eval.budget_seconds == 300 and read.eval.setup is None and read.strategy and read.notes


def test_the_remarks_of_what_init_writes_hold_when_they_are_used(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["init", str(tmp_path)])
    text = (tmp_path / "program.md").read_text()
    head, _, more = text.partition("<!-- ")
    remarks, _, rest = more.partition("-->")
    used = program.parse(head.replace("\n# ", "\n", 3) + remarks.partition("\n")[2] + rest)
    assert used.eval.setup == "uv sync" and used.eval.guard and used.eval.keep == (".venv", "data")
    assert [each.name for each in used.eval.also] == ["memory_gb"]
    assert used.options.gpus_per_worker == 1 and used.options.secrets == ("ANTHROPIC_API_KEY",)


def test_init_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("program.md").write_text("mine\n")
    result = CliRunner().invoke(main, ["init", "--text"])
    assert result.exit_code == 2 and "is there already" in result.stderr and "hint: " in result.stderr
    assert Path("program.md").read_text() == "mine\n"
    assert CliRunner().invoke(main, ["init", "program.md/below"]).exit_code == 2


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_a_program_that_could_run_is_found_well_and_nothing_is_written(toy: Toy) -> None:
    before = sorted(toy.folder.rglob("*"))
    found = examine(str(toy.folder / "program.md"))
    assert {each for each, check in found.items() if check["state"] == "fail"} == set()
    assert found["run"]["words"] == "t1 could start" and found["program"]["words"].endswith("loss, lower is better")
    assert found["git"]["words"].startswith("git version 2.") and found["ray"]["words"].startswith("Ray 2.")
    assert found["agents"]["details"]["knobs"] == "ready" and found["gpus"]["state"] == "ok"
    assert sorted(toy.folder.rglob("*")) == before


def test_what_a_run_would_warn_of_is_told(toy: Toy) -> None:
    toy.program(more=f"mirror: {toy.folder.parent / 'mirror.git'}")
    found = examine(str(toy.folder))
    assert found["run"]["state"] == "warn" and "on the disk of the run" in found["run"]["words"]
    assert not (toy.folder.parent / "mirror.git").exists()


def test_without_a_program_the_machine_alone_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = examine()
    assert found["program"]["state"] == "warn" and "init" in found["program"]["hint"] and "run" not in found
    assert examine("other.md", status=2)["program"]["state"] == "fail", "whoever names a file means that one"


@pytest.mark.parametrize(
    ("more", "name", "words"),
    [
        ({"more": "wings: 2"}, "program", "wings"),
        ({"agent": "hal"}, "run", "hal"),
        ({"agent": "command", "more": "agent_command: no-such-program --x"}, "run", "no-such-program"),
        ({"more": "policy: luck"}, "run", "luck"),
        ({"more": "secrets: [NOT_SET_ANYWHERE]"}, "run", "NOT_SET_ANYWHERE"),
    ],
)
def test_what_stands_in_the_way_is_named_with_what_to_do(toy: Toy, more: dict[str, str], name: str, words: str) -> None:
    found = examine(str(toy.program(**more)), status=2)  # type: ignore[arg-type]
    assert found[name]["state"] == "fail" and words in found[name]["words"] and found[name]["hint"]


def test_a_repository_that_is_not_ready_is_a_failure(toy: Toy) -> None:
    (toy.folder / "train.py").write_text("changed\n")
    assert "train.py" in examine(str(toy.folder), status=2)["run"]["words"]
    shutil.rmtree(toy.folder / ".git")
    assert "git init" in examine(str(toy.folder), status=2)["run"]["hint"]


def test_more_gpus_than_there_are_is_a_failure_unless_a_cluster_has_them(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = toy.program().read_text().replace("gpus_per_worker: 0", "gpus_per_worker: 1")
    (toy.folder / "program.md").write_text(page.replace("backend: local", "backend: ray"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert examine(str(toy.folder), status=2)["gpus"]["state"] == "fail"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    found = examine(str(toy.folder))
    assert found["gpus"]["state"] == "warn" and "head:6379 was not asked" in found["run"]["words"]


def test_a_sandbox_that_is_asked_for_and_not_there_is_a_failure(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = toy.folder.parent / "bin"
    programs.mkdir()
    (programs / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(programs))
    toy.program(sandbox="bwrap")
    assert examine(str(toy.folder), status=2)["sandbox"]["state"] == "fail"
    toy.program(sandbox="auto")
    found = examine(str(toy.folder))
    assert found["sandbox"]["state"] == "warn" and "bubblewrap is not installed" in found["sandbox"]["words"]


def test_git_that_is_too_old_or_missing_is_a_failure(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = toy.folder.parent / "bin"
    programs.mkdir()
    old = programs / "git"
    old.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo git version 2.17.1 || exec {shutil.which("git")} "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert "too old" in examine(str(toy.folder), status=2)["git"]["words"]
    old.unlink()
    monkeypatch.setenv("PATH", str(programs))
    found = examine(str(toy.folder), status=2)
    assert found["git"]["state"] == "fail" and found["run"]["state"] == "fail"


def test_on_a_terminal_each_finding_is_a_line_with_its_hint(toy: Toy) -> None:
    toy.program(agent="hal")
    words = CliRunner().invoke(main, ["doctor", str(toy.folder), "--text"]).stdout
    assert "fail  run" in words and "      hint: known: " in words and "ok    python" in words


def test_from_init_to_a_program_that_could_run(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    CliRunner().invoke(main, ["init", str(tmp_path)])
    (tmp_path / "train.py").write_text("print('val_loss: 1')\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "start")
    page = tmp_path / "program.md"
    page.write_text(
        page.read_text().replace("claude ", "knobs ", 1).replace("# gpus_per_worker: 1", "gpus_per_worker: 0")
    )
    examine(str(tmp_path))
