"""A network that can be cut: a TCP proxy before a server, which passes, freezes or refuses what goes through it."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

_PIECE = 65_536


class Link:
    """A way to a port of the loopback, with a port of its own. Its methods may be called from any thread."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = True
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._pass, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        self._change(open_=False, flows=True)

    def freeze(self) -> None:
        """Nothing comes through any more, and nobody is told: as when a cable is pulled."""
        self._change(open_=True, flows=False)

    def restore(self) -> None:
        """Everything passes. What was frozen arrives late."""
        self._change(open_=True, flows=True)

    def close(self) -> None:
        """Ends it."""
        self.cut()
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _change(self, *, open_: bool, flows: bool) -> None:
        async def change() -> None:
            self._open = open_
            (self._flows.set if flows else self._flows.clear)()
            if not open_:
                for writer in self._writers:
                    writer.transport.abort()

        self._call(change())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _end(self) -> None:
        self._server.close()
        passing = asyncio.all_tasks() - {asyncio.current_task()}
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        ends = [writer]
        try:
            await self._flows.wait()
            if not self._open:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(far_writer)
            self._writers.add(far_writer)
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            # The server is away, or an end has gone, or it all ends.
            pass
        finally:
            for end in ends:
                end.transport.abort()
                self._writers.discard(end)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            await self._flows.wait()
            writer.write(piece)
            await writer.drain()
        writer.transport.abort()
