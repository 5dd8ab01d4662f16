"""What becomes of replies that are not quite right: `python -m benchmarks.edits`.

The same edits of real files, each written in every way of `KINDS`: well, and broken in the ways in which models break
them. An edit is applied as it was meant, or refused, and nothing is written; whatever else it was would be wrong. It
asks no model: it says nothing of how often a model breaks its reply.
"""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from autoresearch_ray.agents._edits import Refusal, applied
from benchmarks import conclude, machine

_SHARED = "from __future__ import annotations"
_FOLDER = Path(__file__).parents[1] / "examples" / "nanochat"
FILES: Mapping[str, str] = {name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("train.py", "trainer.py")}


@dataclass(frozen=True)
class Meant:
    """An edit: the lines from `at` on of a file, and what they are to become. Nobody else quotes them as `search`."""

    path: str
    at: int
    search: tuple[str, ...]
    replace: tuple[str, ...]

    @property
    def texts(self) -> dict[str, str]:
        """The files that it changes."""
        lines = FILES[self.path].split("\n")
        lines[self.at : self.at + len(self.search)] = self.replace
        return {self.path: "\n".join(lines)}

    def block(self, *, search: str | None = None, replace: str | None = None, path: str | None = None) -> str:
        old = "\n".join(self.search) if search is None else search
        new = "\n".join(self.replace) if replace is None else replace
        named = self.path if path is None else path
        return f"{named}\n```python\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n```\n"

    @property
    def old(self) -> str:
        return "\n".join(self.search)

    @property
    def new(self) -> str:
        return "\n".join(self.replace)


def edits(count: int, seed: int = 0) -> Iterator[Meant]:
    """Edits of one to four lines, one of which gets another line before it, at `count` places drawn by chance."""
    chance = random.Random(seed)
    for _ in range(count):
        while True:
            path = chance.choice(sorted(FILES))
            lines = FILES[path].split("\n")
            size = chance.randint(1, 4)
            at = chance.randrange(len(lines) - size)
            search = lines[at : at + size]
            if not (search[0].strip() and search[-1].strip()) or _times(search) != 1:
                continue
            indent = search[-1][: len(search[-1]) - len(search[-1].lstrip())]
            meant = Meant(path, at, tuple(search), (*search[:-1], f"{indent}pass  # {chance.random()}", search[-1]))
            if _statements(meant.texts[path]) == _statements(FILES[path]) + 1:  # not inside a string or a bracket
                yield meant
                break


def _times(search: list[str]) -> int:
    """In how many places of all files these lines stand, whatever their indentation."""
    wanted = [each.strip() for each in search]
    bare = [[each.strip() for each in text.split("\n")] for text in FILES.values()]
    return sum(lines[at : at + len(wanted)] == wanted for lines in bare for at in range(len(lines)))


def _statements(text: str) -> int:
    """How many `pass` a program has; -1 if it is none."""
    try:
        return sum(isinstance(each, ast.Pass) for each in ast.walk(ast.parse(text)))
    except SyntaxError:
        return -1


def _lines(text: str, change: Callable[[str], str]) -> str:
    return "\n".join(change(each) if each.strip() else each for each in text.split("\n"))


def _moved(edit: Meant, change: Callable[[str], str]) -> str:
    return edit.block(search=_lines(edit.old, change), replace=_lines(edit.new, change))


def _other(edit: Meant) -> str:
    return next(each for each in FILES if each != edit.path)


def _later(edit: Meant) -> str:
    """A line further down, or the first one."""
    lines = FILES[edit.path].split("\n")
    return next((each for each in lines[edit.at + 6 :] if each.strip() and each != lines[edit.at + 1]), lines[0])


def _first_twice(path: str) -> str:
    """A line of a file that stands there more than once."""
    count = Counter(each for each in FILES[path].split("\n") if len(each.strip()) > 3)
    return next(line for line, times in count.items() if times > 1)


def _doubled(edit: Meant) -> str:
    line = _first_twice(edit.path)
    return edit.block() + edit.block(search=line, replace=line + "  # both")


def _word_off(line: str) -> str:
    """The line with its last letter or digit another one."""
    return re.sub(r"(\w)(\W*)$", lambda found: ("q" if found[1] != "q" else "k") + found[2], line)


