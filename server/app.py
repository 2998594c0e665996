"""Wiring: a configuration becomes a running service, which drains when it is told to end."""

import asyncio
import ctypes
import gc
import logging
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp.web
import grpc.aio
import msgspec

from pointsman.v1 import admin_pb2_grpc, events_pb2_grpc, routing_pb2_grpc
from server import startup, web
from server.admin import Admin
from server.administration import Administration
from server.admission import Admission
from server.archiver import Archiver
from server.auth.access import Access
from server.auth.tls import Tls
from server.auth.token_file import FileTokens
from server.closing import Closing
from server.config import Config
from server.convert.admin import Changes
from server.convert.requests import Requests
from server.dashboard.api import Api
from server.dashboard.doors import Doors
from server.dashboard.keeping import Keeping
from server.engine import Engine
from server.erasure import Erasure
from server.events import Events
from server.fitter import Fitting
from server.fold import one_blas_thread
from server.growth import Growth
from server.guard import Guard
from server.health import Health
from server.inspection import Inspection
from server.retention import Retention
from server.routers import Router
from server.routing import Routing
from server.rpc import register
from server.store.epochs import Epochs
from server.store.files import make_directory
from server.store.lock import DirectoryLock
from server.store.place import Directory, SharedPlace
from server.store.protocol import SharedStore, Store
from server.telemetry.page import Scrape
from server.telemetry.tracing import open_tracing
from server.views import Views
from server.watcher import Watcher

_log = logging.getLogger(__name__)

_DRAIN_SECONDS = 5.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


class Address(msgspec.Struct, frozen=True):
    """Where to listen; port 0 picks one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def run(
    config: Config,
    place: Directory | SharedPlace,
    *,
    listen: Address,
    http: Address,
    data_dir: Path,
    tls: Tls | None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Says on standard output when it is ready.

    In the data directory lies the log, unless it is kept in a place that replicas share, and what this server alone
    keeps. Raises OSError where it cannot listen, and StoreError where the place or the data directory cannot be used.
    """
    one_blas_thread()
    _keep_freed_memory()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with ExitStack() as opened:
        log = _open(config, place, data_dir, opened)
        await _serve(config, place, log, listen=listen, http=http, data_dir=data_dir, tls=tls, stop=stop)


class _Log(NamedTuple):
    """The log, what is known of its routers, and where their epochs come from."""

    store: Store
    shared: SharedStore | None
    """The same store, where other replicas append to it."""
    epochs: Epochs
    routers: dict[str, Router]
    fitting: Fitting


def _open(config: Config, place: Directory | SharedPlace, data_dir: Path, opened: ExitStack) -> _Log:
    routers: dict[str, Router] = {}
    if isinstance(place, Directory):
        store = place.open()
        opened.callback(store.close)
        files = place.epochs()
        return _Log(store, None, files, routers, startup.bring_up(config, store, files, routers, data_dir))
    make_directory(data_dir)
    lock = DirectoryLock(data_dir / "lock")
    opened.callback(lock.release)
    shared = place.open()
    opened.callback(shared.close)
    epochs = place.epochs()
    opened.callback(epochs.close)
    return _Log(shared, shared, epochs, routers, startup.bring_up_shared(config, shared, epochs, routers, data_dir))


