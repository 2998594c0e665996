"""Backups of a server at work: each is whole, and holds all that was acknowledged before it began."""

import json
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.store.sqlite import SqliteReader
from tests.faults.processes import UNIFORM, Server, start
from tests.faults.trial import Figures, Trial, require

AIM = (
    "100 backups of a server under load: each whole, each with all that was acknowledged before; a restored one serves"
)

_AGENTS = 4
_BATCH = 32


class _Load:
    """Agents that select and reward until they are stopped, and what they were told."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ending = threading.Event()
        self.decisions: list[str] = []
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(_AGENTS)]
        for thread in self._threads:
            thread.start()

    def _work(self, agent: int) -> None:
        turn = 0
        while not self._ending.is_set():
            turn += 1
            names = [f"{agent}-{turn}-{i}" for i in range(_BATCH)]
            batch = pb.BatchSelectRequest(requests=[pb.SelectRequest(session_id=n, request_id=n) for n in names])
            answer = self._server.routing.BatchSelect(batch, timeout=60)
            self.decisions += [result.response.decision_id for result in answer.responses]
            reward = pb.RewardRequest(decision_id=self.decisions[-1], success=1.0, final=True)
            self._server.routing.Reward(reward, timeout=60)
            time.sleep(0.02)

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def _command(*arguments: object) -> tuple[int, dict[str, object], str]:
    """Status, JSON and standard error of a command."""
    command = [sys.executable, "-m", "server.cli", *map(str, arguments), "--json", "-"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return ran.returncode, json.loads(ran.stdout or "{}"), ran.stderr


def _decisions(data_dir: Path) -> set[str]:
    """Those in a log, which must be whole."""
    reader = SqliteReader(data_dir)
    try:
        problems = reader.verify()
        require(not problems, f"a backup is not whole: {problems[:3]}")
        return {event.decision_id for event in reader.read(0, 10_000_000) if event.kind == "decided"}
    finally:
        reader.close()


def _interrupt(data_dir: Path, folder: Path, rng: random.Random) -> None:
    """A backup that is killed leaves nothing that passes for one, and does not stand in the way of the next."""
    target = folder / "killed"
    command = [sys.executable, "-m", "server.cli", "backup", str(data_dir), str(target)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(rng.uniform(0.2, 1.0))
        process.kill()
    if target.exists():  # it had ended before
        _decisions(target)
        shutil.rmtree(target)


def _restore(backup: Path, decisions: set[str]) -> None:
    """Serves a backup: what it holds is answered and confirmed, and work goes on."""
    server = start(backup, UNIFORM)
    try:
        for decision_id in sorted(decisions)[:20]:
            shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decision_id))
            require(shown.confirmed, f"{decision_id} of a backup: {shown.unconfirmed_reason}")
        before = server.last_sequence()
        server.routing.Select(pb.SelectRequest(session_id="after"))
        require(server.last_sequence() == before + 1, "a restored backup does not take writes")
        require(server.admin.GetRouter(admin_pb2.GetRouterRequest()).router.id == "default", "its router is gone")
    finally:
        server.stop()


def _refuse(backup: Path) -> None:
    """A log that is damaged is not copied as if it were whole."""
    with closing(sqlite3.connect(backup / "events.db")) as connection, connection:
        connection.execute("UPDATE events SET body = x'7b7d' WHERE seq = 7")
    copy = backup.with_name("of-damaged")
    status, _, said = _command("backup", backup, copy)
    require(status == 3 and "event 7" in said, f"a damaged log was backed up: {status}, {said}")
    require(not copy.exists() and not copy.with_name("of-damaged.partial").exists(), "of a damaged log a copy is left")


def run(trial: Trial) -> Figures:
    """Backs up, interrupts, restores."""
    rng = random.Random(trial.seed)
    backups = trial.size(full=100, quick=1)
    data_dir, target = trial.folder / "data", trial.folder / "backup"
    server = start(data_dir, UNIFORM)
    load = _Load(server)
    largest = 0
    try:
        for number in range(backups):
            if number % 10 == 9:
                _interrupt(data_dir, trial.folder, rng)
            shutil.rmtree(target, ignore_errors=True)
            before = set(load.decisions)
            status, told, said = _command("backup", data_dir, target)
            require(status == 0, f"backup: {said}")
            require(target.stat().st_mode & 0o077 == 0, "a backup can be read by others")
            held = _decisions(target)
            require(before <= held, f"{len(before - held)} decisions acknowledged before are not in the backup")
            largest = int(str(told["events"]))
            trial.tell(number + 1, backups)
    finally:
        load.stop()
        server.stop()
    _restore(target, before)
    _refuse(target)
    return {"backups": backups, "events_in_the_last": largest, "missing": 0}
