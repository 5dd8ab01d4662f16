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

from autoresearch_ray import certainty, report, results
from autoresearch_ray.board import Board
from autoresearch_ray.errors import SetupError
from autoresearch_ray.model import (
    Also,
    Direction,
    Eval,
    Failure,
    FailureKind,
    Metric,
    Options,
    Resources,
    Rule,
    Status,
    Usage,
)
from autoresearch_ray.picture import picture
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


def test_the_error_of_an_unsteady_commit_is_its_own_and_that_of_others_is_not() -> None:
    run = Run()
    run.seat("gpu0", 0)
    for value in (1.0, 1.001, 0.999, 1.0, 1.001):
        run.remeasure("gpu0", run.base, value)
    run.propose("gpu0", "unsteady", 0.7, Status.KEEP, commit=A, gain=0.3)
    run.propose("gpu0", "steady", 0.9, Status.KEEP, commit=B, gain=0.1)
    for commit, value in ((A, 1.0), (A, 1.0), (B, 0.901)):
        run.remeasure("gpu0", commit, value)
    board = run.board
    own, noise, steady = board.error(A), board.noise, board.error(B)
    assert own is not None and noise is not None and steady is not None
    assert own == pytest.approx(0.1) and noise < 0.002 and steady < 0.002
    told = certainty.value(board, board.at(A))
    assert told is not None and told.error == own and str(told).startswith("0.90 ± 0.10")


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
    assert certainty.number(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.971234, 0.000617, "0.97123 ± 0.00062"),
        (0.9712, None, "0.9712"),
        (0.5, 0.0, "0.5 ± 0"),
        (12345.678, 120.0, "12346 ± 120"),
        (1.0, 0.0996, "1.00 ± 0.10"),
        (0.999999, 0.00996, "1.000 ± 0.010"),
        (-3.5e-9, 1.2e-11, "-3.500e-09 ± 1.2e-11"),
        (2e16, 3e14, "2.000e+16 ± 3.0e+14"),
        (0.0, 0.01, "0.000 ± 0.010"),
        (1.0, 1e-20, "1 ± 1.0e-20"),
    ],
)
def test_the_digits_of_a_value_follow_its_error(value: float, error: float | None, text: str) -> None:
    assert certainty.plus_minus(value, error) == text


@given(st.floats(-1e307, 1e307), st.none() | st.floats(0, allow_nan=False))
def test_what_is_shown_of_a_value_is_within_its_error(value: float, error: float | None) -> None:
    shown = float(certainty.plus_minus(value, error, "+").partition(" ± ")[0])
    assert math.isclose(shown, value, rel_tol=1e-5, abs_tol=(error or 0.0) * 0.051)


def test_a_value_says_how_often_it_was_measured_and_without_a_noise_no_more() -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    assert str(certainty.value(run.board, run.board.baseline)) == "1, n = 1"
    run.remeasure("gpu0", run.base, 1.002)
    assert str(certainty.value(run.board, run.board.baseline)) == "1.0010 ± 0.0010, n = 2"
    assert certainty.value(run.board, None) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0s"), (59.4, "59s"), (60, "1m 00s"), (3599.6, "1h 00m"), (90061, "1d 1h")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert results.duration(seconds) == text


# --- Short texts -----------------------------------------------------------------------------------------------------


def test_the_summary_counts_experiments_without_the_baseline() -> None:
    assert results.summary(night().board).splitlines() == [
        "=== Autoresearch Complete (4 experiments) ===",
        "Baseline: 1.00100 ± 0.00087, n = 2 → Best: 0.91950 ± 0.00087, n = 2 (-0.0815, 8.142% better)",
        "Keeps: 2 | Discards: 1 | Crashes: 1 | Lost: 1",
        "Best experiment: #4 — longer warmdown",
    ]


