"""Gates: conditions on a candidate against a baseline, in a small language that is parsed and never evaluated.

    success >= baseline - 0.02 and cost <= 0.8 * baseline

A condition compares one figure of the candidate, a mean over sessions, with a number times the baseline's, plus or
minus a number.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bandit.errors import InvalidInput
from bandit.intervals import Interval

Metric: TypeAlias = Literal["success", "cost", "utility"]
Verdict: TypeAlias = Literal["pass", "fail", "undecided"]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_CONDITION = re.compile(
    rf"\s*(?P<metric>success|cost|utility)\s*(?P<relation>>=|<=)\s*"
    rf"(?:(?P<factor>{_NUMBER})\s*\*\s*)?baseline\s*(?:(?P<sign>[+-])\s*(?P<offset>{_NUMBER})\s*)?"
)
_JOINT = re.compile(r"and\b")
_LONGEST = 1_000
_MOST = 1e12


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One comparison, as asked: ``metric >= factor * baseline + offset``, or ``<=``."""

    text: str
    metric: Metric
    at_least: bool
    factor: float
    offset: float


def parse(text: str, field: str = "gate") -> tuple[Condition, ...]:
    """The conditions of a gate. Raises InvalidInput naming `field`, and where it is not understood."""
    if len(text) > _LONGEST:
        raise InvalidInput(field, f"is longer than {_LONGEST} characters")
    conditions = []
    at = 0
    while True:
        found = _CONDITION.match(text, at)
        if found is None:
            raise InvalidInput(
                field,
                f"not understood from {text[at : at + 30]!r} on; it is 'success|cost|utility >=|<= [number *] baseline "
                "[+|- number]', joined by 'and'",
            )
        condition = _condition(found)
        if max(condition.factor, abs(condition.offset)) > _MOST:
            raise InvalidInput(field, f"a number in {condition.text!r} is too large")
        conditions.append(condition)
        at = found.end()
        if at == len(text):
            return tuple(conditions)
        joint = _JOINT.match(text, at)
        if joint is None:
            raise InvalidInput(field, f"'and' or the end is missing before {text[at : at + 30]!r}")
        at = joint.end()


def _condition(found: "re.Match[str]") -> Condition:
    metric: Metric = "success" if found["metric"] == "success" else "cost" if found["metric"] == "cost" else "utility"
    return Condition(
        text=found[0].strip(),
        metric=metric,
        at_least=found["relation"] == ">=",
        factor=float(found["factor"] or 1.0),
        offset=float((found["sign"] or "") + (found["offset"] or "0")),
    )


def judge(conditions: tuple[Condition, ...], excess: Callable[[Condition], Interval]) -> tuple[Verdict, str]:
    """The gate's verdict, and why. `excess` gives the interval of candidate - factor x baseline - offset.

    A condition is met where that interval lies wholly in, not met where it lies wholly out, else undecided; the gate
    fails where one is not met, and passes where all are met.
    """
    verdicts, reasons = [], []
    for condition in conditions:
        interval = excess(condition)
        low, high = (interval.low, interval.high) if condition.at_least else (-interval.high, -interval.low)
        verdict: Verdict = "pass" if low >= 0.0 else "fail" if high < 0.0 else "undecided"
        verdicts.append(verdict)
        reasons.append(
            f"{condition.text}: {verdict}, {interval.estimate:+.4g} from the bound "
            f"({interval.low:+.4g} to {interval.high:+.4g})"
        )
    whole: Verdict = "fail" if "fail" in verdicts else "undecided" if "undecided" in verdicts else "pass"
    return whole, "; ".join(reasons)
