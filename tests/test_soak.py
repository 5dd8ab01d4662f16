"""The short forms of the benchmarks of many experiments and of many slots: that they run, and that nothing leaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def told(*argv: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", *argv, "--json"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=110, check=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_many_experiments_leave_no_tree_behind_and_neither_files_nor_threads() -> None:
    story = told("benchmarks.soak", "--experiments", "60", "--workers", "2", "--every", "0.5")
    assert story["trees_left"] == [] and story["hand_ins"] >= 60
    grown = {(row["role"], row["what"]): (row["early"], row["late"]) for row in story["growth"]}
    assert {role for role, _ in grown} == {"driver", "coordinator", "team"}
    for (role, what), (early, late) in grown.items():
        # A lane more, or what another hand-in has open just now; 40 experiments that leak one each are far more.
        assert what not in ("files", "threads") or late <= early + 15, (role, what, early, late)


def test_slots_hand_in_by_the_dozen() -> None:
    (row,) = told("benchmarks.scale", "--slots", "6", "--seconds", "4", "--minutes", "0.1")["rows"]
    assert row["slots"] == row["lanes"] == 6 and row["processes"] == 1
    assert row["hand_ins"] >= 6 and 0 < row["reply_median"] <= row["reply_99"]
