"""What a text that a model wrote must be before it stands in a file: whole, readable by its parser, visible. Pure."""

from __future__ import annotations

import ast
import json
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping

from autoresearch_ray.brief import one_line

_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})")
_COMMENT = r"(?:\#|//|--|;|%|/\*|<!--)"
_ELISION = re.compile(
    rf"""
    \s* {_COMMENT}? \s* [\[(]? (?:\.{{3}} | …) [\])]? \s* (?: \*/ | --> )?
    | \s* {_COMMENT} \s* [\[(]? (?:\.{{3}} | …) .*
    | \s* {_COMMENT} \W* (?:keep\s+)? (?:the\s+)? (?:rest|remainder|remaining|existing|same|unchanged) \b .*
        \b (?:code|file|function|class|method|body|lines?|implementation|unchanged|before|above|omitted) \b .*
    """,
    re.VERBOSE | re.IGNORECASE,
)
_HOLE = re.compile(r"[({]\s*(?:\.{3}|…)\s*[)}]|(?<![\w\])])\[\s*(?:\.{3}|…)\s*\]")  # f(...), but not x[...]
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp"})  # categories of characters
_PLAIN = frozenset("\t\n\r\f ")


def unsound(path: str, old: str, new: str, written: Iterable[str]) -> str:
    """Why `new` may not replace `old` in the file `path`, for the model; "" if it may. `written` are its own lines."""
    if new == old:
        return f"{path} would stay as it is"
    had = {each.strip() for each in old.split("\n")}
    for line in written:
        if line.strip() in had:
            continue
        if _ELISION.fullmatch(line) or _HOLE.search(line):  # `...` is valid Python, and would be measured
            return f"`{one_line(line)}` seems to stand for code that was left out: write all of it"
        if _FENCE.match(line) and not path.endswith((".md", ".rst")):
            return f"`{one_line(line)}` would stand in {path}: a fence goes around a block, not inside"
    unseen = {each for each in set(new) - set(old) - _PLAIN if unicodedata.category(each) in _UNSEEN}
    if unseen:
        names = ", ".join(sorted(f"U+{ord(each):04X}" for each in unseen))
        return f"{path} would hold characters that cannot be seen: {names}"
    why = _unparsable(path, new)
    return f"{path} would not parse: {why}" if why and not _unparsable(path, old) else ""


def _unparsable(path: str, text: str) -> str:
    """What the parser for files of this name has against a text; "" if nothing, or if there is no such parser."""
    parse = _PARSERS.get(path.rpartition(".")[2])
    try:
        if parse is not None and text:
            parse(text.removeprefix("\ufeff"))
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}: `{one_line(error.text or '')}`"
    except (ValueError, RecursionError, MemoryError) as error:
        return one_line(str(error)) or type(error).__name__
    return ""


def _toml(text: str) -> object:
    return tomllib.loads(text.replace("\r\n", "\n"))


_PARSERS: Mapping[str, Callable[[str], object]] = {
    "py": ast.parse,
    "pyi": ast.parse,
    "json": json.loads,
    "ipynb": json.loads,
    "toml": _toml,
}
