"""The archive: every event once, whole files only, whatever happens to the process that writes it."""

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from bandit import record
from bandit.events import ArmPut, Closed, Decided, Escalated, Rewarded, Stuck
from bandit.types import Arm, EscalationReason, Outcome, Usage
from pointsman.v1 import routing_pb2 as pb
from server import archive
from server.archive import Archive
from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore

DAY_US = 86_400_000_000
ARCHIVING = """
[service]
archive_seconds = 0.1
[router]
policy = "uniform"
[[arms]]
id = "a"
[[arms]]
id = "b"
"""


def new(n: int, at_us: int) -> NewEvent:
    event = Stuck(decision_id=f"d{n}")
    body = record.encode(event, salt=b"").body
    return NewEvent(at_us=at_us, kind="stuck", router="default", session_id=f"s{n}", decision_id=f"d{n}", body=body)


def filled(data_dir: Path, events: int, *, days: int = 3) -> SqliteStore:
    """A log whose time goes to and fro between days."""
    store = SqliteStore.open(data_dir)
    store.append([new(n, 1_700_000_000_000_000 + n % days * DAY_US + n) for n in range(events)])
    return store


def sequences(root: Path) -> list[int]:
    return [seq for (seq,) in duckdb.sql(f"SELECT seq FROM '{root}/*/*.parquet' ORDER BY seq").fetchall()]


def test_every_event_comes_back_as_it_was(tmp_path):
    store = filled(tmp_path / "data", 300)
    try:
        kept = Archive(tmp_path / "archive")
        assert kept.extend(archive.pages(store, kept.upto)) == 300
        store.append([new(n, 1_700_000_000_000_000) for n in range(300, 310)])
        assert kept.extend(archive.pages(store, kept.upto)) == 10
        kept.close()
        logged = store.read(0, 1000)
    finally:
        store.close()
    back = [event for page in archive.read(tmp_path / "archive") for event in page]
    assert back == [{name: getattr(event, name) for name in event.__struct_fields__} for event in logged]
    days = sorted(folder.name for folder in (tmp_path / "archive").glob("day=*"))
    assert days == ["day=2023-11-14", "day=2023-11-15", "day=2023-11-16"]
    wrong = f"SELECT count(*) FROM '{tmp_path}/archive/*/*.parquet' WHERE strftime(\"at\", '%Y-%m-%d') <> day::VARCHAR"
    duckdb.execute("SET TimeZone = 'UTC'")
    assert duckdb.sql(wrong).fetchall() == [(0,)]


@pytest.mark.parametrize("files", [0, 1, 2, 3])
def test_a_piece_that_was_interrupted_is_made_again_and_counts_once(tmp_path, files, monkeypatch):
    """The process dies after so many of a piece's three files; the log has grown before it is back."""
    store = filled(tmp_path / "data", 30)
    publish = archive._publish
    published = []

    def dying(target: Path, path: Path) -> None:
        if len(published) == files:
            raise KeyboardInterrupt
        published.append(path)
        publish(target, path)

    monkeypatch.setattr(archive, "_publish", dying)
    kept = Archive(tmp_path / "archive")
    if files < 3:
        with pytest.raises(KeyboardInterrupt):
            kept.extend(archive.pages(store, 0))
    else:
        monkeypatch.setattr(archive, "replace_number", lambda *_: None)
        kept.extend(archive.pages(store, 0))
    kept.close()
    monkeypatch.undo()
    store.append([new(n, 1_700_000_000_000_000) for n in range(30, 45)])
    kept = Archive(tmp_path / "archive")
    kept.extend(archive.pages(store, kept.upto))
    kept.close()
    store.close()
    assert sequences(tmp_path / "archive") == list(range(1, 46))
    assert not list((tmp_path / "archive").rglob("*.tmp"))


def test_kill_9_of_the_child_loses_and_doubles_nothing(tmp_path):
    store = filled(tmp_path / "data", 25_000, days=1)
    store.close()
    command = [sys.executable, "-m", "server.archive", str(tmp_path / "data"), "10", "0"]
    root = tmp_path / "data" / "archive"
    for wait in (0.5, 0.2, 0.05):
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        deadline = time.monotonic() + 20
        while not (root / "lock").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (root / "upto").exists() or int((root / "upto").read_text()) < 25_000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.communicate()  # its input ends, and so does it
    assert child.returncode == 0
    assert sequences(root) == list(range(1, 25_001))


