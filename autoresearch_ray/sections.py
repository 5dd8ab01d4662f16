"""What `## Scope` and `## Eval` of a program.md say.

Lenient about form (bullets, bold, backticks, brackets), never about meaning: what cannot be read for sure, such as a
metric without a direction or a time without a unit, is a `ProgramError` with the line and an example.
"""

from __future__ import annotations

import difflib
import math
import posixpath
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_ray import metrics
from autoresearch_ray.markdown import SPAN, Field, Item, Line, Section, code, fields, indent, items
from autoresearch_ray.model import Eval, Parse, ParseKind, Scope

# --- Scope -----------------------------------------------------------------------------------------------------------

SCOPE_EXAMPLE = "- Files you CAN modify: train.py"

_LIST = re.compile(
    r"""[*_]*
    (?:(?:the\s+)?(?:files?|paths?|folders?)\s+(?:that\s+)?)?
    (?:you\s+|(?:the\s+)?agents?\s+)?
    (?:(?P<cannot>cannot|can\s+not|can['’]t|must\s+not|may\s+not|do\s+not|don['’]t)|can|may)(?=[\s:*_]|$)
    (?P<verb>\s+(?:only\s+)?(?:modify|edit|change|touch|be\s+(?:modified|edited|changed|touched))\b)?
    [*_]*\s*(?P<colon>:)?[*_]*\s*(?P<rest>.*)$""",
    re.IGNORECASE | re.VERBOSE,
)
_TOKEN = re.compile(SPAN + r"|\((?P<remark>[^()]*)\)|(?P<comma>[,;])|(?P<word>[^\s,;`]+|`+)")


@dataclass(slots=True)
class _Path:
    name: str
    sure: bool  # it can be nothing but a path: in backticks, or with a dot or a slash
    remark: str = ""


def scope(section: Section) -> Scope:
    """What `## Scope` says. `can` is empty where nothing is listed; sentences and remarks become rules."""
    can: list[str] = []
    cannot: list[str] = []
    rules: list[str] = []
    head: Item | None = None  # a list whose paths are the bullets below it
    listed = can
    for item in items(section):
        match = _LIST.match(item.text)
        if match is None and head and item.bullet and (item.indent > head.indent or not head.bullet):
            paths = _paths(item.text, item.line)
            if paths is None:
                raise item.line.wrong(f"{item.text!r} is not a path", "one path per bullet, a remark after a dash")
            _note(paths, listed, rules)
            continue
        head = None
        if match is None:
            rules.append(item.text)
            continue
        listed = cannot if match["cannot"] else can
        if match["colon"] and not match["rest"]:
            head = item
            continue
        paths = _paths(match["rest"], item.line)
        if paths is not None and (match["colon"] or all(each.sure for each in paths)):
            _note(paths, listed, rules)
        elif match["colon"] and match["verb"] and not (match["cannot"] and _is_everything(match["rest"])):
            raise item.line.wrong(
                f"{match['rest']!r} is not a list of paths",
                "separate paths by commas, put remarks in brackets: `CAN modify: src/, package.json (deps only)`",
            )
        else:
            rules.append(item.text)
    both = sorted(set(can) & set(cannot))
    if both:
        raise section.heading.wrong(f"{both[0]} is listed as CAN and as CANNOT modify", "keep it in one of the lists")
    return Scope(tuple(can), tuple(cannot), tuple(rules))


def path(text: str, line: Line) -> str:
    """A path of a scope: relative, inside the folder, with forward slashes, without a leading `./`."""
    hint = f"paths are relative to the folder of program.md, for example: {SCOPE_EXAMPLE}"
    if re.fullmatch(r"<.*>", text):
        raise line.wrong(f"{text} is still to be filled in", hint)
    if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:", text):
        raise line.wrong(f"the scope path {text!r} is absolute", hint)
    if ".." in text.split("/"):
        raise line.wrong(f"the scope path {text!r} leaves the folder of program.md", hint)
    if not text.strip() or not text.isprintable() or any(each in text for each in "\\{}"):
        raise line.wrong(f"the scope path {text!r} cannot be used", f"no backslashes, no braces; {hint}")
    return text.removeprefix("./") or "."


