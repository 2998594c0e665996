"""Keeps the archive's child process running beside the server; see `server.archive`."""

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

_QUIET_SECONDS = 10.0
"""A server that has just come up has better to do than to have its log copied."""
_RESTART_SECONDS = 5.0


class Archiver:
    """Runs the child, and starts it again where it ends."""

    def __init__(self, data_dir: Path, *, seconds: float, days: float) -> None:
        """Archives every so many seconds, 0 never; deletes days of the archive that are older than `days`, 0 none."""
        self._command = [sys.executable, "-m", "server.archive", str(data_dir), str(seconds), str(days)]
        self._wanted, self._due = seconds > 0, asyncio.Event()
        self._quiet = min(seconds, _QUIET_SECONDS)
        self._child: asyncio.subprocess.Process | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Has the child started, soon."""
        if self._wanted:
            self._running = asyncio.get_running_loop().create_task(self._supervise())

    def hint(self) -> None:
        """Archives soon."""
        self._due.set()
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(b"\n")

    async def stop(self) -> None:
        """Ends the child; what is half done is done again after the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _supervise(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._due.wait(), self._quiet)
        while True:
            child = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.PIPE)
            self._child = child
            try:
                await child.wait()
            finally:
                self._child = None
                if child.returncode is None:
                    child.kill()
                await child.wait()
            _log.error("the archive's process ended with status %s and is started again", child.returncode)
            await asyncio.sleep(_RESTART_SECONDS)
