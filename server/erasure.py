"""Erases the features of sessions: an event says so first, and then they go.

What is erased is a function of the log. So an erasure that was interrupted, or came in with another log's events, is
completed by looking at the events again; the file `DATA_DIR/erased` says up to which it has been done.
"""

import threading
from pathlib import Path

from server.store.files import read_number, replace_number
from server.store.protocol import Store


class Erasure:
    """Does what the log's `erased` events say."""

    def __init__(self, store: Store, data_dir: Path) -> None:
        self._store = store
        self._path = data_dir / "erased"
        self._lock = threading.Lock()

    def complete(self) -> None:
        """Empties the private parts of all sessions that are erased. From any thread.

        Raises StoreError and OSError; then it is to be called again.
        """
        with self._lock:
            replace_number(self._path, self._store.erase(self._done()))

    def _done(self) -> int:
        try:
            done = read_number(self._path)
        except ValueError:
            return 0
        # A backup that was put back ends earlier.
        return done if done <= self._store.last_seq else 0
