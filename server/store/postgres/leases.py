"""A lease: what one process at a time does, and how it is known that it still is the one.

Time is the database's. A holder that is slow or cut off may think that it holds a lease that another has taken: so
whatever it writes goes with its token, and the database refuses a token that is not the newest.
"""

import os
import socket
import threading

from server.store.errors import StoreUnavailable
from server.store.postgres import schema
from server.store.postgres.connection import Database

SECONDS = 3.0
"""For which a lease is taken; it is renewed three times as often."""


class Lease:
    """A lease by its name. Taken, it renews itself in a thread until it is lost."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._database = Database(url)
        self._renewing: threading.Thread | None = None
        self._ending = threading.Event()

    def take(self) -> int | None:
        """The token, greater than every one before it; None where another process holds the lease.

        Raises StoreUnavailable.
        """
        self._end()
        rows = self._database.once(schema.TAKE_LEASE, self.name, _holder(), SECONDS)
        if not rows:
            return None
        token = int(rows[0][0])
        self._ending = threading.Event()
        self._renewing = threading.Thread(target=self._renew, args=(token, self._ending), daemon=True)
        self._renewing.start()
        return token

    def close(self) -> None:
        """Stops renewing it."""
        self._end()
        self._database.close()

    def _renew(self, token: int, ending: threading.Event) -> None:
        while not ending.wait(SECONDS / 3):
            try:
                if not self._database.rows(schema.RENEW_LEASE, SECONDS, self.name, token):
                    return
            except StoreUnavailable:
                # Tried again: nobody may have been able to take it either.
                continue

    def _end(self) -> None:
        self._ending.set()
        if self._renewing is not None:
            self._renewing.join()
            self._renewing = None


def _holder() -> str:
    """Who holds it, for people: the host and the process."""
    return f"{socket.gethostname()}:{os.getpid()}"
