"""`/metrics` of a real server, read by Prometheus's own parser."""

import platform
import time
import urllib.error
import urllib.request
from importlib.metadata import version

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bandit.events import Rewarded
from bandit.session import Session
from bandit.types import Outcome
from pointsman.v1 import admin_pb2, routing_pb2
from server.rounds import Happening
from server.telemetry.counts import SECONDS, Counts, Histogram


def scraped(server, **headers):
    """By name and labels: every sample."""
    asked = urllib.request.Request(f"http://{server.http}/metrics", headers=headers)
    with urllib.request.urlopen(asked, timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def of(samples, name, **labels):
    return samples.get((f"pointsman_{name}", frozenset(labels.items())))


@pytest.fixture(scope="module")
def server(serving, tmp_path_factory):
    """One that has seen a session that failed and was left, and a request that was refused."""
    server = serving(tmp_path_factory.mktemp("metrics") / "data")
    begun = server.routing.Select(routing_pb2.SelectRequest(session_id="s"))
    left = server.routing.Escalate(
        routing_pb2.EscalateRequest(
            session_id="s",
            reason=routing_pb2.EscalationReason.ESCALATION_REASON_VERIFIED_FAILURE,
            outcome=routing_pb2.AttemptOutcome(cost_usd=0.2),
        )
    )
    assert begun.arm != left.next.arm
    server.routing.Reward(routing_pb2.RewardRequest(session_id="s", success=0.0, cost_usd=0.5, final=True))
    server.routing.Reward(routing_pb2.RewardRequest(session_id="s", success=1.0))
    server.routing.Reward(routing_pb2.RewardRequest(session_id="s", latency_seconds=3.0))
    server.routing.Select(routing_pb2.SelectRequest(session_id="open"))
    with pytest.raises(grpc.RpcError):
        server.routing.GetSession(routing_pb2.GetSessionRequest(session_id="nobody"))
    server.admin.SetAvailability(admin_pb2.SetAvailabilityRequest(arm="b", down_seconds=600.0, why="tests"))
    return server


def test_what_happened_is_counted(server):
    samples = scraped(server)
    decided = {key: n for key, n in samples.items() if key[0] == "pointsman_decisions_total"}
    reasons = [dict(labels)["reason"] for _, labels in decided]
    assert sum(decided.values()) == 3 and sorted(set(reasons)) == ["escalated", "sampled"]
    # Of uniform lotteries among three arms, and among the two that are left.
    entropy = of(samples, "decision_entropy_nats_total", router="default")
    assert entropy == pytest.approx(2 * 1.0986 + 0.6931, abs=1e-3)
    assert of(samples, "escalations_total", router="default", reason="verified_failure", exhausted="false") == 1
    assert of(samples, "rewards_total", router="default", came="in_time", final="true") == 1
    assert of(samples, "rewards_total", router="default", came="correction", final="false") == 1
    assert of(samples, "rewards_total", router="default", came="in_time", final="false") == 1, "its seconds are news"
    assert of(samples, "refused_calls_total", method="pointsman.v1.Routing/GetSession", code="NOT_FOUND") == 1
    assert of(samples, "call_seconds_count", method="pointsman.v1.Routing/Select") == 2
    rounds = of(samples, "round_seconds_count")
    assert of(samples, "commit_seconds_count") == of(samples, "round_requests_count") == rounds
    assert of(samples, "round_requests_bucket", le="1") == rounds, "one after the other"


def test_how_things_stand_is_told(server):
    samples = scraped(server)
    assert of(samples, "serving") == 1
    assert of(samples, "arm_down", router="default", arm="b") == 1
    assert of(samples, "arm_down", router="default", arm="a") == 0
    assert of(samples, "canary", router="default") == 0
    assert of(samples, "log_last_sequence") == server.last_sequence()
    assert of(samples, "build_info", version=version("pointsman"), python=platform.python_version()) == 1
    assert of(samples, "mode", router="default", mode="live") == 1
    assert 0 < time.time() - of(samples, "learned_timestamp_seconds", router="default") < 600
    assert samples[("process_resident_memory_bytes", frozenset())] > 1e6


def test_what_sessions_came_to_is_told_with_corrections(server):
    # The books follow the log in a process of their own.
    for _ in range(200):
        samples = scraped(server)
        if of(samples, "books_sequence", router="default") == server.last_sequence():
            break
        time.sleep(0.1)
    states = {state: of(samples, "sessions", router="default", state=state) for state in ("open", "told", "untold")}
    assert states == {"open": 1, "told": 1, "untold": 0}
    assert of(samples, "spent_usd", router="default") == 0.5
    # Of a uniform policy nothing is foretold, so there is nothing to compare.
    assert {of(samples, "success_attempts", router="default", arm=arm) for arm in "abc"} == {0}


def test_a_reward_that_its_session_was_closed_for_want_of_is_late():
    session = Session(session_id="s", closed=True, final=True)
    told = Rewarded(session_id="s", outcome=Outcome(success=1.0), revision=1)
    counts = Counts()
    counts.round([Happening("r", told, session)], requests=1, events=1, seconds=0.0)
    assert counts.rewards == {("r", "late", False): 1}


def test_no_session_is_a_label(server):
    server.routing.Select(routing_pb2.SelectRequest(session_id="a-very-particular-session"))
    assert "a-very-particular-session" not in str(scraped(server))


def test_another_host_is_not_served(server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        scraped(server, Host="evil.example")
    with refused.value:
        assert refused.value.code == 421


def test_sizes_fall_into_their_buckets():
    spans = Histogram()
    for seconds in (0.0, SECONDS[0], SECONDS[0] * 1.01, 100.0):
        spans.add(seconds)
    assert (spans.buckets[0], spans.buckets[1], spans.buckets[-1]) == (2, 1, 1)
    assert spans.total == pytest.approx(100.0, abs=0.01)
