"""program.md, the one file a human writes: read into a `Program`, with its front matter and flags as `Options`.

The evaluation stands in `## Eval`, or, for a program.md in prose, in an `autoresearch.toml` beside it. Whatever cannot
be read is one `ProgramError` with the file, the line, and an example of what was expected. Nothing is ever written.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from autoresearch_ray import fleet, markdown, metrics, sections
from autoresearch_ray.errors import ProgramError
from autoresearch_ray.markdown import Field, Line, Section
from autoresearch_ray.model import Eval, Member, Metric, Options, Parse, ParseKind, Price, Program, Scope

_MOST_BYTES = 1 << 20  # of a program.md: one of 20 MB took a minute to read, in which its run heard nothing else
_SECTIONS = ("scope", "eval", "strategy", "notes")


def read(path: str | Path) -> Program:
    """Read a program.md, or the one in the folder `path`, with the autoresearch.toml beside it if there is one.

    Raises `ProgramError` for everything that is wrong with them, a missing file included.
    """
    file = Path(path) / "program.md" if Path(path).is_dir() else Path(path)
    toml = file.parent / "autoresearch.toml"
    return parse(_text(file), str(file), _text(toml) if toml.is_file() else None)


def parse(text: str, file: str = "program.md", toml: str | None = None) -> Program:
    """Read the text of a program.md and, where given, of its autoresearch.toml. `file` is named in errors."""
    run, body, first = _front_matter(_plain(text), file)
    page = markdown.lines(body, file, first)
    outline = markdown.outline(page, _SECTIONS, prose=("strategy", "notes"))
    found = {name: _section(outline, name) for name in _SECTIONS}
    scope, evaluation = _measured(found["scope"], found["eval"], Line(file, 1, ""), toml)
    strategy, notes = found["strategy"], found["notes"]
    return Program(
        title=_title(page, outline),
        text=sections.shown(page, found["eval"]),
        scope=scope,
        eval=evaluation,
        strategy=strategy.body if strategy else "",
        notes=notes.body if notes else "",
        options=run,
    )


def options(base: Options, changes: Mapping[str, object]) -> Options:
    """`base` with `changes` (flags, keyword arguments) over it, held to the rules of the front matter.

    A value of None was not given, and changes nothing. Who names an agent has that one instead of the `agents` of the
    front matter; any other word of theirs goes for all of them. Raises `ProgramError` that names the key.
    """
    said = {key for key, value in changes.items() if value is not None}
    if "agents" not in said:
        over: dict[str, Any] = dict.fromkeys(said.intersection(fleet.OWN))
        agents = () if said & {"agent", "agent_command"} else base.agents
        base = dataclasses.replace(base, agents=tuple(dataclasses.replace(each, **over) for each in agents))
    return _options(base, {key: (value, _NOWHERE) for key, value in changes.items()})


# --- Files -----------------------------------------------------------------------------------------------------------


def _text(file: Path) -> str:
    try:
        if file.exists() and not file.is_file():  # to open a pipe would wait for who writes it
            raise OSError(errno.EINVAL, "not a regular file")
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"larger than {_MOST_BYTES >> 10} KiB")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProgramError("the file is not UTF-8", "save it as UTF-8", file=str(file), line=line) from error
    except (OSError, ValueError) as error:  # a path with a NUL byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise ProgramError(
            f"cannot be read: {reason}", "give the path of a program.md, or of its folder", file=str(file)
        ) from error


def _plain(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


# --- Markdown --------------------------------------------------------------------------------------------------------


def _section(outline: list[Section], name: str) -> Section | None:
    found = [each for each in outline if each.name == name]
    if len(found) > 1:
        first, second = found[0].heading, found[1].heading
        raise second.wrong(
            f"two sections are called {name.title()}: line {first.number} and line {second.number}",
            f"keep one heading `## {name.title()}`",
        )
    return found[0] if found else None


def _title(page: list[Line], outline: list[Section]) -> str:
    """The first heading; where that is one of ours, the text above it."""
    if outline and outline[0].name not in _SECTIONS:
        title = outline[0].title
    else:
        title = next((each.text for each in page if each.text.strip()), "")
        title = "" if outline and title == outline[0].heading.text else title
    return re.sub(r"^autoresearch:\s*", "", title.strip(), flags=re.IGNORECASE) or Path(page[0].file).stem


def _measured(scope: Section | None, evaluation: Section | None, top: Line, toml: str | None) -> tuple[Scope, Eval]:
    """What may change and how it is measured, from the Markdown or from the TOML, and never from both."""
    written = sections.scope(scope) if scope else Scope(())
    in_markdown = evaluation is not None and sections.is_evaluation(evaluation)
    if toml is not None:
        fields = _toml_fields(_plain(toml), str(Path(top.file).parent / "autoresearch.toml"))
        if in_markdown and evaluation and "eval_command" in fields:
            other = fields["eval_command"].line
            raise evaluation.heading.wrong(
                f"the evaluation is defined twice: at line {evaluation.heading.number} of {top.file} "
                f"and at line {other.number} of {other.file}",
                f"remove one of the two, for example {Path(other.file).name}",
            )
        if not in_markdown:
            return _toml_scope(fields, written, scope), _toml_eval(fields)
    if evaluation is None:
        raise top.wrong(
            "there is no `## Eval` section, and no autoresearch.toml beside it",
            f"add `## Eval` with lines such as {sections.EXAMPLES['command']}",
        )
    if not written.can:
        where = scope.heading if scope else top
        raise where.wrong("nothing says which files may be changed", f"add `## Scope` with {sections.SCOPE_EXAMPLE}")
    return written, sections.evaluation(evaluation)


# --- autoresearch.toml -----------------------------------------------------------------------------------------------

_TOML = {
    "target_file": 'target_file = "train.py"',
    "eval_command": 'eval_command = "python train.py"',
    "metric_name": 'metric_name = "val_bpb"',
    "metric_direction": 'metric_direction = "lower"',
    "time_budget": 'time_budget = "5m"',
}


def _toml_fields(text: str, file: str) -> dict[str, Field]:
    """The fields that matter here, with their lines; `""` stands for the whole file."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        at = re.search(r"at line (\d+)", str(error))
        number = int(at[1]) if at else text.count("\n") + 1
        raise Line(file, number, "").wrong(f"broken TOML: {error}", f"for example: {_TOML['eval_command']}") from error
    found = {"": Field(Line(file, 1, ""), "")}
    for key, example in _TOML.items():
        if key not in table:
            continue
        place = re.search(rf"^[ \t]*[\"']?{key}[\"']?[ \t]*=", text, re.MULTILINE)
        line = Line(file, text.count("\n", 0, place.start()) + 1 if place else 1, "")
        if not isinstance(table[key], str) or not table[key].strip():
            raise line.wrong(f"{key} must be a text, it is {table[key]!r}", f"for example: {example}")
        found[key] = Field(line, table[key])
    return found


