"""The thread that copies SQLite's write-ahead log into the database, so that no commit has to."""

import logging
import os
import threading
from pathlib import Path

from server.store.database import Database
from server.store.errors import StoreError

_EVERY_SECONDS = 1.0
_WAL_PAGES = 8192
_FEW_PAGES = 512
_MOST_PASSES = 8

_files: dict[tuple[int, int], int] = {}
"""Descriptors of database files by device and inode, open until the process ends (see `_sync`)."""

_log = logging.getLogger(__name__)


class Checkpointer(threading.Thread):
    """Checkpoints once a second until stopped. Trouble is logged and tried again, for it loses nothing."""

    def __init__(self, path: Path, write_lock: threading.Lock) -> None:
        """`write_lock` keeps the writer from committing while it is held."""
        super().__init__(name="store-checkpoint", daemon=True)
        self._path = path
        self._write_lock = write_lock
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stop and wait for the end."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Run until `stop`."""
        database: Database | None = None
        while not self._stopping.wait(_EVERY_SECONDS):
            try:
                database = database or Database(self._path, write=True)
                self._checkpoint(database)
            except (StoreError, OSError) as error:
                _log.warning("checkpoint failed: %s", error)
        if database is not None:
            database.close()

    def _checkpoint(self, database: Database) -> None:
        pages = database.checkpoint()
        if pages < _WAL_PAGES:
            return
        # Under steady load the WAL is never wholly copied and would grow without end. So catch up until little is
        # left to copy and to sync, and do that with the writer held: then the next commit begins the WAL anew.
        for _ in range(_MOST_PASSES):
            _sync(self._path)
            before, pages = pages, database.checkpoint()
            if pages - before < _FEW_PAGES:
                break
        with self._write_lock:
            database.checkpoint()


def _sync(path: Path) -> None:
    """Sync the database file, which SQLite does only at the end of a complete checkpoint.

    The file is never closed: closing it would drop the locks that SQLite's connections in this process have on it.
    """
    status = path.stat()
    file = status.st_dev, status.st_ino
    if file not in _files:
        _files[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(_files[file])
