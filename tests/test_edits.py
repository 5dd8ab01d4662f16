"""Replies of models: what is applied is what was meant, and what is refused leaves every byte."""

from __future__ import annotations

import json
import random
import re
from functools import cache

import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from autoresearch_ray.agents._edits import Edited, Refusal, applied
from autoresearch_ray.agents._sound import unsound
from benchmarks.edits import APPLIED, FILES, KINDS, REFUSED, Meant, creatable, edits, main, outcome

WHY = {  # words of the refusal, so that none is refused for another reason
    "no block": (
        "no words",
        "words alone",
        "a diff",
        "JSON",
        "a conflict of git",
        "signs as HTML",
        "a fence in place of a block",
    ),
    "quote more lines": ("SEARCH fits two places",),
    "is not in": (
        "the second block fits nowhere",
        "one letter is another",
        "a part of a line",
        "numbers before the lines",
        "a line left out in the middle",
        "SEARCH shortened",
        "the other file's path",
        "the second block quotes what the first writes",
        "a file that is not in scope",
        "a path that only looks alike",
    ),
    "left out": ("REPLACE shortened", "REPLACE shortened in a remark", "REPLACE shortened in a call"),
    "has no `>>>>>>> REPLACE`": ("cut off in SEARCH", "cut off in REPLACE", "a block in a block"),
    "one line `=======`": ("no line between", "two lines between", "longer lines of equals signs"),
    "ends no block": ("ended twice",),
    "names no file": ("no path, and lines of both files",),
    "is not a path": (
        "a path out of the folder",
        "a path through the folder above",
        "an absolute path",
        "a path of Windows",
    ),
    "must quote": ("empty SEARCH in a file that exists",),
    "are the same": ("nothing changed",),
    "stay as it is": ("nothing changed but for blanks",),
    "make them one": ("two blocks of the same lines",),
    "would not parse": ("a bracket too few", "quotes of a typesetter"),
    "cannot be seen": ("a space that cannot be seen",),
    "a fence goes around": ("a fence inside REPLACE",),
    "more than 300 lines": ("a whole file, which is long",),
    "less than half": ("a part as the whole file",),
    "a file and a folder": ("a file that is a folder, too",),
}


def anything(path: str) -> str:
    return ""


def block(path: str, search: str, replace: str | None) -> str:
    """A REPLACE of None has no line at all."""
    new = "" if replace is None else f"{replace}\n"
    return f"{path}\n<<<<<<< SEARCH\n{search}\n=======\n{new}>>>>>>> REPLACE\n"


def whole(path: str, text: str) -> str:
    return f"{path}\n<<<<<<< FILE\n{text}\n>>>>>>> FILE\n"


def edited(reply: str, **files: str) -> dict[str, str]:
    """The texts after an edit that must succeed; of a file `train` the name is train.py."""
    done = applied(reply, {f"{name}.py": text for name, text in files.items()}, anything)
    assert isinstance(done, Edited), done
    return dict(done.texts)


def refused(reply: str, path: str = "train.py", text: str = "a = 1\nb = 2\n") -> str:
    done = applied(reply, {path: text}, anything)
    assert isinstance(done, Refusal), done
    return done.words


# --- The corpus ------------------------------------------------------------------------------------------------------


@cache
def drawn() -> list[Meant]:
    return list(edits(4, seed=7))


@pytest.mark.parametrize("kind", KINDS)
def test_no_reply_of_the_corpus_is_applied_in_another_sense(kind: str) -> None:
    wanted = "applied" if kind in APPLIED else "refused"
    assert {outcome(edit, kind) for edit in drawn()} == {wanted}


def test_each_refusal_of_the_corpus_says_the_true_reason() -> None:
    (edit,) = edits(1)
    said = {kind: applied(reply(edit), FILES, creatable) for kind, reply in REFUSED.items()}
    assert sorted(kind for kinds in WHY.values() for kind in kinds) == sorted(REFUSED)
    strays = [
        (kind, said[kind])
        for why, kinds in WHY.items()
        for kind in kinds
        if why not in getattr(said[kind], "words", "")
    ]
    assert strays == []


