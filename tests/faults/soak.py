"""Half of what a server can take, for long: memory and latency stay where they are, and the counts agree."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio
import numpy as np
from matplotlib.figure import Figure

from pointsman.v1 import routing_pb2 as pb
from pointsman.v1 import routing_pb2_grpc
from server.store.sqlite import SqliteReader
from tests.faults.processes import start
from tests.faults.trial import Figures, Trial, require

AIM = "30 minutes at half load: memory and latency flat, counts agree"
MINUTES = 30.0

_CONFIG = """
[router]
policy = "thompson"
draws = 64
[[arms]]
id = "a"
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "b"
figures = [{ success_rate = 0.7, cost_usd = 0.6 }]
[[arms]]
id = "c"
figures = [{ success_rate = 0.8, cost_usd = 1.5 }]
[limits]
cached_sessions = 1000
"""
"""Few sessions are cached, so that the cache is full long before the end."""
_IN_FLIGHT = 32
_CALIBRATION_SECONDS = 2.0
_GROWTH = 0.1
"""By how much memory may be greater in the last third than in the one before."""
_SLOWER = 3.0
"""How many times as long half of the calls may take in the last third as in the first: other work disturbs much."""


class _Sample(NamedTuple):
    """What was measured in a second, or in less of a short run."""

    at: float
    memory_mib: float
    p50_ms: float
    p99_ms: float


class _Agents:
    """Work sessions from begin to end, and count."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._routing = routing_pb2_grpc.RoutingStub(channel)
        self._rng = random.Random(name)
        self._name = name
        self.decided = self.escalated = self.rewarded = self.sessions = 0
        self.latencies: list[float] = []

    async def session(self) -> None:
        """One session."""
        self.sessions += 1
        name, rng = f"{self._name}-{self.sessions}", self._rng
        kind = pb.FeatureValue(category=rng.choice("xyz"))
        select = pb.SelectRequest(session_id=name, request_id=name, features={"kind": kind})
        last = await self._timed(self._routing.Select, select)
        self.decided += 1
        if rng.random() < 0.2:
            leave = pb.EscalateRequest(
                decision_id=last.decision_id, request_id=name, reason=1, outcome={"cost_usd": 0.3}
            )
            left = await self._timed(self._routing.Escalate, leave)
            self.escalated += 1
            if left.HasField("next"):
                self.decided += 1
                last = left.next
        reward = pb.RewardRequest(decision_id=last.decision_id, request_id=name, cost_usd=0.5, final=True)
        reward.success = float(rng.random() < 0.6)
        await self._timed(self._routing.Reward, reward)
        self.rewarded += 1

    async def _timed(self, call: Callable[..., Awaitable[Any]], request: Any) -> Any:
        begun = time.perf_counter()
        answer = await call(request, timeout=60)
        self.latencies.append(time.perf_counter() - begun)
        return answer


async def _most(agents: _Agents) -> float:
    """Sessions a second, with as many at work as the server can take."""
    ends = time.monotonic() + _CALIBRATION_SECONDS
    before = agents.rewarded

    async def work() -> None:
        while time.monotonic() < ends:
            await agents.session()

    await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
    return (agents.rewarded - before) / _CALIBRATION_SECONDS


async def _soak(agents: _Agents, pid: int, rate: float, seconds: float, tell: Callable[[float], None]) -> list[_Sample]:
    """Begins sessions at that rate, whether or not those before have ended."""
    begun = time.monotonic()
    measured: list[_Sample] = []
    running: set[asyncio.Task[None]] = set()
    started = 0
    every = min(1.0, seconds / 15)
    while (now := time.monotonic() - begun) < seconds:
        while started < rate * now:
            started += 1
            task = asyncio.create_task(agents.session())
            running.add(task)
            task.add_done_callback(running.discard)
        if agents.latencies and now - (measured[-1].at if measured else 0.0) >= every:
            spent, agents.latencies = np.array(agents.latencies) * 1e3, []
            p50, p99 = np.quantile(spent, [0.5, 0.99])
            measured.append(_Sample(now, _memory_mib(pid), float(p50), float(p99)))
            tell(now)
        await asyncio.sleep(0.005)
    await asyncio.gather(*running)
    return measured


def _memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def _run(trial: Trial, address: str, pid: int, seconds: float) -> tuple[_Agents, float, list[_Sample]]:
    async with grpc.aio.insecure_channel(address) as channel:
        agents = _Agents(channel, f"soak-{trial.seed}")
        rate = await _most(agents) / 2
        agents.latencies.clear()
        return agents, rate, await _soak(agents, pid, rate, seconds, lambda now: trial.tell(now, seconds))


def _thirds(values: list[float]) -> tuple[float, float, float]:
    """The median of each third."""
    first, second, third = np.array_split(np.array(values), 3)
    return float(np.median(first)), float(np.median(second)), float(np.median(third))


def _draw(measured: list[_Sample], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    minutes = [one.at / 60 for one in measured]
    above.plot(minutes, [one.memory_mib for one in measured])
    above.set_ylabel("memory of the server, MiB")
    above.set_ylim(bottom=0)
    for name in ("p50_ms", "p99_ms"):
        below.plot(minutes, [getattr(one, name) for one in measured], label=name[:3], linewidth=0.8)
    below.set_yscale("log")
    below.set_ylabel("a call, ms")
    below.set_xlabel("minutes")
    below.legend()
    figure.savefig(folder / "soak.png", dpi=120)


def run(trial: Trial) -> Figures:
    """Soaks."""
    seconds = 3.0 if trial.quick else 60.0 * MINUTES * trial.share
    data_dir = trial.folder / "data"
    server = start(data_dir, _CONFIG)
    try:
        agents, rate, measured = asyncio.run(_run(trial, server.grpc, server.process.pid, seconds))
        require(server.stop() == 0, "the server did not end well")
    finally:
        if server.process.poll() is None:
            server.kill()
    _require_counted(data_dir, agents)
    if trial.pictures is not None:
        _draw(measured, trial.pictures)
    _, middle, last = _thirds([one.memory_mib for one in measured])
    p50 = _thirds([one.p50_ms for one in measured])
    p99 = _thirds([one.p99_ms for one in measured])
    hours = np.array([one.at for one in measured]) / 3600
    slope = float(np.polyfit(hours, [one.memory_mib for one in measured], 1)[0])
    if not trial.quick:
        require(last <= middle * (1 + _GROWTH), f"memory grows: {middle:.0f} MiB, then {last:.0f}")
        require(p50[2] <= p50[0] * _SLOWER, f"calls get slower: {p50[0]:.2f} ms, then {p50[2]:.2f}")
    return {
        "minutes": seconds / 60,
        "sessions": agents.sessions,
        "sessions_a_second": rate,
        "memory_mib_middle_third": middle,
        "memory_mib_last_third": last,
        "memory_slope_mib_an_hour": slope,
        "p50_ms_first_third": p50[0],
        "p50_ms_last_third": p50[2],
        "p99_ms_first_third": p99[0],
        "p99_ms_last_third": p99[2],
    }


def _require_counted(data_dir: Path, agents: _Agents) -> None:
    """What agents were answered is what the log holds."""
    counts = {"decided": 0, "escalated": 0, "rewarded": 0}
    reader = SqliteReader(data_dir)
    try:
        after = 0
        while events := reader.read(after, 5000):
            for event in events:
                if event.kind in counts:
                    counts[event.kind] += 1
            after = events[-1].seq
    finally:
        reader.close()
    told = {"decided": agents.decided, "escalated": agents.escalated, "rewarded": agents.rewarded}
    require(counts == told, f"agents counted {told}, the log {counts}")
