"""`pointsman export | import | check`, as a user runs them."""

import contextlib
import io
import json
import random
import sqlite3
from pathlib import Path

import duckdb
import pytest

from bandit import record
from bandit.learner import Learner
from pointsman.v1 import routing_pb2 as pb
from server.cli import main
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
    told, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        try:
            status = main([*map(str, arguments), "--json", "-"])
        except SystemExit as ended:
            status = int(str(ended))
    return status, json.loads(told.getvalue()) if told.getvalue() else {}, said.getvalue()


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
        ("export", tmp_path / "x", "--data-dir", killed, "--format", "csv"),
        ("export", tmp_path / "x", "--events", killed),
        ("export", tmp_path / "x", "--data-dir", killed, "--format", "obp", "--value", "0"),
        ("export", tmp_path / "x", "--data-dir", killed, "--format", "obp", "--router", "nobody"),
        ("export", tmp_path / "x", "--data-dir", tmp_path / "nothing", "--format", "vw-dsjson"),
        ("import", tmp_path / "bad.parquet", "--events", tmp_path / "y"),
        ("import", tmp_path / "bad.parquet", "--data-dir", tmp_path / "y", "--router", "r"),
        ("import", tmp_path / "bad.parquet", "--data-dir", tmp_path / "y", "--format", "vw-dsjson"),
        ("import", tmp_path / "bad.parquet", "--data-dir", tmp_path / "y", "--format", "obp"),
        ("import", tmp_path / "none", "--data-dir", tmp_path / "y", "--format", "obp"),
        ("import", tmp_path / "none", "--data-dir", tmp_path / "y", "--format", "obp", "--reward-range", "1,0"),
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


# --- other projects' formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "decisions"), [("log.dsjson", "attempts"), ("log.npz", "sessions")])
def test_other_formats_of_a_server_and_of_its_data_directory_are_the_same(serving, tmp_path, name, decisions):
    server = serving(tmp_path / "data", THOMPSON)
    work(server, range(60))
    kind = "vw-dsjson" if name.endswith("dsjson") else "obp"
    status, live, said = pointsman("export", tmp_path / f"live-{name}", "--server", server.grpc, "--format", kind)
    assert status == 0, said
    server.stop()
    status, told, _ = pointsman("export", tmp_path / name, "--data-dir", tmp_path / "data", "--format", kind)
    assert status == 0
    assert {**told, "out": ""} == {**live, "out": ""}
    assert (tmp_path / name).read_bytes() == (tmp_path / f"live-{name}").read_bytes()
    decided = [record.decode(e.kind, e.body, e.private).event for e in events(tmp_path / "data") if e.kind == "decided"]
    wanted = [event for event in decided if decisions == "attempts" or event.decision.attempt == 1]
    assert told["decisions"] + told["unknown"] + told["pinned"] == len(wanted)
    assert told["decisions"] > 40
    # The archive, if there is one, is as good as the log.
    pointsman("export", tmp_path / "archive", "--data-dir", tmp_path / "data")
    pointsman("export", tmp_path / f"again-{name}", "--events", tmp_path / "archive", "--format", kind)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def test_decisions_of_others_become_a_router_that_learns_and_goes_on(serving, killed, tmp_path):
    theirs = tmp_path / "theirs.dsjson"
    decisions = pointsman("export", theirs, "--data-dir", killed, "--format", "vw-dsjson")[1]["decisions"]
    flags = ("--format", "vw-dsjson", "--router", "theirs")
    status, told, said = pointsman("import", theirs, "--data-dir", tmp_path / "data", *flags)
    assert status == 0, said
    # The router, two arms, and for each decision what was decided and what came of it.
    assert told == {
        "decisions": decisions,
        "arms": 2,
        "imported": 3 + 2 * decisions,
        "skipped": 0,
        "last_sequence": 3 + 2 * decisions,
    }
    assert pointsman("check", tmp_path / "data")[1]["whole"]
    assert posterior(tmp_path / "data")[0] > 0
    server = serving(tmp_path / "data", THOMPSON)
    choice = server.routing.Select(pb.SelectRequest(router="theirs", session_id="fresh"))
    assert choice.arm in ("cheap", "dear")
    decision = next(event for event in events(tmp_path / "data") if event.kind == "decided")
    shown = server.routing.GetDecision(pb.GetDecisionRequest(router="theirs", decision_id=decision.decision_id))
    assert not shown.confirmed and shown.unconfirmed_reason
    # Once more it is another router's, and never over one that is there.
    flags = ("--server", server.grpc, "--format", "vw-dsjson", "--router")
    status, again, said = pointsman("import", theirs, *flags, "again")
    assert (status, again["imported"]) == (0, told["imported"]), said
    for router in ("again", "default"):
        status, _, said = pointsman("import", theirs, *flags, router)
        assert status == 2 and "already" in said
    server.stop()


def test_a_folder_for_replay_is_made_whole_or_not_at_all(killed, tmp_path):
    theirs = tmp_path / "theirs.dsjson"
    decisions = pointsman("export", theirs, "--data-dir", killed, "--format", "vw-dsjson")[1]["decisions"]
    flags = ("--format", "vw-dsjson", "--events")
    status, told, _ = pointsman("import", theirs, *flags, tmp_path / "folder")
    assert (status, told["decisions"]) == (0, decisions)
    found = duckdb.sql(f"FROM '{tmp_path}/folder/*.parquet'")
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == record.COLUMNS
    with theirs.open("a") as file:
        file.write('{"_label_cost": 0}\n')
    status, _, said = pointsman("import", theirs, *flags, tmp_path / "other")
    assert status == 2
    assert f"line {decisions + 1}: c: is missing" in said
    assert not (tmp_path / "other").exists()
