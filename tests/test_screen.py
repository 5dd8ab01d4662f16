"""The live leaderboard on a narrow terminal."""

from __future__ import annotations

import io

from rich.console import Console

from autoresearch_ray.cli.screen import screen
from tests.runs import Run


def test_on_a_narrow_screen_each_lane_keeps_its_name_and_value_and_one_line() -> None:
    run = Run()
    for worker in range(3):
        run.seat(f"gpu{worker}", worker)
        run.remeasure(f"gpu{worker}", run.base, 0.97123 + 0.001 * worker)
    shown = Console(file=io.StringIO(), width=80)
    shown.print(screen(run.board, run.now, 9))
    lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    head = next(index for index, each in enumerate(lines) if " lane " in each)
    for worker in range(3):
        assert f" gpu{worker} " in lines[head + 1 + worker] and "0.97223 ± 0.00058, n = 3" in lines[head + 1 + worker]
    assert max(map(len, lines)) <= 80
