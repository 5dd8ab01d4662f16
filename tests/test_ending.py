"""What `run` says when a run has ended: in a terminal the last lines are all that somebody reads in the morning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import Toy


def run(toy: Toy, program: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autoresearch_ray", "run", program.name]
    return subprocess.run(command, cwd=toy.folder, env=os.environ, capture_output=True, text=True, timeout=100)


def test_a_run_that_fails_sums_up_what_was_found_before_it_says_why(toy: Toy) -> None:
    broken = toy.program(agent="command", more='experiments: 30\nagent_command: "echo quota is used up; exit 7"')
    done = run(toy, broken)
    assert done.returncode == 2 and "=== Autoresearch Complete" in done.stdout and "Baseline: " in done.stdout
    report, error = done.stderr.index("\nreport: "), done.stderr.index("\nerror: ")
    assert report < error and "ended:" not in done.stderr


def test_a_run_that_was_at_its_limit_says_so_when_it_is_taken_up(toy: Toy) -> None:
    program = toy.program(more="experiments: 2")
    for _ in range(2):
        done = run(toy, program)
        assert done.returncode == 0 and "\nended: 2 experiments" in done.stderr
