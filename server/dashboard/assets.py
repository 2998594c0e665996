"""The page's files, read once and served from memory."""

import gzip
import hashlib
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from aiohttp import web

from server.web import Handler

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PAGE = "index.html"
_PREFIX = "/assets/"


class Asset:
    """One file, compressed where the browser takes that."""

    def __init__(self, name: str, content: bytes) -> None:
        self._type = _TYPES[name[name.rindex(".") :]]
        self._plain = content
        self._packed = gzip.compress(content, compresslevel=6, mtime=0)
        self._tag = hashlib.blake2b(content, digest_size=12).hexdigest()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The file, or that the browser has it already."""
        # Asked again each time, so that a newer version of the program never meets files of an older one.
        headers = {"ETag": f'"{self._tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if any(tag.value == self._tag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        body = self._plain
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            body = self._packed
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, content_type=self._type, charset="utf-8", headers=headers)


def handlers() -> dict[str, Handler]:
    """By path what answers there: `/` and the files beneath `/assets/`."""
    root = resources.files("server.dashboard") / "assets"
    found = {f"{_PREFIX}{name}": Asset(name, file.read_bytes()).answer for name, file in _files(root, "")}
    return {"/": found[f"{_PREFIX}{_PAGE}"], **found}


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(tuple(_TYPES)):
            yield f"{prefix}{entry.name}", entry
