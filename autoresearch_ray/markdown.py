"""Markdown as program.md uses it: lines with their numbers, sections, items, `Key: value` fields and code spans.

The reader goes line by line. Text inside code fences and HTML comments is kept but not interpreted. What the words mean
is decided in `sections.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoresearch_ray.errors import ProgramError

SPAN = r"(?<!`)(?P<ticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)"  # code between backticks, as many on each side

_HEADING = re.compile(r" {0,3}(#{1,3})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"[ \t]*(`{3,}(?=[^`]*$)|~{3,})")
_BULLET = re.compile(r"\s*(?:[-*+•]|[0-9]+[.)])\s+(.*)$")
_FIELD = re.compile(r"[*_]*(?P<key>[A-Za-z][A-Za-z -]*?)[*_]*\s*:[*_]*\s*(?P<value>.*)$")
# A bracket that ends a bare command is a remark, unless a shell operator before it makes it a subshell.
_REMARK = re.compile(r"(?<![;&|!({=$\\\s])\s+\([^()&|;<>$`'\"]*\)$")


@dataclass(frozen=True, slots=True)
class Line:
    """One line and where it stands: `number` is 1-based in the file as written, front matter included."""

    file: str
    number: int
    text: str
    kind: Literal["text", "fence", "code", "comment"] = "text"

    def wrong(self, message: str, hint: str) -> ProgramError:
        return ProgramError(message, hint, file=self.file, line=self.number)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the lines below it, up to the next section."""

    title: str
    heading: Line
    lines: tuple[Line, ...]

    @property
    def name(self) -> str:
        return section_name(self.title)

    @property
    def body(self) -> str:
        return "\n".join(each.text for each in self.lines).strip()


@dataclass(frozen=True, slots=True)
class Item:
    """A bullet or a plain line. `indent` is counted in characters."""

    line: Line
    text: str
    indent: int
    bullet: bool


@dataclass(frozen=True, slots=True)
class Field:
    """The value of a `Key: value` line; of a code block (`block`) the lines as they are."""

    line: Line
    value: str
    block: bool = False
    more: str = ""  # what indented lines right below add to it: to most values no more than a remark
    span: Sequence[int] = ()  # the numbers of the lines that it stands on, that of its key included


def lines(text: str, file: str, first: int = 1) -> list[Line]:
    """The lines of `text`, whose first stands on line `first` of the file. Raises on an unclosed fence or comment."""
    found: list[Line] = []
    opened: Line | None = None  # the fence or comment that we are in
    mark = ""
    for number, each in enumerate(text.split("\n"), first):
        if opened is None:
            fence = _FENCE.match(each)
            if fence:
                opened, mark = Line(file, number, each, "fence"), fence[1]
                found.append(opened)
            elif each.lstrip().startswith("<!--"):
                found.append(Line(file, number, each, "comment"))
                opened = None if "-->" in each else found[-1]
            else:
                found.append(Line(file, number, each))
        elif opened.kind == "comment":
            found.append(Line(file, number, each, "comment"))
            opened = None if "-->" in each else opened
        else:
            end = each.strip()
            closes = len(end) >= len(mark) and not end.strip(mark[0])
            found.append(Line(file, number, each, "fence" if closes else "code"))
            opened = None if closes else opened
    if opened is not None:
        what, close = ("comment", "-->") if opened.kind == "comment" else ("code block", mark)
        raise opened.wrong(f"this {what} is never closed", f"end it with a line {close}")
    return found


def outline(page: Sequence[Line], names: Sequence[str], prose: Sequence[str]) -> list[Section]:
    """The sections in order. One of the `names` ends another, whatever its level, except that `prose` keeps its own."""
    heads = [
        (index, len(match[1]), match[2])
        for index, line in enumerate(page)
        if line.kind == "text" and (match := _HEADING.match(line.text))
    ]
    sections: list[Section] = []
    covered = 0  # headings before this line belong to prose
    for position, (index, level, title) in enumerate(heads):
        if index < covered:
            continue
        closed = section_name(title) in prose
        end = next(
            (
                at
                for at, deep, other in heads[position + 1 :]
                if deep <= level or (not closed and section_name(other) in names)
            ),
            len(page),
        )
        sections.append(Section(title, page[index], tuple(page[index + 1 : end])))
        covered = end if closed else covered
    return sections


def section_name(title: str) -> str:
    """A title as it is compared: lower case, without emphasis or a colon; "evaluation" is "eval"."""
    name = title.strip("*_`: ").lower()
    return "eval" if name == "evaluation" else name


