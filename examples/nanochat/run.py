"""Improve train.py on every GPU: `python run.py`, on a CPU `python run.py cpu.md`; the same under `ray submit`."""

import argparse
from pathlib import Path

from autoresearch_ray import Program, research

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("program", nargs="?", default="program.md", help="program.md, cpu.md or two_gpus.md")
parser.add_argument("--workers", type=int, help="how many at once (default: one per GPU, or what the program says)")
parser.add_argument("--hours", type=float, help="when to stop (default: what the program says)")
parser.add_argument("--agent", help="who proposes: claude, codex, command, knobs")
given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}

with research(Program.read(Path(__file__).with_name(given.pop("program"))), **given) as session:
    for experiment in session:
        print(experiment)
print(session.best)
