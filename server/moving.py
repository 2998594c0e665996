"""Moves a log from a data directory into a database: the same events under the same chain, and the same epochs."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bandit.errors import WrongOrder
from server import fold
from server.store.epochs import EpochFiles
from server.store.errors import StoreDamaged, StoreUnavailable
from server.store.place import PublishedEpochs, SharedPlace
from server.store.protocol import NewEvent, SharedStore, Store
from server.store.sqlite import DATABASE, SqliteStore

_PAGE = 500
_FIELDS = NewEvent.__struct_fields__

Tell = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and of how much."""


class Moved(NamedTuple):
    """What was moved."""

    events: int
    digest: bytes
    """The chain up to the last of them, on both sides."""
    epochs: int


def move(data_dir: Path, place: SharedPlace, tell: Tell) -> Moved:
    """Copies everything, and verifies the copy. The directory stays as it is, and no server may use it meanwhile.

    The events come in one transaction: whatever happens, all are there or none. Raises WrongOrder where the database
    has events or a replica at work, StoreDamaged where one side is not whole, StoreLocked and StoreUnavailable.
    """
    if not (data_dir / DATABASE).exists():
        raise StoreUnavailable(f"there is no store in {data_dir}")
    source = SqliteStore.open(data_dir)
    try:
        target = place.open()
        try:
            return _move(source, EpochFiles(data_dir), place, target, tell)
        finally:
            target.close()
    finally:
        source.close()


def _move(source: Store, files: EpochFiles, place: SharedPlace, target: SharedStore, tell: Tell) -> Moved:
    if target.last_seq:
        raise WrongOrder(f"{place} has {target.last_seq:,} events already: a log is moved into an empty database")
    lease, epochs = place.fitter_lease(), place.epochs()
    try:
        token = lease.take()
        if token is None:
            raise WrongOrder(f"a replica is at work on {place}: stop it first")
        epochs.token = token
        # First the epochs: those without events count for nothing.
        copied = _copy_epochs(source, files, epochs, tell)
        digest = _copy_events(source, target, tell)
    finally:
        lease.close()
        epochs.close()
    last = source.last_seq
    for problem in target.verify(lambda done, of: tell("events verified", done, of)):
        raise StoreDamaged(problem.seq, problem.what)
    return Moved(last, digest, copied)


def _copy_events(source: Store, target: SharedStore, tell: Tell) -> bytes:
    last, copied, digest = source.last_seq, 0, b""
    with target.held():
        while events := source.read(copied, _PAGE):
            target.append([NewEvent(**{name: getattr(event, name) for name in _FIELDS}) for event in events])
            copied, digest = events[-1].seq, events[-1].digest
            tell("events", copied, last)
        there = target.last_digest
        if last and there != digest:
            raise StoreDamaged(None, "the events do not follow from each other: check the data directory")
    return digest


def _copy_epochs(source: Store, files: EpochFiles, epochs: PublishedEpochs, tell: Tell) -> int:
    found = [
        (router, version, number)
        for router in fold.first_events(source, source.last_seq)
        for version in files.versions(router)
        for number in files.numbers(router, version)
    ]
    copied = 0
    for done, (router, version, number) in enumerate(found, 1):
        if (epoch := files.load(router, version, number)) is not None:
            epochs.save(router, version, number, *epoch)
            copied += 1
        tell("epochs", done, len(found))
    return copied
