"""What a request must be before the dashboard looks at it, who sends it, and what goes out with every answer.

A page of somebody else's, open in the browser of one who may, must neither read what the dashboard shows nor change
anything: requests have to name this host (or a name that anybody can point here would do), and changes must come from
the page itself, with the token that only it can read. Who pasted a bearer token is known by a cookie from then on,
which names a session in this process's memory: the token itself is never kept by the browser.
"""

import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from bandit.errors import PointsmanError
from server.auth.access import Access, Caller, Unauthenticated, calling
from server.auth.certificates import names_of_peer
from server.overload import Overloaded
from server.status import status_of
from server.store.errors import StoreError
from server.web import Handler

CSRF_HEADER = "X-Pointsman-CSRF"
COOKIE = "pointsman"

_log = logging.getLogger(__name__)

_Kind = TypeVar("_Kind")

_SESSION_SECONDS = 12 * 3600.0
_MOST_SESSIONS = 1_000
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HTTP = {3: 400, 5: 404, 6: 409, 7: 403, 8: 429, 9: 409, 14: 503, 16: 401}
"""By gRPC's code; all else is a defect."""


class Refused(Exception):
    """The request is not looked at: the HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Session(NamedTuple):
    caller: Caller
    ends: float
    """On the monotonic clock."""


class Doors:
    """Lets in what may come in."""

    def __init__(self, access: Access, hosts: Collection[str]) -> None:
        """`hosts` are names under which the page is reached; addresses, and names of this machine, always are."""
        self._access = access
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._key = secrets.token_bytes(32)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    # --- what comes in ------------------------------------------------------------------------------------------

    def guarded(self, handler: Handler, *, known: bool = True) -> Handler:
        """The handler behind the doors; with `known`, for those alone of whom it is known who they are."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                self._require_host(request)
                if request.method not in ("GET", "HEAD"):
                    self._require_own_page(request)
                if known:
                    calling.set(self.caller(request))
                response = await handler(request)
            except (Refused, PointsmanError, StoreError) as error:
                response = _refusal(error)
            response.headers.update(_HEADERS)
            return response

        return answer

    def for_programs(self, handler: Handler) -> Handler:
        """The handler behind doors for programs: what a browser sends for a page is refused, and a cookie makes nobody
        known."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                self._require_host(request)
                if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
                    raise Refused(403, "this is not for browsers")
                calling.set(self._access.anybody or self._shown(request))
                return await handler(request)
            except (Refused, PointsmanError, StoreError) as error:
                return _refusal(error)

        return answer

    def _require_host(self, request: web.Request) -> None:
        try:
            name = urlsplit(f"//{request.host}").hostname or ""
        except ValueError:
            name = ""
        if name not in self._hosts and not _is_address(name):
            raise Refused(421, "this host is not served here: name it in the configuration, `hosts`")

    def _require_own_page(self, request: web.Request) -> None:
        # The scheme may be another one: what ends TLS may stand before this port.
        scheme, _, origin = request.headers.get("Origin", "").lower().partition("://")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        if scheme not in ("http", "https") or origin != request.host.lower() or site != "same-origin":
            raise Refused(403, "the request does not come from this page")
        given = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(given.encode(), self.csrf_token(request).encode()):
            raise Refused(403, "the request does not carry this page's token: load it anew")
        if request.content_type != "application/json":
            raise Refused(415, "send JSON")

    # --- who sends it -------------------------------------------------------------------------------------------

    def csrf_token(self, request: web.Request) -> str:
        """What a change has to carry: for this process and this visitor only."""
        visitor = request.cookies.get(COOKIE, "")
        return hmac.new(self._key, visitor.encode(errors="replace"), hashlib.sha256).hexdigest()

    def caller(self, request: web.Request) -> Caller:
        """Who sends a request: known by the cookie, by a bearer token in its header, or by the certificate of the
        connection. Raises Unauthenticated."""
        if self._access.anybody is not None:
            return self._access.anybody
        session = self._sessions.get(request.cookies.get(COOKIE, ""))
        if session is not None and session.ends > time.monotonic() and self._access.still_knows(session.caller):
            return session.caller
        return self._shown(request)

    def _shown(self, request: web.Request) -> Caller:
        given = request.headers.getall("Authorization", [])
        names = names_of_peer(request.get_extra_info("peercert"))
        if len(given) > 1:
            raise Unauthenticated("there is more than one Authorization header")
        if given or names:
            return self._access.identify(given[0] if given else None, names)
        raise Unauthenticated("sign in with a token")

    async def sign_in(self, request: web.Request) -> web.Response:
        """Takes a token and gives a cookie."""
        caller = self._access.identify(f"Bearer {(await body(request, _Token)).token.strip()}")
        name = secrets.token_urlsafe(32)
        self._sessions[name] = _Session(caller, time.monotonic() + _SESSION_SECONDS)
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        _log.info("%s looks at the dashboard", caller.name)
        response = web.json_response({})
        response.set_cookie(
            COOKIE,
            name,
            max_age=int(_SESSION_SECONDS),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=request.scheme == "https",
        )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """Forgets who it is."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)
        response = web.json_response({})
        response.del_cookie(COOKIE, path="/")
        return response


class _Token(msgspec.Struct, frozen=True):
    token: str


async def body(request: web.Request, kind: type[_Kind]) -> _Kind:
    """What a request brings. Raises Refused."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(400, str(error)) from error


def _refusal(error: Exception) -> web.Response:
    if isinstance(error, Refused):
        return web.json_response({"message": str(error)}, status=error.status)
    status = status_of(error)
    response = web.json_response({"message": status.message}, status=_HTTP.get(status.code, 500))
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(math.ceil(error.retry_seconds))
    return response


def _is_address(host: str) -> bool:
    """Whether it is an address: nobody can point one elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
