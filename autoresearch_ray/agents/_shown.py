"""The files in scope as texts, for an agent that has no hands of its own: what it is shown, and what it may write."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_ray import tree as trees
from autoresearch_ray.model import Scope

LIMIT_BYTES = 128 << 10  # of all the files together in UTF-8: some 32,000 tokens
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")  # no hidden file, no look-alike
_STAGED = ".autoresearch-staged"


@dataclass(frozen=True, slots=True)
class Shown:
    """The texts by path, and of the files that are left out, why."""

    texts: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)


def shown(checkout: Path, scope: Scope, limit_bytes: int = LIMIT_BYTES) -> Shown:
    """The files in scope, as many as fit into `limit_bytes`, the smallest first. Links are not followed."""
    texts: dict[str, str] = {}
    left_out: dict[str, str] = {}
    paths = plain_files(checkout, scope)
    for path, size in sorted(paths.items(), key=lambda each: (each[1], each[0])):
        if not path.isprintable():  # what is no text breaks the request, and a line break in it says what it likes
            left_out[ascii(path)] = "its name cannot be written"
            continue
        if size > limit_bytes:
            left_out[path] = f"{size} bytes do not fit"
            continue
        try:
            texts[path] = trees.read(checkout, path).decode()
        except UnicodeDecodeError:
            left_out[path] = "not text in UTF-8"
        else:
            limit_bytes -= size
    return Shown({path: texts[path] for path in paths if path in texts}, left_out)


def plain_files(checkout: Path, scope: Scope) -> dict[str, int]:
    """The sizes of the plain files in scope, by path below the checkout. Links are not followed."""
    found = {}
    for folder, folders, files in os.walk(checkout):
        folders[:] = sorted(each for each in folders if each != ".git" and not trees.litter(each))
        for name in sorted(files):
            file = Path(folder, name)
            path = file.relative_to(checkout).as_posix()
            if scope.allows(path) and not trees.litter(path) and file.is_file() and not file.is_symlink():
                found[path] = file.stat().st_size
    return found


def why_not_create(checkout: Path, scope: Scope, path: str) -> str:
    """Why a model may not make the file `path` below `checkout`, in words for it; "" if it may."""
    if not scope.allows(path):
        return f"{path} is not in scope"
    if os.path.lexists(checkout / path):
        return f"{path} was not shown to you, so you cannot change it"
    if not _PLAIN.fullmatch(path) or trees.litter(path):
        return f"{path!r} is no name for a new file: letters, digits and . _ + - in each part"
    folder, root = (checkout / path).parent, checkout.resolve()
    if folder.resolve() != root / Path(path).parent or any(
        os.path.lexists(each) and not each.is_dir() for each in (folder, *folder.parents)
    ):
        return f"{path} is behind a link or a file"
    return ""


def write(checkout: Path, texts: Mapping[str, str]) -> None:
    """Write all of the texts or none: beside the files first, and then into place. Raises `OSError`."""
    staged = {checkout / f"{path}{_STAGED}": checkout / path for path in texts}
    try:
        for (new, file), text in zip(staged.items(), texts.values(), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(text.encode())
            if file.exists():
                shutil.copymode(file, new)
    except OSError:
        for new in staged:
            new.unlink(missing_ok=True)
        raise
    for new, file in staged.items():
        new.replace(file)
