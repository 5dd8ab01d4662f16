"""One more round for an edit that was refused, or that crashed at once by a slip: when there is one, and in what words.

An idea is worth more than the bracket that was forgotten. So an agent that can repair its edit is told what was wrong
with it, once for each order: then what it has made of it counts. Pure.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace

from autoresearch_ray.brief import IDEA_LINE, one_line, quoted
from autoresearch_ray.model import Brief, Failure, FailureKind, Measurement

_SHARE = 0.1  # of the budget: a crash within it costs little next to a measurement
_MOST_SECONDS = 30.0  # what ran for longer has begun to do its work
_LEAST_SECONDS = 5.0  # to import torch takes 2.6 seconds, whatever the budget is
_UNCAUGHT = 1  # the exit status of a Python that an exception has ended
_MESSAGE_LINES = 12  # torch.compile says the reason three lines below the name of the exception

_EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]:[ ])?(?:\w+\.)*(\w*(?:Error|Exception|Interrupt|Exit))(?::.*)?$", re.MULTILINE
)
_OF_A_CHILD = frozenset({"CalledProcessError", "ChildFailedError"})  # of subprocess, of torchrun: its own stands before
_SLIPS = frozenset(
    {
        *("SyntaxError", "IndentationError", "TabError", "ImportError", "ModuleNotFoundError", "AttributeError"),
        *("NameError", "UnboundLocalError", "TypeError"),
    }
)
_MISSING = frozenset({"ImportError", "ModuleNotFoundError"})
_MAY_BE_OF_SHAPES = frozenset(
    {"RuntimeError", "ValueError", "IndexError", "AxisError", "AssertionError", "TorchRuntimeError"}
)
# Of tensors that do not fit together, in the words of torch, numpy and jax; of their kinds and devices as well.
_SHAPES = re.compile(
    r"""
    broadcast | (?:size|shape|dim\w*|dtype)\ mismatch | mismatch\ in\ its | not\ aligned | cannot\ be\ multiplied
    | reduction\ dim | cannot\ reshape | is\ invalid\ for\ input\ of\ size | size\ is\ not\ compatible
    | inhomogeneous\ shape | incompatible\ shapes? | to\ be\ equal\ size | must\ match | size\ \(\d+\)\ to\ match
    | (?:must|to)\ have\ the\ same | expected\ (?:input|size) | to\ have\ \d+\ channels
    | out\ of\ bounds\ for\ array\ of\ dimension | dimension\ out\ of\ range | too\ many\ indices
    | must\ be\ divisible\ by | on\ the\ (?:same|expected)\ device | expected\ (?:scalar\ type|dtype)
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What an agent is to repair: in one line for the record, and in the words that it is told."""

    what: str
    words: str


def asked(brief: Brief, fault: Fault) -> Brief:
    """The same proposal, to go on with; at most 4000 bytes longer."""
    words = (
        f"{fault.words}\n\nThis is the only repair. Change nothing else, and end your answer once more with the line"
        f" that names the change:\n\n{IDEA_LINE}\n"
    )
    return replace(brief, prompt=f"{brief.prompt.rstrip()}\n\n## Repair your edit\n\n{words}", repair=True)


def refused(failure: Failure) -> Fault | None:
    """What is to be repaired of an edit that may not be measured; None if a repair is not what helps."""
    if failure.kind is not FailureKind.OUT_OF_SCOPE:
        return None
    what = one_line(failure.message, 500)
    return Fault(
        what,
        f"Your edit was refused before it was measured: {what}. That was put back as it was. The rest of your edit"
        " stands in the files: make it work within the scope, or leave it as it is if it works without.",
    )


def misspelt(what: str) -> Fault:
    """What is to be repaired of files that are `unreadable`.

    The program may run in a newer Python than ours: so this is asked and not decided, and what stands is measured.
    """
    what = one_line(what, 300)
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return Fault(
        what,
        f"Your edit stands in the files and was not measured yet, because {python} cannot read it: {what}. Mend that."
        " If the program runs in a newer Python that can read it, leave it as it is.",
    )


def crashed(measurement: Measurement, budget_seconds: float) -> Fault | None:
    """What is to be repaired of an evaluation that ended at once, by what looks like a slip; None of any other."""
    failure = measurement.failure
    if failure is None or failure.kind is not FailureKind.CRASH or measurement.exit_code != _UNCAUGHT:
        return None
    if measurement.wall_seconds > early_seconds(budget_seconds):
        return None
    name, what = slip(failure.tail)
    if not what:
        return None
    missing = (
        " Nothing can be installed for it, neither by you nor by the program: what is missing has to be done without."
        if name in _MISSING
        else ""
    )
    return Fault(
        what,
        f"Your edit stands in the files. Its evaluation crashed after {measurement.wall_seconds:.0f} seconds, by what"
        " looks like a slip. Keep the idea, and mend the slip with as little as that takes. If it cannot be mended,"
        f" leave the files as they are.{missing}\n\nThe end of its log follows. {quoted(failure.tail)}",
    )


def early_seconds(budget_seconds: float) -> float:
    """Until when a crash is an early one."""
    return min(_MOST_SECONDS, max(_LEAST_SECONDS, _SHARE * budget_seconds))


def slip(tail: str) -> tuple[str, str]:
    """The name of the last exception in a log, and its line, if it looks trivial; two times "" if not.

    Trivial is what a reader would mend without a thought of the idea: syntax, imports, names, arguments, and shapes.
    """
    found = [each for each in _EXCEPTION.finditer(tail) if each[1] not in _OF_A_CHILD]
    if not found:
        return "", ""
    name, line = found[-1][1], one_line(found[-1][0], 300)
    if name in _SLIPS:
        return name, line
    message = "\n".join(tail[found[-1].start() :].split("\n")[:_MESSAGE_LINES])
    return (name, line) if name in _MAY_BE_OF_SHAPES and _SHAPES.search(message) else ("", "")