def test_the_progress_line_is_the_one_of_the_loop() -> None:
    assert results.progress_line(night().board) == (
        "=== Experiment 4: val_bpb at 0.91950 ± 0.00087, n = 2, 2 keeps / 1 discards / 1 crashes ==="
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
    assert (str(middle.value), middle.keeps, middle.experiments) == ("0.8, n = 1", 1, 2)
    assert middle.gain == pytest.approx(0.2 if direction is Direction.LOWER else -0.2)


def test_a_lane_whose_head_was_not_measured_comes_last() -> None:
    run = Run()
    run.seat("gpu0")
    run.seat("gpu1")
    run.propose("gpu1", "a step", 9.0, Status.KEEP, commit=A)
    assert [(row.lane, str(row.value)) for row in results.leaderboard(run.board)] == [
        ("gpu1", "9, n = 1"),
        ("gpu0", "None"),
    ]


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
    assert "1.00100 ± 0.00087, n = 2 → 0.91950 ± 0.00087, n = 2 (-0.0815, 8.142% better)" in text
    assert "Against the baseline the metric changed by -0.0815 ± 0.0012 (67 standard errors)." in text
    assert "published as 0.91950 ± 0.00087, n = 2; it was not measured since." in text
    assert "| NVIDIA H200 | 0.00122 | 1.00100 ± 0.00087, n = 2 | gpu0, gpu1 |" in text
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
    text = text.partition("## The best change\n\n")[2].rpartition("\n\n## Discarded\n")[0]
    opening, *inside, closing = text.rstrip("\n").split("\n")
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


def test_the_gain_is_told_as_the_metric_changes_whichever_way_is_better() -> None:
    assert certainty.confirmed(night(Direction.HIGHER).board) == "+0.0795 ± 0.0012 (65 standard errors)"


def test_what_was_measured_after_the_best_was_published_stands_beside_what_it_was_published_as() -> None:
    run = night()
    for value in (0.925, 0.926):
        run.remeasure("gpu1", B, value)
    board = run.board
    later = certainty.later(board)
    assert later is not None and later.n == 2 and later.mean == pytest.approx(0.9255)
    assert "published as 0.9195 ± " in certainty.confirmation(board)[1]
    assert "measured again since, it reads 0.9255 ± " in report.markdown(board, "", None)


def test_every_discard_is_told_with_its_reason() -> None:
    run = night()
    run.propose("gpu1", "far off", 1.5, gain=-0.5, error=0.01, reason="no gain: -0.5 against a margin of 0.02")
    discarded = report.markdown(run.board, "", None).partition("## Discarded\n")[2]
    assert "| -0.500 ± 0.010 | - | far off | no gain: -0.5 against a margin of 0.02 |" in discarded
    assert "| a near miss | because |" in discarded


def test_near_misses_are_those_that_cannot_be_told_from_no_change_by_what_is_likely() -> None:
    run = night()
    for idea, gain, likely in (("luck", 0.001, -0.02), ("far", -0.5, -0.4), ("near", -0.001, 0.0005)):
        run.propose("gpu0", idea, 0.9, gain=gain, error=0.001, likely=likely)
    run.propose("gpu0", "guarded", None, gain=0.0, failure=Failure(FailureKind.GUARD, "tests fail"))
    assert [each.idea for each in results.near_misses(run.board.experiments, run.board.noise)] == [
        "near",
        "a near miss",
    ]


def test_a_suspicious_value_is_marked_and_listed() -> None:
    run = night()
    run.propose("gpu1", "prints a lot", 0.95, Status.KEEP, commit="f6" * 20, gain=0.05, printed=3)
    board = run.board
    doubted = board.experiments[-1]
    assert "[keep?] gpu1" in results.verdict(board, doubted) and results.record(board, doubted)["doubts"]
    listed = report.markdown(board, "", None).partition("## Suspicious\n")[2].partition("\n## ")[0]
    assert listed.count("prints a lot") == 1 and "gave its metric 3 times" in listed and "because" in listed
    assert "## Suspicious" not in report.markdown(night().board, "", None)


def test_what_was_refused_as_the_best_is_listed_with_its_reason_and_its_holdout() -> None:
    run = night()
    run.refuse("gpu1-2", C, "the holdout does not confirm it: 1.3, and 1.2 for the best before it")
    run.holdout("gpu0", C, 1.3)
    run.holdout("gpu0", B, 1.1)
    run.holdout("gpu1", run.base, 1.25)
    text = report.markdown(run.board, "", None)
    refused = text.partition("## Refused as the best\n")[2].partition("\n## ")[0]
    assert "| 1.3, n = 1 | the holdout does not confirm it: 1.3, and 1.2" in refused
    assert "On the holdout the best reads 1.1, n = 1, and the baseline 1.25, n = 1." in text
    assert "oldout" not in report.markdown(night().board, "", None)


def test_a_best_that_needs_much_more_memory_is_warned_of() -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0, resources=Resources(peak_mb=30 * 1024))
    wide = Resources(peak_mb=48 * 1024)
    run.publish(run.propose("gpu0", "wider", 0.9, Status.KEEP, commit=A, gain=0.1, resources=wide), A, 0.9, 1)
    text = report.markdown(run.board, "", None)
    assert "The best uses 48 GB of memory, 1.6 times the baseline's 30 GB." in text
    assert "| memory\\_gb |" in text and "times the baseline's" not in report.markdown(night().board, "", None)


# --- Several numbers, several devices --------------------------------------------------------------------------------


def weighed(rule: Rule = Rule.CONSTRAINED) -> Run:
    also = (Also("latency_ms", Direction.LOWER, weight=0.1), Also("memory_gb", Direction.LOWER))
    run = Run(
        evaluation=Eval("python train.py", Metric("val_bpb", Direction.LOWER), 300.0, 600.0, also=also, rule=rule)
    )
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0, also={"latency_ms": 12.0, "memory_gb": 30.0})
    run.propose("gpu0", "leaner", 0.9, Status.KEEP, commit=A, gain=0.1, also={"latency_ms": 8.5, "memory_gb": 20.0})
    return run


