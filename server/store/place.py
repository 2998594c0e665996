"""Where a log is kept: in a data directory, or in a database that several replicas share."""

import os
from pathlib import Path
from typing import Protocol

from bandit.epoch_file import EpochId
from server.store.epochs import EpochFiles, Epochs
from server.store.errors import StoreUnavailable
from server.store.protocol import EventReader, SharedStore, Store
from server.store.sqlite import SqliteStore

URL_VARIABLE = "POINTSMAN_STORE"
"""The environment variable that may name a database, so that its password need not stand on a command line. A server
sets it for its child processes; empty, it names none."""

_SCHEMES = ("postgresql://", "postgres://")


class Place(Protocol):
    """A place for a log and its epochs. `str` says where it is, and nothing that is secret.

    Opening raises what the store there raises.
    """

    def open(self) -> Store:
        """Open or create the store for writing."""
        ...

    def reader(self) -> EventReader:
        """Open an existing store for reading."""
        ...

    def epochs(self) -> Epochs:
        """The epochs that were published."""
        ...


class Lease(Protocol):
    """What one process at a time does."""

    def close(self) -> None:
        """Stops renewing it."""
        ...

    def take(self) -> int | None:
        """The token, greater than every one before it; None where another process holds the lease.

        Raises StoreUnavailable.
        """
        ...


class PublishedEpochs(Epochs, Protocol):
    """Epochs that every replica loads and one publishes."""

    token: int
    """That of the fitter's lease, in the process that publishes: saving raises StoreFenced where there is a newer."""

    def newest(self) -> list[EpochId]:
        """The newest epoch of each router, whole or not."""
        ...

    def news(self, seconds: float) -> None:
        """Waits until something may have been published or logged, at most so long."""
        ...

    def close(self) -> None:
        """Gives everything back."""
        ...


class SharedPlace(Place, Protocol):
    """A place for the log of several replicas."""

    def open(self) -> SharedStore:
        """See Place."""
        ...

    def epochs(self) -> PublishedEpochs:
        """See Place. They have a connection of their own."""
        ...

    def fitter_lease(self) -> Lease:
        """The lease of whoever publishes epochs."""
        ...


class Directory:
    """A data directory, with one writer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> Store:
        """See Place."""
        return SqliteStore.open(self.path)

    def reader(self) -> EventReader:
        """See Place."""
        return SqliteStore.open_reader(self.path)

    def epochs(self) -> EpochFiles:
        """See Place."""
        return EpochFiles(self.path)


def place_at(url: str) -> SharedPlace:
    """The place that a URL names. Raises StoreUnavailable where it names none, or what it needs is not installed."""
    if not is_url(url):
        raise StoreUnavailable("a store is postgresql://USER@HOST:PORT/DATABASE")
    try:
        # Imported here: psycopg is an extra.
        from server.store.postgres.place import Postgres
    except ImportError as error:
        raise StoreUnavailable(
            f"a store in PostgreSQL needs psycopg ({error}): pip install 'pointsman[postgres]'"
        ) from error
    return Postgres(url)


def of_child(data_dir: Path) -> Directory | SharedPlace:
    """The parent's place, in a child process."""
    url = os.environ.get(URL_VARIABLE, "")
    return place_at(url) if url else Directory(data_dir)


def is_url(name: str) -> bool:
    """Whether it looks like a database rather than a directory."""
    return name.startswith(_SCHEMES)
