"""The JSON that the page is made of."""

from collections.abc import Callable
from importlib import metadata

from aiohttp import web

from server.administration import Administration
from server.dashboard import assets
from server.dashboard.doors import Doors
from server.web import Routes


class Api:
    """Answers the page's questions."""

    def __init__(self, doors: Doors, administration: Administration, healthy: Callable[[], bool]) -> None:
        self._doors = doors
        self._administration = administration
        self._healthy = healthy
        self._version = metadata.version("pointsman")

    def routes(self) -> Routes:
        """The page and its JSON."""
        pages = {**assets.handlers(), "/api/state": self.state}
        return [web.get(path, self._doors.guarded(handler)) for path, handler in pages.items()]

    async def state(self, _: web.Request) -> web.Response:
        """What the page has to know before it shows anything: which routers there are, and how the service is."""
        routers = self._administration.routers()
        return web.json_response(
            {
                "version": self._version,
                "csrf": self._doors.csrf_token,
                "serving": self._healthy(),
                "routers": [{"id": view.settings.id, "mode": view.settings.mode.value} for view in routers],
            },
            headers={"Cache-Control": "no-store"},
        )
