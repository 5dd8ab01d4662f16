"""Merging by lines: what comes together, what is a conflict, and that no bytes upset it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autoresearch_ray.merge import LINES, three_way

MERGES = [
    # changes
    ("neighbours", "a b c d", "a B c d", "a b C d", "a B C d"),
    ("every other line, and those between", "a b c d", "A b C d", "a B c D", "A B C D"),
    ("a line between two that the other side changed", "a b c", "A b C", "a B c", "A B C"),
    ("the same change on both sides", "a b c", "a B c", "a B c", "a B c"),
    ("the same change, and one more on each side", "a b c", "A B c", "a B C", "A B C"),
    ("one line becomes two beside a change", "a b c", "a B B2 c", "a b C", "a B B2 C"),
    ("lines that repeat", "x a x b x", "x A x b x", "x a x B x", "x A x B x"),
    # insertions
    ("insertions in two places", "a b", "a X b", "a b Y", "a X b Y"),
    ("the same insertion on both sides", "a b", "a X b", "a X b", "a X b"),
    ("an insertion before a changed line", "a b c", "a X b c", "a B c", "a X B c"),
    ("an insertion behind a changed line", "a b c", "a b X c", "a B c", "a B X c"),
    ("an insertion between two changed lines", "a b", "a X b", "A B", "A X B"),
    ("an insertion beside lines that became more", "a b c", "a b X c", "a B B2 c", "a B B2 X c"),
    # deletions
    ("a deletion beside a change", "a b c", "a c", "a b C", "a C"),
    ("deletions beside each other", "a b c d", "a c d", "a b d", "a d"),
    ("the same deletion on both sides", "a b c", "a c", "a c", "a c"),
    ("an insertion before a deletion", "a b c", "a X b c", "a c", "a X c"),
    ("an insertion behind a deletion", "a b c", "a b X c", "a c", "a X c"),
    ("a moved line, and a change elsewhere", "a b c d", "b c a d", "a b c D", "b c a D"),
]
CONFLICTS = [
    ("one line, two ways", "a b c", "a B c", "a X c"),
    ("a change and a deletion", "a b c", "a B c", "a c"),
    ("two insertions in one place", "a b", "a X b", "a Y b"),
    ("of two insertions in one place, one is longer", "a b", "a X b", "a X Y b"),
    ("an insertion inside a deletion", "a b c d", "a b X c d", "a d"),
    ("an insertion inside lines that became more", "a b c d", "a b X c d", "a B C C2 d"),
    ("a change inside lines that became fewer", "a b c d", "a B c d", "a X d"),
    ("deletions that share a line", "a b c d e", "a d e", "a b e"),
    ("one line agrees and one does not", "a b c", "A B c", "A X c"),
    ("two files where there was none", "", "a", "b"),
]


def lines(words: str, end: str = "\n") -> bytes:
    return "".join(each + end for each in words.split()).encode()


def names(rows: list[tuple[str, ...]]) -> list[str]:
    return [each[0] for each in rows]


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("case", MERGES, ids=names(MERGES))
def test_changes_that_do_not_contradict_come_together_in_the_order_of_their_places(
    case: tuple[str, ...], end: str
) -> None:
    base, ours, theirs, merged = (lines(each, end) for each in case[1:])
    assert three_way(base, ours, theirs) == merged
    assert three_way(base, theirs, ours) == merged


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("case", CONFLICTS, ids=names(CONFLICTS))
def test_changes_of_one_place_are_a_conflict(case: tuple[str, ...], end: str) -> None:
    base, ours, theirs = (lines(each, end) for each in case[1:])
    assert three_way(base, ours, theirs) is None
    assert three_way(base, theirs, ours) is None


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        (b"a\nb", b"A\nb", b"a\nB", b"A\nB"),
        (b"a\nb\n", b"a\nb", b"a\nB\n", b"a\nB"),  # its end is no part of the last line
        (b"a\nb", b"a\nb\n", b"a\nB", b"a\nB\n"),
        (b"a\nb\n", b"a\nb", b"a\nb\nc\n", b"a\nb\nc"),  # no line is glued to another
        (b"a\nb\n", b"a\nb", b"a\n", b"a"),
        (b"a\nb", b"a", b"b", b""),
        (b"a\nb", b"a\nb\nc", b"A\nb", b"A\nb\nc"),
        (b"a\nb", b"a\nb\n", b"a\nb\nc", None),
        (b"a\r\nb\r\n", b"a\r\nb", b"A\r\nb\r\n", b"A\r\nb"),
        (b"a\r\nb\r\n", b"a\nb\n", b"A\r\nb\r\n", None),  # other ends are other lines
        (b"a\rb\n", b"A\rb\n", b"a\rB\n", None),  # one line
    ],
)
def test_the_end_of_the_file_and_of_lines_stays_right(
    base: bytes, ours: bytes, theirs: bytes, merged: bytes | None
) -> None:
    assert three_way(base, ours, theirs) == three_way(base, theirs, ours) == merged


def test_lines_need_no_encoding_but_binary_files_are_not_merged() -> None:
    assert three_way(b"\xff\n\xfe\n", b"\xff1\n\xfe\n", b"\xff\n\xfe2\n") == b"\xff1\n\xfe2\n"
    assert three_way(b"\0\na\n", b"\0\nA\n", b"B\na\n") is None
    assert three_way(b"\0\na\n", b"\0\na\n", b"B\na\n") == b"B\na\n", "one side alone changed it"


def test_a_file_of_many_lines_is_merged_in_time_and_one_of_too_many_is_a_conflict() -> None:
    base = [b"%d" % number for number in range(LINES)]
    ours, theirs = [b"first", *base[1:]], [*base[:-1], b"last"]
    assert three_way(*(b"\n".join([*each, b""]) for each in (base, ours, theirs))) is not None
    assert three_way(*(b"\n".join([*each, b"", b""]) for each in (base, ours, theirs))) is None
    assert three_way(*(b"\n".join([*each, b"", b""]) for each in (base, base, theirs))) is not None


@pytest.mark.timeout(30)
@pytest.mark.parametrize("shape", ["alike", "one by one"])
def test_a_file_made_to_take_long_takes_seconds(shape: str) -> None:
    def file(tag: str) -> bytes:
        if shape == "alike":  # eight minutes for difflib
            return b"".join(b"x\n%s%d\n" % (tag.encode(), number) for number in range(LINES // 2))
        # Each line that is alone shows one more that is.
        return "".join(f"x{number + 1}\nx{number}\n{tag}{number}\n" for number in range(LINES // 3)).encode()

    assert three_way(file("a"), file("b"), file("c")) is None


# --- Whatever the bytes are ------------------------------------------------------------------------------------------

few = st.lists(st.sampled_from([b"", b"a", b"b", b"c", b"\r", b"\xff"]), max_size=9).map(b"\n".join)
anything = few | st.binary(max_size=40)


@given(base=anything, side=anything)
@example(base=b"", side=b"\0")
def test_what_one_side_alone_changed_or_both_alike_is_what_it_is(base: bytes, side: bytes) -> None:
    assert three_way(base, base, side) == side
    assert three_way(base, side, base) == side
    assert three_way(base, side, side) == side


@given(base=anything, ours=anything, theirs=anything)
def test_it_does_not_matter_which_side_is_which_and_nothing_is_made_up(base: bytes, ours: bytes, theirs: bytes) -> None:
    merged = three_way(base, ours, theirs)
    assert merged == three_way(base, theirs, ours)
    if merged is not None:
        known = [*ours.split(b"\n"), *theirs.split(b"\n")]
        assert set(merged.split(b"\n")) <= {b"", *known}
        assert all(merged.split(b"\n").count(each) <= known.count(each) for each in known if each)


# What became of a line that stands once in its file: the line itself is "{}", and every other line is a new one.
KINDS = [["new"], [], ["new", "new too"], ["{}", "new"]]


@given(
    lines=st.lists(st.tuples(st.sampled_from(["nobody", "ours", "theirs"]), st.sampled_from(KINDS)), max_size=25),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_changes_of_different_lines_are_all_there_each_once(lines: list[tuple[str, list[str]]], end: str) -> None:
    def file(*sides: str) -> bytes:
        text = []
        for number, (side, kind) in enumerate(lines):
            there = kind if side in sides else ["{}"]
            text += [each.format(f"line {number}") + ("" if each == "{}" else f" {number}") for each in there]
        return "".join(each + end for each in text).encode()

    assert three_way(file(), file("ours"), file("theirs")) == file("ours", "theirs")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lines=st.lists(st.tuples(st.sampled_from([["{}"], *KINDS]), st.sampled_from([["{}"], *KINDS])), max_size=12),
    own=st.booleans(),
)
def test_what_git_merges_is_merged_as_git_does(
    tmp_path: Path, lines: list[tuple[list[str], list[str]]], own: bool
) -> None:
    """Lines are new in ways of their own on each side, or in the same way."""
    files = {name: tmp_path / name for name in ("ours", "base", "theirs")}
    for which, (name, path) in enumerate(files.items()):
        text = ""
        for number, (ours, theirs) in enumerate(lines):
            for each in (ours, ["{}"], theirs)[which]:
                tag = f"{name if own else ''} {number}" if each != "{}" else ""
                text += each.format(f"line {number}") + tag + "\n"
        path.write_text(text)
    done = subprocess.run(["git", "merge-file", "-p", *files.values()], capture_output=True, check=False)
    if done.returncode == 0:
        assert three_way(*(files[each].read_bytes() for each in ("base", "ours", "theirs"))) == done.stdout
