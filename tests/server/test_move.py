"""From a data directory into PostgreSQL and on from there, as an operator does it."""

from pathlib import Path

import grpc
import pytest

from pointsman.v1 import admin_pb2, events_pb2
from pointsman.v1 import routing_pb2 as pb
from server import archive
from server.fold import Fitter, one_blas_thread
from server.store.epochs import EpochFiles
from server.store.protocol import StoredEvent
from server.store.sqlite import SqliteStore
from tests.postgres import Cluster
from tests.server.conftest import Serve
from tests.server.test_log_commands import THOMPSON, events, pointsman, work

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'pointsman[postgres]'")
from server.store.postgres.store import PostgresReader


def with_password(url: str) -> str:
    """The same database: it trusts everybody, and so takes any password."""
    return url.replace("pointsman@", "pointsman:secret@")


def events_in(url: str) -> list[StoredEvent]:
    reader = PostgresReader(url)
    try:
        return reader.read(0, 100_000)
    finally:
        reader.close()


@pytest.fixture(scope="module")
def old(serving: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data directory that was worked on, a session of it erased, and the hash of its last epoch."""
    data_dir = tmp_path_factory.mktemp("old") / "data"
    server = serving(data_dir, THOMPSON)
    work(server, range(30))
    server.events.EraseSessions(events_pb2.EraseSessionsRequest(session_ids=["s3"]))
    assert server.stop() == 0
    one_blas_thread()
    reader = SqliteStore.open_reader(data_dir)
    try:
        fitter = Fitter(reader, EpochFiles(data_dir))
        fitter.catch_up()
        vintage = fitter.learners["default"].vintage
    finally:
        reader.close()
    assert vintage is not None
    return data_dir, vintage.epoch_hash


def test_a_moved_log_is_the_same_log_and_replicas_go_on_from_it(
    old: tuple[Path, str], serving: Serve, postgres: Cluster, database_url: str, tmp_path: Path
) -> None:
    data_dir, epoch_hash = old
    url = with_password(database_url)
    before = events(data_dir)
    status, told, said = pointsman("move", "--from", data_dir, "--to", url)
    assert status == 0, said
    assert (told["events"], told["digest"]) == (len(before), before[-1].digest.hex())
    assert told["epochs"] > 1
    assert "secret" not in f"{told}{said}"
    assert events_in(url) == before
    assert events(data_dir) == before, "the directory is as it was"

    status, told, said = pointsman("move", "--from", data_dir, "--to", url)
    assert status == 2 and f"{len(before):,} events already" in said and "secret" not in said
    assert events_in(url) == before

    status, told, said = pointsman("check", url)
    assert (status, told["whole"], told["events"]) == (0, True, len(before))
    assert "secret" not in f"{told}{said}"

    server = serving(tmp_path / "replica", THOMPSON, "--store", url)
    assert server.admin.GetRouter(admin_pb2.GetRouterRequest()).router.epoch_hash == epoch_hash
    decision = next(event for event in before[::-1] if event.kind == "decided")
    shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decision.decision_id))
    assert shown.confirmed, shown.unconfirmed_reason
    first = next(event for event in before if event.kind == "decided")
    left = pb.EscalateRequest(session_id=first.session_id, decision_id=first.decision_id, reason=1)
    with pytest.raises(grpc.RpcError) as refused:
        server.routing.Escalate(left)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION, "it was rewarded, and that was final"
    assert events_in(url) == before
    server.routing.Select(pb.SelectRequest(session_id="new"))
    assert len(events_in(url)) == len(before) + 1
    assert server.stop() == 0


def test_export_and_import_take_a_url(old: Path, postgres: Cluster, database_url: str, tmp_path: Path) -> None:
    data_dir, _ = old
    before = events(data_dir)
    pointsman("export", tmp_path / "out", "--data-dir", data_dir)
    status, told, said = pointsman("import", tmp_path / "out", "--store", with_password(database_url))
    assert (status, told["imported"]) == (0, len(before)), said
    assert [event.digest for event in events_in(database_url)] == [event.digest for event in before]
    status, told, said = pointsman("export", tmp_path / "again", "--store", with_password(database_url))
    assert (status, told["events"]) == (0, len(before)), said
    assert [row["digest"] for page in archive.read(tmp_path / "again") for row in page] == [e.digest for e in before]

    postgres.query(database_url.rpartition("/")[2], "DELETE FROM pointsman.events WHERE seq = 7")
    status, told, said = pointsman("check", database_url)
    assert (status, told["problems"][0]["sequence"]) == (3, 7)


def test_where_there_is_nothing_to_move_nothing_is_made(database_url: str, tmp_path: Path) -> None:
    status, _, said = pointsman("move", "--from", tmp_path / "none", "--to", with_password(database_url))
    assert status == 2 and "no store" in said and "secret" not in said
    assert not (tmp_path / "none").exists()
