"""What `pointsman status` reads of a server."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pointsman import Client
from pointsman.errors import code_of
from pointsman.v1 import admin_pb2, events_pb2, events_pb2_grpc, routing_pb2
from server.console import learning
from server.console.learning import Evidence

_SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in ((routing_pb2, "Routing"), (admin_pb2, "Admin"), (events_pb2, "Events"))
)


@dataclass(frozen=True, kw_only=True)
class RouterState:
    """A router, all its arms, and what its recent events show; None where the server does not give its events out."""

    message: admin_pb2.Router
    arms: tuple[admin_pb2.Arm, ...]
    evidence: Evidence | None


@dataclass(frozen=True, kw_only=True)
class State:
    """A server: what its services say of their health (`SERVING`, for instance), and its routers."""

    services: dict[str, str]
    routers: tuple[RouterState, ...]


def read(client: Client, *, only: str, timeout_seconds: float) -> State:
    """The server's state; of the router `only`, or of all where it is empty. Raises grpc.RpcError."""
    found = client.call(client.admin.ListRouters, admin_pb2.ListRoutersRequest(router=only)).routers
    return State(
        services=health(client),
        routers=tuple(
            RouterState(
                message=router, arms=arms(client, router.id), evidence=_evidence(client, router, timeout_seconds)
            )
            for router in found
        ),
    )


def recent(client: Client, router: admin_pb2.Router, timeout_seconds: float) -> Iterator[events_pb2.Event]:
    """A router's events among the last of the log. Raises grpc.RpcError."""
    first = max(1, router.last_sequence - learning.WINDOW + 1)
    request = events_pb2.ExportEventsRequest(router=router.id, from_sequence=first)
    stub = events_pb2_grpc.EventsStub(client.channel)
    for piece in stub.ExportEvents(request, timeout=timeout_seconds, metadata=client.metadata):
        yield from piece.events


def arms(client: Client, router: str) -> tuple[admin_pb2.Arm, ...]:
    """A router's arms, retired ones too. Raises grpc.RpcError."""
    request = admin_pb2.ListArmsRequest(router=router, include_retired=True)
    return tuple(client.call(client.admin.ListArms, request).arms)


def health(client: Client) -> dict[str, str]:
    """What each service says of its health. Raises grpc.RpcError."""
    return {service: _health(client, service) for service in _SERVICES}


def _health(client: Client, service: str) -> str:
    checks = health_pb2_grpc.HealthStub(client.channel)
    response = client.call(checks.Check, health_pb2.HealthCheckRequest(service=service))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def _evidence(client: Client, router: admin_pb2.Router, timeout_seconds: float) -> Evidence | None:
    try:
        return learning.evidence(recent(client, router, timeout_seconds))
    except grpc.RpcError as error:
        if code_of(error) in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED):
            return None
        raise
