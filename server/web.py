"""The HTTP port: one application on the service's event loop, and the bounds that hold for every page of it.

Pages are routes that whoever has them hands over: `/healthz` stands here, the dashboard brings its own.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

_log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 64 * 1024
_MAX_LINE_BYTES = 8190
_IDLE_SECONDS = 15.0
"""That a connection may take to say what it wants, or may stay without a request."""
_ANSWER_SECONDS = 30.0
"""That a request may take, until its answer's last byte was taken."""
_DRAIN_SECONDS = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Routes = Iterable[web.AbstractRouteDef]


class Served:
    """A port that is listened on."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner

    @property
    def port(self) -> int:
        """The one that was asked for, or that was picked."""
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Ends what is still under way, soon."""
        await self._runner.cleanup()


async def serve(host: str, port: int, routes: Routes, *, tls: ssl.SSLContext | None = None) -> Served:
    """Listens and answers by `routes`, over TLS where `tls` is given. Raises OSError where it cannot listen."""
    application = web.Application(middlewares=[_in_time], client_max_size=_MAX_BODY_BYTES)
    application.add_routes(routes)
    runner = web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=_DRAIN_SECONDS,
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_LINE_BYTES,
        shutdown_timeout=_DRAIN_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except BaseException:
        await runner.cleanup()
        raise
    return Served(runner)


def health(healthy: Callable[[], bool]) -> Routes:
    """`GET /healthz`, for whoever watches the process: 200 while `healthy`, else 503."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="serving\n") if healthy() else web.Response(text="not serving\n", status=503)

    return [web.get("/healthz", answer)]


@web.middleware
async def _in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Cuts off who sends or takes too slowly; a defect is logged and becomes 500 without a word of it."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            response = await _answered(request, handler)
            # Sent here, so that the bound holds for it too.
            await response.prepare(request)
            await response.write_eof()
            return response
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        return web.Response(status=refusal.status, text=f"{refusal.reason}\n", headers=_allow(refusal))
    except (TimeoutError, ConnectionError):
        raise
    except Exception:
        _log.exception("defect at %s", request.path)
        return web.Response(status=500, text="a defect of the server; it is logged\n")


def _allow(refusal: web.HTTPException) -> dict[str, str]:
    return {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else {}