def _kept(field: Field) -> list[str]:
    """The paths of a `Keep` line. They may lie anywhere: absolute, below the home as ~/..., or beside program.md."""
    paths = _paths(field.value, field.line, _anywhere)
    if not paths and paths is not None and not field.value.strip():
        paths = None
    if paths is None:
        raise field.line.wrong(f"{field.value!r} is not a list of paths", f"for example: {EXAMPLES['keep']}")
    return [each.name for each in paths]


def _anywhere(text: str, line: Line) -> str:
    hint = f"for example: {EXAMPLES['keep']}"
    if re.match(r"~[^/]|~$", text) or text.rstrip("/") == "":
        raise line.wrong(f"{text!r} is too much to keep", hint)
    rooted = re.match(r"~?/", text)
    inner = path(text[rooted.end() :] if rooted else text, line)
    if inner == "." or re.search(r"[*?[]", inner):
        raise line.wrong(f"{text!r} is not one file or folder", hint)
    return ((rooted[0] if rooted else "") + inner).rstrip("/")


def _paths(text: str, line: Line, read: Callable[[str, Line], str] = path) -> list[_Path] | None:
    """The paths in `text` with their remarks; None when `text` is a sentence. `read` checks each of them."""
    if text.rstrip(".").lower() in ("none", "nothing", "n/a", "-"):
        return []
    found: list[_Path] = []
    wanted = True  # a path comes next, as after a comma
    for token in _TOKEN.finditer(text):
        word = token["word"] or ""
        if token["comma"] or (found and word.lower() in ("and", "&")):
            wanted = True
        elif token["remark"] is not None and found:
            found[-1].remark = token["remark"].strip()
        elif token["code"] and wanted:
            found.append(_Path(token["code"].strip(), sure=True))
            wanted = False
        elif word and wanted and not _is_everything(word):
            name = word.rstrip(".:") or word
            found.append(_Path(name, sure="." in name or "/" in name))
            wanted = False
            if name != word:  # the end of a sentence: the rest is a remark
                found[-1].remark = text[token.end() :].strip()
                break
        elif found and not wanted and word in ("—", "–", "-", "--", ":", "."):
            found[-1].remark = text[token.end() :].strip()
            break
        else:
            return None
    return [_Path(read(each.name, line), each.sure, each.remark) for each in found]


def _is_everything(text: str) -> bool:
    return re.match(r"(?:everything|anything|all|any|every)\b", text, re.IGNORECASE) is not None


def _note(paths: Sequence[_Path], listed: list[str], rules: list[str]) -> None:
    listed.extend(each.name for each in paths if each.name not in listed)
    rules.extend(f"{each.name}: {each.remark}" for each in paths if each.remark)


# --- Eval ------------------------------------------------------------------------------------------------------------

EXAMPLES = {
    "command": "Command: `uv run train.py`",
    "time budget": "Time budget: 5 minutes",
    "kill after": "Kill after: 10 minutes",
    "parse": 'Parse: `grep "^val_bpb:" run.log`',
    "setup": "Setup: `uv sync`",
    "guard": "Guard: `uv run pytest -q`",
    "holdout": "Holdout: `python ~/holdout/score.py .`",
    "keep": "Keep: .venv, ~/.cache/corpus",
    **metrics.EXAMPLES,
}
KEYS = {key: key for key in EXAMPLES} | {
    "eval command": "command",
    "budget": "time budget",
    "timeout": "kill after",
    "dominance rule": "rule",
    "hold out": "holdout",
    "held out": "holdout",
    "holdout command": "holdout",
    "hold out command": "holdout",
}

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)\s*(h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)(?![A-Za-z])(?:[\s,]*(?:and\s)?\s*)",
    re.IGNORECASE,
)
_STDOUT = re.compile(
    r"\b(?:entire|whole|all)\b.*\b(?:stdout|standard output|output)\b"
    r"|\b(?:stdout|standard output) is the (?:number|metric|value)|^stdout\.?$",
    re.IGNORECASE,
)
_SHELL_WORD = re.compile(
    r"awk|bash|bc|cat|cut|echo|egrep|gawk|grep|head|jq|node|perl|printf|python3?|rg|ruby|sed|sh|sort|tail|tr|uniq|uv|wc"
    r"|xargs|zcat|zgrep"
)


