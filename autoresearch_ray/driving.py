"""What an agent that drives a run may do to it, besides reading: hand in experiments, say a word.

As in `tools`, signatures and docstrings are what a model reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoresearch_ray import steering
from autoresearch_ray.answers import Results, Told, ending, submitted
from autoresearch_ray.cli.folder import driver, find
from autoresearch_ray.errors import SetupError
from autoresearch_ray.steering import Patch, Result
from autoresearch_ray.tools import Tools

GRID = 256  # patches in one call: as many as the lanes of the largest run
_WAIT_SECONDS = 50.0  # clients give a call 60 s by default
_TAKEN_SECONDS = 3.0  # for a driver to take a message up, which looks five times a second


class Driving(Tools):
    """The same, and what writes. `by` is the name that stands beside what is handed in."""

    def __init__(self, tag: str | None = None, folder: Path | None = None, by: str = "mcp") -> None:
        super().__init__(tag, folder)
        self._by = by

    def submit(self, patch: str, idea: str, parent: str = "") -> Results:
        """Hand in one experiment: it is measured before what other agents propose, and judged by the same rules.

        `patch` is a unified diff as `git diff` prints it, paths from the top of the repository, only of files that may
        be changed. It is against the best there is or, with `parent`, a commit, an experiment's number or id, a lane.
        `idea` says in one line what is changed and why. Ask for the verdict with `results`.
        """
        return self.submit_grid([Patch(patch, idea)], parent)

    def submit_grid(self, patches: list[Patch], parent: str = "") -> Results:
        """Hand in many experiments at once, one change each: `patches`, at most 256, all against the same `parent`.

        Hand in as many as there are lanes, or more, so that every GPU has work; see `submit`. Ask for the verdicts with
        `results`, giving the ids of this answer.
        """
        if not 0 < len(patches) <= GRID:
            raise SetupError(f"a grid has 1 to {GRID} patches, not {len(patches)}", "split it into several calls")
        run = self._run()
        ids = steering.submit(run, patches, parent=parent, by=self._by)
        steering.taken_up(run, ids, _TAKEN_SECONDS)  # so that what is declined is told at once
        return self._results(ids, 0.0)

    def results(self, ids: list[str] | None = None, wait_seconds: float = 45.0) -> Results:
        """What came of the experiments `ids` that were handed in; without them, of all. The best value comes first,
        and at most 256 are told.

        Waits until all have a verdict, but at most `wait_seconds` (50 or less): while `done` is false, ask again.
        """
        return self._results(ids or [], min(max(wait_seconds, 0.0), _WAIT_SECONDS))

    def tell(self, text: str, lanes: list[str] | None = None, keep: bool = False) -> Told:
        """Say `text` to the agents that propose: it stands in their next three prompts, or with `keep` in all to come.

        Without `lanes` it is for all of them. Nothing is interrupted. Where lanes have no agent nobody hears it.
        """
        run = self._run()
        id = steering.tell(run, text, lanes or (), keep=keep)
        return Told(id, steering.taken_up(run, [id], _TAKEN_SECONDS))

    def _run(self) -> Path:
        return find(self._tag, self._folder)

    def _results(self, ids: Sequence[str], wait_seconds: float) -> Results:
        found = steering.results(self._run(), ids, wait_seconds)
        with self._reading() as (run, board):
            direction, alive, why = board.direction, driver(run).alive, ending(board)
        undecided = [each for each in found if not each.decided]
        note = ""
        if undecided and not alive:
            note = "the run is not being driven: what has no verdict gets one when its program is run again"
        elif why is not None and undecided and all(each.state in ("sent", "queued") for each in undecided):
            note = f"the run is closing ({why}): what was not begun is not measured any more"

        def worse(each: Result) -> tuple[bool, float]:
            return each.value is None, -direction.gain(each.value or 0.0, 0.0)

        ranked = [submitted(each) for each in sorted(found, key=worse)]
        return Results(not undecided or bool(note), len(undecided), note, ranked[:GRID], max(0, len(ranked) - GRID))
