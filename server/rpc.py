"""Registers servicers so that whatever comes in, a call ends with the status it deserves.

Every handler of every service, health and reflection included, is wrapped as it is registered. A caller who is not let
in, or for whom there is no room, is refused before a message is read. Messages come as bytes and are decoded here, for
grpc.aio answers UNKNOWN or INTERNAL where one cannot be decoded; what a handler raises goes through the table in
`server.status`.
"""

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import grpc
import grpc.aio

from bandit.errors import InvalidInput, PointsmanError
from server.admission import Admission
from server.auth import rights
from server.auth.access import Caller, calling
from server.overload import TooLate
from server.status import code_of, tell
from server.telemetry.counts import Counts
from server.telemetry.tracing import Tracing, current

_FINISH_SECONDS = 1.0
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def register(
    add_to_server: Callable[[Any, Any], None],
    servicer: object,
    server: grpc.aio.Server,
    admission: Admission,
    counts: Counts,
    tracing: Tracing | None = None,
) -> None:
    """Adds a servicer by its generated `add_…Servicer_to_server`, every handler wrapped and its calls counted, and
    traced where `tracing` is given."""
    add_to_server(servicer, _Registrar(server, admission, counts, tracing))


async def _let_finish(stream: AsyncIterator[bytes]) -> None:
    """Lets a caller say the rest, if that does not take long: a call that ends while its caller goes on sending counts
    for ever among those that a connection may have at once (grpc 1.74)."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FINISH_SECONDS):
            async for _ in stream:
                pass


class _Registrar:
    """Passes for a server in the generated functions."""

    def __init__(self, server: grpc.aio.Server, admission: Admission, counts: Counts, tracing: Tracing | None) -> None:
        self._tracing = tracing
        self._server = server
        self._admission = admission
        self._counts = counts

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the generated code offers the same handlers once more, by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds a service's handlers, wrapped."""
        methods = {
            name: _Method(name[1:], handler, rights.of(name), self._admission, self._counts, self._tracing)
            for name, handler in ((f"/{service}/{method}", handler) for method, handler in handlers.items())
        }
        self._server.add_generic_rpc_handlers((_Service(methods),))


class _Service(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """The methods of a service, by name."""

    def __init__(self, methods: "Mapping[str, _Method]") -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call that begins; None where it is of no method here."""
        method = self._methods.get(handler_call_details.method)
        return method.begin(handler_call_details.invocation_metadata) if method is not None else None


class _Method:
    """What happens to the calls of one method."""

    def __init__(
        self,
        name: str,
        handler: Any,
        right: rights.Right | None,
        admission: Admission,
        counts: Counts,
        tracing: Tracing | None,
    ) -> None:
        incoming, outgoing = handler.request_streaming, handler.response_streaming
        kind = f"{'stream' if incoming else 'unary'}_{'stream' if outgoing else 'unary'}"
        handle = getattr(handler, kind)
        self._name = name
        self._tracing = tracing
        self._counts = counts
        self._right = right
        self._admission = admission
        self._decode = handler.request_deserializer
        if right is None:
            self._bound = admission.open
        else:
            self._bound = admission.streams if incoming or outgoing else admission.requests
        self._streamed = incoming
        self._handle = handle
        self._answering = self._stream if inspect.isasyncgenfunction(handle) else self._answer
        self._make = getattr(grpc, f"{kind}_rpc_method_handler")
        self._serialise = handler.response_serializer

    def begin(self, metadata: Any) -> Any:
        """The handler of one call, in whose task this is called. One that is not taken gets a handler that reads
        nothing."""
        task = asyncio.current_task()
        assert task is not None, "each call has its task"
        if self._tracing is not None:
            call = self._tracing.begin(self._name, metadata)
            current.set(call)
            task.add_done_callback(call.ended)
        try:
            caller = self._admission.by_header(self._right, metadata)
            self._bound.enter()
        except PointsmanError as error:
            return grpc.stream_stream_rpc_method_handler(functools.partial(self._refused, error))
        task.add_done_callback(self._ended)
        return self._make(functools.partial(self._answering, caller), response_serializer=self._serialise)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._bound.leave()

    async def _answer(self, caller: Caller | None, data: Any, context: _Context) -> Any:
        size = 0 if self._streamed else len(data)
        began = time.perf_counter()
        try:
            self._bound.hold(size)
            try:
                reply = await self._handle(self._incoming(caller, data, context), context)
                if (call := current.get()) is not None:
                    call.note(reply)
                return reply
            finally:
                self._bound.release(size)
                self._counts.calls[self._name].add(time.perf_counter() - began)
        except Exception as error:
            self._end(error, context)
            if self._streamed:
                await _let_finish(data)

    async def _stream(self, caller: Caller | None, data: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            async for response in self._handle(self._incoming(caller, data, context), context):
                self._admission.require_still(calling.get())
                yield response
        except Exception as error:
            self._end(error, context)

    async def _refused(self, error: PointsmanError, requests: AsyncIterator[bytes], context: _Context) -> None:
        self._end(error, context)

    def _end(self, error: Exception, context: _Context) -> None:
        code = code_of(error)
        self._counts.refused[self._name, code.name] += 1
        if (call := current.get()) is not None:
            call.refused(code)
        tell(context, error)

    def _incoming(self, caller: Caller | None, data: Any, context: _Context) -> Any:
        """The request, or the requests of a stream, of a call that is under way."""
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise TooLate("the deadline has passed")
        if self._right is not None:
            calling.set(caller or self._admission.by_certificate(self._right, context))
        return self._each(data) if self._streamed else self._request(data)

    async def _each(self, stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            if self._right is not None:
                self._admission.require_still(calling.get())
            yield self._request(data)

    def _request(self, data: bytes) -> Any:
        try:
            request = self._decode(data)
        except Exception as error:
            raise InvalidInput("message", "cannot be decoded") from error
        if self._right is not None:
            self._admission.require(calling.get(), self._right, request)
        if (call := current.get()) is not None:
            call.note(request)
        return request
