"""Whole runs whose agents ask a provider over HTTP that says no for a while: what the slots do, and how it ends.

The provider is a real server on the loopback device; the agents are commands that ask it, and print what a tool prints.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autoresearch_ray import ledger, research
from autoresearch_ray.board import replay
from autoresearch_ray.breaker import Breaker
from autoresearch_ray.errors import SetupError
from autoresearch_ray.events import Closed, Event, Measured, Ordered
from autoresearch_ray.model import FailureKind, Propose, Status, TroubleKind, Wait
from tests.conftest import Toy, counted_at_the_limit

CLIENT = """\
import json, sys, urllib.error, urllib.request

request = urllib.request.Request(sys.argv[1], sys.stdin.buffer.read())
try:
    knob = json.load(urllib.request.urlopen(request, timeout=60))["knob"]
except urllib.error.HTTPError as error:
    after = error.headers.get("Retry-After")
    sys.exit(f"HTTP {error.code} {error.reason}" + (f", Retry-After: {after}" if after else ""))
text = open("train.py").read()
open("train.py", "w").write(text.replace(f"K{knob} = 0", f"K{knob} = 1"))
print(f"idea: turn K{knob}")
"""

# What agents change does not conflict: the provider names another knob each time.
TRAIN = """\
import os
import random

{knobs}

