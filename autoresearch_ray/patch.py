"""Somebody's patch, as a commit of the run. It is applied to an index by our own git, and never to any folder.

What holds for an agent's edit holds for a patch: all of it in scope, plain files alone, and something that can have an
effect. Binary patches are not taken: a few bytes of one may unpack to any size.
"""

from __future__ import annotations

import tempfile

from autoresearch_ray import bare
from autoresearch_ray.bare import Entry
from autoresearch_ray.brief import one_line
from autoresearch_ray.model import Failure, FailureKind, Scope
from autoresearch_ray.sameness import LARGEST_BYTES, no_effect
from autoresearch_ray.store import COMMIT_MB, Candidate, Store, message

_APPLY = ("apply", "--cached", "--whitespace=nowarn")


def applied(
    store: Store, patch: str, parent: str, idea: str, scope: Scope, prefix: str, id: str
) -> Candidate | Failure:
    """The commit that `patch` makes of `parent`, or why there is none; `scope` counts from `prefix`, as for agents.

    `id` stands in its message. Raises `RepoError` when git itself fails.
    """
    if "GIT binary patch" in patch:
        return Failure(FailureKind.OUT_OF_SCOPE, "a binary file cannot be submitted")
    with tempfile.TemporaryDirectory() as scratch:
        index = f"{scratch}/index"
        store.git("read-tree", parent, GIT_INDEX_FILE=index)
        here, data = {"GIT_DIR": str(store.folder), "GIT_INDEX_FILE": index}, (patch.rstrip("\n") + "\n").encode()
        done = bare.run(*_APPLY, folder=store.folder, stdin=data, more=here)
        if done.code != 0:  # models count the lines of a hunk wrongly more often than they write a wrong one
            again = bare.run(*_APPLY, "--recount", folder=store.folder, stdin=data, more=here)
            if again.code != 0:
                return Failure(FailureKind.CONFLICT, f"it does not apply to {parent[:7]}: {_said(done.err)}")
        tree = store.git("write-tree", GIT_INDEX_FILE=index).decode().strip()
    if tree == store.tree(parent):
        return Failure(FailureKind.NO_CHANGE, "no file is changed by it")
    commit = store.git("commit-tree", tree, "-p", parent, stdin=message(idea, id)).decode().strip()
    if failure := store.inside(parent, commit, scope, prefix):
        return failure
    before, after = store.entries(parent), store.entries(commit)
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    if (
        sum(after[path].size or 0 for path in changed if path in after) > COMMIT_MB << 20
    ):  # it may copy a file 5,000 times
        return Failure(FailureKind.OUT_OF_SCOPE, f"more than {COMMIT_MB} MB of changes")
    if all(_is_idle(store, path, before.get(path), after.get(path)) for path in changed):
        return Failure(FailureKind.NO_EFFECT, "only a seed, a comment or white space differs")
    return store.candidate(parent, [commit])


def _is_idle(store: Store, path: str, before: Entry | None, after: Entry | None) -> bool:
    """Whether nothing that differs between the two files can have an effect."""
    if before and after and (before.mode != after.mode or max(before.size or 0, after.size or 0) > LARGEST_BYTES):
        return False
    old, new = (store.git("cat-file", "blob", each.oid) if each else None for each in (before, after))
    return no_effect(path, old, new)


def _said(err: str) -> str:
    """What git says, on one line: the first complaint names the file and the line."""
    if "No valid patches in input" in err:  # and git names a flag of its own, as if that were the way out
        return "it is no unified diff, such as `git diff` writes"
    lines = [each.removeprefix("error: ").removeprefix("fatal: ") for each in err.splitlines() if each.strip()]
    return one_line("; ".join(lines[:3]), 500) or "git does not say why"
