"""Who folds the log: this process before the next Select (inline), or a child process beside it.

The child is `python -m server.fitter DATA_DIR`. A byte on its standard input says that the log has grown;
a line on its standard output, as JSON, says that an epoch was published. It reads the log for itself: the bytes and
lines are hints. It ends with its input, however the parent ends.

Where several replicas share a database, each has such a child, and one of them folds: the one that holds the lease. The
others stand by, and what it publishes every replica learns of from the database (`server.watcher`).
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from bandit.learner import Learner
from server import child
from server.fold import Fitter, one_blas_thread
from server.routers import Router
from server.store.epochs import Epochs
from server.store.errors import StoreError, StoreFenced, StoreUnavailable
from server.store.place import Directory, SharedPlace, of_child
from server.store.protocol import EventReader
from server.telemetry import logs

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_HINT_SECONDS = 0.01
_RESTART_SECONDS = 0.5
_STAND_BY_SECONDS = 0.5


class Fitting(Protocol):
    """Keeps routers' epochs up with the log."""

    async def start(self) -> None:
        """Begins."""
        ...

    def hint(self) -> None:
        """The log has grown."""
        ...

    async def stop(self) -> None:
        """Ends; what was not folded yet is folded after the next start."""
        ...


class Inline:
    """Folds what is durable before anything else is decided, so that one order of calls gives one run."""

    def __init__(self, fitter: Fitter, routers: Mapping[str, Router]) -> None:
        self._fitter = fitter
        self._routers = routers

    async def start(self) -> None:
        """Folds what the log holds already."""
        self.hint()

    def hint(self) -> None:
        """Folds to the log's end."""
        try:
            changed = self._fitter.catch_up()
        except (StoreError, OSError) as error:
            _log.error("epochs stand still: %s", error)
            return
        for router in changed & self._routers.keys():
            self._routers[router].adopt(self._fitter.learners[router])

    async def stop(self) -> None:
        """Nothing runs."""


class _Published(msgspec.Struct, frozen=True):
    """An epoch that the child has published."""

    router: str
    version: str
    number: int


class Beside:
    """Runs the child, hints it, adopts the epochs it publishes, and starts it again where it ends."""

    def __init__(self, data_dir: Path, epochs: Epochs, routers: Mapping[str, Router]) -> None:
        self._data_dir = data_dir
        self._epochs = epochs
        self._routers = routers
        self._hints: int | None = None
        self._waking = False
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the child."""
        self._running = asyncio.get_running_loop().create_task(self._supervise())

    def hint(self) -> None:
        """Wakes the child, soon: it works in larger pieces than commits are."""
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_later(_HINT_SECONDS, self._wake)

    def _wake(self) -> None:
        self._waking = False
        if self._hints is not None:
            try:
                os.write(self._hints, b"\n")
            except (BlockingIOError, BrokenPipeError):
                # Full: it has hints enough. Broken: it is being replaced, and looks at the log first.
                return

    async def stop(self) -> None:
        """Ends the child."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _supervise(self) -> None:
        while True:
            hints_of_child, hints = os.pipe()
            os.set_blocking(hints, False)
            try:
                fitter = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "server.fitter",
                    str(self._data_dir),
                    stdin=hints_of_child,
                    stdout=asyncio.subprocess.PIPE,
                )
            finally:
                os.close(hints_of_child)
            self._hints = hints
            try:
                assert fitter.stdout is not None
                async for line in fitter.stdout:
                    await self._adopt(msgspec.json.decode(line, type=_Published))
            finally:
                self._hints = None
                os.close(hints)
                # It would end with its input, but only after the fold at hand; whatever it did is done again.
                if fitter.returncode is None:
                    fitter.kill()
                await fitter.wait()
            _log.error("the fitter ended with status %s and is started again", fitter.returncode)
            await asyncio.sleep(_RESTART_SECONDS)

    async def _adopt(self, published: _Published) -> None:
        learner = await asyncio.to_thread(self._load, published)
        router = self._routers.get(published.router)
        if learner is not None and router is not None:
            router.adopt(learner)

    def _load(self, published: _Published) -> Learner | None:
        found = self._epochs.load(published.router, published.version, published.number)
        return Learner.resume(found[1]) if found is not None else None


def _tail(reader: EventReader, epochs: Epochs, tell: Callable[[str, Learner], None]) -> None:
    """The child: folds until its standard input ends, and tells of each router with a new epoch.

    Raises StoreUnavailable, and StoreFenced where it has lost the lease; what was published until then stays.
    """
    fitter = Fitter(reader, epochs)
    for router, learner in fitter.learners.items():
        # The epoch it goes on from may be news to a parent that has just replaced a child.
        tell(router, learner)
    while True:
        while (changed := fitter.step()) is not None:
            for router in changed:
                tell(router, fitter.learners[router])
            if not child.wait(0.0):
                return
        if not child.wait(_POLL_SECONDS):
            return


def _alone(place: Directory) -> None:
    """The child of the only server of a data directory."""
    while True:
        try:
            return _tail(place.reader(), place.epochs(), _tell)
        except StoreUnavailable as error:
            _log.warning("the log cannot be read now: %s", error)
        if not child.wait(_POLL_SECONDS):
            return None


def _tell(router: str, learner: Learner) -> None:
    if learner.vintage is not None:
        published = _Published(router, learner.vintage.policy_version, learner.vintage.epoch)
        os.write(1, msgspec.json.encode(published) + b"\n")


def _among_others(place: SharedPlace) -> None:
    """The child of one of several replicas: folds whenever it holds the lease."""
    lease, epochs = place.fitter_lease(), place.epochs()
    reader: EventReader | None = None
    while True:
        try:
            token = lease.take()
            if token is not None:
                _log.info("this replica folds the log now")
                epochs.token = token
                reader = reader or place.reader()
                # Every replica learns of them from the database, in its own time: this one too.
                return _tail(reader, epochs, lambda _router, _learner: None)
        except StoreFenced:
            _log.info("another replica folds the log now")
        except StoreUnavailable as error:
            _log.warning("the log cannot be folded now: %s", error)
        until = time.monotonic() + _STAND_BY_SECONDS
        while (left := until - time.monotonic()) > 0.0:
            # Hints are for whoever folds.
            if not child.wait(left):
                return None


def main() -> None:
    """Runs the child; see the module."""
    child.live_with_parent()
    logs.write("fitter")
    one_blas_thread()
    # Nobody to tell: the parent is gone.
    with suppress(BrokenPipeError):
        place = of_child(Path(sys.argv[1]))
        _alone(place) if isinstance(place, Directory) else _among_others(place)


if __name__ == "__main__":
    main()
