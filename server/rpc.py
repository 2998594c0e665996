"""Registers servicers so that whatever comes in, a call ends with the status it deserves.

grpc.aio answers UNKNOWN or INTERNAL where a message cannot be decoded or a handler raises. So every handler of every
service, health and reflection included, is wrapped as it is registered: undecodable bytes become INVALID_ARGUMENT,
and what a handler raises goes through the table in `server.status`.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
import grpc.aio

from bandit.errors import InvalidInput
from server.status import abort

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class _Undecodable:
    """Stands for a message whose bytes could not be decoded."""


def _guarded(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:
            return _Undecodable()

    return decoded


def _require_decoded(request: Any) -> Any:
    if isinstance(request, _Undecodable):
        raise InvalidInput("message", "cannot be decoded")
    return request


async def _each_decoded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _require_decoded(request)


def _answering(handle: Callable[[Any, _Context], Awaitable[Any]], incoming: Callable[[Any], Any]) -> Any:
    async def answer(request: Any, context: _Context) -> Any:
        try:
            return await handle(incoming(request), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return answer


def _streaming(handle: Callable[[Any, _Context], AsyncIterator[Any]], incoming: Callable[[Any], Any]) -> Any:
    async def answer(request: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            async for response in handle(incoming(request), context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return answer


def _wrap(handler: Any) -> Any:
    incoming = _each_decoded if handler.request_streaming else _require_decoded
    kind = {
        (False, False): "unary_unary",
        (False, True): "unary_stream",
        (True, False): "stream_unary",
        (True, True): "stream_stream",
    }[handler.request_streaming, handler.response_streaming]
    handle = getattr(handler, kind)
    wrapped = (_streaming if inspect.isasyncgenfunction(handle) else _answering)(handle, incoming)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        wrapped,
        request_deserializer=_guarded(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


def register(add_to_server: Callable[[Any, Any], None], servicer: object, server: grpc.aio.Server) -> None:
    """Adds a servicer by its generated `add_…Servicer_to_server`, every handler wrapped."""
    add_to_server(servicer, _Registrar(server))


class _Registrar:
    """Passes for a server in the generated functions."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the generated code offers the same handlers once more, by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds a service's handlers, wrapped."""
        wrapped = {name: _wrap(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
