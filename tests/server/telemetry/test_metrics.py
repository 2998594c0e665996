"""`/metrics` of a real server, read by Prometheus's own parser."""

import urllib.error
import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pointsman.v1 import admin_pb2, routing_pb2
from server.telemetry.counts import SECONDS, Spans


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
            session_id="s", reason=routing_pb2.EscalationReason.ESCALATION_REASON_VERIFIED_FAILURE
        )
    )
    assert begun.arm != left.next.arm
    server.routing.Reward(routing_pb2.RewardRequest(session_id="s", success=1.0, cost_usd=0.5, final=True))
    with pytest.raises(grpc.RpcError):
        server.routing.GetSession(routing_pb2.GetSessionRequest(session_id="nobody"))
    server.admin.SetAvailability(admin_pb2.SetAvailabilityRequest(arm="b", down_seconds=600.0, why="tests"))
    return server


def test_what_happened_is_counted(server):
    samples = scraped(server)
    decided = {key: n for key, n in samples.items() if key[0] == "pointsman_decisions_total"}
    reasons = [dict(labels)["reason"] for _, labels in decided]
    assert sum(decided.values()) == 2 and sorted(reasons) == ["escalated", "sampled"]
    # Of a uniform lottery among three arms, then among the two that are left.
    entropy = of(samples, "decision_entropy_nats_total", router="default")
    assert entropy == pytest.approx(1.0986 + 0.6931, abs=1e-3)
    assert of(samples, "escalations_total", router="default", reason="verified_failure", exhausted="false") == 1
    assert of(samples, "rewards_total", router="default", final="true") == 1
    assert of(samples, "success_total", router="default") == of(samples, "success_told_total", router="default") == 1
    assert of(samples, "refused_calls_total", method="pointsman.v1.Routing/GetSession", code="NOT_FOUND") == 1
    assert of(samples, "call_seconds_count", method="pointsman.v1.Routing/Select") == 1


def test_how_things_stand_is_told(server):
    samples = scraped(server)
    assert of(samples, "serving") == 1
    assert of(samples, "arm_down", router="default", arm="b") == 1
    assert of(samples, "arm_down", router="default", arm="a") == 0
    assert of(samples, "canary", router="default") == 0
    assert of(samples, "log_last_sequence") == server.last_sequence()
    assert samples[("process_resident_memory_bytes", frozenset())] > 1e6


def test_no_session_is_a_label(server):
    server.routing.Select(routing_pb2.SelectRequest(session_id="a-very-particular-session"))
    assert "a-very-particular-session" not in str(scraped(server))


def test_another_host_is_not_served(server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        scraped(server, Host="evil.example")
    with refused.value:
        assert refused.value.code == 421


def test_spans_fall_into_their_buckets():
    spans = Spans()
    for seconds in (0.0, SECONDS[0], SECONDS[0] * 1.01, 100.0):
        spans.add(seconds)
    assert (spans.buckets[0], spans.buckets[1], spans.buckets[-1]) == (2, 1, 1)
    assert spans.seconds == pytest.approx(100.0, abs=0.01)
