"""A copy of a data directory, of one that is being written to as well.

It is a data directory itself: to restore is to put it in the place of the lost one, or to serve it where it is.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from server.store.database import Database
from server.store.epochs import EpochFiles
from server.store.errors import StoreDamaged, StoreUnavailable
from server.store.files import fsync_directory, make_directory
from server.store.head import create_head, read_head
from server.store.protocol import Problem, Progress
from server.store.sqlite import DATABASE, HEAD, LOCK, SqliteReader, SqliteStore


def backup(data_dir: Path, target: Path, progress: Progress | None = None) -> int:
    """Copies the log as it is now, with its head and the epochs, and verifies the copy; its last sequence number.

    Whatever was acknowledged before is in it. `progress` is told pages, and then events. `target` must not exist; it
    appears whole or not at all. The archive and other files that can be computed from the log are left out; epochs
    cannot always be, once features have been erased.
    Raises StoreDamaged where the log is not whole, StoreUnavailable and OSError.
    """
    if target.exists():
        raise StoreUnavailable(f"{target} is there already")
    SqliteReader(data_dir).close()  # is there a store that can be read?
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_directory(partial, mode=0o700)  # features are in it
    try:
        last = _copy(data_dir, partial, progress)
        fsync_directory(partial)
        partial.rename(target)
        fsync_directory(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return last


def _copy(data_dir: Path, partial: Path, progress: Progress | None) -> int:
    # The epochs first: so the log has all that they fold. Its head before the database: that has all it names.
    EpochFiles(data_dir).copy(partial)
    head = read_head(data_dir / HEAD)
    source = Database(data_dir / DATABASE, write=False)
    try:
        source.copy(partial / DATABASE, progress)
    finally:
        source.close()
    if head is not None:
        create_head(partial / HEAD, head)
    store = SqliteStore.open(partial)
    try:
        _require_whole(store.verify(progress))
        return store.last_seq
    finally:
        store.close()
        (partial / LOCK).unlink()


def _require_whole(problems: Sequence[Problem]) -> None:
    for problem in problems:
        raise StoreDamaged(problem.seq, problem.what)
