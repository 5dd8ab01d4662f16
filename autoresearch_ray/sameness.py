"""Whether a change can have any effect: one of a seed, a comment or white space alone is not worth an evaluation.

And whether Python can read what was changed at all.

In doubt a change has an effect: a GPU that measures in vain costs less than an idea that is refused. Python and JSON
are compared by what they say; other kinds of file line by line, as far as their kind allows.
"""

from __future__ import annotations

import ast
import json
import re
import threading
import warnings
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

LARGEST_BYTES = 1 << 20  # of a file that is looked into; a larger one is data


def no_effect(path: str, before: bytes | None, after: bytes | None) -> bool:
    """Whether `after` does in `path` what `before` does, but for a seed. None: there is no such file.

    Never raises, whatever the bytes are.
    """
    if before == after:
        return True
    if after is None or len(after) > LARGEST_BYTES or len(before or b"") > LARGEST_BYTES:
        return False
    if before is None:
        return path.endswith(_PYTHON) and _said(path, after) == _said(path, b"")
    return _said(path, before) == _said(path, after)


def unreadable(path: str, source: bytes) -> str:
    """Why Python cannot read a file, in one line; "" where it can, and of what is no Python. Never raises."""
    if not path.endswith(_RUNS) or len(source) > LARGEST_BYTES:
        return ""
    try:
        _parsed(source)
    except SyntaxError as error:
        text = f": {error.text}" if error.text and error.text.strip() else ""
        return " ".join(f"{path}, line {error.lineno or 1}: {error.msg}{text}".split())[:300]
    except (ValueError, RecursionError, MemoryError):  # nested too deep for this reader: another may read it
        return ""
    return ""


def _said(path: str, data: bytes) -> object:
    """What of a file counts."""
    kind = PurePosixPath(path).suffix.lower()
    try:
        if kind in _PYTHON:
            return "Python", _python(data)
        if kind == _JSON:
            return "JSON", repr(_unseeded(json.loads(data.decode())))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # it is read as plain text then
    try:
        text = data.decode()
    except ValueError:
        return data
    if "\0" in text:
        return data
    if kind in _PYTHON or kind == _JSON:
        return _without_seeds(_plain(text))
    known = next((each for each, endings in _KINDS if kind in endings), None)
    return _without_seeds(_lines(text, known)) if known else _plain(text)


# --- Seeds -----------------------------------------------------------------------------------------------------------

_SEED = re.compile(r"(?i:(?:.*[\W_])?(?:seed|random_state)|pythonhashseed)|.*[a-z0-9](?:Seed|RandomState)", re.DOTALL)
_SEED_IN_TEXT = re.compile(
    r"(?<![\w.-])((?:(?:[\w.-]{0,40}[_.-])?(?:seed|Seed|SEED|random_state|RANDOM_STATE)|[\w.-]{0,40}[a-z0-9]Seed|srand"
    r"|PYTHONHASHSEED)(?:[\"']?\s*(?::=|[:=(])\s*[\"']?|(?<=[-_]seed)\s+))"  # "--seed 1" as well
    r"[-+]?\d+(?![\w.])"
)


def _is_seed(name: object) -> bool:
    """SEED, data_seed, --seed, dataSeed; but neither seeds, nor seed_length, nor seedling."""
    return isinstance(name, str) and bool(_SEED.fullmatch(name))


def _is_number(value: object) -> bool:
    """Whether this may be the value of a seed."""
    if isinstance(value, str):
        return value.isdecimal()
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _without_seeds(lines: list[str]) -> list[str]:
    return [_SEED_IN_TEXT.sub(r"\1", each) for each in lines]


# --- Lines -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of files with certain endings."""

    comment: re.Pattern[str]  # a line that is nothing else; directives in the form of a comment are none
    spans: re.Pattern[str]  # starts a text over several lines, in which white space and "#" may mean something
    free: bool = True  # lines may start anywhere


