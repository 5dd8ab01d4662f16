"""The ledger: what was written is there, whole; what was torn never counted."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ray import ledger
from autoresearch_ray.board import replay
from autoresearch_ray.errors import LedgerError
from autoresearch_ray.events import Event, Measured
from autoresearch_ray.model import Attempt, Failure, FailureKind, Measurement, Resources
from tests.conftest import SmallDisk
from tests.game import Game


@pytest.fixture
def lines() -> list[list[Event]]:
    game = Game.of(2, seed=3, experiments=6)
    game.play(60)
    return game.lines


def written(folder: Path, lines: list[list[Event]]) -> Path:
    path = folder / "ledger.jsonl"
    ledger.Ledger.create(path, lines[0])
    writer = ledger.Ledger(path)
    for line in lines[1:]:
        writer.append(line)
    writer.close()
    return path


def test_what_is_written_is_read_back(tmp_path: Path, lines: list[list[Event]]) -> None:
    assert list(ledger.read(written(tmp_path, lines))) == [tuple(line) for line in lines]


def test_cut_at_any_byte_it_replays_a_prefix_and_can_be_written_on(tmp_path: Path, lines: list[list[Event]]) -> None:
    path = written(tmp_path, lines)
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for cut in [*range(first, min(first + 700, len(data))), len(data) - 1, len(data)]:
        path.write_bytes(data[:cut])
        whole = list(ledger.read(path))
        assert whole == [tuple(line) for line in lines[: len(whole)]]
        assert len(whole) == data[:cut].count(b"\n")
        replay(whole)
    path.write_bytes(data[:-5])
    writer = ledger.Ledger(path)
    writer.append(lines[-1])
    writer.close()
    assert path.read_bytes() == data


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path, lines: list[list[Event]]) -> None:
    path = written(tmp_path, lines)
    parts = path.read_bytes().split(b"\n")
    parts[2] = parts[2][: len(parts[2]) // 2]
    path.write_bytes(b"\n".join(parts))
    with pytest.raises(LedgerError, match="line 3"):
        list(ledger.read(path))


def test_two_writers_are_refused_and_a_dead_one_is_waited_for(tmp_path: Path, lines: list[list[Event]]) -> None:
    path = written(tmp_path, lines)
    first = ledger.Ledger(path)
    with pytest.raises(LedgerError, match="another process"):
        ledger.Ledger(path)
    first.close()
    script = f"""
        import time
        from pathlib import Path
        from autoresearch_ray.ledger import Ledger
        held = Ledger(Path({str(path)!r}))
        print("held", flush=True)
        time.sleep(0.7)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        ledger.Ledger(path, patience_seconds=20).close()


def test_a_full_disk_leaves_no_half_line(small_disk: Callable[[str], SmallDisk], lines: list[list[Event]]) -> None:
    path = written(small_disk("64k").folder, lines[:3])
    writer = ledger.Ledger(path)
    with pytest.raises(LedgerError, match="No space left"):
        for _ in range(1000):
            writer.append(lines[4])
    size = path.stat().st_size
    assert path.read_bytes().endswith(b"\n")
    with pytest.raises(LedgerError):
        writer.append(lines[4] * 50)
    assert path.stat().st_size == size
    writer.close()
    assert len(list(ledger.read(path))) > 3


def test_a_tail_sees_each_line_once_and_never_half_of_one(tmp_path: Path, lines: list[list[Event]]) -> None:
    data = written(tmp_path, lines).read_bytes()
    path = tmp_path / "growing.jsonl"
    path.write_bytes(b"")
    tail, seen = ledger.Tail(path), []
    for start in range(0, len(data), 97):
        with path.open("ab") as file:
            file.write(data[start : start + 97])
        seen += tail.read()
    assert seen == [tuple(line) for line in lines]


@pytest.mark.parametrize("tail", [False, True])
def test_a_torn_line_that_another_takes_the_place_of_is_never_read_with_it(
    tmp_path: Path, lines: list[list[Event]], monkeypatch: pytest.MonkeyPatch, tail: bool
) -> None:
    """The writer was killed in its last line, and the next one begins while somebody reads."""
    path = written(tmp_path, lines[:-2])
    torn, whole = (ledger.encode(line) + b"\n" for line in lines[-2:])
    size, pread = path.stat().st_size, os.pread
    for cut in range(1, min(len(torn), len(whole)), 7):
        os.truncate(path, size)
        with path.open("ab") as file:
            file.write(torn[:cut])
        reads = iter([True])

        def in_two_parts(fd: int, length: int, offset: int, reads: Iterator[bool] = reads) -> bytes:
            if not next(reads, False):
                return pread(fd, length, offset)
            first = pread(fd, length, offset)
            writer = ledger.Ledger(path)
            writer.append(lines[-1])
            writer.close()
            return first + pread(fd, len(whole), offset + length)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", in_two_parts)
            found = ledger.Tail(path).read() if tail else list(ledger.read(path))
        assert found == [tuple(line) for line in (*lines[:-2], lines[-1])]


def test_a_missing_ledger_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="nowhere"):
        list(ledger.read(tmp_path / "nowhere"))
    with pytest.raises(LedgerError, match="nowhere"):
        ledger.Ledger(tmp_path / "nowhere")


finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), finite, st.text(max_size=20))


@settings(max_examples=100, deadline=None)
@given(
    value=st.none() | finite,
    params=st.dictionaries(st.text(max_size=10), scalars, max_size=4),
    idea=st.text(max_size=60),
    peak=st.none() | st.floats(0, 1e6),
)
def test_events_survive_the_file(
    value: float | None, params: dict[str, bool | int | float | str], idea: str, peak: float | None
) -> None:
    failure = Failure(FailureKind.OOM, idea, idea) if value is None else None
    measurement = Measurement(value, failure, resources=Resources(peak_mb=peak, throttle=("thermal",)))
    event = Measured(1.5, Attempt("gpu0-1", "gpu0", 1, "propose", "p", "c", measurement, idea, ("c",), params))
    line = ledger.encode([event])
    assert b"\n" not in line
    (back,) = ledger.decode(line)
    assert back == event
    assert isinstance(back, Measured)
    assert {key: type(each) for key, each in back.attempt.params.items()} == {
        key: type(each) for key, each in params.items()
    }