def is_evaluation(section: Section) -> bool:
    """Whether any line of an `## Eval` section sets something, rather than being prose."""
    return bool(fields(section, KEYS)[0])


def evaluation(section: Section) -> Eval:
    """What `## Eval` says."""
    listed, others = fields(section, KEYS)
    for other in others:
        if close := _meant(other.value.lower()):
            raise other.line.wrong(
                f"{other.value!r} is not known in ## Eval",
                f"did you mean {close}? For example: {EXAMPLES[KEYS[close]]}",
            )
    for key, values in listed.items():
        if len(values) > 1 and key not in ("also", "keep"):
            first, second = values[0].line, values[1].line
            raise second.wrong(
                f"{key.capitalize()} is given twice: line {first.number} and line {second.number}",
                "keep one of the two lines",
            )
    found = {key: values[0] for key, values in listed.items()}
    for key in ("command", "metric", "time budget"):
        if key not in found:
            raise section.heading.wrong(f"## Eval has no `{key.capitalize()}:` line", f"for example: {EXAMPLES[key]}")
    budget = _duration(found, "time budget")
    kill_after = _duration(found, "kill after") if "kill after" in found else 2 * budget
    if kill_after < budget:
        raise found["kill after"].line.wrong(
            "`Kill after` ends before the time budget does", f"for example: {EXAMPLES['kill after']}"
        )
    command = _command(found, "command")
    metric, also, rule, weight = metrics.numbers(listed)
    return Eval(
        command=command,
        metric=metric,
        budget_seconds=budget,
        kill_after_seconds=kill_after,
        parse=_parse(found["parse"]) if "parse" in found else Parse(),
        setup=_optional_command(found, "setup"),
        guard=_optional_command(found, "guard"),
        also=also,
        rule=rule,
        weight=weight,
        holdout=_optional_command(found, "holdout"),
        keep=tuple(dict.fromkeys(each for field in listed.get("keep", []) for each in _kept(field))),
    )


def _meant(key: str) -> str | None:
    """The key that an unknown one was meant to be. What speaks of a holdout would tell agents of it."""
    close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
    return close[0] if close else "holdout" if re.search("h[eo]ld[ -]?out", key) else None


def duration(text: str, line: Line) -> float:
    """Seconds in "5 minutes per experiment", "90 seconds", "1.5 hours", "5m", "1h 30m". A unit is required."""
    left = re.sub(r"\([^()]*\)", "", text.replace("`", "")).strip().removeprefix("~").lstrip()
    total = 0.0
    start = 0
    while match := _DURATION.match(left, start):
        total += float(match[1]) * _SECONDS[match[2][0].lower()]
        start = match.end()
    if re.fullmatch(r"[0-9.]+", left):
        raise line.wrong(f"{left} has no unit", f"write {left} seconds, or {left} minutes")
    if start == 0 or re.search(r"[0-9]", left[start:]):
        raise line.wrong(f"{text!r} is not a time", "for example: 5 minutes, 90 seconds, 1.5 hours, 5m, 300s")
    if not 0 < total < math.inf:
        raise line.wrong(f"{text!r} is no time to run in", "for example: 5 minutes")
    return total


def _duration(found: Mapping[str, Field], key: str) -> float:
    return duration(found[key].value, found[key].line)