def test_a_reply_that_is_cut_anywhere_is_refused_or_complete() -> None:
    (edit,) = edits(1, seed=3)
    reply = APPLIED["as asked"](edit)
    done = [applied(reply[:end], FILES, creatable) for end in range(len(reply))]
    assert {type(each) for each in done} == {Edited, Refusal}
    assert all(each.texts == edit.texts for each in done if isinstance(each, Edited))


def test_the_table_of_the_corpus_is_printed() -> None:
    done = CliRunner().invoke(main, ["--count", "1", "--json"])
    rows = json.loads(done.output)["rows"]
    assert done.exit_code == 0 and [each["kind"] for each in rows] == list(KINDS)


def test_a_path_may_have_blanks() -> None:
    done = applied(block("my net.py", "a = 1", "a = 2"), {"my net.py": "a = 1\n", "net.py": "a = 1\n"}, anything)
    assert done == Edited({"my net.py": "a = 2\n"}, "my net.py\n")


# --- What an edit keeps ----------------------------------------------------------------------------------------------

LINES = st.lists(st.sampled_from(["a", "b", "c", "    a", "    b", "", "x = 1", "x = 1  "]), min_size=1, max_size=12)
NEW = st.lists(st.sampled_from(["y", "    y", "a", "", "z = 2"]), max_size=4)


def text_of(lines: list[str], end: str, final: bool, mark: str) -> str:
    return mark + end.join(lines) + end * (final and bool(lines))


@given(
    lines=LINES,
    new=NEW,
    end=st.sampled_from(["\n", "\r\n"]),
    final=st.booleans(),
    mark=st.sampled_from(["", "\ufeff"]),
    data=st.data(),
)
def test_what_is_quoted_once_is_replaced_and_nothing_else(
    lines: list[str], new: list[str], end: str, final: bool, mark: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(lines) - 1))
    stop = data.draw(st.integers(start + 1, len(lines)))
    search = lines[start:stop]
    assume(any(each.strip() for each in search) and lines[-1])
    old = text_of(lines, end, final, mark)
    assume(end in old or end == "\n")  # a single line tells nothing of its kind
    reply = block("train.txt", "\n".join(search), "\n".join(new) if new else None)
    done = applied(reply, {"train.txt": old}, anything)
    places = [at for at in range(len(lines)) if lines[at : at + len(search)] == search]
    meant = text_of([*lines[:start], *new, *lines[stop:]], end, final, mark)
    if len(places) > 1:
        assert isinstance(done, Refusal) and "quote more lines" in done.words
    elif meant == old:
        assert isinstance(done, Refusal)
    else:
        assert isinstance(done, Edited)
        assert done.texts == {"train.txt": meant}


@given(
    ends=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=3, max_size=9),
    final=st.booleans(),
    data=st.data(),
)
def test_line_ends_of_two_kinds_stay_where_they_were(ends: list[str], final: bool, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ends) - 1))
    pieces = [f"v{number} = 0{end}" for number, end in enumerate(ends)]
    pieces[-1] = pieces[-1] if final else pieces[-1].rstrip()
    done = edited(block("train.py", f"v{at} = 0", f"v{at} = 1"), train="".join(pieces))
    pieces[at] = pieces[at].replace("= 0", "= 1")
    assert done == {"train.py": "".join(pieces)}


@given(
    chance=st.randoms(use_true_random=False),
    words=st.lists(
        st.sampled_from(
            [
                "<<<<<<< SEARCH",
                "<<<<<<< FILE",
                "=======",
                ">>>>>>> REPLACE",
                ">>>>>>> FILE",
                "```",
                "train.txt",
                "new.txt",
                "a",
                "b",
                "  a",
                "",
                "q",
                "/etc/x",
                "../x.txt",
            ]
        ),
        max_size=30,
    ),
)
def test_any_reply_is_refused_or_made_of_what_it_says_and_what_there_was(
    chance: random.Random, words: list[str]
) -> None:
    files = {"train.txt": "a\nb\na\nc\n", "other.txt": "b\n"}
    done = applied("\n".join(words), files, lambda path: "" if path == "new.txt" else "no")
    if isinstance(done, Edited):
        assert done.texts.keys() <= {"train.txt", "other.txt", "new.txt"}
        for path, text in done.texts.items():
            assert text != files.get(path)
            known = {each.strip() for each in (*words, *files.get(path, "").split("\n"))}
            assert {each.strip() for each in text.split("\n")} <= known


