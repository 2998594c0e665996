"""The disk fails at every Nth call: nothing that was acknowledged is lost, and the service comes back."""

import itertools
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import grpc

from pointsman.v1 import routing_pb2 as pb
from server.store.sqlite import SqliteReader, SqliteStore
from tests.faults.appender import event
from tests.faults.processes import UNIFORM, Server, start
from tests.faults.shim import Kind, Shim
from tests.faults.trial import Broken, Figures, Trial, require

AIM = "fsync fails, disk full, short and torn writes at every Nth call: no acknowledged write lost, comes back"

KINDS = (Kind.SYNC, Kind.FULL, Kind.SHORT, Kind.TORN)
_GROUPS = 8
_OUTAGES = (1, 15)
"""How many calls in a row fail."""
_MOST_CALLS = 1000
_SECONDS = 30.0
_Answer = TypeVar("_Answer")


def _firsts(trial: Trial, rng: random.Random, most: int) -> Iterable[int]:
    """Which call is the first to fail, one run after another."""
    return [rng.randrange(1, 30)] if trial.quick else range(1, most, max(1, round(1 / trial.share)))


# --- the store ---------------------------------------------------------------------------------------------------


def _append_through(shim: Shim, data_dir: Path) -> list[int]:
    """Runs the appender to its end: the numbers that it acknowledged."""
    command = [sys.executable, "-m", "tests.faults.appender", str(data_dir), str(_GROUPS)]
    ran = subprocess.run(command, env=dict(shim.environment), capture_output=True, text=True, timeout=60)
    lines = ran.stdout.split("\n")
    require(ran.returncode == 0 and "done" in lines, f"the store did not come back: {ran.stderr[-300:]}")
    told = [line.split() for line in lines if line.startswith("acknowledged")]
    return [seq for _, first, last in told for seq in range(int(first), int(last) + 1)]


def _require_kept(data_dir: Path, acknowledged: list[int]) -> None:
    store = SqliteStore.open(data_dir)
    try:
        problems = store.verify()
        require(not problems, f"the log is not whole: {problems[:3]}")
        found = store.read(0, 10_000)
    finally:
        store.close()
    require(len(found) >= max(acknowledged, default=0), "acknowledged events are missing")
    for stored in found:
        wanted = event(stored.seq)
        require((stored.body, stored.private) == (wanted.body, wanted.private), f"event {stored.seq} is another one")


def _store(trial: Trial, rng: random.Random) -> tuple[int, int]:
    """Runs of the appender, and calls that failed in them."""
    runs = failed = 0
    data_dir = trial.folder / "store"
    for kind, outage in itertools.product(KINDS, (1,) if trial.quick else _OUTAGES):
        for first in _firsts(trial, rng, _MOST_CALLS):
            data_dir.mkdir()
            with Shim(trial.folder, data_dir) as shim:
                shim.fail(kind, first, first + outage - 1)
                acknowledged = _append_through(shim, data_dir)
                hit = shim.failed
            _require_kept(data_dir, acknowledged)
            shutil.rmtree(data_dir)
            runs, failed = runs + 1, failed + hit
            trial.tell(runs, 1500)
            if not hit:
                break  # there are no more calls that could fail
    return runs, failed


# --- the service -------------------------------------------------------------------------------------------------


def _until_answered(call: Callable[[], _Answer]) -> _Answer:
    ends = time.monotonic() + _SECONDS
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            require(error.code() is grpc.StatusCode.UNAVAILABLE, f"refused: {error.code()} {error.details()}")
            require(time.monotonic() < ends, f"it does not come back: {error.details()}")
            time.sleep(0.02)


def _session(server: Server, name: str) -> dict[str, object]:
    """One session from begin to end, each call sent until it is answered: what was answered."""
    chosen = _until_answered(
        lambda: server.routing.Select(pb.SelectRequest(session_id=name, request_id=name), timeout=_SECONDS)
    )
    leave = pb.EscalateRequest(decision_id=chosen.decision_id, request_id=name, reason=1, outcome={"cost_usd": 0.5})
    left = _until_answered(lambda: server.routing.Escalate(leave, timeout=_SECONDS))
    last = left.next.decision_id or chosen.decision_id
    told = pb.RewardRequest(decision_id=last, request_id=name, success=1.0, cost_usd=1.0, final=True)
    _until_answered(lambda: server.routing.Reward(told, timeout=_SECONDS))
    return {"session": name, "attempts": [chosen.decision_id, *([last] if left.HasField("next") else [])]}


def _require_told(server: Server, told: Iterable[dict[str, object]]) -> None:
    for one in told:
        session = server.routing.GetSession(pb.GetSessionRequest(session_id=str(one["session"])))
        attempts = [attempt.decision_id for attempt in session.attempts]
        require(attempts == one["attempts"] and session.final, f"{one} was acknowledged, {session} is there")


