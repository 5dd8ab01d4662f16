"""What the board finds in worlds whose truth is known: `python -m benchmarks.landscape`.

Runs of the shipped board and policies (`benchmarks.world`), with equal numbers of evaluations. Everything was tuned on
worlds with even seeds; the tables are made on odd ones, which nobody tuned on. A gain is the true value of the base
less that of the published best, in thousandths; ± is the standard error over worlds.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import click

from autoresearch_ray.model import Status
from autoresearch_ray.policies.bayes import Bayes
from autoresearch_ray.policies.confirm import Confirm
from autoresearch_ray.policies.greedy import Greedy
from autoresearch_ray.ports import Case, Judgement, Policy
from benchmarks import machine
from benchmarks.world import Landscape, Run

EVALUATIONS = 1600
LANES = (1, 8, 16, 64, 256)
NOISES = (0.0003, 0.001, 0.003)
REFERENCE = Landscape()
TARGET = 0.03  # of the time that a run takes to reach it: half of what one lane gets in the end


# --- Rules and ways of sharing that are not shipped, to compare with -------------------------------------------------


class Plain(Greedy):
    """Better than the parent, keep; the losers replay what they kept onto the best."""


class PlainAlone(Greedy):
    """The same, and no lane learns of another."""

    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        return "stay"


class PlainReset(Greedy):
    """The same, and the losers start again from the best."""

    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        return "reset" if super().moves(rank, lanes, hand_ins, every) == "replay" else "stay"


class Margin(Greedy):
    """What is better by two standard deviations of one measurement is kept, and nothing is measured again."""

    confirmations = 2  # of the base, too: or one lane would never know the noise
    gathers = True

    def judge(self, case: Case) -> Judgement:
        return Judgement("keep" if case.gain > 2 * case.sigma else "discard", "a fixed margin")


class Sequential(Confirm):
    """Sequential tests, with everything else as in the default."""

    gathers = True


class Alone(Bayes):
    gathers = combines = False


class Reset(Alone):
    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        return "reset" if hand_ins >= every and rank >= (lanes + 1) // 2 else "stay"


class Replays(Alone):
    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        return "replay" if hand_ins >= every and rank >= (lanes + 1) // 2 else "stay"


class EveryImprovement(Alone):
    def moves(self, rank: int, lanes: int, hand_ins: int, every: int) -> Literal["stay", "reset", "replay"]:
        return "replay" if hand_ins >= 1 and rank else "stay"


class KeptOnly(Bayes):
    combines = False


# --- Runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a table before it is run."""

    policy: type[Policy]
    lanes: int
    landscape: Landscape = REFERENCE
    evaluations: int = EVALUATIONS


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to, in the metric's unit and seconds."""

    gain: float  # true
    claimed: float  # of the published best, less the truth: below 0 it promises too much
    keeps: int
    false_keeps: int  # that are not better than their parent in truth
    evaluations: int
    again: int  # evaluations of what was measured before
    published: int
    target_seconds: float  # until the published best had gained `TARGET`; infinite if it never had
    order: float  # rank correlation of what the board says of commits with the truth
    raw_order: float  # the same of their values as they were read
    first_class: float  # share of published bests that were found on the first class of devices
    ablations: tuple[float, int]  # true gain and evaluations of trying the best without each of its changes
    last_half: float  # the true gain that the second half of the run's time has brought


def play(setting: Setting, seed: int) -> Result:
    lanes, options = setting.lanes, {"evaluations": setting.evaluations}
    run = Run.of(setting.landscape, seed, lanes, setting.policy(), **options).play()
    board, world = run.board, run.world
    best = board.best
    assert best is not None and best.commit is not None
    truth = world.truth(best.commit)
    score = board.score(best.commit)
    kept = [each for each in board.experiments[1:] if each.status is Status.KEEP and each.commit]
    measured = [each for each in board.experiments if each.values and each.commit]
    offset = setting.landscape.biases[0]
    said = [board.score(each.commit) for each in measured]
    true = [world.truth(each.commit or "") for each in measured]
    classes = [lane.seat.device_class for event in board.published for lane in [board.lanes[_lane(run, event.id)]]]
    return Result(
        gain=1 - truth,
        claimed=(score.mean if score else 1.0) - offset - truth,
        keeps=len(kept),
        false_keeps=sum(world.truth(each.commit or "") >= world.truth(each.parent) for each in kept),
        evaluations=board.evaluations,
        again=board.evaluations - len(measured),
        published=len(board.published),
        target_seconds=next((at for at, commit in run.best if 1 - world.truth(commit) >= TARGET), math.inf),
        order=_rank_correlation([each.mean if each else 0.0 for each in said], true),
        raw_order=_rank_correlation([each.values[0] for each in measured], true),
        first_class=classes.count("class 0") / len(classes) if classes else 0.0,
        ablations=_ablate(run, best.commit, random.Random(seed)),
        last_half=1 - truth - max([1 - world.truth(each) for at, each in run.best if at < run.now / 2], default=0.0),
    )


