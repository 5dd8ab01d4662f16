"""What people are told: exports that survive any text, a report that no idea can break, a picture of every run."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_ray import report, results
from autoresearch_ray.board import Board
from autoresearch_ray.errors import SetupError
from autoresearch_ray.model import Direction, Failure, FailureKind, Options, Resources, Status, Usage
from tests.runs import Run

A, B, C, D = "a1" * 20, "b2" * 20, "c3" * 20, "d4" * 20

ideas = st.text(max_size=60) | st.text(alphabet="\t\n\r\x0b\x0c\x1b\x85\u2028`|[]<>$,;\"'ab ", max_size=60)
values = st.none() | st.floats(allow_nan=False, allow_infinity=False)


def night(direction: Direction = Direction.LOWER) -> Run:
    """A baseline, two keeps of which the second is the best, a near miss, a crash, one lost, one undecided."""
    sign = 1 if direction is Direction.LOWER else -1
    run = Run(direction=direction)
    run.seat("gpu0", 0)
    run.seat("gpu1", 1)
    run.remeasure("gpu0", run.base, 1.0)
    run.remeasure("gpu1", run.base, 1.002)
    first = run.propose("gpu0", "raise the rate", 1.0 - 0.05 * sign, Status.KEEP, commit=A, gain=0.051, reason="clear")
    run.remeasure("gpu0", A, 1.0 - 0.052 * sign)
    run.publish(first, A, 1.0 - 0.051 * sign)
    run.propose("gpu1", "a near miss", 0.9985, Status.DISCARD, commit=C, gain=0.0002)
    run.propose("gpu1", "double the width", None, Status.CRASH, commit=D)
    used = Resources("NVIDIA H200", peak_mb=45056.0, energy_joules=3.6e6, contended=True)
    second = run.propose(
        "gpu0",
        "longer warmdown",
        1.0 - 0.08 * sign,
        Status.KEEP,
        commit=B,
        parent=A,
        gain=0.029,
        resources=used,
        usage=Usage(9.0, 1000, 200, 0.25),
    )
    run.remeasure("gpu0", B, 1.0 - 0.081 * sign)
    run.publish(second, B, 1.0 - 0.0805 * sign)
    run.propose("gpu1", "no answer", None, Status.LOST, failure=Failure(FailureKind.AGENT, "not logged in"))
    run.propose("gpu0", "still open", 0.95, Status.PENDING, commit="e5" * 20, parent=B)
    return run


def board_of(idea: str, value: float | None) -> Board:
    run = Run()
    run.seat("gpu0")
    run.propose("gpu0", idea, value, Status.CRASH if value is None else Status.KEEP, commit=A, reason=idea)
    return run.board


# --- Words -----------------------------------------------------------------------------------------------------------


@given(ideas, st.integers(0, 20))
def test_a_line_has_no_control_characters_and_keeps_its_length(text: str, most: int) -> None:
    shown = results.line(text, most)
    assert len(shown.splitlines()) <= 1
    assert shown.isprintable()
    assert not most or len(shown) <= most


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.99790012, "0.9979"), (1234567.0, "1234567"), (0.0, "0"), (-3.5e-9, "-3.5e-09"), (1e22, "1e+22")],
)
def test_numbers_read_as_people_write_them(value: float | None, text: str) -> None:
    assert results.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0s"), (59.4, "59s"), (60, "1m 00s"), (3599.6, "1h 00m"), (90061, "1d 1h")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert results.duration(seconds) == text


# --- Short texts -----------------------------------------------------------------------------------------------------


def test_the_summary_counts_experiments_without_the_baseline() -> None:
    assert results.summary(night().board).splitlines() == [
        "=== Autoresearch Complete (4 experiments) ===",
        "Baseline: 1.001 → Best: 0.9195 (-0.0815, 8.142% better)",
        "Keeps: 2 | Discards: 1 | Crashes: 1 | Lost: 1",
        "Best experiment: #4 — longer warmdown",
    ]


def test_the_progress_line_is_the_one_of_the_loop() -> None:
    assert results.progress_line(night().board) == (
        "=== Experiment 4: val_bpb at 0.9195, 2 keeps / 1 discards / 1 crashes ==="
    )


def test_higher_is_better_reads_as_better() -> None:
    assert results.improvement(night(Direction.HIGHER).board) == "+0.0795, 7.942% better"


def test_a_run_without_any_value_has_a_summary_and_a_report() -> None:
    board = Run().board
    assert "Baseline: - → Best: -" in results.summary(board)
    assert "Best experiment: none" in results.summary(board)
    assert "Nothing has been measured yet" in report.markdown(board, "", None)


@pytest.mark.parametrize("direction", list(Direction))
def test_the_leaderboard_puts_the_better_lane_first(direction: Direction) -> None:
    run = Run(direction=direction)
    for worker, lane in enumerate(("gpu0", "gpu1", "gpu2")):
        run.seat(lane, worker)
    run.remeasure("gpu0", run.base, 1.0)
    for lane, commit, value in (("gpu0", A, 0.7), ("gpu1", B, 0.9), ("gpu2", C, 0.8)):
        run.propose(lane, "a step", value, Status.KEEP, commit=commit, gain=0.1)
    run.propose("gpu2", "too far", 5.0)
    rows = results.leaderboard(run.board)
    expected = ["gpu0", "gpu2", "gpu1"] if direction is Direction.LOWER else ["gpu1", "gpu2", "gpu0"]
    assert [row.lane for row in rows] == expected
    assert [row.rank for row in rows] == [1, 2, 3]
    middle = rows[1]
    assert (middle.value, middle.measurements, middle.keeps, middle.experiments) == (0.8, 1, 1, 2)
    assert middle.gain == pytest.approx(0.2 if direction is Direction.LOWER else -0.2)


def test_a_lane_whose_head_was_not_measured_comes_last() -> None:
    run = Run()
    run.seat("gpu0")
    run.seat("gpu1")
    run.propose("gpu1", "a step", 9.0, Status.KEEP, commit=A)
    assert [(row.lane, row.value) for row in results.leaderboard(run.board)] == [("gpu1", 9.0), ("gpu0", None)]


def test_the_lineage_leads_from_the_baseline_to_the_best() -> None:
    assert [each.commit for each in report.lineage(night().board)] == ["b" * 40, A, B]


# --- Exports ---------------------------------------------------------------------------------------------------------


@given(ideas, values)
def test_tsv_has_five_columns_in_every_row(idea: str, value: float | None) -> None:
    header, *rows = results.tsv(board_of(idea, value)).removesuffix("\n").split("\n")
    assert header.split("\t") == ["commit", "metric", "memory_gb", "status", "description"]
    assert len(rows) == 1
    commit, metric, memory, status, description = rows[0].split("\t")
    assert commit == A[:7] and memory == "0.0" and description
    assert (metric == "NA") == (status == "crash") == (value is None)
    if value is not None:
        assert math.isclose(float(metric), value, rel_tol=1e-3)


@given(ideas, values)
def test_jsonl_gives_back_any_idea(idea: str, value: float | None) -> None:
    baseline, experiment = map(json.loads, results.jsonl(board_of(idea, value)).splitlines())
    assert baseline["n"] == 0 and baseline["metric"] is None
    assert experiment["description"] == (idea or "propose")
    assert experiment["metric"] == value
    assert experiment["values"] == ([] if value is None else [value])


@given(ideas, values)
def test_csv_gives_back_any_idea(idea: str, value: float | None) -> None:
    rows = list(csv.DictReader(io.StringIO(results.csv(board_of(idea, value)), newline="")))
    assert len(rows) == 2
    assert rows[1]["description"] == (idea or "propose")
    assert rows[1]["reason"] == idea
    assert (float(rows[1]["metric"]) if rows[1]["metric"] else None) == value


def test_the_tsv_leaves_out_what_has_no_verdict_about_the_idea() -> None:
    rows = [row.split("\t") for row in results.tsv(night().board).splitlines()[1:]]
    assert rows == [
        ["bbbbbbb", "1.001000", "0.0", "keep", "baseline"],
        [A[:7], "0.949000", "0.0", "keep", "raise the rate"],
        [C[:7], "0.998500", "0.0", "discard", "a near miss"],
        [D[:7], "NA", "0.0", "crash", "double the width"],
        [B[:7], "0.919500", "44.0", "keep", "longer warmdown"],
    ]


def test_jsonl_holds_the_fields_of_the_loop_and_ours() -> None:
    fields = [json.loads(text) for text in results.jsonl(night().board).splitlines()][4]
    assert list(fields)[:6] == ["n", "commit", "metric", "status", "description", "timestamp"]
    assert fields["timestamp"] == "2025-10-09T09:02:20Z"
    assert fields["memory_gb"] == 44.0
    assert fields["cost_usd"] == 0.25
    assert fields["parent"] == A


# --- The report ------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_found_and_how_sure_it_is() -> None:
    text = report.markdown(night().board, "+a\n", "progress.png")
    assert "1.001 → 0.9195 (-0.0815, 8.142% better)" in text
    assert "The best was measured 2 times, the baseline 2 times." in text
    assert "standard errors" in text
    assert "git merge autoresearch/nov20" in text
    assert "![Progress](progress.png)" in text
    assert "| a near miss |" in text.partition("## Near misses")[2]
    assert "| crash | 1 | #3 | exit code 1 |" in text
    assert "| agent | 1 | #5 | not logged in |" in text
    assert "1 experiments shared their device with a stranger: #4." in text
    assert "1 experiments are not decided." in text
    assert "$0.25" in text and "1,000 tokens in, 200 out" in text and "1 kWh" in text


def test_a_best_that_was_measured_once_is_called_so() -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    run.publish(run.propose("gpu0", "luck", 0.9, Status.KEEP, commit=A, gain=0.1), A, 0.9, 1)
    text = report.markdown(run.board, "", None)
    assert "The best was measured only once" in text
    assert "the noise is not known" in text


def test_nothing_to_merge_is_not_offered() -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    assert "git merge" not in report.markdown(run.board, "", None)


@given(ideas)
def test_no_idea_breaks_a_table(idea: str) -> None:
    text = report.markdown(board_of(idea, 0.5), "", None)
    kept = text.partition("## Kept\n\n")[2].partition("\n\n## ")[0].strip().splitlines()
    assert len(kept) == 3
    cells = [len(row.replace("\\\\", "").replace("\\|", "").split("|")) for row in kept]
    assert cells[0] == cells[1] == cells[2]


@given(st.text(alphabet="`~\n+ab", max_size=200))
def test_no_diff_closes_its_fence(diff: str) -> None:
    text = report.markdown(night().board, diff, None)
    if not diff.strip():
        assert "## The best change" not in text
        return
    opening, *inside, closing = text.partition("## The best change\n\n")[2].rstrip("\n").split("\n")
    assert opening == closing + "diff" and set(closing) == {"`"}
    assert not any(closing in each for each in inside)


def test_a_long_diff_is_cut_and_says_so() -> None:
    text = report.markdown(night().board, "+x\n" * 1000, None)
    assert text.count("+x\n") == report.DIFF_LINES
    assert "600 more lines" in text


def test_limits_and_lanes_of_another_kind_are_named() -> None:
    run = night()
    run.seat("gpu2", 2, device="NVIDIA H100")
    assert "unlike devices: NVIDIA H100, NVIDIA H200" in report.markdown(run.board, "", None)


# --- The picture -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path: Path, direction: Direction, suffix: str, begins: bytes) -> None:
    path = tmp_path / f"progress{suffix}"
    report.picture(night(direction).board, path)
    assert path.read_bytes().startswith(begins)


def test_a_run_without_values_has_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "progress.png"
    report.picture(Run(options=Options()).board, path)
    assert path.stat().st_size > 1000


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=30) | st.just("$x_{$ 学習率 \\frac"))
def test_any_idea_can_be_drawn(tmp_path: Path, idea: str) -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    run.publish(run.propose("gpu0", idea, 0.9, Status.KEEP, commit=A, gain=0.1), A, 0.9)
    report.picture(run.board, tmp_path / "progress.svg")
    assert "#1" in (tmp_path / "progress.svg").read_text() or (tmp_path / "progress.svg").stat().st_size > 1000


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"progress\.gif"):
        report.picture(night().board, tmp_path / "progress.gif")
