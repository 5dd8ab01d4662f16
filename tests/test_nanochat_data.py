"""The data of the nanochat example: no text is lost on its way into rows, and preparing survives what happens."""

from __future__ import annotations

import collections
import hashlib
import http.server
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import prepare
import pytest
from data import Packer, Split
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nanochat import NANOCHAT, Corpus, ended, opened

PREPARE = NANOCHAT / "prepare.py"
DATASET = "karpathy/climbmix-400b-shuffle"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
VALIDATION = "shard_06542.parquet"


def start(data: Path, *arguments: str, endpoint: str = "http://127.0.0.1:1") -> subprocess.Popen[str]:
    """`python prepare.py` with its own folders; without `endpoint` there is no network."""
    environ = os.environ | {
        "AUTORESEARCH_DATA": str(data),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(data / "hf-home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.Popen(
        [sys.executable, str(PREPARE), *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(data: Path, *arguments: str, endpoint: str = "http://127.0.0.1:1") -> str:
    status, output = ended(start(data, *arguments, endpoint=endpoint))
    assert status == 0, output
    return output


def refusal(data: Path, *arguments: str, endpoint: str = "http://127.0.0.1:1") -> str:
    """The one line with which it says what is wrong."""
    status, output = ended(start(data, *arguments, endpoint=endpoint))
    assert status == 1, output
    assert "Traceback" not in output, output
    *_, last = output.strip().splitlines()
    assert last.startswith("prepare.py: "), output
    return last


def documents_of(split: Split) -> list[np.ndarray]:
    return [np.asarray(split.tokens[a:b]) for a, b in zip(split.starts[:-1], split.starts[1:], strict=True)]


def texts_of(corpus: Corpus, split: Split) -> list[str]:
    tokenizer = corpus.tokenizer()
    return [tokenizer.decode(document[1:].tolist()) for document in documents_of(split)]


# --- The packer ------------------------------------------------------------------------------------------------------


BOS = 65_535


def numbered(lengths: list[int]) -> Split:
    """Documents in which every token of text is another number, from 0 on, so that none can be mistaken for another."""
    starts = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64) + 1)])
    tokens = np.concatenate([[BOS, *range(a - i, b - i - 1)] for i, (a, b) in enumerate(itertools.pairwise(starts))])
    return Split(tokens.astype(np.uint16), starts)


def rows_of(packer: Packer, rows: int, context: int) -> np.ndarray:
    filled = np.full((rows, context + 1), 65_534, np.uint16)  # a number that no document has
    packer.fill(filled)
    return filled


def last_of_pieces(lengths: list[int], context: int) -> set[int]:
    """Of `numbered` documents, the last token of each and, in those longer than `context`, of each part so long."""
    begins = itertools.accumulate(lengths, initial=0)
    parts = (
        begin + min(offset + context, n) - 1
        for begin, n in zip(begins, lengths, strict=False)
        for offset in range(0, n, context)
    )
    return set(parts)


LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=40).filter(any)


