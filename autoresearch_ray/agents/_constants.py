"""The constants of a Python program: found with `ast`, edited in place, byte for byte."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_ray.model import Scalar, Scope

_FILE_BYTES = 1 << 20  # larger files are data, not programs
_SMALLEST, _LARGEST = 1e-30, 2.0**50  # what lies outside is a sentinel or a mask, not a setting
_NUMBER = r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"


@dataclass(frozen=True, slots=True)
class Constant:
    """One `NAME = literal`. `start` and `end` are the bytes that an edit replaces: the literal, of `2**k` the k."""

    file: str
    name: str  # "<file>:<NAME>"
    value: Scalar
    start: int
    end: int
    power: bool  # written as 2**k
    comment: str  # what stands behind it on its line

    @property
    def choices(self) -> tuple[Scalar, ...]:
        """Both values of a boolean, or those that the comment lists as `a | b | c`, the present one among them."""
        if isinstance(self.value, bool):
            return (False, True)
        listed = re.search(r"[\w.+'\"-]+(?:\s*\|\s*[\w.+'\"-]+)+", self.comment)
        words = [each.strip().strip("'\"") for each in listed[0].split("|")] if listed else []
        try:
            values = tuple(dict.fromkeys(type(self.value)(each) for each in words))
        except ValueError:
            return ()
        powers = not self.power or all(float(each) in (2.0**k for k in range(51)) for each in values)
        return values if self.value in values and powers else ()

    @property
    def range(self) -> tuple[float, float, bool] | None:
        """The range that the comment states as `1e-4..1e-1` or `[8, 256]`, and whether it adds `log`."""
        stated = re.search(rf"{_NUMBER}\s*\.\.\s*{_NUMBER}|\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]", self.comment)
        if stated is None:
            return None
        low, high = (float(each) for each in stated.groups() if each is not None)
        usable = low < high and _usual(low) and _usual(high)
        return (low, high, re.search(r"\blog\b", self.comment) is not None) if usable else None


def find(checkout: Path, scope: Scope) -> list[Constant]:
    """The constants at the top level of the Python files in scope: in capitals, assigned once, a scalar literal.

    A string counts only if its comment lists its choices. A name with SEED in it and a comment that starts with `fixed`
    keep a constant out. Files that do not parse have none.
    """
    return [each for file in _sources(checkout, scope) for each in _in_file(file, (checkout / file).read_bytes())]


def edit(path: Path, changes: Sequence[tuple[Constant, Scalar]]) -> None:
    """Replace the literals of these constants of one file, and not a byte more."""
    data = path.read_bytes()
    for constant, value in sorted(changes, key=lambda each: each[0].start, reverse=True):
        if isinstance(value, str):
            quote = "'" if data[constant.start : constant.start + 1] == b"'" else '"'
            text = f"{quote}{value}{quote}"
        else:
            text = repr(int(value).bit_length() - 1 if constant.power else value)
        data = data[: constant.start] + text.encode() + data[constant.end :]
    path.write_bytes(data)


def _sources(checkout: Path, scope: Scope) -> Iterator[str]:
    """The Python files in scope, by their path below the checkout. Links are not followed."""
    for folder, folders, files in os.walk(checkout):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "__pycache__")))
        for name in sorted(files):
            path = Path(folder, name)
            file = path.relative_to(checkout).as_posix()
            if name.endswith(".py") and scope.allows(file) and path.is_file() and not path.is_symlink():
                yield file


def _in_file(file: str, data: bytes) -> Iterator[Constant]:
    if len(data) > _FILE_BYTES:
        return
    try:
        tree = ast.parse(data.decode())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    assigned = [each.id for each in ast.walk(tree) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=node):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as node):
                pass
            case _:
                continue
        literal = _literal(node)
        if literal is None or not re.fullmatch("[A-Z][A-Z0-9_]*", name) or assigned.count(name) != 1:
            continue
        value, exact = literal
        last = (node.end_lineno or node.lineno) - 1
        rest = data[starts[last] + (node.end_col_offset or 0) : starts[last + 1]].decode()
        comment = re.match(r"[\s)]*#\s*(.*)", rest)
        words = comment[1].strip() if comment else ""
        if last != node.lineno - 1 or "SEED" in name or words.lower().startswith("fixed"):
            continue
        line_start = starts[exact.lineno - 1]
        start, end = line_start + exact.col_offset, line_start + (exact.end_col_offset or 0)
        constant = Constant(file, f"{file}:{name}", value, start, end, power=exact is not node, comment=words)
        if not isinstance(value, str) or constant.choices:
            yield constant


def _literal(node: ast.expr) -> tuple[Scalar, ast.expr] | None:
    """The value of a literal and the part of it that an edit replaces; None for anything but a scalar of usual size."""
    match node:
        case ast.Constant(value=bool() | str() as value):
            return value, node
        case ast.Constant(value=int() | float() as number):
            return (number, node) if _usual(number) else None
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return (-number, node) if _usual(number) and not isinstance(number, bool) else None
        case ast.BinOp(left=ast.Constant(value=int(2)), op=ast.Pow(), right=ast.Constant(value=int(k)) as exponent):
            return (1 << k, exponent) if 0 <= k <= 48 and not isinstance(k, bool) else None
    return None


def _usual(number: float) -> bool:
    return number == 0 or _SMALLEST <= abs(number) <= _LARGEST
