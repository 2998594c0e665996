"""What a request must be before the dashboard looks at it, and what goes out with every answer.

A page of somebody else's, open in the browser of one who may, must neither read what the dashboard shows nor change
anything: requests have to name this host (or a name that anybody can point here would do), and changes must come from
the page itself, with the token that only it can read.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web

from server.web import Handler

CSRF_HEADER = "X-Pointsman-CSRF"

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


class Refused(Exception):
    """The request is not looked at: the HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Doors:
    """Lets in what may come in."""

    def __init__(self, hosts: Collection[str]) -> None:
        """`hosts` are names under which the page is reached; addresses, and names of this machine, always are."""
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self.csrf_token = secrets.token_urlsafe(24)
        """What a change has to carry; for this process only."""

    def guarded(self, handler: Handler) -> Handler:
        """The handler behind the doors."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                self._require_host(request)
                if request.method not in ("GET", "HEAD"):
                    self._require_own_page(request)
                response = await handler(request)
            except Refused as refusal:
                response = web.json_response({"message": str(refusal)}, status=refusal.status)
            response.headers.update(_HEADERS)
            return response

        return answer

    def _require_host(self, request: web.Request) -> None:
        try:
            name = urlsplit(f"//{request.host}").hostname or ""
        except ValueError:
            name = ""
        if name not in self._hosts and not _is_address(name):
            raise Refused(421, "this host is not served here: name it in the configuration, `hosts`")

    def _require_own_page(self, request: web.Request) -> None:
        origin = request.headers.get("Origin", "")
        if origin.lower() != f"{request.scheme}://{request.host}".lower():
            raise Refused(403, "the request does not come from this page")
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Refused(403, "the request does not come from this page")
        given = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(given.encode(), self.csrf_token.encode()):
            raise Refused(403, "the request does not carry this page's token: load it anew")
        if request.content_type != "application/json":
            raise Refused(415, "send JSON")


def _is_address(host: str) -> bool:
    """Whether it is an address: nobody can point one elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
