"""A database as the place of a log."""

from server.store.postgres.connection import described
from server.store.postgres.epochs import FITTER, PostgresEpochs
from server.store.postgres.leases import Lease
from server.store.postgres.store import PostgresReader, PostgresStore


class Postgres:
    """A database, with several writers; see Place."""

    def __init__(self, url: str) -> None:
        """Raises StoreUnavailable where the URL cannot be understood."""
        self._url = url
        self._name = described(url)

    def __str__(self) -> str:
        return self._name

    def open(self) -> PostgresStore:
        """See Place."""
        return PostgresStore.open(self._url)

    def reader(self) -> PostgresReader:
        """See Place."""
        return PostgresStore.open_reader(self._url)

    def epochs(self) -> PostgresEpochs:
        """See Place."""
        return PostgresEpochs(self._url)

    def fitter_lease(self) -> Lease:
        """The lease of whoever publishes epochs."""
        return Lease(self._url, FITTER)