def _toml_field(fields: Mapping[str, Field], key: str) -> Field:
    if key not in fields:
        raise fields[""].line.wrong(f"{key} is missing", f"for example: {_TOML[key]}")
    return fields[key]


def _toml_scope(fields: Mapping[str, Field], written: Scope, section: Section | None) -> Scope:
    field = _toml_field(fields, "target_file")
    target = sections.path(field.value.strip(), field.line)
    if section and written.can not in ((), (target,)):
        raise section.heading.wrong(
            f"the files that may change are listed twice: at line {section.heading.number} of "
            f"{section.heading.file} and at line {field.line.number} of {field.line.file}",
            "write `## Eval` as well, and remove autoresearch.toml",
        )
    return dataclasses.replace(written, can=(target,))


def _toml_eval(fields: Mapping[str, Field]) -> Eval:
    command = _toml_field(fields, "eval_command").value
    name = _toml_field(fields, "metric_name").value.strip()
    way = _toml_field(fields, "metric_direction")
    direction = metrics.direction(way.value)
    if direction is None:
        raise way.line.wrong(f"{way.value!r} is not a direction", f"for example: {_TOML['metric_direction']}")
    time = _toml_field(fields, "time_budget")
    budget = sections.duration(time.value, time.line)
    # The format says no more than that the metric is printed: alone on a line, or as "<metric>: <number>".
    number = r"[-+]?(?:\.?[0-9][0-9.]*(?:e[-+]?[0-9]+)?|nan|inf)"
    pattern = rf"(?im)^(?:.*(?<!\w){re.escape(name)}[ \t]*[:=])?[ \t]*({number})\s*$"
    return Eval(command, Metric(name, direction), budget, 2 * budget, Parse(ParseKind.REGEX, pattern))


# --- Front matter and flags ------------------------------------------------------------------------------------------

