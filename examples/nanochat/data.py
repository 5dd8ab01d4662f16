"""What training reads: a corpus that prepare.py made, mapped into memory, and what packs it into rows. Frozen."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1  # of the folder; another number is made again
CHECKED_BYTES = 1 << 28  # of one file, in 0.2 s; only training tokens are larger
# Entries of the vocabulary, tokens of context.
SIZES = {"stdlib": (1_024, 128), "packages": (8_192, 2_048), "climbmix": (8_192, 2_048)}


def data_folder() -> Path:
    """Where all corpora lie."""
    return Path(os.environ.get("AUTORESEARCH_DATA") or "~/.cache/autoresearch").expanduser()


@dataclass(frozen=True)
class Split:
    """Token ids of documents, one after the other; each document starts with BOS."""

    tokens: np.memmap  # uint16 [tokens]
    starts: np.ndarray  # int64 [documents + 1]; document i is tokens[starts[i]:starts[i + 1]]


@dataclass(frozen=True)
class Corpus:
    """A corpus made by this file. `digest` is the sha256 of all that training and evaluation read of it."""

    name: str
    folder: Path
    vocabulary: int
    bos: int
    context: int
    token_bytes: np.ndarray  # int32 [vocabulary]: bytes of text that each token stands for; 0 for BOS
    train: Split
    validation: Split
    digest: str

    @classmethod
    def open(cls, name: str) -> Corpus:
        """Open `stdlib`, `packages`, `climbmix` (the one with the most shards) or, say, `climbmix-10`.

        Files are checked by size, and all but very large ones by sha256: an experiment could have changed them.

        Raises FileNotFoundError when it has not been made, ValueError when what is there cannot be used.
        """
        folder = folder_of(name)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no corpus {folder.name} in {folder.parent}: {command_for(folder.name)}")
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            if manifest["format"] != FORMAT:
                raise ValueError(f"its format is {manifest['format']}, not {FORMAT}")
            for file, entry in manifest["files"].items():
                size = (folder / file).stat().st_size
                if size != entry["bytes"]:
                    raise ValueError(f"{file} has {size} bytes, not {entry['bytes']}")
            for file, entry in manifest["files"].items():
                if entry["bytes"] <= CHECKED_BYTES and sha256_of(folder / file) != entry["sha256"]:
                    raise ValueError(f"{file} was changed")
            train, validation = (
                Split(np.memmap(folder / f"{split}.bin", np.uint16, "r"), np.load(folder / f"{split}.npy"))
                for split in ("train", "validation")
            )
            token_bytes = np.load(folder / "token_bytes.npy")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the corpus in {folder} cannot be used ({error}): {command_for(folder.name)}") from error
        vocabulary, bos, context, digest = (manifest[key] for key in ("vocabulary", "bos", "context", "digest"))
        return cls(folder.name, folder, vocabulary, bos, context, token_bytes, train, validation, digest)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which reads `<|bos|>` in a text as the seven characters that it is."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        return tokenizer


def folder_of(name: str) -> Path:
    kind, _, size = name.partition("-")
    if name in ("stdlib", "packages"):
        return data_folder() / f"{name}-{platform.python_version()}"
    if name == "climbmix":
        sizes = (folder.name.partition("-")[2] for folder in data_folder().glob("climbmix-*"))
        return data_folder() / f"climbmix-{max((int(size) for size in sizes if size.isdecimal()), default=10)}"
    if kind in ("stdlib", "packages") or (kind == "climbmix" and size.isdecimal()):
        return data_folder() / name
    raise ValueError(f"no corpus is called {name!r}: there are {', '.join(SIZES)}, and climbmix-N with N shards")


def command_for(name: str) -> str:
    kind, _, size = name.partition("-")
    return f"run `python prepare.py {kind}{f' --shards {size}' if kind == 'climbmix' else ''}`"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Packer:
    """Packs documents into rows of `context + 1` tokens: each starts with BOS, none is padded, no text is lost.

    Text longer than `context` is first divided into pieces of `context` tokens and a rest. About 1,000 pieces wait at a
    time. A row takes the oldest of them, then again and again the longest that still fits, each with a BOS before it;
    when none fits, the shortest is cut to fill the row, and what remains of it waits as a piece of its own. The oldest
    first, because the longest would keep the ends of long documents back until the epoch's last rows.

    An epoch brings every token of text once; the next begins when the last piece is taken. Its order is a permutation
    of the pieces by `seed`; without a seed it is that of the documents, for validation.
    """

    WAITING = 1_000

    def __init__(self, split: Split, bos: int, context: int, seed: int | Sequence[int] | None) -> None:
        lengths = np.diff(split.starts) - 1  # of text, without BOS
        counts = -(-lengths // context)
        offsets = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * context
        self._begins = np.repeat(split.starts[:-1] + 1, counts) + offsets
        self._lengths = np.minimum(np.repeat(lengths, counts) - offsets, context)
        if not len(self._begins):
            raise ValueError("there is no text to pack")
        self._tokens = np.asarray(split.tokens)  # a plain array: slicing a memmap costs ten times as much
        self._bos = bos
        self._context = context
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._coming = self._epoch()
        self._waiting: list[tuple[int, int, int]] = []  # (length, arrival, begin), sorted
        self._length_of: dict[int, int] = {}  # arrival -> length, of those that wait
        self._arrivals = 0
        self._oldest = 0

    def fill(self, rows: np.ndarray) -> None:
        """Fill uint16 [n, context + 1] with the next rows."""
        if rows.ndim != 2 or rows.shape[1] != self._context + 1:
            raise ValueError(f"rows have shape [n, {self._context + 1}], not {list(rows.shape)}")
        for row in rows:
            at = 0
            while at <= self._context:
                row[at] = self._bos
                at += 1
                if room := self._context + 1 - at:
                    length, begin = self._take(room, first=at == 1)
                    row[at : at + length] = self._tokens[begin : begin + length]
                    at += length

    def _take(self, room: int, first: bool) -> tuple[int, int]:
        """Take a piece of at most `room` tokens from those that wait: its length, and where it begins."""
        self._refill()
        if first:
            while self._oldest not in self._length_of:
                self._oldest += 1
            index = bisect.bisect_left(self._waiting, (self._length_of[self._oldest], self._oldest))
        else:
            index = max(0, bisect.bisect_left(self._waiting, (room + 1,)) - 1)
        length, arrival, begin = self._waiting.pop(index)
        del self._length_of[arrival]
        if length > room:
            self._wait(length - room, begin + room)
            length = room
        return length, begin

    def _refill(self) -> None:
        while len(self._waiting) < self.WAITING:
            piece = next(self._coming, None)
            if piece is not None:
                self._wait(*piece)
            elif self._waiting:
                return
            else:
                self._coming = self._epoch()

    def _wait(self, length: int, begin: int) -> None:
        bisect.insort(self._waiting, (length, self._arrivals, begin))
        self._length_of[self._arrivals] = length
        self._arrivals += 1

    def _epoch(self) -> Iterator[tuple[int, int]]:
        pieces = len(self._begins)
        order = np.arange(pieces) if self._rng is None else self._rng.permutation(pieces)
        for start in range(0, pieces, self.WAITING):
            part = order[start : start + self.WAITING]
            yield from zip(self._lengths[part].tolist(), self._begins[part].tolist(), strict=True)
