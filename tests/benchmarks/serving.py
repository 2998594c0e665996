"""A durable Select of the real server against a bare grpc.aio echo of equal messages, in interleaved rounds.

Both servers are processes of their own and are driven by the same client; K = 8 arms and d = 64 columns. Rounds
alternate between the two, so that what else the machine does falls on both.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import grpc
import grpc.aio
import numpy as np

from bandit.types import Features, Text
from pointsman import Text as WireText
from pointsman.requests import select_request
from pointsman.v1 import admin_pb2, admin_pb2_grpc, routing_pb2_grpc
from pointsman.v1 import routing_pb2 as pb
from tests.benchmarks.decision import arms, context

IN_FLIGHT = 64
_BLOCK = 64
_ECHO = """
import asyncio, grpc.aio, sys
reply = bytes.fromhex(sys.stdin.readline())
async def main():
    server = grpc.aio.server()
    async def answer(request, context): return reply
    methods = {"Select": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pointsman.v1.Routing", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()
asyncio.run(main())
"""
"""A server that answers every Select with the same bytes: what grpc itself costs."""


class Server(NamedTuple):
    """A server process."""

    address: str
    pid: int
    http: str
    """Empty where it has none."""

    def seconds(self) -> float:
        """Processor time that it has taken."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def process(command: list[str], line_in: str = "") -> Iterator[Server]:
    """A server that has said that it is ready."""
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdin is not None and running.stdout is not None
    try:
        running.stdin.write(line_in + "\n")
        running.stdin.flush()
        ready = re.search(r"grpc=(\S+)(?: http=(\S+))?", running.stdout.readline())
        if ready is None:
            raise RuntimeError(f"{command} did not start")
        yield Server(address=ready.group(1), pid=running.pid, http=ready.group(2) or "")
    finally:
        running.terminate()
        running.wait(60)


def serve(folder: Path, policy: str) -> list[str]:
    """The command that serves a router of that policy, its configuration and data in `folder`."""
    config = folder / "pointsman.toml"
    config.write_text(_configuration(policy))
    command = [sys.executable, "-m", "server.cli", "serve", "--config", str(config), "--data-dir", str(folder / "data")]
    return [*command, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]


def _configuration(policy: str) -> str:
    lines = [f'[router]\npolicy = "{policy}"']
    for arm in arms():
        assert arm.price is not None
        lines.append(
            f'[[arms]]\nid = "{arm.id}"\ninput_usd_per_million = {arm.price.input_usd}\n'
            f"output_usd_per_million = {arm.price.output_usd}"
        )
    return "\n".join(lines) + "\n"


def _wire(features: Features) -> dict[str, float | bool | str | WireText | list[float]]:
    return {
        name: WireText(value.text) if isinstance(value, Text) else list(value) if isinstance(value, tuple) else value
        for name, value in features.items()
    }


_Call: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class Driver:
    """Sends Selects of fresh sessions, as raw bytes of requests made beforehand so that the client costs little."""

    def __init__(self, address: str, name: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._select: _Call = self._channel.unary_unary("/pointsman.v1.Routing/Select")
        self._batch_select: _Call = self._channel.unary_unary("/pointsman.v1.Routing/BatchSelect")
        self._name = name
        self._rng = np.random.default_rng(5)
        self._sent = 0

    def _requests(self, count: int) -> list[pb.SelectRequest]:
        requests = []
        for _ in range(count):
            self._sent += 1
            name = f"{self._name}-{self._sent}"
            requests.append(select_request(_wire(context(self._rng)), session_id=name, request_id=name))
        return requests

    async def round(self, count: int, in_flight: int) -> tuple[float, list[float]]:
        """Selects a second, and the latency of each in milliseconds."""
        return await self._send(self._select, [r.SerializeToString() for r in self._requests(count)], in_flight)

    async def batches(self, count: int, in_flight: int) -> float:
        """Decisions a second by BatchSelects of `IN_FLIGHT` requests."""
        batches = [pb.BatchSelectRequest(requests=self._requests(IN_FLIGHT)) for _ in range(count)]
        rate, _ = await self._send(self._batch_select, [b.SerializeToString() for b in batches], in_flight)
        return IN_FLIGHT * rate

    async def repeat(self, sessions: Sequence[str], in_flight: int) -> None:
        """Selects for sessions that there are already."""
        requests = [pb.SelectRequest(session_id=session) for session in sessions]
        await self._send(self._select, [r.SerializeToString() for r in requests], in_flight)

    async def _send(self, call: _Call, requests: Sequence[bytes], in_flight: int) -> tuple[float, list[float]]:
        queue = iter(requests)
        latencies: list[float] = []

        async def worker() -> None:
            for request in queue:
                start = time.perf_counter()
                await call(request)
                latencies.append(1e3 * (time.perf_counter() - start))

        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return len(requests) / (time.perf_counter() - start), latencies

    async def close(self) -> None:
        await self._channel.close()


async def teach(address: str, sessions: int) -> bytes:
    """Lets the router learn all its columns; returns the bytes of its last answer."""
    rng = np.random.default_rng(3)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = routing_pb2_grpc.RoutingStub(channel)
        for i in range(sessions):
            choice = await stub.Select(select_request(_wire(context(rng)), session_id=f"taught-{i}", request_id=""))
            await stub.Reward(
                pb.RewardRequest(
                    decision_id=choice.decision_id, success=float(rng.random() < 0.6), cost_usd=float(rng.lognormal())
                )
            )
    # What is left to fold would be measured with whatever comes first.
    await caught_up(address, (await status(address)).last_sequence)
    return bytes(choice.SerializeToString())


async def caught_up(address: str, seq: int) -> None:
    """Returns when the router has learned from the log up to event `seq`, which ends in rewards, but for the last
    blocks, which may not be full."""
    while (await status(address)).learned_sequence < seq - 4 * _BLOCK:
        await asyncio.sleep(0.5)


async def status(address: str) -> admin_pb2.Router:
    """How far the router has learned, and how far the log goes."""
    async with grpc.aio.insecure_channel(address) as channel:
        return (await admin_pb2_grpc.AdminStub(channel).GetRouter(admin_pb2.GetRouterRequest())).router


def compare(policy: str, *, rounds: int = 6, count: int = 1000) -> dict[str, float]:
    """Select against echo: throughput, processor time of the server, latencies with one request in flight; and the
    decisions a second of BatchSelect against those of Select. Medians over rounds."""
    with tempfile.TemporaryDirectory() as folder, process(serve(Path(folder), policy)) as server:
        answer = asyncio.run(teach(server.address, 300))
        with process([sys.executable, "-c", _ECHO], answer.hex()) as echo:
            return asyncio.run(_measure(server, echo, rounds, count))


async def _measure(server: Server, echo: Server, rounds: int, count: int) -> dict[str, float]:
    names = {"echo": echo, "select": server}
    drivers = {name: Driver(of.address, name) for name, of in names.items()}
    for driver in drivers.values():
        await driver.round(200, IN_FLIGHT)
    found: dict[str, list[float]] = defaultdict(list)
    alone: dict[str, list[float]] = {"echo": [], "select": []}
    for _ in range(rounds):
        rate, cpu = {}, {}
        for name, of in names.items():
            before = of.seconds()
            rate[name], _ = await drivers[name].round(count, IN_FLIGHT)
            cpu[name] = of.seconds() - before
        batched = await drivers["select"].batches(count // IN_FLIGHT, 2)
        for name in names:
            one_by_one, latencies = await drivers[name].round(count // 5, 1)
            alone[name] += latencies
        found["selects_per_second"].append(rate["select"])
        found["ratio"].append(rate["select"] / rate["echo"])
        found["cpu_us"].append(1e6 * cpu["select"] / count)
        found["echo_cpu_us"].append(1e6 * cpu["echo"] / count)
        found["batched_over_in_flight"].append(batched / rate["select"])
        found["batched_over_one_by_one"].append(batched / one_by_one)
    for driver in drivers.values():
        await driver.close()

    def over_echo(q: int) -> float:
        return float(np.percentile(alone["select"], q) - np.percentile(alone["echo"], q))

    return {
        **{name: float(np.median(values)) for name, values in found.items()},
        "lowest_ratio": min(found["ratio"]),
        "highest_ratio": max(found["ratio"]),
        "p50_over_echo_ms": over_echo(50),
        "p99_over_echo_ms": over_echo(99),
    }
