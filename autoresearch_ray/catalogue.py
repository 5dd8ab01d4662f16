"""All experiments of a run, found by number, id, commit, files, or the changes that they are made of."""

from __future__ import annotations

from collections.abc import MutableMapping, Set

from autoresearch_ray.layered import LayeredDict, LayeredList
from autoresearch_ray.model import Experiment, Status


class Catalogue:
    """Pure: fed by `Board.apply`."""

    def __init__(self, baseline: Experiment, base: str) -> None:
        self.experiments: list[Experiment] = [baseline]  # by number
        self._by_id: MutableMapping[str, int] = {baseline.id: 0}
        self._by_commit: MutableMapping[str, int] = {base: 0}
        self._by_tree: MutableMapping[str, int] = {}
        self._made_of: MutableMapping[frozenset[str], str] = {}
        self._contains: dict[str, frozenset[str]] = {base: frozenset()}

    # --- Finding -----------------------------------------------------------------------------------------------------

    def number(self, id: str) -> int:
        """Raises `KeyError`."""
        return self._by_id[id]

    def measured(self, commit: str) -> int:
        """The number of the experiment that first measured `commit`. Raises `KeyError`."""
        return self._by_commit[commit]

    def at(self, commit: str) -> Experiment | None:
        """The experiment that first measured `commit`."""
        number = self._by_commit.get(commit)
        return None if number is None else self.experiments[number]

    def tree(self, tree: str) -> Experiment | None:
        """The experiment that measured these very files."""
        number = self._by_tree.get(tree)
        return None if number is None else self.experiments[number]

    def made_of(self, changes: Set[str]) -> str | None:
        """The commit that was kept of exactly these changes."""
        return self._made_of.get(frozenset(changes))

    def find(self, name: str) -> Experiment | None:
        """By id, by number ("12" or "#12"), or by at least four characters of its commit."""
        if name in self._by_id:
            return self.experiments[self._by_id[name]]
        digits = name.removeprefix("#")
        number = digits.lstrip("0") or "0"
        short = len(number) <= len(str(len(self.experiments)))  # `int` takes no more than some thousand digits
        if digits.isdecimal() and short and int(number) < len(self.experiments):
            return self.experiments[int(number)]
        return next((each for each in self.experiments if len(name) > 3 and (each.commit or "").startswith(name)), None)

    def contains(self, commit: str) -> frozenset[str]:
        """The changes that `commit` is made of, beyond the base: each by the commit that first proposed it."""
        steps = []
        while commit not in self._contains:
            experiment = self.experiments[self._by_commit[commit]]
            steps.append((commit, experiment))
            commit = experiment.parent
        found = self._contains[commit]
        for commit, experiment in reversed(steps):
            found |= frozenset(experiment.picked if experiment.kind == "replay" else (commit,))
            if experiment.status is Status.KEEP:
                self._contains[commit] = found
        return found

    # --- Taking in ---------------------------------------------------------------------------------------------------

    def add(self, experiment: Experiment) -> None:
        """The next one. A commit or files whose measurement was lost are measured by it."""
        number = len(self.experiments)
        self.experiments.append(experiment)
        self._by_id[experiment.id] = number
        known = self.at(experiment.commit) if experiment.commit else None
        if experiment.commit and (known is None or known.status is Status.LOST):
            self._by_commit[experiment.commit] = number  # picked onto its own parent, it may be the very commit
        known = self.tree(experiment.tree)
        if experiment.tree and (known is None or known.status is Status.LOST):
            self._by_tree[experiment.tree] = number

    def put(self, experiment: Experiment) -> None:
        """In the place of what was known of it."""
        self.experiments[experiment.number] = experiment

    def kept(self, commit: str) -> None:
        """Its changes need not be brought together again."""
        self._made_of.setdefault(self.contains(commit), commit)

    def fork(self) -> Catalogue:
        """A copy that reads through to this one and keeps its own changes to itself."""
        fork = Catalogue.__new__(Catalogue)
        fork.experiments = LayeredList(self.experiments)
        fork._by_id, fork._by_commit = LayeredDict(self._by_id), LayeredDict(self._by_commit)
        fork._by_tree, fork._made_of = LayeredDict(self._by_tree), LayeredDict(self._made_of)
        fork._contains = self._contains
        return fork