@given(lengths=LENGTHS, context=st.integers(1, 40), seed=st.none() | st.integers(0, 9), waiting=st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_an_epoch_brings_every_token_once_and_pads_nothing(
    lengths: list[int], context: int, seed: int | None, waiting: int
) -> None:
    packer = Packer(numbered(lengths), BOS, context, seed)
    packer.WAITING = waiting
    text = sum(lengths)
    rows = rows_of(packer, 3 * text + 3, context)
    assert (rows[:, 0] == BOS).all()
    came = rows[rows != BOS]
    for epoch in range(len(came) // text):
        assert sorted(came[epoch * text : (epoch + 1) * text].tolist()) == list(range(text)), f"epoch {epoch}"


@given(lengths=LENGTHS, context=st.integers(1, 40), seed=st.none() | st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_text_stays_in_order_and_a_bos_inside_a_row_follows_the_end_of_a_piece(
    lengths: list[int], context: int, seed: int | None
) -> None:
    ends = last_of_pieces(lengths, context)
    for row in rows_of(Packer(numbered(lengths), BOS, context, seed), 20, context).tolist():
        for before, after in itertools.pairwise(row):
            if before != BOS and after != BOS:
                assert after == before + 1 and before not in ends
            if before != BOS and after == BOS:
                assert before in ends


def test_rows_are_the_same_for_a_seed_and_however_they_are_asked_for() -> None:
    split = numbered(np.random.default_rng(0).integers(0, 90, 700).tolist())
    whole = rows_of(Packer(split, BOS, 32, seed=3), 3_000, 32)
    in_parts = Packer(split, BOS, 32, seed=3)
    assert np.array_equal(whole, np.concatenate([rows_of(in_parts, n, 32) for n in (1, 999, 2_000)]))
    assert not np.array_equal(whole, rows_of(Packer(split, BOS, 32, seed=4), 3_000, 32))
    epoch = len(split.tokens) // 33
    assert not np.array_equal(whole[:100], whole[epoch : epoch + 100]), "the second epoch has an order of its own"


def test_without_a_seed_documents_come_in_order() -> None:
    rows = rows_of(Packer(numbered([10] * 50), BOS, 10, None), 50, 10)
    assert rows[:, 1:].ravel().tolist() == list(range(500))


def test_a_row_takes_the_oldest_piece_then_the_longest_that_fits_then_cuts_the_shortest() -> None:
    split = numbered([5, 2, 3, 9, 4])  # 0-4, 5-6, 7-9, 10-18, 19-22
    assert rows_of(Packer(split, BOS, 9, None), 3, 9).tolist() == [
        [BOS, 0, 1, 2, 3, 4, BOS, 7, 8, 9],
        [BOS, 5, 6, BOS, 19, 20, 21, 22, BOS, 10],
        [BOS, 11, 12, 13, 14, 15, 16, 17, 18, BOS],
    ]


def test_few_rows_end_in_a_cut() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 900).astype(int).clip(1, 250)  # about 75 tokens
    split = numbered(lengths.tolist())
    ends = last_of_pieces(lengths.tolist(), 256)
    rows = rows_of(Packer(split, BOS, 256, seed=0), 200, 256)
    cut = np.mean([row[-1] not in ends and row[-1] != BOS for row in rows.tolist()])
    assert cut < 0.25, f"{cut:.0%} of the rows end in a cut; with no choice of pieces it is 99 %"


def test_rows_of_another_width_and_a_split_without_text_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("[n, 9], not [2, 8]")):
        Packer(numbered([5]), BOS, 8, 0).fill(np.empty((2, 8), np.uint16))
    with pytest.raises(ValueError, match="no text"):
        Packer(numbered([0, 0]), BOS, 8, 0)


# --- The standard library's sources ----------------------------------------------------------------------------------


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, prepare; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=NANOCHAT, capture_output=True, text=True, check=True)
    heavy = {"torch", "tokenizers", "pyarrow", "huggingface_hub", "tqdm", "asyncio"}
    assert "numpy" in loaded.stdout.split()
    assert not heavy.intersection(loaded.stdout.split())


def test_stdlib_is_split_by_file_and_whole(corpus: Corpus) -> None:
    assert corpus.name == f"stdlib-{'.'.join(map(str, sys.version_info[:3]))}"
    assert (corpus.vocabulary, corpus.bos, corpus.context) == (1_024, 1_023, 128)
    for split in (corpus.train, corpus.validation):
        assert split.tokens.dtype == np.uint16 and split.starts.dtype == np.int64
        assert split.starts[0] == 0 and split.starts[-1] == len(split.tokens)
        assert (np.flatnonzero(split.tokens == corpus.bos) == split.starts[:-1]).all()
    train, validation = texts_of(corpus, corpus.train), texts_of(corpus, corpus.validation)
    assert Path(subprocess.__file__).read_text() in train
    assert not set(train).intersection(validation) - {""}
    assert len(validation) > 10
    source = prepare.stdlib_source()
    assert list(source.train()) == train and list(source.validation()) == validation


def test_the_log_says_what_the_corpus_is(corpus: Corpus, nanochat_data: Path) -> None:
    log = (nanochat_data / "log").read_text()
    assert corpus.digest in log and prepare.stdlib_source().digest in log
    assert f"{len(corpus.train.starts) - 1:,} documents  {len(corpus.train.tokens):,} tokens" in log
    assert re.search(r"\d\.\d{3} bytes per token", log)
    assert re.search(r"loader: +[\d.]+ M tokens/s", log)


