"""Features that somebody wants deleted are gone: from the log, its files and the archive; what was learned stays."""

import shutil
import sqlite3
import time
from pathlib import Path

import duckdb
import grpc
import pytest

from bandit import record
from bandit.events import Erased, Escalated
from bandit.types import EscalationReason
from pointsman import field_violations
from pointsman.v1 import admin_pb2, events_pb2
from pointsman.v1 import routing_pb2 as pb
from server.erasure import Erasure
from server.fold import Fitter, StoredSessions, one_blas_thread
from server.store.epochs import EpochFiles
from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore

SECRET = "Rumpelstiltskin"
CONFIG = """
[service]
archive_seconds = 0.2
[router]
policy = "thompson"
draws = 16
[[arms]]
id = "a"
[[arms]]
id = "b"
"""


def select(server, session_id: str, secret: str) -> pb.SelectResponse:
    request = pb.SelectRequest(session_id=session_id)
    request.features["customer"].category = secret
    return server.routing.Select(request)


def holding(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_what_is_erased_is_nowhere_and_the_rest_stands(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)
    gone = select(server, "gone", SECRET)
    kept = select(server, "kept", "Snow White")
    server.routing.Escalate(pb.EscalateRequest(decision_id=gone.decision_id, reason=1))
    server.routing.Reward(pb.RewardRequest(session_id="gone", success=1.0, cost_usd=1.0, final=True))
    archive = f"{tmp_path}/data/archive/*/*.parquet"
    features = f"SELECT count(*) FROM '{archive}' WHERE session_id = 'gone' AND features IS NOT NULL"
    wait_for(lambda: list((tmp_path / "data/archive").glob("*/*.parquet")) and count(features) > 0)

    unknown = events_pb2.EraseSessionsRequest(session_ids=["gone", "never"])
    with pytest.raises(grpc.RpcError) as error:
        server.events.EraseSessions(unknown)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as error:
        server.events.EraseSessions(events_pb2.EraseSessionsRequest())
    assert [field for field, _ in field_violations(error.value)] == ["session_ids"]
    shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=gone.decision_id))
    assert shown.confirmed and shown.features["customer"].category == SECRET

    router = lambda: server.admin.GetRouter(admin_pb2.GetRouterRequest()).router  # noqa: E731
    wait_for(lambda: router().learned_sequence == router().last_sequence)
    learned = router().epoch_hash
    assert server.events.EraseSessions(events_pb2.EraseSessionsRequest(session_ids=["gone", "gone"])).erased == 1
    last = server.last_sequence()
    assert server.events.EraseSessions(events_pb2.EraseSessionsRequest(session_ids=["gone"])).erased == 1
    assert server.last_sequence() == last, "erasing again changes nothing"
    shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=gone.decision_id))
    assert (shown.erased, shown.confirmed, dict(shown.features)) == (True, False, {})
    assert server.routing.GetDecision(pb.GetDecisionRequest(decision_id=kept.decision_id)).confirmed
    assert router().epoch_hash == learned
    wait_for(lambda: count(features) == 0)
    assert count(f"SELECT count(*) FROM '{archive}' WHERE features IS NOT NULL") == 1
    wait_for(lambda: int((tmp_path / "data/archive/upto").read_text()) == last)
    assert count(f"SELECT count(*) FROM '{archive}'") == last
    assert server.stop() == 0
    log = [path for path in holding(tmp_path / "data", SECRET) if "epochs" not in path.parts]
    assert log == []
    assert holding(tmp_path / "data", "Snow White")
    reader = SqliteStore.open_reader(tmp_path / "data")
    assert reader.verify() == []
    reader.close()


def wait_for(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def count(query: str) -> int:
    try:
        return duckdb.sql(query).fetchall()[0][0]
    except duckdb.Error:
        # A file was replaced between the reading of its footer and of its columns.
        return -1


def test_features_of_sessions_that_are_silent_for_long_are_erased(serving, tmp_path):
    keeping = CONFIG + "[retention]\nfeatures_days = 0.00002\n"
    server = serving(tmp_path / "data", CONFIG)
    gone = select(server, "gone", SECRET)
    server.routing.Reward(pb.RewardRequest(session_id="gone", success=1.0, final=True))
    server.kill()
    server = serving(tmp_path / "data", keeping)
    shown = lambda decision: server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decision.decision_id))  # noqa: E731
    wait_for(lambda: shown(gone).erased)
    later = select(server, "later", SECRET)
    select(server, "later", SECRET)
    wait_for(lambda: shown(later).erased)
    server.kill()
    server = serving(tmp_path / "data", keeping)
    wait_for(lambda: int((tmp_path / "data/retention").read_text()) >= server.last_sequence() - 1)
    archive = f"{tmp_path}/data/archive/*/*.parquet"
    wait_for(lambda: count(f"SELECT count(*) FROM '{archive}' WHERE kind = 'erased'") == 2)
    wait_for(lambda: count(f"SELECT count(*) FROM '{archive}' WHERE features IS NOT NULL") == 0)
    assert server.stop() == 0
    assert [path for path in holding(tmp_path / "data", SECRET) if "epochs" not in path.parts] == []
    reader = SqliteStore.open_reader(tmp_path / "data")
    assert reader.verify() == []
    assert [event.session_id for event in reader.read(0, 100) if event.kind == "erased"] == ["gone", "later"]
    reader.close()


INLINE = CONFIG.replace("[service]", '[service]\nfitter = "inline"')


def learned(server) -> tuple[int, str]:
    shown = server.admin.GetRouter(admin_pb2.GetRouterRequest()).router
    return shown.epoch, shown.epoch_hash


