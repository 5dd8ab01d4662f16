"""The files of cluster/ are what their tools accept: keys, flags, the names of environment variables, shell."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoresearch_ray.cli.running import run

FOLDER = Path(__file__).parents[1] / "cluster"
YAML = sorted(FOLDER.glob("*.yaml"))
SHELL = sorted(FOLDER.glob("*.sh"))
FILES = [*YAML, *SHELL]

# Every start of Ray carries these, wherever it is; why is in cluster.yaml and README.md.
EVERYWHERE = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_worker_oom_score_adjustment": "0",
}
HEALTH = {
    "RAY_health_check_initial_delay_ms",
    "RAY_health_check_period_ms",
    "RAY_health_check_timeout_ms",
    "RAY_health_check_failure_threshold",
}
FROM_RAY_UP = {"RAY_HEAD_IP"}  # set in the commands for workers by `ray up` itself


def name(path: Path) -> str:
    return path.name


def ray_folder() -> Path:
    spec = importlib.util.find_spec("ray")
    assert spec and spec.origin
    return Path(spec.origin).parent


@cache
def known_to_ray() -> frozenset[str]:
    """The names of Ray's environment variables: those its Python reads, and its settings as the server knows them."""
    python = b"".join(each.read_bytes() for each in ray_folder().rglob("*.py"))
    server = (ray_folder() / "core/src/ray/gcs/gcs_server").read_bytes()
    settings = {f"RAY_{each.decode()}" for each in re.findall(rb"(?<![\w])[a-z][a-z0-9_]{5,}(?![\w])", server)}
    return frozenset(settings | {each.decode() for each in re.findall(rb"\bRAY_\w+", python)})


def settings(path: Path) -> dict[str, str]:
    """The variables of Ray that a file sets, as shell (`NAME=value`) or as YAML (`NAME: value`, `{name:, value:}`)."""
    text = path.read_text()
    found = re.findall(r"\b(RAY_\w+)(?:=|: )\"?([^\s\"';]*)", text)
    found += re.findall(r"\{name: (RAY_\w+), value: \"?([^\"}]*)", text)
    return dict(found)


def load(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(path.read_text())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_variable_is_one_that_ray_knows(path: Path) -> None:
    named = set(re.findall(r"\bRAY_\w+", path.read_text()))
    assert named and named - known_to_ray() - FROM_RAY_UP == set()


def test_a_misspelt_variable_is_found() -> None:
    assert known_to_ray().isdisjoint({"RAY_worker_nicenes", "RAY_health_check_period", "RAY_USAGE_STATS_ENABLE"})


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_start_of_ray_carries_what_a_run_needs(path: Path) -> None:
    found = settings(path)
    missing = {name: value for name, value in EVERYWHERE.items() if found.get(name) != value}
    if path.stem == "kuberay-rayjob":  # the operator sets it in every container
        assert load(path)["spec"]["rayClusterSpec"]["authOptions"] == {"mode": missing.pop("RAY_AUTH_MODE")}
    assert missing == {}


@pytest.mark.parametrize("stem", ["cluster", "slurm", "kuberay-rayjob"])
def test_the_head_of_several_machines_notices_soon_when_one_is_gone(stem: str) -> None:
    (path,) = FOLDER.glob(f"{stem}.*")
    assert set(settings(path)) >= HEALTH


@pytest.mark.parametrize("path", SHELL, ids=name)
def test_shell_files_parse(path: Path) -> None:
    shell = "bash" if path.read_text().startswith("#!/bin/bash\n") else "sh"
    assert shutil.which(shell)
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_flags_of_ours_exist(path: Path) -> None:
    calls = re.findall(r"autoresearch-ray run([^\n`']*)", path.read_text())
    known = {flag for option in run.params for flag in (*option.opts, *option.secondary_opts)}
    assert {flag for call in calls for flag in re.findall(r"--[a-z-]+", call)} <= known


def test_ray_up_accepts_the_cluster() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import json

    schema = json.loads((ray_folder() / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(load(FOLDER / "cluster.yaml"), schema)


def test_commands_of_the_cluster_are_shell(tmp_path: Path) -> None:
    config = load(FOLDER / "cluster.yaml")
    commands = [each for key, value in config.items() if key.endswith("_commands") for each in value]
    assert len(commands) > 8
    for command in commands:
        assert "\n" not in command.strip(), "ray up runs one line at a time"
        done = subprocess.run(["bash", "-nc", command], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_setting_up_a_machine_twice_changes_nothing_more(tmp_path: Path) -> None:
    config = load(FOLDER / "cluster.yaml")
    bin = tmp_path / "venv/bin"
    bin.mkdir(parents=True)
    for each in ("python", "pip"):  # what needs a network is taken for done
        (bin / each).write_text("#!/bin/sh\n")
        (bin / each).chmod(0o755)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("0" * 64)
    (tmp_path / ".autoresearch.env").write_text("export SECRET=1\n")

    def set_up() -> dict[str, str]:
        for command in config["setup_commands"] + config["head_setup_commands"]:
            subprocess.run(
                ["bash", "-c", command],
                env={"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"},
                check=True,
                timeout=30,
            )
        return {each: (tmp_path / each).read_text() for each in (".bashrc", ".autoresearch.sh")}

    first = set_up()
    assert set_up() == first
    script = ". ~/.bashrc; echo $RAY_AUTH_MODE $RAY_ADDRESS $RAY_worker_niceness $SECRET ${PATH%%:*}"
    done = subprocess.run(
        ["bash", "-c", script], env={"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split() == ["token", "127.0.0.1:6379", "0", "1", str(bin)]
    assert (tmp_path / ".autoresearch.env").stat().st_mode & 0o077 == 0
    assert (tmp_path / "program.md").readlink() == tmp_path / "repository/program.md"
    assert (tmp_path / "repository/.git").is_dir()


def test_the_repository_reaches_the_head_alone() -> None:
    config = load(FOLDER / "cluster.yaml")
    assert not any("repository" in target for target in config["file_mounts"])
    assert not any("repository" in command for command in config["setup_commands"] + config["worker_setup_commands"])


def test_secrets_are_not_written_in_any_file() -> None:
    for path in FILES:
        for value in re.findall(r"(?:TOKEN|KEY)[:=] *(\S*)", path.read_text()):
            assert re.match(r"(null|\$\(.*|\.\.\.)?$", value), f"{path.name}: {value}"


def test_every_file_has_its_line_in_the_readme() -> None:
    listed = set(re.findall(r"^\| \[[^\]]+\]\(([^)]+)\)", (FOLDER / "README.md").read_text(), re.M))
    assert listed == {path.name for path in FILES}
