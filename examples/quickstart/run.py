"""Improve train.py with two workers on this machine, in two to three minutes: `python run.py`."""

from pathlib import Path

from autoresearch_ray import Program, research

with research(Program.read(Path(__file__).with_name("program.md"))) as session:
    for experiment in session:
        print(experiment)
print(session.best)
