"""Malformed bytes and hostile values on every method: a documented status each, and a server that lives."""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from pointsman.v1 import admin_pb2, events_pb2, routing_pb2
from pointsman.v1 import routing_pb2 as pb
from server.store.sqlite import SqliteReader
from tests.faults.messages import Hostility
from tests.faults.processes import Server, start
from tests.faults.trial import Figures, Trial, require

AIM = "malformed bytes and hostile values on every method: 1 M inputs, no UNKNOWN, no INTERNAL, alive"

_CONFIG = """
[router]
policy = "thompson"
draws = 16
[[arms]]
id = "a"
capabilities = ["vision"]
input_usd_per_million = 1.0
[[arms]]
id = "b"
[[arms]]
id = "c"
capabilities = ["vision", "browser"]
endpoints = ["east", "west"]
"""
_IN_FLIGHT = 64
_LIFE = 20_000
"""Inputs of one server: routers and arms only ever grow in number, so then a new one begins."""
_DEFECTS = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
_SECONDS = 120


class _Method(NamedTuple):
    service: str
    name: str
    request: Any
    response: Any
    weight: int
    kind: str

    @property
    def path(self) -> str:
        return f"/pointsman.v1.{self.service}/{self.name}"


def _methods() -> list[_Method]:
    found = []
    for module, service, weight in ((routing_pb2, "Routing", 8), (admin_pb2, "Admin", 1), (events_pb2, "Events", 1)):
        for method in module.DESCRIPTOR.services_by_name[service].methods:
            kind = f"{_arity(method.client_streaming)}_{_arity(method.server_streaming)}"
            found.append(_Method(service, method.name, method.input_type, method.output_type, weight, kind))
    return found


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


class _Fuzzer:
    """Sends to one server, and keeps what should not have been answered."""

    def __init__(self, channel: grpc.aio.Channel, rng: random.Random) -> None:
        self._rng = rng
        self._methods = _methods()
        self._weights = [method.weight for method in self._methods]
        self._made = Hostility(rng)
        self._calls = {m.path: getattr(channel, m.kind)(m.path) for m in self._methods}
        self._exported: list[events_pb2.Event] = []
        self.codes: Counter[str] = Counter()
        self.defects: list[str] = []

    async def send(self, count: int) -> None:
        """So many inputs, many at a time."""
        left = count

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self._one()

        await asyncio.gather(*(work() for _ in range(min(_IN_FLIGHT, count))))

    async def _one(self) -> None:
        (method,) = self._rng.choices(self._methods, self._weights)
        data = self._input(method)
        call = self._calls[method.path]
        code = grpc.StatusCode.OK
        try:
            if method.kind == "stream_unary":
                await call(iter([data, self._input(method)]), timeout=_SECONDS)
            elif method.kind == "unary_stream":
                stream = call(data, timeout=0.2 if self._follows(data) else _SECONDS)
                async for answer in stream:
                    self._exported += events_pb2.ExportEventsResponse.FromString(answer).events[:3]
                    del self._exported[:-200]
            else:
                self._learn(method, await call(data, timeout=_SECONDS))
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED and method.kind == "unary_stream" and self._follows(data):
                code = grpc.StatusCode.OK
            # A router that another call is making has nothing to decide by yet, and says so.
            if code in _DEFECTS and "is being made" not in str(error.details()):
                self.defects.append(f"{code.name} {error.details()} from {method.name} {data[:2000].hex()}")
        self.codes[code.name] += 1

    def _input(self, method: _Method) -> bytes:
        message = self._made.message(method.request)
        if method.name == "ImportEvents" and self._exported and self._rng.random() < 0.8:
            self._offer(message)
        data = message.SerializeToString()
        return self._made.damaged(data) if self._rng.random() < 0.4 else data

    def _offer(self, message: Any) -> None:
        """Events that a log holds, one of them changed perhaps, and without what would betray it at once."""
        del message.events[:]
        for event in self._rng.choices(self._exported, k=self._rng.randint(1, 3)):
            offered = message.events.add()
            offered.CopyFrom(event)
            offered.sequence, offered.digest = 0, b""
            if self._rng.random() < 0.7:
                offered.body = self._made.damaged(event.body)
            if self._rng.random() < 0.5:
                offered.decision_id, offered.request_key = self._rng.randbytes(8).hex(), b""
                offered.body = offered.body.replace(event.decision_id.encode(), offered.decision_id.encode())

    def _learn(self, method: _Method, answer: bytes) -> None:
        if method.name == "Select":
            response = pb.SelectResponse.FromString(answer)
            known = self._made.decisions
            known.append(response.decision_id)
            del known[1:-50]

    @staticmethod
    def _follows(data: bytes) -> bool:
        try:
            return events_pb2.ExportEventsRequest.FromString(data).follow
        except DecodeError:
            return False


async def _torment(server: Server, rng: random.Random, count: int) -> _Fuzzer:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        fuzzer = _Fuzzer(channel, rng)
        await fuzzer.send(count)
        return fuzzer


def _require_alive(server: Server, said: Path) -> None:
    """It answers, nothing of it has died, and a start from its log answers too."""
    server.admin.CreateRouter(admin_pb2.CreateRouterRequest(router="alive", policy="uniform"), timeout=30)
    arm = admin_pb2.Arm(id="a")
    server.admin.PutArm(admin_pb2.PutArmRequest(router="alive", arm=arm), timeout=30)
    choice = server.routing.Select(pb.SelectRequest(router="alive"), timeout=30)
    require(choice.arm == "a", f"after it all: {choice}")
    errors = said.read_text(errors="replace")
    at = errors.find("Traceback")
    require(at < 0, f"something in the server has died: {errors[at : at + 6000]}")


def run(trial: Trial) -> Figures:
    """Sends, to one server after another."""
    inputs = trial.size(full=1_000_000, quick=600)
    life = min(_LIFE, inputs)
    codes: Counter[str] = Counter()
    for number in range(inputs // life):
        rng = random.Random(f"{trial.seed}-{number}")
        data_dir, said = trial.folder / f"data-{number}", trial.folder / f"said-{number}"
        with said.open("w") as stderr:
            server = start(data_dir, _CONFIG, stderr=stderr)
            try:
                fuzzer = asyncio.run(_torment(server, rng, life))
                defects = "\n".join(fuzzer.defects[:10])
                require(not defects, f"{len(fuzzer.defects)} defects, life {number}: {defects}")
                _require_alive(server, said)
                server.kill()
                if not trial.quick:
                    server = start(data_dir, _CONFIG, stderr=stderr)
                    server.routing.Select(pb.SelectRequest(router="alive"), timeout=30)
            finally:
                server.kill()
        _require_alive_log(data_dir)
        codes += fuzzer.codes
        trial.tell((number + 1) * life, inputs)
    return {"inputs": codes.total(), "unknown": 0, "internal": 0, **{c.lower(): n for c, n in codes.most_common()}}


def _require_alive_log(data_dir: Path) -> None:
    reader = SqliteReader(data_dir)
    try:
        problems = reader.verify()
    finally:
        reader.close()
    require(not problems, f"the log is not whole: {problems[:3]}")
