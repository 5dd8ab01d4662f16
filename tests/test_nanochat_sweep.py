"""The nanochat example as people use it: by hand, by its driver over Ray, on two processes, and on a GPU.

`python -m pytest -m gpu tests/test_nanochat_sweep.py` needs a GPU and no Ray.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import pytest
import wire

from autoresearch_ray import program
from autoresearch_ray.errors import GpuError
from autoresearch_ray.model import Direction, Metric, Parse, ParseKind
from autoresearch_ray.monitors.nvml import Nvml
from tests.conftest import git, processes_of
from tests.nanochat import NANOCHAT, summary_of

PROGRAMS = ("program.md", "cpu.md", "two_gpus.md")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example in a git repository of its own."""
    folder = tmp_path / "project" / "nanochat"
    shutil.copytree(NANOCHAT, folder, ignore=shutil.ignore_patterns("__pycache__", ".autoresearch"))
    git(folder.parent, "init", "-q", "-b", "main")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "nanochat")


def call(folder: Path, data: Path, arguments: Sequence[str], timeout: float = 110, **environ: str) -> str:
    """What a command prints, standard error in it, with this Python first in the PATH."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AUTORESEARCH_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=own | {"AUTORESEARCH_DATA": str(data), "VIRTUAL_ENV": sys.prefix, "PATH": path} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def experiments(folder: Path, data: Path) -> list[dict[str, Any]]:
    """The record of the run in `folder`, the baseline first."""
    printed = call(folder, data, ["-m", "autoresearch_ray", "log", "--json"])
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.slow
def test_the_baseline_learns_the_language_in_a_few_seconds(nanochat_data: Path) -> None:
    log = call(NANOCHAT, nanochat_data, ["harness.py", "--device", "cpu"], AUTORESEARCH_BUDGET_SECONDS="4")
    printed = summary_of(log)
    # A guess needs log2(1,024) bits for 2.77 bytes: 3.6 bits per byte.
    assert 1.7 < float(printed["val_bpb"]) < 3.2
    assert printed["device"] == printed["clock"] == "cpu"
    curve = [float(each) for each in re.findall(r"^  step \d+  .*  loss ([\d.]+)$", log, re.M)]
    assert len(curve) >= 2
    assert curve[-1] < curve[0] - 0.5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_experiment_of_each_worker_over_ray_by_the_driver(
    example: Path, nanochat_data: Path, temporary: Path
) -> None:
    text = (example / "cpu.md").read_text()  # a tag: the proposals follow from it, and are the same every day
    for usual, short in (("{experiments: 40}", "{experiments: 2}\ntag: two"), ("20 seconds", "1 second")):
        assert usual in text
        text = text.replace(usual, short)
    (example / "cpu.md").write_text(text)
    commit(example)
    before = git(example, "rev-parse", "HEAD")
    printed = call(example, nanochat_data, ["run.py", "cpu.md", "--workers", "2"], timeout=280)
    record = experiments(example, nanochat_data)
    record, on_top = record[:3], record[3:]  # a run that ends may bring changes together
    assert [each["n"] for each in record] == [0, 1, 2], printed
    assert all(each["kind"] == "replay" for each in on_top), printed
    assert 1.7 < record[0]["metric"] < 3.7, printed
    assert all(each["failure"] is None for each in record), printed
    assert len(re.findall(r"^#\d+ \[(?:keep|discard)\]", printed, re.M)) >= 3  # the baseline, two verdicts, the best
    assert git(example, "rev-parse", "HEAD") == before
    assert git(example, "status", "--porcelain") == ""
    assert processes_of(temporary) == []


@pytest.mark.slow
def test_the_command_of_two_gpus_trains_on_two_processes(nanochat_data: Path) -> None:
    command = program.read(NANOCHAT / "two_gpus.md").eval.command
    python, *arguments = shlex.split(command.replace("climbmix-10", "stdlib").replace("cuda", "cpu"))
    assert python == "python"
    printed = summary_of(call(NANOCHAT, nanochat_data, arguments, AUTORESEARCH_STEPS="6"))
    assert printed["num_steps"] == "6"
    assert float(printed["val_bpb"]) < 3.7


def test_the_driver_says_what_it_takes() -> None:
    done = subprocess.run([sys.executable, str(NANOCHAT / "run.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"--workers", "--hours", "--agent"} <= set(re.findall(r"--\w+", done.stdout))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_read_and_freeze_all_but_train(name: str) -> None:
    read = program.read(NANOCHAT / name)
    assert read.scope.can == ("train.py",)
    python = {each.name for each in NANOCHAT.glob("*.py")}
    assert set(read.scope.cannot) == python - {"train.py", "run.py"}
    assert read.eval.metric == Metric("val_bpb", Direction.LOWER)
    assert read.eval.parse == Parse(ParseKind.COMMAND, 'grep "^val_bpb:" run.log')
    assert read.eval.budget_seconds == (20 if name == "cpu.md" else 300)
    assert read.options.gpus_per_worker == {"program.md": 1, "cpu.md": 0, "two_gpus.md": 2}[name]
    # What the harness allows ends before the runner's hard stop; by the wall, if a CPU is shared by two.
    clock, share = ("cpu", 2) if name == "cpu.md" else ("wall", 1)
    counted = harness.SETUP_SECONDS[clock] + read.eval.budget_seconds + harness.GRACE_SECONDS[clock]
    scoring = harness.SCORING_SECONDS if clock == "wall" else 10
    assert read.eval.kill_after_seconds >= wire.STARTING_SECONDS + share * (counted + scoring)


# --- On a GPU --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gpu() -> str:
    try:
        return Nvml.ids()[0]
    except GpuError as error:
        pytest.skip(f"no GPU: {error.message}")


@pytest.fixture(scope="session")
def packages(gpu: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AUTORESEARCH_DATA folder with the corpus `packages`: the text that is there without a network."""
    folder = tmp_path_factory.mktemp("packages")
    call(NANOCHAT, folder, ["prepare.py", "packages"], timeout=300)
    return folder


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_a_gpu_is_used_well(gpu: str, packages: Path) -> None:
    arguments = ["harness.py", "--corpus", "packages", "--device", "cuda"]
    environ = {"CUDA_VISIBLE_DEVICES": gpu, "AUTORESEARCH_BUDGET_SECONDS": "30"}
    call(NANOCHAT, packages, arguments, timeout=300, **environ)  # compiles
    printed = summary_of(call(NANOCHAT, packages, arguments, timeout=300, **environ))
    assert printed["clock"] == "wall"
    assert float(printed["total_seconds"]) - float(printed["training_seconds"]) < 30
    assert float(printed["peak_vram_mb"]) > 0
    assert 1.0 < float(printed["val_bpb"]) < 3.0
    if "H200" in printed["device"] or "H100" in printed["device"]:
        assert float(printed["mfu_percent"]) > 40


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_three_short_experiments_on_a_gpu(gpu: str, packages: Path, example: Path) -> None:
    text = (example / "program.md").read_text().replace("5 minutes", "15 seconds")
    text = text.replace("climbmix-10", "packages").replace("climbmix --shards 10", "packages")
    (example / "program.md").write_text(text.replace("agent: claude", "agent: knobs\nbackend: local"))
    commit(example)
    call(example, packages, ["-m", "autoresearch_ray", "run", "program.md", "--experiments", "3"], timeout=550)
    measured = [each for each in experiments(example, packages) if each["metric"] is not None]
    assert len(measured) >= 2
    assert all("NVIDIA" in each["device"] for each in measured)
