"""The agent that turns constants: what it takes for a knob, how it edits, and that it finds what is to be found."""

from __future__ import annotations

import ast
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray.agents.knobs import Knobs
from autoresearch_ray.model import (
    Brief,
    Direction,
    Eval,
    Metric,
    Options,
    Past,
    Program,
    Proposal,
    Scalar,
    Scope,
    Status,
)
from autoresearch_ray.ports import AgentSetup

SOURCE = """\
\"\"\"A program.\"\"\"
import math

LR = 1e-3  # learning rate: ä
WIDTH = 64
DECAY: float = 0.1


def train(x: float) -> float:
    return x * LR
"""

ANY_PYTHON = Scope(("*.py",))


def propose(
    folder: Path,
    files: Mapping[str, str] | None = None,
    *,
    history: Sequence[Past] = (),
    seed: int = 0,
    direction: Direction = Direction.LOWER,
    scope: Scope = ANY_PYTHON,
) -> Proposal:
    """One proposal in `folder/checkout`, which is written first if `files` are given."""
    checkout = folder / "checkout"
    for name, text in (files or {}).items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(text.encode())
    program = Program("title", "text", scope, Eval("python train.py", Metric("loss", direction), 1, 2))
    knobs = Knobs(AgentSetup(program, Options(), "gpu0", folder / "state", {}))
    brief = Brief("gpu0-1", "prompt", direction, tuple(history), seed)
    return knobs.propose(checkout, brief, folder / "agent.log", threading.Event())


def past(number: int, params: Mapping[str, Scalar], value: float | None, status: Status = Status.DISCARD) -> Past:
    return Past(number, "gpu0", status, value, "idea", params=params)


def constants(text: str) -> dict[str, Any]:
    space: dict[str, Any] = {}
    exec(compile(text, "train.py", "exec"), space)
    return {name: value for name, value in space.items() if name.isupper()}


# --- What is a knob --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("LR = 1e-3", 1e-3),
        ("LR = 3e-4  # learning rate", 3e-4),
        ("BIAS = -2.5", -2.5),
        ("WIDTH: int = 64", 64),
        ("TOKENS = 2**14", 2**14),
        ("USE_BIAS = True", True),
        ("ACTIVATION = 'relu'  # relu | gelu", "relu"),
        ('ACTIVATION = "relu"  # one of "relu" | "gelu"', "relu"),
        ("HEADS = (4)  # 2 | 4 | 8", 4),
        ("ZERO = 0.0", 0.0),
    ],
)
def test_a_constant_in_capitals_with_a_scalar_literal_is_a_knob(tmp_path: Path, line: str, value: Scalar) -> None:
    proposal = propose(tmp_path, {"train.py": line + "\n"})
    assert proposal.error is None
    (name,) = proposal.params
    assert proposal.params[name] != value and type(proposal.params[name]) is type(value)
    assert constants((tmp_path / "checkout" / "train.py").read_text()) == {name.split(":")[1]: proposal.params[name]}


@pytest.mark.parametrize(
    "text",
    [
        "lr = 1e-3",
        "PATH = 'data'",
        "ACTIVATION = 'relu'  # the activation",
        "ACTIVATION = 'selu'  # relu | gelu",
        "BETAS = (0.9, 0.95)",
        "LR = 2 * 3",
        "SEED = 1337",
        "DATA_SEED = 1337",
        "STEPS = 100  # fixed: the budget",
        "LR = 1\nLR = 2",
        "LR = 1\nif True:\n    LR = 2",
        "class A:\n    LR = 1",
        "INFINITE = 1e999",
        "MASK = -1e38",
        "LR = 1 +",
        "",
    ],
)
def test_anything_else_is_none_and_the_error_says_what_one_is(tmp_path: Path, text: str) -> None:
    proposal = propose(tmp_path, {"train.py": text + "\n"})
    assert proposal.error is not None and "NAME = value" in proposal.error
    assert (tmp_path / "checkout" / "train.py").read_text() == text + "\n"


def test_knobs_are_found_in_all_files_in_scope_and_in_no_other(tmp_path: Path) -> None:
    files = {
        "train.py": "A = 1\n",
        "net/model.py": "B = 2\n",
        "prepare.py": "C = 3\n",
        "broken.py": "D = (\n",
        ".venv/lib.py": "E = 4\n",
        "notes.txt": "F = 5\n",
    }
    (tmp_path / "checkout").mkdir()
    (tmp_path / "outside.py").write_text("G = 6\n")
    (tmp_path / "checkout" / "link.py").symlink_to(tmp_path / "outside.py")
    proposal = propose(tmp_path, files, scope=Scope((".",), ("prepare.py",)))
    assert set(proposal.params) == {"train.py:A", "net/model.py:B"}


# --- Editing ---------------------------------------------------------------------------------------------------------

