"""What a store can refuse, and what the caller should do about it."""

from typing import Literal


class StoreError(Exception):
    """Base of every error a store raises on purpose."""


class StoreUnavailable(StoreError):
    """The store cannot take or give data now (disk full, I/O error, no store there).

    Nothing was acknowledged. After a failed append the outcome is unknown until `Store.recover` returned.
    """


class StoreDamaged(StoreError):
    """The log is not what was acknowledged. Stop serving; restore from a copy.

    `seq` is the first sequence number in doubt, or None where the damage cannot be tied to one.
    """

    def __init__(self, seq: int | None, what: str) -> None:
        super().__init__(what if seq is None else f"event {seq}: {what}")
        self.seq = seq
        self.what = what


class StoreLocked(StoreError):
    """Another server writes to this data directory."""


class StoreConflict(StoreError):
    """A value that may occur only once is in the log already, or twice in one append. Nothing was written."""

    def __init__(self, field: Literal["decision_id", "request_key", "epoch"], what: str) -> None:
        super().__init__(what)
        self.field = field


class StoreMoved(StoreError):
    """Another replica has appended what makes a difference. Nothing was written: read it, and decide again."""


class StoreFenced(StoreError):
    """Another process has taken over what only one may do. Nothing was written: stop doing it."""


class StoreTooNew(StoreError):
    """The store was written by a later version, with a schema this one does not know."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"the store has schema {found}, this version knows up to {known}: upgrade it")
        self.found = found
        self.known = known