def test_other_numbers_are_told_in_the_order_of_the_program_and_exported_under_their_names() -> None:
    board = weighed().board
    assert certainty.others(board) == ("latency_ms", "memory_gb")
    assert results.leaderboard(board)[0].also == {"latency_ms": 8.5, "memory_gb": 20.0}
    assert "| 0.9, n = 1 | +0.1 | 8.5 | 20 | leaner |" in report.markdown(board, "", None)
    assert json.loads(results.jsonl(board).splitlines()[1])["also"] == {"latency_ms": 8.5, "memory_gb": 20.0}
    rows = list(csv.DictReader(io.StringIO(results.csv(board), newline="")))
    assert [row["also.latency_ms"] for row in rows] == ["12.0", "8.5"] and "also" not in rows[0]
    assert results.tsv(board).splitlines()[0] == "commit\tmetric\tmemory_gb\tstatus\tdescription"


def test_a_weighted_sum_is_not_passed_off_as_the_metric() -> None:
    board = weighed(Rule.WEIGHTED).board
    assert certainty.heading(board) == "val_bpb, weighted" and "val\\_bpb, weighted" in report.markdown(board, "", None)


def unlike() -> Run:
    """Two lanes on devices that read 0.1 apart; each finds a gain of 0.05 over its own baseline."""
    run = Run()
    for worker, (lane, name, base) in enumerate((("gpu0", "H200", 1.0), ("gpu1", "H100", 1.1))):
        run.seat(lane, worker, f"NVIDIA {name}", f"NVIDIA {name}, driver 550")
        for value in (base - 0.001, base + 0.001):
            run.remeasure(lane, run.base, value)
    run.propose("gpu0", "one", 0.95, Status.KEEP, commit=A, gain=0.05)
    run.propose("gpu1", "two", 1.05, Status.KEEP, commit=B, gain=0.05)
    return run


def test_unlike_devices_are_compared_by_their_own_baselines() -> None:
    board = unlike().board
    rows = results.leaderboard(board)
    assert [row.gain for row in rows] == pytest.approx([0.05, 0.05])
    assert [row.value.mean for row in rows if row.value] == pytest.approx([0.95, 0.95])
    assert {row.lane: row.device for row in rows} == {
        "gpu0": "NVIDIA H200, driver 550",
        "gpu1": "NVIDIA H100, driver 550",
    }
    records = [results.record(board, each) for each in board.experiments]
    assert records[2]["metric"] == pytest.approx(0.95) and records[2]["values"] == [1.05]
    assert records[2]["over_baseline"] == pytest.approx(0.05)


def test_the_noise_has_a_row_for_each_class_with_its_baseline() -> None:
    text = report.markdown(unlike().board, "", None)
    assert "| NVIDIA H200, driver 550 | 0.00141 | 1.0000 ± 0.0010, n = 2 | gpu0 |" in text
    assert "| NVIDIA H100, driver 550 | 0.00141 | 1.1000 ± 0.0010, n = 2 | gpu1 |" in text
    assert "Values read as they would on NVIDIA H200, driver 550." in text and "| over baseline |" in text
    assert "over baseline" not in report.markdown(night().board, "", None)


# --- The picture -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path: Path, direction: Direction, suffix: str, begins: bytes) -> None:
    path = tmp_path / f"progress{suffix}"
    picture(night(direction).board, path)
    assert path.read_bytes().startswith(begins)


def test_a_run_without_values_has_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "progress.png"
    picture(Run(options=Options()).board, path)
    assert path.stat().st_size > 1000


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=30) | st.just("$x_{$ 学習率 \\frac"))
def test_any_idea_can_be_drawn(tmp_path: Path, idea: str) -> None:
    run = Run()
    run.seat("gpu0")
    run.remeasure("gpu0", run.base, 1.0)
    run.publish(run.propose("gpu0", idea, 0.9, Status.KEEP, commit=A, gain=0.1), A, 0.9)
    picture(run.board, tmp_path / "progress.svg")
    assert "#1" in (tmp_path / "progress.svg").read_text() or (tmp_path / "progress.svg").stat().st_size > 1000


def drawn(run: Run, folder: Path) -> str:
    picture(run.board, folder / "progress.svg")
    return (folder / "progress.svg").read_text()


def test_the_band_and_what_was_brought_together_are_drawn_where_there_is_some(tmp_path: Path) -> None:
    run = night()
    before = drawn(run, tmp_path)
    assert "<!-- best ± 2 standard errors -->" in before and "brought together -->" not in before
    both = "f6" * 20
    run.propose("gpu1", "both", 0.9, Status.KEEP, commit=both, parent=A, gain=0.05, picked=(B, C))
    run.refuse("gpu1-9", both, "too early")
    run.remeasure("gpu1", B, 0.92)
    after = drawn(run, tmp_path)
    for told in ("keep, brought together", "refused as the best", "best, measured since"):
        assert f"<!-- {told} -->" in after and f"<!-- {told} -->" not in before


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"progress\.gif"):
        picture(night().board, tmp_path / "progress.gif")
