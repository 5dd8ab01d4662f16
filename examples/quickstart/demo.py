"""The demo, `make demo`: the quickstart in a repository of its own, run to its end, and what came of it shown.

It uses the command line and git as a user would, and leaves everything in `demo/` to look at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = Path("demo").absolute()
TAG = "demo"
CLI = [sys.executable, "-m", "autoresearch_ray"]
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "demo"), ("EMAIL", "demo@localhost"))
}


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=FOLDER, env={**os.environ, **WHO}, check=True)


def heading(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(HERE, FOLDER, ignore=shutil.ignore_patterns("demo.py", "__pycache__", ".autoresearch"))
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "the quickstart")
    os.environ["VIRTUAL_ENV"] = sys.prefix  # its evaluations run with this Python, whatever else is active
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run([*CLI, "run", "program.md", "--tag", TAG, *sys.argv[1:]], cwd=FOLDER, check=False)
    if done.returncode:
        return done.returncode
    heading("Best commit")
    subprocess.run([*CLI, "best", "--tag", TAG, "--text"], cwd=FOLDER, check=True)
    heading("What it changed")
    subprocess.run([*CLI, "diff", "--tag", TAG, "--text"], cwd=FOLDER, check=True)
    heading("results.tsv")
    print((FOLDER / ".autoresearch" / TAG / "results.tsv").read_text(), end="")
    heading("Look at")
    for name in ("report.md", "progress.png", "ledger.jsonl"):
        print(FOLDER / ".autoresearch" / TAG / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
