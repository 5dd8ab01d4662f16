"""The data, made once: a corpus, its tokenizer, and the loader that packs it into rows. Frozen.

    python prepare.py                           the standard library's own sources; no internet needed
    python prepare.py packages                  the sources of all installed packages: for a GPU without internet
    python prepare.py climbmix --shards 10      shards of karpathy/climbmix-400b-shuffle, from the Hugging Face hub

Everything lies in one folder: AUTORESEARCH_DATA or ~/.cache/autoresearch. A corpus is a folder of token ids that are
mapped into memory, complete or absent: it is written beside and renamed. Running this again does nothing when it is
there; several processes at once wait for the first; a killed one is made up for by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from data import FORMAT, SIZES, Corpus, Packer, data_folder, folder_of, sha256_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# GPT-4's pattern, but with numbers cut into 2 digits and not 3: a small vocabulary has better uses for its entries.
WORDS = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
BOS = "<|bos|>"
TOKENIZER_CHARACTERS = 1_000_000_000  # that the tokenizer is trained on, at most
TOKENIZER_DOCUMENT_CHARACTERS = 10_000  # of one document, at most
BATCH_CHARACTERS = 2_000_000  # tokenised at a time, in about 200 MB

DATASET = "karpathy/climbmix-400b-shuffle"
LAST_SHARD = 6_542  # is the validation split

# What a distribution may leave out or put in, what differs by platform, and what is tables or tests.
SKIPPED_FOLDERS = (
    "__pycache__ curses dbm dist-packages distutils encodings ensurepip idle_test idlelib lib2to3 msilib pydoc_data "
    "site-packages sqlite3 test tests tkinter turtledemo venv"
)
SKIPPED_FILES = ("_sysconfig", "sitecustomize", "turtle.py", "usercustomize")  # by the start of their names


class PrepareError(Exception):
    """What a person must mend, in one line that says how."""


# --- Where documents come from ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Documents to make a corpus of. `digest` is the sha256 of their text."""

    train: Callable[[], Iterable[str]]  # called twice: once for the tokenizer, once for the tokens
    validation: Callable[[], Iterable[str]]
    digest: str


def stdlib_source() -> Source:
    """This Python's standard library: its pure sources, the same for everybody who has this version."""
    folder = Path(sysconfig.get_path("stdlib"))
    skipped = set(SKIPPED_FOLDERS.split())

    def belongs(path: Path) -> bool:
        *folders, name = path.relative_to(folder).parts
        foreign = skipped.intersection(folders) or (folders and folders[0].startswith("config-"))
        return not foreign and not name.startswith(SKIPPED_FILES)

    return python_source(folder, belongs)


def packages_source() -> Source:
    """The sources of all packages of this environment: more text, but another one on every machine."""
    return python_source(Path(sysconfig.get_path("purelib")), lambda path: True)


def python_source(folder: Path, belongs: Callable[[Path], bool]) -> Source:
    """Python files below `folder`, each one document. One file in 16 is for validation, by the hash of its path."""
    train, validation = [], []
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        if not belongs(path):
            continue
        try:
            text = path.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(folder).as_posix().encode()
        digest.update(name + b"\0" + text.encode() + b"\0")
        (train if int(hashlib.sha256(name).hexdigest(), 16) % 16 else validation).append(text)
    if sum(map(len, train)) < 1_000_000:
        raise PrepareError(f"{folder} has no sources to speak of: use a Python that brings its libraries as .py")
    return Source(lambda: train, lambda: validation, digest.hexdigest())


def climbmix_source(shards: int, workers: int) -> Source:
    """The first `shards` shards of ClimbMix for training and the last one for validation, downloaded where missing."""
    if not 1 <= shards <= LAST_SHARD:
        raise PrepareError(f"--shards is 1 to {LAST_SHARD}, not {shards}: shard {LAST_SHARD} is the validation split")
    names = [f"shard_{number:05}.parquet" for number in (*range(shards), LAST_SHARD)]
    folder = data_folder() / "climbmix"
    checksums = fetch_shards(folder, names, workers)
    digest = hashlib.sha256("".join(f"{checksums[name]}  {name}\n" for name in names).encode()).hexdigest()
    return Source(
        lambda: (text for name in names[:-1] for text in parquet_texts(folder / name)),
        lambda: parquet_texts(folder / names[-1]),
        digest,
    )