async def _serve(
    config: Config,
    place: Directory | SharedPlace,
    log: _Log,
    *,
    listen: Address,
    http: Address,
    data_dir: Path,
    tls: Tls | None,
    stop: asyncio.Event,
) -> None:
    store, shared, epochs, routers, fitting = log
    erasure = Erasure(store, data_dir)
    erasure.complete()
    health = Health()
    growth = Growth()

    def grown() -> None:
        fitting.hint()
        growth.tell()

    engine = Engine(
        store=store,
        epochs=epochs,
        routers=routers,
        cached_sessions=config.limits.cached_sessions,
        hint=grown,
        on_health=health.say,
        shared=shared,
    )
    async with AsyncExitStack() as closing:
        reader = place.reader()
        closing.callback(reader.close)
        requests = Requests(config.limits)
        routing = Routing(engine, Views(reader, epochs, routers), requests)
        closing.callback(routing.close)
        access = _access(config, data_dir)
        await access.start()
        closing.push_async_callback(access.stop)
        admission = Admission(access, config.limits)
        tracing = open_tracing()
        if tracing is not None:
            closing.push_async_callback(tracing.close)
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.limits.message_bytes),
                # Two servers on one port would each get half of the calls.
                ("grpc.so_reuseport", 0),
                # What a connection sends beyond its first calls would be kept for it; so the caller keeps it.
                ("grpc.max_concurrent_streams", admission.most_of_one),
            ],
            maximum_concurrent_rpcs=admission.most_calls,
        )
        register(routing_pb2_grpc.add_RoutingServicer_to_server, routing, server, admission, engine.counts, tracing)
        guard = Guard(engine, reader, routers)
        administration = Administration(routers, store, time.time, lambda: engine.round_us, guard.trial)
        admin = Admin(engine, administration, Changes(config.limits))
        register(admin_pb2_grpc.add_AdminServicer_to_server, admin, server, admission, engine.counts, tracing)
        archiver = Archiver(data_dir, seconds=config.service.archive_seconds, days=config.retention.archive_days)
        events = Events(engine, reader, requests, growth, erasure, archiver.hint)
        closing.callback(events.close)
        register(events_pb2_grpc.add_EventsServicer_to_server, events, server, admission, engine.counts, tracing)
        health.register(server, admission, engine.counts)
        try:
            if tls is None:
                grpc_port = server.add_insecure_port(str(listen))
            else:
                grpc_port = server.add_secure_port(str(listen), tls.for_grpc())
                await tls.start()
                closing.push_async_callback(tls.stop)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}") from error
        inspection = Inspection(data_dir, engine.condemn)
        keeping = Keeping(data_dir)
        doors = Doors(access, config.service.hosts)
        scrape = Scrape(
            engine=engine,
            routers=routers,
            reader=reader,
            guard=guard,
            keeping=keeping,
            healthy=lambda: health.serving,
        )
        dashboard = Api(
            doors,
            routing=routing,
            admin=admin,
            administration=administration,
            guard=guard,
            engine=engine,
            keeping=keeping,
            healthy=lambda: health.serving,
            whole=lambda: inspection.whole,
        )
        routes = [
            *web.health(lambda: health.serving),
            aiohttp.web.get("/metrics", doors.guarded(scrape.answer)),
            *dashboard.routes(),
            *_receiving(engine, routing, doors, admission, config),
        ]
        pages = await web.serve(http.host, http.port, routes, tls=tls.for_http if tls is not None else None)
        closing.push_async_callback(pages.close)
        http_port = pages.port
        await fitting.start()
        closing.push_async_callback(fitting.stop)
        closing.push_async_callback(engine.close)
        if not isinstance(place, Directory):
            published = place.epochs()
            closing.callback(published.close)
            watcher = Watcher(engine, published, routers, grown)
            await watcher.start()
            closing.push_async_callback(watcher.stop)
            await startup.in_force(routers)
        closing_sessions = Closing(engine, reader, routers, data_dir)
        await closing_sessions.start()
        closing.push_async_callback(closing_sessions.stop)
        retention = Retention(
            engine, reader, routers, data_dir, erasure, archiver.hint, features_days=config.retention.features_days
        )
        await retention.start()
        await guard.start(administration)
        closing.push_async_callback(guard.stop)
        closing.push_async_callback(retention.stop)
        await keeping.start()
        closing.push_async_callback(keeping.stop)
        await archiver.start()
        closing.push_async_callback(archiver.stop)
        await server.start()
        await health.tell(True)
        await inspection.start()
        closing.push_async_callback(inspection.stop)
        _collect_seldom()
        ready = f"grpc={Address(listen.host, grpc_port)} http={Address(http.host, http_port)}"
        print(f"pointsman ready {ready}", flush=True)
        await stop.wait()
        _log.info("draining")
        await health.tell(False)
        events.drain()
        await server.stop(_DRAIN_SECONDS)


def _receiving(
    engine: Engine, routing: Routing, doors: Doors, admission: Admission, config: Config
) -> Iterable[aiohttp.web.AbstractRouteDef]:
    """Where evaluations come in, if what that needs is installed."""
    try:
        from server.telemetry import otlp
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        return
    receiver = otlp.Receiver(
        engine,
        routing.rewarding,
        bound=admission.requests,
        limits=config.limits,
        ranges=config.telemetry.evaluations,
    )
    yield aiohttp.web.post(otlp.PATH, doors.for_programs(receiver.answer))


def _access(config: Config, data_dir: Path) -> Access:
    security = config.security
    return Access(
        FileTokens(security.tokens_path(data_dir)) if security.tokens else None,
        {client.name: client.grant() for client in security.clients} if security.client_ca is not None else None,
        sessions_per_second=config.limits.sessions_per_second,
    )


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed: a round's arrays were given back to the system after each round, and faulted in
    again page by page in the next, which took a sixth of a Select's processor time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def _collect_seldom() -> None:
    """Keeps the garbage collector from walking through all cached sessions again and again: pauses of 100 ms.

    Next to nothing here is cyclic, so reference counts free what there is to free.
    """
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)
