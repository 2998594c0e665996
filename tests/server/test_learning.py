"""What `status` says of learning, against the same numbers taken from GetSession and GetDecision one by one."""

from contextlib import closing
from random import Random

import pytest

from pointsman import Client, EscalationReason
from pointsman.v1 import events_pb2
from server.console import learning
from server.store.sqlite import SqliteStore

CONFIG = """
[[arms]]
id = "small"
figures = [{ success_rate = 0.6, cost_usd = 0.2 }]
[[arms]]
id = "large"
figures = [{ success_rate = 0.8, cost_usd = 1.0 }]
"""
FAILED = EscalationReason.ESCALATION_REASON_VERIFIED_FAILURE
CENSORED = EscalationReason.ESCALATION_REASON_USER_REQUEST


@pytest.fixture(scope="module")
def told(serving, tmp_path_factory):
    """A log's events, and the sessions behind them as the server tells them."""
    server = serving(tmp_path_factory.mktemp("learning") / "data", CONFIG)
    random = Random(4)
    sessions = []
    with Client(server.grpc) as client:
        for i in range(40):
            choice = client.select(session_id=f"s{i}")
            if i % 4 == 0:
                reason = FAILED if i % 8 else CENSORED
                choice = client.escalate(choice, reason=reason, cost_usd=random.random()) or choice
            if i % 5:
                served = "large" if i % 10 == 1 else ""
                client.reward(session_id=f"s{i}", success=float(random.random() < 0.5), served_arm=served)
            if i % 3:
                client.reward(session_id=f"s{i}", cost_usd=2.0 + random.random())
        for i in range(40):
            session = client.get_session(f"s{i}")
            sessions.append([(each, client.get_decision(each.decision_id)) for each in session.attempts])
    with closing(SqliteStore.open_reader(server.data_dir)) as reader:
        stored = reader.read(0, 10_000)
    events = [
        events_pb2.Event(
            sequence=event.seq,
            kind=event.kind,
            session_id=event.session_id,
            decision_id=event.decision_id,
            body=event.body,
            private=event.private,
        )
        for event in stored
    ]
    return events, sessions


def compared(sessions):
    """By attempt that was served as decided: (predicted, realised) success and cost."""
    success, cost = [], []
    for attempts in sessions:
        for attempt, decision in attempts:
            (score,) = [score for score in decision.scores if score.arm == decision.arm]
            if attempt.outcome.served_arm not in ("", decision.arm):
                continue
            if attempt.outcome.HasField("success"):
                success.append((score.success_mean, attempt.outcome.success))
            if attempt.outcome.HasField("cost_usd"):
                cost.append((score.cost_usd, attempt.outcome.cost_usd))
    return success, cost


def mean(values):
    return sum(values) / len(values)


def test_predicted_and_realised_are_those_of_the_attempts(told):
    events, sessions = told
    found = learning.evidence(events)
    success, cost = compared(sessions)
    assert found.attempts == sum(len(attempts) for attempts in sessions)
    assert (found.success.attempts, found.cost_usd.attempts) == (len(success), len(cost))
    assert found.success.predicted == pytest.approx(mean([predicted for predicted, _ in success]))
    assert found.success.realised == pytest.approx(mean([realised for _, realised in success]))
    assert found.cost_usd.predicted == pytest.approx(mean([predicted for predicted, _ in cost]))
    assert found.cost_usd.realised == pytest.approx(mean([realised for _, realised in cost]))
    assert found.success_error == pytest.approx(mean([(p - r) ** 2 for p, r in success]))
    rate = found.success.realised
    assert found.constant_error == pytest.approx(mean([(rate - r) ** 2 for _, r in success]))


def test_sessions_that_began_before_the_window_are_left_out(told):
    events, sessions = told
    i = next(i for i, event in enumerate(events) if event.session_id == "s20")
    found = learning.evidence(events[i:])
    assert found.attempts == sum(len(attempts) for attempts in sessions[20:])


def test_nothing_is_compared_where_nothing_is_known(told):
    events, _ = told
    decided = [event for event in events if event.kind == "decided"][:1]
    found = learning.evidence(decided)
    assert (found.attempts, found.success, found.success_error, found.cost_usd) == (1, None, None, None)
    assert learning.evidence([]).attempts == 0


def test_surprise_is_in_standard_errors():
    # Binomial: 100 at 0.5 have a standard deviation of 5.
    assert learning.surprise(learning.Prediction(attempts=100, predicted=0.5, realised=0.6)) == pytest.approx(2.0)
