"""A model's reply to texts: SEARCH/REPLACE blocks and whole files, applied all or not at all. Pure.

What is not plain is refused, with words that help to say it right. A SEARCH must fit exactly one place of the file as
it was: letter by letter, or but for white space at the ends of lines, or but for one indentation that all lines share.
There is no rung below that: what is merely alike is another place. What the file had keeps its line ends, its byte
order mark and, where a block only quotes a line, every byte of it.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_ray.agents._sound import unsound
from autoresearch_ray.brief import one_line

WHOLE_LINES = 300  # of a file that may be replaced as a whole: in longer ones models leave things out
_BLOCK_LINES = 2000  # of a SEARCH and its REPLACE together: they are compared line by line
_LINES, _BLOCKS = 4000, 200  # of a reply: of 7,000 blocks in a file of 8,000 lines the places were looked for for 40 s
_ALIKE_CHARS = 400  # of a line that is compared letter by letter
_SHRINK_LINES = 20  # a file of fewer may be rewritten freely; of a longer one half the lines must stay

_WORDS = 2000  # characters of a refusal: it quotes what the model wrote

_HEAD = re.compile(r"\s*<{5,9} ?(SEARCH|FILE)\b>?:?\s*(.*?)\s*")
_DIVIDER = re.compile(r"\s*={4,}\s*")
_TAIL = re.compile(r"\s*>{5,9} ?(REPLACE|FILE)\b\s*")
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Edited:
    """The new texts of the files that change, by path, and what the reply says beside its blocks."""

    texts: Mapping[str, str]
    prose: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing of the reply was applied, in words for the model."""

    words: str


def applied(reply: str, files: Mapping[str, str], creatable: Callable[[str], str]) -> Edited | Refusal:
    """What the reply makes of `files`, which is all that the model was shown, by path.

    `creatable` says why a path that is not among them may not be made, or "".
    """
    try:
        blocks, prose = _read(reply, files)
        return Edited(_made(blocks, files, creatable), prose)
    except _RefusedError as error:
        return Refusal(one_line(str(error), _WORDS))


class _RefusedError(ValueError):
    """Leaves this module as a `Refusal`."""


@dataclass(frozen=True, slots=True)
class _Block:
    path: str  # "": it names none
    search: tuple[str, ...] | None  # lines; None: `replace` is the whole file
    replace: tuple[str, ...]

    @property
    def makes(self) -> bool:
        """Whether it is the text of a new file."""
        return not any(each.strip() for each in self.search or ())


# --- Reading ---------------------------------------------------------------------------------------------------------


def _read(reply: str, known: Collection[str]) -> tuple[list[_Block], str]:
    """The blocks of a reply, each once, and what stands around them."""
    _, closed, said = reply.rpartition("</think>")
    if not closed and said.lstrip().startswith("<think>"):
        raise _RefusedError("the reply ends in the middle of a thought")
    lines = said.replace("\r\n", "\n").split("\n")
    blocks: list[_Block] = []
    prose: list[str] = []
    since = at = 0  # `since`: where in `prose` stands what came after the last block
    while at < len(lines):
        head = _HEAD.fullmatch(lines[at])
        if head is None:
            if _TAIL.fullmatch(lines[at]):
                raise _RefusedError(f"`{lines[at].strip()}` ends no block that was begun")
            prose.append(lines[at])
            at += 1
            continue
        end = next((i for i in range(at + 1, len(lines)) if _HEAD.fullmatch(lines[i]) or _TAIL.fullmatch(lines[i])), at)
        tail = _TAIL.fullmatch(lines[end])
        if tail is None or (head[1] == "FILE") != (tail[1] == "FILE"):
            wanted = "REPLACE" if head[1] == "SEARCH" else "FILE"
            raise _RefusedError(
                f"block {len(blocks) + 1} begins with `{lines[at].strip()}` and has no `>>>>>>> {wanted}`"
            )
        before = [each for each in prose[since:] if each.strip() and not _FENCE.match(each)]
        named = head[2] or (before[-1] if before else "")
        blocks.append(_block(_path_in(named, known), head[1], lines[at + 1 : end], len(blocks) + 1))
        since, at = len(prose), end + 1
    if not blocks:
        raise _RefusedError(
            "it holds no block that begins with `<<<<<<< SEARCH` or `<<<<<<< FILE` on a line of its own"
        )
    lines_in_all = sum(len(each.search) + len(each.replace) for each in blocks if each.search is not None)
    if len(blocks) > _BLOCKS or lines_in_all > _LINES:
        raise _RefusedError(f"it has more than {_BLOCKS} blocks, or {_LINES} lines in them: quote only what changes")
    return list(dict.fromkeys(blocks)), "\n".join(prose)


def _block(path: str, kind: str, lines: Sequence[str], number: int) -> _Block:
    if kind == "FILE":
        return _Block(path, None, tuple(lines))
    if len(lines) > _BLOCK_LINES:
        raise _RefusedError(f"block {number} has more than {_BLOCK_LINES} lines: quote only what changes")
    dividers = [i for i, each in enumerate(lines) if _DIVIDER.fullmatch(each)]
    if len(dividers) != 1:
        raise _RefusedError(
            f"block {number} must have one line `=======`, and no other line of equals signs; it has {len(dividers)}"
        )
    return _Block(path, tuple(lines[: dividers[0]]), tuple(lines[dividers[0] + 1 :]))


