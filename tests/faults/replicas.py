"""Three replicas on one PostgreSQL, while replicas, the fitter and the database are killed and cut off in turn.

Agents send every call to any replica, now and then to two at once, and repeat it until it is answered; so the log must
hold what they were told and nothing else, and in the end all replicas decide under one epoch: the one that an
uninterrupted fold of the log comes to. `python -m tests.faults.replicas --splits 50 --seed N` tries it alone.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
from rich.console import Console
from rich.table import Table

from bandit import record
from bandit.events import Decided, Escalated, Rewarded
from bandit.learner import Learner
from pointsman.v1 import admin_pb2, routing_pb2_grpc
from pointsman.v1 import routing_pb2 as pb
from server.fold import one_blas_thread
from server.store.postgres.epochs import PostgresEpochs
from server.store.postgres.store import PostgresReader
from tests.faults.network import Link
from tests.faults.processes import Server, start
from tests.faults.shim import NoShim
from tests.faults.trial import Figures, Trial, require
from tests.postgres import Cluster, NoPostgres

AIM = "50 splits of three replicas on PostgreSQL: none lost, none twice, one epoch on all"

CONFIG = """
[service]
archive_seconds = 0
[router]
policy = "thompson"
draws = 32
max_attempts = 2
[[arms]]
id = "cheap"
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "middle"
figures = [{ success_rate = 0.6, cost_usd = 0.4 }]
[[arms]]
id = "dear"
figures = [{ success_rate = 0.8, cost_usd = 1.5 }]
"""

_REPLICAS = 3
_AGENTS = 12
_BETWEEN = 40
"""Acknowledged calls between two splits."""
_SECONDS = 120.0
_CALL_SECONDS = 15.0
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)

_Answer = TypeVar("_Answer")
_Call = Callable[[routing_pb2_grpc.RoutingStub], Awaitable[_Answer]]


class _Told:
    """What agents were told."""

    def __init__(self) -> None:
        self.decided: dict[str, pb.SelectResponse] = {}
        self.rewarded: Counter[str] = Counter()
        self.escalated: Counter[str] = Counter()

    @property
    def acknowledged(self) -> int:
        return len(self.decided) + self.rewarded.total() + self.escalated.total()


class _Fleet:
    """The database, the replicas, and the network between."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self.cluster = Cluster()
        ending.callback(self.cluster.remove)
        self.url = self.cluster.database()
        self._database = self.url.rpartition("/")[2]
        self._folder = folder
        self.links = [Link(self.cluster.port) for _ in range(_REPLICAS)]
        for link in self.links:
            ending.callback(link.close)
        self.servers: list[Server] = []
        for i in range(_REPLICAS):
            self.servers.append(self._serve(i))
            ending.callback(lambda i=i: self.servers[i].process.poll() is None and self.servers[i].kill())

    def _serve(self, i: int, *flags: str) -> Server:
        url = self.cluster.url(self._database, self.links[i].port)
        return start(self._folder / f"replica-{i}", CONFIG, "--store", url, *flags)

    def restart(self, i: int) -> None:
        """kill -9 of a replica, and another one in its place."""
        address = self.servers[i].grpc
        self.servers[i].kill()
        self.servers[i] = self._serve(i, "--listen", address)

    def fitter(self) -> tuple[int, int]:
        """The replica whose child folds the log, and that child. -1: it is no replica's that is still there."""
        ((holder,),) = self.cluster.query(self._database, "SELECT holder FROM pointsman.leases WHERE name = 'fitter'")
        child = int(holder.rpartition(":")[2])
        try:
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            return -1, child
        return next((i for i, server in enumerate(self.servers) if server.process.pid == parent), -1), child

    def is_serving(self, i: int) -> bool:
        """What a replica says of itself."""
        try:
            with urllib.request.urlopen(f"http://{self.servers[i].http}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Returns once it holds; Broken where it does not for long."""
        deadline = time.monotonic() + _SECONDS
        while not await asyncio.to_thread(holds):
            require(time.monotonic() < deadline, what)
            await asyncio.sleep(0.05)


class _Splits:
    """What is done to a fleet. Each split ends with everything as it was before."""

    def __init__(self, fleet: _Fleet, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng

    async def cut(self) -> None:
        """A replica loses its connections to the database and gets no new ones."""
        await self._away(self._rng.randrange(_REPLICAS), Link.cut)

    async def freeze(self) -> None:
        """Nothing comes through between a replica and the database, and nobody is told."""
        await self._away(self._rng.randrange(_REPLICAS), Link.freeze)

    async def freeze_the_fitter(self) -> None:
        """As `freeze`, of the replica that folds, until another one has taken over."""
        i, child = await asyncio.to_thread(self._fleet.fitter)
        if i < 0:
            return await self.freeze()
        self._fleet.links[i].freeze()
        await self._fleet.until(lambda: self._fleet.fitter()[1] != child, "nobody took the lease over")
        self._fleet.links[i].restore()
        return await self._back(i)

    async def kill_the_fitter(self) -> None:
        """kill -9 of the process that folds."""
        i, child = await asyncio.to_thread(self._fleet.fitter)
        if i >= 0:
            os.kill(child, signal.SIGKILL)

    async def kill_a_replica(self) -> None:
        """kill -9 of a replica under load."""
        await asyncio.to_thread(self._fleet.restart, self._rng.randrange(_REPLICAS))

    async def kill_the_database(self) -> None:
        """kill -9 of the postmaster."""
        await self._database_away(self._fleet.cluster.kill)

    async def stop_the_database(self) -> None:
        """The database is restarted as for maintenance."""
        await self._database_away(self._fleet.cluster.stop)

    async def _away(self, i: int, split: Callable[[Link], None]) -> None:
        split(self._fleet.links[i])
        if self._rng.random() < 0.5:
            await self._noticed(i)
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        self._fleet.links[i].restore()
        await self._back(i)

    async def _database_away(self, end: Callable[[], None]) -> None:
        await asyncio.to_thread(end)
        try:
            for i in range(_REPLICAS):
                await self._noticed(i)
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        finally:
            await asyncio.to_thread(self._fleet.cluster.start)
        for i in range(_REPLICAS):
            await self._back(i)

    async def _noticed(self, i: int) -> None:
        await self._fleet.until(lambda: not self._fleet.is_serving(i), f"replica {i} serves without a database")

    async def _back(self, i: int) -> None:
        await self._fleet.until(lambda: self._fleet.is_serving(i), f"replica {i} does not come back")


KINDS = (
    "cut",
    "kill_the_database",
    "freeze_the_fitter",
    "kill_a_replica",
    "freeze",
    "kill_the_fitter",
    "stop_the_database",
)


class _Agent:
    """Takes sessions through, each call at any replica."""

    def __init__(self, name: str, stubs: list[routing_pb2_grpc.RoutingStub], told: _Told) -> None:
        self._name = name
        self._stubs = stubs
        self._told = told
        self._rng = random.Random(name)

    async def run(self, ending: asyncio.Event) -> None:
        number = 0
        while not ending.is_set():
            number += 1
            await self._session(f"{self._name}-{number}")

    async def _session(self, session: str) -> None:
        choice = await self._ask(
            lambda stub: stub.Select(
                pb.SelectRequest(session_id=session, request_id=f"select-{session}"), timeout=_CALL_SECONDS
            )
        )
        self._told.decided[choice.decision_id] = choice
        if self._rng.random() < 0.4:
            left = choice
            request = pb.EscalateRequest(
                session_id=session,
                decision_id=left.decision_id,
                request_id=f"leave-{session}",
                reason=pb.ESCALATION_REASON_VERIFIED_FAILURE,
            )
            moved = await self._ask(lambda stub: stub.Escalate(request, timeout=_CALL_SECONDS))
            self._told.escalated[left.decision_id] += 1
            if moved.HasField("next"):
                choice = moved.next
                self._told.decided[choice.decision_id] = choice
        elif self._rng.random() < 0.2:
            again = await self._ask(
                lambda stub: stub.Select(pb.SelectRequest(session_id=session), timeout=_CALL_SECONDS)
            )
            require(again.decision_id == choice.decision_id, f"session {session} did not stick to its decision")
        reward = pb.RewardRequest(
            decision_id=choice.decision_id,
            request_id=f"reward-{session}",
            success=float(self._rng.random() < 0.6),
            cost_usd=0.5,
            final=True,
        )
        await self._ask(lambda stub: stub.Reward(reward, timeout=_CALL_SECONDS))
        self._told.rewarded[choice.decision_id] += 1

    async def _ask(self, call: _Call[_Answer]) -> _Answer:
        """Asks any replica until it is answered; now and then two at once, which must agree."""
        while True:
            asked = self._rng.sample(self._stubs, 2 if self._rng.random() < 0.15 else 1)
            answers = await asyncio.gather(*map(call, asked), return_exceptions=True)
            given = [answer for answer in answers if not isinstance(answer, BaseException)]
            for answer in answers:
                if isinstance(answer, grpc.aio.AioRpcError):
                    require(answer.code() in _LOST, f"refused: {answer.code()} {answer.details()}")
                elif isinstance(answer, BaseException):
                    raise answer
            if given:
                require(all(answer == given[0] for answer in given), f"two replicas disagree: {given}")
                return given[0]
            await asyncio.sleep(self._rng.uniform(0.02, 0.1))


async def _work(trial: Trial, fleet: _Fleet, splits: int) -> _Told:
    rng = random.Random(trial.seed)
    told, ending = _Told(), asyncio.Event()
    options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
    channels = [grpc.aio.insecure_channel(server.grpc, options=options) for server in fleet.servers]
    stubs = [routing_pb2_grpc.RoutingStub(channel) for channel in channels]
    agents = [asyncio.create_task(_Agent(f"{trial.seed}-{i}", stubs, told).run(ending)) for i in range(_AGENTS)]

    async def progress(calls: int) -> None:
        target, deadline = told.acknowledged + calls, time.monotonic() + _SECONDS
        while told.acknowledged < target:
            for agent in agents:
                if agent.done():
                    await agent
            require(time.monotonic() < deadline, "nothing is answered any more")
            await asyncio.sleep(0.01)

    try:
        acts = _Splits(fleet, rng)
        order = [KINDS[i % len(KINDS)] for i in range(splits)]
        if splits > len(KINDS):
            rng.shuffle(order)
        for i, kind in enumerate(order):
            await progress(_BETWEEN)
            await getattr(acts, kind)()
            trial.tell(i + 1, splits)
        await progress(_BETWEEN)
        ending.set()
        await asyncio.gather(*agents)
    finally:
        for agent in agents:
            agent.cancel()
        for channel in channels:
            await channel.close()
    return told


def _audit(fleet: _Fleet, told: _Told) -> tuple[int, str]:
    """Compares the log and the epochs with what was told; the events, and the hash of the epoch on all replicas."""
    reader, epochs = PostgresReader(fleet.url), PostgresEpochs(fleet.url)
    one_blas_thread()
    try:
        problems = reader.verify()
        require(not problems, f"the log is not whole: {problems[:3]}")
        decided: Counter[str] = Counter()
        rewarded: Counter[str] = Counter()
        escalated: Counter[str] = Counter()
        learner, hashes = Learner(), {}
        for stored in reader.read(0, 10_000_000):
            event = record.decode(stored.kind, stored.body, stored.private).event
            if isinstance(event, Decided):
                decided[event.decision.decision_id] += 1
            elif isinstance(event, Rewarded):
                rewarded[event.decision_id] += 1
            elif isinstance(event, Escalated):
                escalated[event.decision_id] += 1
            if learner.feed(stored.seq, event, stored.session_id, stored.at_us):
                hashes[learner.vintage.epoch] = learner.vintage.epoch_hash
        lost = told.decided.keys() - decided.keys()
        require(not lost, f"{len(lost)} acknowledged decisions are lost")
        require(decided == Counter(list(told.decided)), "decisions that nobody was told of, or twice")
        require(rewarded == told.rewarded, "outcomes lost, or counted more often than told")
        require(escalated == told.escalated, "escalations lost, or counted more often than told")
        published = {
            number: Learner.resume(epochs.load("default", version, number)[1]).vintage.epoch_hash
            for version in epochs.versions("default")
            for number in epochs.numbers("default", version)
        }
        require(published.items() <= hashes.items(), "an epoch is not what the log comes to")
        return reader.last_seq, hashes[max(hashes)]
    finally:
        epochs.close()
        reader.close()


def run(trial: Trial, splits: int | None = None) -> Figures:
    """Splits and audits."""
    count = splits if splits is not None else trial.size(full=50, quick=3)
    with ExitStack() as ending:
        try:
            fleet = _Fleet(trial.folder, ending)
        except NoPostgres as error:
            raise NoShim(str(error)) from error
        told = asyncio.run(_work(trial, fleet, count))
        events, newest = _audit(fleet, told)
        deadline = time.monotonic() + _SECONDS
        for server in fleet.servers:
            while True:
                router = server.admin.GetRouter(admin_pb2.GetRouterRequest()).router
                if router.epoch_hash == newest:
                    break
                require(time.monotonic() < deadline, f"a replica decides under {router.epoch_hash}, not {newest}")
                time.sleep(0.1)
    return {
        "splits": count,
        "acknowledged": told.acknowledged,
        "events": events,
        "lost": 0,
        "twice": 0,
        "epoch_on_all": newest[:12],
    }


def main(arguments: list[str] | None = None) -> int:
    """Tries it alone, and prints what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.replicas", description=__doc__)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", type=Path, help="append the figures as a line of JSON")
    asked = parser.parse_args(arguments)
    began = time.monotonic()

    def tell(done: float, of: float) -> None:
        print(f"seed {asked.seed}: {done:.0f} of {of:.0f} splits, {time.monotonic() - began:.0f} s", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="pointsman-replicas-") as folder:
        figures = run(Trial(folder=Path(folder), seed=asked.seed, tell=tell), asked.splits)
    table = Table("what", "found", title=f"Replicas, seed {asked.seed}")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)
    if asked.json is not None:
        with asked.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": asked.seed, "seconds": round(time.monotonic() - began), **figures}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
