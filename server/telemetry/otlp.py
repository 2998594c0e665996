"""`POST /v1/logs`: a receiver of OpenTelemetry's logs (OTLP over HTTP), which takes evaluations as rewards.

Other logs are taken and left alone, so that a collector may send all it has. What is wrong with single events is told
as a partial success, as OTLP has it; while the log takes no writes the whole is refused, so that exporters try again.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from bandit.errors import InvalidInput, PointsmanError
from pointsman.v1 import routing_pb2 as pb
from server.auth.access import Forbidden, calling
from server.auth.grants import Scope
from server.convert.checks import DEFAULT_ROUTER
from server.engine import Engine, reply_of
from server.limits import Limits
from server.overload import Bound
from server.rounds import Asked
from server.status import status_of
from server.store.errors import StoreError
from server.telemetry import evaluations
from server.telemetry.evaluations import Ranges

PATH = "/v1/logs"

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_MOST_TOLD = 10
"""Of the events that were refused, those of which it is told why."""


class Receiver:
    """Takes logs."""

    def __init__(
        self,
        engine: Engine,
        rewarding: Callable[[pb.RewardRequest], Asked],
        *,
        bound: Bound,
        limits: Limits,
        ranges: Ranges,
    ) -> None:
        """`rewarding` is how a Reward is asked of the engine, `ranges` which evaluations tell success."""
        self._engine = engine
        self._rewarding = rewarding
        self._bound = bound
        self._limits = limits
        self._ranges = ranges

    async def answer(self, request: web.Request) -> web.Response:
        """Answers an export by a caller who may reward something. Raises Forbidden, Overloaded and StoreError."""
        caller = calling.get()
        if Scope.REWARD not in caller.grant.scopes:
            raise Forbidden(f"{caller.name} lacks the scope {Scope.REWARD.value!r}")
        if request.content_type not in (_PROTOBUF, _JSON):
            return _response(request, status_pb2.Status(message=f"send {_PROTOBUF} or {_JSON}"), 415)
        self._bound.enter()
        try:
            data = await self._read(request)
            if data is None:
                return _response(request, status_pb2.Status(message="too large: send less at once"), 413)
            self._bound.hold(len(data))
            try:
                # Of a large one this takes a while; who is served meanwhile goes on.
                events = await asyncio.to_thread(self._events, request.content_type, data)
                return _response(request, await self._take(events))
            except InvalidInput as error:
                return _response(request, status_of(error), 400)
            finally:
                self._bound.release(len(data))
        finally:
            self._bound.leave()

    async def _read(self, request: web.Request) -> bytes | None:
        """The body, unpacked; None where it is larger than messages may be."""
        data = bytearray()
        async for piece in request.content.iter_any():
            data += piece
            if len(data) > self._limits.message_bytes:
                return None
        return bytes(data)

    async def _take(self, events: Sequence[Asked | PointsmanError]) -> ExportLogsServiceResponse:
        asked = [event for event in events if isinstance(event, Asked)]
        for i in range(0, len(asked), self._limits.batch):
            await self._engine.answer_all(asked[i : i + self._limits.batch])
        refused = [why for why in map(_refusal, events) if why]
        response = ExportLogsServiceResponse()
        if refused:
            response.partial_success.rejected_log_records = len(refused)
            response.partial_success.error_message = "; ".join(refused[:_MOST_TOLD])
        return response

    def _events(self, content_type: str, data: bytes) -> list[Asked | PointsmanError]:
        return list(self._evaluations(_decoded(content_type, data)))

    def _evaluations(self, export: ExportLogsServiceRequest) -> Iterator[Asked | PointsmanError]:
        caller = calling.get()
        for of_resource in export.resource_logs:
            resource = evaluations.attributes(of_resource.resource.attributes)
            for of_scope in of_resource.scope_logs:
                for record in of_scope.log_records:
                    try:
                        reward = evaluations.reward(record, resource, self._ranges)
                        if reward is not None:
                            caller.require(Scope.REWARD, reward.router or DEFAULT_ROUTER)
                            yield self._rewarding(reward)
                    except PointsmanError as error:
                        yield error


def _refusal(event: Asked | PointsmanError) -> str:
    """Why an event was refused; empty where it was taken. Raises StoreError where all of them may be tried again."""
    try:
        if isinstance(event, PointsmanError):
            raise event
        reply_of(event)
    except StoreError:
        raise
    except Exception as error:
        return str(status_of(error).message)
    return ""


def _decoded(content_type: str, data: bytes) -> ExportLogsServiceRequest:
    """Raises InvalidInput."""
    export = ExportLogsServiceRequest()
    try:
        if content_type == _PROTOBUF:
            export.ParseFromString(data)
        else:
            json_format.Parse(data, export, ignore_unknown_fields=True)
    except (DecodeError, json_format.ParseError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidInput("message", "cannot be decoded as an ExportLogsServiceRequest") from error
    return export


def _response(request: web.Request, message: Message, status: int = 200) -> web.Response:
    if request.content_type == _PROTOBUF:
        return web.Response(status=status, body=message.SerializeToString(), content_type=_PROTOBUF)
    return web.Response(status=status, text=json_format.MessageToJson(message), content_type=_JSON)
