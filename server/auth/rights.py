"""One table: a method → the scope that it asks for, and the routers that a request of it is about."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from server.auth.grants import Scope
from server.convert.checks import DEFAULT_ROUTER


class Right(msgspec.Struct, frozen=True):
    """What a method asks of its caller."""

    scope: Scope | None
    """None: only to be known."""
    routers: Callable[[Any], Iterable[str | None]] = lambda request: (request.router or DEFAULT_ROUTER,)
    """Of a request; None stands for all routers."""


def of(method: str) -> Right | None:
    """The right that a method, ``/package.Service/Method``, asks for; None: it is open to everybody. KeyError where
    nobody has thought of it."""
    return _RIGHTS[method]


def _no_router(request: Any) -> Iterable[str | None]:
    return ()


def _exported(request: Any) -> Iterable[str | None]:
    return (None if request.all_routers else request.router or DEFAULT_ROUTER,)


def _listed(request: Any) -> Iterable[str | None]:
    return (request.router or None,)


def _imported(request: Any) -> Iterable[str | None]:
    meant = request.router or DEFAULT_ROUTER
    return {event.router or meant for event in request.events} or (meant,)


_RIGHTS: dict[str, Right | None] = {
    "/pointsman.v1.Routing/Select": Right(Scope.ROUTE),
    # Each of its items is looked at, and answered, by itself.
    "/pointsman.v1.Routing/BatchSelect": Right(Scope.ROUTE, _no_router),
    "/pointsman.v1.Routing/Escalate": Right(Scope.ROUTE),
    "/pointsman.v1.Routing/ReportProgress": Right(Scope.ROUTE),
    "/pointsman.v1.Routing/Reward": Right(Scope.REWARD),
    "/pointsman.v1.Routing/GetSession": Right(Scope.READ),
    "/pointsman.v1.Routing/GetDecision": Right(Scope.READ),
    "/pointsman.v1.Admin/CreateRouter": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/GetRouter": Right(Scope.READ),
    "/pointsman.v1.Admin/UpdateRouter": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/ListRouters": Right(Scope.READ, _listed),
    "/pointsman.v1.Admin/PutArm": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/ListArms": Right(Scope.READ),
    "/pointsman.v1.Admin/RetireArm": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/SetAvailability": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/CreatePolicy": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/ListPolicies": Right(Scope.READ),
    "/pointsman.v1.Admin/StartShadow": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/StartCanary": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/PromotePolicy": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/RollBackPolicy": Right(Scope.ADMIN),
    "/pointsman.v1.Admin/SetMode": Right(Scope.ADMIN),
    "/pointsman.v1.Events/ExportEvents": Right(Scope.READ, _exported),
    "/pointsman.v1.Events/ImportEvents": Right(Scope.ADMIN, _imported),
    "/pointsman.v1.Events/EraseSessions": Right(Scope.ADMIN),
    # Whoever watches the process is let in; what there is to call is for those who may call something.
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/List": None,
    "/grpc.health.v1.Health/Watch": None,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Right(None, _no_router),
}
