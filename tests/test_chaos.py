"""The short form of `python -m benchmarks.chaos`: a run over real Ray while one thing after another breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# With it, an agent, the driver, a team, the disk, a node and the coordinator are struck.
SEED = "16"


@pytest.mark.timeout(300)
def test_a_run_among_faults_loses_nothing_and_leaves_nothing_behind() -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--faults", "6", "--seed", SEED, "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["met"], told["checks"]
    struck = {each["fault"]: each["times"] for each in told["faults"]}
    assert {"kill a node", "kill a team", "kill the coordinator", "kill the driver"} <= struck.keys()
    assert sum(struck.values()) == 6 and told["experiments"] > 0
