"""`pointsman export | import | check`, as a user runs them."""

import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from bandit import record
from bandit.learner import Learner
from pointsman.v1 import routing_pb2 as pb
from server.fold import one_blas_thread
from server.store.sqlite import SqliteStore

THOMPSON = """
[service]
archive_seconds = 0
[router]
policy = "thompson"
draws = 32
[[arms]]
id = "cheap"
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "dear"
figures = [{ success_rate = 0.8, cost_usd = 1.5 }]
"""


def pointsman(*arguments: object) -> tuple[int, dict, str]:
    """Exit status, JSON and what was said besides."""
    command = [sys.executable, "-m", "server.cli", *map(str, arguments), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def work(server, sessions: range) -> None:
    rng = random.Random(sessions.start)
    for i in sessions:
        features = {"category": pb.FeatureValue(category=rng.choice("abc")), "n": pb.FeatureValue(number=rng.random())}
        choice = server.routing.Select(pb.SelectRequest(session_id=f"s{i}", request_id=f"r{i}", features=features))
        if rng.random() < 0.3:
            server.routing.Escalate(pb.EscalateRequest(session_id=f"s{i}", decision_id=choice.decision_id, reason=1))
        server.routing.Reward(
            pb.RewardRequest(session_id=f"s{i}", success=float(rng.random() < 0.6), cost_usd=0.4, final=True)
        )


def events(data_dir: Path) -> list:
    reader = SqliteStore.open_reader(data_dir)
    try:
        return reader.read(0, 100_000)
    finally:
        reader.close()


def posterior(data_dir: Path) -> tuple[int, str]:
    one_blas_thread()
    learner = Learner()
    for stored in events(data_dir):
        event = record.decode(stored.kind, stored.body, stored.private).event
        learner.feed(stored.seq, event, stored.session_id, stored.at_us)
    return learner.vintage.epoch, learner.vintage.epoch_hash


@pytest.fixture(scope="module")
def killed(serving, tmp_path_factory) -> Path:
    """The data directory of a server that was exported from while it ran, and then killed."""
    data_dir = tmp_path_factory.mktemp("commands") / "data"
    server = serving(data_dir, THOMPSON)
    work(server, range(150))
    status, told, said = pointsman("export", data_dir.parent / "live", "--server", server.grpc)
    assert (status, told["events"]) == (0, server.last_sequence()), said
    work(server, range(150, 170))
    server.kill()
    return data_dir


def test_an_export_imported_into_nothing_is_the_same_log_and_the_same_posterior(killed, tmp_path):
    assert pointsman("check", killed)[0] == 0
    out = killed.parent / "live"
    status, told, _ = pointsman("export", out, "--data-dir", killed)  # goes on from what the server gave
    assert status == 0
    assert 0 < told["events"] < told["last_sequence"] == len(events(killed))
    assert pointsman("export", out, "--data-dir", killed)[1]["events"] == 0
    status, told, said = pointsman("import", out, "--data-dir", tmp_path / "copy")
    assert status == 0, said
    assert told == {"imported": len(events(killed)), "skipped": 0, "last_sequence": len(events(killed))}
    assert events(tmp_path / "copy") == events(killed)
    assert pointsman("check", tmp_path / "copy")[1]["whole"]
    assert posterior(tmp_path / "copy") == posterior(killed)
    again = pointsman("import", out, "--data-dir", tmp_path / "copy")[1]
    assert (again["imported"], again["skipped"]) == (0, told["imported"])


def test_a_server_on_the_copy_goes_on_where_the_killed_one_was(serving, killed, tmp_path):
    pointsman("export", tmp_path / "out", "--data-dir", killed)
    assert pointsman("import", tmp_path / "out", "--data-dir", tmp_path / "data")[0] == 0
    server = serving(tmp_path / "data", THOMPSON)
    decision = next(event for event in events(killed)[::-1] if event.kind == "decided")
    shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decision.decision_id))
    assert shown.confirmed, shown.unconfirmed_reason
    repeated = server.routing.Select(pb.SelectRequest(session_id="fresh", request_id="fresh"))
    assert repeated.decision_id
    # What is there is skipped by a server too, and what differs is refused by number.
    status, told, _ = pointsman("import", tmp_path / "out", "--server", server.grpc)
    assert (status, told["imported"]) == (0, 0)
    other = tmp_path / "other"
    SqliteStore.open(other).close()
    status, _, said = pointsman("import", tmp_path / "out", "--server", server.grpc, "--renumber")
    assert status == 1 and "ALREADY_EXISTS" in said
    server.stop()


def test_one_router_alone(killed, tmp_path):
    assert pointsman("export", tmp_path / "one", "--data-dir", killed, "--router", "default")[1]["events"]
    assert pointsman("export", tmp_path / "none", "--data-dir", killed, "--router", "nobody")[1]["events"] == 0


def test_damage_is_named(killed, tmp_path):
    pointsman("export", tmp_path / "out", "--data-dir", killed)
    pointsman("import", tmp_path / "out", "--data-dir", tmp_path / "data")
    with sqlite3.connect(tmp_path / "data" / "events.db") as database:
        database.execute("UPDATE events SET body = replace(body, 'cheap', 'DEAR!') WHERE seq = 17")
        database.execute("UPDATE events SET session_id = 'elsewhere' WHERE seq = 17")
    database.close()
    status, told, said = pointsman("check", tmp_path / "data")
    assert status == 3
    assert not told["whole"]
    assert told["problems"][0]["sequence"] == 17
    assert "damaged" in said


def test_bad_usage_is_one_line(killed, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    for arguments in (
        ("export", tmp_path / "x", "--data-dir", killed, "--format", "obp"),
        ("export", tmp_path / "x", "--data-dir", tmp_path / "nothing"),
        ("import", empty, "--data-dir", tmp_path / "y"),
        ("import", tmp_path / "bad.parquet", "--data-dir", tmp_path / "y"),
        ("check", tmp_path / "nothing"),
    ):
        status, _, said = pointsman(*arguments)
        assert status == 2, arguments
        assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "y").exists()
    assert pointsman("export", tmp_path / "x", "--server", "127.0.0.1:1")[0] == 1


def test_what_an_export_holds_is_plain_to_sql(killed, tmp_path):
    pointsman("export", tmp_path / "out", "--data-dir", killed)
    found = duckdb.sql(f"FROM '{tmp_path}/out/*/*.parquet'")
    kinds = dict(zip(found.columns, map(str, found.types), strict=True))
    assert {name: kinds[name] for name in record.COLUMNS} == record.COLUMNS
    assert list(kinds)[: len(record.COLUMNS)] == list(record.COLUMNS)