_numbers = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(1e-6, 1e6).map(repr),
    st.floats(1e-6, 1e6).map(lambda each: f"-{each!r}"),
    st.sampled_from(
        ["3e-4", "1_000", "0x40", "2**10", "2 ** 6", "0", "0.0", "(8)", "True", "'a'", '"b"', "0.99", ".5"]
    ),
)
_comments = st.sampled_from(
    [
        "",
        "  # ä comment = 3",
        "# a | b",
        " # 1e-4..1e-1 log",
        " # [8, 256]",
        "  # 2..4096 log",
        " # 1 | 8 | 64",
        " # x =",
    ]
)
_fillers = st.sampled_from(
    ["", "import math", "def f(X=3): return X", "'''LR = 3'''", "s = 'ü'; t = 4", "x = '\x0c'  # LR = 3"]
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.tuples(_numbers, _comments), _fillers), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(0, 2**31),
)
def test_an_edit_changes_literals_and_nothing_else(parts: list[tuple[str, str] | str], newline: str, seed: int) -> None:
    lines = [each if isinstance(each, str) else f"K{i} = {each[0]}{each[1]}" for i, each in enumerate(parts)]
    before = newline.join([*lines, ""])
    with tempfile.TemporaryDirectory() as folder:
        proposal = propose(Path(folder), {"train.py": before}, seed=seed)
        after = Path(folder, "checkout", "train.py").read_bytes().decode()
    if proposal.error is not None:
        assert after == before
        return
    ast.parse(after)
    old, new = before.split(newline), after.split(newline)
    changed = [i for i in range(len(old)) if old[i] != new[i]]
    assert len(old) == len(new) and 1 <= len(changed) <= 3
    for i in changed:
        comment = parts[i][1]
        assert new[i].startswith(f"K{i} = ") and new[i].endswith(comment)
    values = constants(after)
    assert all(values[name.split(":")[1]] == value for name, value in proposal.params.items())
    assert len(proposal.idea.split(", ")) == len(changed)


def test_the_idea_names_the_old_and_the_new_value(tmp_path: Path) -> None:
    proposal = propose(tmp_path, {"train.py": "WIDTH = 64  # 64 | 96\n"})
    assert proposal.idea == "WIDTH 64 -> 96"
    assert (tmp_path / "checkout" / "train.py").read_text() == "WIDTH = 96  # 64 | 96\n"


def test_a_power_of_two_stays_written_as_one(tmp_path: Path) -> None:
    for seed in range(8):
        proposal = propose(tmp_path, {"train.py": "TOKENS = 2**14\n"}, seed=seed)
        exponent = int(math.log2(proposal.params["train.py:TOKENS"]))
        assert 12 <= exponent <= 16
        assert (tmp_path / "checkout" / "train.py").read_text() == f"TOKENS = 2**{exponent}\n"


# --- Where knobs may go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ("K = 1e-3", lambda x: 1e-3 / 8 <= x <= 8e-3),
        ("K = 1e-3  # 1e-4..1e-2 log", lambda x: 1e-4 <= x <= 1e-2),
        ("K = 0.5  # [0.25, 0.75]", lambda x: 0.25 <= x <= 0.75),
        ("K = 0.95", lambda x: 0.6 <= x < 1),
        ("K = 0.9999", lambda x: 0.9992 <= x < 1),
        ("K = -0.5", lambda x: -4 <= x <= -0.0625),
        ("K = 0.0", lambda x: 0 < x <= 1),
        ("K = 1", lambda x: 2 <= x <= 8),
        ("K = 3", lambda x: 1 <= x <= 24),
        ("K = 64", lambda x: x % 8 == 0 and 8 <= x <= 512),
        ("K = 50  # [8, 256]", lambda x: 8 <= x <= 256),
        ("K = 2**10  # 256..2048", lambda x: x in (256, 512, 2048)),
        ("K = 2**10  # 3..3.5", lambda x: x in (256, 512, 2048, 4096)),
        ("K = 2.0  # 0..1e999", lambda x: 0.25 <= x <= 16),
        ("K = 8  # 4 | 8 | 12", lambda x: x in (4, 12)),
        ("K = 'a'  # a | b | c", lambda x: x in ("b", "c")),
    ],
)
def test_a_knob_stays_in_its_range_and_is_written_short(tmp_path: Path, line: str, fits: Callable[[Any], bool]) -> None:
    values = [propose(tmp_path, {"train.py": line + "\n"}, seed=seed).params["train.py:K"] for seed in range(25)]
    assert all(fits(each) for each in values), values
    assert len(set(values)) > 1
    assert all(len(repr(each).lstrip("-0.").replace(".", "")) <= 6 for each in values if isinstance(each, float))


def test_ranges_do_not_wander_with_the_branch(tmp_path: Path) -> None:
    propose(tmp_path, {"train.py": "LR = 0.001\n"})
    for seed in range(20):
        moved = propose(tmp_path, {"train.py": "LR = 0.008\n"}, seed=seed)
        assert moved.params["train.py:LR"] <= 0.008


# --- Choosing --------------------------------------------------------------------------------------------------------


