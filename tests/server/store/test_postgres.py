"""What only the store in PostgreSQL does: several writers, a database that goes away, and damage done by SQL."""

import threading
from collections.abc import Callable, Iterator

import pytest

from server.store.chain import GENESIS, audit
from server.store.errors import StoreDamaged, StoreMoved, StoreUnavailable
from server.store.protocol import NewEvent
from tests.postgres import Cluster

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'pointsman[postgres]'")
from server.store.postgres.connection import described
from server.store.postgres.store import PostgresReader, PostgresStore

MakeEvent = Callable[[int], NewEvent]
Open = Callable[[], PostgresStore]


@pytest.fixture
def open_handle(database_url: str) -> Iterator[Open]:
    """Each call opens another handle on the same log."""
    opened = []

    def handle() -> PostgresStore:
        opened.append(PostgresStore.open(database_url))
        return opened[-1]

    yield handle
    for store in opened:
        store.close()


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def test_handles_that_append_at_once_make_one_dense_chain(open_handle: Open, make_event: MakeEvent) -> None:
    handles = [open_handle() for _ in range(4)]
    firsts: list[int] = []

    def append(store: PostgresStore, begin: int) -> None:
        for n in range(begin, begin + 60, 3):
            firsts.append(store.append([make_event(n), make_event(n + 1), make_event(n + 2)]))

    threads = [threading.Thread(target=append, args=(store, 60 * i)) for i, store in enumerate(handles)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == list(range(1, 241, 3))
    handles[0].news()
    events = handles[0].read(0, 1000)
    assert list(audit(events, 0, GENESIS)) == []
    assert len({event.body for event in events}) == len(events)
    assert handles[0].verify() == []


def test_what_others_have_appended_is_told_before_it_is_built_on(open_handle: Open, make_event: MakeEvent) -> None:
    mine, others = open_handle(), open_handle()
    mine.append([make_event(0)])
    assert [event.seq for event in others.news()] == [1]
    assert others.news() == []
    others.append([make_event(1), make_event(2)])
    assert mine.last_seq == 1
    assert [event.seq for event in mine.read(0, 10)] == [1], "it reads the log as it knows it"
    assert mine.event(3) is None

    asked: list[list[int]] = []

    def contradict(events) -> bool:
        asked.append([event.seq for event in events])
        return len(asked) == 1

    with pytest.raises(StoreMoved):
        mine.append_unless([make_event(3)], contradict)
    assert mine.last_seq == 1
    assert others.read(3, 10) == []
    assert [event.seq for event in mine.append_unless([make_event(3)], contradict)] == [2, 3]
    assert asked == [[2, 3], [2, 3]]
    assert mine.last_seq == 4
    assert mine.append_unless([make_event(4)], contradict) == []
    assert [event.seq for event in others.news()] == [4, 5]
    assert mine.verify() == []


def test_it_comes_back_after_the_database_was_killed(
    open_handle: Open, make_event: MakeEvent, postgres: Cluster
) -> None:
    store, reader = open_handle(), open_handle()
    store.append([make_event(0)])
    postgres.kill()
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.append([make_event(1)])
        with pytest.raises(StoreUnavailable):
            reader.read(0, 10)
        with pytest.raises(StoreUnavailable):
            store.recover()
    finally:
        postgres.start()
    with pytest.raises(StoreUnavailable, match="not recovered"):
        store.append([make_event(1)])
    assert store.recover() == 1
    assert store.append([make_event(1)]) == 2
    assert [event.seq for event in reader.news()] == [1, 2], "an idle reader need not be told"
    assert store.verify() == []


def test_a_database_that_lacks_what_was_there_is_damaged(
    open_handle: Open, make_event: MakeEvent, postgres: Cluster, database_url: str
) -> None:
    store = open_handle()
    store.append([make_event(0)])
    before = store.event(1)
    assert before is not None
    store.append([make_event(1)])
    # As after a standby was promoted to which the last commit had not come.
    digest = before.digest.hex()
    postgres.query(name_of(database_url), "DELETE FROM pointsman.events WHERE seq = 2")
    postgres.query(name_of(database_url), f"UPDATE pointsman.head SET seq = 1, digest = '\\x{digest}'")
    with pytest.raises(StoreDamaged):
        store.append([make_event(1)])
    with pytest.raises(StoreDamaged):
        store.recover()
    assert open_handle().last_seq == 1, "who has not seen it cannot miss it"


@pytest.mark.parametrize(
    ("damage", "seqs"),
    [
        ("UPDATE pointsman.events SET body = body || 'x' WHERE seq = 4", [4]),
        ("UPDATE pointsman.events SET private = 'x' WHERE seq = 4", [4]),
        ("DELETE FROM pointsman.events WHERE seq = 5", [5]),
        ("DELETE FROM pointsman.events WHERE seq = 9", [9]),
        ("UPDATE pointsman.head SET digest = 'x'", [9]),
        ("DELETE FROM pointsman.head", [None]),
    ],
)
def test_damage_is_found(
    open_handle: Open, make_event: MakeEvent, postgres: Cluster, database_url: str, damage: str, seqs: list[int]
) -> None:
    store = open_handle()
    store.append([make_event(n) for n in range(9)])
    postgres.query(name_of(database_url), damage)
    try:
        found = [problem.seq for problem in store.verify()]
    except StoreDamaged as error:
        found = [error.seq]
    assert found == seqs
    with pytest.raises(StoreDamaged):
        open_handle()


@pytest.mark.parametrize("setting", ["off", "local", "remote_write"])
def test_a_database_that_acknowledges_too_early_is_refused(postgres: Cluster, database_url: str, setting: str) -> None:
    postgres.query("postgres", f"ALTER DATABASE {name_of(database_url)} SET synchronous_commit = {setting}")
    with pytest.raises(StoreUnavailable, match=f"synchronous_commit = {setting}"):
        PostgresStore.open(database_url)


def test_there_is_nothing_to_read_where_no_server_was(database_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="no store"):
        PostgresReader(database_url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1/there",
        "postgresql://127.0.0.1:1/there?user=me&password=secret",
        "host=127.0.0.1 port=1 password=secret dbname=there",
        "postgresql://me:secret@127.0.0.1:port/there",
        "postgresql://me:secret%zz@127.0.0.1/there",
        "postgresql://me:secret@127.0.0.1:1/there?nonsense=secret",
    ],
)
def test_no_error_tells_the_password(url: str) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        PostgresStore.open(url)
    assert "secret" not in str(refused.value)


def test_a_url_is_described_without_its_user() -> None:
    assert described("postgresql://me:secret@db.example:6432/there") == "postgresql://db.example:6432/there"