def test_epochs_go_on_after_an_erasure_and_without_any_file_too(serving, tmp_path):
    server = serving(tmp_path / "data", INLINE)
    for i in range(60):
        select(server, f"s{i}", "abc"[i % 3])
        server.routing.Reward(pb.RewardRequest(session_id=f"s{i}", success=i % 2, cost_usd=1.0, final=True))
    gone = [f"s{i}" for i in (7, 58, 59)]
    server.events.EraseSessions(events_pb2.EraseSessionsRequest(session_ids=gone))
    for session_id in gone:
        server.routing.Reward(pb.RewardRequest(session_id=session_id, success=0.5, cost_usd=2.0, final=True))
    before = learned(server)
    server.kill()
    numbers = sorted((tmp_path / "data/epochs").rglob("*.epoch"), key=lambda path: int(path.stem))
    for path in numbers[:-1]:
        path.unlink()
    server = serving(tmp_path / "data", INLINE)
    assert learned(server) == before
    for i in range(60, 70):
        select(server, f"s{i}", "abc"[i % 3])
        server.routing.Reward(pb.RewardRequest(session_id=f"s{i}", success=1.0, cost_usd=1.0, final=True))
    assert learned(server)[0] > before[0]
    server.kill()
    for path in (tmp_path / "data/epochs").rglob("*.epoch"):
        path.unlink()
    server = serving(tmp_path / "data", INLINE)
    anew = learned(server)
    decision = select(server, "fresh", "a")
    assert server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decision.decision_id)).confirmed
    server.kill()
    # Somebody else who has nothing but the log comes to the same.
    shutil.rmtree(tmp_path / "data/epochs")
    one_blas_thread()
    reader = SqliteStore.open_reader(tmp_path / "data")
    fitter = Fitter(reader, EpochFiles(tmp_path))
    fitter.catch_up()
    vintage = fitter.learners["default"].vintage
    assert (vintage.epoch, vintage.epoch_hash) == anew
    reader.close()


def test_an_epoch_that_would_be_another_one_stands_as_it_was_published(serving, tmp_path):
    server = serving(tmp_path / "data", INLINE)
    for i in range(20):
        select(server, f"s{i}", "abc"[i % 3])
        server.routing.Reward(pb.RewardRequest(session_id=f"s{i}", success=i % 2, cost_usd=1.0, final=True))
    whole = learned(server)
    server.kill()
    with sqlite3.connect(tmp_path / "data/events.db") as database:
        database.execute("UPDATE events SET private = x''")
    database.close()
    one_blas_thread()
    reader = SqliteStore.open_reader(tmp_path / "data")
    fitter = Fitter(reader, EpochFiles(tmp_path))
    # Published by somebody who had the features.
    folder = tmp_path / "epochs/default/1"
    folder.mkdir(parents=True)
    published = {n: (tmp_path / f"data/epochs/default/1/{n}.epoch").read_bytes() for n in range(6, 12)}
    for number, content in published.items():
        (folder / f"{number}.epoch").write_bytes(content)
    fitter.catch_up()
    assert {number: (folder / f"{number}.epoch").read_bytes() for number in published} == published
    vintage = fitter.learners["default"].vintage
    assert vintage.epoch == whole[0]
    assert vintage.epoch_hash != whole[1]
    assert Fitter(reader, EpochFiles(tmp_path)).learners["default"].vintage.epoch_hash == vintage.epoch_hash
    reader.close()


def private(seq: int, session_id: str) -> NewEvent:
    return NewEvent(at_us=seq, kind="stuck", router="r", session_id=session_id, body=b"{}", private=SECRET.encode())


def test_an_erasure_that_was_interrupted_is_completed(tmp_path):
    store = SqliteStore.open(tmp_path)
    erased = record.encode(Erased(session_id="gone"), salt=b"").body
    store.append([private(1, "gone"), private(2, "kept")])
    store.append([NewEvent(at_us=3, kind="erased", router="r", session_id="gone", body=erased), private(4, "gone")])
    store.close()
    store = SqliteStore.open(tmp_path)
    Erasure(store, tmp_path).complete()
    assert [event.private for event in store.read(0, 9)] == [b"", SECRET.encode(), b"", SECRET.encode()]
    assert store.verify() == []
    store.append([NewEvent(at_us=5, kind="erased", router="r", session_id="gone", body=erased)])
    Erasure(store, tmp_path).complete()
    assert [event.seq for event in store.read(0, 9) if event.private] == [2]
    assert store.verify() == []
    store.close()


def test_a_session_that_is_folded_anew_without_its_features_is_known_by_it(tmp_path):
    store = SqliteStore.open(tmp_path)
    left = record.encode(
        Escalated(decision_id="d", reason=EscalationReason.USER_REQUEST, features={"secret": SECRET}), salt=b"x" * 16
    )
    erased = record.encode(Erased(session_id="gone"), salt=b"").body
    for session_id in ("gone", "kept"):
        escalated = NewEvent(
            at_us=1, kind=left.kind, router="r", session_id=session_id, body=left.body, private=left.private
        )
        store.append([escalated])
    store.append([NewEvent(at_us=2, kind="erased", router="r", session_id="gone", body=erased)])
    Erasure(store, tmp_path).complete()
    met = []
    for session_id in ("kept", "gone"):
        sessions = StoredSessions(store, "r")
        sessions.upto = store.last_seq
        sessions.get(session_id)
        met.append(sessions.erased)
    assert met == [False, True]
    store.close()


def test_a_private_part_that_nobody_erased_is_missed(tmp_path):
    store = SqliteStore.open(tmp_path)
    store.append([private(1, "a"), private(2, "b")])
    store.close()
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("UPDATE events SET private = x'' WHERE seq = 1")
    database.close()
    store = SqliteStore.open(tmp_path)
    assert [problem.seq for problem in store.verify()] == [1]
    store.close()