_COUNT = "a whole number of at least 1"
_NAMES = "a list of names of environment variables"
_KNOWN = {  # what is expected, and an example
    "tag": ("a name for a branch: letters, digits, '.', '_', '-' (at most 100)", "tag: nov20"),
    "agent": ("a name", "agent: claude"),
    "agent_command": ("a shell command", "agent_command: ./propose.sh"),
    "model": ("a name that does not begin with -", "model: opus"),
    "base_url": ("an http or https URL that holds no password", "base_url: http://localhost:8000/v1"),
    "temperature": ("a number from 0 to 2", "temperature: 0.7"),
    "extra_args": ("a list of arguments", "extra_args: [--effort, high]"),
    "agents": ("a list of agents with words of their own", "agents: [{agent: claude, model: opus, weight: 2}]"),
    "prices": ("USD per million tokens, by model", "prices: {opus: {input: 15, output: 75, cached: 1.5}}"),
    "agent_minutes": ("a number above 0", "agent_minutes: 10"),
    "secrets": (_NAMES, "secrets: [ANTHROPIC_API_KEY]"),
    "env": (_NAMES, "env: [HF_HOME]"),
    "sandbox": ("auto, bwrap or none", "sandbox: auto"),
    "network": ("true or false", "network: false"),
    "disk_gb": ("a number above 0", "disk_gb: 10"),
    "agent_home": ("a list of paths, absolute or from ~", "agent_home: [~/.config/tool]"),
    "workers": (f"{_COUNT}, or auto", "workers: auto"),
    "gpus_per_worker": ("0, a fraction of 1, or a whole number", "gpus_per_worker: 1"),
    "lanes": (f"{_COUNT}, or auto", "lanes: auto"),
    "monitor": ("a name", "monitor: auto"),
    "policy": ("a name", "policy: bayes"),
    "every": (_COUNT, "policy: {every: 4}"),
    "experiments": (_COUNT, "stop: {experiments: 800}"),
    "evaluations": (_COUNT, "stop: {evaluations: 1600}"),
    "hours": ("a number above 0", "stop: {hours: 8}"),
    "cost_usd": ("a number above 0", "stop: {cost_usd: 50}"),
    "target": ("a number", "stop: {target: 0.95}"),
    "plateau": (_COUNT, "stop: {plateau: 100}"),
    "address": ("the address of a Ray cluster, or auto", "address: auto"),
    "backend": ("ray or local", "backend: ray"),
    "allow_dirty": ("true or false", "allow_dirty: false"),
    "mirror": ("a path, or a git remote or URL that holds no password", "mirror: /mnt/nfs/mirror.git"),
    "mirror_minutes": ("a number above 0", "mirror_minutes: 10"),
}
_NESTED = {
    "policy": {"name": "policy", "every": "every"},
    "stop": {key: key for key in ("experiments", "evaluations", "hours", "cost_usd", "target", "plateau")},
}
_TAG = re.compile(r"(?!.*\.\.)(?!.*\.(?:lock)?$)[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_COUNTS = ("workers", "lanes", "every", "experiments", "evaluations", "plateau")
_ABOVE_ZERO = ("agent_minutes", "disk_gb", "hours", "cost_usd", "mirror_minutes", *_COUNTS)
# A URL with a password, or what may be one: over http, tokens stand in the user's place or behind a question mark.
_CREDENTIALS = re.compile(r"(?i)://[^/]*:[^/]*@|https?://([^/]*@|.*\?)")
_ADAPTER = TypeAdapter(Options)
_NOWHERE = Line("", 0, "")  # where flags and keyword arguments stand


def _front_matter(text: str, file: str) -> tuple[Options, str, int]:
    """The options, the Markdown below the front matter, and the line that it begins on."""
    rows = text.split("\n")
    top = next((at for at, row in enumerate(rows) if row.strip()), 0)
    if rows[top].rstrip() != "---":
        return Options(), text, 1
    end = next((at for at in range(top + 1, len(rows)) if rows[at].rstrip() in ("---", "...")), None)
    if end is None:
        raise Line(file, top + 1, "").wrong("the front matter is never closed", "end it with a line ---")
    said = _front_keys("\n".join(rows[top + 1 : end]), file, top + 2)
    return _options(Options(), said), "\n".join(rows[end + 1 :]), end + 2


def _front_keys(text: str, file: str, first: int) -> dict[str, tuple[object, Line]]:
    """The keys of the YAML, nested ones flattened, with their lines. `text` begins on line `first` of the file."""
    hint = f"for example: {_KNOWN['tag'][1]}"
    try:
        # The base loader leaves every value the text that was written: `tag: 1120` and `tag: 2024-11-20` are names.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise Line(file, first + (mark.line if mark else 0), "").wrong(f"broken YAML: {problem}", hint) from error
    found: dict[str, tuple[object, Line]] = {}
    for key, value, line in _pairs(node, file, first):
        nested = _NESTED.get(key)
        if nested is not None and isinstance(value, yaml.MappingNode):
            for name, inner, at in _pairs(value, file, first):
                if name not in nested:
                    raise at.wrong(f"{name!r} is not known in {key}", f"known: {', '.join(nested)}")
                _add(found, nested[name], inner, at)
        elif key == "stop":
            raise line.wrong("stop must hold limits by name", "for example: stop: {hours: 8, experiments: 800}")
        else:
            _add(found, key, value, line)
    return found


def _pairs(node: yaml.Node | None, file: str, first: int) -> Iterator[tuple[str, yaml.Node, Line]]:
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        line = Line(file, first + node.start_mark.line, "")
        raise line.wrong("the front matter must be `key: value` lines", f"for example: {_KNOWN['tag'][1]}")
    for key, value in node.value:
        line = Line(file, first + key.start_mark.line, "")
        if not isinstance(key, yaml.ScalarNode):
            raise line.wrong("a key must be a word", f"known: {', '.join(_KNOWN)}")
        yield key.value, value, line


def _add(found: dict[str, tuple[object, Line]], key: str, node: yaml.Node, line: Line) -> None:
    if key in found:
        earlier = found[key][1].number
        raise line.wrong(f"{key} is given twice: line {earlier} and line {line.number}", "keep one of them")
    found[key] = (_value(node), line)


def _value(node: yaml.Node, deep: int = 0) -> object:
    """As deep as anything here goes: an alias may lead to what it stands in."""
    if isinstance(node, yaml.ScalarNode):
        empty = node.style is None and node.value in ("", "~", "null")
        return None if empty else node.value
    if deep > 2:
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, deep + 1) for each in node.value]
    return {key.value: _value(value, deep + 1) for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _options(base: Options, said: Mapping[str, tuple[object, Line]]) -> Options:
    checked: dict[str, Any] = {}
    for key, (value, line) in said.items():
        if key not in _KNOWN:
            close = difflib.get_close_matches(key, _KNOWN, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise line.wrong(f"{key!r} is not known", f"{meant}Known: {', '.join(_KNOWN)}")
        if value is None:
            continue
        expected, example = _KNOWN[key]
        if key == "agents" and isinstance(value, list | tuple):
            value = [_member(each, number, line) for number, each in enumerate(value, 1)]
        if key == "prices" and isinstance(value, dict):
            for model, price in value.items():
                _no_others(price, Price, f"the price of {model}", line)
        try:
            checked[key] = getattr(_ADAPTER.validate_python({key: value}), key)
            right = _fits(key, checked[key])
        except ValidationError:
            right = False
        if not right:
            # Lists are not shown: who writes a secret's value where its name belongs should not find it in a log.
            plain = isinstance(value, str | int | float) and key not in ("mirror", "base_url")
            shown = f", not {value!r}" if plain else ""
            raise line.wrong(f"{key} must be {expected}{shown}", f"for example: {example}")
    return dataclasses.replace(base, **checked)


def _member(said: object, number: int, line: Line) -> object:
    """One of `agents`, its own words held to the rules that they have for all."""
    if not isinstance(said, dict):
        return said
    _no_others(said, Member, f"number {number} of agents", line)
    own = {key: (value, line) for key, value in said.items() if key in fleet.OWN}
    checked = _options(Options(), own)
    return {key: getattr(checked, key) if key in own else value for key, value in said.items() if value is not None}


def _no_others(said: object, kind: type[Member | Price], where: str, line: Line) -> None:
    """A word that is not a field of `kind` would change nothing, and nobody would see why."""
    known = [each.name for each in dataclasses.fields(kind)]
    if strange := [each for each in said if each not in known] if isinstance(said, dict) else []:
        raise line.wrong(f"{strange[0]!r} is not known in {where}", f"known: {', '.join(known)}")


def _fits(key: str, value: Any) -> bool:
    """What the types of `Options` do not say."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if key == "tag":
        return _TAG.fullmatch(value) is not None
    if key == "agents":
        weights = [each.weight for each in value]
        return all(1e-6 <= each <= 1e6 for each in weights) and all(each.name is None or each.name for each in value)
    if key == "prices":
        dollars = [usd for each in value.values() for usd in (each.input, each.output, each.cached)]
        return all(usd is None or 0 <= usd < math.inf for usd in dollars)
    if key in ("secrets", "env"):
        return all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", each) for each in value)
    if key == "mirror" and _CREDENTIALS.search(value):
        return False
    if key == "base_url":
        return re.match(r"(?i)https?://[^/\s]", value) is not None and not _CREDENTIALS.search(value)
    if key == "model":  # to the tools of agents it is an argument
        return bool(value.strip()) and not value.startswith("-")
    if key == "temperature":
        return bool(0 <= value <= 2)
    if key == "extra_args":
        return all(each and "\0" not in each for each in value)
    if key == "agent_home":
        return all(re.match(r"~?/.", each) for each in value)
    if key == "gpus_per_worker":
        return bool(0 <= value < 1 or value == int(value) >= 1)  # Ray shares one GPU, or grants whole ones
    if key in _ABOVE_ZERO:
        return bool(value == "auto" or value > 0)
    return not isinstance(value, str) or bool(value.strip())