def items(section: Section) -> Iterator[Item]:
    """Bullets and plain lines; an indented line right below a bullet continues it."""
    item: Item | None = None
    for line in section.lines:
        bullet = _BULLET.match(line.text)
        plain = line.kind == "text" and line.text.strip() and not _HEADING.match(line.text)
        if item is not None and item.bullet and plain and bullet is None and indent(line.text) >= 2:
            item = Item(item.line, f"{item.text} {line.text.strip()}", item.indent, True)
            continue
        if item is not None:
            yield item
        text = (bullet[1] if bullet else line.text).strip()
        item = Item(line, text, indent(line.text), bullet is not None) if plain else None
    if item is not None:
        yield item


def indent(text: str) -> int:
    """How far a line stands in, in characters."""
    return len(text) - len(text.lstrip())


def fields(section: Section, keys: Mapping[str, str]) -> tuple[dict[str, list[Field]], list[Field]]:
    """The `Key: value` lines of a section, by `keys[key in lower case]`, and the keys that are none of these.

    A value may stand on its own on the next line, or in a code block below; bullets below are one value each.
    """
    found: dict[str, list[Field]] = {}
    others: list[Field] = []
    covered = 0  # lines up to this number belong to a value
    for index, line in enumerate(section.lines):
        match = _FIELD.match(_plain(line))
        if line.kind != "text" or line.number <= covered or match is None:
            continue
        key, value, below = _key(match, keys), match["value"].strip(), section.lines[index + 1 :]
        if key is None:
            others.append(Field(line, match["key"]))
            continue
        values = [Field(line, value, more=_more(line, below), span=_span(line))] if value else _below(line, below, keys)
        found.setdefault(key, []).extend(values)
        covered = values[-1].span[-1]
    return found, others


def _plain(line: Line) -> str:
    bullet = _BULLET.match(line.text)
    return bullet[1] if bullet else line.text.lstrip()


def _key(match: re.Match[str] | None, keys: Mapping[str, str]) -> str | None:
    return keys.get(match["key"].lower().replace("-", " ")) if match else None


def _span(line: Line, last: Line | None = None) -> range:
    return range(line.number, (last or line).number + 1)


def _more(line: Line, below: Sequence[Line]) -> str:
    more: list[str] = []
    for each in below:
        goes_on = each.kind == "text" and each.text.strip() and indent(each.text) > max(1, indent(line.text))
        if not goes_on or any(pattern.match(each.text.lstrip()) for pattern in (_BULLET, _HEADING, _FIELD)):
            break
        more.append(each.text.strip())
    return " ".join(more)


def _below(line: Line, below: Sequence[Line], keys: Mapping[str, str]) -> list[Field]:
    """The value that follows an empty `Key:` line, or several of them."""
    rest = [each for each in below if each.kind != "comment"]
    while rest and not rest[0].text.strip():
        rest.pop(0)
    if not rest or _HEADING.match(rest[0].text) or _key(_FIELD.match(rest[0].text.lstrip(" -*+")), keys):
        return [Field(line, "", span=_span(line))]
    if rest[0].kind == "text":
        listed: list[Field] = []
        for item in items(Section("", line, tuple(rest))):
            if not item.bullet or item.indent < indent(rest[0].text) or _key(_FIELD.match(item.text), keys):
                break
            listed.append(Field(item.line, item.text, span=_span(line, item.line)))
        return listed or [Field(line, rest[0].text.strip(), span=_span(line, rest[0]))]
    margin = indent(rest[0].text)
    code: list[str] = []
    for each in rest[1:]:
        if each.kind != "code":
            break
        code.append(each.text[min(margin, indent(each.text)) :])
    return [Field(line, "\n".join(code), block=True, span=_span(line, rest[len(code) + 1]))]


def code(field: Field, example: str) -> str:
    """The command in a field, byte for byte: a code block, the code span it begins with, or the bare text.

    What follows a code span is a remark and is dropped, as are brackets at the end of bare text. Raises when the field
    is empty or when it is not clear where the command ends.
    """
    if not field.value.strip():
        raise field.line.wrong("there is nothing after the colon", f"for example: {example}")
    if field.block:
        return field.value
    if not field.value.startswith("`"):
        return _REMARK.sub("", field.value)
    match = re.match(SPAN, field.value)
    if match is None:
        raise field.line.wrong("a backtick is not closed", f"for example: {example}")
    rest = field.value[match.end() :].lstrip()
    if "`" in rest or rest.startswith(tuple("&|;<>")):
        raise field.line.wrong(
            "it is not clear where the command ends", "put all of it in one pair of backticks, or in a code block"
        )
    inner = match["code"]
    if inner.startswith(" ") and inner.endswith(" "):
        inner = inner[1:-1]  # as in CommonMark, so that code can begin or end with a backtick
    if not inner.strip():
        raise field.line.wrong("the command is empty", f"for example: {example}")
    return inner