def _parse(field: Field) -> Parse:
    hint = 'for example: `grep "^loss:" run.log`, or regex: `loss=([0-9.]+)`, or the entire stdout is the number'
    if prefix := re.match(r"reg\s?exp?\s*:\s*", field.value, re.IGNORECASE):
        bare = field.value[prefix.end() :]
        pattern = code(Field(field.line, bare), EXAMPLES["parse"]) if bare.startswith("`") else bare
        return _regex(pattern, field.line)
    if not field.block and not field.value.startswith("`") and _STDOUT.search(field.value):
        return Parse(ParseKind.STDOUT)
    text = code(field, EXAMPLES["parse"])
    if prefix := re.match(r"reg\s?exp?\s*:\s*", text, re.IGNORECASE):
        return _regex(text[prefix.end() :], field.line)
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        return _regex(text[1:-1], field.line)
    if "<metric>" in text:
        raise field.line.wrong("<metric> is still to be filled in", hint)
    word = text.split()[0]
    if "run.log" in text or _SHELL_WORD.fullmatch(word) or "/" in word:
        return Parse(ParseKind.COMMAND, text)
    raise field.line.wrong(f"it is not clear how {text!r} reads the metric", hint)


def _regex(pattern: str, line: Line) -> Parse:
    hint = "for example: regex: `loss=([0-9.]+)`"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a pattern whose meaning is about to change is not a pattern to run on
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise line.wrong(f"{pattern!r} is not a regular expression: {error}", hint) from error
    if not pattern:
        raise line.wrong("the regular expression is empty", hint)
    return Parse(ParseKind.REGEX, pattern)


def _command(found: Mapping[str, Field], key: str) -> str:
    field = found[key]
    command = code(field, EXAMPLES[key])
    if re.fullmatch(r"<[^<>]*>", command.strip()):
        raise field.line.wrong(f"{command.strip()} is still to be filled in", f"for example: {EXAMPLES[key]}")
    return command


def _optional_command(found: Mapping[str, Field], key: str) -> str | None:
    if key not in found or found[key].value.strip("`. ").lower() in ("none", "n/a", "-"):
        return None
    return _command(found, key)


# --- Holdout ---------------------------------------------------------------------------------------------------------

_TOLD = re.compile(r"[^\w\n]*hold[ _-]?out(?: command)?[*_`]*\s*(?::|$)", re.IGNORECASE)


def shown(page: Sequence[Line], section: Section | None) -> str:
    """The page as agents may read it: without the holdout of its `## Eval`, and without what stands indented below it.

    Raises where a holdout is also given elsewhere, in a comment or as a section of its own, and would be told to them.
    """
    found = fields(section, KEYS)[0].get("holdout", []) if section else []
    hidden = {number for field in found for number in field.span}
    margin: int | None = None  # of the holdout that we are in
    rows: list[str] = []
    for line in page:
        if line.number in hidden:
            margin = indent(line.text) if margin is None else min(margin, indent(line.text))
        elif margin is None or not line.text.strip() or indent(line.text) <= margin:
            margin = None
            if _TOLD.match(line.text):
                raise line.wrong("agents would read of this holdout", f"write it in ## Eval: {EXAMPLES['holdout']}")
            rows.append(line.text)
    return "\n".join(rows)


def visible(command: str, tracked: Iterable[str], prefix: str) -> str | None:
    """The first of the `tracked` paths that is a word of the command: agents are given it, and can read it.

    Tracked paths are relative to the top of the repository, those in the command to `prefix`, the folder of program.md
    there. It compares words, as in `--data=secret/test.bin`, and does not know what a shell would make of them.
    """
    known = set(tracked)
    for word in _words(command):
        path = posixpath.normpath(posixpath.join(prefix, word))
        if path in known:
            return path
    return None


def _words(text: str) -> Iterator[str]:
    """The words of a command, those of the commands that it quotes, and what stands behind an equals sign."""
    lexer = shlex.shlex(text.replace("`", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # a quote that is never closed
        words = text.split()
    for word in words:
        yield word
        _, equals, value = word.partition("=")
        if re.search(r"\s", word) and word != text:
            yield from _words(word)
        elif equals:
            yield value