def _path_in(line: str, known: Collection[str]) -> str:
    """The path that a line consists of, but for marks of Markdown; "" if it is something else."""
    words = re.sub(r"(?i)(?:file(?:name)?|path)\s*:[\s`*]*", "", line.strip(" \t`*#:\"'"), count=1)
    plain = words in known or re.fullmatch(r"\S*[./\\]\S*", words)
    return words.removeprefix("./") if plain else ""


# --- Applying --------------------------------------------------------------------------------------------------------


def _made(blocks: Iterable[_Block], files: Mapping[str, str], creatable: Callable[[str], str]) -> dict[str, str]:
    """The texts that change, in the order in which the reply names them."""
    by_path: dict[str, list[_Block]] = {}
    for block in blocks:
        by_path.setdefault(_target(block, files), []).append(block)
    texts: dict[str, str] = {}
    for path, edits in by_path.items():
        old = files.get(path)
        if old is None:
            texts[path] = _created(path, edits, {*files, *by_path}, creatable)
        elif any(each.search is None for each in edits) or (old == "" and edits[0].makes):
            texts[path] = _whole(path, old, edits)
        else:
            texts[path] = _replaced(path, old, edits)
        written = [line for each in edits for line in each.replace]
        if why := unsound(path, old or "", texts[path], written):
            raise _RefusedError(why)
    return texts


def _target(block: _Block, files: Mapping[str, str]) -> str:
    """The path of a block. One that names none belongs to the only file that its SEARCH stands in."""
    path = block.path
    if not path and block.search is not None and not block.makes:
        standing = [each for each, text in files.items() if _fits(text.split("\n"), block.search, str.strip)]
        candidates = standing or list(files)
        path = candidates[0] if len(candidates) == 1 else ""
    if not path:
        raise _RefusedError("a block names no file: put the path on a line of its own above it")
    if path.startswith("/") or "\\" in path or _DRIVE.match(path) or {"", ".", ".."} & set(path.split("/")):
        raise _RefusedError(f"{path!r} is not a path from the folder of the program")
    return path


def _created(path: str, edits: Sequence[_Block], others: Collection[str], creatable: Callable[[str], str]) -> str:
    if why := creatable(path):
        raise _RefusedError(why)
    if len(edits) != 1 or not edits[0].makes:
        raise _RefusedError(f"there is no {path}; a new file is one block, with an empty SEARCH")
    if any(each.startswith(f"{path}/") or path.startswith(f"{each}/") for each in others):
        raise _RefusedError(f"{path} would be a file and a folder")
    return _joined(edits[0].replace, "\n", final=True)


def _whole(path: str, old: str, edits: Sequence[_Block]) -> str:
    lines = [each for each in old.split("\n") if each.strip()]
    if len(edits) != 1:
        raise _RefusedError(f"{path} is replaced as a whole, and by another block, too")
    if old.count("\n") > WHOLE_LINES:
        raise _RefusedError(f"{path} has more than {WHOLE_LINES} lines: change it with SEARCH/REPLACE blocks")
    kept = (Counter(map(str.strip, lines)) & Counter(map(str.strip, edits[0].replace))).total()
    if len(lines) > _SHRINK_LINES and 2 * kept < len(lines):
        raise _RefusedError(f"of {path} less than half would be left: delete that much with SEARCH/REPLACE blocks")
    ends = set(re.findall(r"\r?\n", old))
    if len(ends) > 1:
        raise _RefusedError(f"{path} has line ends of two kinds: change it with SEARCH/REPLACE blocks")
    text = _joined(edits[0].replace, ends.pop() if ends else "\n", final=old.endswith("\n") or not old)
    return text if not old.startswith("\ufeff") else "\ufeff" + text.removeprefix("\ufeff")


def _joined(lines: Sequence[str], end: str, *, final: bool) -> str:
    """Lines to a text, without blank ones at its end."""
    text = "\n".join(lines).rstrip("\n")
    return (text + "\n" * bool(final and text)).replace("\n", end)


def _replaced(path: str, old: str, edits: Sequence[_Block]) -> str:
    """The text after all of the blocks, each of which is found in the text as it was."""
    mark, body = ("\ufeff", old[1:]) if old.startswith("\ufeff") else ("", old)
    lines = [each for each in re.split(r"(?<=\n)", body) if each]
    bare = [re.sub(r"\r?\n\Z", "", each) for each in lines]
    usual = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    found = []
    for block in edits:
        assert block.search is not None
        if block.makes:
            raise _RefusedError(f"{path} exists: a SEARCH must quote the lines that are to change")
        start, search, replace = _place(path, bare, block.search, block.replace)
        if search == replace:
            raise _RefusedError(f"SEARCH and REPLACE of a block for {path} are the same")
        end = lines[start][len(bare[start]) :] or usual
        new: list[str] = []
        for what, i, j, k, n in difflib.SequenceMatcher(None, search, replace, autojunk=False).get_opcodes():
            new += lines[start + i : start + j] if what == "equal" else [each + end for each in replace[k:n]]
        found.append((start, start + len(search), new))
    found.sort(key=lambda each: each[:2])
    for (_, stop, _), (start, _, _) in itertools.pairwise(found):
        if start < stop:
            raise _RefusedError(f"two blocks change line {start + 1} of {path}: make them one, or quote less")
    for start, stop, new in reversed(found):
        lines[start:stop] = new
    lines = [each if each.endswith("\n") else each + usual for each in lines]
    text = "".join(lines)
    return mark + (text if body.endswith("\n") else re.sub(r"\r?\n\Z", "", text))