def _lane(run: Run, id: str) -> str:
    found = run.board.find(id)
    assert found is not None
    return found.lane or next(iter(run.board.lanes))


def _rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's, without ties to speak of."""

    def ranks(values: Sequence[float]) -> list[int]:
        order = sorted(range(len(values)), key=values.__getitem__)
        places = [0] * len(values)
        for place, each in enumerate(order):
            places[each] = place
        return places

    return statistics.correlation(ranks(left), ranks(right)) if len(left) > 2 else 1.0


def _ablate(run: Run, best: str, chance: random.Random) -> tuple[float, int]:
    """Try the best without each of its changes, one by one, and leave out what the policy says is better without."""
    world, noise, policy = run.world, run.world.landscape.noise, run.policy
    n = run.board.score(best).n  # type: ignore[union-attr]
    inside, spent, before = list(world.changes[best]), 0, world.truth(best)
    for change in world.changes[best]:
        without = world.commit("base", [each for each in inside if each is not change])
        with_it = world.commit("base", inside)
        gain = world.truth(with_it) - world.truth(without)
        known = chance.gauss(0.0, noise / math.sqrt(n))  # how far off the best's own mean is
        total, count = 0.0, 0
        while True:
            total, count, spent = total + gain + chance.gauss(0.0, noise), count + 1, spent + 1
            error = noise * math.sqrt(1 / count + 1 / n)
            prior = (-0.0015, 0.0015)  # what a change that was kept brings, turned round
            case = Case(total / count + known, error, count, noise, prior, 1e-5, None, -1)
            call = policy.judge(case).call
            if call != "again":
                break
        if call == "keep" and total / count + known > 0:
            inside.remove(change)
    return before - world.truth(world.commit("base", inside)), spent


# --- Tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, what was measured, and whether it holds."""

    claim: str
    measured: str
    met: bool