# What is meant can be told beyond doubt: applied, letter by letter.
APPLIED: Mapping[str, Callable[[Meant], str]] = {
    "as asked": lambda e: f"HYPOTHESIS: it helps\n\n{e.block()}\nidea: a line\n",
    "no fence": lambda e: e.block().replace("```python\n", "").replace("```\n", ""),
    "a fence of another language": lambda e: e.block().replace("```python", "~~~diff").replace("```", "~~~"),
    "a fence that is never closed": lambda e: e.block().rstrip("`\n"),
    "the path inside the fence": lambda e: "```\n" + e.block().replace("```python\n", ""),
    "the path behind SEARCH": lambda e: e.block(path="").replace("SEARCH", f"SEARCH {e.path}"),
    "the path in Markdown": lambda e: e.block(path=f"### **File:** `./{e.path}`"),
    "no path": lambda e: e.block(path=""),
    "line ends of Windows": lambda e: e.block().replace("\n", "\r\n"),
    "white space at the ends of lines": lambda e: e.block(search=_lines(e.old, lambda line: line + "  \t")),
    "blank lines around": lambda e: e.block(search=f"\n\n{e.old}\n", replace=f"\n\n{e.new}\n"),
    "four blanks too many": lambda e: _moved(e, lambda line: "    " + line),
    "the block in a list": lambda e: _lines(e.block(), lambda line: "  " + line),
    "nine signs for seven": lambda e: re.sub(r"(?m)^([<=>])\1{6}", r"\1" * 9, e.block()),
    "the block twice": lambda e: e.block() + "To sum up:\n\n" + e.block(),
    "a thought before": lambda e: f"<think>\n{e.block(replace='wrong')}\nNo.\n</think>\n{e.block()}",
    "an example before": lambda e: f"It is like this:\n\n```python\nx = 1\n```\n\n{e.block()}",
    "two blocks": lambda e: e.block() + e.block(search="", replace="NEW = 1", path="new.py"),
}

