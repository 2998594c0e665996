"""The language of gates, and its verdicts."""

import pytest

from bandit import gate
from bandit.errors import InvalidInput
from bandit.intervals import Interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("success >= baseline", ("success", True, 1.0, 0.0)),
        ("cost<=0.8*baseline", ("cost", False, 0.8, 0.0)),
        (" utility >= 1.05 * baseline - .25 ", ("utility", True, 1.05, -0.25)),
        ("success>=baseline+2e-2", ("success", True, 1.0, 0.02)),
    ],
)
def test_a_condition_is_read(text: str, expected: tuple[str, bool, float, float]) -> None:
    (found,) = gate.parse(text)
    assert (found.metric, found.at_least, found.factor, found.offset) == expected


def test_conditions_are_joined_by_and() -> None:
    found = gate.parse("success >= baseline - 0.02 and cost <= 0.8*baseline and utility >= baseline")
    assert [condition.metric for condition in found] == ["success", "cost", "utility"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "success",
        "success > baseline",
        "success >= 0.9",
        "latency <= baseline",
        "success >= baseline or cost <= baseline",
        "success >= baseline and",
        "success >= baseline cost <= baseline",
        "success >= -1 * baseline",
        "success >= baseline * 2",
        "success >= __import__('os')",
        "success >= baselineand cost <= baseline x",
        "success >= baseline" + " " * 2_000,
        "cost <= 1e99 * baseline",
    ],
)
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="gate"):
        gate.parse(text)


@pytest.mark.parametrize(
    ("interval", "verdict"), [((0.01, 0.2), "pass"), ((-0.2, -0.01), "fail"), ((-0.1, 0.1), "undecided")]
)
def test_verdicts_follow_the_interval(interval: tuple[float, float], verdict: str) -> None:
    low, high = interval
    for text, sign in (("success >= baseline", 1.0), ("cost <= baseline", -1.0)):
        ends = sorted((sign * low, sign * high))
        assert gate.judge(gate.parse(text), lambda _, ends=ends: Interval(0.0, *ends))[0] == verdict


def test_one_failure_fails_and_one_doubt_leaves_it_open() -> None:
    conditions = gate.parse("success >= baseline and cost <= baseline")
    ends = {"success": Interval(0.1, 0.05, 0.15), "cost": Interval(0.0, -0.1, 0.1)}
    assert gate.judge(conditions, lambda condition: ends[condition.metric])[0] == "undecided"
    ends["cost"] = Interval(0.2, 0.1, 0.3)
    verdict, why = gate.judge(conditions, lambda condition: ends[condition.metric])
    assert verdict == "fail"
    assert "success >= baseline: pass" in why
    assert "cost <= baseline: fail" in why
