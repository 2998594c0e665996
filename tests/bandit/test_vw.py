"""What Vowpal Wabbit is told, seen through the bytes of its model: equal lessons give equal models."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit import vw
from bandit.errors import InvalidInput
from bandit.policy import parse
from bandit.session import AttemptRow, SessionChange
from bandit.types import (
    Arm,
    ArmScore,
    Bar,
    BarKind,
    Decision,
    Features,
    Objective,
    Offer,
    Price,
    SelectReason,
    Situation,
    Usage,
)

NAMES = ("A", "B", "C")
PRICE = Price(input_usd=2.0, output_usd=10.0, cached_usd=0.5)
DENIED = Bar(BarKind.POLICY, "denied")


@pytest.fixture(params=sorted(vw.EXPLORATIONS))
def policy(request: pytest.FixtureRequest) -> vw.VowpalWabbit:
    made = parse(f"vw:{request.param}")
    assert isinstance(made, vw.VowpalWabbit)
    assert made.spec == f"vw:{request.param}"
    return made


@pytest.fixture
def blank(policy: vw.VowpalWabbit) -> bytes:
    return policy.start([Arm(id=name) for name in NAMES])


def situation(names: Sequence[str] = NAMES, about: Features | None = None, denied: Sequence[str] = ()) -> Situation:
    return Situation(
        router="default",
        seed=0,
        session_id="s",
        attempt=1,
        attempts_left=1,
        features={"kind": "bug", "files": 3.0} if about is None else about,
        offers=tuple(Offer(arm=name, price=PRICE, bar=DENIED if name in denied else None) for name in names),
        objective=Objective(value_usd=4.0),
        exploration_floor=0.02,
        draws=8,
        alpha=1.0,
    )


def row(
    arm: str = "A",
    *,
    at: Situation | None = None,
    propensity: float = 0.4,
    reason: SelectReason = SelectReason.SAMPLED,
    decision_id: str = "d",
    **told: Any,
) -> AttemptRow:
    at = at or situation()
    decision = Decision(
        decision_id=decision_id,
        situation=at,
        arm=arm,
        propensity=propensity,
        reason=reason,
        scores=tuple(
            ArmScore(arm=offer.arm, propensity=propensity if offer.arm == arm else 0.3, bar=offer.bar)
            for offer in at.offers
        ),
        policy="vw:bag",
        policy_version="1",
        epoch=0,
        epoch_hash="",
    )
    row = AttemptRow(decision=decision, arm=arm, alarm=False, success=1.0, cost_usd=1.0, usage=None)
    return msgspec.structs.replace(row, **told)


def change(*after: AttemptRow, before: Sequence[AttemptRow] = ()) -> SessionChange:
    return SessionChange(session_id="s", before=tuple(before), after=after)


def test_an_exploration_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInput, match="vw:bag"):
        parse("vw:nothing")


def test_the_model_is_what_it_is_called(policy: vw.VowpalWabbit, blank: bytes) -> None:
    exploration = vw.EXPLORATIONS[policy.spec.removeprefix("vw:")]
    workspace = vw._load(blank)
    enabled = workspace.get_enabled_reductions()
    assert f"cb_explore_adf_{exploration.split()[0].removeprefix('--')}" in enabled
    assert b"--quadratic sa" in blank


# Which rows teach, and what


def test_a_row_whose_success_is_unknown_waits(policy: vw.VowpalWabbit, blank: bytes) -> None:
    assert policy.fold(blank, (), [change(row(success=None))]) == blank
    told = policy.fold(blank, (), [change(row(), before=[row(success=None)])])
    assert told == policy.fold(blank, (), [change(row())]) != blank


def test_an_alarm_without_truth_is_a_failure_and_its_truth_no_news(policy: vw.VowpalWabbit, blank: bytes) -> None:
    failed = policy.fold(blank, (), [change(row(success=0.0))])
    alarm = row(success=None, alarm=True)
    assert policy.fold(blank, (), [change(alarm)]) == failed
    assert policy.fold(failed, (), [change(row(success=0.0, alarm=True), before=[alarm])]) == failed


def test_the_truth_of_an_alarm_counts_where_it_is_known(policy: vw.VowpalWabbit, blank: bytes) -> None:
    good = policy.fold(blank, (), [change(row())])
    assert policy.fold(blank, (), [change(row(success=1.0, alarm=True))]) == good


def test_what_is_unchanged_is_not_learned_again(policy: vw.VowpalWabbit, blank: bytes) -> None:
    one, two = row(), row("B", decision_id="e", success=0.0)
    learned = policy.fold(blank, (), [change(one)])
    assert policy.fold(learned, (), [change(one, before=[one])]) == learned
    assert policy.fold(learned, (), [change(one, two, before=[one])]) == policy.fold(learned, (), [change(two)])


def test_what_is_corrected_is_learned_again(policy: vw.VowpalWabbit, blank: bytes) -> None:
    learned = policy.fold(blank, (), [change(row())])
    corrected = policy.fold(learned, (), [change(row(success=0.0), before=[row()])])
    assert corrected == policy.fold(learned, (), [change(row(success=0.0))]) != learned


def test_pinned_and_overridden_attempts_are_left_out(policy: vw.VowpalWabbit, blank: bytes) -> None:
    overridden = msgspec.structs.replace(row("A"), arm="B")
    for untaught in (row(reason=SelectReason.PINNED), overridden):
        assert policy.fold(blank, (), [change(untaught)]) == blank


def test_attempts_of_apprentice_mode_teach_like_any_other(policy: vw.VowpalWabbit, blank: bytes) -> None:
    taught = policy.fold(blank, (), [change(row(reason=SelectReason.BASELINE))])
    assert taught == policy.fold(blank, (), [change(row())]) != blank


def test_a_cost_that_was_not_told_is_that_of_the_usage(policy: vw.VowpalWabbit, blank: bytes) -> None:
    usage = Usage(input_tokens=1e5, output_tokens=1e4, cached_tokens=4e5)
    by_usage = policy.fold(blank, (), [change(row(cost_usd=None, usage=usage))])
    assert by_usage == policy.fold(blank, (), [change(row(cost_usd=0.2 + 0.1 + 0.2))])
    told = policy.fold(blank, (), [change(row(cost_usd=2.0, usage=usage))])
    assert told == policy.fold(blank, (), [change(row(cost_usd=2.0))]) != by_usage
    untold = policy.fold(blank, (), [change(row(cost_usd=None))])
    assert untold == policy.fold(blank, (), [change(row(cost_usd=0.0))])


def test_barred_arms_are_no_actions(policy: vw.VowpalWabbit, blank: bytes) -> None:
    without = policy.fold(blank, (), [change(row(at=situation(("A", "C"))))])
    assert policy.fold(blank, (), [change(row(at=situation(denied=("B",))))]) == without
    assert policy.fold(blank, (), [change(row(at=situation()))]) != without
    shorter = policy.distribution(without, situation(("A", "C"))).propensities
    longer = policy.distribution(without, situation(denied=("B",))).propensities
    assert longer == pytest.approx(np.array([shorter[0], 0.0, shorter[1]]), abs=1e-12)


def test_the_logged_propensity_weighs(policy: vw.VowpalWabbit, blank: bytes) -> None:
    """The importance weight is relative to those before, so the second row shows it."""
    first = policy.fold(blank, (), [change(row(decision_id="c", propensity=0.9))])
    often, seldom = (policy.fold(first, (), [change(row("B", propensity=p, success=0.0))]) for p in (0.9, 0.1))
    assert often != seldom


# What comes of it


def lessons(n: int, names: Sequence[str] = NAMES) -> list[SessionChange]:
    """Bugs are for the first arm, documents for the last; every arm is tried equally often on both."""
    kinds = ("bug", "docs")
    good = {"bug": names[0], "docs": names[-1]}
    rows = [
        row(
            names[i % len(names)],
            at=situation(names, {"kind": (kind := kinds[i // len(names) % 2]), "files": float(i % 5)}),
            propensity=1 / len(names),
            decision_id=f"d{i}",
            success=float(names[i % len(names)] == good[kind]),
        )
        for i in range(n)
    ]
    return [change(r) for r in rows]


@pytest.mark.parametrize("names", [NAMES, ("a b", "a:b", "a|b"), ("", " ", "\n"), ("名", "名名", "é")])
def test_the_context_tells_arms_apart_whatever_they_are_called(
    policy: vw.VowpalWabbit, blank: bytes, names: tuple[str, ...]
) -> None:
    model = policy.fold(blank, (), lessons(600, names))
    for kind, best in [("bug", 0), ("docs", 2)]:
        at = situation(names, {"kind": kind, "files": 2.0})
        assert policy.distribution(model, at).propensities[best] > 0.8


def test_whatever_the_names_the_model_learns_the_same(policy: vw.VowpalWabbit, blank: bytes) -> None:
    """Names are only hashed: nothing of them reaches the text format."""
    plain = policy.fold(blank, (), lessons(60))
    odd = policy.fold(blank, (), lessons(60, ("shared |s", "0:1:1 |a x", "|")))
    at_plain, at_odd = situation(), situation(("shared |s", "0:1:1 |a x", "|"))
    assert policy.distribution(odd, at_odd).propensities == pytest.approx(
        policy.distribution(plain, at_plain).propensities, abs=1e-6
    )


def test_blocks_may_be_cut_anywhere(policy: vw.VowpalWabbit, blank: bytes) -> None:
    """The random stream of the bootstrap goes on in the next block, and what is learned is the same up to rounding."""
    told = lessons(40)
    at_once, one_by_one = policy.fold(blank, (), told), blank
    for news in told:
        one_by_one = policy.fold(one_by_one, (), [news])
    seed = re.compile(rb"--random_seed (\d+)")
    assert seed.findall(one_by_one) == seed.findall(at_once)
    assert (seed.findall(at_once) != seed.findall(blank)) == ("bag" in policy.spec)
    assert policy.distribution(one_by_one, situation()).propensities == pytest.approx(
        policy.distribution(at_once, situation()).propensities, abs=0.02
    )


def test_predicting_changes_nothing(policy: vw.VowpalWabbit, blank: bytes) -> None:
    told = lessons(20)
    model = policy.fold(blank, (), told[:10])
    first = policy.distribution(model, situation()).propensities
    for i in range(50):
        policy.distribution(model, situation(about={"kind": f"new {i}"}))
    vw._cached.cache_clear()
    assert np.array_equal(policy.distribution(model, situation()).propensities, first)
    again = policy.fold(policy.fold(blank, (), told[:10]), (), told[10:])
    assert policy.fold(model, (), told[10:]) == again


def test_losses_far_beyond_the_usual_leave_a_distribution(policy: vw.VowpalWabbit, blank: bytes) -> None:
    """Nothing bounds what an attempt may cost, and regcb was told that losses end at 2."""
    told = [
        change(row(NAMES[i % 3], decision_id=f"d{i}", propensity=0.01, success=0.0, cost_usd=10.0**i)) for i in range(6)
    ]
    model = policy.fold(blank, (), told)
    for at in (situation(), situation(about={}), situation(denied=("A",))):
        propensities = policy.distribution(model, at).propensities
        allowed = np.array([offer.bar is None for offer in at.offers])
        assert propensities.sum() == pytest.approx(1.0)
        assert np.all(propensities[allowed] >= at.exploration_floor / allowed.sum() - 1e-12)
        assert np.all(propensities[~allowed] == 0.0)


@pytest.mark.parametrize("answer", [[0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.4, 0.0], [np.nan, 0.5, 0.5], []])
def test_nonsense_is_not_passed_on(
    policy: vw.VowpalWabbit, blank: bytes, answer: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def predict(self, _lines: list[str]) -> list[float]:
            return answer

    monkeypatch.setattr(vw, "_cached", lambda _model: Broken())
    with pytest.raises(ValueError, match="no distribution over 3 arms"):
        policy.distribution(blank, situation())