random.seed(int(os.environ["AUTORESEARCH_SEED"]))
loss = 1 - 0.02 * sum(value for name, value in globals().items() if name[0] == "K")
print(f"loss: {{loss + random.gauss(0, 0.0005):.6f}}")
""".format(knobs="\n\n".join(f"# knob {each}\nK{each} = 0" for each in range(40)))


@dataclass
class Request:
    """One that came, in seconds of the monotonic clock, and how many others were being answered then."""

    at: float
    status: int
    beside: int
    done: float = 0.0


@dataclass
class Provider:
    """Says `status` to the request of each number, from 0; with `retry_after` beside a 429."""

    status: Callable[[int], int]
    retry_after: int = 1
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            number = len(self.requests)
            beside = sum(not each.done for each in self.requests)
            request = Request(time.monotonic(), self.status(number), beside)
            self.requests.append(request)
        handler.rfile.read(int(handler.headers["Content-Length"]))
        body = json.dumps({"knob": number}).encode()
        handler.send_response(request.status)
        handler.send_header("Content-Length", str(len(body)))
        if request.status == 429:
            handler.send_header("Retry-After", str(self.retry_after))
        handler.end_headers()
        handler.wfile.write(body)
        request.done = time.monotonic()

    @contextmanager
    def serving(self) -> Iterator[Provider]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                provider.answer(self)

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}/v1/edits"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            yield self
            server.shutdown()
            thread.join()

    def command(self, folder: Path) -> str:
        client = folder / "client.py"
        client.write_text(CLIENT)
        return f"{sys.executable} {client} {self.url}"


def events_of(toy: Toy) -> list[Event]:
    return [each for line in ledger.read(toy.run_folder() / "ledger.jsonl") for each in line]


def program(toy: Toy, command: str, experiments: int, workers: int = 2) -> Path:
    if (toy.folder / "train.py").read_text() != TRAIN:
        (toy.folder / "train.py").write_text(TRAIN)
        toy.commit()
    more = f"experiments: {experiments}\nagent_command: {json.dumps(command)}"
    return toy.program(agent="command", workers=workers, more=more)


def test_a_provider_that_limits_the_rate_is_left_alone_and_the_slots_measure_what_helps(
    toy: Toy, tmp_path: Path
) -> None:
    with (
        Provider(lambda number: 429 if 2 <= number < 4 else 200).serving() as provider,
        research(program(toy, provider.command(tmp_path), experiments=9)) as session,
    ):
        list(session)
    board = session.board
    assert board.closed is not None and board.closed.finished and counted_at_the_limit(toy.run_folder()) == 9
    assert replay(ledger.read(toy.run_folder() / "ledger.jsonl")).breakers == board.breakers
    assert board.breaker("cpu0") == Breaker()

    limited = [each for each in provider.requests if each.status == 429]
    later = provider.requests[provider.requests.index(limited[-1]) + 1 :]
    assert len(limited) == 2 and later, "the provider was asked until it answered"
    first = limited[0]
    for one, other in itertools.pairwise([*limited, later[0]]):
        if other.at > first.done:  # not on its way when the provider first said no
            assert other.beside == 0 and other.at - one.at >= provider.retry_after
    lost = [each.attempt for each in events_of(toy) if isinstance(each, Measured) and each.attempt.trouble]
    assert [(each.trouble.kind, each.trouble.retry_after_seconds) for each in lost if each.trouble] == [
        (TroubleKind.RATE_LIMITED, 1.0)
    ] * 2
    assert all(each.measurement.failure and "429" in each.measurement.failure.message for each in lost)

    told, at = events_of(toy), [each.attempt for each in events_of(toy) if isinstance(each, Measured)]
    meanwhile = at[at.index(lost[0]) : at.index(lost[-1])]
    assert [each for each in meanwhile if each.kind in ("remeasure", "replay", "ablate") and each.measurement.value]
    waits = [each for each in told if isinstance(each, Ordered) and isinstance(each.order, Wait)]
    assert waits and len(waits) <= 2 * len(limited), "what waits on writes nothing"


def test_agents_that_are_not_let_in_end_the_run_early_and_what_was_found_is_still_confirmed(
    toy: Toy, tmp_path: Path
) -> None:
    with (
        Provider(lambda number: 200 if number < 2 else 401).serving() as provider,
        pytest.raises(SetupError, match="HTTP 401 Unauthorized") as raised,
        research(program(toy, provider.command(tmp_path), experiments=50)) as session,
    ):
        list(session)
    assert "run the same again" in raised.value.hint
    assert len(provider.requests) <= 2 + 6, "early"
    told = events_of(toy)
    closed = next(index for index, each in enumerate(told) if isinstance(each, Closed))
    after = [each.order for each in told[closed:] if isinstance(each, Ordered)]
    assert after and not any(isinstance(each, Propose | Wait) for each in after)
    assert session.best is not None and session.best.number > 0 and not session.board.nominee
    assert not session.board.counts[Status.PENDING] and not session.board.pool.next_kept(64)
    assert {each.attempt.trouble.kind for each in told if isinstance(each, Measured) and each.attempt.trouble} == {
        TroubleKind.AUTH
    }


def test_a_waiting_lane_leaves_at_once_when_the_run_is_stopped_and_goes_on_with_one_try(
    toy: Toy, tmp_path: Path
) -> None:
    with Provider(lambda number: 429 if number < 2 else 200, retry_after=3600).serving() as provider:
        command = provider.command(tmp_path)
        with research(program(toy, command, workers=1, experiments=3)) as session:
            while not any(isinstance(lane.order, Wait) for lane in session.board.lanes.values()):
                assert session.advance()
            began = time.monotonic()
            session.stop()
        assert time.monotonic() - began < 30, "an hour is not waited for"
        assert len(provider.requests) == 1 and session.board.breaker("cpu0").is_open
        with research(program(toy, command, workers=1, experiments=3)) as session:
            while not session.board.breaker("cpu0").openings:  # since it was taken up
                assert session.advance()
            session.stop()
        assert [each.status for each in provider.requests] == [429, 429]
        with research(program(toy, command, workers=1, experiments=3)) as session:
            list(session)
    assert session.board.closed is not None and session.board.closed.finished
    assert session.board.counts and not session.board.breaker("cpu0").is_open
    kinds = [each.failure.kind for each in session.board.experiments if each.failure]
    assert kinds.count(FailureKind.AGENT) == 2
