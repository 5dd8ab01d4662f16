"""The simulator tells the truth about its worlds, runs the real board, and shows what it claims."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger
from autoresearch_ray.board import replay
from autoresearch_ray.model import Status
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.policies.greedy import Greedy
from benchmarks import landscape
from benchmarks.landscape import Plain, PlainReset, Setting, play
from benchmarks.world import BASE, Change, Landscape, Run, World


def world(seed: int = 1, **land: object) -> World:
    return World(Landscape(**land), random.Random(seed))  # type: ignore[arg-type]


# --- Worlds ----------------------------------------------------------------------------------------------------------


def test_a_good_idea_is_worth_its_effect_and_harm_costs_what_it_does() -> None:
    place = world(conflicts=0.0)
    good = place.commit(BASE, [Change(1, 3)])
    bad = place.commit(good, [Change(2, None, 0.002)])
    assert place.truth(good) == pytest.approx(1 - place.effects[3])
    assert place.truth(bad) == pytest.approx(1 - place.effects[3] + 0.002)


def test_two_ideas_that_conflict_do_not_add_up_and_cannot_be_picked_together() -> None:
    place = world(conflicts=1.0)
    first = place.commit(BASE, [Change(1, 3)])
    both = place.commit(first, [Change(2, 4)])
    assert place.truth(both) == place.truth(first)
    assert not place.fits(Change(2, 4), place.changes[first])


def test_an_idea_that_is_there_already_is_not_picked_twice() -> None:
    place = world(conflicts=0.0)
    head = place.commit(BASE, [Change(1, 3)])
    assert not place.fits(Change(9, 3), place.changes[head])
    assert place.fits(Change(9, 4), place.changes[head])


def test_about_as_many_pairs_conflict_as_the_landscape_says() -> None:
    place = world(conflicts=0.02)
    pairs = [(a, b) for a in range(300) for b in range(a)]
    share = sum(place.conflict(Change(1, a), Change(2, b)) for a, b in pairs) / len(pairs)
    assert share == pytest.approx(0.02, abs=0.004)


def test_what_was_tried_anywhere_is_not_drawn_again() -> None:
    place = world(good=1.0, ideas=5)
    place.tried = {0, 1, 2}
    assert {place.draw(BASE).idea for _ in range(50)} == {3, 4}
    place.tried = {0, 1, 2, 3, 4}
    assert place.draw(BASE).idea is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(6)))
def test_without_conflicts_and_fading_the_order_of_changes_does_not_matter(seed: int, order: list[int]) -> None:
    place = world(seed, conflicts=0.0)
    one = place.commit(BASE, [Change(each, each) for each in range(6)])
    other = place.commit(BASE, [Change(each, each) for each in order])
    assert place.truth(one) == pytest.approx(place.truth(other))


# --- Runs ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_night_and_another_one_is_not() -> None:
    setting = Setting(Bayes, 4, evaluations=200)
    assert play(setting, 1) == play(setting, 1) != play(setting, 3)


def test_a_run_is_the_replay_of_its_ledger() -> None:
    run = Run.of(Landscape(), 5, 8, Bayes(), evaluations=300).play()
    board = replay(map(ledger.decode, map(ledger.encode, run.lines)))
    assert board.experiments == run.board.experiments and board.published == run.board.published


@pytest.mark.parametrize(("lanes", "evaluations"), [(1, 100), (8, 200), (64, 640), (256, 1600)])
def test_a_run_ends_within_its_evaluations_and_leaves_few_of_them(lanes: int, evaluations: int) -> None:
    run = Run.of(Landscape(), 7, lanes, Bayes(), evaluations=evaluations).play()
    assert 0.85 * evaluations <= run.board.evaluations <= evaluations
    assert run.board.counts[Status.PENDING] == 0


def test_a_day_of_hours_ends_with_them() -> None:
    run = Run.of(Landscape(), 7, 8, Bayes(), hours=4.0).play()
    assert run.now <= 4 * 3600 + 2 * 300 + 1000  # the last evaluation of each lane ends after them
    assert run.board.published


def test_the_last_word_on_a_run_is_what_it_published() -> None:
    run = Run.of(Landscape(), 9, 16, Bayes(), evaluations=400).play()
    assert [commit for _, commit in run.best] == [each.commit for each in run.board.published]
    values = [run.world.truth(commit) for _, commit in run.best]
    assert values[-1] < 1.0 and len(values) == len(set(values))


# --- Claims, on few worlds -------------------------------------------------------------------------------------------

_WORLDS = (1, 3, 5, 7)


def gains(setting: Setting) -> float:
    return sum(play(setting, seed).gain for seed in _WORLDS) / len(_WORLDS)


def test_replaying_beats_resetting_and_gathering_beats_both() -> None:
    reset, replayed, gathered = (gains(Setting(each, 16, evaluations=600)) for each in (PlainReset, Plain, Bayes))
    assert reset < replayed < gathered


def test_the_default_keeps_less_luck_than_the_plain_rule_and_promises_less() -> None:
    ours = [play(Setting(Bayes, 16, evaluations=600), seed) for seed in _WORLDS]
    plain = [play(Setting(Plain, 16, evaluations=600), seed) for seed in _WORLDS]
    assert landscape.false_keeps(ours) <= 0.15 < 0.35 <= landscape.false_keeps(plain)
    assert landscape.off(ours) < 0.0005 < 0.001 < landscape.off(plain)


def test_where_nothing_is_any_good_the_truth_of_the_best_hardly_suffers() -> None:
    assert gains(Setting(Bayes, 16, Landscape(good=0.0), evaluations=600)) > -0.0005
    assert gains(Setting(Greedy, 16, Landscape(good=0.0), evaluations=600)) < 0


def test_a_class_that_reads_better_by_five_noise_units_finds_no_more_bests_for_it() -> None:
    found = [play(Setting(Bayes, 16, Landscape(biases=(0.0, -0.005)), evaluations=600), seed) for seed in _WORLDS]
    share = landscape.mean(found, "first_class")
    assert 0.25 <= share <= 0.75
    assert landscape.mean(found, "order") > landscape.mean(found, "raw_order")


# --- The command -----------------------------------------------------------------------------------------------------


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.landscape", "--processes", "1", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)


def test_the_command_prints_a_table_with_its_claims_and_exits_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("--worlds", "2", "classes", "--json")
    document = json.loads(done.stdout)
    assert document["seeds"] == [1, 3], "the even ones are those that the defaults were tuned on"
    (table,) = document["tables"]
    assert len(table["rows"]) == 3 and all(len(row) == len(table["head"]) for row in table["rows"])
    assert (done.returncode == 0) is document["met"] is all(each["met"] for each in table["checks"])


def test_a_table_in_words_says_ok_or_missed() -> None:
    table = landscape.Table("Title", ("a", "b"), [("1", "2")], [landscape.Check("it holds", "3", False)])
    assert landscape.text(table).splitlines() == ["Title", "  a  b", "  1  2", "  MISSED it holds: 3"]


def test_every_table_has_a_line_and_a_claim() -> None:
    nothing = landscape.Result(0.05, 0.0, 10, 1, 1600, 600, 5, 1000.0, 1.0, 0.9, 0.5, (0.0, 1), 0.01)
    for make in landscape.TABLES.values():
        if make is not landscape.speed_table:
            table = make(lambda setting: [nothing, nothing])
            assert table.rows and table.checks
            assert all(math.isfinite(len(cell)) for row in table.rows for cell in row)