def test_a_second_run_does_nothing(corpus: Corpus, nanochat_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()}
    assert "training" not in run(nanochat_data)
    assert {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()} == before


@given(text=st.text() | st.text(alphabet="ab<|bos|> 'll12\r\n\té\U0001f600", max_size=60))
@settings(max_examples=200, deadline=None)
def test_every_text_encodes_and_token_bytes_add_up(corpus: Corpus, text: str) -> None:
    tokenizer = corpus.tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert corpus.token_bytes[ids].sum() == len(text.encode())
    assert corpus.bos not in ids
    assert tokenizer.decode(ids) == text


def test_token_bytes_of_the_whole_corpus_add_up(corpus: Corpus) -> None:
    assert corpus.token_bytes.shape == (1_024,) and corpus.token_bytes.dtype == np.int32
    assert np.flatnonzero(corpus.token_bytes == 0).tolist() == [corpus.bos]
    for split in (corpus.train, corpus.validation):
        text_bytes = sum(len(text.encode()) for text in texts_of(corpus, split))
        assert corpus.token_bytes[split.tokens].sum() == text_bytes


def test_a_special_token_in_a_text_is_text() -> None:
    tokenizer = prepare.trained_tokenizer(["<|bos|> and <|bos|>\n" * 500], 400)
    ids = tokenizer.encode("<|bos|>", add_special_tokens=False).ids
    assert len(ids) > 1 and tokenizer.token_to_id(prepare.BOS) not in ids


def test_trained_twice_it_is_the_same_tokenizer(corpus: Corpus) -> None:
    again = prepare.trained_tokenizer(prepare.stdlib_source().train(), corpus.vocabulary)
    assert again.to_str() == corpus.tokenizer().to_str()


@pytest.mark.parametrize("name", ["stdlib", "climbmix", "climbmix-3"])
def test_what_is_not_there_is_named_with_the_command_that_makes_it(name: str, tmp_path: Path) -> None:
    kind = name.partition("-")[0]
    with pytest.raises(FileNotFoundError, match=rf"no corpus {kind}-.*run `python prepare\.py {kind}"):
        opened(tmp_path, name)
    with pytest.raises(ValueError, match="no corpus is called 'wiki'"):
        opened(tmp_path, "wiki")


def test_another_format_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.folder, tmp_path / corpus.name)
    manifest = tmp_path / corpus.name / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 0}))
    with pytest.raises(ValueError, match=r"format is 0, not 1.*run `python prepare\.py stdlib`"):
        opened(tmp_path, "stdlib")
    manifest.write_text("{")
    with pytest.raises(ValueError, match=r"run `python prepare\.py stdlib`"):
        opened(tmp_path, "stdlib")


# --- ClimbMix, from a hub on loopback --------------------------------------------------------------------------------


class Hub(http.server.ThreadingHTTPServer):
    """Serves shards as the Hugging Face hub does, and what can go wrong with it.

    `asked` has the requests, `(method, file, first byte)`. A file in `breaks` ends in its middle that many times, one
    in `corrupt` comes with a byte changed that many times, and one in `stalls` stops in its middle.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = files
        self.asked: list[tuple[str, str, int]] = []
        self.breaks: collections.Counter[str] = collections.Counter()
        self.corrupt: collections.Counter[str] = collections.Counter()
        self.stalls: set[str] = set()
        self.stalled = threading.Event()
        self.released = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def wanted(self) -> set[str]:
        """What was asked for that belongs to the dataset; the library asks for other things by itself."""
        return {file for _, file, _ in self.asked}.intersection({"listing", *self.files})

    def gets(self, name: str) -> list[int]:
        """The first byte of each transfer of a file."""
        return [first for method, file, first in self.asked if (method, file) == ("GET", name)]


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        hub = self.server
        path, _, query = self.path.partition("?")
        if path == f"/api/datasets/{DATASET}" and "blobs=true" in query.lower():
            hub.asked.append((self.command, "listing", 0))
            self.send(200, json.dumps(self.listing()).encode(), {"Content-Type": "application/json"})
            return
        resolve = f"/datasets/{DATASET}/resolve/{COMMIT}/"
        name = path.removeprefix(resolve)
        if not path.startswith(resolve) or name not in hub.files:
            hub.asked.append((self.command, path, 0))
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        body = hub.files[name]
        first = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        hub.asked.append((self.command, name, first))
        checksum = hashlib.sha256(body).hexdigest()
        headers = {
            "ETag": f'"{checksum}"',
            "X-Linked-Etag": f'"{checksum}"',
            "X-Linked-Size": str(len(body)),
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if head:
            self.send(200, body, headers, sent=0)
            return
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        sent = None
        if hub.breaks[name] > 0:
            hub.breaks[name] -= 1
            sent = (len(body) - first) // 2
        if hub.corrupt[name] > 0:
            hub.corrupt[name] -= 1
            body = body[:-100] + bytes([body[-100] ^ 1]) + body[-99:]
        if name in hub.stalls:
            sent = len(body) // 2
        self.send(206 if first else 200, body[first:], headers, sent)
        if name in hub.stalls:
            hub.stalled.set()
            hub.released.wait(60)

    def send(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        """The first `sent` bytes of an answer that promises all of `body`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        self.wfile.flush()
        if sent is not None and self.command == "GET":
            self.close_connection = True

    def listing(self) -> dict[str, object]:
        siblings = [
            {
                "rfilename": name,
                "size": len(body),
                "blobId": hashlib.sha1(body).hexdigest(),
                "lfs": {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134},
            }
            for name, body in self.server.files.items()
        ]
        return {"_id": "1", "id": DATASET, "sha": COMMIT, "private": False, "siblings": siblings}


