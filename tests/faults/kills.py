"""kill -9 under load: what was acknowledged is in the log, once, after every one of many deaths."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from pointsman.v1 import routing_pb2 as pb
from pointsman.v1 import routing_pb2_grpc
from server.store.sqlite import SqliteReader
from tests.faults.processes import UNIFORM, start
from tests.faults.trial import Figures, Trial, require

AIM = "500 kills, 1 M acknowledged writes: none lost, none twice"

_AGENTS = 8
_BATCH = 64
_REWARDED = 16
"""Of a batch, by calls of their own."""
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""How a call ends whose server died, so that it may have been carried out or not."""

_Answer = TypeVar("_Answer")


class _Told:
    """What agents were told is durable: a plain model of what the log must hold."""

    def __init__(self) -> None:
        self.decided: dict[str, str] = {}
        """The session of each decision, …"""
        self.arms: dict[str, str] = {}
        """… its arm, …"""
        self.rewarded: Counter[str] = Counter()
        """… and how often its outcome was told."""

    @property
    def acknowledged(self) -> int:
        return len(self.decided) + self.rewarded.total()


class _Audit:
    """Reads the log as it grows, and compares."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._upto = 0
        self.decided: dict[str, str] = {}
        self.sessions: set[str] = set()
        self.rewarded: Counter[str] = Counter()

    def read_on(self) -> None:
        """Takes in what is new. Raises Broken where something is there twice."""
        reader = SqliteReader(self._data_dir)
        try:
            while events := reader.read(self._upto, 5000):
                for event in events:
                    if event.kind == "decided":
                        require(event.decision_id not in self.decided, f"decision {event.decision_id} is there twice")
                        require(event.session_id not in self.sessions, f"session {event.session_id} was begun twice")
                        self.decided[event.decision_id] = event.session_id
                        self.sessions.add(event.session_id)
                    elif event.kind == "rewarded":
                        self.rewarded[event.decision_id] += 1
                self._upto = events[-1].seq
        finally:
            reader.close()

    def holds(self, told: _Told) -> None:
        """Raises Broken unless all that was acknowledged is there."""
        lost = told.decided.items() - self.decided.items()
        require(not lost, f"{len(lost)} acknowledged decisions are not in the log, {next(iter(lost), None)} say")
        short = {key: n for key, n in told.rewarded.items() if self.rewarded[key] < n}
        require(not short, f"acknowledged rewards are not in the log: {len(short)}")


async def _until_answered(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Sends the same request until it is answered, however often the server dies meanwhile."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            require(error.code() in _LOST, f"refused: {error.code()} {error.details()}")
            await asyncio.sleep(0.05)


async def _agent(name: str, routing: routing_pb2_grpc.RoutingStub, told: _Told, ending: asyncio.Event) -> None:
    rng = random.Random(name)
    for turn in itertools.count():
        if ending.is_set():
            return
        sessions = [f"{name}-{turn}-{i}" for i in range(_BATCH)]
        batch = pb.BatchSelectRequest(requests=[pb.SelectRequest(session_id=s, request_id=s) for s in sessions])
        answer = await _until_answered(lambda batch=batch: routing.BatchSelect(batch, timeout=60, wait_for_ready=True))
        choices = [result.response for result in answer.responses]
        for session, choice in zip(sessions, choices, strict=True):
            require(choice.session_id == session, f"{session} was answered with {choice}")
            told.decided[choice.decision_id] = session
            told.arms[choice.decision_id] = choice.arm
        rewards = [
            pb.RewardRequest(decision_id=c.decision_id, request_id=c.decision_id, success=1.0, cost_usd=rng.random())
            for c in rng.sample(choices, _REWARDED)
        ]

        async def reward(request: pb.RewardRequest) -> None:
            await _until_answered(lambda: routing.Reward(request, timeout=60, wait_for_ready=True))
            told.rewarded[request.decision_id] += 1

        await asyncio.gather(*map(reward, rewards))


async def _live_and_die(trial: Trial, kills: int, acknowledgements: int) -> tuple[_Told, _Audit]:
    rng = random.Random(trial.seed)
    data_dir = trial.folder / "data"
    server = await asyncio.to_thread(start, data_dir, UNIFORM)
    told, audit, ending = _Told(), _Audit(data_dir), asyncio.Event()
    address = server.grpc
    try:
        async with grpc.aio.insecure_channel(
            address, options=[("grpc.max_reconnect_backoff_ms", 100), ("grpc.initial_reconnect_backoff_ms", 50)]
        ) as channel:
            routing = routing_pb2_grpc.RoutingStub(channel)
            agents = [asyncio.create_task(_agent(f"{trial.seed}-{i}", routing, told, ending)) for i in range(_AGENTS)]
            for kill in range(kills):
                left = kills - kill
                share = max(0, acknowledgements - told.acknowledged) / left
                target = told.acknowledged + max(1, round(share * rng.uniform(0.5, 1.5)))
                while told.acknowledged < target:
                    if broken := [agent for agent in agents if agent.done()]:
                        await broken[0]
                    await asyncio.sleep(rng.uniform(0.0, 0.01))
                server.kill()
                server = await asyncio.to_thread(start, data_dir, UNIFORM, "--listen", address)
                audit.read_on()
                audit.holds(told)
                trial.tell(kill + 1, kills)
            ending.set()
            await asyncio.gather(*agents)
    finally:
        server.stop()
    return told, audit


def run(trial: Trial) -> Figures:
    """Kills and audits."""
    kills, acknowledgements = trial.size(full=500, quick=1), trial.size(full=1_000_000, quick=1000)
    told, audit = asyncio.run(_live_and_die(trial, kills, acknowledgements))
    audit.read_on()
    audit.holds(told)
    # Every request was sent until it was answered, so that the log holds what was acknowledged and nothing else.
    require(audit.decided == told.decided, "the log holds decisions that nobody was told of")
    require(audit.rewarded == told.rewarded, "an outcome counts more often than it was told")
    reader = SqliteReader(trial.folder / "data")
    try:
        problems = reader.verify()
    finally:
        reader.close()
    require(not problems, f"the log is not whole: {problems[:3]}")
    return {"kills": kills, "acknowledged": told.acknowledged, "lost": 0, "twice": 0}
