"""The evaluation that peers run: it sleeps E seconds in a process of its own, and notes when that began and ended.

E is PEER_SECONDS, the notes go to the end of the file PEER_SPANS. OpenEvolve calls `evaluate`; ShinkaEvolve runs this
file and reads what it leaves in a folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def evaluate(program_path: str) -> dict[str, float]:
    number = int(Path(program_path).read_text().partition("X = ")[2].split()[0])
    note(number, "begins")
    subprocess.run(["sleep", os.environ["PEER_SECONDS"]], check=True)
    note(number, "ends")
    return {"combined_score": 1.0 + number % 97 / 100}


def note(number: int, what: str) -> None:
    with Path(os.environ["PEER_SPANS"]).open("a") as file:
        file.write(json.dumps([f"{os.getpid()}-{number}", what, time.time()]) + "\n")


if __name__ == "__main__":
    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    results = Path(words["--results_dir"])
    results.mkdir(parents=True, exist_ok=True)
    metrics = evaluate(words["--program_path"])
    (results / "metrics.json").write_text(json.dumps({**metrics, "public": {}, "private": {}}))
    (results / "correct.json").write_text(json.dumps({"correct": True, "error": None}))
