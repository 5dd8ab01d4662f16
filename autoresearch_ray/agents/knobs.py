"""The agent that needs no model: it turns the constants of the program, and learns from what all lanes measured."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoresearch_ray.agents import _constants
from autoresearch_ray.agents._state import recall, remember
from autoresearch_ray.errors import AgentError
from autoresearch_ray.model import Brief, Direction, Options, Past, Proposal, Scalar, Status, Trouble, TroubleKind
from autoresearch_ray.ports import AgentSetup

_REMEMBERED = 200  # experiments that a choice is made from; 200 with ten knobs take about 50 ms
_TRIES = 20  # to find an assignment that was not measured yet
_DIGITS = 3  # significant digits of a proposed number

_WHAT_IS_A_KNOB = (
    "no constant to turn was found in the files in scope; a knob is a line `NAME = value` at the top level of a Python"
    " file, its name in capitals, its value a number, a boolean, or a string whose choices stand in a comment behind"
    " it, such as `ACTIVATION = 'relu'  # relu | gelu`"
)


class Knobs:
    """Turns one to three constants a time, chosen by a Tree-structured Parzen Estimator over all that was measured.

    A knob is `NAME = value` at the top level of a Python file in scope, NAME in capitals and assigned once. Numbers
    range over an eighth to eight times their first value, powers written `2**k` over a quarter to four times, unless a
    comment on the line says otherwise: `# 1e-4..1e-1 log`, `# [8, 256]`, `# relu | gelu`, `# 16 | 32 | 64`. A comment
    that starts with `fixed`, or a name with SEED in it, keeps a constant from being turned: a lucky seed is no result.
    The first values that a lane sees are kept in its folder, so that its ranges do not wander with its branch.
    """

    reports = "free"

    def __init__(self, setup: AgentSetup) -> None:
        self._scope = setup.program.scope
        self._firsts = setup.folder / "knobs.json"

    @classmethod
    def check(cls, options: Options, environ: Mapping[str, str]) -> None:
        """Raise `AgentError` if Optuna is not installed."""
        if importlib.util.find_spec("optuna") is None:
            raise AgentError("the agent `knobs` needs Optuna", 'pip install "autoresearch-ray[knobs]"')

    def propose(self, checkout: Path, brief: Brief, log: Path, cancel: threading.Event) -> Proposal:
        """Turn some knobs of the checkout. `params` of the proposal are the values of all knobs after it."""
        knobs = {each.name: each for each in _constants.find(checkout, self._scope)}
        current = {name: each.value for name, each in knobs.items()}
        firsts = self._remember(current)
        spaces = {name: _space(each, firsts[name]) for name, each in knobs.items()}
        chosen = _choose(spaces, current, brief) if knobs else None
        if chosen is None:
            error = "no knob can be turned any further" if knobs else _WHAT_IS_A_KNOB
            log.write_text(error + "\n", encoding="utf-8")
            return Proposal("", error=error, trouble=Trouble(TroubleKind.NO_EDIT))
        turned = [name for name in knobs if chosen[name] != current[name]]
        for file in sorted({knobs[name].file for name in turned}):
            changes = [(knobs[name], chosen[name]) for name in turned if knobs[name].file == file]
            _constants.edit(checkout / file, changes)
        idea = ", ".join(f"{name.rpartition(':')[2]} {current[name]} -> {chosen[name]}" for name in turned)
        log.write_text(f"{idea}\n{json.dumps(chosen)}\n", encoding="utf-8")
        return Proposal(idea, params=chosen)

    def _remember(self, current: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The first value of each knob. One that is new, or was rewritten as another kind of value, starts now."""
        known = recall(self._firsts, {})
        firsts = {name: known[name] if _alike(known.get(name), value) else value for name, value in current.items()}
        if known | firsts != known:
            remember(self._firsts, known | firsts)
        return firsts


