"""A log that is damaged behind what a start looks at: it is found, the event is named, and nothing is added to it."""

import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pointsman.v1 import routing_pb2 as pb
from tests.server.conftest import UNIFORM, Serve, Server


def change(data_dir: Path, statement: str) -> None:
    with closing(sqlite3.connect(data_dir / "events.db")) as connection, connection:
        connection.execute(statement)


def health_of(server: Server) -> tuple[str, int]:
    """What the health service says of Routing, and the HTTP status of /healthz."""
    request = health_pb2.HealthCheckRequest(service="pointsman.v1.Routing")
    told = health_pb2_grpc.HealthStub(server.channel).Check(request)
    try:
        with urllib.request.urlopen(f"http://{server.http}/healthz", timeout=10) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    return health_pb2.HealthCheckResponse.ServingStatus.Name(told.status), status


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    return refused.value.details()


def test_damage_that_a_start_does_not_see_is_found_afterwards(serving: Serve, tmp_path: Path) -> None:
    server = serving(tmp_path / "data")
    first = server.routing.Select(pb.SelectRequest(session_id="first"))
    seq = server.last_sequence()
    server.routing.Select(pb.SelectRequest(session_id="second"))
    assert server.stop() == 0
    change(tmp_path / "data", f"DELETE FROM decisions WHERE seq = {seq}")

    server = serving(tmp_path / "data")
    until(lambda: health_of(server) == ("NOT_SERVING", 503))
    last = server.last_sequence()
    assert f"event {seq}" in refusal(lambda: server.routing.Select(pb.SelectRequest(session_id="third")))
    assert server.last_sequence() == last
    # What can be read is still told.
    shown = server.routing.GetSession(pb.GetSessionRequest(session_id="first"))
    assert shown.attempts[0].decision_id == first.decision_id
    assert server.stop() == 0


def test_damage_that_is_come_upon_ends_the_taking_of_writes(serving: Serve, tmp_path: Path) -> None:
    server = serving(tmp_path / "data", UNIFORM + "[limits]\ncached_sessions = 1\n")
    server.routing.Select(pb.SelectRequest(session_id="first"))
    seq = server.last_sequence()
    for i in range(3):
        server.routing.Select(pb.SelectRequest(session_id=f"other-{i}"))
    change(tmp_path / "data", f"UPDATE events SET decision_id = '' WHERE seq = {seq}")
    assert "contradicts itself" in refusal(lambda: server.routing.Select(pb.SelectRequest(session_id="first")))
    until(lambda: health_of(server) == ("NOT_SERVING", 503))
    assert "contradicts itself" in refusal(lambda: server.routing.Select(pb.SelectRequest(session_id="other-9")))
    server.kill()


def test_a_whole_log_stays_in_service(serving: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = serving(tmp_path / "data")
    said = ""

    def verified() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "verified from its beginning" in said

    until(verified)
    assert health_of(server) == ("SERVING", 200)
    assert server.stop() == 0


def test_who_has_nobody_to_tell_ends_although_the_log_never_comes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server.inspection", str(tmp_path / "nothing")]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert b"cannot be verified now" in ended.stderr
