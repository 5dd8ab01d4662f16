"""The numbers beside the metric: what `Also:`, `Rule:` and weights in a program.md say, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ray.errors import ProgramError
from autoresearch_ray.model import MEMORY, Also, Direction, Eval, Metric, Rule
from autoresearch_ray.program import parse

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
LATENCY = "Also: `latency_ms` (lower is better)"
FIRST = 7  # the line that `evaluation` puts the first of its lines on


def evaluation(*lines: str, metric: str = "`loss` (lower is better)") -> Eval:
    head = ["# x", "## Scope", "- CAN modify: train.py", "## Eval", "Command: `make`", "Time budget: 5 minutes"]
    return parse("\n".join([*head, *lines, f"Metric: {metric}", ""])).eval


def refused(*lines: str, metric: str = "`loss` (lower is better)") -> ProgramError:
    with pytest.raises(ProgramError) as caught:
        evaluation(*lines, metric=metric)
    assert caught.value.hint and caught.value.file
    return caught.value


def test_a_program_of_one_number_is_as_it_was() -> None:
    got = evaluation()
    assert (got.also, got.rule, got.weight, got.holdout) == ((), Rule.CONSTRAINED, 1.0, None)
    assert evaluation("Also: none").also == ()


@pytest.mark.parametrize(
    ("written", "also"),
    [
        ("`latency_ms` (lower is better), at most 10 % worse", Also("latency_ms", LOWER, 0.1)),
        ("latency_ms (lower is better), at most 10% worse", Also("latency_ms", LOWER, 0.1)),
        ("**latency_ms** ↓ no more than 10 percent worse than the baseline", Also("latency_ms", LOWER, 0.1)),
        ("`latency_ms` (lower, up to 12.5 % worse)", Also("latency_ms", LOWER, 0.125)),
        ("`latency_ms` (lower is better, at most `0 %` worse)", Also("latency_ms", LOWER, 0.0)),
        ("`latency_ms`: lower is better", Also("latency_ms", LOWER)),
        ("p99 latency - lower is better", Also("p99 latency", LOWER)),
        ("p99_latency (lower)", Also("p99_latency", LOWER)),
        ("`p99 (ms)` (lower is better), at most 70 ms", Also("p99 (ms)", LOWER, None, 70.0)),
        ("latency at most 70 (lower is better)", Also("latency", LOWER, None, 70.0)),
        ("accuracy (higher is better), at least 0.8", Also("accuracy", HIGHER, None, 0.8)),
        ("`accuracy` ↑ ≥ .8", Also("accuracy", HIGHER, None, 0.8)),
        ("`score` (maximise), not less than -2.5e-1", Also("score", HIGHER, None, -0.25)),
        ("`score` (higher is better), at most 5 % worse, at least 3", Also("score", HIGHER, 0.05, 3.0)),
        ("`x` (lower is better), the mean (over 5 runs)", Also("x", LOWER)),
        ("`x` (lower is better); as in p99, per request", Also("x", LOWER)),
        (MEMORY, Also(MEMORY, LOWER)),
        ("`Memory_GB` at most 50 % worse", Also(MEMORY, LOWER, 0.5)),
        ("memory_gb, at most 70 GB", Also(MEMORY, LOWER, None, 70.0)),
        ("memory_gb (lower is better), at most 70GiB", Also(MEMORY, LOWER, None, 70.0)),
    ],
)
def test_another_number_reads_in_every_usual_form(written: str, also: Also) -> None:
    assert evaluation(f"Also: {written}").also == (also,)
    assert evaluation(f"- **Also:** {written}").also == (also,)
    assert evaluation("Also:", "", f"  - {written}", "- prose").also == (also,)
    assert evaluation("Also:", f"{written}").also == (also,)


@pytest.mark.parametrize(
    "lines",
    [
        ["Also: `a` (lower is better)", "Also: `b` (higher is better), at least 2", "Guard: `g`"],
        ["Also:", "- `a` (lower is better)", "- `b` (higher is better),", "  at least 2", "Guard: `g`"],
        ["- Also:", "", "  * a ↓", "", "  * b ↑ at least 2", "- Guard: `g`"],
        ["- Also: a (lower)", "- Also: `b` (higher),", "  at least 2", "- Guard: `g`"],
        ["Also: a (lower)", "Also:", "- `b` (higher is better, at least 2)", "### More", "- Guard: `g`"],
    ],
)
def test_there_may_be_any_number_of_them(lines: list[str]) -> None:
    got = evaluation(*lines)
    assert got.also == (Also("a", LOWER), Also("b", HIGHER, None, 2.0))
    assert got.guard == "g" and got.metric == Metric("loss", LOWER)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "`latency_ms`",
        "`latency_ms` — minimize",
        "latency_ms, at most 70",
        "(lower is better)",
        "`<name>` (lower is better)",
        "`latency_ms` (lower is better | higher is better)",
        "`latency_ms` (lower is better), at most 10 %",
        "`latency_ms` (lower is better), at most ten percent worse",
        "`latency_ms` (lower is better), 10 % worse",
        "`latency_ms` (lower is better), max 70",
        "`latency_ms` (lower is better, never above 70 % worse)",
        "`latency_ms` (lower is better), not worse",
        "`latency_ms` (lower is better), at most 10 worse",
        "`latency_ms` (lower is better), at most 2x worse",
        "`latency_ms` (lower is better), at most 2 times",
        "`latency_ms` (lower is better), at most 70k",
        "`latency_ms` (lower is better), at most 1,000",
        "`latency_ms` (lower is better), at most 0,5",
        "`latency_ms` (lower is better), at most -5 % worse",
        "`latency_ms` (lower is better), at least 5 % worse",
        "`latency_ms` (lower is better), at most 1e999",
        "`latency_ms` (lower is better), at most 10 % worse, at most 20 % worse",
        "`latency_ms` (lower is better), at most 70, at most 80",
        "`latency_ms` (lower is better), at least 70",
        "`accuracy` (higher is better), at most 0.8",
        "`latency_ms` (lower is better), `accuracy` (higher is better)",
        "`latency_ms`, `throughput` (lower is better)",
        "latency (lower), throughput (lower)",
        "at most 10 `latency_ms` (lower is better), at most 10 % worse than the best",
        "`loss` (lower is better)",
        "memory_gb at most 70 MB",
        "memory_gb at most 70000 M",
        "memory_gb at least 5",
        "memory_gb (lower is better), at most 10 % more",
    ],
)
def test_a_number_or_a_limit_that_is_unclear_is_refused_at_its_line(written: str) -> None:
    assert refused("- prose", f"- Also: {written}").line == FIRST + 1
    if written:
        assert refused("Also:", "- `a` ↓", f"- {written}").line == FIRST + 2


def test_a_number_in_a_code_block_is_refused() -> None:
    assert refused("Also:", "```", "latency_ms (lower)", "```").line == FIRST


def test_a_number_given_twice_is_refused_at_the_second() -> None:
    error = refused(LATENCY, "Also: latency_ms ↓")
    assert error.line == FIRST + 1 and "twice" in error.message
    assert "latency_ms" in refused(LATENCY, metric="latency_ms ↓").message


def test_a_mistyped_key_gets_an_example() -> None:
    assert "Rule: constrained" in refused("Rules: pareto").hint
    assert "Also: `latency_ms`" in refused("Alsoo: x").hint


# --- Rules and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("constrained", Rule.CONSTRAINED),
        ("primary with soft constraints", Rule.CONSTRAINED),
        ("`Constraints` (not Pareto)", Rule.CONSTRAINED),
        ("Primary/secondary", Rule.CONSTRAINED),
        ("Pareto", Rule.PARETO),
        ("**pareto** (better in one, worse in none)", Rule.PARETO),
    ],
)
def test_a_rule_reads_in_the_words_of_the_field(written: str, rule: Rule) -> None:
    assert evaluation(LATENCY, f"Rule: {written}").rule is rule
    assert evaluation(f"- Dominance rule: {written}", LATENCY).rule is rule


@pytest.mark.parametrize("written", ["weighted", "Weighted sum", "`weighted` (score = w1 * a + w2 * b)", "weights"])
def test_a_weighted_sum_has_weights(written: str) -> None:
    got = evaluation(f"{LATENCY}, weight 0.3", "Also: `accuracy` ↑, at most 5 % worse", f"Rule: {written}")
    assert (got.rule, got.weight) == (Rule.WEIGHTED, 1.0)
    assert got.also == (Also("latency_ms", LOWER, weight=0.3), Also("accuracy", HIGHER, 0.05))


@pytest.mark.parametrize("said", ["weight 2", "weight: 2.0", "weight = 2", "(weight 2)", "weighted by 2"])
def test_the_metric_may_have_a_weight(said: str) -> None:
    for metric in (f"`loss` (lower is better), {said}", f"loss, {said} (lower is better)", f"loss ↓ {said}"):
        got = evaluation(f"Also: `x` ↓ at most 70 {said}", "Rule: weighted", metric=metric)
        assert (got.metric, got.weight) == (Metric("loss", LOWER), 2.0)
        assert got.also == (Also("x", LOWER, None, 70.0, 2.0),)


def test_a_metric_may_be_called_weight() -> None:
    assert evaluation(metric="weight (lower is better)").metric == Metric("weight", LOWER)
    assert evaluation(metric="`weight 3` (lower is better)").metric == Metric("weight 3", LOWER)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([LATENCY, "Rule: constrained | pareto | weighted"], 1),
        ([LATENCY, "Rule: best of both"], 1),
        ([LATENCY, "Rule:"], 1),
        ([LATENCY, "Rule: pareto", "Rule: pareto"], 2),
        (["Rule: pareto"], 0),
        (["Rule: pareto", "Also: none"], 0),
        (["Rule: weighted"], 0),
        ([LATENCY, "Rule: weighted"], 1),
        ([f"{LATENCY}, weight 0.3"], 0),
        ([LATENCY, "Also: x ↓ weight 0.3", "Rule: pareto"], 1),
        (["Also:", "- `a` ↓,", "  weight 0.3"], 1),
        ([f"{LATENCY}, weight 0", "Rule: weighted"], 0),
        ([f"{LATENCY}, weight -1", "Rule: weighted"], 0),
        ([f"{LATENCY}, weight 1e999", "Rule: weighted"], 0),
        ([f"{LATENCY}, weight half", "Rule: weighted"], 0),
        ([f"{LATENCY}, weight 1, weight 2", "Rule: weighted"], 0),
    ],
)
def test_a_rule_that_does_not_go_with_the_numbers_is_refused_at_its_line(lines: list[str], line: int) -> None:
    assert refused(*lines).line == FIRST + line


def test_a_weight_of_the_metric_without_a_weighted_rule_is_refused_at_the_metric() -> None:
    assert refused(LATENCY, metric="loss ↓ weight 2").line == FIRST + 1


# --- Any number, any text --------------------------------------------------------------------------------------------

numbers = st.floats(1e-6, 1e6).map(lambda each: float(f"{each:.6g}"))


@given(
    name=st.from_regex(r"[A-Za-z_][A-Za-z0-9_/.]{0,12}", fullmatch=True).filter(
        lambda each: each.lower() not in (MEMORY, "loss")
    ),
    way=st.sampled_from(Direction),
    limit=st.none() | numbers,
    bound=st.none() | numbers,
    weight=numbers,
)
def test_what_is_written_is_what_is_read(
    name: str, way: Direction, limit: float | None, bound: float | None, weight: float
) -> None:
    most = "at most" if way is LOWER else "at least"
    pieces = [f"weight {weight}", f"`{name}` ({way} is better)"]
    pieces += [] if limit is None else [f"at most {limit} % worse"]
    pieces += [] if bound is None else [f"{most} {bound}"]
    for said in (", ".join(pieces[1:] + pieces[:1]), f"{pieces[1]} {' and '.join(pieces[2:])} ({pieces[0]})"):
        got = evaluation(f"Also: {said}", "Rule: weighted").also
        assert got == (Also(name, way, None if limit is None else limit / 100, bound, weight),)


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_read_or_refused(also: str, rule: str) -> None:
    for lines in ([f"Also: {also}"], [f"Also: `x` (lower is better) {also}"], [LATENCY, f"Rule: {rule}"]):
        try:
            assert isinstance(evaluation(*lines), Eval)
        except ProgramError as error:
            assert error.hint and error.line >= 1