# --- The space of a knob ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Space:
    """Where a knob may go. `scale` says what the sampler sees of a value: x, -x, log2(x) or 1 - x."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    multiple: int = 1
    scale: Literal["plain", "negative", "power", "complement"] = "plain"
    choices: tuple[Scalar, ...] = ()

    def inward(self, value: Scalar) -> Scalar:
        """What the sampler sees of a value; one that lies outside is moved to the nearest end."""
        if self.choices:
            return value if value in self.choices else self.choices[0]
        number = float(value)
        match self.scale:
            case "negative":
                number = -number
            case "power":
                number = math.log2(max(number, 1.0))
            case "complement":
                number = 1 - number
        number = min(max(number, self.low), self.high)
        return round(number) if self.whole else number

    def outward(self, seen: Scalar) -> Scalar:
        """The value of the knob for what the sampler chose, rounded as a person would write it."""
        if self.choices:
            return seen
        number = float(seen)
        match self.scale:
            case "power":
                return 1 << int(number)
            case "complement":
                return round(1 - float(f"{number:.2g}"), 15)  # 0.9937, and not 1.0 for a decay of 0.9999
        number = round(number / self.multiple) * self.multiple if self.multiple > 1 else float(f"{number:.{_DIGITS}g}")
        number = min(max(number, self.low), self.high)
        number = -number if self.scale == "negative" else number
        return round(number) if self.whole else number


def _space(knob: _constants.Constant, first: Scalar) -> _Space:
    """The range of a knob: what its comment says, otherwise a range around its first value."""
    if knob.choices or isinstance(first, str):
        return _Space(choices=knob.choices)
    whole = isinstance(first, int)
    low, high, log = knob.range or (0.0, 0.0, False)
    if knob.power:
        exponent = int(math.log2(first))
        low, high = math.ceil(math.log2(max(low, 1))), math.floor(math.log2(max(high, 1)))
        low, high = (low, high) if low < high else (max(0, exponent - 2), exponent + 2)
        return _Space(low, high, whole=True, scale="power")
    low, high = (math.ceil(low), math.floor(high)) if whole else (low, high)
    if low < high:
        return _Space(low, high, log=log and low > 0, whole=whole)
    if first == 0:
        return _Space(0, 8 if whole else 1, whole=whole)
    if not whole and 0.8 <= first < 1:  # a decay or a momentum: what matters is its distance from 1
        return _Space((1 - first) / 8, min((1 - first) * 8, 0.5), log=True, scale="complement")
    size, scale = abs(first), _SIGN[first < 0]
    if not whole:
        return _Space(size / 8, size * 8, log=True, scale=scale)
    multiple = 8 if size >= 16 and size % 8 == 0 else 1  # widths and batches that suit a GPU go on suiting it
    low = max(multiple, min(size - 1, size // 8))
    return _Space(low, max(size + 1, size * 8), log=True, whole=True, multiple=multiple, scale=scale)


_SIGN: dict[bool, Literal["plain", "negative"]] = {False: "plain", True: "negative"}


def _alike(one: Scalar | None, other: Scalar) -> bool:
    return type(one) is type(other)


# --- Choosing --------------------------------------------------------------------------------------------------------


def _choose(spaces: Mapping[str, _Space], current: Mapping[str, Scalar], brief: Brief) -> dict[str, Scalar] | None:
    """All values after the change: `current`, of which one to three were turned. None if nothing can be turned."""
    chance = random.Random(brief.seed)
    tried = {_key(each.params, current) for each in brief.history}
    repeated = None
    for sample in _samples(spaces, current, brief):
        differing = [name for name in spaces if sample[name] != current[name]]
        if not differing:
            continue
        turned = chance.sample(differing, min(len(differing), chance.choice((1, 1, 2, 3))))
        chosen = dict(current) | {name: sample[name] for name in turned}
        if _key(chosen, current) not in tried:
            return chosen
        repeated = chosen
    return repeated


def _key(params: Mapping[str, Scalar], names: Mapping[str, Scalar]) -> tuple[Scalar | None, ...]:
    return tuple(params.get(name) for name in names)


def _samples(spaces: Mapping[str, _Space], current: Mapping[str, Scalar], brief: Brief) -> Iterator[dict[str, Scalar]]:
    """Full assignments, each drawn afresh from a study that is rebuilt from the record."""
    import optuna  # here, because it is an extra of this package

    distributions = {name: _distribution(each) for name, each in spaces.items()}
    trials = []
    for params, value in _scored(brief.history, brief.direction):
        known = {name: params[name] if _alike(params.get(name), now) else now for name, now in current.items()}
        seen = {name: space.inward(known[name]) for name, space in spaces.items()}
        trials.append(optuna.create_trial(params=seen, distributions=distributions, value=value))
    with _quiet():
        study = optuna.create_study(
            direction="minimize" if brief.direction is Direction.LOWER else "maximize",
            sampler=optuna.samplers.TPESampler(seed=brief.seed, multivariate=True),
        )
        study.add_trials(trials)
    for _ in range(_TRIES):
        trial = study.ask(distributions)
        yield {name: space.outward(trial.params[name]) for name, space in spaces.items()}


def _scored(history: Sequence[Past], direction: Direction) -> list[tuple[Mapping[str, Scalar], float]]:
    """The assignments that were tried, with their values.

    One that crashed counts as the worst value seen, and so does one that is still being measured: that keeps lanes that
    choose at the same time away from each other. What was lost says nothing.
    """
    told = [each for each in history if each.params and each.status is not Status.LOST][-_REMEMBERED:]
    values = [each.value for each in told if each.value is not None]
    if not values:
        return []
    worst = max(values) if direction is Direction.LOWER else min(values)
    return [(each.params, worst if each.value is None else each.value) for each in told]


def _distribution(space: _Space) -> Any:
    import optuna

    if space.choices:
        return optuna.distributions.CategoricalDistribution(space.choices)
    if space.whole:
        return optuna.distributions.IntDistribution(int(space.low), int(space.high), log=space.log)
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)


_one_at_a_time = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs each new study. Its logger's level belongs to the process, so one lane at a time changes it."""
    logger = logging.getLogger("optuna")
    with _one_at_a_time:
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)