def parquet_texts(path: Path) -> Iterator[str]:
    """The column `text`, one row group in memory at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            raise PrepareError(f"{path} has no column `text`: it has {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=1_000, columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text)


def fetch_shards(folder: Path, names: list[str], workers: int) -> dict[str, str]:
    """Download what is not in `folder` yet, and return the sha256 of every shard known there.

    The hub is not asked about shards that are there and match checksums.json, so that the folder can be carried to a
    machine without network. A broken transfer goes on where it broke, a broken run with the shard that it was at.
    """
    from concurrent.futures import ThreadPoolExecutor, as_completed

    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".cache/huggingface/**/*.incomplete"):  # of a killed run: nothing resumes them
        left_over.unlink()
    listing = folder / "checksums.json"
    known: dict[str, str] = json.loads(listing.read_text()) if listing.exists() else {}

    with ThreadPoolExecutor(workers) as pool:
        there = [name for name in names if name in known and (folder / name).exists()]
        sums = dict(zip(there, pool.map(lambda name: sha256_of(folder / name), there), strict=True))
    missing = [name for name in names if sums.get(name) != known.get(name, "unknown")]
    if not missing:
        return known

    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP: it resumes, and caches no second copy of the chunks
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import HTTPError  # of its HTTP client, which differs by version

    try:
        info = HfApi().dataset_info(DATASET, files_metadata=True, timeout=60)
    except (OSError, HTTPError, ValueError) as error:  # ValueError: a portal answered with a page of its own
        raise PrepareError(
            f"{len(missing)} of {len(names)} shards are missing or damaged in {folder}, and {constants.ENDPOINT} does "
            f"not list them ({first_line(error)}): mend the network, or copy the folder, checksums.json included, from "
            "a machine that has it, or use the corpus that needs none, `python prepare.py stdlib`"
        ) from error
    listed = {file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs}
    if unknown := [name for name in missing if name not in listed]:
        raise PrepareError(f"{DATASET} has no {unknown[0]}: ask for fewer with --shards")

    def fetch(name: str) -> str:
        path = folder / name
        for downloads_left in (2, 1, 0):
            if path.exists():
                if sha256_of(path) == listed[name]:
                    return name
                path.unlink()
            if downloads_left:
                hf_hub_download(DATASET, name, repo_type="dataset", revision=info.sha, local_dir=folder)
        raise PrepareError(
            f"{name} came twice with another sha256 than the hub lists, and was deleted: try again later"
        )

    pool = ThreadPoolExecutor(workers)
    try:
        for done in as_completed([pool.submit(fetch, name) for name in missing]):
            known[name] = listed[name := done.result()]
            fresh = listing.with_suffix(".partial")
            fresh.write_text(json.dumps(known, indent=1, sort_keys=True))
            fresh.replace(listing)
            print(f"{name}  {(folder / name).stat().st_size / 1e6:.1f} MB  sha256 as listed", flush=True)
    except (OSError, HTTPError, ValueError) as error:
        raise PrepareError(f"the download broke off ({first_line(error)}): run it again, it keeps what came") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return known


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- Making a corpus -------------------------------------------------------------------------------------------------


def trained_tokenizer(documents: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE of at most `vocabulary` entries. The last is BOS, which no text encodes to."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    def capped() -> Iterator[str]:
        left = TOKENIZER_CHARACTERS
        for document in documents:
            if left <= 0:
                return
            yield document[: min(left, TOKENIZER_DOCUMENT_CHARACTERS)]
            left -= min(len(document), TOKENIZER_DOCUMENT_CHARACTERS)

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(capped(), trainer)
    tokenizer.add_special_tokens([AddedToken(BOS, special=True)])
    tokenizer.encode_special_tokens = True
    return tokenizer


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def write_split(folder: Path, split: str, documents: Iterable[str], tokenizer: Tokenizer) -> dict[str, int]:
    """Write {split}.bin and {split}.npy, and return how many documents, tokens and bytes of text they hold."""
    bos = tokenizer.token_to_id(BOS)
    starts = [np.zeros(1, np.int64)]
    tokens = text_bytes = written = 0
    began = told = time.monotonic()
    with (folder / f"{split}.bin").open("wb") as out:
        for batch in batches(documents):
            encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            arrays = [np.array([bos, *encoding.ids], np.uint16) for encoding in encodings]
            np.concatenate(arrays).tofile(out)
            starts.append(tokens + np.cumsum([len(array) for array in arrays], dtype=np.int64))
            tokens = int(starts[-1][-1])
            written += len(batch)
            text_bytes += sum(len(document.encode()) for document in batch)
            if (now := time.monotonic()) - told > 5:
                rate = tokens / (now - began) / 1e6
                print(f"{split}: {written:,} documents, {tokens / 1e6:,.1f} M tokens, {rate:.1f} M/s", flush=True)
                told = now
    np.save(folder / f"{split}.npy", np.concatenate(starts))
    if not written:
        raise PrepareError(f"the {split} split has no documents")
    return {"documents": written, "tokens": tokens, "bytes": text_bytes}


def build(folder: Path, source: Source, vocabulary: int, context: int) -> None:
    """Make the corpus of `source` in `folder`: beside it first, then by renaming."""
    import tokenizers

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    print(f"training a tokenizer of {vocabulary:,} entries", flush=True)
    tokenizer = trained_tokenizer(source.train(), vocabulary)
    tokenizer.save(str(partial / "tokenizer.json"))
    # In byte-level BPE each character of a token's name stands for one byte.
    entries = [tokenizer.id_to_token(token) for token in range(tokenizer.get_vocab_size())]
    token_bytes = np.array([0 if entry == BOS else len(entry) for entry in entries], np.int32)
    np.save(partial / "token_bytes.npy", token_bytes)
    splits = {
        "train": write_split(partial, "train", source.train(), tokenizer),
        "validation": write_split(partial, "validation", source.validation(), tokenizer),
    }

    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(partial.iterdir())}
    listing = "".join(f"{files[name]['sha256']}  {name}\n" for name in files if name != "tokenizer.json")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "vocabulary": len(entries),
        "bos": tokenizer.token_to_id(BOS),
        "context": context,
        "digest": hashlib.sha256(listing.encode()).hexdigest(),
        "text_sha256": source.digest,
        "python": platform.python_version(),
        "tokenizers": tokenizers.__version__,
        "splits": splits,
        "files": files,
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
    shutil.rmtree(folder, ignore_errors=True)  # one that could not be used
    partial.rename(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock of one that was killed is free."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process prepares this corpus; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(kind: str, shards: int = 10, workers: int = 8) -> Corpus:
    """Open the corpus, making it first where it is absent or cannot be used. Raises PrepareError."""
    name = f"climbmix-{shards}" if kind == "climbmix" else kind
    with contextlib.suppress(FileNotFoundError, ValueError):
        return Corpus.open(name)
    data_folder().mkdir(parents=True, exist_ok=True)
    with locked(data_folder() / f"{kind}.lock"):
        try:
            return Corpus.open(name)  # made while this process waited
        except FileNotFoundError:
            pass
        except ValueError as error:
            print(f"{error}\nmaking it again", flush=True)
        sources = {
            "stdlib": stdlib_source,
            "packages": packages_source,
            "climbmix": lambda: climbmix_source(shards, workers),
        }
        build(folder_of(name), sources[kind](), *SIZES[kind])
        return Corpus.open(name)


def loader_tokens_per_second(corpus: Corpus, rows: int, seconds: float = 0.1) -> float:
    """Tokens per second of the packer alone, in batches of `rows` rows, on one core."""
    batch = np.empty((rows, corpus.context + 1), np.uint16)
    packer = Packer(corpus.train, corpus.bos, corpus.context, seed=0)
    packer.fill(batch)
    filled = 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        packer.fill(batch)
        filled += rows * corpus.context
    return filled / spent


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Make a corpus and its tokenizer, once.")
    parser.add_argument("corpus", nargs="?", choices=tuple(SIZES), default="stdlib")
    parser.add_argument("--shards", type=int, default=10, metavar="N", help="climbmix: training shards (default 10)")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="climbmix: downloads at once (default 8)")
    chosen = parser.parse_args()
    if chosen.workers < 1:
        parser.error("--workers is 1 or more")
    try:
        corpus = prepare(chosen.corpus, chosen.shards, chosen.workers)
    except (PrepareError, OSError) as error:
        sys.exit(f"prepare.py: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"prepare.py: {error.name} is not installed: pip install tokenizers pyarrow huggingface_hub")
    except KeyboardInterrupt:
        print("\nprepare.py: interrupted; run it again to go on", file=sys.stderr, flush=True)
        os._exit(130)  # without waiting for the downloads that are under way

    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    print(f"\n{corpus.folder}")
    for split, size in manifest["splits"].items():
        print(
            f"{split + ':':<13}{size['documents']:,} documents  {size['tokens']:,} tokens  {size['bytes']:,} bytes  "
            f"{size['bytes'] / (size['tokens'] - size['documents']):.3f} bytes per token"
        )
    print(f"vocabulary:  {corpus.vocabulary:,}, context {corpus.context:,}")
    print(f"text:        sha256 {manifest['text_sha256']}")
    print(f"digest:      {corpus.digest}")
    rows = 8 if chosen.corpus == "stdlib" else 128
    speed = loader_tokens_per_second(corpus, rows)
    print(f"loader:      {speed / 1e6:.1f} M tokens/s on one core, {rows} rows of {corpus.context:,}")


if __name__ == "__main__":
    main()
