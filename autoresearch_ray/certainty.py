"""How sure a number is: values with their standard errors, the noise they stand on, what of a gain is confirmed.

Pure. On devices of several classes every value is told as it would read on the first of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from autoresearch_ray.board import Board
from autoresearch_ray.model import MEMORY, Experiment, Rule
from autoresearch_ray.ports import Score


@dataclass(frozen=True, slots=True)
class Value:
    """A mean of `n` measurements with its standard error, which is None while the noise is not known."""

    mean: float
    error: float | None
    n: int

    def __str__(self) -> str:
        return f"{plus_minus(self.mean, self.error)}, n = {self.n}"

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON. `n` is written out, because in results.jsonl an experiment's number has that name."""
        return {"metric": self.mean, "error": self.error, "measurements": self.n}


@dataclass(frozen=True, slots=True)
class Floor:
    """The standard deviation of one measurement on one class of devices, and how the baseline reads there."""

    name: str
    noise: float | None
    baseline: Value | None
    lanes: tuple[str, ...]


# --- Numbers ---------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A value as people read it: six significant digits, or all of them before the point; "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:.6g}"


def rough(value: float | None) -> str:
    """The same with three digits: for a number that only stands beside another one."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.3g}"


def plus_minus(value: float, error: float | None, sign: str = "") -> str:
    """Such as "0.97123 ± 0.00062": two digits of the error, and the value to the same decimal. `sign` may be "+"."""
    if not error:
        plain = sign * (value > 0) + number(value)
        return plain if error is None else f"{plain} ± 0"
    finite = math.isfinite(value) and math.isfinite(error)
    last, first = (_power(error) - 1, _power(max(abs(value), error))) if finite else (0, 0)
    if not finite or first - last > 14:  # more digits than a float has
        return f"{sign * (value > 0)}{number(value)} ± {error:.1e}"
    if not -5 < first < 15:
        return f"{value:{sign}.{first - last}e} ± {error:.1e}"
    return f"{value:{sign}.{max(0, -last)}f} ± {error:.{max(0, -last)}f}"


def _power(value: float) -> int:
    """The power of ten of the first digit, once the value is rounded to two."""
    return int(f"{value:.1e}".partition("e")[2])


# --- What was measured -----------------------------------------------------------------------------------------------


def value(board: Board, experiment: Experiment | None) -> Value | None:
    """What is known of its metric; None where nothing is, or nothing that can be compared."""
    score = board.score(experiment.commit) if experiment else None
    return _value(board, experiment.commit, score) if experiment and score else None


def comparable(board: Board, experiment: Experiment) -> Experiment:
    """The same with its mean as it would read on the first class of devices, where there are several."""
    if len(board.classes) < 2:
        return experiment
    known = value(board, experiment)
    return replace(experiment, values=(known.mean,) * known.n if known else ())


def _value(board: Board, commit: str | None, score: Score) -> Value:
    deviation = board.evidence.deviation(commit or "")
    return Value(score.mean, None if deviation is None else deviation / math.sqrt(score.n), score.n)


def over_baseline(board: Board, value: Value | None) -> float | None:
    """The gain over the baseline: of each class's own, where there are several."""
    base = board.score(board.opened.base)
    return board.direction.gain(value.mean, base.mean) if value and base else None


def floors(board: Board) -> list[Floor]:
    """The noise on each class of devices that has measured something."""
    found = []
    for each in board.classes:
        here = {name: lane.seat.device for name, lane in board.lanes.items() if lane.seat.device_class == each}
        sigma, base = board.noise_of(each), board.score(board.opened.base, each)
        error = sigma / math.sqrt(base.n) if base and sigma is not None else None
        name = each or ", ".join(sorted(set(here.values()))) or "not told"
        found.append(Floor(name, sigma, Value(base.mean, error, base.n) if base else None, tuple(sorted(here))))
    return found


def others(board: Board) -> tuple[str, ...]:
    """The names of the numbers beside the metric: those of the program, and the memory where it is known."""
    named = tuple(each.name for each in board.program.eval.also)
    known = MEMORY not in named and any(other(each, MEMORY) is not None for each in board.experiments)
    return (*named, MEMORY) if known else named


def other(experiment: Experiment | None, name: str) -> float | None:
    """The mean of one of its numbers beside the metric."""
    return experiment.also.get(name) if experiment else None


def heading(board: Board) -> str:
    """What the values are: the metric, or a weighted sum that it is part of."""
    metric = board.program.eval.metric.name
    return f"{metric}, weighted" if board.program.eval.rule is Rule.WEIGHTED else metric


# --- How much of it is confirmed -------------------------------------------------------------------------------------


def improvement(board: Board) -> str:
    """How far the best is from the baseline, such as "-0.0047, 0.471% better"; "" while there is nothing to compare."""
    base, best = value(board, board.baseline), value(board, board.best)
    if base is None or best is None:
        return ""
    gain = board.direction.gain(best.mean, base.mean)
    words = f"{best.mean - base.mean:+.4g}"
    if base.mean and gain:
        words += f", {abs(gain / base.mean):.3%} {'better' if gain > 0 else 'worse'}"
    return words


def gain(board: Board) -> tuple[float, float | None] | None:
    """The gain of the best over the baseline, and its standard error; None while nothing is published."""
    base, best = value(board, board.baseline), value(board, board.best)
    if not board.published or base is None or best is None:
        return None
    error = None if base.error is None or best.error is None else math.hypot(base.error, best.error)
    return board.direction.gain(best.mean, base.mean), error


def confirmed(board: Board) -> str:
    """The same in words, as the metric changed: such as "-0.0291 ± 0.0003 (97 standard errors)"."""
    found = gain(board)
    if found is None:
        return ""
    better, error = found
    change = plus_minus(better * board.direction.gain(1.0, 0.0), error, "+")
    if not error:
        return change
    times = better / error
    return f"{change} ({times:.{0 if abs(times) >= 10 else 1}f} standard errors)"


def claimed(board: Board) -> Value | None:
    """What the best read when it was published; its luck is still in it."""
    if not board.published:
        return None
    last = board.published[-1]
    return _value(board, last.commit, Score(last.measurements, last.value))


def later(board: Board) -> Value | None:
    """The mean of what was measured of the best after it was published: nobody picked it for these."""
    then, now = claimed(board), value(board, board.best)
    if then is None or now is None or now.n <= then.n:
        return None
    # The sums and not `Experiment.values`, which are as each class of devices read them.
    fresh = now.n - then.n
    mean = (now.n * now.mean - then.n * then.mean) / fresh
    return _value(board, board.published[-1].commit, Score(fresh, mean))


def holdout(board: Board, experiment: Experiment | None) -> Value | None:
    """What the program's holdout gave on its commit. Agents are never told."""
    found = board.holdouts.get(experiment.commit) if experiment and experiment.commit else None
    return Value(found.mean, None, found.n) if found else None


def confirmation(board: Board) -> list[str]:
    """How much of the gain is confirmed, in sentences."""
    then, since = claimed(board), later(board)
    words = [f"Against the baseline the metric changed by {confirmed(board)}."] if gain(board) else []
    if then:
        again = f"measured again since, it reads {since}" if since else "it was not measured since"
        words.append(f"The best was published as {then}; {again}.")
    held, base = holdout(board, board.best), holdout(board, board.baseline)
    if held:
        beside = f", and the baseline {base}" if base and board.published else ""
        words.append(f"On the holdout the best reads {held}{beside}.")
    return words