def shard(folder: Path, name: str, texts: list[str | None], column: str = "text", more_bytes: int = 0) -> bytes:
    """A parquet file of `texts`, and of a column beside them that nobody asked for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    beside = [np.random.default_rng(0).bytes(more_bytes), *[None] * (len(texts) - 1)]
    pq.write_table(pa.table({"beside": beside, column: texts}), folder / name, row_group_size=100)
    return (folder / name).read_bytes()


def prose(seed: int, documents: int) -> list[str]:
    """Documents of made-up words, with what is not ASCII and what looks like a special token."""
    rng = np.random.default_rng(seed)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(1, 8)))) for _ in range(3_000)] + ["<|bos|>", "naïve…"]
    chosen = rng.zipf(1.3, (documents, 60)) % len(words)
    return [" ".join(words[i] for i in document) + f". {n}\n" for n, document in enumerate(chosen)]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("shards")
    # The first is so long that its middle lies past the library's chunk of 10 MiB.
    return {
        (name := f"shard_{number:05}.parquet"): shard(
            folder, name, [*prose(number, 800), None, ""], more_bytes=0 if number else 24 * 2**20
        )
        for number in (0, 1, 2, 6_542)
    }


@pytest.fixture
def hub(shards: dict[str, bytes]) -> Iterator[Hub]:
    server = Hub(dict(shards))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def eventually(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def test_shards_become_a_corpus_over_a_line_that_breaks_and_then_no_network_is_needed(hub: Hub, tmp_path: Path) -> None:
    first, second = "shard_00000.parquet", "shard_00001.parquet"
    hub.breaks[first] = 1
    hub.corrupt[second] = 1
    log = run(tmp_path, "climbmix", "--shards", "2", "--workers", "2", endpoint=hub.endpoint)
    assert log.count("sha256 as listed") == 3

    assert hub.gets(first) == [0, 10 * 2**20], "a broken transfer goes on where it broke, to 10 MiB"
    assert hub.gets(second) == [0, 0], "one that does not match is fetched once more"
    assert hub.gets(VALIDATION) == [0]
    assert hub.gets("shard_00002.parquet") == []

    corpus = opened(tmp_path, "climbmix")
    assert corpus.name == "climbmix-2" and corpus.context == 2_048
    assert 1_000 < corpus.vocabulary <= 8_192 and corpus.bos == corpus.vocabulary - 1
    assert texts_of(corpus, corpus.train) == prose(0, 800) + prose(1, 800)
    assert texts_of(corpus, corpus.validation) == prose(6_542, 800)
    rows = rows_of(Packer(corpus.train, corpus.bos, corpus.context, seed=0), 100, corpus.context)
    assert (rows[:, 0] == corpus.bos).all() and rows.max() < corpus.vocabulary

    # A second run asks nothing; nor does a machine without network that has the shards and their checksums.
    hub.asked.clear()
    run(tmp_path, "climbmix", "--shards", "2", endpoint=hub.endpoint)
    assert hub.asked == []
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "climbmix", moved / "climbmix")
    run(moved, "climbmix", "--shards", "2")
    assert opened(moved, "climbmix").digest == corpus.digest

    # More shards make a corpus beside it, of which only the new shard is fetched.
    hub.asked.clear()
    run(tmp_path, "climbmix", "--shards", "3", endpoint=hub.endpoint)
    assert hub.wanted == {"listing", "shard_00002.parquet"}
    assert opened(tmp_path, "climbmix").name == "climbmix-3"
    assert opened(tmp_path, "climbmix-2").digest == corpus.digest

    # A corpus is damaged on the disk, and a shard that it would be made of again; then there is no network to mend it.
    os.truncate(moved / "climbmix-2" / "train.bin", 1_000)
    with pytest.raises(ValueError, match=r"train\.bin has 1000 bytes.*run `python prepare\.py climbmix --shards 2`"):
        opened(moved, "climbmix")
    damaged = moved / "climbmix" / first
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    line = refusal(moved, "climbmix", "--shards", "2")
    assert "1 of 3 shards are missing or damaged" in line and "python prepare.py stdlib" in line
    run(moved, "climbmix", "--shards", "2", endpoint=hub.endpoint)
    assert opened(moved, "climbmix").digest == corpus.digest


def test_what_is_wrong_is_one_line_that_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    line = refusal(tmp_path, "climbmix", "--shards", "1")
    assert "2 of 2 shards" in line and "Connection refused" in line and "stdlib" in line

    assert "is 1 to 6542, not 6543" in refusal(tmp_path, "climbmix", "--shards", "6543")

    line = refusal(tmp_path, "climbmix", "--shards", "4", endpoint=hub.endpoint)
    assert "has no shard_00003.parquet" in line and "--shards" in line

    hub.corrupt[VALIDATION] = 2
    line = refusal(tmp_path, "climbmix", "--shards", "1", endpoint=hub.endpoint)
    assert f"{VALIDATION} came twice with another sha256" in line
    assert hub.gets(VALIDATION) == [0, 0]
    assert not (tmp_path / "climbmix" / VALIDATION).exists()

    hub.files["shard_00000.parquet"] = shard(tmp_path, "odd.parquet", ["a"], column="content")
    line = refusal(tmp_path / "other", "climbmix", "--shards", "1", endpoint=hub.endpoint)
    assert "no column `text`: it has beside, content" in line


def test_two_at_once_do_the_work_once(hub: Hub, tmp_path: Path) -> None:
    both = [start(tmp_path, "climbmix", "--shards", "1", endpoint=hub.endpoint) for _ in range(2)]
    logs = [ended(process) for process in both]
    assert [status for status, _ in logs] == [0, 0], logs
    assert hub.gets("shard_00000.parquet") == hub.gets(VALIDATION) == [0]
    assert sum("training a tokenizer" in output for _, output in logs) == 1
    assert opened(tmp_path, "climbmix").name == "climbmix-1"


def test_what_was_killed_is_made_up_for(hub: Hub, tmp_path: Path) -> None:
    arguments = ("climbmix", "--shards", "1", "--workers", "1")
    partial = tmp_path / "climbmix-1.partial"

    hub.stalls.add(VALIDATION)
    downloading = start(tmp_path, *arguments, endpoint=hub.endpoint)
    eventually(hub.stalled.is_set, downloading)
    kill(downloading)
    hub.stalls.clear()
    assert list(tmp_path.glob("climbmix/.cache/huggingface/**/*.incomplete"))

    making = start(tmp_path, *arguments, endpoint=hub.endpoint)
    eventually(partial.exists, making)
    kill(making)
    assert not list(tmp_path.glob("climbmix/.cache/huggingface/**/*.incomplete"))
    assert hub.gets("shard_00000.parquet") == [0], "what had come before the kill is kept"
    with pytest.raises(FileNotFoundError):
        opened(tmp_path, "climbmix")
    (partial / "train.bin").write_text("half of it")

    run(tmp_path, *arguments)
    assert not partial.exists()
    assert texts_of(opened(tmp_path, "climbmix"), opened(tmp_path, "climbmix").train) == prose(0, 800)