@dataclass(slots=True)
class Table:
    """One table as text cells, and the claims that it carries."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


Results = Sequence[Result]
Play = Callable[[Setting], Results]


def mean(results: Results, name: str) -> float:
    return statistics.fmean(getattr(each, name) for each in results)


def unsure(results: Results, name: str) -> float:
    values = [getattr(each, name) for each in results]
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def false_keeps(results: Results) -> float:
    """As a share of all that was kept."""
    return sum(each.false_keeps for each in results) / max(1, sum(each.keeps for each in results))


def off(results: Results) -> float:
    """How far the claimed value is from the true one, on average."""
    return statistics.fmean(abs(each.claimed) for each in results)


_HEAD = ("gain", "claimed - true", "off by", "false keeps", "keeps", "again", "evaluations")


def _cells(results: Results, noise: float) -> tuple[str, ...]:
    return (
        f"{1e3 * mean(results, 'gain'):.1f} ± {1e3 * unsure(results, 'gain'):.1f}",
        f"{mean(results, 'claimed') / noise:+.2f} ± {unsure(results, 'claimed') / noise:.2f} noise",
        f"{off(results) / noise:.2f} noise",
        f"{false_keeps(results):.0%}",
        f"{mean(results, 'keeps'):.0f}",
        f"{mean(results, 'again') / mean(results, 'evaluations'):.0%}",
        f"{mean(results, 'evaluations'):.0f}",
    )


def lanes_table(play: Play) -> Table:
    table = Table("Lanes: the default, at equal GPU time", ("lanes", *_HEAD, "efficiency", "speed-up to the target"))
    one = play(Setting(Bayes, 1))
    for lanes in LANES:
        found = play(Setting(Bayes, lanes))
        efficiency = mean(found, "gain") / mean(one, "gain")
        speed = _typical_seconds(one) / _typical_seconds(found)
        table.rows.append((str(lanes), *_cells(found, REFERENCE.noise), f"{efficiency:.2f}", f"{speed:.1f} x"))
        if lanes == 64:
            table.checks.append(Check("64 lanes find as much as one", f"{efficiency:.2f}", efficiency >= 1.0))
        elif lanes > 1:
            table.checks.append(Check(f"{lanes} lanes find 95 % of that", f"{efficiency:.2f}", efficiency >= 0.95))
    found = play(Setting(Bayes, 64))
    plain = play(Setting(Plain, 64))
    wrong, apart = false_keeps(found), off(found) / REFERENCE.noise
    table.checks += [
        Check("false keeps of 64 lanes are 10 % at most", f"{wrong:.1%}", wrong <= 0.1),
        Check("the claimed value is off by 0.2 noise at most", f"{apart:.2f}", apart <= 0.2),
        Check(
            "no worse than the plain rule",
            f"{1e3 * mean(found, 'gain'):.1f} against {1e3 * mean(plain, 'gain'):.1f}",
            mean(found, "gain") >= mean(plain, "gain"),
        ),
    ]
    return table


def _typical_seconds(results: Results) -> float:
    return statistics.median(each.target_seconds for each in results)


def sharing_table(play: Play) -> Table:
    table = Table("Sharing: 64 lanes", ("rule", "sharing", *_HEAD))
    ways: list[tuple[str, str, type[Policy]]] = [
        ("plain", "none", PlainAlone),
        ("plain", "losers reset to the best", PlainReset),
        ("plain", "losers replay onto the best", Plain),
        ("default", "none", Alone),
        ("default", "losers reset to the best", Reset),
        ("default", "losers replay onto the best", Replays),
        ("default", "all replay on every improvement", EveryImprovement),
        ("default", "kept changes gathered", KeptOnly),
        ("default", "and near misses: the default", Bayes),
    ]
    gains = {}
    for rule, name, policy in ways:
        found = play(Setting(policy, 64))
        gains[policy] = mean(found, "gain")
        table.rows.append((rule, name, *_cells(found, REFERENCE.noise)))
    share = gains[PlainReset] / gains[Plain]
    table.checks.append(Check("resetting gets about a quarter of what replaying gets", f"{share:.0%}", share < 0.4))
    most = max(gain for policy, gain in gains.items() if policy is not Bayes)
    beats = f"{1e3 * gains[Bayes]:.1f} against {1e3 * most:.1f}"
    table.checks.append(Check("the default beats every other way", beats, gains[Bayes] >= most))
    return table


def rules_table(play: Play) -> Table:
    table = Table("Decision rules", ("noise", "lanes", "rule", *_HEAD))
    rules: dict[str, type[Policy]] = {
        "plain": Plain,
        "fixed margin": Margin,
        "sequential": Sequential,
        "Bayesian: the default": Bayes,
    }
    for noise in NOISES:
        for lanes in (1, 64):
            for name, policy in rules.items():
                found = play(Setting(policy, lanes, replace(REFERENCE, noise=noise)))
                table.rows.append((f"{noise:g}", str(lanes), name, *_cells(found, noise)))
    for lanes in (1, 64):
        loud = replace(REFERENCE, noise=0.003)
        gains = {name: mean(play(Setting(policy, lanes, loud)), "gain") for name, policy in rules.items()}
        ours = gains.pop("Bayesian: the default")
        said = f"{1e3 * ours:.1f} against {1e3 * max(gains.values()):.1f}"
        claim = f"at noise 0.003, {lanes} {'lane finds' if lanes == 1 else 'lanes find'} more than with any other rule"
        table.checks.append(Check(claim, said, ours > max(gains.values())))
    return table


def classes_table(play: Play) -> Table:
    """Devices that read 5 noise units apart."""
    head = ("devices", *_HEAD, "rank correlation", "of raw values", "bests found on class 0")
    table = Table("Unlike devices: 64 lanes", head)
    kinds = {"one class": (0.0,), "two, 5 noise units apart": (0.0, -0.005), "three": (0.0, 0.005, -0.005)}
    found = {name: play(Setting(Bayes, 64, replace(REFERENCE, biases=biases))) for name, biases in kinds.items()}
    for name, results in found.items():
        more = (
            f"{mean(results, 'order'):.3f}",
            f"{mean(results, 'raw_order'):.3f}",
            f"{mean(results, 'first_class'):.0%}",
        )
        table.rows.append((name, *_cells(results, REFERENCE.noise), *more))
    like, unlike = found["one class"], found["two, 5 noise units apart"]
    order = mean(unlike, "order") / mean(like, "order")
    share = mean(unlike, "first_class")
    gain = mean(unlike, "gain") / mean(like, "gain")
    table.checks += [
        Check("the ranking of true values is recovered as on like devices", f"{order:.3f} of it", order >= 0.97),
        Check("no class wins by its bias", f"{share:.0%} of bests on class 0 of 2", 0.35 <= share <= 0.65),
        Check("unlike devices find 90 % of what like ones find", f"{gain:.2f}", gain >= 0.9),
    ]
    return table


def extras_table(play: Play) -> Table:
    """What orders are worth that need no model: near misses tried together, and the best without one of its changes.

    The board combines near misses by itself. Ablations are tried here on the best of a finished run, and are not
    shipped: what they bring for 100 evaluations is held against the second half of the run itself.
    """
    head = ("noise", "lanes", "near misses", "gain", "ablations of its best", "for 100 evaluations", "the run itself")
    table = Table("Work that needs no model", head)
    for noise in NOISES[1:]:
        for lanes in (1, 64):
            gains = {}
            for name, policy in (("no", KeptOnly), ("yes", Bayes)):
                found = play(Setting(policy, lanes, replace(REFERENCE, noise=noise)))
                gains[name] = mean(found, "gain")
                won = statistics.fmean(each.ablations[0] for each in found)
                spent = statistics.fmean(each.ablations[1] for each in found)
                usual = 200 * mean(found, "last_half") / mean(found, "evaluations")
                rates = f"{1e3 * 100 * won / spent:+.2f}", f"{1e3 * usual:+.2f}"
                cells = _cells(found, noise)[0], f"{1e3 * won:+.2f} in {spent:.0f} evaluations", *rates
                table.rows.append((f"{noise:g}", str(lanes), name, *cells))
            said = f"{1e3 * gains['yes']:.1f} against {1e3 * gains['no']:.1f}"
            table.checks.append(
                Check(f"near misses pay at noise {noise:g}, lanes {lanes}", said, gains["yes"] > gains["no"])
            )
    return table


def worlds_table(play: Play) -> Table:
    table = Table("Other worlds: 64 lanes, the default against the plain rule", ("world", "rule", *_HEAD))
    worlds = {
        "effects fade by 2 % for each that is in": replace(REFERENCE, fading=0.02),
        "10 % of pairs conflict": replace(REFERENCE, conflicts=0.1),
        "20 ideas, four times as large": replace(REFERENCE, ideas=20, effect=0.006),
        "one proposal in ten is good": replace(REFERENCE, good=0.1),
        "30 % crash": replace(REFERENCE, crashes=0.3),
        "nothing is any good": replace(REFERENCE, good=0.0),
        "nothing does anything": replace(REFERENCE, good=0.0, harm=1e-9),
    }
    for name, landscape in worlds.items():
        rules: tuple[tuple[str, type[Policy]], ...] = (("plain", Plain), ("default", Bayes))
        gains = []
        for rule, policy in rules:
            found = play(Setting(policy, 64, landscape))
            gains.append(mean(found, "gain"))
            table.rows.append((name, rule, *_cells(found, landscape.noise)))
        said = f"{1e3 * gains[1]:.1f} against {1e3 * gains[0]:.1f}"
        table.checks.append(Check(f"{name}: no worse than the plain rule", said, gains[1] >= gains[0] - 1e-4))
    return table


def speed_table(play: Play) -> Table:
    """How fast the simulator is: the board thinks of 10,000 experiments."""
    begun = time.perf_counter()
    run = Run.of(REFERENCE, 1, 64, Bayes(), experiments=10_000).play()
    seconds = time.perf_counter() - begun
    table = Table("Speed: one process", ("lanes", "experiments", "evaluations", "seconds"))
    table.rows.append(("64", str(run.board.counted), str(run.board.evaluations), f"{seconds:.1f}"))
    table.checks.append(Check("64 lanes, 10,000 experiments in 30 s", f"{seconds:.1f} s", seconds < 30))
    return table


TABLES: dict[str, Callable[[Play], Table]] = {
    "lanes": lanes_table,
    "sharing": sharing_table,
    "rules": rules_table,
    "classes": classes_table,
    "extras": extras_table,
    "worlds": worlds_table,
    "speed": speed_table,
}


# --- The command -----------------------------------------------------------------------------------------------------


def text(table: Table) -> str:
    rows = [table.head, *table.rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    checks = [f"  {'ok    ' if each.met else 'MISSED'} {each.claim}: {each.measured}" for each in table.checks]
    return "\n".join([f"{table.title}", *(f"  {line}" for line in lines), *checks])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TABLES)))
@click.option("--worlds", default=40, show_default=True, help="How many worlds each line is the mean of.")
@click.option("--tuned", is_flag=True, help="On the even seeds, which the defaults were tuned on.")
@click.option("--processes", default=os.cpu_count() or 1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(names: tuple[str, ...], worlds: int, tuned: bool, processes: int, as_json: bool) -> None:
    """Print the tables NAMES, or all of them, and exit with 1 where a claim is missed."""
    seeds = [2 * each + (not tuned) for each in range(worlds)]
    where = machine()
    known: dict[Setting, Results] = {}
    tables: list[Table] = []
    with ProcessPoolExecutor(processes) as pool:

        def played(setting: Setting) -> Results:
            if setting not in known:
                known[setting] = list(pool.map(play, [setting] * worlds, seeds))
            return known[setting]

        for name in names or TABLES:
            tables.append(TABLES[name](played))
            if not as_json:
                print(text(tables[-1]), flush=True)
    met = all(check.met for table in tables for check in table.checks)
    if as_json:
        print(json.dumps({"machine": where, "seeds": seeds, "met": met, "tables": [asdict(each) for each in tables]}))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
