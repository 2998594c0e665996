"""Whether the service serves, told by the standard health service; and reflection, which says what there is."""

import asyncio
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from bandit.errors import Unknown
from pointsman.v1 import admin_pb2, events_pb2, routing_pb2
from server.admission import Admission
from server.rpc import register
from server.telemetry.counts import Counts

_SERVICES: tuple[str, ...] = (
    routing_pb2.DESCRIPTOR.services_by_name["Routing"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
    events_pb2.DESCRIPTOR.services_by_name["Events"].full_name,
)


class _Checks(health.aio.HealthServicer):  # type: ignore[misc, name-defined]
    """The standard one, but that a service that is not here is an error like others; see `server.status.tell`."""

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - named by the proto
        """As the protocol has it."""
        if request.service not in ("", *_SERVICES):
            raise Unknown("service", "service", request.service)
        return await super().Check(request, context)


class Health:
    """One state for the whole process, told for each service and for all together."""

    def __init__(self) -> None:
        self.serving = False
        self._checks = _Checks()
        self._telling: set[asyncio.Task[None]] = set()

    def register(self, server: grpc.aio.Server, admission: Admission, counts: Counts) -> None:
        """Adds health and reflection to a server."""
        register(health_pb2_grpc.add_HealthServicer_to_server, self._checks, server, admission, counts)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined]
        register(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, servicer, server, admission, counts)

    def say(self, serving: bool) -> None:
        """As `tell`, without waiting."""
        task = asyncio.get_running_loop().create_task(self.tell(serving))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def tell(self, serving: bool) -> None:
        """Says whether it serves to everybody who asks or watches."""
        self.serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *_SERVICES):
            await self._checks.set(name, status)
