"""Sessions whose reward does not come in time."""

import json
import time

import grpc
import pytest

from bandit import record
from bandit.events import Closed, Decided, Event, Rewarded, Stuck
from bandit.types import Decision, Objective, Offer, Outcome, SelectReason, Situation
from pointsman.v1 import events_pb2
from pointsman.v1 import routing_pb2 as pb
from server.closing import Patience, Sweep
from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore

WAIT = 100.0


def begun(session_id: str) -> Decided:
    situation = Situation(
        router="default",
        seed=0,
        session_id=session_id,
        attempt=1,
        attempts_left=1,
        features={},
        offers=(Offer(arm="a"),),
        objective=Objective(),
        exploration_floor=0.0,
        draws=1,
        alpha=1.0,
    )
    return Decided(
        decision=Decision(
            decision_id=f"of-{session_id}",
            situation=situation,
            arm="a",
            propensity=1.0,
            reason=SelectReason.SAMPLED,
            scores=(),
            policy="uniform",
            policy_version="1",
            epoch=0,
            epoch_hash="",
        )
    )


def logged(event: Event, session_id: str, at: float) -> NewEvent:
    kind, body, private = record.encode(event, salt=bytes(16))
    decision_id = f"of-{session_id}" if kind == "decided" else ""
    at_us = int(at * 1e6)
    return NewEvent(
        at_us=at_us, kind=kind, router="default", session_id=session_id, decision_id=decision_id, body=body,
        private=private,
    )  # fmt: skip


def final(session_id: str, *, final: bool = True) -> Rewarded:
    return Rewarded(session_id=session_id, outcome=Outcome(success=1.0), revision=1, final=final)


@pytest.fixture
def store(tmp_path):
    store = SqliteStore.open(tmp_path / "data")
    yield store
    store.close()


def overdue(sweep: Sweep, now: float) -> list[str]:
    found, more = [], True
    while more:
        page, more = sweep.overdue(["default"], now)
        found += [session.session_id for session in page]
    return found


def test_a_session_is_overdue_when_its_last_event_is_old_and_it_has_no_final_reward(store):
    store.append(
        [
            logged(begun("silent"), "silent", 1000.0),
            logged(begun("rewarded"), "rewarded", 1001.0),
            logged(begun("told"), "told", 1002.0),
            logged(begun("busy"), "busy", 1003.0),
            logged(begun("closed"), "closed", 1004.0),
            logged(final("rewarded"), "rewarded", 1005.0),
            logged(final("told", final=False), "told", 1006.0),
            logged(Closed(session_id="closed"), "closed", 1007.0),
            logged(begun("future"), "future", 1e9),
            logged(Stuck(decision_id="of-busy"), "busy", 1050.0),
        ]
    )
    sweep = Sweep(store, WAIT)
    assert overdue(sweep, 1099.9) == []
    assert overdue(sweep, 1100.0) == ["silent"]
    assert overdue(sweep, 1107.0) == ["told"]
    assert overdue(sweep, 1149.9) == []
    assert overdue(sweep, 1150.0) == ["busy"]
    assert overdue(sweep, 2000.0) == []
    # A sweep that begins anew finds what is not closed yet, and one with a cursor of another log begins anew.
    assert overdue(Sweep(store, WAIT), 1e4) == ["silent", "told", "busy"]
    assert overdue(Sweep(store, WAIT, cursor=11), 1e4) == ["silent", "told", "busy"]
    assert overdue(Sweep(store, WAIT, cursor=1), 1e4) == ["told", "busy"]


def test_many_sessions_take_several_pages(store):
    store.append([logged(begun(f"s{n}"), f"s{n}", 1000.0 + n) for n in range(1700)])
    sweep = Sweep(store, WAIT)
    assert overdue(sweep, 2099.0) == [f"s{n}" for n in range(1000)]
    assert overdue(sweep, 1e5) == [f"s{n}" for n in range(1000, 1700)]


def test_a_clock_that_jumps_ahead_closes_nothing_early():
    clock, monotonic = [1000.0], [0.0]
    patience = Patience(lambda: clock[0], lambda: monotonic[0])
    assert patience.now() == 1000.0
    clock[0], monotonic[0] = 1010.0 + 3600.0, 10.0
    assert patience.now() == 1020.0
    clock[0], monotonic[0] = 1020.0, 20.0  # set right again
    assert patience.now() == 1020.0
    clock[0], monotonic[0] = 500.0, 30.0  # and back
    assert patience.now() == 500.0


def wait_for(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_server_closes_once_and_a_late_reward_still_counts(serving, tmp_path):
    server = serving(tmp_path / "data")
    chunks = server.events.ExportEvents(events_pb2.ExportEventsRequest())
    put = next(event for chunk in chunks for event in chunk.events if event.kind == "router_put")
    body = json.loads(put.body)
    body["event"]["settings"] |= {"reward_wait_seconds": 0.3, "missing_success": 0.25}
    put.body, put.sequence, put.digest = json.dumps(body).encode(), 0, b""
    server.events.ImportEvents(iter([events_pb2.ImportEventsRequest(events=[put])]))

    decision = server.routing.Select(pb.SelectRequest(session_id="lost"))
    server.routing.Select(pb.SelectRequest(session_id="done"))
    server.routing.Reward(pb.RewardRequest(session_id="done", success=1.0, final=True))
    shown = lambda session_id: server.routing.GetSession(pb.GetSessionRequest(session_id=session_id))  # noqa: E731
    wait_for(lambda: shown("lost").final)
    assert shown("lost").success == 0.25
    with pytest.raises(grpc.RpcError) as error:
        server.routing.Select(pb.SelectRequest(session_id="lost"))
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as error:
        server.routing.Escalate(pb.EscalateRequest(decision_id=decision.decision_id, reason=1))
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    server.routing.Reward(pb.RewardRequest(session_id="lost", success=1.0, final=True))
    assert shown("lost").success == 1.0

    server.routing.Select(pb.SelectRequest(session_id="later"))
    server.kill()
    (tmp_path / "data" / "closing").unlink(missing_ok=True)
    server = serving(tmp_path / "data", None)
    wait_for(lambda: shown("later").final)
    time.sleep(0.5)
    server.stop()
    reader = SqliteStore.open_reader(tmp_path / "data")
    assert reader.verify() == []
    closed = [event.session_id for event in reader.read(0, 1000) if event.kind == "closed"]
    reader.close()
    assert closed == ["lost", "later"]
