"""The numbers of a program.md: what its `Metric:`, `Direction:`, `Also:` and `Rule:` lines say.

A limit that is misread is worse than one that is refused: whatever in an `Also:` line looks like a limit and is none
that is known here is a `ProgramError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from autoresearch_ray.markdown import SPAN, Field
from autoresearch_ray.model import MEMORY, Also, Direction, Metric, Rule

EXAMPLES = {
    "metric": "Metric: `val_bpb` (lower is better)",
    "direction": "Direction: lower",
    "also": "Also: `latency_ms` (lower is better), at most 10 % worse",
    "rule": "Rule: constrained",
}

_WAY = r"(?P<{}>lower|higher|minimi[sz]e|maximi[sz]e)"
_DIRECTION = re.compile(
    rf"\b{_WAY.format('phrase')}\s*(?:is\s*|=\s*|the\s*)?better\b"
    rf"|[(,;]\s*{_WAY.format('word')}\s*(?=[),;]|$)|(?P<arrow>[↓↑])",
    re.IGNORECASE,
)
_NUMBER = r"(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e[-+]?[0-9]+)?)(?![0-9]|[.,][0-9])"
_MOST = (
    r"(?:(?P<most>\bat\s+most|\bnot?\s+more\s+than|\bup\s+to|<=|≤)|(?P<least>\bat\s+least|\bnot?\s+less\s+than|>=|≥))"
)
_SHARE = re.compile(
    rf"{_MOST}\s*{_NUMBER}\s*(?:%|per\s?cent)\s*worse\b(?:\s+than\s+(?:the\s+)?base(?:line)?\b)?", re.IGNORECASE
)
_BOUND = re.compile(rf"{_MOST}\s*{_NUMBER}(?!\s*(?:%|per\s?cent))(?:\s*(?P<unit>[A-Za-zµ°×]+))?", re.IGNORECASE)
_WEIGHT = re.compile(rf"\bweight(?:ed)?\s*(?:of\b|is\b|by\b|[=:×])?\s*{_NUMBER}", re.IGNORECASE)
_LIMITING = re.compile(r"%|[<>≤≥]|\b(?:worse|most|least|than|limit|weight|per\s?cent)\b", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^()]*\)")
_NOT_A_UNIT = re.compile(r"[kKMG]|[xX×]|times|worse|better")  # they change what the number says
_RULES = {
    Rule.CONSTRAINED: re.compile(r"\b(?:constrain(?:ed|ts?)|primary|secondary)\b", re.IGNORECASE),
    Rule.PARETO: re.compile(r"\bpareto\b", re.IGNORECASE),
    Rule.WEIGHTED: re.compile(r"\bweight(?:ed|s)?\b", re.IGNORECASE),
}


def numbers(found: Mapping[str, Sequence[Field]]) -> tuple[Metric, tuple[Also, ...], Rule, float]:
    """What is measured, what else is, the rule that makes one verdict of them, and the metric's own weight in it."""
    metric, weight = _metric(found)
    weighed = [] if weight is None else [found["metric"][0]]
    also: dict[str, Also] = {}
    for field in found.get("also", ()):
        if field.value.strip("`. ").lower() in ("none", "n/a", "-"):
            continue
        one = _also(field)
        if one.name in also or one.name == metric.name:
            what = "given twice" if one.name in also else "the metric itself"
            raise field.line.wrong(f"{one.name} is {what}", "keep one line for each number")
        also[one.name] = one
        weighed += [field] if one.weight else []
    rule = _rule(found["rule"][0]) if "rule" in found else Rule.CONSTRAINED
    if rule is not Rule.WEIGHTED and weighed:
        raise weighed[0].line.wrong(
            f"a weight means nothing where the rule is {rule}", "write `Rule: weighted`, or take the weight out"
        )
    if rule is Rule.WEIGHTED and not any(each.weight for each in also.values()):
        raise found["rule"][0].line.wrong(
            "nothing is weighed against the metric", "for example: Also: `latency_ms` (lower is better), weight 0.3"
        )
    if rule is Rule.PARETO and not also:
        raise found["rule"][0].line.wrong("there is no second number to compare", f"for example: {EXAMPLES['also']}")
    return metric, tuple(also.values()), rule, 1.0 if weight is None else weight


def _rule(field: Field) -> Rule:
    said = [rule for rule, pattern in _RULES.items() if pattern.search(_BRACKETS.sub("", field.value))]
    if len(said) != 1:
        raise field.line.wrong(
            f"{field.value!r} is {'several rules' if said else 'not a rule'}",
            f"one of {', '.join(Rule)}; for example: {EXAMPLES['rule']}",
        )
    return said[0]


def direction(text: str) -> Direction | None:
    """The direction named by a single word or phrase, if it is one: "lower", "higher is better", "maximize", "↓"."""
    found = _directions(f"({text.strip('`*_ .')})")
    return found.pop() if len(found) == 1 else None


def _directions(text: str) -> set[Direction]:
    return {_way(match) for match in _DIRECTION.finditer(text)}


def _way(match: re.Match[str]) -> Direction:
    word = (match["phrase"] or match["word"] or match["arrow"]).lower()
    return Direction.HIGHER if word.startswith(("higher", "max", "↑")) else Direction.LOWER


