"""A durable Select of the real server against a bare grpc.aio echo of equal messages, in interleaved rounds.

Both servers are processes of their own and are driven by the same client; K = 8 arms and d = 64 columns. Rounds
alternate between the two, so that what else the machine does falls on both.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

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


@contextmanager
def process(command: list[str], line_in: str = "") -> Iterator[str]:
    """A server process; yields the address it says it is ready at."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line_in + "\n")
        process.stdin.flush()
        ready = re.search(r"grpc=(\S+)", process.stdout.readline())
        if ready is None:
            raise RuntimeError(f"{command} did not start")
        yield ready.group(1)
    finally:
        process.terminate()
        process.wait(60)


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


async def _teach(address: str, sessions: int) -> bytes:
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
    await caught_up(address)
    return bytes(choice.SerializeToString())


async def caught_up(address: str) -> None:
    """Returns when the router has learned all it can: the last events wait for their block to be full."""
    before = -1
    while (now := await learned_seq(address)) > before:
        before = now
        await asyncio.sleep(1.5)


async def learned_seq(address: str) -> int:
    """The last event that the router's epoch has learned from."""
    async with grpc.aio.insecure_channel(address) as channel:
        router = (await admin_pb2_grpc.AdminStub(channel).GetRouter(admin_pb2.GetRouterRequest())).router
        return int(router.learned_sequence)


def compare(policy: str, *, rounds: int = 6, count: int = 1000) -> dict[str, float]:
    """Medians over rounds: throughput of Select over that of echo, of BatchSelect over that of Select, and the
    latencies with one request in flight."""
    with tempfile.TemporaryDirectory() as folder, process(serve(Path(folder), policy)) as address:
        answer = asyncio.run(_teach(address, 300))
        with process([sys.executable, "-c", _ECHO], answer.hex()) as echo_address:
            return asyncio.run(_measure(address, echo_address, rounds, count))


async def _measure(address: str, echo_address: str, rounds: int, count: int) -> dict[str, float]:
    select, echo = Driver(address, "select"), Driver(echo_address, "echo")
    await select.round(200, IN_FLIGHT)
    await echo.round(200, IN_FLIGHT)
    ratios: list[float] = []
    rates: list[float] = []
    batched: list[float] = []
    alone: dict[str, list[float]] = {"select": [], "echo": []}
    for _ in range(rounds):
        echo_rate, _ = await echo.round(count, IN_FLIGHT)
        select_rate, _ = await select.round(count, IN_FLIGHT)
        ratios.append(select_rate / echo_rate)
        rates.append(select_rate)
        batched.append(await select.batches(count // IN_FLIGHT, 2) / select_rate)
        for name, driver in (("echo", echo), ("select", select)):
            _, latencies = await driver.round(count // 5, 1)
            alone[name] += latencies
    await select.close()
    await echo.close()
    quantile: Callable[[str, float], float] = lambda name, q: float(np.quantile(alone[name], q))  # noqa: E731
    return {
        "ratio": float(np.median(ratios)),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "batched_ratio": float(np.median(batched)),
        "selects_per_second": float(np.median(rates)),
        "p50_over_echo_ms": quantile("select", 0.5) - quantile("echo", 0.5),
        "p99_over_echo_ms": quantile("select", 0.99) - quantile("echo", 0.99),
    }
