"""The inbox of a run: a folder of files, one message each, written beside and renamed into place.

Whoever writes needs no more than the run's folder; the driver reads, and removes a file when what came of it is in the
ledger. So a message outlives whatever is killed, and waits where no driver lives. A file that is no message is moved
into `inbox/refused` and never looked at again.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from autoresearch_ray import process
from autoresearch_ray import tree as trees
from autoresearch_ray.errors import LedgerError, SetupError
from autoresearch_ray.messages import Letter

HINT_CHARACTERS = 2_000  # of one hint: what is longer belongs into program.md
PATCH_BYTES = 1 << 20  # of one patch: code is text, and data do not travel this way
_IDEA_CHARACTERS = 500
_NAMES_CHARACTERS = 20_000  # of all the lanes of a message: a run has at most some hundreds
_FILE_BYTES = 8 << 20  # a patch in JSON may be six times as long
_ID = re.compile(r"[0-9a-f]{11}-[0-9a-f]{4}(-[0-9]{4})?")  # also the name of the file, and of a ref
_ANY: TypeAdapter[Letter] = TypeAdapter(Annotated[Letter, Field(discriminator="kind")])


def ids(count: int) -> list[str]:
    """Names for messages that are sent together, in order; names that are given later sort behind them."""
    first = f"{time.time_ns() // 1_000_000:011x}-{secrets.token_hex(2)}"
    return [first] if count == 1 else [f"{first}-{number:04}" for number in range(count)]


def check(letter: Letter) -> None:
    """Raises `SetupError` if nobody would take this message up."""
    if not _ID.fullmatch(letter.id):
        raise SetupError(f"{letter.id!r} is not the id of a message", "let `inbox.ids` make it")
    if any(each.encode(errors="replace").decode() != each for each in _texts(letter)):
        raise SetupError("the message is not UTF-8", "write it as UTF-8; a patch of other files cannot be submitted")
    match letter.kind:
        case "tell" if not letter.text.strip():
            raise SetupError("there is nothing to tell", 'for example: autoresearch-ray tell "try a longer warm-up"')
        case "tell" if len(letter.text) > HINT_CHARACTERS:
            raise SetupError(
                f"a hint has at most {HINT_CHARACTERS} characters, this has {len(letter.text)}",
                "write what is longer into Strategy or Notes of program.md: a run that goes on reads them again",
            )
        case "submit" if len(letter.patch.encode(errors="replace")) > PATCH_BYTES:
            raise SetupError(f"a patch has at most {PATCH_BYTES >> 20} MB", "submit a change of code, without data")
        case "submit" if not letter.patch.strip():
            raise SetupError("the patch is empty", "make it with `git diff`, or with `diff -u`")
        case "submit" if max(map(len, (letter.idea, letter.parent, letter.by))) > _IDEA_CHARACTERS:
            raise SetupError(f"an idea has at most {_IDEA_CHARACTERS} characters", "say what is changed in one line")
        case "submit" if not letter.by.strip():
            raise SetupError("nobody says whose change it is", "for example: --by ann")
        case "tell" | "hold" | "release" if len("".join(_texts(letter))) > HINT_CHARACTERS + _NAMES_CHARACTERS:
            raise SetupError("the names of its lanes are too long", "leave them out: then it is for all lanes")


def _texts(letter: Letter) -> tuple[str, ...]:
    match letter.kind:
        case "tell":
            return (letter.text, *letter.lanes)
        case "submit":
            return letter.patch, letter.idea, letter.parent, letter.by
        case _:
            return (letter.lane,)


def send(folder: Path, letters: Sequence[Letter]) -> None:
    """Put the messages into the inbox of the run in `folder`, each there whole or not at all.

    Raises `SetupError` for what nobody would take up, and then none is sent; `LedgerError` if there is no room.
    """
    for letter in letters:
        check(letter)
    inbox = folder / "inbox"
    try:
        inbox.mkdir(exist_ok=True)
        for letter in letters:
            new = inbox / f".{letter.id}.new"
            with new.open("wb") as file:
                file.write(_ANY.dump_json(letter))
                file.flush()
                os.fsync(file.fileno())
            new.rename(inbox / f"{letter.id}.json")
    except OSError as error:
        raise LedgerError(f"cannot write in {inbox}: {error.strerror}", "make room, and send it again") from error


def waiting(folder: Path) -> list[Path]:
    """The messages that nobody has taken up yet, oldest first."""
    return sorted((folder / "inbox").glob("[!.]*.json"))


def read(path: Path) -> Letter:
    """The message in a file of the inbox. Raises `SetupError` where it is none: somebody else may have written it."""
    try:
        with process.opened(path) as file:
            content = file.read(_FILE_BYTES + 1)
        if len(content) > _FILE_BYTES:
            raise SetupError("it is too long", "")
        letter = _ANY.validate_json(content)
        if letter.id != path.stem:
            raise SetupError("its id is not its name", "")
        check(letter)
        return letter
    except ValidationError as error:
        raise SetupError(error.errors()[0]["msg"], "") from error
    except OSError as error:
        raise SetupError(error.strerror or str(error), "") from error


def refuse(path: Path) -> None:
    """Put a file that is no message aside or, where something else stands in its way there, remove it."""
    aside = path.parent / "refused"
    try:
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
    except OSError:  # else it would be in the way of all that come after it
        trees.remove(path)