_SETTINGS = Kind(re.compile(r"\s*#(?!!|\s*@)"), re.compile(r"[|>][-+\d]*$|\\$"), free=False)  # Hydra has "# @package"
_HASHES = Kind(re.compile(r"\s*#(?!!)"), re.compile(r"<<|\\$"))
_SLASHES = Kind(re.compile(r"\s*//(?!go:|export |\s*[@+])(?!.*\\$)"), re.compile(r"R\"|\\$"))
_KINDS = (
    (_SETTINGS, (".yaml", ".yml", ".ini", ".cfg", ".conf")),
    (_HASHES, (".sh", ".bash", ".toml")),
    (_SLASHES, (".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh", ".js", ".ts", ".java", ".go", ".rs")),
)
_QUOTES = "\"'`"


def _plain(text: str) -> list[str]:
    """All lines, without white space at their ends and without empty lines at the end of all."""
    lines = [_ended(each) for each in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _ended(line: str) -> str:
    """Without white space at the end, which means something behind a backslash alone."""
    bare = line.rstrip()
    return f"{bare} " if bare.endswith("\\") and line.removesuffix("\r") != bare else bare


def _lines(text: str, kind: Kind) -> list[str]:
    """The lines without comments and without white space that means nothing; all of it where text spans lines."""
    lines = _plain(text)
    kept = [each for each in lines if each and not kind.comment.match(each)]
    if any(kind.spans.search(each) or any(each.count(quote) % 2 for quote in _QUOTES) for each in kept):
        return lines
    return [_folded(each, free=kind.free) for each in kept]


def _folded(line: str, *, free: bool) -> str:
    """Runs of white space as one, but not beside quotes, nor at the start where indentation means something."""
    inner = line.lstrip()
    start = "" if free else line[: len(line) - len(inner)]
    return start + (inner if any(quote in inner for quote in _QUOTES) else " ".join(inner.split()))


# --- JSON ------------------------------------------------------------------------------------------------------------

_JSON = ".json"


def _unseeded(value: object) -> object:
    if isinstance(value, dict):
        return {key: 0 if _is_seed(key) and _is_number(each) else _unseeded(each) for key, each in value.items()}
    return [_unseeded(each) for each in value] if isinstance(value, list) else value


# --- Python ----------------------------------------------------------------------------------------------------------

_RUNS = ".py"
_PYTHON = (_RUNS, ".pyi")
_SCRIPT = re.compile(rb"^# /// \w+[ \t]*$(?:\r?\n#.*)*", re.MULTILINE)  # what `uv run` is to install stands in comments
_SEEDING = frozenset({"manual_seed_all", "seed_all", "seed_everything", "default_rng", "RandomState", "SeedSequence"})
_SEEDING_IN_FULL = frozenset({"Random", "random.Random", "random.PRNGKey", "random.key"})
# These hand on a number that they are given; it is a seed if it is bound to one, or if one is asked for by name.
_HANDS_ON = frozenset({"int", "field", "Field", "get", "getenv", "getattr", "setdefault", "add_argument", "option"})
_CLEAR = (ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.IfExp, ast.Tuple, ast.List)

_warnings = threading.Lock()  # their filters belong to the process, and lanes are threads


def _parsed(source: bytes) -> ast.Module:
    """A Python program as a tree. Raises what `ast.parse` raises, and never warns."""
    with _warnings, warnings.catch_warnings():  # of odd escapes in the candidate: no concern of ours
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _python(source: bytes) -> str:
    """The program that this is, without comments, docstrings and the values of seeds."""
    tree = _parsed(source)
    told = b"__doc__" in source or b"getdoc" in source
    for node in ast.walk(tree):
        _drop_idle(node, keep=told or _shows(node))
        _blank(node)
    return ast.dump(tree) + repr(_SCRIPT.findall(source))


def _shows(node: ast.AST) -> bool:
    """Whether a docstring may be read, as that of a tool by its decorator, or that of a class by its base."""
    if isinstance(node, ast.ClassDef):
        return bool(node.decorator_list or node.bases or node.keywords)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and bool(node.decorator_list)


def _drop_idle(node: ast.AST, *, keep: bool) -> None:
    """Without the statements that do nothing: `pass`, and constants that stand alone. `keep` the first one."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            first = 1 if keep and name == "body" else 0
            setattr(node, name, block[:first] + [each for each in block[first:] if not _idle(each)])


def _idle(statement: ast.stmt) -> bool:
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)


def _blank(node: ast.AST) -> None:
    """What `node` binds to a seed, or seeds with, is blanked."""
    blank = _Blank().visit
    match node:
        case ast.Assign(targets=targets) if any(map(_names_seed, targets)):
            node.value = blank(node.value)
        case ast.AnnAssign(target=target, value=ast.expr() as value) if _names_seed(target):
            node.value = blank(value)
        case ast.AugAssign(target=target) | ast.NamedExpr(target=target) if _names_seed(target):
            node.value = blank(node.value)
        case ast.keyword(arg=name) if _is_seed(name):
            node.value = blank(node.value)
        case ast.Dict(keys=keys):
            named = [isinstance(each, ast.Constant) and _is_seed(each.value) for each in keys]
            node.values = [blank(each) if seed else each for seed, each in zip(named, node.values, strict=True)]
        case ast.arguments():
            by_place = [*node.posonlyargs, *node.args]
            by_place = by_place[len(by_place) - len(node.defaults) :]
            pairs = zip(by_place, node.defaults, strict=True)
            node.defaults = [blank(each) if _is_seed(name.arg) else each for name, each in pairs]
            optional = zip(node.kwonlyargs, node.kw_defaults, strict=True)
            node.kw_defaults = [blank(each) if each and _is_seed(name.arg) else each for name, each in optional]
        case ast.Call(func=func) if _seeds(func):
            node.args = [blank(each) for each in node.args]
        case ast.Call() if any(isinstance(each, ast.Constant) and _is_seed(each.value) for each in node.args):
            blank(node)


def _names_seed(target: ast.expr) -> bool:
    if isinstance(target, ast.Subscript):
        return isinstance(target.slice, ast.Constant) and _is_seed(target.slice.value)
    return _is_seed(_last(target))


def _seeds(function: ast.expr) -> bool:
    last = _last(function)
    full = f"{_last(function.value)}.{last}" if isinstance(function, ast.Attribute) else last
    return _is_seed(last) or last in _SEEDING or full in _SEEDING_IN_FULL


def _last(name: ast.expr) -> str:
    """`b` of `b` and of `a.b`."""
    return name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""


class _Blank(ast.NodeTransformer):
    """Makes 0 of the numbers that a value is made of: by arithmetic, as a choice, as a default, or as the seed that the
    runner gives in the environment."""

    def visit(self, node: ast.AST) -> Any:
        number = node.operand if isinstance(node, ast.UnaryOp) else node
        if (isinstance(number, ast.Constant) and _is_number(number.value)) or _is_given(node):
            return ast.Constant(0)
        hands_on = isinstance(node, ast.Call) and _last(node.func) in _HANDS_ON
        default = isinstance(node, ast.keyword) and node.arg == "default"
        if not (hands_on or default or isinstance(node, _CLEAR)):
            return node
        seen = self.generic_visit(node)
        number_of = isinstance(seen, ast.Call) and _last(seen.func) == "int" and [ast.dump(each) for each in seen.args]
        return ast.Constant(0) if number_of == [ast.dump(ast.Constant(0))] else seen


def _is_given(node: ast.AST) -> bool:
    """Whether this reads the runner's seed: a constant in its place is only another seed."""
    if isinstance(node, ast.Subscript):
        key: ast.expr | None = node.slice
    else:
        reads = isinstance(node, ast.Call) and _last(node.func) in ("get", "getenv") and node.args
        key = node.args[0] if isinstance(node, ast.Call) and reads else None
    return isinstance(key, ast.Constant) and key.value == "AUTORESEARCH_SEED"
