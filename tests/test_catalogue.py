"""Experiments are found by whatever people and lanes call them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.catalogue import Catalogue
from autoresearch_ray.model import Experiment, Status

BASE, LOST = "b" * 40, "a" * 40


def catalogue(statuses: list[Status]) -> Catalogue:
    """A baseline, and one experiment on it with each of these; all that were lost measured the first one's commit."""
    found = Catalogue(Experiment(0, "baseline", "", "baseline", BASE, BASE, "baseline", 0.0), BASE)
    for number, status in enumerate(statuses, start=1):
        commit = LOST if status is Status.LOST else f"c{number:039x}"
        lane, tree = f"gpu{number % 3}", f"tree of {commit}"
        found.add(
            Experiment(
                number, f"{lane}-{number}", lane, "propose", BASE, commit, "an idea", 1.0, status=status, tree=tree
            )
        )
    return found


statuses = st.lists(st.sampled_from([Status.KEEP, Status.DISCARD, Status.LOST]), max_size=30)


@given(statuses=statuses)
def test_each_is_found_by_its_id_its_number_and_its_commit(statuses: list[Status]) -> None:
    known = catalogue(statuses)
    for number, each in enumerate(known.experiments):
        for name in (each.id, str(number), f"#{number}", f"#00{number}"):
            assert known.find(name) is each
        if each.status is not Status.LOST:
            assert each.commit and known.find(each.commit) is each is known.at(each.commit)
            assert known.tree(each.tree) is (each if each.tree else None)


@given(statuses=statuses)
def test_a_lost_measurement_is_no_answer_once_there_is_another(statuses: list[Status]) -> None:
    known = catalogue([*statuses, Status.LOST, Status.LOST])
    assert known.at(LOST) is known.experiments[-1]
    assert known.tree("tree of " + LOST) is known.experiments[-1]


@pytest.mark.parametrize("name", ["", "#", "4", "#4", "-1", "1.0", "000", "fff", "nothing", "9" * 5000, "٣" * 5000])
def test_what_is_not_there_is_not_found_however_long_its_name_is(name: str) -> None:
    found = catalogue([Status.KEEP] * 3).find(name)
    assert found is None or (name == "000" and found.number == 0)
