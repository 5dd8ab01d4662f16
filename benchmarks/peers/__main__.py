"""How busy the slots of peers are, and ours, with the same model seconds and the same sleep for an evaluation.

    python -m benchmarks.peers --peer openevolve --slots 4 --ratio 0.33

Each peer is installed from the package index, at the version in the file beside this one, into an environment of its
own. It runs for so many minutes from its first evaluation, and is then killed. `busy` is the sum of its evaluations'
seconds in that time over slots and time, noted by the evaluations themselves; nothing is taken off for its start. Ours
is what `benchmarks.busy` finds in the ledger, which leaves out evaluations that only fill a slot.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import busy, conclude, machine, scratch

_HERE = Path(__file__).parent
_PINS = {"openevolve": "openevolve.txt", "shinka": "shinka.txt", "shinka-adaptive": "shinka.txt"}
_OURS = "autoresearch_ray"
_PATIENCE_SECONDS = 120.0  # for the first evaluation


@dataclass(frozen=True, slots=True)
class Cell:
    """One peer at one ratio of model seconds to evaluation seconds."""

    peer: str
    slots: int
    ratio: float
    sequential: float
    busy: float
    experiments: float  # evaluations that ended, per slot and hour
    met: bool | None = None  # nothing is claimed of peers

    @property
    def cells(self) -> tuple[str, ...]:
        figures = (f"{self.sequential:.2f}", f"{self.busy:.3f}", f"{self.experiments:.0f}")
        return (self.peer, str(self.slots), f"{self.ratio:g}", *figures)


def spans(lines: Iterable[str], until: float) -> list[tuple[float, float]]:
    """When evaluations began and ended; those that had not ended by then end there."""
    begun: dict[str, float] = {}
    found = []
    for line in lines:
        name, what, at = json.loads(line)
        if what == "begins":
            begun[name] = at
        else:
            found.append((begun.pop(name), at))
    return found + [(at, until) for at in begun.values()]


def installed(peer: str, folder: Path) -> Path:
    """The Python of the peer's own environment, made where it is not there yet."""
    pins = _HERE / _PINS[peer]
    place = folder / pins.stem
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", pins], check=True)
    return python


def ours(slots: int, ratio: float, seconds: float, minutes: float, at_random: bool) -> Cell:
    with scratch() as folder:
        cell = busy.run(folder, slots, seconds, ratio, None, minutes, at_random, "ray")
    return Cell(_OURS, slots, ratio, cell.sequential, cell.busy, cell.experiments, cell.met)


def run(python: Path, peer: str, slots: int, ratio: float, seconds: float, minutes: float, model: str) -> Cell:
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:
        folder = Path(scratch)
        notes = folder / "spans"
        notes.touch()
        environ = {**os.environ, "PEER_SECONDS": f"{seconds:g}", "PEER_SPANS": str(notes)}
        server = [sys.executable, str(_HERE / "stub.py"), f"{ratio * seconds:g}", model]
        with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as stub:
            try:
                assert stub.stdout is not None
                port = stub.stdout.readline().strip()
                driver = [str(python), str(_HERE / "drive.py"), peer, str(slots), port, scratch]
                begin, end = _watched(driver, folder, environ, notes, 60 * minutes)
            finally:
                stub.kill()
        seen = [(max(at, begin), min(to, end)) for at, to in spans(notes.read_text().splitlines(), end)]
    return Cell(
        peer=peer,
        slots=slots,
        ratio=ratio,
        sequential=1 / (1 + ratio),
        busy=sum(max(0.0, to - at) for at, to in seen) / (slots * (end - begin)),
        experiments=3600 * sum(to < end for _, to in seen) / (slots * (end - begin)),
    )


def _watched(
    driver: list[str], folder: Path, environ: dict[str, str], notes: Path, seconds: float
) -> tuple[float, float]:
    """Run a driver for so long from its first evaluation on, then kill it: when that began, and when it ended."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            driver, cwd=folder, env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        limit = time.time() + _PATIENCE_SECONDS
        while not notes.stat().st_size:
            if process.poll() is not None or time.time() > limit:
                raise click.ClickException(f"{driver[2]} evaluates nothing:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)
        begin = float(json.loads(notes.read_text().splitlines()[0])[2])
        time.sleep(max(0.0, begin + seconds - time.time()))
        return begin, begin + seconds
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@click.command()
@click.option("--peer", "peers", multiple=True, type=click.Choice([_OURS, *_PINS]), default=(_OURS, *_PINS))
@click.option("--slots", multiple=True, type=int, default=(4, 8), show_default=True)
@click.option("--ratio", "ratios", multiple=True, type=float, default=(0.1, 0.33, 1.0, 2.0), show_default=True)
@click.option("--random", "at_random", is_flag=True, help="The model takes exponentially distributed times.")
@click.option("--minutes", default=3.0, show_default=True, help="Of each run.")
@click.option("--seconds", default=6.0, show_default=True, help="Of one evaluation: E.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default="/tmp/peers", show_default=True, help="Their environments."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    peers: tuple[str, ...],
    slots: tuple[int, ...],
    ratios: tuple[float, ...],
    at_random: bool,
    minutes: float,
    seconds: float,
    folder: Path,
    as_json: bool,
) -> None:
    """How busy slots are while a model thinks, ours and those of peers. A model takes A seconds, an evaluation E."""
    where = machine()
    model = "random" if at_random else "even"
    pythons = {peer: installed(peer, folder.absolute()) for peer in peers if peer != _OURS}
    table = [
        run(pythons[peer], peer, each, ratio, seconds, minutes, model)
        if peer in pythons
        else ours(each, ratio, seconds, minutes, at_random)
        for peer in peers
        for each in slots
        for ratio in ratios
    ]
    conclude("peers", where, table, as_json, ("peer", "slots", "A/E", "E/(A+E)", "busy", "exp/slot-hour"))


if __name__ == "__main__":
    main()
