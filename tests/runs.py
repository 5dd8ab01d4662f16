"""Runs made by hand: events in order, the board they make, and the folder that a driver would leave behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from autoresearch_ray.board import Board, replay
from autoresearch_ray.events import Closed, Event, Judged, Measured, Moved, Opened, Ordered, Published, Refused, Seated
from autoresearch_ray.ledger import Ledger
from autoresearch_ray.model import (
    Attempt,
    Direction,
    Eval,
    Failure,
    FailureKind,
    Measurement,
    Metric,
    Options,
    Order,
    Program,
    Propose,
    Remeasure,
    Resources,
    Scope,
    Seat,
    Status,
    Usage,
)

START = 1_760_000_000.0
MINUTE = 60.0
NOTHING_SEEN = Resources()
NOTHING_SAID = Usage()


class Run:
    """Lines of a ledger, one per hand-in. Time goes on by a minute with each."""

    def __init__(
        self,
        tag: str = "nov20",
        direction: Direction = Direction.LOWER,
        base: str = "b" * 40,
        options: Options | None = None,
        evaluation: Eval | None = None,
    ) -> None:
        evaluation = evaluation or Eval("python train.py", Metric("val_bpb", direction), 300.0, 600.0)
        scope = Scope(("train.py",))
        program = Program("Tiny", "# Autoresearch: Tiny", scope, evaluation, options=options or Options())
        self.base = base
        self.now = START
        self.lines: list[tuple[Event, ...]] = [(Opened(self.now, tag, base, "", program, program.text, "0.1.0"),)]
        self._attempts: dict[str, int] = {}

    @property
    def board(self) -> Board:
        return replay(self.lines)

    def add(self, *events: Event) -> None:
        self.lines.append(events)
        self.now += MINUTE

    def seat(
        self, lane: str, worker: int = 0, device: str = "NVIDIA H200", device_class: str = "", agent: str = ""
    ) -> None:
        self._attempts[lane] = 0
        self.add(
            Seated(self.now, Seat(lane, worker, "node0", 4242, device, ("0",), device_class, agent=agent), 1),
            Ordered(self.now, lane, Remeasure(f"{lane}-1", self.base, 1, "the baseline")),
        )

    def order(self, lane: str, order: Order) -> None:
        self.add(Ordered(self.now, lane, order))

    def remeasure(
        self,
        lane: str,
        commit: str,
        value: float,
        *,
        also: Mapping[str, float] | None = None,
        resources: Resources = NOTHING_SEEN,
    ) -> None:
        measurement = Measurement(value, also=also or {}, resources=resources)
        self.add(Measured(self.now, self._attempt(lane, "remeasure", commit, commit, measurement)))

    def holdout(self, lane: str, commit: str, value: float) -> None:
        self.add(Measured(self.now, self._attempt(lane, "holdout", commit, commit, Measurement(value))))

    def propose(
        self,
        lane: str,
        idea: str,
        value: float | None,
        status: Status = Status.DISCARD,
        *,
        commit: str | None = None,
        parent: str | None = None,
        gain: float | None = None,
        error: float | None = None,
        likely: float | None = None,
        reason: str = "because",
        failure: Failure | None = None,
        resources: Resources = NOTHING_SEEN,
        usage: Usage = NOTHING_SAID,
        also: Mapping[str, float] | None = None,
        printed: int = 1,
        picked: tuple[str, ...] = (),
    ) -> str:
        """One experiment with its verdict, a replay if it has `picked` others; returns its id."""
        if value is None and failure is None:
            failure = Failure(FailureKind.CRASH, "exit code 1", "Traceback: it broke")
        if value is not None and commit is None:
            commit = f"{len(self.lines):040x}"
        measurement = Measurement(
            value, failure, wall_seconds=300.0, resources=resources, also=also or {}, printed=printed
        )
        kind = "replay" if picked else "propose"
        attempt = self._attempt(lane, kind, parent or self.base, commit, measurement, idea, usage, picked)
        events: list[Event] = [Measured(self.now, attempt)]
        if status is not Status.PENDING:
            events.append(Judged(self.now, attempt.id, lane, status, reason, gain, error, likely))
        if status is Status.KEEP and commit:
            events.append(Moved(self.now, lane, commit, (commit,), f"kept {attempt.id}"))
        events.append(Ordered(self.now, lane, Propose(f"{lane}-{self._attempts[lane] + 1}", commit or self.base, 7)))
        self.add(*events)
        return attempt.id

    def publish(self, id: str, commit: str, value: float, measurements: int = 2) -> None:
        self.add(Published(self.now, id, commit, value, measurements))

    def refuse(self, id: str, commit: str, reason: str) -> None:
        self.add(Refused(self.now, id, commit, reason))

    def close(self, reason: str = "3 experiments") -> None:
        self.add(Closed(self.now, reason))

    def _attempt(
        self,
        lane: str,
        kind: str,
        parent: str,
        commit: str | None,
        measurement: Measurement,
        idea: str = "",
        usage: Usage = NOTHING_SAID,
        picked: tuple[str, ...] = (),
    ) -> Attempt:
        self._attempts[lane] += 1
        line = (commit,) if commit and kind in ("propose", "replay") else ()
        id = f"{lane}-{self._attempts[lane]}"
        return Attempt(
            id,
            lane,
            1,
            kind,
            parent,
            commit,
            measurement,
            idea,
            line,
            {"lr": 0.04},
            3,
            usage,
            picked=picked,  # type: ignore[arg-type]
        )


def write(run: Run, folder: Path) -> Path:
    """The run's folder below `folder`, with its ledger."""
    opened = run.lines[0][0]
    assert isinstance(opened, Opened)
    place = folder / ".autoresearch" / opened.tag
    place.mkdir(parents=True)
    Ledger.create(place / "ledger.jsonl", run.lines[0])
    ledger = Ledger(place / "ledger.jsonl")
    for line in run.lines[1:]:
        ledger.append(line)
    ledger.close()
    return place


def history(folder: Path, texts: list[str]) -> list[str]:
    """A repository in `folder` with one commit of train.py for each text; returns the commits, oldest first."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commits = []
    for text in texts:
        (folder / "train.py").write_text(text)
        git(folder, "add", "train.py")
        git(folder, "commit", "-q", "-m", f"train.py of {len(text)} characters")
        commits.append(git(folder, "rev-parse", "HEAD"))
    return commits


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{key}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", **who}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environ, check=True, capture_output=True, text=True)
    return done.stdout.strip()
