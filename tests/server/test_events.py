"""The log out of a server and into one."""

import json
import random
import threading
import time

import grpc
import pytest

from bandit import record
from pointsman import field_violations
from pointsman.v1 import admin_pb2, routing_pb2
from pointsman.v1 import events_pb2 as pb
from server.convert import events as convert
from server.store.chain import GENESIS, audit

FEATURES = {
    "category": routing_pb2.FeatureValue(category="bug"),
    "files": routing_pb2.FeatureValue(number=3.0),
}


def work(server, names) -> None:
    """Sessions that begin, escalate and end."""
    for name in names:
        first = server.routing.Select(
            routing_pb2.SelectRequest(session_id=name, request_id=f"select-{name}", features=FEATURES)
        )
        server.routing.Escalate(
            routing_pb2.EscalateRequest(decision_id=first.decision_id, reason=1, request_id=f"leave-{name}")
        )
        server.routing.Reward(routing_pb2.RewardRequest(session_id=name, success=1.0, cost_usd=0.5, final=True))


def export(server, **asked) -> list[pb.Event]:
    asked = {"all_routers": True, **asked}
    chunks = server.events.ExportEvents(pb.ExportEventsRequest(**asked), timeout=20)
    return [event for chunk in chunks for event in chunk.events]


def take_in(server, *messages) -> pb.ImportEventsResponse:
    return server.events.ImportEvents(iter([pb.ImportEventsRequest(events=events) for events in messages]), timeout=20)


def refused(server, *messages) -> tuple[grpc.StatusCode, list[str]]:
    with pytest.raises(grpc.RpcError) as error:
        take_in(server, *messages)
    return error.value.code(), [field for field, _ in field_violations(error.value)]


def renewed(event: pb.Event, **changes) -> pb.Event:
    """The event as one that asks for the next place."""
    copy = pb.Event()
    copy.CopyFrom(event)
    copy.sequence, copy.digest, copy.request_key = 0, b"", b""
    for name, value in changes.items():
        setattr(copy, name, value)
    return copy


@pytest.fixture(scope="module")
def worked(server):
    work(server, [f"s{i}" for i in range(100)])
    return server


def test_an_export_holds_the_whole_log_and_proves_it(worked):
    events = export(worked)
    assert len(events) == worked.last_sequence() > 400
    assert list(audit([convert.stored(event) for event in events], 0, GENESIS)) == []
    for event in events:
        record.decode(event.kind, event.body, event.private)
    assert any(event.request_key for event in events)
    assert export(worked, from_sequence=101) == events[100:]
    assert export(worked, all_routers=False) == events
    with pytest.raises(grpc.RpcError) as error:
        export(worked, all_routers=False, router="nowhere")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_follower_gets_what_is_logged_later(worked):
    last = worked.last_sequence()
    call = worked.events.ExportEvents(
        pb.ExportEventsRequest(all_routers=True, from_sequence=last + 1, follow=True), timeout=20
    )
    threading.Timer(0.2, work, (worked, ["followed"])).start()
    seen = []
    for chunk in call:
        seen += chunk.events
        if len(seen) == 4:
            break
    call.cancel()
    assert [event.kind for event in seen] == ["decided", "escalated", "decided", "rewarded"]
    assert [event.sequence for event in seen] == [last + 1, last + 2, last + 3, last + 4]


def test_a_drain_ends_those_who_follow(serving, tmp_path):
    server = serving(tmp_path / "data")
    call = server.events.ExportEvents(pb.ExportEventsRequest(all_routers=True, follow=True))
    next(call)
    server.process.terminate()
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.reap() == 0


