"""Verifies the whole log once after a start, in a child process beside the server.

Opening a log verifies its head and its last events only, so that a server is ready soon. The child is
`python -m server.inspection DATA_DIR`; it reads the log for itself, and says on its standard output what is wrong.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from server import child
from server.store.errors import StoreDamaged, StoreUnavailable
from server.store.place import Place, of_child
from server.store.protocol import Problem

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
"""After which a log that could not be read is verified from its beginning."""


class Inspection:
    """Runs the child, and tells if the log is damaged."""

    def __init__(self, data_dir: Path, on_damage: Callable[[StoreDamaged], None]) -> None:
        self._command = [sys.executable, "-m", "server.inspection", str(data_dir)]
        self.whole: bool | None = None
        """Whether the log was found whole since the start; None while that is not known."""
        self._on_damage = on_damage
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the child."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends the child; the next start verifies anew."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        inspector = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert inspector.stdout is not None
            # Its input stays open: by its end the child knows that there is nobody to tell.
            said = await inspector.stdout.read()
            await inspector.wait()
        finally:
            if inspector.returncode is None:
                inspector.kill()
            await inspector.wait()
        if inspector.returncode:
            _log.error("the log could not be verified: the process for it ended with status %s", inspector.returncode)
            return
        problems = msgspec.json.decode(said, type=list[Problem])
        for problem in problems:
            damage = StoreDamaged(problem.seq, problem.what)
            _log.critical("the log is damaged: %s", damage)
        self.whole = not problems
        if problems:
            self._on_damage(StoreDamaged(problems[0].seq, problems[0].what))
        else:
            _log.info("the log has been verified from its beginning: it is whole")


def main() -> None:
    """Runs the child; see the module."""
    child.live_with_parent()
    # Whoever waits for an answer goes first.
    os.nice(10)
    problems = _verified(of_child(Path(sys.argv[1])))
    if problems is None:
        return
    found = msgspec.json.encode(problems)
    # Nobody to tell: the parent is gone.
    with suppress(BrokenPipeError):
        os.write(1, found)


def _verified(place: Place) -> list[Problem] | None:
    """What is wrong with the log, which may be away for a while; None where the parent is gone meanwhile."""
    while True:
        try:
            reader = place.reader()
            try:
                return reader.verify()
            finally:
                reader.close()
        except StoreUnavailable as error:
            _log.warning("the log cannot be verified now: %s", error)
        except StoreDamaged as error:
            return [Problem(error.seq, error.what)]
        if not child.wait(_RETRY_SECONDS):
            return None


if __name__ == "__main__":
    main()
