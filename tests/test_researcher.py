"""One lane's loop: what becomes of an order, with real git and real processes, and a desk that only answers claims."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from autoresearch_ray import ledger, research
from autoresearch_ray import program as reader
from autoresearch_ray.board import replay
from autoresearch_ray.evaluator import Evaluator, Slot
from autoresearch_ray.model import (
    Ablate,
    Attempt,
    Brief,
    Direction,
    FailureKind,
    Holdout,
    Options,
    Proposal,
    Propose,
    Remeasure,
    Replay,
    Rework,
    Stop,
    Trouble,
    TroubleKind,
    Usage,
    Wait,
)
from autoresearch_ray.monitors.cpu import Cpu
from autoresearch_ray.ports import Reply, Signals, Taken, Welcome
from autoresearch_ray.repo import Hub, Origin
from autoresearch_ray.researcher import Researcher, Work
from autoresearch_ray.store import Candidate, Store
from autoresearch_ray.worker import device_class
from tests.conftest import TRAIN, Toy, git

Edit = Callable[[Path, Brief], Proposal]


def sets(old: str, new: str, idea: str = "an idea", **usage: float) -> Edit:
    """An edit of train.py."""

    def edit(checkout: Path, brief: Brief) -> Proposal:
        path = checkout / "train.py"
        path.write_text(path.read_text().replace(old, new))
        return Proposal(idea, Usage(**usage))  # type: ignore[arg-type]

    return edit


class Agent:
    """Makes one edit after the other; an agent in the shape of `ports.Agent`."""

    def __init__(self, edits: list[Edit], repairs: bool = False) -> None:
        self.edits = edits
        self.repairs = repairs
        self.briefs: list[Brief] = []
        self.seen: list[str] = []  # train.py as it was found

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None: ...

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        self.seen.append((checkout / "train.py").read_text())
        self.briefs.append(brief)
        log.write_text(f"proposal {len(self.briefs)}\n")
        return self.edits[len(self.briefs) - 1](checkout, brief)


@dataclass
class Lane:
    """The lane gpu0 on a toy repository, and all that was handed in and claimed."""

    toy: Toy
    folder: Path
    holdout: str | None = None
    taken: dict[str, Taken] = field(default_factory=dict)
    claims: list[tuple[str, str, str, str]] = field(default_factory=list)
    handed_in: list[tuple[Attempt, bytes, Mapping[str, bytes]]] = field(default_factory=list)
    signals: Signals = field(default_factory=Signals)
    slot: Slot = field(default_factory=lambda: Slot((), 1))

    def __post_init__(self) -> None:
        self.base = self.toy.head
        program = reader.read(self.toy.folder / "program.md")
        program = replace(program, eval=replace(program.eval, holdout=self.holdout))
        self.welcome = Welcome("run0", "t1", program, self.base, "", b"", "")
        self.hub = Hub.create(self.folder / "hub.git", Origin.find(self.toy.folder), self.base)
        self.store = Store.create(self.folder / "store.git", self.hub.pack([self.base]), self.base)

    def made(self, old: str, new: str, parent: str = "") -> Candidate:
        """A commit that another attempt has made."""
        tree = self.folder / "by-hand"
        self.store.stand(tree, parent or self.base)
        sets(old, new)(tree, BRIEF)
        made = self.store.commit(tree, parent or self.base, new, self.welcome.program.scope, "", "by hand")
        assert isinstance(made, Candidate)
        return made

    def works(self, order: Work | Wait, *edits: Edit, repairs: bool = False) -> Agent:
        """Carry out one order, hand it in, and stop."""
        agent = Agent(list(edits), repairs)
        (self.folder / "worker" / "gpu0").mkdir(parents=True, exist_ok=True)
        evaluator = Evaluator(
            welcome=self.welcome,
            store=self.store,
            folder=self.folder / "worker",
            shared=self.folder / "shared",
            slot=self.slot,
            monitor=Cpu(()),
            environ={**os.environ, "AUTORESEARCH_OWNER": "gpu0"},
        )
        Researcher(
            lane="gpu0",
            sitting=1,
            welcome=self.welcome,
            submit=self._submit,
            claim=self._claim,
            store=self.store,
            agent=agent,
            evaluator=evaluator,
            folder=self.folder / "worker" / "gpu0",
            signals=self.signals,
        ).run(Reply(order, brief=BRIEF if isinstance(order, Propose) else None))
        return agent

    @property
    def attempt(self) -> Attempt:
        ((attempt, _, _),) = self.handed_in
        return attempt

    @property
    def logs(self) -> dict[str, bytes]:
        ((_, _, logs),) = self.handed_in
        return dict(logs)

    def _claim(self, lane: str, id: str, tree: str, idea: str) -> Taken | None:
        self.claims.append((lane, id, tree, idea))
        return self.taken.get(tree)

    def _submit(self, attempt: Attempt, bundle: bytes, logs: Mapping[str, bytes]) -> Reply:
        self.handed_in.append((attempt, bundle, logs))
        return Reply(Stop("one order is enough"))


BRIEF = Brief("gpu0-1", "Make it better.", Direction.LOWER, seed=7)
COMMENT = sets("LR = 0.5", "LR = 0.5  # a fine value", seconds=99.0, cost_usd=0.25, input_tokens=10)
WIDER = sets("WIDTH = 8", "WIDTH = 16", "a wider net", cost_usd=0.5)
REPEATED = sets("WIDTH = 8", "WIDTH = 9", "a bit wider")


@pytest.fixture
def one(toy: Toy, tmp_path: Path) -> Lane:
    return Lane(toy, tmp_path / "lane")


# --- Nothing new -----------------------------------------------------------------------------------------------------


def test_an_edit_without_an_effect_is_told_and_made_again_before_anything_is_measured(one: Lane) -> None:
    agent = one.works(Propose("gpu0-1", one.base, 1), COMMENT, WIDER)
    attempt = one.attempt
    assert attempt.measurement.value is not None and attempt.idea == "a wider net"
    assert agent.seen == [TRAIN, TRAIN]
    first, second = agent.briefs
    assert first == BRIEF and second.prompt.startswith(BRIEF.prompt) and second.seed != first.seed
    assert "no_effect: only a seed, a comment or white space differs: train.py." in second.prompt
    assert attempt.usage.cost_usd == 0.75 and attempt.usage.input_tokens == 10 and attempt.usage.seconds < 50
    assert attempt.usage.output_tokens is None
    assert one.claims == [("gpu0", "gpu0-1", attempt.tree, "a wider net")]
    assert attempt.tree == one.store.tree(attempt.commit or "")
    assert one.logs.keys() == {"1.log", "1.agent.log"} and one.logs["1.agent.log"] == b"proposal 2\n"


def test_files_that_were_tried_are_told_with_their_outcome_and_after_three_proposals_it_is_enough(one: Lane) -> None:
    tree = one.made("WIDTH = 8", "WIDTH = 9").tree
    one.taken[tree] = Taken(12, "#12 tried exactly this: discard, 0.99, worse than its parent by 0.02")
    agent = one.works(Propose("gpu0-1", one.base, 1), REPEATED, COMMENT, REPEATED)
    failure = one.attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.DUPLICATE and "#12" in failure.message
    assert one.attempt.commit is None and one.attempt.tree == "" and one.attempt.line == ()
    assert [each.prompt.count("## Once more") for each in agent.briefs] == [0, 1, 2]
    assert "duplicate: #12 tried exactly this: discard, 0.99" in agent.briefs[1].prompt
    assert "no_effect: " in agent.briefs[2].prompt
    assert one.claims == [("gpu0", "gpu0-1", tree, "a bit wider")] * 2
    assert one.logs.keys() == {"1.agent.log"}  # nothing was measured


def test_what_is_no_question_of_novelty_is_not_asked_again(one: Lane) -> None:
    def strays(checkout: Path, brief: Brief) -> Proposal:
        (checkout / "harness.py").write_text("cheat\n")
        return Proposal("cheat")

    for edit, kind in (
        (strays, FailureKind.OUT_OF_SCOPE),
        (lambda checkout, brief: Proposal("nothing"), FailureKind.NO_CHANGE),
        (lambda checkout, brief: Proposal("", error="no key"), FailureKind.AGENT),
    ):
        one.handed_in.clear()
        agent = one.works(Propose("gpu0-1", one.base, 1), edit)
        failure = one.attempt.measurement.failure
        assert failure is not None and failure.kind is kind
        assert len(agent.briefs) == 1 and one.claims == []


def test_a_drain_between_two_proposals_ends_the_lane(one: Lane) -> None:
    def drained(checkout: Path, brief: Brief) -> Proposal:
        one.signals.drain.set()
        return COMMENT(checkout, brief)

    agent = one.works(Propose("gpu0-1", one.base, 1), drained, WIDER)
    assert len(agent.briefs) == 1 and one.handed_in == []


# --- Each kind of order ----------------------------------------------------------------------------------------------


def test_a_rework_stands_on_what_broke_and_is_compared_with_the_parent(one: Lane) -> None:
    broken = one.made("WIDTH = 8", "WIDTH = 9")
    rework = Rework("gpu0-0", broken.commit, "2 tests failed", 1)
    agent = one.works(Propose("gpu0-1", one.base, 1, rework=rework), sets("LR = 0.5", "LR = 0.4"))
    attempt = one.attempt
    assert "WIDTH = 9" in agent.seen[0]
    assert attempt.parent == one.base and attempt.commit and attempt.line == (attempt.commit,)
    assert one.store.git("rev-parse", f"{attempt.commit}^").decode().strip() == one.base
    one.store.checkout(one.folder / "look", attempt.commit)
    text = (one.folder / "look" / "train.py").read_text()
    assert "WIDTH = 9" in text and "LR = 0.4" in text
    hub = Hub.open(one.folder / "hub.git")
    hub.unpack(one.handed_in[0][1], "refs/attempts/gpu0/1", attempt.commit)


@pytest.mark.parametrize(("error", "kind"), [(None, FailureKind.NO_CHANGE), ("no key", FailureKind.AGENT)])
def test_a_rework_in_which_nothing_was_done_is_no_duplicate(one: Lane, error: str | None, kind: FailureKind) -> None:
    broken = one.made("WIDTH = 8", "WIDTH = 9")
    rework = Rework("gpu0-0", broken.commit, "2 tests failed", 1)
    agent = one.works(
        Propose("gpu0-1", one.base, 1, rework=rework), lambda checkout, brief: Proposal("idle", error=error)
    )
    failure = one.attempt.measurement.failure
    assert failure is not None and failure.kind is kind and len(agent.briefs) == 1


def test_a_replay_says_what_was_picked_and_what_was_left_out(one: Lane) -> None:
    best = one.made("WIDTH = 8", "WIDTH = 16")
    fits, clashes = one.made("0.0005", "0.0004"), one.made("WIDTH = 8", "WIDTH = 9")
    one.works(Replay("gpu0-1", best.commit, (clashes.commit, fits.commit), 1))
    attempt = one.attempt
    assert attempt.measurement.value is not None and attempt.idea == "replay of 1 of 2 changes onto the best"
    assert attempt.picked == (fits.commit,) and attempt.left_out == (clashes.commit,)
    assert len(attempt.line) == 1 and one.claims == [("gpu0", "gpu0-1", attempt.tree, attempt.idea)]


def test_a_replay_in_which_all_clash_leaves_all_out(one: Lane) -> None:
    best, clashes = one.made("WIDTH = 8", "WIDTH = 16"), one.made("WIDTH = 8", "WIDTH = 9")
    one.works(Replay("gpu0-1", best.commit, (clashes.commit,), 1))
    failure = one.attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.CONFLICT
    assert one.attempt.picked == () and one.attempt.left_out == (clashes.commit,)


def test_a_replay_whose_files_were_measured_is_not_measured_again(one: Lane) -> None:
    best, fits = one.made("WIDTH = 8", "WIDTH = 16"), one.made("0.0005", "0.0004")
    both = one.store.replay([fits.commit], best.commit)
    assert isinstance(both, Candidate)
    one.taken[both.tree] = Taken(3, "#3 tried exactly this: keep, 0.5")
    one.works(Replay("gpu0-1", best.commit, (fits.commit,), 1))
    failure = one.attempt.measurement.failure
    assert failure is not None and failure.kind is FailureKind.DUPLICATE and "#3" in failure.message
    assert one.attempt.picked == (fits.commit,) and one.attempt.commit is None and one.logs == {}


def test_an_ablation_takes_one_change_out_of_a_commit_and_leaves_the_others(one: Lane) -> None:
    first = one.made("LR = 0.5", "LR = 0.25")
    second = one.made("WIDTH = 8", "WIDTH = 16", first.commit)
    third = one.made("SLEEP = 0.05", "SLEEP = 0.06", second.commit)
    one.works(Ablate("gpu0-1", third.commit, second.commit, 1, why="without #2: a wider net"))
    assert (one.attempt.kind, one.attempt.left_out, one.attempt.idea) == (
        "ablate",
        (second.commit,),
        "without #2: a wider net",
    )
    assert one.attempt.measurement.value is not None and one.attempt.parent == third.commit
    assert one.store.git("show", f"{one.attempt.commit}:train.py").decode() == TRAIN.replace("0.5", "0.25", 1).replace(
        "SLEEP = 0.05", "SLEEP = 0.06"
    )
    assert [tree for _, _, tree, _ in one.claims] == [one.attempt.tree]


def test_an_ablation_in_which_later_changes_stand_in_the_way_is_not_measured(one: Lane) -> None:
    first = one.made("LR = 0.5", "LR = 0.25")
    second = one.made("LR = 0.25", "LR = 0.2", first.commit)
    one.works(Ablate("gpu0-1", second.commit, first.commit, 1))
    assert one.attempt.commit is None and one.attempt.measurement.failure is not None
    assert one.attempt.measurement.failure.kind is FailureKind.CONFLICT


def test_a_lane_that_waits_comes_back_with_nothing_and_leaves_at_once_when_drained(one: Lane) -> None:
    one.works(Wait("gpu0-1", 0.01, "the provider limits the rate"))
    assert (one.attempt.kind, one.attempt.commit, one.claims) == ("wait", None, [])
    one.signals.drain.set()
    one.works(Wait("gpu0-2", 3600.0, "the provider limits the rate"))
    assert len(one.handed_in) == 1


def commits_by_itself(checkout: Path, brief: Brief) -> Proposal:
    """As an agent does that was told not to, and in the end stands on something else."""
    sets("WIDTH = 8", "WIDTH = 12")(checkout, brief)
    git(checkout, "commit", "-q", "-a", "-m", "mine")
    git(checkout, "checkout", "-q", "-b", "elsewhere", "HEAD~1")
    git(checkout, "reset", "-q", "--soft", "HEAD@{1}")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "moved")
    return WIDER(checkout, brief)


def test_an_agent_that_commits_and_moves_its_head_is_judged_by_what_differs_from_the_parent(one: Lane) -> None:
    one.works(Propose("gpu0-1", one.base, 1), commits_by_itself)
    attempt = one.attempt
    assert attempt.commit and attempt.line == (attempt.commit,) and attempt.trouble is None
    assert one.store.git("rev-parse", f"{attempt.commit}^").decode().strip() == one.base
    assert one.store.git("show", f"{attempt.commit}:train.py").decode() == TRAIN.replace("WIDTH = 8", "WIDTH = 16")


def test_an_agent_that_commits_its_edit_and_takes_it_back_has_made_none(one: Lane) -> None:
    def edit(checkout: Path, brief: Brief) -> Proposal:
        WIDER(checkout, brief)
        git(checkout, "commit", "-q", "-a", "-m", "mine")
        git(checkout, "checkout", "-q", "HEAD~1")
        return Proposal("a wider net")

    one.works(Propose("gpu0-1", one.base, 1), edit)
    assert one.attempt.commit is None and one.attempt.trouble == Trouble(TroubleKind.NO_EDIT)


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        (Proposal("", error="it broke"), Trouble(TroubleKind.CRASHED)),
        (
            Proposal("", error="429", trouble=Trouble(TroubleKind.RATE_LIMITED, 7.0)),
            Trouble(TroubleKind.RATE_LIMITED, 7.0),
        ),
        (Proposal("", trouble=Trouble(TroubleKind.AUTH, math.nan)), Trouble(TroubleKind.AUTH)),
        (Proposal("", trouble=Trouble(TroubleKind.UNAVAILABLE, -1.0)), Trouble(TroubleKind.UNAVAILABLE)),
        (Proposal(""), Trouble(TroubleKind.NO_EDIT)),
    ],
)
def test_what_kept_an_agent_from_an_edit_is_handed_in_as_far_as_it_makes_sense(
    one: Lane, said: Proposal, trouble: Trouble
) -> None:
    one.works(Propose("gpu0-1", one.base, 1), lambda checkout, brief: said)
    assert one.attempt.trouble == trouble


def test_an_agent_that_made_an_edit_was_in_no_trouble_whatever_it_says(one: Lane) -> None:
    def edit(checkout: Path, brief: Brief) -> Proposal:
        return replace(WIDER(checkout, brief), error="429", trouble=Trouble(TroubleKind.RATE_LIMITED, 7.0))

    one.works(Propose("gpu0-1", one.base, 1), edit)
    assert one.attempt.trouble is None and one.attempt.measurement.value is not None


def test_a_second_measurement_claims_nothing(one: Lane) -> None:
    one.works(Remeasure("gpu0-1", one.base, 1, "the baseline"))
    assert one.attempt.measurement.value is not None and one.claims == [] and one.attempt.tree == ""


def test_a_holdout_is_measured_in_secret_and_its_log_is_no_experiments(toy: Toy, tmp_path: Path) -> None:
    one = Lane(toy, tmp_path / "lane", holdout="echo kept secret; echo loss: 0.125")
    made = one.made("WIDTH = 8", "WIDTH = 9")
    one.works(Holdout("gpu0-1", made.commit, 1))
    attempt = one.attempt
    assert attempt.kind == "holdout" and attempt.parent == attempt.commit == made.commit
    assert attempt.measurement.value == 0.125 and one.claims == [] and attempt.line == ()
    assert one.logs.keys() == {"1.holdout.log"} and b"kept secret" in one.logs["1.holdout.log"]


# --- On a seat -------------------------------------------------------------------------------------------------------


def test_a_share_of_a_gpu_is_a_class_of_its_own() -> None:
    monitor = Cpu(())
    assert device_class(monitor, 0) == device_class(monitor, 1) == device_class(monitor, 2) == monitor.device_class
    assert device_class(monitor, 0.5) == f"{monitor.device_class}, 0.5 of it"


def test_lanes_that_are_stubborn_measure_the_same_files_once(toy: Toy) -> None:
    command = "sed -i 's/WIDTH = .*/WIDTH = 9/' train.py; echo 'idea: a bit wider'"
    program = toy.program(agent="command", workers=2, more=f'experiments: 4\nagent_command: "{command}"')
    with research(program) as session:
        list(session)
    board = replay(ledger.read(toy.run_folder() / "ledger.jsonl"))
    tried = [each for each in board.experiments[1:] if each.tree]
    assert len({each.tree for each in tried}) == len(tried) >= 1
    others = [each.failure for each in board.experiments[1:] if not each.tree]
    assert others and all(each and each.kind in (FailureKind.DUPLICATE, FailureKind.NO_CHANGE) for each in others)
    assert any(each and "tried exactly this" in each.message for each in others)
    assert all(lane.seat.device_class.startswith("cpu, ") for lane in board.lanes.values())


# --- What is no proposal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        None,
        Proposal(None),  # type: ignore[arg-type]
        Proposal("x", None),  # type: ignore[arg-type]
        Proposal("x", params=[1]),  # type: ignore[arg-type]
        Proposal("x", params={"lr": None}),  # type: ignore[dict-item]
        Proposal("x", error=7),  # type: ignore[arg-type]
        Proposal("x", trouble=Trouble("bored")),  # type: ignore[arg-type]
        Proposal("x", trouble=Trouble(TroubleKind.TIMEOUT, "soon")),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_proposal_is_the_agents_failure_and_not_the_end_of_the_lane(one: Lane, said: Proposal) -> None:
    one.works(Propose("gpu0-1", one.base, 1), lambda checkout, brief: said)
    failure = one.attempt.measurement.failure
    assert failure and failure.kind is FailureKind.AGENT
    assert "Error: " in failure.message


def test_an_error_that_no_ledger_can_hold_is_made_fit_for_it(one: Lane) -> None:
    """JSON of tools may hold half of a character; the ledger raised, and that was the end of the run."""
    one.works(Propose("gpu0-1", one.base, 1), lambda checkout, brief: Proposal("x", error="mini: \udcff" + "y" * 9999))
    failure = one.attempt.measurement.failure
    assert failure and failure.message.encode().startswith(b"mini: ?y") and len(failure.message) == 4000
