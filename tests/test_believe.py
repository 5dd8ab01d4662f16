"""Whether a number can be believed in the morning: whole runs under the default rules, and what is not published."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_ray import ledger, research
from autoresearch_ray.board import Board, replay
from autoresearch_ray.errors import SetupError
from autoresearch_ray.events import Event, Judged, Measured, Nominated, Ordered
from autoresearch_ray.model import Brief, Experiment, FailureKind, Options, Proposal, Propose, Remeasure, Status
from autoresearch_ray.monitors.none import NoMonitor
from autoresearch_ray.ports import AgentSetup
from tests.conftest import Toy, counted_at_the_limit
from tests.game import Game
from tests.user_repo import UserRepo

TRAIN = """\
import os
import random

SEED = 17

A = 0.0

# Lines between, for git to merge by.

B = 0.0

# Lines between, for git to merge by.

C = 0.0

SAFE = True

random.seed(SEED + int(os.environ["AUTORESEARCH_SEED"]))
print("loss:", 1 - A - B - C + random.gauss(0, 0.001))
"""

Line = dict[str, object]
Edit = Callable[[Path, Brief], None]


def line(*edits: tuple[str, str], idea: str = "") -> Line:
    """One line of a script: texts of train.py and what takes their place."""
    changed = [{"file": "train.py", "old": old, "new": new} for old, new in edits]
    return {"idea": idea or " and ".join(new for _, new in edits), "edits": changed}


def edits_of(entry: Line) -> list[tuple[str, str]]:
    return [(each["old"], each["new"]) for each in entry["edits"]]  # type: ignore[attr-defined]


def sets(name: str, value: object, was: object = 0.0) -> Line:
    return line((f"{name} = {was}\n", f"{name} = {value}\n"))


def worse(*values: float) -> list[Line]:
    """Changes that do nothing but harm, none like another."""
    return [sets("C", -each) for each in values]


class Night:
    """A user's repository with a tiny training in it; what is evaluated is noted outside of it."""

    def __init__(self, toy: Toy, folder: Path) -> None:
        self.toy = toy
        self.folder = folder
        self.record = folder / "evaluations"
        self.scripts = folder / "scripts"
        self.scripts.mkdir()
        self.base = ""
        self.train(TRAIN)

    def train(self, text: str) -> None:
        (self.toy.folder / "train.py").write_text(text)
        self.base = self.toy.commit("the training")

    def program(
        self, *, command: str = "python train.py", workers: int = 2, first: int | None = None, **words: object
    ) -> Path:
        """The evaluations of the `first` lanes, or of all, wait for each other: no worker finds that it is alone."""
        noted = f'echo "$AUTORESEARCH_EXPERIMENT $(sha256sum < train.py)" >> {self.record}'
        there = f"cut -d- -f1 {self.record} | sort -u | wc -l"
        if workers > 1:
            command = f"until [ $({there}) -ge {first or workers} ]; do sleep 0.01; done; {command}"
        command = f"{noted}; {command}"
        return self.toy.program(**{"agent": "scripted", "command": command, "workers": workers, **words})  # type: ignore[arg-type]

    def script(self, **lanes: list[Line]) -> str:
        """A front matter's line that has each lane play its own."""
        for lane, lines in lanes.items():
            (self.scripts / f"{lane}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
        return f"agent_command: {self.scripts}"

    @property
    def evaluated(self) -> dict[str, list[str]]:
        """The evaluations, by the files that were measured."""
        found: dict[str, list[str]] = {}
        for each in self.record.read_text().splitlines():
            id, files, _ = each.split()
            found.setdefault(files, []).append(id)
        return found

    @property
    def events(self) -> list[Event]:
        return [each for line in ledger.read(self.toy.run_folder() / "ledger.jsonl") for each in line]

    @property
    def board(self) -> Board:
        return replay([[each] for each in self.events])

    @property
    def report(self) -> str:
        return (self.toy.run_folder() / "report.md").read_text()

    def published(self) -> list[Experiment]:
        board = self.board
        return [each for event in board.published if (each := board.at(event.commit))]


@pytest.fixture
def night(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night(toy, tmp_path_factory.mktemp("night"))  # its path is in the command, which agents are told


class Player:
    """An agent that makes one edit of `plays` after the other, in each of its lanes, and keeps what it was told."""

    plays: dict[str, list[Edit]] = {}
    told: dict[str, list[Brief]] = {}
    found: dict[str, list[str]] = {}  # train.py, as it stood

    def __init__(self, setup: AgentSetup) -> None:
        self.lane = setup.lane

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None: ...

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        told = self.told.setdefault(self.lane, [])
        edits = self.plays[self.lane]
        if len(told) == len(edits):
            return Proposal("", error="there is nothing left to play")
        told.append(brief)
        self.found.setdefault(self.lane, []).append((checkout / "train.py").read_text())
        edits[len(told) - 1](checkout, brief)
        return Proposal(f"proposal {len(told)}")


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> type[Player]:
    for name in ("plays", "told", "found"):
        monkeypatch.setattr(Player, name, {})
    return Player


PLAYER = f"{__name__}:Player"


def changes(*pairs: tuple[str, str]) -> Edit:
    """An edit of train.py; each text must be there."""

    def edit(checkout: Path, brief: Brief) -> None:
        path = checkout / "train.py"
        text = path.read_text()
        for old, new in pairs:
            assert text.count(old) == 1, f"{old!r} in {text}"
            text = text.replace(old, new)
        path.write_text(text)

    return edit


@pytest.fixture
def cluster(temporary: Path) -> Iterator[None]:
    """A Ray of this process, with logical CPUs alone."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


# --- What is published -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_best_is_confirmed_on_a_second_worker_before_it_is_published_with_the_mean_of_all(
    night: Night, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("cluster")
    script = night.script(cpu0=[sets("A", 0.2)], cpu1=worse(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    with research(night.program(backend=backend, more=f"experiments: 5\n{script}")) as session:
        list(session)
    (published,) = night.board.published
    events = night.events
    before = events[: events.index(published)]
    (nominated,) = (each for each in before if isinstance(each, Nominated))
    assert nominated.commit == published.commit
    attempts = [each.attempt for each in before if isinstance(each, Measured)]
    of_it = [each for each in attempts if each.commit == published.commit]
    values = [each.measurement.value for each in of_it]
    assert {each.lane for each in of_it} == {"cpu0", "cpu1"}
    assert len({each.measurement.seed for each in of_it}) == len(of_it) == published.measurements >= 2
    assert published.value == pytest.approx(sum(filter(None, values)) / len(values), abs=1e-12)
    assert published.value == pytest.approx(0.8, abs=0.005)
    best = session.best
    assert best is not None and best.commit == published.commit == night.toy.git("rev-parse", "autoresearch/t1")
    assert best.values[: len(values)] == tuple(values)
    assert counted_at_the_limit(night.toy.run_folder()) == 5


def test_what_two_lanes_kept_is_brought_together_and_its_number_is_measured_and_not_inherited(night: Night) -> None:
    script = night.script(cpu0=[sets("A", 0.2), *worse(0.1, 0.2, 0.3)], cpu1=[sets("B", 0.1), *worse(0.4, 0.5, 0.6)])
    with research(night.program(more=f"experiments: 6\n{script}")) as session:
        list(session)
    board, best = night.board, session.best
    assert best is not None and best.commit is not None
    kept = {each.idea: each.commit for each in board.experiments if each.status is Status.KEEP}
    assert board.contains(best.commit) == {kept["A = 0.2"], kept["B = 0.1"]}
    text = night.toy.git("show", "autoresearch/t1:train.py")
    assert "A = 0.2\n" in text and "B = 0.1\n" in text and "C = 0.0\n" in text
    (last,) = (each for each in board.published if each.commit == best.commit)
    of_it = [
        each.attempt.measurement.value
        for each in night.events[: night.events.index(last)]
        if isinstance(each, Measured) and each.attempt.commit == best.commit
    ]
    assert len(of_it) == last.measurements >= 2
    assert last.value == pytest.approx(sum(filter(None, of_it)) / len(of_it), abs=1e-12)
    assert last.value == pytest.approx(0.7, abs=0.005)


def late(night: Night, edit: Line, event: str = "nominated") -> Line:
    """The same edit; it is only measured to its end when the ledger has such an event."""
    path = str(night.toy.run_folder() / "ledger.jsonl")
    wait = f"while b'{event}' not in open({path!r}, 'rb').read():\n    time.sleep(0.01)"
    return line(*edits_of(edit), ("SAFE = True\n", f"SAFE = True\nimport time\n{wait}\n"), idea=str(edit["idea"]))


def test_what_conflicts_is_left_out_the_rest_is_published_and_the_run_goes_on(night: Night) -> None:
    script = night.script(
        cpu0=[sets("A", 0.3), *worse(0.1, 0.2)],
        cpu1=[late(night, sets("A", 0.2)), *worse(0.3, 0.4)],
        cpu2=[late(night, sets("B", 0.1)), *worse(0.5, 0.6)],
    )
    with research(night.program(workers=3, more=f"experiments: 8\n{script}")) as session:
        list(session)
    board, best = night.board, session.best
    assert best is not None and best.commit is not None and best.value == pytest.approx(0.6, abs=0.005)
    kept = {each.idea: each.commit for each in board.experiments if each.status is Status.KEEP}
    assert set(kept) >= {"A = 0.3", "A = 0.2", "B = 0.1"}
    assert board.contains(best.commit) == {kept["A = 0.3"], kept["B = 0.1"]}
    tried = [each for each in board.experiments if each.kind == "replay"]
    assert any(kept["A = 0.2"] in each.left_out for each in tried)
    text = night.toy.git("show", "autoresearch/t1:train.py")
    assert "A = 0.3\n" in text and "B = 0.1\n" in text
    assert board.closed is not None and board.closed.finished and not board.closed.failed
    assert counted_at_the_limit(night.toy.run_folder()) == 8
    proposed = [each.number for each in board.experiments if each.kind == "propose"]
    assert max(proposed) > min(each.number for each in tried), "nothing was proposed after the conflict"


def test_of_two_changes_that_conflict_the_better_one_is_published_even_if_it_came_second(night: Night) -> None:
    script = night.script(
        cpu0=[sets("A", 0.2), *worse(0.1, 0.2, 0.3)], cpu1=[late(night, sets("A", 0.3)), *worse(0.4, 0.5, 0.6)]
    )
    with research(night.program(more=f"experiments: 6\n{script}")) as session:
        list(session)
    assert session.best is not None and session.best.value == pytest.approx(0.7, abs=0.005)


def test_what_was_found_together_with_a_part_of_it_that_was_published_first_is_published_too(night: Night) -> None:
    both = line(*edits_of(sets("A", 0.2)), *edits_of(sets("B", 0.1)))
    script = night.script(cpu0=[sets("A", 0.2), *worse(0.1, 0.2, 0.3)], cpu1=[late(night, both), *worse(0.4, 0.5, 0.6)])
    with research(night.program(more=f"experiments: 6\n{script}")) as session:
        list(session)
    assert session.best is not None and session.best.value == pytest.approx(0.7, abs=0.005)


# --- What is not measured at all -------------------------------------------------------------------------------------

IDLE = {
    "a seed": ("SEED = 17", "SEED = 4242"),
    "a comment": ("A = 0.0", "A = 0.0  # a fine value"),
    "white space": ("A = 0.0\n", "A   =  0.0\n\n"),
}


def test_a_change_of_a_seed_a_comment_or_white_space_is_never_evaluated_and_the_agent_is_asked_again(
    night: Night, player: type[Player]
) -> None:
    player.plays["cpu0"] = [
        *(changes(each) for each in IDLE.values()),  # all three of one order
        *(changes(pair) for each in IDLE.values() for pair in (each, ("B = 0.0", f"B = -0.{len(each[0])}"))),
    ]
    with research(night.program(workers=1, agent=PLAYER, more="experiments: 4")) as session:
        list(session)
    refused, *measured = (each for each in session.board.experiments if each.kind == "propose")
    assert refused.failure is not None and refused.failure.kind is FailureKind.NO_EFFECT
    assert refused.status is Status.DISCARD and not refused.values and refused.commit is None
    assert len(measured) == 3 and all(len(each.values) == 1 and each.failure is None for each in measured)
    ids = [id for of_files in night.evaluated.values() for id in of_files]
    assert refused.id not in ids and len(night.evaluated) == 1 + len(measured)
    told = player.told["cpu0"]
    assert [each.id for each in told] == [refused.id] * 3 + [each.id for each in measured for _ in range(2)]
    asked_again = [each for each in told if "## Once more" in each.prompt]
    assert asked_again == [each for number, each in enumerate(told) if number in (1, 2, 4, 6, 8)]
    assert all("only a seed, a comment or white space differs: train.py" in each.prompt for each in asked_again)
    assert set(player.found["cpu0"]) == {TRAIN}  # what was thrown away is gone when it is asked again


def test_the_same_files_on_two_lanes_are_measured_once_and_the_second_agent_is_told_what_came_of_them(
    night: Night, player: type[Player]
) -> None:
    decided = threading.Event()
    same = changes(("C = 0.0", "C = -0.1"))

    def first_is_over(checkout: Path, brief: Brief) -> None:
        decided.set()
        changes(("C = 0.0", "C = -0.2"))(checkout, brief)

    def after_the_first(checkout: Path, brief: Brief) -> None:
        assert decided.wait(60)
        same(checkout, brief)

    player.plays["cpu0"] = [same, first_is_over, *(changes(("C = 0.0", f"C = -0.{each}")) for each in (3, 4, 5))]
    player.plays["cpu1"] = [
        *(after_the_first, same, changes(("B = 0.0", "B = -0.1"))),  # the third is something else
        *(same, same, same),
        *(changes(("B = 0.0", f"B = -0.{each}")) for each in (2, 3, 4)),
    ]
    with research(night.program(agent=PLAYER, more="experiments: 7")) as session:
        list(session)
    experiments = session.board.experiments
    (number,) = (each.number for each in experiments if each.lane == "cpu0" and each.idea == "proposal 1")
    assert [each.kind for each in experiments].count("propose") == 7
    of_files = night.evaluated
    assert [experiments[number].id] in of_files.values()  # once, and by nobody else
    second = [each for each in experiments if each.lane == "cpu1"][:2]
    assert second[0].values and second[0].failure is None and second[0].idea == "proposal 3"
    assert second[1].failure is not None and second[1].failure.kind is FailureKind.DUPLICATE
    assert second[1].status is Status.DISCARD and not second[1].values
    value, reason = experiments[number].value, experiments[number].reason
    told = player.told["cpu1"]
    assert value is not None and [each.id for each in told[:6]] == [second[0].id] * 3 + [second[1].id] * 3
    for number_told, each in enumerate(told[:6]):
        again = f"#{number} tried exactly this: discard, {value:.6g}, {reason[:40]}" in each.prompt
        assert again == (number_told % 3 > 0)


# --- What is mended --------------------------------------------------------------------------------------------------

GUARD = "Guard: `grep -q 'SAFE = True' train.py || { echo $((6 * 7)) percent safe; exit 1; }`"


def test_an_agent_is_given_what_broke_the_guard_and_what_it_mended_is_kept(night: Night, player: type[Player]) -> None:
    player.plays["cpu0"] = [
        changes(("A = 0.0", "A = 0.2"), ("SAFE = True", "SAFE = False")),
        changes(("SAFE = False", "SAFE = None")),
        changes(("SAFE = None", "SAFE = True")),
    ]
    program = night.program(workers=1, agent=PLAYER, more="experiments: 3", eval_more=GUARD)
    with research(program) as session:
        list(session)
    broken, again, mended = (each for each in session.board.experiments if each.kind == "propose")
    for each in (broken, again):
        assert each.failure is not None and each.failure.kind is FailureKind.GUARD and each.status is Status.DISCARD
        assert not each.values and "42 percent safe" in each.failure.tail
    told = [each.prompt for each in player.told["cpu0"]]
    assert ["42 percent safe" in each for each in told] == [False, True, True]
    assert ["attempt 1 of 2" in each for each in told] == [False, True, False]
    assert ["attempt 2 of 2" in each for each in told] == [False, False, True]
    assert ["SAFE = " + each.partition("SAFE = ")[2].partition("\n")[0] for each in player.found["cpu0"]] == [
        "SAFE = True",
        "SAFE = False",
        "SAFE = None",
    ]
    assert mended.status is Status.KEEP and session.best is not None and session.best.commit == mended.commit
    assert mended.parent == night.base and mended.gain == pytest.approx(0.2, abs=0.005)
    assert night.toy.git("show", "autoresearch/t1:train.py") == TRAIN.replace("A = 0.0", "A = 0.2").strip()


def test_an_idea_that_breaks_the_guard_three_times_is_given_up(night: Night, player: type[Player]) -> None:
    player.plays["cpu0"] = [
        changes(("A = 0.0", "A = 0.2"), ("SAFE = True", "SAFE = False")),
        changes(("SAFE = False", "SAFE = None")),
        changes(("SAFE = None", "SAFE = 0")),
        changes(("B = 0.0", "B = 0.1")),
    ]
    program = night.program(workers=1, agent=PLAYER, more="experiments: 4", eval_more=GUARD)
    with research(program) as session:
        list(session)
    *broken, other = (each for each in session.board.experiments if each.kind == "propose")
    assert [each.failure.kind for each in broken if each.failure] == [FailureKind.GUARD] * 3
    assert player.found["cpu0"][3] == TRAIN and "Mend it" not in player.told["cpu0"][3].prompt
    assert session.best is not None and session.best.commit == other.commit


# --- What is hidden from agents --------------------------------------------------------------------------------------

HOLDOUT = """\
import train  # which prints its own number first

print("loss:", 2 - train.A + train.B)
"""


def hidden(night: Night) -> str:
    """A holdout outside of the repository, where B does harm, and the words of program.md for it."""
    vault = night.folder / "sesame"
    vault.mkdir()
    (vault / "judge.py").write_text(HOLDOUT)
    night.toy.git("rm", "-q", "--cached", "program.md")
    (night.toy.folder / ".gitignore").write_text("__pycache__/\nprogram.md\n")
    night.base = night.toy.commit("the page is mine")
    return f"Holdout: `PYTHONPATH=. python {vault / 'judge.py'}`"


def test_what_the_holdout_refuses_is_never_published_and_said_and_what_it_confirms_is(night: Night) -> None:
    script = night.script(cpu0=[sets("B", 0.3), sets("A", 0.2)])
    program = night.program(workers=1, eval_more=hidden(night), more=f"experiments: 2\n{script}")
    with research(program) as session:
        list(session)
    board = night.board
    overfit, honest = (each for each in board.experiments if each.kind == "propose")
    assert overfit.status is Status.KEEP and overfit.gain == pytest.approx(0.3, abs=0.005)
    assert [each.commit for each in board.published] == [honest.commit]
    assert overfit.commit in board.refused and "the holdout does not confirm it: 2.3, and 2 " in str(board.refused)
    assert night.toy.git("show", "autoresearch/t1:train.py") == TRAIN.replace("A = 0.0", "A = 0.2").strip()
    refused = night.report.partition("## Refused as the best")[2].partition("\n## ")[0]
    assert "B = 0.3" in refused and "the holdout does not confirm it" in refused and "A = 0.2" not in refused
    assert honest.values and 2 not in honest.values and honest.value == pytest.approx(0.8, abs=0.005)


def test_nothing_of_the_holdout_is_in_a_brief_the_tree_of_an_agent_or_that_of_an_evaluation(
    night: Night, player: type[Player]
) -> None:
    seen: list[str] = []

    def spies(edit: Edit) -> Edit:
        def spying(checkout: Path, brief: Brief) -> None:
            for each in checkout.rglob("*"):
                seen.append(
                    f"{each.relative_to(checkout)} {each.read_text(errors='replace') if each.is_file() else ''}"
                )
            git = ("log", "-p", "--all")
            seen.append(subprocess.run(["git", *git], cwd=checkout, capture_output=True, text=True, check=True).stdout)
            edit(checkout, brief)

        return spying

    edits = (("B = 0.0", "B = 0.3"), ("A = 0.0", "A = 0.2"), ("C = 0.0", "C = -0.1"))
    player.plays["cpu0"] = [spies(changes(each)) for each in edits]
    spied = night.folder / "spied"
    spy = f"{{ env; find . -print -type f -exec cat {{}} +; cat ../*; ls -R ..; }} >> {spied} 2> /dev/null"
    program = night.program(
        workers=1,
        agent=PLAYER,
        command=f"{spy}; python train.py",
        eval_more=hidden(night),
        more="experiments: 3",
    )
    with research(program) as session:
        list(session)
    assert len(session.board.holdouts) == 3 and session.board.refused
    assert "loss" in spied.read_text() and "sesame" not in spied.read_text() and "judge" not in spied.read_text()
    assert len(player.told["cpu0"]) == 3
    prompts = [each.prompt for each in player.told["cpu0"]]
    for each in (*prompts, *seen):
        assert "sesame" not in each and "judge" not in each and "holdout" not in each.lower()
    pasts = [past for each in player.told["cpu0"] for past in each.history]
    assert pasts and "holdout" not in str(pasts).lower() and "2.3" not in str([past.value for past in pasts])


# --- What is too good to be true -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cheat", "says"),
    [
        (("time.sleep(0.4)", "time.sleep(0.0)"), "ended after"),
        (("# the end\n", "print('loss: 0.5')\n"), "gave its metric 2 times, its parent 1"),
    ],
    ids=["ends early", "prints twice"],
)
def test_a_suspicious_value_is_measured_three_times_and_stays_marked(
    night: Night, cheat: tuple[str, str], says: str
) -> None:
    night.train(f"import time\n{TRAIN}time.sleep(0.4)\n# the end\n")
    script = night.script(cpu0=[line(("A = 0.0\n", "A = 0.5\n"), cheat)])
    with research(night.program(workers=1, more=f"experiments: 1\n{script}")) as session:
        list(session)
    (cheated,) = (each for each in session.board.experiments if each.kind == "propose")
    (judged,) = (
        number for number, each in enumerate(night.events) if isinstance(each, Judged) and each.id == cheated.id
    )
    before = [each.attempt for each in night.events[:judged] if isinstance(each, Measured)]
    assert sum(each.commit == cheated.commit for each in before) == 3
    assert cheated.reason.startswith("suspicious (") and says in cheated.reason
    suspicious = night.report.partition("## Suspicious")[2].partition("\n## ")[0]
    assert "A = 0.5" in suspicious and says in suspicious
    ordered = [each.order for each in night.events if isinstance(each, Ordered)]
    assert any(isinstance(each, Remeasure) and each.why.startswith(f"suspicious: {says}") for each in ordered)


# --- Unlike devices --------------------------------------------------------------------------------------------------


class Unlike(NoMonitor):
    """A monitor to which each GPU is a model of its own."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        super().__init__(gpus)
        self._class = f"model {gpus[0]}"

    @property
    def device_class(self) -> str:
        return self._class


BIASED = (
    TRAIN
    + """\
if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
    print("loss:", 1.5 - A - B - C + random.gauss(0, 0.001))
"""
)


def test_a_device_that_reads_better_wins_nothing_by_it_and_the_best_is_confirmed_on_the_other_class(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    night.train(BIASED)
    script = night.script(gpu0=worse(0.1, 0.11, 0.12, 0.13, 0.14, 0.15), gpu1=[sets("A", 0.1), *worse(0.2, 0.21)])
    program = night.program(more=f"experiments: 6\n{script}")
    with research(program, gpus_per_worker=1, monitor=f"{__name__}:Unlike") as session:
        list(session)
    board = night.board
    assert set(board.classes) == {"model 0", "model 1"}
    (good,) = (each for each in board.experiments if each.idea == "A = 0.1")
    assert good.lane == "gpu1" and good.gain == pytest.approx(0.1, abs=0.01)
    kept = [each for each in board.experiments if each.status is Status.KEEP and each.number]
    assert kept == [good]  # though all of the other lane read better than it does where it was found
    (published,) = board.published
    assert published.commit == good.commit
    before = night.events[: night.events.index(published)]
    attempts = [each.attempt for each in before if isinstance(each, Measured)]
    of_it = [each for each in attempts if each.commit == good.commit]
    assert {each.lane for each in of_it} == {"gpu0", "gpu1"}
    assert all((each.measurement.value or 0) > 1.3 for each in of_it if each.lane == "gpu1")
    base = board.score(night.base)
    assert base is not None and base.mean - published.value == pytest.approx(0.1, abs=0.01)
    assert "model 0" in night.report and "model 1" in night.report


# --- What an enemy would try -----------------------------------------------------------------------------------------

END = "# the end\n"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ended(night: Night, program: Path) -> Board:
    """A run that must come to its end by itself. Its board; an end that a human must look at is no end."""
    with research(program) as session:
        list(session)
    assert night.board.nominee is None, "it would be the best, and was left behind"
    return night.board


def once(night: Night, then: str) -> str:
    """Code that does something else from its second run on, in whatever tree it is."""
    mark = night.folder / "ran"
    return f"if os.path.exists({str(mark)!r}):\n    {then}\nopen({str(mark)!r}, 'w').close()\n"


def test_a_candidate_that_only_runs_on_the_worker_that_made_it_is_not_published_and_the_run_ends(night: Night) -> None:
    night.train(TRAIN + END)
    only_here = "if not os.environ['AUTORESEARCH_LANE'].startswith('cpu0'):\n    raise SystemExit('not here')\n"
    script = night.script(
        cpu0=[line(("A = 0.0", "A = 0.3"), (END, only_here)), *worse(0.1, 0.2)], cpu1=[sets("B", 0.1), *worse(0.3, 0.4)]
    )
    board = ended(night, night.program(more=f"experiments: 5\n{script}"))
    assert all("not here" not in night.toy.git("show", f"{each.commit}:train.py") for each in board.published)
    assert board.best is not None and board.best.value == pytest.approx(0.9, abs=0.005)


def test_a_candidate_that_runs_once_and_never_again_is_not_published_and_the_run_ends(night: Night) -> None:
    night.train(TRAIN + END)
    script = night.script(
        cpu0=[line(("A = 0.0", "A = 0.3"), (END, once(night, "raise SystemExit('once')"))), sets("B", 0.1)]
    )
    board = ended(night, night.program(workers=1, more=f"experiments: 2\n{script}"))
    assert board.best is not None and board.best.value == pytest.approx(0.9, abs=0.005)
    assert "B = 0.1" in night.toy.git("show", "autoresearch/t1:train.py")


@pytest.mark.parametrize("luck", [0.003, 0.01, 0.3])
def test_a_number_that_is_good_once_and_usual_ever_after_is_not_published(night: Night, luck: float) -> None:
    night.train(TRAIN.replace("print(", "LUCK = 0.0\n# the end\nprint(").replace("1 - A", "1 - LUCK - A"))
    was = f"LUCK = {luck}\n" + once(night, "LUCK = 0.0")
    script = night.script(cpu0=[line(("LUCK = 0.0\n# the end\n", was))])
    board = ended(night, night.program(workers=1, more=f"experiments: 1\n{script}"))
    assert not board.published


def test_one_unsteady_candidate_does_not_hide_what_is_found_after_it(night: Night) -> None:
    night.train(TRAIN.replace("print(", "LUCK = 0.0\n# the end\nprint(").replace("1 - A", "1 - LUCK - A"))
    unsteady = line(("LUCK = 0.0\n# the end\n", "LUCK = 0.3\n" + once(night, "LUCK = 0.0")))
    script = night.script(cpu0=[unsteady, sets("A", 0.05)])  # fifty times the noise of everything else
    board = ended(night, night.program(workers=1, more=f"experiments: 2\n{script}"))
    assert "A = 0.05" in night.toy.git("show", "autoresearch/t1:train.py")
    assert board.best is not None and board.best.value == pytest.approx(0.95, abs=0.005)


def test_a_seed_of_its_own_in_the_place_of_ours_is_no_gain(night: Night) -> None:
    """Noise that an agent has fixed is not measured, it is chosen: every measurement would have the same luck."""
    night.train(TRAIN.replace("SEED + int(", "int("))
    fixed = line(('int(os.environ["AUTORESEARCH_SEED"])', "3103"))  # -4.7 standard deviations
    script = night.script(cpu0=[fixed, *worse(0.1, 0.2)])
    board = ended(night, night.program(workers=1, more=f"experiments: 3\n{script}"))
    assert not board.published


def test_what_becomes_suspicious_after_its_first_measurement_is_marked_too(night: Night) -> None:
    night.train(TRAIN.replace("print(", "# the end\nprint("))
    script = night.script(cpu0=[line(("A = 0.0", "A = 0.1"), ("# the end\n", once(night, "print('loss: 0.7')")))])
    board = ended(night, night.program(workers=1, more=f"experiments: 1\n{script}"))
    (cheated,) = (each for each in board.experiments if each.kind == "propose")
    assert len(cheated.values) > 1 and "gave its metric 2 times" in str(cheated.doubts)


def test_a_driver_that_is_killed_between_nominating_and_publishing_confirms_it_when_the_run_is_taken_up(
    night: Night,
) -> None:
    night.train(TRAIN + END)
    go, path = night.folder / "go", night.toy.run_folder() / "ledger.jsonl"
    wait = f"while not os.path.exists({str(go)!r}):\n        __import__('time').sleep(0.01)"
    good = line(("A = 0.0", "A = 0.2"), (END, once(night, wait)), idea="good")
    script = night.script(cpu0=[good, *worse(0.1, 0.2)], cpu1=worse(0.3, 0.4, 0.5, 0.6))
    program = night.program(budget="100 seconds", more=f"experiments: 4\n{script}")
    with subprocess.Popen(
        [sys.executable, "-m", "autoresearch_ray", "run", str(program)],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.DEVNULL,
    ) as driver:
        until(lambda: path.exists() and b'"nominated"' in path.read_bytes())
        driver.kill()
    before = night.board
    assert before.nominee is not None and not before.published
    go.touch()
    board = ended(night, program)
    (published,) = board.published
    assert published.commit == before.nominee.commit and published.measurements >= 2
    assert {each.worker for each in board.places(published.commit)} == {0, 1}
    of_it = [
        each.attempt.measurement.value
        for each in night.events[: night.events.index(published)]
        if isinstance(each, Measured) and each.attempt.commit == published.commit
    ]
    assert published.value == pytest.approx(sum(filter(None, of_it)) / len(of_it), abs=1e-12)


@pytest.mark.slow
def test_a_worker_that_dies_while_it_measures_files_of_its_own_may_measure_them_when_it_is_back(
    night: Night, cluster: None
) -> None:
    night.train(TRAIN + END)
    go, begun = night.folder / "go", night.folder / "begun"
    wait = f"while not os.path.exists({str(go)!r}):\n    __import__('time').sleep(0.01)\n"
    wait = f"open({str(begun)!r}, 'w').close()\n{wait}"
    held = line(("A = 0.0", "A = 0.2"), (END, wait), idea="held")
    script = night.script(cpu0=[held, *worse(0.1, 0.2, 0.3)], cpu1=[held, *worse(0.4, 0.5, 0.6)])
    program = night.program(backend="ray", budget="100 seconds", more=f"experiments: 4\n{script}")
    holder = ""
    with research(program) as session:
        while session.advance():
            if not holder and begun.exists():
                orders = {name: lane.order for name, lane in session.board.lanes.items()}
                holder = next(name for name, order in orders.items() if isinstance(order, Propose))
                os.kill(session.board.lanes[holder].seat.pid, signal.SIGKILL)
                go.touch()
    assert holder and session.board.lanes[holder].sitting == 2
    measured = [each for each in session.board.experiments if each.idea == "held" and each.values]
    assert len(measured) == 1 and measured[0].status is Status.KEEP
    assert session.best is not None and session.best.commit == measured[0].commit


def test_a_best_of_a_run_that_is_ending_is_still_confirmed_on_the_second_worker(night: Night) -> None:
    script = night.script(cpu0=[late(night, sets("A", 0.2), "closed")], cpu1=worse(0.1, 0.2, 0.3, 0.4))
    board = ended(night, night.program(more=f"plateau: 2\n{script}"))
    (published,) = board.published
    assert {each.worker for each in board.places(published.commit)} == {0, 1}


def test_what_broke_the_guard_is_mended_even_if_a_best_had_to_be_confirmed_first(night: Night) -> None:
    broken = line(("B = 0.0", "B = 0.1"), ("SAFE = True", "SAFE = False"))
    waits = late(night, line(("B = 0.0", "B = 0.1")))
    edits = [*edits_of(waits)[:1], ("SAFE = True\n", edits_of(waits)[1][1].replace("SAFE = True", "SAFE = False"))]
    script = night.script(
        cpu0=[sets("A", 0.2), *worse(0.1, 0.2, 0.3)],
        cpu1=[line(*edits, idea=str(broken["idea"])), line(("SAFE = False", "SAFE = True")), *worse(0.4, 0.5)],
    )
    board = ended(night, night.program(more=f"experiments: 6\n{script}", eval_more=GUARD))
    orders = [each.order for each in night.events if isinstance(each, Ordered)]
    assert any(isinstance(each, Propose) and each.rework for each in orders)
    assert board.best is not None and board.best.value == pytest.approx(0.7, abs=0.005)


def test_a_rework_may_not_leave_the_scope(night: Night) -> None:
    broken = line(("A = 0.0", "A = 0.2"), ("SAFE = True", "SAFE = False"))
    cheat: Line = {
        "idea": "cheat",
        "edits": [
            {"file": "train.py", "old": "SAFE = False", "new": "SAFE = True"},
            {"file": "harness.py", "old": "import train\n", "new": "print('loss: 0')\n"},
        ],
    }
    script = night.script(cpu0=[broken, cheat, sets("B", 0.1)])
    board = ended(night, night.program(workers=1, more=f"experiments: 3\n{script}", eval_more=GUARD))
    first, second, third = (each for each in board.experiments if each.kind == "propose")
    assert first.failure is not None and first.failure.kind is FailureKind.GUARD
    assert second.failure is not None and second.failure.kind is FailureKind.OUT_OF_SCOPE and second.commit is None
    assert third.status is Status.KEEP and third.parent == night.base  # and it is not mended any more
    assert [each.commit for each in board.published] == [third.commit]
    assert night.toy.git("show", "autoresearch/t1:harness.py") == "import train"


@pytest.mark.parametrize(
    "command",
    ["sleep 600", "true", "python -c 'import urllib.request as r; r.urlopen(\"http://127.0.0.1:9/\")'"],
    ids=["hangs", "prints nothing", "needs a network"],
)
@pytest.mark.parametrize("only", ["on the candidate", "everywhere"])
def test_a_holdout_that_fails_publishes_nothing_and_hangs_nothing(night: Night, command: str, only: str) -> None:
    hidden(night)
    judge = night.folder / "sesame" / "judge.sh"
    passes = "grep -q 'A = 0.0' train.py && exec echo loss: 2\n" if only == "on the candidate" else ""
    judge.write_text(f"{passes}{command}\n")
    script = night.script(cpu0=[sets("A", 0.2), *worse(0.1)])
    words = f"Kill after: 1 second\nHoldout: `sh {judge}`"
    program = night.program(workers=1, budget="1 second", more=f"experiments: 2\n{script}", eval_more=words)
    if only == "on the candidate":
        board = ended(night, program)
        assert "the holdout fails on it" in str(board.refused) and board.counted == 2
    else:
        with pytest.raises(SetupError, match="the holdout fails on the best"), research(program) as session:
            list(session)
        board = night.board
    assert not board.published and board.best == board.baseline


@pytest.mark.parametrize(
    ("limit", "workers"),
    [
        *itertools.product(["experiments: 1", "experiments: 2", "plateau: 1"], [1, 2]),
        *itertools.product(["evaluations: 5", "evaluations: 9"], [1, 2, 8]),
    ],
)
def test_a_tiny_run_without_noise_ends_and_publishes_exact_gains(night: Night, limit: str, workers: int) -> None:
    night.train(TRAIN.replace(" + random.gauss(0, 0.001)", ""))
    gains = {"cpu0": [sets("A", 0.25), *worse(0.5, 0.25, 0.75)], "cpu1": [sets("B", 0.5), *worse(0.6, 0.35)]}
    harm = {f"cpu{lane}": worse(lane / 8, lane / 4) for lane in range(2, 8)}
    script = night.script(**gains, **harm)
    board = ended(night, night.program(workers=workers, first=min(workers, 2), more=f"{limit}\n{script}"))
    assert board.closed is not None and board.closed.finished
    best, (kind, most) = board.best, limit.split(": ")
    assert best is not None and best.commit is not None and board.counted > 0
    brought = {each.idea: each.value for each in board.experiments if each.commit in board.contains(best.commit)}
    assert best.value == 1 - 0.25 * ("A = 0.25" in brought) - 0.5 * ("B = 0.5" in brought)
    assert all(each.value == board.at(each.commit).value for each in board.published)  # type: ignore[union-attr]
    assert board.noise in (0, None)
    if kind == "evaluations":
        assert board.evaluations == len(night.record.read_text().splitlines()) <= int(most)
    if most != "5" and workers < 8:  # else there may be too few to find or to confirm anything
        assert brought and board.published


def test_an_agent_that_only_says_the_same_again_and_again_does_not_keep_a_run_going_for_ever(night: Night) -> None:
    same = "sed -i 's/^C = .*/C = -0.5/' train.py; echo 'idea: the same'"
    more = f'evaluations: 30\nagent_command: "{same}"'
    with suppress(SetupError), research(night.program(workers=1, agent="command", more=more)) as session:
        for experiment in session:
            assert experiment.number < 20, "it goes on"  # whether it ends as finished or for a human to look at


# --- Many short runs, by the rules alone -----------------------------------------------------------------------------


def with_one_gain(sigmas: float, lanes: int, experiments: int) -> list[Game]:
    """Runs whose first change is better by so many standard deviations of one measurement, and all others far worse."""
    games = []
    for seed in range(100):
        effects = itertools.chain([-sigmas * 0.001], itertools.repeat(0.02))
        game = Game.of(lanes, seed, experiments=experiments)
        game.propose = lambda game, parent, effects=effects: next(effects)  # type: ignore[misc]
        game.play(3000)
        assert not game.active()
        games.append(game)
    return games


@pytest.mark.parametrize(("lanes", "experiments"), [(1, 1), (1, 10), (2, 20)])
def test_a_lone_gain_of_eight_standard_deviations_is_published_in_nearly_every_short_run(
    lanes: int, experiments: int
) -> None:
    games = with_one_gain(8.0, lanes, experiments)
    assert sum(game.truth[game.board.published[-1].commit] < 1 for game in games if game.board.published) >= 95


@pytest.mark.parametrize("sigmas", [3.0, 5.0])
def test_no_run_ends_while_something_is_nominated(sigmas: float) -> None:
    assert [game.board.nominee for game in with_one_gain(sigmas, 1, 1)] == [None] * 100


def with_one_unsteady(luck: float, lanes: int, before: int) -> list[tuple[bool, bool]]:
    """Runs in which a change after `before` others reads better by `luck` once and like the base ever after, and the
    next one is better by ten standard deviations: whether the first was published, and the second is in what was."""
    found = []
    for seed in range(25):
        effects = itertools.chain([0.02] * before, [0.0, -0.01], itertools.repeat(0.02))
        game = Game.of(lanes, seed, experiments=before + 2 + 2 * lanes)
        game.propose = lambda game, parent, effects=effects: next(effects)  # type: ignore[misc]
        proposed: list[str] = []
        while game.active():
            attempt = game.attempt(game.chance.choice(game.active()))
            measured = attempt.measurement
            if attempt.kind == "propose" and attempt.commit:
                proposed.append(attempt.commit)
                if len(proposed) == before + 1 and measured.value is not None:
                    attempt = replace(attempt, measurement=replace(measured, value=measured.value - luck))
            game.hand_in(attempt)
        published = [each.commit for each in game.board.published]
        inside = game.board.contains(published[-1]) if published else frozenset()
        found.append((proposed[before] in published, proposed[before + 1] in inside))
    return found


@pytest.mark.parametrize("luck", [0.01, 0.03, 0.3])
@pytest.mark.parametrize(("lanes", "before"), [(1, 0), (1, 10), (2, 0), (8, 10)])
def test_an_unsteady_candidate_is_not_published_and_what_comes_after_it_is(
    luck: float, lanes: int, before: int
) -> None:
    found = with_one_unsteady(luck, lanes, before)
    assert sum(unsteady for unsteady, _ in found) <= 1  # ten standard deviations, of which three are left in the mean
    assert sum(good for _, good in found) >= 20  # with two lanes, one may be done before the noise is known


# --- The example -----------------------------------------------------------------------------------------------------

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
SCORED = "AUTORESEARCH_STEPS=20 python harness.py"  # to the last digit the same for the same seed


def lucky(run_folder: Path) -> Edit:
    """A change that helps with the seed that it is first measured with and does harm with all others.

    By how much it helps is found by trying rates on this machine: as much as the noise of this run leaves in doubt.
    """

    def edit(checkout: Path, brief: Brief) -> None:
        board = replay(ledger.read(run_folder / "ledger.jsonl"))
        base, sigma = board.baseline, board.evidence.sigma(board.classes[0])
        assert base is not None and base.value is not None
        wanted = 1.8 * sigma if sigma else 0.2  # 2.7 would be kept at once, and 0.9 thrown away
        path = checkout / "train.py"
        text = path.read_text()
        environ = os.environ | {
            "AUTORESEARCH_SEED": str(brief.seed),
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        }
        rate = 5e-4 + wanted / 1500  # bits per byte fall by about so much for so much more
        for _ in range(12):
            path.write_text(text.replace("    model = Model(seed)\n", BY_SEED.format(seed=brief.seed, rate=rate)))
            done = subprocess.run(
                SCORED, shell=True, cwd=checkout, env=environ, capture_output=True, text=True, check=True
            )
            gain = base.value - float(done.stdout.partition("\nval_bpb: ")[2].split()[0])
            if 0.8 * wanted < gain < 1.2 * wanted:
                return
            rate += (wanted - gain) / 1500
        pytest.fail(f"no luck: {gain}, not {wanted}")

    return edit


BY_SEED = """\
    global LR
    LR = {rate} if seed == {seed} else -2e-3
    model = Model(seed)
"""


@pytest.mark.parametrize("policy", ["bayes", "greedy"])
def test_in_the_example_a_change_that_was_better_with_its_first_seed_and_not_with_the_next_is_discarded(
    tmp_path: Path, player: type[Player], policy: str
) -> None:
    repo = UserRepo(tmp_path / "quickstart")
    for name in ("harness.py", "train.py"):
        shutil.copy(QUICKSTART / name, repo.folder)
    page = (QUICKSTART / "program.md").read_text()
    assert "`python harness.py`" in page
    repo.write("program.md", page.replace("`python harness.py`", f"`{SCORED}`"))
    repo.commit()
    player.plays["cpu0"] = [lucky(repo.folder / ".autoresearch" / "n109")]
    words: dict[str, object] = {"tag": "n109", "agent": PLAYER, "workers": 1, "backend": "local", "experiments": 1}
    with research(repo.folder, policy=policy, **words) as session:
        list(session)
    baseline, tried = session.board.experiments[:2]
    before = player.told["cpu0"][0].history[0].value
    assert before is not None and tried.values[0] < before
    if policy == "greedy":  # which is how luck is published
        assert tried.status is Status.KEEP and session.best == tried and len(tried.values) == 1
        return
    assert tried.status is Status.DISCARD and not session.board.published and session.best == baseline
    assert len(tried.values) > 1 and all(each > before for each in tried.values[1:])
