"""The words of a decision and a session: of a real decision, and of what others would have done in its place."""

import msgspec
import pytest

from bandit import record
from bandit.events import Decided, Escalated, Rewarded
from bandit.session import apply
from bandit.types import EscalationReason, Objective, Outcome, SelectReason, Shadow
from pointsman.v1 import routing_pb2 as pb
from server import explain
from server.commands import DecisionView, SessionView, Told


@pytest.fixture(scope="module")
def made(serving, tmp_path_factory):
    """A decision between two arms of which something is believed, as logged."""
    config = "".join(f'[[arms]]\nid = "{arm}"\nfigures = [{{ success_rate = 0.5, cost_usd = 0.3 }}]\n' for arm in "ab")
    server = serving(tmp_path_factory.mktemp("explain") / "data", config)
    chosen = server.routing.Select(pb.SelectRequest(features={"category": pb.FeatureValue(category="x")}))
    found = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=chosen.decision_id))
    event = record.decode("decided", found.event_json.encode(), b"").event
    assert isinstance(event, Decided)
    server.stop()
    return found, event.decision


def shown(decision, shadows=(), later=()):
    session = apply(None, Decided(decision=decision))
    for event in later:
        session = apply(session, event)
    view = SessionView(router="default", session=session, told=(Told(at_us=0),))
    return DecisionView(
        view=view, index=0, decision=decision, unconfirmed="", erased=False, shadows=shadows, event_json=""
    )


def words(sections):
    return " ".join(
        text for section in sections for text in (*section.sentences, *(f"{f.name} {f.value}" for f in section.facts))
    )


def under(decision, **changes):
    return msgspec.structs.replace(decision, situation=msgspec.structs.replace(decision.situation, **changes))


def test_the_server_tells_what_it_makes_of_a_decision(made):
    found, decision = made
    why = found.explanation[0]
    assert why.title == f"Why {decision.arm}?" and "drawn by lot" in why.sentences[0]
    assert {section.title for section in found.explanation} >= {"What was known", "How it went"}
    for score in found.scores:
        assert score.worth_usd == pytest.approx(5.0 * score.success_mean - score.cost_usd)


def test_a_decision_is_told_in_the_terms_of_its_objective(made):
    _, decision = made
    told = words(explain.decision(shown(decision)))
    assert "The attempt alone is worth" in told and "($5 x" in told and "latency apart" not in told
    slow = Objective(value_usd=8.0, latency_usd_per_second=0.25)
    told = words(explain.decision(shown(under(decision, objective=slow, budget_price=0.5))))
    assert "($8 x" in told and "x 1.50, latency apart)" in told and "a second costs $0.25" in told
    assert "a dollar counted as $1.500" in told
    floor = under(decision, objective=Objective(quality_floor=0.9, quality_floor_relative=True))
    told = words(explain.decision(shown(floor)))
    assert "the cheapest arm whose success reaches 90.0 % of the best arm's" in told and "is worth $" not in told
    assert explain.worth(floor) == {}


@pytest.mark.parametrize("reason", SelectReason)
def test_every_reason_has_words(made, reason):
    _, decision = made
    decision = msgspec.structs.replace(decision, reason=reason)
    assert explain.brief(decision) and explain.decision(shown(decision))[0].sentences


@pytest.mark.parametrize("reason", EscalationReason)
def test_every_way_to_leave_has_words(made, reason):
    _, decision = made
    left = Escalated(decision_id=decision.decision_id, reason=reason, outcome=Outcome(cost_usd=0.25))
    seen = shown(decision, later=(left,))
    assert explain.LEFT[reason] in words(explain.decision(seen))
    course = explain.session(seen.view)
    assert "1 attempt, exhausted" in course.title and explain.LEFT[reason] in course.sentences[0]
    censored = "which says nothing about success" in words(explain.decision(seen))
    assert censored is not reason.is_alarm


def test_a_policy_beside_says_how_often_it_would_have_done_the_same(made):
    _, decision = made
    chances = {score.arm: score.propensity for score in decision.scores}
    arms = [offer.arm for offer in decision.situation.offers]
    shadow = Shadow(policy="epsilon", policy_version="2", epoch_hash="", propensities=(0.25, 0.75), success_mean=0.5)
    told = words(explain.decision(shown(decision, (shadow,))))
    same = min(chances[arms[0]], 0.25) + min(chances[arms[1]], 0.75)
    assert f"would have taken {arms[1]} with a chance of 75.0 %" in told
    assert f"would do the same with a chance of {100 * same:.1f} %" in told
    gone = Shadow(policy="epsilon", policy_version="2", epoch_hash="", stop_propensity=1.0)
    assert "would have given up" in words(explain.decision(shown(decision, (gone,))))
    failed = Shadow(policy="epsilon", policy_version="2", epoch_hash="", error="Boom: \x1b[2J")
    assert r"no answer: Boom: \x1b[2J." in words(explain.decision(shown(decision, (failed,))))


def test_a_finished_session_says_what_it_came_to(made):
    _, decision = made
    end = Rewarded(session_id=decision.session_id, outcome=Outcome(success=1.0, cost_usd=1.5), revision=1, final=True)
    course = explain.session(shown(decision, later=(end,)).view)
    assert course.title.endswith("1 attempt, closed, success 100.0 %, $1.500")
    assert "success 100.0 %, $1.500" in course.sentences[0]
