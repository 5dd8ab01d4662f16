"""What people say to a run, on the real board: hints that fade, lanes that wait, changes that count before others."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from autoresearch_ray.comparison import compared
from autoresearch_ray.events import Declined, Judged, Ordered, Resteered, Submitted, Told
from autoresearch_ray.messages import Hold, Message, Release, Resteer, Submit, Tell
from autoresearch_ray.model import FailureKind, Propose, Remeasure, Status, Stop, Try, Wait
from autoresearch_ray.outside import HEARD
from autoresearch_ray.pace import Pace
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.results import transcript
from tests.game import Game, calibrated, events, failed, value
from tests.test_invariants import Referee, games

PATCH = "a diff; here it is a commit already"


def submit(id: str, parent: str = "", by: str = "ann") -> Submit:
    return Submit(id, PATCH, f"idea of {id}", parent, by)


def hints(game: Game, lane: str) -> list[str]:
    return game.board.outside.hints_for(lane, game.board.lanes[lane].proposals)


def play_alone(game: Game, lane: str, turns: int) -> None:
    for _ in range(turns):
        game.turn(lane)


# --- Hints -----------------------------------------------------------------------------------------------------------


def test_a_hint_is_heard_by_each_lane_for_its_next_three_proposals() -> None:
    game = calibrated(2, experiments=100)
    heard = []
    game.hear(Tell("m1", "try rotary base 50k"))
    for _ in range(HEARD + 2):
        game.turn("gpu0", value(2.0))
        heard.append(hints(game, "gpu0"))
    assert heard == [["try rotary base 50k"]] * HEARD + [[]] * 2
    game.turn("gpu1", value(2.0))
    assert hints(game, "gpu1") == ["try rotary base 50k"], "the other lane has proposed nothing meanwhile"
    game.sit("gpu2", 2)
    assert hints(game, "gpu2") == ["try rotary base 50k"], "and one that comes later hears it, too"


def test_a_hint_for_one_lane_is_for_that_one_and_one_to_keep_is_for_good() -> None:
    game = calibrated(2, experiments=100)
    game.hear(Tell("m1", "leave the optimiser alone", ("gpu1",), keep=True))
    game.hear(Tell("m2", "newer", ("gpu1",)))
    for _ in range(HEARD + 3):
        game.turn("gpu0", value(2.0))
        game.turn("gpu1", value(2.0))
    assert (hints(game, "gpu0"), hints(game, "gpu1")) == ([], ["leave the optimiser alone"])


def test_mending_what_broke_the_guard_uses_no_hint_up() -> None:
    game = calibrated(1, experiments=100, guard="make guard")
    game.hear(Tell("m1", "hint"))
    game.turn("gpu0", value(2.0))
    before = game.board.lanes["gpu0"].proposals
    order = game.turn("gpu0", failed(FailureKind.GUARD))
    assert isinstance(order, Propose) and order.rework
    assert game.board.lanes["gpu0"].proposals == before


def test_only_the_newest_hints_count() -> None:
    game = calibrated(1, experiments=100)
    for number in range(40):
        game.hear(Tell(f"m{number}", f"hint {number}", keep=True))
    game.turn("gpu0", value(2.0))
    assert hints(game, "gpu0") == [f"hint {number}" for number in range(39, 23, -1)]


def test_a_hint_to_keep_is_not_forgotten_for_those_that_fade() -> None:
    game = calibrated(1, experiments=100)
    game.hear(Tell("kept", "leave the optimiser alone", keep=True))
    for number in range(40):
        game.hear(Tell(f"m{number}", f"hint {number}"))
    game.turn("gpu0", value(2.0))
    assert hints(game, "gpu0") == [*(f"hint {number}" for number in range(39, 24, -1)), "leave the optimiser alone"]


def test_an_edited_strategy_is_what_the_board_has_from_then_on_and_the_same_again_is_nothing_new() -> None:
    game = calibrated(1)
    before = game.board.program
    assert game.board.edited_at is None
    game.hear(Resteer("Game", "# Game", "try wider nets", "none"))
    edited_at = game.board.edited_at
    game.hear(Resteer("Game", "# Game", "try wider nets", "none"))
    assert edited_at is not None and game.board.edited_at == edited_at
    after = game.board.program
    assert (after.strategy, after.notes, after.title) == ("try wider nets", "none", "Game")
    assert (after.scope, after.eval, after.options) == (before.scope, before.eval, before.options)
    assert sum(isinstance(each, Resteered) for each in events(game)) == 1


# --- Pauses ----------------------------------------------------------------------------------------------------------


def test_a_lane_that_is_paused_hands_in_waits_and_goes_on() -> None:
    game = calibrated(2, experiments=100)
    game.hear(Hold("m1", "gpu0"))
    assert game.board.lanes["gpu0"].active, "it measures to its end"
    first = game.turn("gpu0", value(2.0))
    assert isinstance(first, Wait) and first.seconds >= 0.75 and "paused" in first.why
    lines = len(game.lines)
    second = game.turn("gpu0")
    assert isinstance(second, Wait) and second.id == first.id and len(game.lines) == lines, "waiting writes nothing"
    assert not game.board.lanes["gpu0"].active
    game.hear(Release("m2", "gpu0"))
    assert isinstance(game.turn("gpu0"), Propose)


def test_a_lane_that_is_paused_decides_what_it_has_begun() -> None:
    game = Game.of(2, policy=Bayes(), experiments=100)
    while not game.board.baseline or len(game.board.experiments) < 2 or game.board.lanes["gpu0"].pending is None:
        game.turn("gpu0", value(1.0 - 0.0004 * (len(game.board.experiments) > 0)))
        game.turn("gpu1", value(1.0 + 0.001 * (-1) ** len(game.lines)))
    game.hear(Hold("m1", "gpu0"))
    while not isinstance(game.orders["gpu0"], Wait):
        game.turn("gpu0", value(0.999))
    assert game.board.lanes["gpu0"].pending is None


def test_nobody_counts_on_a_paused_lane_and_the_run_ends_without_it() -> None:
    """Its device is the only second one: what would be the best is confirmed without it."""
    game = Game.of(2, experiments=12)
    for _ in range(2):
        game.turn("gpu0", value(1.0))
        game.turn("gpu1", value(1.001))
    game.hear(Hold("m1", "gpu1"))
    for _ in range(400):
        if not isinstance(game.orders["gpu1"], Wait):
            game.turn("gpu1")
        if isinstance(game.orders["gpu0"], Stop):
            break
        game.turn("gpu0")
    assert game.board.closed and game.board.nominee is None
    assert isinstance(game.turn("gpu1"), Stop)


def test_a_pause_outlasts_a_worker_and_the_run() -> None:
    game = calibrated(2, experiments=100)
    game.hear(Hold("m1", "gpu0"))
    assert isinstance(game.sit("gpu0", 0), Wait), "what it left undone is not begun again"
    game.resume()
    assert isinstance(game.sit("gpu0", 0), Wait)


def test_a_lane_that_there_is_not_is_declined() -> None:
    game = calibrated(1)
    game.hear(Hold("m1", "gpu7"))
    assert [each.reason for each in events(game) if isinstance(each, Declined)] == ["there is no lane 'gpu7'"]


@pytest.mark.parametrize("known", [False, True])
def test_no_lane_is_begun_in_place_of_one_that_waits(known: bool) -> None:
    """Neither before anything is known of the agent, nor later."""
    pace = Pace()
    pace.came("gpu0", 0.0)
    now = 1.0
    for _ in range(20 * known):  # an agent that is much quicker than the evaluation
        pace.ordered("gpu0", True, now)
        pace.arrived("gpu0", now + 0.001)
        pace.took("gpu0", now + 0.001)
        now += 10.0
        pace.left("gpu0", now)
    pace.ordered("gpu0", False, now, waits=True)
    assert not pace.short(now + 1.0)
    pace.ordered("gpu0", False, now)
    assert known or pace.short(now + 1.0), "but for a lane that measures the base, one that proposes is"


# --- Changes of one's own --------------------------------------------------------------------------------------------


def test_what_was_submitted_is_measured_by_the_next_lane_and_in_order() -> None:
    game = calibrated(2, experiments=100)
    for id in ("m1", "m2", "m3"):
        game.hear(submit(id))
    first, second = game.turn("gpu0", value(2.0)), game.turn("gpu1", value(2.0))
    assert isinstance(first, Try) and isinstance(second, Try)
    assert (first.submission, second.submission, first.parent) == ("m1", "m2", "base")
    third = game.turn("gpu1", value(0.5))
    while isinstance(third, Remeasure):
        third = game.turn("gpu1", value(0.5))
    assert isinstance(third, Try) and third.submission == "m3"
    found = game.board.find(second.id)
    assert found and (found.status, found.by, found.submission, found.commit) == (Status.KEEP, "ann", "m2", "mine-m2")
    assert found.kind == "propose" and found.idea == "idea of m2"
    assert found.outcome is None and transcript(found) is None, "no agent was asked"
    assert sum(each.proposals for each in compared(game.board)) == 2, "and none is compared by it"
    assert [each.submitted.id for each in game.board.outside.queue] == ["m1", "m3"]


def test_a_message_that_comes_twice_counts_once() -> None:
    game = calibrated(1, experiments=100)
    said: list[Message] = [submit("m1"), Tell("m2", "hint"), Hold("m3", "gpu0"), Release("m4", "gpu0")]
    for message in said:
        game.hear(message)
    lines = len(game.lines)
    for message in said:
        game.hear(message)
    assert len(game.lines) == lines
    play_alone(game, "gpu0", 3)
    assert sum(isinstance(each, Ordered) and isinstance(each.order, Try) for each in events(game)) == 1
    game.hear(submit("m1"))
    play_alone(game, "gpu0", 3)
    assert sum(isinstance(each, Submitted) for each in events(game)) == 1


def test_it_is_measured_where_no_agent_can_be_asked_and_blames_none() -> None:
    game = calibrated(1, experiments=100)
    lane = game.board.lanes["gpu0"]
    for _ in range(2):
        game.turn("gpu0", failed(FailureKind.AGENT))
    game.hear(submit("m1"))
    assert not isinstance(game.orders["gpu0"], Propose)
    assert isinstance(game.turn("gpu0"), Try)
    failures, discards = lane.agent_failures_in_a_row, lane.discards_in_a_row
    game.turn("gpu0", value(2.0))
    lane = game.board.lanes["gpu0"]
    assert (lane.agent_failures_in_a_row, lane.discards_in_a_row) == (failures, discards)


def test_what_a_machine_takes_down_is_tried_once_more_and_then_lost() -> None:
    game = calibrated(2, experiments=100)
    game.hear(submit("m1"))
    tries = 0
    game.turn("gpu0", value(2.0))
    while isinstance(game.orders["gpu0"], Try):
        tries += 1
        game.turn("gpu0", failed(FailureKind.MACHINE))
    assert tries == 2 and [each.status for each in game.board.experiments if each.submission] == [Status.LOST] * 2


def test_a_lane_that_dies_gets_it_again_and_one_that_is_given_up_leaves_it_to_others() -> None:
    game = calibrated(2, experiments=100)
    game.hear(submit("m1"))
    order = game.turn("gpu0", value(2.0))
    assert isinstance(order, Try) and game.sit("gpu0", 0) == order
    game.vacate(0)
    other = game.turn("gpu1", value(2.0))
    assert isinstance(other, Try) and other.submission == "m1"


def test_a_run_that_is_over_keeps_it_for_the_next_one() -> None:
    game = calibrated(1, experiments=1)
    game.turn("gpu0", value(2.0))
    game.play(200)
    assert game.board.closed and not game.active()
    game.hear(submit("m1"))
    game.resume(experiments=10)
    game.sit("gpu0", 0)
    assert game.board.outside.queue[0].submitted.id == "m1"
    for _ in range(20):
        if isinstance(game.orders["gpu0"], Try):
            break
        game.turn("gpu0")
    assert isinstance(game.orders["gpu0"], Try)


def test_lanes_without_an_agent_wait_for_what_is_submitted_and_nothing_else() -> None:
    game = calibrated(1, agent="submitted", experiments=2)
    assert isinstance(game.orders["gpu0"], Wait)
    play_alone(game, "gpu0", 50)
    assert isinstance(game.orders["gpu0"], Wait) and game.board.closed is None
    for number in range(2):
        game.hear(submit(f"m{number}"))
    game.play(200)
    assert game.board.closed and game.board.closed.finished and game.board.counted == 2


@pytest.mark.parametrize(
    ("name", "commit"), [("", "mine-m0"), ("best", "mine-m0"), ("gpu0", None), ("#0", "base"), ("mine-m0", "mine-m0")]
)
def test_a_parent_is_the_best_or_whatever_has_a_name_and_was_measured(name: str, commit: str | None) -> None:
    game = Game.of(1, experiments=100)
    game.hear(submit("m0"))
    while not game.board.published:
        better = isinstance(game.orders["gpu0"], Try) or game.board.nominee
        game.turn("gpu0", value(0.5 if better else 1.0 + 0.001 * (-1) ** len(game.lines)))
    game.hear(submit("m1", name))
    event = next(each for each in events(game) if isinstance(each, Submitted) and each.id == "m1")
    assert event.parent == (commit or game.board.lanes["gpu0"].head)


# --- Whatever happens ------------------------------------------------------------------------------------------------


class Meddler(Referee):
    """A referee of a run in which people say something now and then."""

    def __init__(self, game: Game, mishaps: float, unrest: float) -> None:
        super().__init__(game, mishaps, unrest)
        self.numbers = itertools.count()

    def disturb(self, lane: str) -> None:
        game, id = self.game, f"m{next(self.numbers)}"
        said: list[Message] = [
            submit(id),
            submit(id, game.chance.choice([*game.board.lanes])),
            Tell(id, "hint", tuple(game.chance.sample([*game.board.lanes], 1)), keep=game.chance.random() < 0.3),
            Hold(id, lane),
            Release(id, lane),
            Resteer("t", "text", id, ""),
        ]
        if game.chance.random() < 0.4:
            return super().disturb(lane)
        message = game.chance.choice(said)
        game.hear(message)
        if game.chance.random() < 0.3:
            game.hear(message)
        self.seen = len(game.lines)
        return None

    def release_all(self) -> None:
        for lane in self.game.board.lanes:
            self.game.hear(Release(f"m{next(self.numbers)}", lane))


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])  # long to shrink
@given(words=games, mishaps=st.sampled_from([0.0, 0.3]), unrest=st.sampled_from([0.2, 0.5]), held=st.booleans())
def test_invariants_of_runs_in_which_people_meddle(
    words: dict[str, object], mishaps: float, unrest: float, held: bool
) -> None:
    game = Game.of(**words, experiments=40)  # type: ignore[arg-type]
    referee = Meddler(game, mishaps, unrest)
    referee.turns(120)
    if not held:
        referee.release_all()
    elif all(each.held or not each.ordered for each in game.board.lanes.values()):
        referee.release_all()  # where all wait, nothing ends
    referee.seen = len(game.lines)
    referee.end()
    referee.check()
    told = [each.id for each in events(game) if isinstance(each, Told | Submitted)]
    assert len(set(told)) == len(told)
    tries = [each for each in game.board.experiments if each.submission]
    verdicts = {each.id for each in events(game) if isinstance(each, Judged)}
    for id in {each.submission for each in tries}:
        mine = [each for each in tries if each.submission == id]
        assert len(mine) <= 2 and all(each.status is Status.LOST for each in mine[:-1])
        waiting = id in [each.submitted.id for each in game.board.outside.queue]
        assert waiting == (mine[-1].id not in verdicts) or (waiting and mine[-1].status is Status.LOST)