def test_duckdb_reads_the_archive_while_the_server_works(serving, tmp_path):
    server = serving(tmp_path / "data", ARCHIVING)
    ending = threading.Event()

    def agent(name: str) -> None:
        i = 0
        while not ending.is_set():
            i += 1
            request = pb.SelectRequest(session_id=f"{name}-{i}", request_id=f"{name}-{i}")
            request.features["files"].number = i
            server.routing.Select(request)
            server.routing.Reward(pb.RewardRequest(session_id=f"{name}-{i}", success=1.0, cost_usd=0.25, final=True))

    agents = [threading.Thread(target=agent, args=(f"agent-{n}",)) for n in range(4)]
    for thread in agents:
        thread.start()
    files = f"{server.data_dir}/archive/*/*.parquet"
    deadline = time.monotonic() + 30
    looks = 0
    while looks < 10:  # at every look a whole beginning of the log
        assert time.monotonic() < deadline
        if list((server.data_dir / "archive").glob("day=*/*.parquet")):
            ((count, least, most),) = duckdb.sql(f"SELECT count(*), min(seq), max(seq) FROM '{files}'").fetchall()
            assert (count, least) == (most, 1)
            looks += 1
        time.sleep(0.05)
    ending.set()
    for thread in agents:
        thread.join()
    last = server.last_sequence()
    while int((server.data_dir / "archive" / "upto").read_text()) < last:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    archived = dict(duckdb.sql(f"SELECT kind, count(*) FROM '{files}' GROUP BY kind").fetchall())
    reader = SqliteStore.open_reader(server.data_dir)
    logged = [event.kind for event in reader.read(0, 1_000_000)]
    reader.close()
    assert archived == {kind: logged.count(kind) for kind in set(logged)}
    for query in queries():
        assert duckdb.sql(query.replace("pointsman-data", str(server.data_dir))).fetchall(), query
    assert server.stop() == 0


def queries() -> list[str]:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.findall(r"```sql\n(.*?)```", readme, re.DOTALL)
    assert len(found) == 3
    return found


def test_old_days_are_deleted_and_nothing_else(tmp_path):
    store = filled(tmp_path / "data", 30)
    kept = Archive(tmp_path / "archive")
    kept.extend(archive.pages(store, 0))
    assert kept.delete_before("2023-11-16") == ["2023-11-14", "2023-11-15"]
    assert kept.upto == 30
    assert kept.extend(archive.pages(store, kept.upto)) == 0
    assert len(sequences(tmp_path / "archive")) == 10
    kept.close()
    store.close()


USED = Outcome(success=0.5, cost_usd=0.25, usage=Usage(input_tokens=3.0), latency_seconds=2.0)


@pytest.mark.parametrize(
    ("event", "columns"),
    [
        (Closed(session_id="s", success=0.0), {"success": 0.0, "final": True}),
        (ArmPut(arm=Arm(id="a")), {"arm": "a"}),
        (
            Rewarded(session_id="s", decision_id="d", outcome=USED, revision=3, final=True),
            {"success": 0.5, "cost_usd": 0.25, "input_tokens": 3.0, "revision": 3, "final": True},
        ),
        (
            Escalated(decision_id="d", reason=EscalationReason.STRUGGLING, outcome=USED, features={"n": 1.0}),
            {"reason": "struggling", "latency_seconds": 2.0, "features": '{"n":1.0}', "final": None},
        ),
    ],
)
def test_what_is_asked_for_most_has_columns(event, columns):
    kind, body, private = record.encode(event, salt=bytes(16))
    logged = record.Logged(
        seq=1, at_us=2, kind=kind, router="r", session_id="s", decision_id="d", request_key=b"", request_digest=b"",
        body=body, private=private, private_digest=b"\1", digest=b"\2",
    )  # fmt: skip
    row = record.flatten(logged)
    assert {name: getattr(row, name) for name in columns} == columns
    assert not isinstance(event, Decided)
