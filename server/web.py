"""A few HTTP pages on asyncio: `/healthz` for whoever watches the process."""

import asyncio
from collections.abc import Callable

_MAX_REQUEST = 8192
_SECONDS = 5.0


async def serve(host: str, port: int, *, healthy: Callable[[], bool]) -> asyncio.Server:
    """Listens and answers GET /healthz: 200 while `healthy`, else 503. Raises OSError where it cannot listen."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, healthy()))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Not a request, or nobody there any more to tell.
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST)


def _response(head: bytes, healthy: bool) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/healthz":
        status, body = "404 Not Found", b"not found\n"
    elif method not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", b"GET or HEAD\n"
    elif healthy:
        status, body = "200 OK", b"serving\n"
    else:
        status, body = "503 Service Unavailable", b"not serving\n"
    headers = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + (b"" if method == b"HEAD" else body)