def _metric(found: Mapping[str, Sequence[Field]]) -> tuple[Metric, float | None]:
    field = found["metric"][0]
    hint = f"for example: {EXAMPLES['metric']}"
    span = re.search(SPAN, field.value)
    rest = field.value if span is None else field.value[span.end() :]
    end = _first(rest, (_DIRECTION, _WEIGHT))
    name = span["code"] if span else _BRACKETS.sub("", rest[:end])
    name = name.strip(" \t" if span else " \t(,;:—–-*")
    ways = _directions(rest)
    if "direction" in found:
        own = found["direction"][0]
        said = direction(own.value)
        if said is None:
            raise own.line.wrong(f"{own.value!r} is not a direction", f"for example: {EXAMPLES['direction']}")
        ways.add(said)
    if len(ways) > 1:
        also = f" (see also line {found['direction'][0].line.number})" if "direction" in found else ""
        raise field.line.wrong(f"is lower or higher better? The metric says both{also}", hint)
    if not ways:
        raise field.line.wrong("the metric does not say whether lower or higher is better", hint)
    if not name or re.fullmatch(r"<.*>", name):
        raise field.line.wrong("the metric has no name", hint)
    return Metric(name, ways.pop()), _weight(field, rest)


def _first(text: str, patterns: Iterable[re.Pattern[str]]) -> int:
    """Where the first of these begins; the end of the text where there is none."""
    return min((match.start() for each in patterns if (match := each.search(text))), default=len(text))


# --- The other numbers -----------------------------------------------------------------------------------------------


def _also(field: Field) -> Also:
    hint = f"for example: {EXAMPLES['also']}"
    text = f"{field.value} {field.more}".strip()
    span = re.search(SPAN, text)
    if field.block or not text:
        raise field.line.wrong("there is no number here", f"write it on one line, {hint}")
    if span:
        name, rest = span["code"].strip(), f"{text[: span.start()]} {text[span.end() :]}"
    else:
        end = _first(text, (re.compile(r"[(,;]|\s[-—–]+\s"), _DIRECTION, _WEIGHT, _SHARE, _BOUND))
        name, rest = text[:end].strip(" \t:*"), text[end:]
    if not name or re.search(r"[<>]", name):
        raise field.line.wrong("the number has no name", hint)
    name = MEMORY if name.lower() == MEMORY else name
    if any(re.fullmatch(r"[A-Za-z_]\S*", each["code"]) and not direction(each["code"]) for each in _spans(rest)):
        raise field.line.wrong("there are two names on one line", "write one `Also:` line for each number")
    rest = rest.replace("`", "").replace("**", "")
    way = _also_direction(field, name, rest)
    weight = _weight(field, rest)
    rest = _WEIGHT.sub("", rest)
    limit = _limit(field, rest)
    bound = _bound(field, name, way, _SHARE.sub("", rest))
    _nothing_else(field, _BOUND.sub("", _SHARE.sub("", rest)))
    return Also(name, way, limit, bound, weight or 0.0)


def _spans(text: str) -> Iterable[re.Match[str]]:
    return re.finditer(SPAN, text)


def _also_direction(field: Field, name: str, rest: str) -> Direction:
    hint = f"for example: {EXAMPLES['also']}"
    said = list(_DIRECTION.finditer(rest))
    if len(said) > 1:
        raise field.line.wrong(f"{name} says twice which way is better", f"one line and one direction each, {hint}")
    if not said and name != MEMORY:
        raise field.line.wrong(f"{name} does not say whether lower or higher is better", hint)
    return _way(said[0]) if said else Direction.LOWER


def _limit(field: Field, rest: str) -> float | None:
    """The share by which it may be worse than the baseline: 0.1 for "at most 10 % worse"."""
    match = _only(field, _SHARE, rest)
    if match is None:
        return None
    if match["least"] or not 0 <= float(match["number"]) < math.inf:
        raise field.line.wrong(f"{match[0]!r} is no limit", f"for example: {EXAMPLES['also']}")
    return float(match["number"]) / 100


def _bound(field: Field, name: str, way: Direction, rest: str) -> float | None:
    """The worst value that it may have."""
    match = _only(field, _BOUND, rest)
    if match is None:
        return None
    number, unit = float(match["number"]), match["unit"] or ""
    if bool(match["most"]) is not (way is Direction.LOWER):
        raise field.line.wrong(
            f"{match[0]!r} does not go with {way} is better",
            "`at most 70` where lower is better, `at least 0.8` where higher is",
        )
    if name == MEMORY and not re.fullmatch(r"|g|gi?b", unit, re.IGNORECASE):
        raise field.line.wrong(f"{MEMORY} is in GB, not in {unit}", f"for example: Also: `{MEMORY}`, at most 70 GB")
    if not math.isfinite(number) or (name != MEMORY and _NOT_A_UNIT.fullmatch(unit)):
        raise field.line.wrong(
            f"{match[0]!r} is no limit",
            "write the number out: `at most 70000`; for twice the baseline's: `at most 100 % worse`",
        )
    return number


def _weight(field: Field, rest: str) -> float | None:
    match = _only(field, _WEIGHT, rest)
    if match is None:
        return None
    if not 0 < float(match["number"]) < math.inf:
        raise field.line.wrong(f"{match[0]!r} is no weight", "a weight is above 0, for example: weight 0.3")
    return float(match["number"])


def _only(field: Field, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = list(pattern.finditer(text))
    if len(found) > 1:
        raise field.line.wrong(f"{found[0][0]!r} and {found[1][0]!r} contradict each other", "keep one of them")
    return found[0] if found else None


def _nothing_else(field: Field, rest: str) -> None:
    """Refuse what may be a limit in other words; a remark without numbers is fine, and in brackets one with them."""
    brackets = [each for each in _BRACKETS.findall(rest) if re.search(r"[0-9]", each) and _LIMITING.search(each)]
    bare = _BRACKETS.sub(" ", rest)
    if brackets or _LIMITING.search(bare) or re.search(r"(?<![\w.])[-+.]?[0-9]", bare):
        raise field.line.wrong(
            f"{(brackets or [bare.strip(' ,;()')])[0]!r} is not understood",
            "limits are `at most 10 % worse`, `at most 70` and `at least 0.8`, and a weight is `weight 0.3`",
        )
