"""What every store must do. A new store joins by joining the parameters of `open_store`."""

import threading
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.store.chain import GENESIS, audit
from server.store.errors import StoreConflict, StoreUnavailable
from server.store.protocol import CONFIGURING, NewEvent, Store, StoredEvent

MakeEvent = Callable[[int], NewEvent]
OpenStore = Callable[[], Store]


def as_new(event: StoredEvent) -> NewEvent:
    fields = set(NewEvent.__struct_fields__) - {"private_digest"}
    return NewEvent(**{name: getattr(event, name) for name in fields})


def test_an_empty_store(open_store: OpenStore) -> None:
    store = open_store()
    assert store.last_seq == 0
    assert store.read(0, 10) == []
    assert store.configuring(0, 10) == []
    assert store.event(1) is None
    assert store.decision("none") is None
    assert store.session("default", "none") == []
    assert store.requests([b"0" * 16]) == {}
    assert store.verify() == []
    with pytest.raises(ValueError, match="nothing"):
        store.append([])


def test_events_come_back_as_they_went_in_even_after_reopening(open_store: OpenStore, make_event: MakeEvent) -> None:
    events = [make_event(n) for n in range(50)]
    store = open_store()
    assert store.append(events[:1]) == 1
    assert store.append(events[1:20]) == 2
    assert store.append(events[20:]) == 21
    assert store.last_seq == 50
    before = store.read(0, 100)
    store.close()
    store = open_store()
    assert store.last_seq == 50
    assert store.read(0, 100) == before
    assert [as_new(event) for event in before] == events
    assert [event.seq for event in before] == list(range(1, 51))
    assert list(audit(before, 0, GENESIS)) == []
    assert store.verify() == []


def test_reading_a_range(open_store: OpenStore, make_event: MakeEvent) -> None:
    store = open_store()
    store.append([make_event(n) for n in range(20)])
    assert [e.seq for e in store.read(5, 3)] == [6, 7, 8]
    assert [e.seq for e in store.read(5, 100, upto=7)] == [6, 7]
    assert [e.seq for e in store.read(18, 100)] == [19, 20]
    assert store.read(20, 100) == []
    event = store.event(7)
    assert event is not None
    assert event.seq == 7
    assert store.event(21) is None


def test_finding_the_events_that_configure(open_store: OpenStore, make_event: MakeEvent) -> None:
    store = open_store()
    kinds = (*sorted(CONFIGURING), "decided", "rewarded")
    events = [msgspec.structs.replace(make_event(n), kind=kinds[n % len(kinds)]) for n in range(60)]
    store.append(events)
    expected = [n + 1 for n, event in enumerate(events) if event.kind in CONFIGURING]
    assert [e.seq for e in store.configuring(0, 100)] == expected
    assert [as_new(e) for e in store.configuring(0, 100)] == [events[seq - 1] for seq in expected]
    assert [e.seq for e in store.configuring(expected[3], 4)] == expected[4:8]
    assert [e.seq for e in store.configuring(0, 100, upto=expected[3])] == expected[:4]
    assert store.configuring(60, 100) == []


def test_finding_decisions_sessions_and_requests(open_store: OpenStore, make_event: MakeEvent) -> None:
    store = open_store()
    events = [make_event(n) for n in range(60)]
    store.append(events)
    for n, event in enumerate(events):
        decided = store.decision(event.decision_id)
        assert decided is not None
        assert (decided.seq, decided.kind) == (n // 3 * 3 + 1, "decided")
        expected = [i + 1 for i, e in enumerate(events) if (e.router, e.session_id) == (event.router, event.session_id)]
        assert [e.seq for e in store.session(event.router, event.session_id)] == expected
        assert [e.seq for e in store.session(event.router, event.session_id, upto=n + 1)] == [
            seq for seq in expected if seq <= n + 1
        ]
        assert store.session("nobody", event.session_id) == []
        if event.request_key:
            assert store.requests([event.request_key]) == {event.request_key: (event.request_digest, n + 1)}
    assert store.decision("") is None
    assert store.requests([b""]) == {}


def test_events_without_a_session_belong_to_none(open_store: OpenStore) -> None:
    store = open_store()
    store.append([NewEvent(at_us=1, kind="router_put", router="default", body=b"{}")])
    assert store.session("default", "") == []


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("field", ["decision_id", "request_key"])
def test_what_may_occur_once_is_refused_and_nothing_written(
    open_store: OpenStore, make_event: MakeEvent, field: str, together: bool
) -> None:
    store = open_store()
    first, fresh = make_event(0), make_event(1)
    other = make_event(6)
    again = msgspec.structs.replace(other, **{field: getattr(first, field)})
    if together:
        batch = [first, fresh, again]
    else:
        store.append([first])
        batch = [fresh, again]
    before = store.last_seq
    with pytest.raises(StoreConflict) as refused:
        store.append(batch)
    assert refused.value.field == field
    assert store.last_seq == before
    assert store.read(before, 10) == []
    assert store.append([fresh, other]) == before + 1
    assert store.verify() == []


def test_events_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="decision_id"):
        NewEvent(at_us=1, kind="decided", body=b"{}")
    with pytest.raises(ValueError, match="request_key"):
        NewEvent(at_us=1, kind="rewarded", request_key=b"short", body=b"{}")


