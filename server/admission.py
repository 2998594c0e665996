"""Who is let in, and how many at once: what a call has to pass before anything is done for it."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc.aio

from server.auth.access import Access, Caller, Forbidden, Unauthenticated
from server.auth.certificates import names_of_call
from server.auth.rights import Right
from server.limits import Limits
from server.overload import Bound

_MOST_OPEN = 256
"""Health checks at once."""
_MOST_REFUSED = 8192
"""Calls at once that are being told that there is no room, or nobody known."""

_Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class Admission:
    """The doors of a server."""

    def __init__(self, access: Access, limits: Limits) -> None:
        self._access = access
        self.requests = Bound("requests", calls=limits.pending_requests, bytes_=limits.pending_bytes)
        self.streams = Bound("streams", calls=limits.streams, bytes_=limits.pending_bytes)
        self.open = Bound("health checks", calls=_MOST_OPEN, bytes_=limits.pending_bytes)
        self.most_of_one = limits.pending_requests + limits.streams
        """Calls at once over one connection: its caller sends others when these have ended."""
        self.most_calls = self.most_of_one + _MOST_OPEN + _MOST_REFUSED
        """Beyond these grpc refuses by itself."""

    def by_header(self, right: Right | None, metadata: _Metadata) -> Caller | None:
        """Who begins a call, as far as its header tells; None where a certificate may tell, or nobody asks.

        Raises Unauthenticated, and Forbidden where they may do this to no router.
        """
        if right is None:
            return None
        given = [value for key, value in metadata if key == "authorization"]
        if len(given) > 1:
            raise Unauthenticated("there is more than one authorization header")
        if not given and self._access.knows_certificates:
            return None
        return _scoped(self._access.identify(str(given[0]) if given else None), right)

    def by_certificate(self, right: Right, context: "grpc.aio.ServicerContext[Any, Any]") -> Caller:
        """Who makes a call that has no such header. Raises Unauthenticated and Forbidden."""
        return _scoped(self._access.identify(None, names_of_call(context.auth_context())), right)

    def require(self, caller: Caller, right: Right, request: Any) -> None:
        """Raises Forbidden where the caller may not do this to the routers of a request."""
        if right.scope is not None:
            for router in right.routers(request):
                caller.require(right.scope, router)

    def require_still(self, caller: Caller) -> None:
        """Raises Unauthenticated where a caller who was let in has lost that since."""
        if not self._access.still_knows(caller):
            raise Unauthenticated(f"{caller.name} has been revoked or has expired")


def _scoped(caller: Caller, right: Right) -> Caller:
    if right.scope is not None and right.scope not in caller.grant.scopes:
        raise Forbidden(f"{caller.name} lacks the scope {right.scope.value!r}")
    return caller
