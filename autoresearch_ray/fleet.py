"""A mixed fleet: which agent sits on which lane, and what its options are.

Pure, and a function of the lane's place alone: a lane that comes back has the agent that it had, and those that a
worker grows later take nothing from those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoresearch_ray.model import Member, Options

# The words of `Options` that a member may have of its own.
OWN = ("agent", "agent_command", "model", "base_url", "temperature", "extra_args", "agent_minutes")
_ALONE = (Member(),)


def members(options: Options) -> dict[str, Options]:
    """The agents of a run by the names that people are told, each with the options of a run that has it alone.

    A name is what the entry says, or its agent and its model, such as "claude:opus"; of two alike the second is
    "claude:opus 2".
    """
    found: dict[str, Options] = {}
    for member in options.agents or _ALONE:
        own = {name: value for name in OWN if (value := getattr(member, name)) is not None}
        alone = replace(options, agents=(), **own)
        plain = member.name or _called(alone)
        name, number = plain, 2
        while name in found:
            name, number = f"{plain} {number}", number + 1
        found[name] = alone
    return found


def seated(options: Options, worker: int, lane: int) -> tuple[str, Options]:
    """The name and the options of the agent on lane number `lane` of a worker; both count from 0.

    The lanes of a worker go through the agents in one order, and each worker begins one further on than the last: so
    the first lanes of all workers are shared out by weight, and so are all lanes of one worker.
    """
    chosen = dealt([each.weight for each in options.agents or _ALONE], worker + lane)
    return list(members(options).items())[chosen]


def dealt(weights: Sequence[float], place: int) -> int:
    """Which of the `weights` gets the place, counted from 0.

    R. Tijdeman, The chairman assignment problem (1980): of any number of first places each weight has its share, give
    or take less than one, which is as near as can be. Of those that may have the place, it goes to the one that would
    have too few soonest.
    """
    shares, slack = [each / sum(weights) for each in weights], 1 - 1 / max(2, 2 * len(weights) - 2)
    had = [0] * len(shares)
    chosen = 0
    for number in range(place + 1):
        due = [share * number - has for share, has in zip(shares, had, strict=True)]
        able = [index for index, share in enumerate(shares) if due[index] + share >= 1 - slack - 1e-9]
        chosen = min(able, key=lambda index: ((slack - due[index]) / shares[index], index))
        had[chosen] += 1
    return chosen


def providers(options: Options) -> dict[str, str]:
    """Whom each agent asks: those that ask for the same model at the same place are limited together."""
    return {
        name: " ".join(filter(None, (_called(own), own.base_url, own.agent_command)))
        for name, own in members(options).items()
    }


def _called(options: Options) -> str:
    return f"{options.agent}:{options.model}" if options.model else options.agent
