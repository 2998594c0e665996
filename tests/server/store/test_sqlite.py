"""What only the embedded store has: its lock, its readers in other processes, its schema, its I/O trouble."""

import os
import resource
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import server
from server.store.errors import StoreDamaged, StoreLocked, StoreTooNew, StoreUnavailable
from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore

MakeEvent = Callable[[int], NewEvent]

ROOT = Path(server.__file__).parent.parent
APPENDER = Path(__file__).with_name("appender.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data_dir: Path) -> Iterator[SqliteStore]:
    store = SqliteStore.open(data_dir)
    yield store
    store.close()


def python(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


def test_a_second_writer_is_locked_out(store: SqliteStore, data_dir: Path) -> None:
    with pytest.raises(StoreLocked, match=str(os.getpid())):
        SqliteStore.open(data_dir)
    script = """
import sys, pathlib
from server.store.errors import StoreLocked
from server.store.sqlite import SqliteStore
try:
    SqliteStore.open(pathlib.Path(sys.argv[1]))
except StoreLocked as error:
    print("locked", error)
"""
    assert python(script, data_dir).startswith("locked")
    store.close()
    assert python(script, data_dir) == ""


def test_a_lock_that_could_not_be_taken_whole_is_given_back(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "disk full")

    with monkeypatch.context() as failing:
        failing.setattr(os, "pwrite", fail)
        with pytest.raises(StoreUnavailable, match="full"):
            SqliteStore.open(data_dir)
    SqliteStore.open(data_dir).close()


def test_a_reader_in_another_process_sees_what_is_appended(
    store: SqliteStore, data_dir: Path, make_event: MakeEvent
) -> None:
    script = """
import sys, pathlib
from server.store.sqlite import SqliteStore
reader = SqliteStore.open_reader(pathlib.Path(sys.argv[1]))
for line in sys.stdin:
    print(reader.last_seq, len(reader.read(0, 1000)), len(reader.verify()), flush=True)
reader.close()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(data_dir)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for n in range(20):
            store.append([make_event(n)])
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline().split() == [str(n + 1), str(n + 1), "0"]
        # Closing the writer under a reader loses nothing for either.
        store.close()
        again = SqliteStore.open(data_dir)
        again.append([make_event(20)])
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline().split() == ["21", "21", "0"]
        again.close()
        reader.stdin.close()


def test_a_reader_needs_a_store_and_no_lock(data_dir: Path, make_event: MakeEvent) -> None:
    with pytest.raises(StoreUnavailable):
        SqliteStore.open_reader(data_dir)
    assert not data_dir.exists()
    store = SqliteStore.open(data_dir)
    store.append([make_event(0)])
    store.close()
    reader = SqliteStore.open_reader(data_dir)
    assert reader.last_seq == 1
    reader.close()


def test_a_schema_from_the_future_is_refused(data_dir: Path, make_event: MakeEvent) -> None:
    store = SqliteStore.open(data_dir)
    store.append([make_event(0)])
    store.close()
    connection = sqlite3.connect(data_dir / "events.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreTooNew) as refused:
        SqliteStore.open(data_dir)
    assert refused.value.found == 99
    with pytest.raises(StoreTooNew):
        SqliteStore.open_reader(data_dir)


def test_a_creation_that_was_interrupted_is_taken_up(data_dir: Path, make_event: MakeEvent) -> None:
    data_dir.mkdir()
    (data_dir / "events.db").touch()
    SqliteStore.open(data_dir).close()
    (data_dir / "head").unlink()
    store = SqliteStore.open(data_dir)
    assert store.append([make_event(0)]) == 1
    store.close()


def test_a_database_that_was_half_made_when_the_power_was_lost_is_made_anew(
    data_dir: Path, make_event: MakeEvent
) -> None:
    SqliteStore.open(data_dir).close()
    whole = (data_dir / "events.db").read_bytes()
    (data_dir / "events.db").write_bytes(bytes(512) + whole[512:])
    store = SqliteStore.open(data_dir)
    assert store.append([make_event(0)]) == 1
    store.close()
    assert (data_dir / "unfinished-events.db").read_bytes()[512:] == whole[512:]
    # Once something was acknowledged, it is damage.
    whole = (data_dir / "events.db").read_bytes()
    (data_dir / "events.db").write_bytes(bytes(512) + whole[512:])
    with pytest.raises(StoreDamaged):
        SqliteStore.open(data_dir)


def test_a_file_that_cannot_grow_acknowledges_nothing_and_comes_back(
    store: SqliteStore, make_event: MakeEvent, data_dir: Path
) -> None:
    store.append([make_event(0)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((data_dir / "events.db-wal").stat().st_size, hard))
    try:
        with pytest.raises(StoreUnavailable):
            store.append([make_event(n) for n in range(1, 100)])
        with pytest.raises(StoreUnavailable, match="recover"):
            store.append([make_event(1)])
        assert store.last_seq == 1
        assert len(store.read(0, 10)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.recover() == 1
    assert store.append([make_event(n) for n in range(1, 100)]) == 2
    assert store.verify() == []


def test_a_head_that_cannot_be_written_acknowledges_nothing_and_comes_back(
    store: SqliteStore, make_event: MakeEvent, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([make_event(0)])

    def fail(_fd: int) -> None:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fdatasync", fail)
        with pytest.raises(StoreUnavailable):
            store.append([make_event(1)])
        assert store.last_seq == 1
        with pytest.raises(StoreUnavailable):
            store.recover()
    # The event had entered the log; recovering tells.
    assert store.recover() == 2
    assert store.append([make_event(2)]) == 3
    store.close()
    store = SqliteStore.open(data_dir)
    assert store.last_seq == 3
    assert store.verify() == []
    store.close()


def test_a_checkpoint_under_load_begins_the_wal_anew(
    store: SqliteStore, make_event: MakeEvent, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.store.checkpoint._WAL_PAGES", 1)
    monkeypatch.setattr("server.store.checkpoint._EVERY_SECONDS", 0.01)
    store.close()
    store = SqliteStore.open(data_dir)
    events = [make_event(n) for n in range(3000)]
    for start in range(0, 3000, 3):
        store.append(events[start : start + 3])
    # Each commit wrote a page of the events, the decisions and the sessions at least.
    assert (data_dir / "events.db-wal").stat().st_size < 1000 * 3 * 4096
    assert store.verify() == []
    store.close()


def test_a_process_killed_while_appending_loses_nothing_it_acknowledged(data_dir: Path) -> None:
    body = runpy.run_path(str(APPENDER))["body"]
    acknowledged = 0
    for acknowledgements in (1, 40, 7, 120, 60):
        with subprocess.Popen(
            [sys.executable, str(APPENDER), str(data_dir)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            for _ in range(acknowledgements):
                acknowledged = int(child.stdout.readline().split()[1])
            child.kill()
            for line in child.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line.split()[1])
        store = SqliteStore.open(data_dir)
        assert store.last_seq >= acknowledged
        assert store.verify() == []
        events = store.read(0, 10_000)
        assert [(e.seq, e.body) for e in events] == [(n, body(n)) for n in range(1, store.last_seq + 1)]
        store.close()


def test_what_is_erased_while_it_is_verified_is_not_damage(store: SqliteStore, make_event: MakeEvent) -> None:
    store.append([make_event(n) for n in range(2000)])
    event = next(event for event in store.read(1500, 500) if event.private)

    def erase(verified: int, _of: int) -> None:
        if verified == 1000:
            store.append(
                [NewEvent(at_us=1, kind="erased", router=event.router, session_id=event.session_id, body=b"{}")]
            )
            store.erase(0)

    assert store.verify(erase) == []
    erased = store.event(event.seq)
    assert erased is not None and not erased.private


def test_a_schema_that_sqlite_cannot_even_quote_is_damage(
    store: SqliteStore, make_event: MakeEvent, data_dir: Path
) -> None:
    store.append([make_event(0)])
    store.close()
    content = (data_dir / "events.db").read_bytes()
    (data_dir / "events.db").write_bytes(content.replace(b"session ON events", b"session O\xce events"))
    with pytest.raises(StoreDamaged):
        SqliteStore.open(data_dir)


def test_opening_names_the_event_that_was_changed(store: SqliteStore, make_event: MakeEvent, data_dir: Path) -> None:
    store.append([make_event(n) for n in range(50)])
    store.close()
    connection = sqlite3.connect(data_dir / "events.db")
    with connection:
        connection.execute("UPDATE events SET body = x'7b7d' WHERE seq = 17")
    connection.close()
    with pytest.raises(StoreDamaged, match="17") as damaged:
        SqliteStore.open(data_dir)
    assert damaged.value.seq == 17
    # Behind the verified tail it is the full verification that finds it.
    store = SqliteStore.open(data_dir, verify_tail=20)
    assert [problem.seq for problem in store.verify()] == [17]
    store.close()


@pytest.mark.parametrize("change", ["request_key = 1.5", "request_key = 7", "kind = x'00'", "at_us = 'noon'"])
def test_a_column_of_another_type_is_damage(
    store: SqliteStore, make_event: MakeEvent, data_dir: Path, change: str
) -> None:
    store.append([make_event(n) for n in range(50)])
    store.close()
    connection = sqlite3.connect(data_dir / "events.db")
    with connection:
        connection.execute(f"UPDATE events SET {change} WHERE seq = 17")
    connection.close()
    with pytest.raises(StoreDamaged):
        SqliteStore.open(data_dir)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DELETE FROM decisions WHERE seq = 4", {4}),
        ("UPDATE decisions SET seq = 7 WHERE seq = 4", {4}),
        ("INSERT INTO decisions VALUES ('extra', 2)", set()),
        ("DELETE FROM requests WHERE seq = 3", {3}),
        ("INSERT INTO requests VALUES (x'00', 2)", set()),
        ("DELETE FROM events WHERE seq = 5", {5}),
    ],
)
def test_verify_compares_the_lookup_tables_with_the_events(
    store: SqliteStore, make_event: MakeEvent, data_dir: Path, change: str, expected: set[int]
) -> None:
    store.append([make_event(n) for n in range(50)])
    store.close()
    connection = sqlite3.connect(data_dir / "events.db")
    with connection:
        connection.execute(change)
    connection.close()
    store = SqliteStore.open(data_dir, verify_tail=10)
    problems = store.verify()
    assert problems
    assert expected <= {problem.seq for problem in problems}
    store.close()