def _healthy(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"http://{server.http}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def _says_so(server: Server, shim: Shim, kind: Kind) -> None:
    """While nothing can be written the service says so, and afterwards it takes the very same request."""
    shim.fail(kind)
    request = pb.SelectRequest(session_id=f"outage-{kind.name}", request_id=f"outage-{kind.name}")
    try:
        server.routing.Select(request, timeout=_SECONDS)
    except grpc.RpcError as error:
        require(error.code() is grpc.StatusCode.UNAVAILABLE, f"{kind.name}: {error.code()} {error.details()}")
    else:
        raise Broken(f"{kind.name}: answered although nothing can be made durable")
    require(not _healthy(server), f"{kind.name}: healthy although nothing can be made durable")
    shim.heal()
    _until_answered(lambda: server.routing.Select(request, timeout=_SECONDS))
    require(_healthy(server), f"{kind.name}: it takes writes and does not say so")


def _service(trial: Trial, rng: random.Random) -> tuple[int, int]:
    """Sessions served while the disk fails, and calls that failed in them."""
    sessions = failed = 0
    told = []
    data_dir = trial.folder / "service"
    with Shim(trial.folder, data_dir) as shim:
        server = start(data_dir, UNIFORM, environment=shim.environment)
        try:
            for kind, outage in itertools.product(KINDS, (3,) if trial.quick else _OUTAGES):
                for first in _firsts(trial, rng, 40):
                    shim.fail(kind, min(first, 8) if trial.quick else first, first + outage - 1)
                    told.append(_session(server, f"{kind.name}-{outage}-{first}"))
                    sessions, failed = sessions + 1, failed + shim.failed
            for kind in (Kind.SYNC, Kind.FULL, Kind.TORN):
                _says_so(server, shim, kind)
            shim.heal()
            _require_told(server, told)
            if not trial.quick:
                server.kill()
                server = start(data_dir, UNIFORM)
                _require_told(server, told)
        finally:
            server.kill()
    _require_whole(data_dir)
    return sessions, failed


def _require_whole(data_dir: Path) -> None:
    reader = SqliteReader(data_dir)
    try:
        problems = reader.verify()
    finally:
        reader.close()
    require(not problems, f"the log is not whole: {problems[:3]}")


# --- the start ---------------------------------------------------------------------------------------------------


def _starts(trial: Trial, rng: random.Random) -> tuple[int, int]:
    """Starts with a failing disk, and calls that failed in them: each serves, or ends with one line that says why."""
    starts = failed = 0
    data_dir = trial.folder / "starts"
    server = start(data_dir, UNIFORM)
    told = [_session(server, "before")]
    server.kill()
    flags = ["--config", str(data_dir.with_suffix(".toml")), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command = [sys.executable, "-m", "server.cli", "serve", "--data-dir", str(data_dir), *flags]
    with Shim(trial.folder, data_dir) as shim:
        for kind in (*KINDS, Kind.UNREADABLE):
            for first in _firsts(trial, rng, _MOST_CALLS):
                shim.fail(kind, first)
                with subprocess.Popen(
                    command, env=dict(shim.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                ) as process:
                    assert process.stdout is not None
                    if process.stdout.readline():
                        process.kill()
                    _, said = process.communicate(timeout=60)
                _require_said(kind, process.returncode, said)
                starts, failed = starts + 1, failed + shim.failed
                if not shim.failed:
                    break
    server = start(data_dir, UNIFORM)
    try:
        _require_told(server, told)
    finally:
        server.kill()
    _require_whole(data_dir)
    return starts, failed


def _require_said(kind: Kind, status: int, said: str) -> None:
    """That it was up, and so was killed here, or ended with a line that says why."""
    # What cannot be read passes for damaged, which is status 3.
    refused = (2, 3) if kind is Kind.UNREADABLE else (2,)
    line = said.strip().rpartition("\n")[2]
    well = status in refused and line.startswith("pointsman serve: ")
    require(status == -9 or well, f"{kind.name}: a start ended with status {status}: {said[-1000:]}")


def run(trial: Trial) -> Figures:
    """Fails every call once, and some in a row: of a store, of a service at work, and of one that starts."""
    rng = random.Random(trial.seed)
    runs, in_store = _store(trial, rng)
    sessions, in_service = _service(trial, rng)
    starts, in_start = (0, 0) if trial.quick else _starts(trial, rng)
    return {
        "runs_of_the_store": runs,
        "sessions": sessions,
        "starts": starts,
        "failed_calls": in_store + in_service + in_start,
        "lost": 0,
    }