def test_a_line_that_is_only_quoted_keeps_its_bytes() -> None:
    text = 'S = """\nkept   \n"""\nLR = 1\n'
    done = edited(block("train.py", 'kept\n"""\nLR = 1', 'kept\n"""\nLR = 2'), train=text)
    assert done == {"train.py": text.replace("LR = 1", "LR = 2")}


def test_indentation_is_moved_with_the_block() -> None:
    text = "class A:\n    def f(self):\n        return 1\n"
    reply = block(
        "train.py", "def f(self):\n    return 1", "def f(self):\n    if self:\n        return 2\n    return 1"
    )
    wanted = text.replace("        return 1", "        if self:\n            return 2\n        return 1")
    assert edited(reply, train=text) == {"train.py": wanted}
    assert "as the file" in refused(block("c.yaml", "lr: 1", "lr: 1\n  wd: 2"), "c.yaml", "sgd:\n  lr: 1\n")
    unlike = block("train.py", "def f(self):\n        return 1", "def f(self):\n        return 2")
    assert "one after the other" in refused(unlike, text=text)


def test_what_is_moved_keeps_the_ends_of_its_lines() -> None:
    done = edited(block("train.py", 's = """\nx', 's = """\ny  '), train='if 1:\n    s = """\n    x\n"""\n')
    assert done == {"train.py": 'if 1:\n    s = """\n    y  \n"""\n'}


def test_a_reply_without_end_costs_no_time() -> None:
    blank = "\n" * 100_000
    assert "2000 lines" in refused(block("a.txt", f"a{blank}", f"b{blank}"), "a.txt", f"a{blank}")
    assert "is not in" in refused(block("a.txt", "ab" * 100_000, "x"), "a.txt", "ba" * 50_000)


def test_blocks_are_looked_up_in_the_text_as_it_was() -> None:
    reply = block("train.py", "a = 1", "b = 2") + block("train.py", "b = 2", "a = 1")
    assert edited(reply, train="a = 1\nb = 2\n") == {"train.py": "b = 2\na = 1\n"}


def test_files_together_or_not_at_all() -> None:
    files = {"train": "a = 1\n", "data": "b = 1\n"}
    both = block("train.py", "a = 1", "a = 2") + block("data.py", "b = 1", "b = 2")
    assert edited(both, **files) == {"train.py": "a = 2\n", "data.py": "b = 2\n"}
    done = applied(both.replace("b = 2", "b = ("), {f"{name}.py": text for name, text in files.items()}, anything)
    assert isinstance(done, Refusal)


# --- Whole files and new ones ----------------------------------------------------------------------------------------


def test_a_short_file_may_be_replaced_as_a_whole() -> None:
    assert edited(whole("train.py", "a = 2\nb = 2"), train="a = 1\r\nb = 2\r\n") == {"train.py": "a = 2\r\nb = 2\r\n"}
    assert edited(whole("train.py", "a = 2"), train="\ufeffa = 1") == {"train.py": "\ufeffa = 2"}
    long = "".join(f"v{number} = 0\n" for number in range(301))
    assert "300 lines" in refused(whole("train.py", long), text=long + "w = 1\n")
    assert "two kinds" in refused(whole("train.py", "a = 2"), text="a = 1\r\nb = 1\n")
    assert "another block" in refused(whole("train.py", "a = 2") + block("train.py", "a = 1", "a = 3"))
    assert "left out" in refused(whole("train.py", "a = 2\n# rest of the file unchanged"))
    assert "names no file" in refused(f"Here it is.\n{whole('', 'a = 2')}")
    assert "`>>>>>>> FILE`" in refused("train.py\n<<<<<<< FILE\na = 2\n>>>>>>> REPLACE\n")


