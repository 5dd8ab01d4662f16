"""The folders of the teams of one node: whose process lives has its own, and what others left goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from autoresearch_ray.team import move_in

MOVES_IN = "import sys, pathlib, autoresearch_ray.team as t; f, _ = t.move_in(pathlib.Path(sys.argv[1])); "
STAYS = MOVES_IN + "(f / 'file').touch(); print(f, flush=True); sys.stdin.read()"


def team(node: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", STAYS, str(node)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_team_that_died_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    node = tmp_path / "run"
    dead, left = team(node)
    living, kept = team(node)
    with dead, living:
        assert left.exists() and kept.exists() and left != kept
        dead.kill()
        dead.wait()
        mine, held = move_in(node)
        assert not left.exists() and (kept / "file").exists() and mine.exists()
        os.close(held)
        living.kill()
    again, held = move_in(node)
    assert list(node.iterdir()) == [again]
    os.close(held)


def test_teams_that_move_in_at_once_all_have_a_folder(tmp_path: Path) -> None:
    node = tmp_path / "run"
    start = MOVES_IN + "sys.stdin.read(); assert f.exists()"
    argv = [sys.executable, "-c", start, str(node)]
    teams = [subprocess.Popen(argv, stdin=subprocess.PIPE) for _ in range(6)]
    for each in teams:
        each.communicate(b"", timeout=60)
    assert [each.returncode for each in teams] == [0] * 6
