"""Runs the keeper (`server.dashboard.keeper`) beside the server, and puts questions to it."""

import asyncio
import itertools
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from server.dashboard.keeper import Question
from server.store.errors import StoreUnavailable

_log = logging.getLogger(__name__)

_QUIET_SECONDS = 10.0
"""A server that has just come up has better to do; whoever asks before need not wait for this."""
_RESTART_SECONDS = 5.0
_ANSWER_SECONDS = 20.0
_END_SECONDS = 3.0
_LONGEST_LINE = 64 << 20


class _Answered(msgspec.Struct, frozen=True):
    number: int
    answer: msgspec.Raw
    error: str = ""


class Keeping:
    """Starts the keeper, and starts it again where it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._command = [sys.executable, "-m", "server.dashboard.keeper", str(data_dir)]
        self._child: asyncio.subprocess.Process | None = None
        self._wanted, self._begun = asyncio.Event(), asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._ending = False
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    async def start(self) -> None:
        """Has it started, soon."""
        self._running = asyncio.get_running_loop().create_task(self._supervise())

    async def stop(self) -> None:
        """Ends it; where it is, it reads on from after the next start."""
        self._ending = True
        if (child := self._child) is not None and child.stdin is not None:
            child.stdin.close()
            # It writes down how far it is; else the next one reads that again.
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), _END_SECONDS)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def ask(self, what: str, **of: Any) -> bytes:
        """The answer, as JSON. Raises StoreUnavailable where none comes."""
        self._wanted.set()
        await self._begun.wait()
        child = self._child
        if child is None or child.stdin is None:
            raise StoreUnavailable("the dashboard's figures are being read")
        question = Question(number=next(self._numbers), what=what, **of)
        answered = self._asked[question.number] = asyncio.get_running_loop().create_future()
        try:
            child.stdin.write(msgspec.json.encode(question) + b"\n")
            return await asyncio.wait_for(answered, _ANSWER_SECONDS)
        except (TimeoutError, ConnectionError) as error:
            raise StoreUnavailable("the dashboard's figures are not told in time") from error
        finally:
            self._asked.pop(question.number, None)

    async def _supervise(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), _QUIET_SECONDS)
        while True:
            child = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LONGEST_LINE
            )
            self._child = child
            self._begun.set()
            assert child.stdout is not None
            try:
                async for line in child.stdout:
                    told = msgspec.json.decode(line, type=_Answered)
                    asked = self._asked.get(told.number)
                    if asked is None or asked.done():
                        continue
                    if told.error:
                        asked.set_exception(StoreUnavailable(told.error))
                    else:
                        asked.set_result(bytes(told.answer))
            finally:
                self._child = None
                for asked in self._asked.values():
                    if not asked.done():
                        asked.set_exception(ConnectionError("the keeper has ended"))
                if child.returncode is None:
                    child.kill()
                await child.wait()
            if self._ending:
                return
            _log.error("the keeper of the dashboard's figures ended with status %s", child.returncode)
            await asyncio.sleep(_RESTART_SECONDS)
