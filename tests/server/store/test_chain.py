"""The chain sees every change of what it covers."""

import msgspec
import pytest

from server.store.chain import GENESIS, audit, link, private_digest
from server.store.protocol import NewEvent, StoredEvent

EVENT = NewEvent(
    at_us=5,
    kind="decided",
    router="ab",
    session_id="c",
    decision_id="d",
    request_key=b"k" * 16,
    request_digest=b"digest",
    body=b"{}",
    private=b"salt and features",
)


def stored(*events: NewEvent) -> list[StoredEvent]:
    log: list[StoredEvent] = []
    digest = GENESIS
    for seq, event in enumerate(events, start=1):
        private = private_digest(event.private)
        digest = link(digest, seq, event, private)
        fields = {name: getattr(event, name) for name in NewEvent.__struct_fields__}
        log.append(StoredEvent(**{**fields, "private_digest": private}, seq=seq, digest=digest))
    return log


def numbered(count: int) -> list[StoredEvent]:
    return stored(*(msgspec.structs.replace(EVENT, decision_id=f"d{n}") for n in range(count)))


@pytest.mark.parametrize(
    "change",
    [
        {"at_us": 6},
        {"kind": "rewarded"},
        {"router": "a", "session_id": "bc"},
        {"decision_id": "e"},
        {"request_key": b"l" * 16},
        {"request_digest": b"digesu"},
        {"body": b"{ }"},
        {"private": b"salt and featureS"},
        {"private_digest": b""},
        {"digest": GENESIS},
        {"kind": b"decided"},
        {"at_us": None},
    ],
)
def test_a_changed_field_is_one_problem(change: dict[str, object]) -> None:
    log = numbered(5)
    log[2] = msgspec.structs.replace(log[2], **change)
    # A changed digest also breaks the link of the event after it.
    expected = [3, 4] if "digest" in change else [3]
    assert [problem.seq for problem in audit(log, 0, GENESIS)] == expected


@pytest.mark.parametrize("private", [0, None, ""])
def test_no_private_part_is_not_the_same_as_an_empty_value_of_another_type(private: object) -> None:
    log = stored(msgspec.structs.replace(EVENT, private=b""))
    assert list(audit(log, 0, GENESIS)) == []
    log = [msgspec.structs.replace(log[0], private=private)]
    assert [problem.seq for problem in audit(log, 0, GENESIS)] == [1]


def test_missing_and_reordered_events_are_found() -> None:
    log = numbered(5)
    assert list(audit(log, 0, GENESIS)) == []
    assert [p.seq for p in audit(log[:2] + log[3:], 0, GENESIS)] == [3]
    assert [p.seq for p in audit(log[1:], 0, GENESIS)] == [1]
    assert next(audit([log[0], log[2], log[1]], 0, GENESIS)).seq == 2
    assert list(audit(log[3:], 3, log[2].digest)) == []
