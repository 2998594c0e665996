"""Published epochs in PostgreSQL, beside the log that they were folded from."""

import logging

from bandit import epoch_file
from bandit.epoch_file import EpochId
from server.store.epochs import Epoch, to_thin
from server.store.errors import StoreConflict, StoreFenced
from server.store.postgres import schema
from server.store.postgres.connection import Database
from server.store.postgres.rows import from_text, to_text

FITTER = "fitter"
"""The lease of whoever publishes."""

_MAX_NUMBER = 2**63 - 1

_log = logging.getLogger(__name__)


class PostgresEpochs:
    """The epochs in a database. Who publishes holds the lease of the fitter, by a token."""

    def __init__(self, url: str) -> None:
        self.token = 0
        """That of the lease, in a process that publishes."""
        self._database = Database(url)

    def stamp(self, seq: int, digest: bytes) -> None:
        """Nothing: log and epochs are in one database, and never of different times."""

    def save(self, router: str, version: str, number: int, seq: int, blob: bytes) -> None:
        """See Epochs. Raises StoreFenced where another process has taken the lease."""
        content = epoch_file.pack(EpochId(router, version, number), seq, blob)
        names = to_text(router), to_text(version)
        while True:
            ((count, _),) = self._database.rows(schema.PUBLISH, FITTER, self.token, *names, number, seq, content)
            if count:
                return
            if not self._database.rows(schema.HOLDS_LEASE, FITTER, self.token):
                raise StoreFenced("another process publishes epochs now")
            there = self.load(router, version, number)
            if there == (seq, blob):
                return
            if there is not None:
                raise StoreConflict("epoch", f"epoch {number} of {router!r} {version!r} is published otherwise")
            # What is there is damaged.
            self._database.rows(schema.THIN_EPOCHS, *names, [number])

    def load(self, router: str, version: str, number: int) -> tuple[int, bytes] | None:
        """See Epochs."""
        rows = self._database.rows(schema.EPOCH, to_text(router), to_text(version), number)
        return self._unpack(EpochId(router, version, number), rows[0][0]) if rows else None

    def latest(self, router: str, version: str, upto_seq: int) -> Epoch | None:
        """See Epochs."""
        before = _MAX_NUMBER
        while rows := self._database.rows(schema.LATEST_EPOCHS, to_text(router), to_text(version), upto_seq, before):
            before, content = rows[0]
            if (found := self._unpack(EpochId(router, version, before), content)) is not None:
                return Epoch(before, *found)
        return None

    def versions(self, router: str) -> list[str]:
        """See Epochs."""
        return [from_text(version) for (version,) in self._database.rows(schema.EPOCH_VERSIONS, to_text(router))]

    def numbers(self, router: str, version: str) -> list[int]:
        """See Epochs."""
        rows = self._database.rows(schema.EPOCH_NUMBERS, to_text(router), to_text(version))
        return [number for (number,) in rows]

    def thin(self, router: str, version: str, recent: int) -> list[int]:
        """See Epochs."""
        deleted = to_thin(self.numbers(router, version), recent)
        if deleted:
            self._database.rows(schema.THIN_EPOCHS, to_text(router), to_text(version), deleted)
        return deleted

    def newest(self) -> list[EpochId]:
        """The newest epoch of each router, whole or not."""
        rows = self._database.rows(schema.NEWEST_EPOCHS)
        return [EpochId(from_text(router), from_text(version), number) for router, version, number in rows]

    def news(self, seconds: float) -> None:
        """Waits until something may have been published or logged, at most so long."""
        self._database.news(seconds)

    def close(self) -> None:
        """Gives everything back."""
        self._database.close()

    def _unpack(self, epoch: EpochId, content: bytes) -> tuple[int, bytes] | None:
        found = epoch_file.unpack(epoch, content)
        if found is None:
            _log.warning("epoch %d of %r is damaged and will be recomputed", epoch.number, epoch.router)
        return found