def test_what_is_there_is_skipped_and_what_differs_is_refused(worked):
    events = export(worked)
    last = len(events)
    again = take_in(worked, events[:300], events[300:])
    assert (again.imported, again.skipped, again.last_sequence) == (0, last, last)
    other = pb.Event()
    other.CopyFrom(events[50])
    other.at.nanos = other.at.nanos + 1000 if other.at.nanos < 999_999_000 else 0
    assert refused(worked, events[:50], [other]) == (grpc.StatusCode.ALREADY_EXISTS, [])
    gap = renewed(events[-1], sequence=last + 2)
    assert refused(worked, [gap])[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert worked.last_sequence() == last


def test_a_new_router_comes_in_by_import_and_the_log_stays_whole(worked):
    put = [e for e in export(worked) if e.kind in ("arm_put", "router_put")]
    news = [renewed(e, router="elsewhere", body=e.body.replace(b'"default"', b'"elsewhere"')) for e in put]
    before = worked.last_sequence()
    answer = take_in(worked, news)
    assert (answer.imported, answer.last_sequence) == (len(news), before + len(news))
    taken = export(worked, from_sequence=before + 1)
    assert [(e.kind, e.router, e.body, e.at) for e in taken] == [(e.kind, "elsewhere", e.body, e.at) for e in news]
    # Of these the next number is known, and the digest of what is before them.
    numbered = renewed(news[0], sequence=answer.last_sequence + 1, digest=bytes(32))
    assert refused(worked, [numbered]) == (grpc.StatusCode.INVALID_ARGUMENT, ["events[0].digest"])
    work(worked, ["afterwards"])


def _body(event: pb.Event, path: str, value) -> bytes:
    body = json.loads(event.body)
    *inner, last = path.split(".")
    at = body["event"]
    for step in inner:
        at = at[step]
    at[last] = value
    return json.dumps(body).encode()


HOSTILE = [
    ("decided", "decision.arm", "unknown", "body.decision.arm"),
    ("decided", "decision.situation.attempt", 7, "body.decision.situation.attempt"),
    ("decided", "decision.situation.attempt", -(2**70), "body.decision.situation.attempt"),
    ("decided", "decision.situation.draws", 10**9, "body.decision.situation.draws"),
    ("decided", "decision.propensity", 1.5, "body.decision.propensity"),
    ("decided", "decision.epoch_hash", None, "body"),
    ("decided", "left", "policy", "body.left"),
    ("decided", "type", "rewarded", "body"),
    ("decided", "decision.situation.session_id", "another", "session_id"),
    ("escalated", "decision_id", "another", "decision_id"),
    ("rewarded", "outcome.success", -1, "body.outcome.success"),
    ("rewarded", "outcome.cost_usd", 1e300, "body.outcome.cost_usd"),
    ("rewarded", "revision", 2**62, "body.revision"),
    ("rewarded", "session_id", "another", "session_id"),
    ("router_put", "settings.policy", "always:nobody", "body.settings.policy"),
    ("router_put", "settings.policy", "nonsense", "body.settings.policy"),
    ("router_put", "settings.draws", 10**9, "body.settings.draws"),
    ("router_put", "settings.id", "another", "body.settings.id"),
    ("router_put", "settings.failover", {"errors": 2**31}, "body.settings.failover.errors"),
]


@pytest.mark.parametrize(("kind", "path", "value", "field"), HOSTILE)
def test_an_event_that_could_not_have_come_about_is_refused_by_field(worked, kind, path, value, field):
    events = export(worked)
    event = next(e for e in events if e.kind == kind)
    if kind == "decided":
        # Of a session of its own, so that nothing else is wrong with it.
        body = event.body.replace(event.session_id.encode(), b"hostile").replace(event.decision_id.encode(), b"first")
        event = renewed(event, session_id="hostile", decision_id="first", body=body)
    last = worked.last_sequence()
    invalid = grpc.StatusCode.INVALID_ARGUMENT, [f"events[0].{field}"]
    assert refused(worked, [renewed(event, body=_body(event, path, value))]) == invalid
    assert worked.last_sequence() == last


def test_mutilated_events_never_hurt(worked):
    rng = random.Random(5)
    events = export(worked)
    last, answered = worked.last_sequence(), 0
    for i in range(300):
        event = renewed(rng.choice(events))
        if i % 3:
            body = bytearray(event.body)
            for _ in range(rng.randint(1, 3)):
                body[rng.randrange(len(body))] = rng.randrange(256)
            event.body = bytes(body)
        else:
            field = rng.choice(["router", "session_id", "decision_id", "kind"])
            setattr(event, field, rng.choice(["", "x", "decided", "a\nb", "é" * 300]))
        try:
            take_in(worked, [event])
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS), error
            answered += 1
    assert answered > 200
    work(worked, [f"after-{last}-{i}" for i in range(100)])
    deadline = time.monotonic() + 20
    while True:  # the fitter lives, and learns
        router = worked.admin.GetRouter(admin_pb2.GetRouterRequest()).router
        if router.learned_sequence > last:
            return
        assert time.monotonic() < deadline, router
        time.sleep(0.05)
