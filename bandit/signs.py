"""What the reports on a running attempt say of it, as numbers: the same in every language, for every agent.

Reports carry counts since the attempt began. They may come in another order than they were made in, and some may not
come at all: counts only grow, so the largest told of each is its newest. What is unknown is marked as unknown, which
is not nought.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bandit.types import Decision, Signals

FEWEST_CALLS = 8
"""Tool calls that make up the recent ones, at least: about the last four turns of an agent that makes two a turn."""

NAMES = (
    "belief",
    "belief unknown",
    "age",
    "age unknown",
    "age x age",
    "errors",
    "errors unknown",
    "errors x age",
    "repeats",
    "repeats unknown",
    "repeats x age",
    "recent errors",
    "recent repeats",
    "recent unknown",
    "spent",
    "spent unknown",
    "failed tests",
    "failed tests unknown",
    "reverted edits",
    "reverted edits unknown",
)
"""Of the signs, in order. The belief is the logit of the success that the attempt's decision expected."""

_LARGEST_LOGIT = 6.0
_TYPICAL_CALLS = 16.0
"""Where the logarithm of the age is 0."""
_CALLS_OF_A_TURN = 2
_USUAL_BAD = 0.1
"""Share of tool calls that fail or are repetitions in an attempt that gets on."""
_LARGEST_LOG = 4.0

_NOTHING_YET = Signals(turns=0, tool_calls=0, tool_errors=0, repeated_calls=0)


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What was known of an attempt at one report."""

    stratum: int
    """How old the attempt was, in strata of tool calls that begin at 1, 2, 3, 4, 6, 8, 12, 16, 24, …; 0: unknown, or
    nothing done."""
    signs: tuple[float, ...]
    """As named by NAMES."""


class Recent(NamedTuple):
    """The last tool calls, at least FEWEST_CALLS of them."""

    calls: int
    failed: int
    repeated: int


def recent(reports: Sequence[Signals], *, whole: bool) -> Recent | None:
    """What came of an attempt's last tool calls, as far as is known; None where too few are known of.

    `whole` says that the reports are all there were, so that they begin at the attempt's beginning.
    """
    known = [(signals.tool_calls, signals) for signals in reports if signals.tool_calls is not None]
    if whole:
        known.insert(0, (0, _NOTHING_YET))
    if not known:
        return None
    made, newest = max(known, key=lambda it: it[0])
    before = [(calls, signals) for calls, signals in known if made - calls >= FEWEST_CALLS]
    if not before:
        return None
    made_before, earlier = max(before, key=lambda it: it[0])
    return Recent(
        calls=made - made_before,
        failed=_more(earlier.tool_errors, newest.tool_errors),
        repeated=_more(earlier.repeated_calls, newest.repeated_calls),
    )


def mark(decision: Decision, reports: Sequence[Signals], *, whole: bool) -> Mark:
    """What an attempt's reports, at least one, say of it at the newest of them; `whole` is as for `recent`."""
    calls, turns = _most(reports, "tool_calls"), _most(reports, "turns")
    age = calls if calls is not None else turns * _CALLS_OF_A_TURN if turns is not None else None
    log_age = _held(math.log((1.0 + age) / _TYPICAL_CALLS)) if age is not None else 0.0
    score = next((score for score in decision.scores if score.arm == decision.arm), None)
    belief = score.success_mean if score is not None else None
    expected_usd = score.cost_usd if score is not None else None
    errors = _share(_most(reports, "tool_errors"), calls)
    repeats = _share(_most(reports, "repeated_calls"), calls)
    last = recent(reports, whole=whole)
    spent = spent_usd(decision, reports)
    ratio = math.log((spent + 1e-9) / expected_usd) if spent is not None and expected_usd else None
    signs = (
        *_known(logit(belief) if belief is not None else None),
        *_known(log_age if age is not None else None),
        log_age**2,
        *_known(errors),
        (errors or 0.0) * log_age,
        *_known(repeats),
        (repeats or 0.0) * log_age,
        _share(last.failed, last.calls) or 0.0 if last is not None else 0.0,
        _share(last.repeated, last.calls) or 0.0 if last is not None else 0.0,
        float(last is None),
        *_known(_held(ratio) if ratio is not None else None),
        *_known(_log_count(_most(reports, "failed_tests"))),
        *_known(_log_count(_most(reports, "reverted_edits"))),
    )
    return Mark(stratum=_stratum(age) if age is not None else 0, signs=signs)


def _stratum(age: int) -> int:
    digits = age.bit_length()
    return 0 if age == 0 else 2 * digits - 1 + (age >> (digits - 2) & 1 if digits > 1 else 0)


def spent_usd(decision: Decision, reports: Sequence[Signals]) -> float | None:
    """Dollars of the attempt so far: as told, or its tokens at the prices of its decision; None where unknown."""
    told = [signals.cost_usd for signals in reports if signals.cost_usd is not None]
    if told:
        return max(told)
    price = next((offer.price for offer in decision.situation.offers if offer.arm == decision.arm), None)
    used = [price.dollars(s.usage) for s in reports if s.usage is not None] if price is not None else []
    return max(used, default=None)


def logit(p: float) -> float:
    """The logit of a probability, held to what counts as certain."""
    least = 1.0 / (1.0 + math.exp(_LARGEST_LOGIT))
    p = min(max(p, least), 1.0 - least)
    return math.log(p / (1.0 - p))


def _most(reports: Sequence[Signals], count: str) -> int | None:
    return max((told for signals in reports if (told := getattr(signals, count)) is not None), default=None)


def _more(before: int | None, now: int | None) -> int:
    """How many came between two reports, as far as is known."""
    return max(0, now - before) if before is not None and now is not None else 0


def _share(bad: int | None, calls: int | None) -> float | None:
    """By how much the share of bad calls is above the usual; None where it is not known. Few calls say little."""
    if bad is None or calls is None:
        return None
    return (min(bad, calls) - _USUAL_BAD * calls) / (calls + 4.0)


def _held(log: float) -> float:
    return min(max(log, -_LARGEST_LOG), _LARGEST_LOG)


def _log_count(count: int | None) -> float | None:
    return min(math.log1p(count), _LARGEST_LOG) if count is not None else None


def _known(value: float | None) -> tuple[float, float]:
    """A sign and whether it is unknown."""
    return (0.0, 1.0) if value is None else (value, 0.0)