@pytest.mark.parametrize("bad", [{"at_us": 2**63}, {"session_id": "\ud800"}])
def test_a_value_that_cannot_be_stored_leaves_the_store_usable(
    open_store: OpenStore, make_event: MakeEvent, bad: dict[str, object]
) -> None:
    store = open_store()
    with pytest.raises(Exception, match=r"argument|surrogates|range|format"):
        store.append([make_event(0), msgspec.structs.replace(make_event(1), **bad)])
    assert store.append([make_event(0)]) == 1
    assert store.verify() == []


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
new_events = st.builds(
    NewEvent,
    at_us=st.integers(-(2**63), 2**63 - 1),
    kind=names.filter(lambda kind: kind != "decided"),
    router=names,
    session_id=names,
    decision_id=names,
    request_digest=st.binary(max_size=40),
    body=st.binary(max_size=3000),
    private=st.binary(max_size=3000),
)


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(new_events, min_size=1, max_size=5))
def test_any_values_survive(open_store: OpenStore, events: list[NewEvent]) -> None:
    store = open_store()
    try:
        first = store.append(events)
        assert [as_new(event) for event in store.read(first - 1, 10)] == events
        for event in events:
            found = {as_new(e).body for e in store.session(event.router, event.session_id)}
            assert event.body in found or not event.session_id
        assert store.verify() == []
    finally:
        store.close()


def test_reading_while_another_thread_appends(open_store: OpenStore, make_event: MakeEvent) -> None:
    store = open_store()

    def append() -> None:
        for n in range(0, 300, 3):
            store.append([make_event(n), make_event(n + 1), make_event(n + 2)])

    writer = threading.Thread(target=append)
    writer.start()
    seen: list[StoredEvent] = []
    while len(seen) < 300:
        acknowledged = store.last_seq
        seen += store.read(len(seen), 1000)
        assert len(seen) >= acknowledged
        assert writer.is_alive() or store.last_seq == 300
    writer.join()
    assert [as_new(event) for event in seen] == [make_event(n) for n in range(300)]
    assert store.verify() == []


def test_verify_tells_how_far_it_is(open_store: OpenStore, make_event: MakeEvent) -> None:
    store = open_store()
    store.append([make_event(n) for n in range(1500)])
    told: list[tuple[int, int]] = []
    assert store.verify(lambda done, total: told.append((done, total))) == []
    assert told == [(1000, 1500), (1500, 1500)]


def test_a_closed_store_says_so(open_store: OpenStore, make_event: MakeEvent) -> None:
    store = open_store()
    store.append([make_event(0)])
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.append([make_event(1)])
    with pytest.raises(StoreUnavailable):
        store.read(0, 1)
    assert open_store().last_seq == 1


def test_what_is_erased_is_gone_and_the_log_stays_whole(open_store: OpenStore, make_event: MakeEvent) -> None:
    store = open_store()
    events = [make_event(n) for n in range(9)]
    store.append(events)
    session = events[0].session_id, events[0].router
    store.append([NewEvent(at_us=1, kind="erased", session_id=session[0], router=session[1], body=b"{}")])
    digests = [event.digest for event in store.read(0, 100)]
    assert store.erase(0) == 10
    assert store.erase(10) == 10
    after = store.read(0, 100)
    assert [event.digest for event in after] == digests
    expected = [b"" if (e.session_id, e.router) == session else e.private for e in events]
    assert [event.private for event in after] == [*expected, b""]
    assert expected != [event.private for event in events]
    assert store.verify() == []


def test_an_event_whose_private_part_was_erased_elsewhere_keeps_its_digest(
    open_store: OpenStore, make_event: MakeEvent
) -> None:
    store = open_store()
    store.append([make_event(0)])
    (there,) = store.read(0, 1)
    store.append([msgspec.structs.replace(make_event(3), private=b"", private_digest=there.private_digest)])
    here = store.event(2)
    assert here is not None
    assert (here.private, here.private_digest) == (b"", there.private_digest)
    assert [problem.seq for problem in store.verify()] == [2], "until its erasure is there too"