def test_the_same_seed_and_record_give_the_same_proposal(tmp_path: Path) -> None:
    history = [
        past(i, {"train.py:LR": 0.001 * (i + 1), "train.py:WIDTH": 64, "train.py:DECAY": 0.1}, i) for i in range(15)
    ]
    first, again = (propose(tmp_path, {"train.py": SOURCE}, history=history, seed=7) for _ in range(2))
    assert first == again
    others = {propose(tmp_path, {"train.py": SOURCE}, history=history, seed=seed).idea for seed in range(8)}
    assert len(others) > 4


def test_one_to_three_knobs_are_turned_at_a_time(tmp_path: Path) -> None:
    source = "".join(f"K{i} = {i + 1}.0\n" for i in range(8))
    turned = [len(propose(tmp_path, {"train.py": source}, seed=seed).idea.split(", ")) for seed in range(40)]
    assert set(turned) == {1, 2, 3}


def test_what_was_tried_is_not_tried_again_while_there_is_something_new(tmp_path: Path) -> None:
    source = "A = True\nB = 'x'  # x | y | z\n"
    tried = [{"train.py:A": True, "train.py:B": "x"}]
    for seed in range(4):  # from this parent there are five others
        history = [past(i, params, 1.0 + i) for i, params in enumerate(tried)]
        proposal = propose(tmp_path, {"train.py": source}, history=history, seed=seed)
        assert proposal.params not in tried
        tried.append(dict(proposal.params))


def test_when_everything_was_tried_something_is_tried_again(tmp_path: Path) -> None:
    history = [past(0, {"train.py:A": True}, 1.0), past(1, {"train.py:A": False}, 2.0)]
    assert propose(tmp_path, {"train.py": "A = True\n"}, history=history).params == {"train.py:A": False}


def test_a_knob_with_a_single_choice_cannot_be_turned(tmp_path: Path) -> None:
    proposal = propose(tmp_path, {"train.py": "A = 'x'  # x | x\n"})
    assert proposal.error == "no knob can be turned any further"


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("seed", range(3))
def test_forty_proposals_get_most_of_what_a_quadratic_has_to_give(
    tmp_path: Path, seed: int, direction: Direction
) -> None:
    def cost(params: Mapping[str, Any]) -> float:
        ideal = {"train.py:LR": 4e-3, "train.py:WIDTH": 160, "train.py:DECAY": 0.03}
        return sum(math.log(params[name] / ideal[name]) ** 2 for name in ideal)

    sign = 1 if direction is Direction.LOWER else -1
    first = cost({"train.py:LR": 1e-3, "train.py:WIDTH": 64, "train.py:DECAY": 0.1})
    source, best, history = SOURCE, first, []
    for number in range(40):
        proposal = propose(
            tmp_path, {"train.py": source}, history=history, seed=1000 * seed + number, direction=direction
        )
        value = cost(proposal.params)
        history.append(past(number, proposal.params, sign * value))
        if value < best:
            best, source = value, (tmp_path / "checkout" / "train.py").read_text()
    assert first - best >= 0.8 * first


def test_lanes_learn_from_crashes_and_from_what_is_still_being_measured(tmp_path: Path) -> None:
    # Half of the range has crashed or is pending, the other half is no better than it: proposals go to the other half.
    history = []
    for i in range(40):
        low = {"train.py:LR": 0.000125 * (i + 1)}
        history.append(past(2 * i, low, None, Status.CRASH if i % 2 else Status.PENDING))
        history.append(past(2 * i + 1, {"train.py:LR": 0.006 + i / 40_000}, 1.0 + i / 1000))
    values = [
        propose(tmp_path, {"train.py": "LR = 0.001\n"}, history=history, seed=seed).params["train.py:LR"]
        for seed in range(20)
    ]
    assert sum(each > 0.005 for each in values) >= 15


def test_what_was_lost_says_nothing(tmp_path: Path) -> None:
    lost = [past(i, {"train.py:LR": 0.002}, None, Status.LOST) for i in range(30)]
    told = propose(tmp_path, {"train.py": SOURCE}, history=lost, seed=3)
    assert told.params == propose(tmp_path, {"train.py": SOURCE}, seed=3).params


def test_a_record_of_other_knobs_does_no_harm(tmp_path: Path) -> None:
    history = [
        past(i, {"train.py:LR": "was a string", "train.py:GONE": 3, "train.py:WIDTH": 10**9}, 1.0) for i in range(12)
    ]
    assert propose(tmp_path, {"train.py": SOURCE}, history=[past(99, {}, 1.0), *history]).error is None


def test_choosing_from_a_long_record_is_quick_and_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = "".join(f"K{i} = 1.0\n" for i in range(10))
    propose(tmp_path, {"train.py": source})  # the first one imports Optuna
    history = [
        past(i, {f"train.py:K{k}": 0.2 + (i * (k + 1) % 37) / 5 for k in range(10)}, i % 17) for i in range(1000)
    ]
    level = logging.getLogger("optuna").level
    begun = time.process_time()
    assert propose(tmp_path, {"train.py": source}, history=history).error is None
    assert time.process_time() - begun < 1.0  # 0.06 s on an idle core
    assert logging.getLogger("optuna").level == level
    assert capfd.readouterr() == ("", "")