# --- Where a block belongs -------------------------------------------------------------------------------------------

_Found = tuple[int, Sequence[str], Sequence[str]]  # the first line, and SEARCH and REPLACE as they read there


def _place(path: str, lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> _Found:
    """The only place where a SEARCH fits, on the first rung on which it fits anywhere."""
    for how, found in _rungs(path, lines, search, replace):
        if len(found) > 1:
            places = ", ".join(str(at + 1) for at, _, _ in found[:5])
            raise _RefusedError(
                f"a SEARCH fits {len(found)} places of {path}{how} (lines {places}): quote more lines around it"
            )
        if found:
            return found[0]
    raise _RefusedError(f"a SEARCH is not in {path}. {_nearest(lines, search)}")


def _rungs(
    path: str, lines: Sequence[str], search: Sequence[str], replace: Sequence[str]
) -> Iterator[tuple[str, list[_Found]]]:
    """The ways in which a SEARCH may fit, the strictest first, with the places where it does."""
    yield "", [(at, search, replace) for at in _fits(lines, search)]
    yield " but for the ends of lines", [(at, search, replace) for at in _fits(lines, search, str.rstrip)]
    search, replace = _trimmed(search, replace)
    yield " but for blank lines around it", [(at, search, replace) for at in _fits(lines, search, str.rstrip)]
    yield " but for its indentation", list(_shifted(path, lines, search, replace))


def _fits(lines: Sequence[str], search: Sequence[str], key: Callable[[str], str] = str) -> list[int]:
    wanted, given = list(map(key, search)), list(map(key, lines))
    return [at for at in range(len(given) - len(wanted) + 1) if given[at : at + len(wanted)] == wanted]


def _trimmed(search: Sequence[str], replace: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Both without the blank lines that both begin or end with."""
    while search and replace and not search[0].strip() and not replace[0].strip():
        search, replace = search[1:], replace[1:]
    while search and replace and not search[-1].strip() and not replace[-1].strip():
        search, replace = search[:-1], replace[:-1]
    return search, replace


def _shifted(path: str, lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Iterable[_Found]:
    """Where SEARCH fits if all of its lines move by one indentation, and REPLACE with it."""
    first = next(i for i, each in enumerate(search) if each.strip())
    for at in _fits(lines, search, str.strip):
        wanted, given = _indent(lines[at + first]), _indent(search[first])
        add = wanted.removesuffix(given) if wanted.endswith(given) else ""
        cut = given.removesuffix(wanted) if given.endswith(wanted) else ""
        moved = [_moved(each, add, cut) or "" for each in search]
        if [each.rstrip() for each in moved] != [each.rstrip() for each in lines[at : at + len(search)]]:
            continue
        if not path.endswith(".py") and max(map(_depth, replace), default=0) > max(map(_depth, search)):
            raise _RefusedError(f"it is not clear how deep a REPLACE for {path} is meant: indent it as the file")
        moving = [_moved(each, add, cut) for each in replace]
        if any(each is None for each in moving):
            raise _RefusedError(
                f"a SEARCH for {path} is indented too far, and its REPLACE is not: indent both as the file"
            )
        yield at, moved, [each or "" for each in moving]


def _moved(line: str, add: str, cut: str) -> str | None:
    """A line with another indentation; None if it has less than it is to lose."""
    if not line.strip():
        return ""
    return add + line.removeprefix(cut) if line.startswith(cut) else None


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _depth(line: str) -> int:
    return len(_indent(line)) if line.strip() else 0


def _nearest(lines: Sequence[str], search: Sequence[str]) -> str:
    """Of the first lines of a SEARCH that are not in the file, those of the file that are most alike."""
    there = dict.fromkeys(each.strip() for each in lines)
    short = [each for each in there if len(each) <= _ALIKE_CHARS]
    missing = [each.strip() for each in search if each.strip() and each.strip() not in there]
    if not missing:
        return "All of its lines are in the file, but not one after the other like that: quote without a gap."
    words = []
    for each in missing[:3]:
        near = difflib.get_close_matches(each[:_ALIKE_CHARS], short, n=2, cutoff=0.6)
        alike = " or ".join(f"`{one_line(line)}`" for line in near) or "nothing like it"
        words.append(f"The file has no line `{one_line(each)}`; it has {alike}.")
    return " ".join(words)