@pytest.mark.parametrize("reply", [block("sub/new.py", "", "c = 3"), whole("sub/new.py", "c = 3\n")])
def test_a_new_file(reply: str) -> None:
    assert edited(reply, train="a = 1\n") == {"sub/new.py": "c = 3\n"}
    assert refused(reply.replace("c = 3", "c = (")).startswith("sub/new.py would not parse")
    done = applied(reply, {}, lambda path: f"{path} is not in scope")
    assert done == Refusal("sub/new.py is not in scope")
    assert "empty SEARCH" in refused(block("sub/new.py", "a = 1", "a = 2"))


def test_an_empty_file_may_be_filled() -> None:
    assert edited(block("train.py", "", "a = 1"), train="") == {"train.py": "a = 1\n"}


# --- The result ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("c.json", '{"lr": 2}', '{"lr": 2,}'),
        ("c.toml", "lr = 2", "lr = "),
        ("train.py", "lr = 2", "lr = (2"),
        ("c.yaml", "lr: 2", None),
    ],
)
def test_a_result_parses_if_the_text_before_did(path: str, good: str, bad: str | None) -> None:
    old = good.replace("2", "1")
    assert unsound(path, old + "\n", good + "\n", [good]) == ""
    if bad:
        assert "would not parse" in unsound(path, old + "\n", bad + "\n", [bad])
        assert unsound(path, "{{ a template }", bad, [bad]) == ""


@pytest.mark.parametrize(
    "line", ["y = x[..., 0]", "def f(*a: Callable[..., int]): pass", "# existing users come first"]
)
def test_what_only_resembles_an_elision(line: str) -> None:
    assert unsound("a.txt", "", line, [line]) == ""


def test_an_elision_that_was_in_the_file_may_stay() -> None:
    assert edited(block("train.py", "def f():\n    ...", "def g():\n    ..."), train="def f():\n    ...\n")


def test_the_refusal_shows_the_nearest_lines_and_is_bounded() -> None:
    text = FILES["train.py"]
    line = next(each for each in text.split("\n") if re.match(r"[A-Z_]+ = \d", each))
    words = refused(block("train.py", line.replace("=", "= 7 +"), "x = 1"), text=text)
    assert f"`{' '.join(line.split())}`" in words
    assert len(refused(block(f"{'y' * 9000}/x.py", "a", "b"))) <= 2000
    assert len(refused(block("train.py", "x" * 5000 + "\n" + "y" * 5000, "z"), text=text)) < 1000


def test_what_stands_around_the_blocks_is_prose() -> None:
    done = applied(f"HYPOTHESIS: x\n\n{block('a.txt', 'a = 1', 'idea: no')}idea: y", {"a.txt": "a = 1"}, anything)
    assert isinstance(done, Edited)
    assert "HYPOTHESIS: x" in done.prose and "idea: y" in done.prose and "idea: no" not in done.prose


@pytest.mark.parametrize("thought", ["<think>\nhm", "<think>" + block("train.py", "a = 1", "a = 3")])
def test_a_reply_that_ends_in_a_thought_says_nothing(thought: str) -> None:
    assert "thought" in refused(thought)


def test_a_reply_without_an_end_is_refused_before_its_places_are_looked_for() -> None:
    text = "".join(f"x{each} = {each}\n" for each in range(201))
    many = [block("a.txt", f"x{each} = {each}", f"x{each} = -1") for each in range(201)]
    done = applied("".join(many[:200]), {"a.txt": text}, anything)
    assert isinstance(done, Edited) and done.texts["a.txt"].count("-1") == 200
    assert "more than 200 blocks" in refused("".join(many), "a.txt", text)
    long = "\n".join(f"y{each}" for each in range(700))
    assert "4000 lines" in refused(block("a.txt", long, f"{long}\nz") * 3, "a.txt", long)
