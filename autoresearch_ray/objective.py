"""The numbers of a measurement: the one that is compared, and those beside it."""

from __future__ import annotations

from collections.abc import Mapping

from autoresearch_ray.model import MEMORY, Also, Direction, Eval, Measurement, Rule

_MEMORY = Also(MEMORY, Direction.LOWER)


def numbers(evaluation: Eval) -> tuple[Also, ...]:
    """All that is measured besides the metric: what the program names, and memory in any case."""
    named = any(each.name == MEMORY for each in evaluation.also)
    return evaluation.also if named else (*evaluation.also, _MEMORY)


def also(measurement: Measurement) -> dict[str, float]:
    """The other numbers of a measurement, memory among them where it is known."""
    memory = measurement.resources.memory_gb
    return ({} if memory is None else {MEMORY: memory}) | dict(measurement.also)


def objective(evaluation: Eval, measurement: Measurement) -> float:
    """The number that is compared: the metric, or in a weighted sum that, in the metric's direction."""
    assert measurement.value is not None
    if evaluation.rule is not Rule.WEIGHTED:
        return measurement.value
    total = evaluation.weight * measurement.value
    for each in evaluation.also:
        sign = 1.0 if each.direction is evaluation.metric.direction else -1.0
        total += sign * each.weight * measurement.also.get(each.name, 0.0)
    return total


def means(before: Mapping[str, float], more: Mapping[str, float], n: int) -> dict[str, float]:
    """Running means, after `n` measurements; what was not always measured keeps its mean."""
    return {name: mean + (more.get(name, mean) - mean) / n for name, mean in before.items()}
