"""The nanochat example, for the tests of it: where it lies, its corpus, and what it prints."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from data import Corpus

NANOCHAT = Path(__file__).parents[1] / "examples" / "nanochat"
SUMMARY = [
    "val_bpb",
    "training_seconds",
    "total_seconds",
    "peak_vram_mb",
    "mfu_percent",
    "total_tokens_M",
    "num_steps",
    "num_params_M",
    "depth",
    "device",
    "clock",
    "seed",
]


def opened(data: Path, name: str = "stdlib") -> Corpus:
    """A corpus of an AUTORESEARCH_DATA folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(data))
        return Corpus.open(name)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status, and what it printed."""
    output, _ = process.communicate(timeout=100)
    return process.returncode, output


def summary_of(log: str) -> dict[str, str]:
    """What stands behind the last line `---`."""
    return dict(re.findall(r"^(\w+): (.+)$", log.rpartition("\n---\n")[2], re.M))
