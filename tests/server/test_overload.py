"""Far more than a server can take: it says when to come back, keeps what it acknowledged, and goes on at once."""

import asyncio
from collections import Counter
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pointsman import AsyncClient, Client, Text, retry_seconds, select_request
from pointsman.v1 import events_pb2
from pointsman.v1 import routing_pb2 as pb
from server.overload import Bound, Overloaded, Pace

CONFIG = """
[limits]
pending_requests = 16
pending_bytes = 1000000
streams = 2
[router]
policy = "uniform"
[[arms]]
id = "a"
[[arms]]
id = "b"
"""
CONNECTIONS, CALLS = 4, 1500
TEXT = "word " * 13_000
REFUSED = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
"""The second is how a connection's calls beyond its share end; clients send them again."""


def memory(server, kind: str) -> int:
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("no /proc to read a process's memory from")
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(kind))


def test_a_flood_is_turned_away_before_memory_grows(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)
    with Client(server.grpc) as client:
        client.select({"issue": Text(TEXT)})
    before = memory(server, "VmRSS")
    acknowledged, refusals = asyncio.run(flood(server.grpc))
    with Client(server.grpc, retries=0) as client:
        assert client.select().arm, "it goes on at once"
    assert memory(server, "VmHWM") - before < 0.5 * CALLS * len(TEXT), "most of the flood was never kept"

    assert {code for code, _ in refusals} <= REFUSED
    hints = [hint for code, hint in refusals if code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert hints and all(hint is not None and 0 < hint < 5 for hint in hints)
    assert len(acknowledged) + sum(refusals.values()) == CALLS
    assert len(acknowledged) > 16
    exported = server.events.ExportEvents(events_pb2.ExportEventsRequest(all_routers=True))
    logged = Counter(event.session_id for chunk in exported for event in chunk.events if event.kind == "decided")
    assert all(logged[session] == 1 for session in acknowledged)
    assert server.stop() == 0


async def flood(address: str) -> tuple[list[str], Counter]:
    """The sessions that were begun, and how the other calls were refused."""
    acknowledged: list[str] = []
    refusals: Counter = Counter()

    async def one(select, name: str) -> None:
        try:
            await select(select_request({"issue": Text(TEXT)}, session_id=name), timeout=60)
            acknowledged.append(name)
        except grpc.RpcError as error:
            refusals[error.code(), retry_seconds(error)] += 1

    apart = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=apart) for _ in range(CONNECTIONS)]
    selects = [
        channel.unary_unary(
            "/pointsman.v1.Routing/Select",
            request_serializer=pb.SelectRequest.SerializeToString,
            response_deserializer=pb.SelectResponse.FromString,
        )
        for channel in channels
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    await asyncio.gather(*(one(selects[i % CONNECTIONS], f"flood-{i}") for i in range(CALLS)))
    await asyncio.gather(*(channel.close() for channel in channels))
    return acknowledged, refusals


def test_clients_that_come_back_are_all_served(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)

    async def fleet() -> list[pb.SelectResponse]:
        async with AsyncClient(server.grpc, timeout_seconds=60.0, retries=60) as client:
            return await asyncio.gather(*(client.select(session_id=f"s{i}") for i in range(200)))

    assert len({choice.session_id for choice in asyncio.run(fleet())}) == 200
    assert server.stop() == 0


def test_only_so_many_streams_at_once(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)

    def follow():
        stream = server.events.ExportEvents(events_pb2.ExportEventsRequest(all_routers=True, follow=True), timeout=60)
        return next(stream) and stream

    first, _second = follow(), follow()
    with pytest.raises(grpc.RpcError) as refused:
        follow()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_seconds(refused.value) == 0.5
    with pytest.raises(grpc.RpcError) as refused:
        server.events.ImportEvents(iter([]))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()
    for _ in range(200):
        try:
            assert follow()
            break
        except grpc.RpcError:
            asyncio.run(asyncio.sleep(0.05))
    else:
        raise AssertionError("the place of a stream that has ended is not given away")


def test_a_connection_may_err_as_often_as_it_likes(serving, tmp_path):
    """A call that ended badly is over: it counts no more among the 18 that its connection may have at once."""
    server = serving(tmp_path / "data", CONFIG)
    health = health_pb2_grpc.HealthStub(server.channel)
    nothing = pb.SelectRequest(pinned_arm="nobody")

    def batch() -> None:
        (result,) = server.routing.BatchSelect(pb.BatchSelectRequest(requests=[nothing])).responses
        assert result.HasField("status")

    def refused(call, *arguments) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            for _ in call(*arguments, timeout=10):
                pass
        assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), caught.value

    bad = events_pb2.Event(kind="nonsense")
    for _ in range(40):
        batch()
        refused(server.routing.Select, nothing)
        refused(server.routing.GetSession, pb.GetSessionRequest(session_id="nobody"))
        refused(server.routing.Reward, pb.RewardRequest(session_id="nobody", success=1))
        refused(health.Check, health_pb2.HealthCheckRequest(service="nobody"))
        refused(server.events.ExportEvents, events_pb2.ExportEventsRequest(router="nobody"))
        refused(server.events.ImportEvents, iter([events_pb2.ImportEventsRequest(events=[bad])] * 3))
    assert server.routing.Select(pb.SelectRequest()).arm
    assert server.stop() == 0


def test_a_bound_counts_calls_and_bytes():
    bound = Bound("requests", calls=2, bytes_=100)
    bound.enter()
    bound.hold(150)  # alone
    with pytest.raises(Overloaded):
        bound.enter()
    bound.release(150)
    bound.hold(60)
    bound.enter()
    with pytest.raises(Overloaded):
        bound.hold(41)
    bound.hold(40)
    with pytest.raises(Overloaded, match="too many requests are under way; try again"):
        bound.enter()
    bound.release(60)
    with pytest.raises(Overloaded):
        bound.enter()
    bound.leave()
    bound.enter()


@pytest.mark.parametrize("per_second", [0.1, 1.0, 2.5, 50.0])
def test_a_pace_is_kept_over_any_span_and_says_when_to_come_back(per_second):
    now, taken = 1000.0, []
    pace = Pace("sessions", per_second, lambda: now)
    burst = max(per_second, 1.0)
    while now < 1000.0 + 40 / per_second:
        try:
            pace.take()
            taken.append(now)
        except Overloaded as refused:
            # As asked, and a little for rounding: then it is taken.
            now += refused.retry_seconds + 1e-9
            pace.take()
            taken.append(now)
        now += 0.1 / per_second
    for i, begin in enumerate(taken):
        for j in range(i, len(taken)):
            assert j - i + 1 <= burst + per_second * (taken[j] - begin) + 1e-6
    assert len(taken) >= 40
