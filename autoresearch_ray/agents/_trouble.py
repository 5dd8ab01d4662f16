"""What kept an agent from an edit, read from what its tool printed.

Exit statuses say little: of five tools that were tried, one ends with 0 after a refused key. Words can mislead, too: an
agent may read code aloud in which "rate limit" stands. So this counts only where no file was changed, only the end of
the output is read, and of a tool that ended well only what programs print and people do not write.
"""

from __future__ import annotations

import re

from autoresearch_ray.breaker import THE_PROVIDER
from autoresearch_ray.model import Trouble, TroubleKind

_LIMITED, _GONE, _AUTH = TroubleKind.RATE_LIMITED, TroubleKind.UNAVAILABLE, TroubleKind.AUTH
_KINDS = {401: _AUTH, 402: _AUTH, 403: _AUTH, 408: _GONE, 429: _LIMITED}  # of statuses below 500

_STATUS = re.compile(
    r"""
    (?: \b HTTP (?:/[\d.]+)? | \b status (?:[ _-]?code)? | \b error (?:[ _-]?code)? | "code" )
    ["']? \s* [:=]? \s* ( [45]\d\d ) \b
    | \b ( [45]\d\d ) \s (?: Too.Many.Requests | Unauthorized | Payment.Required | Forbidden | Request.Timeout
        | Internal.Server.Error | Bad.Gateway | Service.Unavailable | Gateway.Time-?out | Overloaded )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NO_CREDIT = re.compile("insufficient_quota|billing_hard_limit|credit balance is too low")  # it answers 429, too
_NAMES = (  # of errors, as providers and their libraries write them
    (re.compile("rate_limit_e|RateLimitError|RESOURCE_EXHAUSTED|ThrottlingException|TooManyRequests"), _LIMITED),
    (
        re.compile("invalid_api_key|authentication_error|AuthenticationError|PermissionDeniedError|API_KEY_INVALID"),
        _AUTH,
    ),
    (
        re.compile(
            r"overloaded_error|InternalServerError|ServiceUnavailableError|API(?:Connection|Timeout)Error"
            r"|\bE(?:CONNREFUSED|CONNRESET|NOTFOUND|AI_AGAIN|TIMEDOUT)\b"
        ),
        _GONE,
    ),
)
_WORDS = (  # to people
    (
        re.compile(r"(?:rate|usage|request|token|5-hour|weekly)[ -]limit(?:ed)?\b|too many requests", re.IGNORECASE),
        _LIMITED,
    ),
    (
        re.compile(
            r"not logged in|/login\b|log ?in again|please (?:log|sign) ?in|unauthori[sz]ed|unauthenticated"
            r"|invalid (?:x-)?api[ -]key|(?:no|missing|set|provide) [\w ]{0,20}api[ _-]?key|token (?:has )?expired",
            re.IGNORECASE,
        ),
        _AUTH,
    ),
    (
        re.compile(
            "overloaded|connection (?:refused|reset|error|timed out)|could not resolve|name resolution"
            "|network is unreachable|temporarily unavailable|error sending request|fetch failed",
            re.IGNORECASE,
        ),
        _GONE,
    ),
)

_NUMBER = r"\d+(?:\.\d+)?"
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
_PIECE = re.compile(rf"({_NUMBER})\s*({_UNIT})?", re.IGNORECASE)
_ASKED = re.compile(  # a header, a field of JSON, or words; "retrying in" is the tool's own plan, and not asked for
    rf"""
    (?: retry[-_ ]?after (?P<ms>[-_]?ms)? | (?:try|available)\ again\ in | \b retry\ in | retryDelay | \b resets?\ in )
    \W{{0,4}} (?: about\  )?
    (?P<span> {_NUMBER} (?:\s*{_UNIT})? (?: (?:[\s,]|and)* {_NUMBER}\s*{_UNIT} )* )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def trouble_in(words: str, *, failed: bool) -> Trouble | None:
    """What the end of a tool's output says; None if that is nothing known. `failed`: the tool says that it failed."""
    kind = _kind(words, failed=failed)
    if kind is None:
        return None
    return Trouble(kind, retry_after_seconds(words) if kind in THE_PROVIDER else None)


def status_trouble(status: int) -> TroubleKind | None:
    """What an HTTP status says of the provider; None if it is the request's fault."""
    return _GONE if status >= 500 else _KINDS.get(status)


def answered(status: object, words: str) -> Trouble | None:
    """What an error is that a tool reports with the HTTP status it got; `words` may say how long to wait."""
    kind = status_trouble(status) if isinstance(status, int) else None
    return Trouble(kind, retry_after_seconds(words) if kind in THE_PROVIDER else None) if kind else None


def begins_with_status(words: str) -> Trouble | None:
    """The same of an error such as "401 Incorrect API key", as the JavaScript clients of providers write it."""
    found = re.match(r"([45]\d\d)\b", words)
    return answered(int(found[1]), words) if found else None


def retry_after_seconds(words: str) -> float | None:
    """How long the provider asks to be left alone, by what was said last: a header, or "try again in 1m30s"."""
    asked = list(_ASKED.finditer(words))
    if not asked:
        return None
    bare = 0.001 if asked[-1]["ms"] else 1.0
    return sum(float(number) * (_seconds(unit) if unit else bare) for number, unit in _PIECE.findall(asked[-1]["span"]))


def _kind(words: str, *, failed: bool) -> TroubleKind | None:
    if _NO_CREDIT.search(words):
        return _AUTH
    statuses = [int(found[1] or found[2]) for found in _STATUS.finditer(words)]
    for status in reversed(statuses):  # what a tool ended with stands last
        if kind := status_trouble(status):
            return kind
    tables = (*_NAMES, *_WORDS) if failed else _NAMES
    return next((kind for pattern, kind in tables if pattern.search(words)), None)


def _seconds(unit: str) -> float:
    unit = unit.lower()
    return 0.001 if unit == "ms" or unit.startswith("milli") else _SECONDS[unit[0]]
