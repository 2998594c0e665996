"""Fixtures for every store: how to make events, and how to open each kind of store."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.store.protocol import NewEvent, Store
from server.store.sqlite import SqliteStore

MakeEvent = Callable[[int], NewEvent]
OpenStore = Callable[[], Store]


def _make_event(n: int) -> NewEvent:
    """The nth event of a log in which each session is decided, progresses and is rewarded."""
    turn, step = divmod(n, 3)
    return NewEvent(
        at_us=1_700_000_000_000_000 + n,
        kind=("decided", "progressed", "rewarded")[step],
        router="default" if turn % 2 else "other",
        session_id=f"session-{turn * 7919 % 1000}",
        decision_id=f"{turn:08x}",
        request_key=hashlib.md5(b"%d" % n).digest() if n % 2 == 0 else b"",
        request_digest=hashlib.md5(b"message %d" % n).digest() if n % 2 == 0 else b"",
        body=b'{"n": %d, "pad": "%s"}' % (n, b"x" * (n * 37 % 500)),
        private=b'{"salt": "%d", "features": "%s"}' % (n, b"f" * (n % 50)) if step == 0 else b"",
    )


def _open(url: str) -> Store:
    # Imported here: psycopg is an extra.
    from server.store.postgres.store import PostgresStore

    return PostgresStore.open(url)


@pytest.fixture
def make_event() -> MakeEvent:
    return _make_event


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same store each time it is called; closes what is left open."""
    opened: list[Store] = []
    url = request.getfixturevalue("database_url") if request.param == "postgres" else ""

    def open_it() -> Store:
        store = _open(url) if url else SqliteStore.open(tmp_path / "data")
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close()