# What is meant cannot be told, or must not be done: refused, and nothing written.
REFUSED: Mapping[str, Callable[[Meant], str]] = {
    "no words": lambda e: "",
    "words alone": lambda e: f"In {e.path} I would write `{e.new}`.",
    "a diff": lambda e: f"--- a/{e.path}\n+++ b/{e.path}\n@@ -1 +1 @@\n-{e.old}\n+{e.new}\n",
    "JSON": lambda e: f'{{"edits": [{{"path": "{e.path}"}}]}}',
    "a conflict of git": lambda e: e.block().replace("SEARCH", "HEAD").replace("REPLACE", "main"),
    "signs as HTML": lambda e: e.block().replace("<", "&lt;").replace(">", "&gt;"),
    "a fence in place of a block": lambda e: f"{e.path}\n```python\n{e.new}\n```\n",
    "SEARCH fits two places": _doubled,
    "the second block fits nowhere": lambda e: e.block() + e.block(search="not there", replace="x = 1"),
    "one letter is another": lambda e: e.block(search="\n".join((*e.search[:-1], _word_off(e.search[-1])))),
    "a part of a line": lambda e: e.block(search=e.search[0].strip()[:-1], replace="x"),
    "numbers before the lines": lambda e: e.block(search=_lines(e.old, lambda line: f"12: {line}")),
    "a line left out in the middle": lambda e: e.block(search=f"{e.search[0]}\n{_later(e)}", replace="x = 1"),
    "SEARCH shortened": lambda e: e.block(search=f"{e.search[0]}\n...\n{e.search[-1]}"),
    "REPLACE shortened": lambda e: e.block(replace=f"{e.new}\n..."),
    "REPLACE shortened in a remark": lambda e: e.block(replace=f"{e.new}\n# ... (rest of the code unchanged)"),
    "REPLACE shortened in a call": lambda e: e.block(replace=e.new.replace("pass  #", "f(...)  #")),
    "cut off in SEARCH": lambda e: e.block()[: e.block().index("=======")],
    "cut off in REPLACE": lambda e: e.block() + e.block()[: e.block().index(">>>>>>>")],
    "no line between": lambda e: e.block().replace("=======\n", ""),
    "two lines between": lambda e: e.block(replace=f"{e.new}\n======="),
    "longer lines of equals signs": lambda e: e.block(replace=f"{e.new}\n============"),
    "a block in a block": lambda e: e.block(replace=f"{e.block()}"),
    "ended twice": lambda e: e.block() + ">>>>>>> REPLACE\n",
    "the other file's path": lambda e: e.block(path=_other(e)),
    "no path, and lines of both files": lambda e: e.block(path="", search=_SHARED, replace=f"{_SHARED}  # x"),
    "a file that is not in scope": lambda e: e.block() + e.block(search="", replace="x = 1", path="harness.py"),
    "a path out of the folder": lambda e: e.block(path=f"../nanochat/{e.path}"),
    "a path through the folder above": lambda e: e.block(path=f"x/../{e.path}"),
    "an absolute path": lambda e: e.block(path=f"/srv/{e.path}"),
    "a path of Windows": lambda e: e.block(path=f"nanochat\\{e.path}"),
    "a path that only looks alike": lambda e: e.block(path=e.path.replace("a", "а")),
    "empty SEARCH in a file that exists": lambda e: e.block(search=""),
    "nothing changed": lambda e: e.block(replace=e.old),
    "nothing changed but for blanks": lambda e: e.block(search=_lines(e.old, lambda line: line + " "), replace=e.old),
    "two blocks of the same lines": lambda e: e.block() + e.block(replace=e.new + "\n"),
    "the second block quotes what the first writes": lambda e: e.block() + e.block(search=e.replace[-2], replace=""),
    "a bracket too few": lambda e: e.block(replace=e.new.replace("pass  #", "pass (  #")),
    "quotes of a typesetter": lambda e: e.block(replace=e.new.replace("pass  #", "print(“x”)  #")),
    "a space that cannot be seen": lambda e: e.block(replace=e.new.replace("# ", "#\u200b ")),
    "a fence inside REPLACE": lambda e: e.block(replace=f"```\n{e.new}\n```"),
    "a whole file, which is long": lambda e: f"train.py\n<<<<<<< FILE\n{FILES['train.py']}x = 1\n>>>>>>> FILE\n",
    "a part as the whole file": lambda e: f"trainer.py\n<<<<<<< FILE\n{e.new}\n>>>>>>> FILE\n",
    "a file that is a folder, too": lambda e: e.block() + e.block(search="", replace="x = 1", path=f"{e.path}/x.py"),
}
KINDS = {**APPLIED, **REFUSED}


def creatable(path: str) -> str:
    """Any file but the harness may be made."""
    return "" if path == "new.py" or path.endswith("/x.py") else f"{path} is not in scope"


def outcome(edit: Meant, kind: str) -> str:
    """`applied` as it was meant, `refused`, or `wrong`."""
    done = applied(KINDS[kind](edit), FILES, creatable)
    if isinstance(done, Refusal):
        return "refused"
    meant = edit.texts | ({"new.py": "NEW = 1\n"} if kind == "two blocks" else {})
    return "applied" if done.texts == meant and kind in APPLIED else "wrong"


@dataclass(frozen=True)
class Way:
    """One way of writing an edit, and what became of the edits that were written like that."""

    kind: str
    applied: int
    refused: int
    wrong: int

    @property
    def met(self) -> bool:
        return self.wrong == 0

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.kind, f"{self.applied:7}", f"{self.refused:7}", f"{self.wrong:5}")


@click.command()
@click.option("--count", default=60, show_default=True, help="Edits, each written in every way.")
@click.option("--seed", default=0, show_default=True, help="Of the places at which they are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(count: int, seed: int, as_json: bool) -> None:
    """Print for each way of writing an edit how many were applied as they were meant, refused, and wrong."""
    where, drawn = machine(), list(edits(count, seed))
    ways = []
    for kind in KINDS:
        became = Counter(outcome(edit, kind) for edit in drawn)
        ways.append(Way(kind, became["applied"], became["refused"], became["wrong"]))
    conclude("edits", where, ways, as_json, ("a reply with", "applied", "refused", "wrong"))


if __name__ == "__main__":
    main()
