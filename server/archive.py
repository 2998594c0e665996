"""The log as Parquet, by day, for anybody's SQL. The only module of the server that imports duckdb.

`DATA_DIR/archive/day=2026-01-31/00000000000000000001-00000000000000004711.parquet` holds the day's (UTC) events among
those numbers; the file `upto` beside the days says how far the archive goes. The log is cut into pieces and each
piece's files are made whole, synced and renamed before `upto` moves on. After a crash the piece at hand is made again
under the same names, so no event is ever missing or there twice.

As a program, `python -m server.archive DATA_DIR SECONDS DAYS`, it keeps the archive up with the log beside a running
server, as the fitter does with epochs.
"""

import itertools
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import msgspec

from bandit import record
from server import child
from server.store.errors import StoreError
from server.store.files import fsync_directory, make_directory, read_number, replace_number
from server.store.lock import DirectoryLock
from server.store.place import Place, of_child
from server.store.protocol import EventReader, StoredEvent
from server.telemetry import logs

_log = logging.getLogger(__name__)

_READ_EVENTS = 500
_PIECE_EVENTS = 20_000
_PIECE_BYTES = 64 << 20
_MEMORY = "512MB"


class ArchiveError(Exception):
    """The archive cannot be written or read; the text says why."""


class Archive:
    """The archive in a folder. One process writes it at a time; it may be read meanwhile."""

    def __init__(self, root: Path) -> None:
        """Raises StoreLocked where another process writes it, OSError where the folder cannot be used."""
        make_directory(root)
        self._root = root
        self._lock = DirectoryLock(root / "lock")
        self._duck = _connect()
        for left in root.glob("*/*.tmp"):
            left.unlink()
        begun = (int(path.stem[21:]) for path in root.glob("day=*/*.parquet"))
        self._begun = max((last for last in begun if last > self.upto), default=0)
        """Where a piece ends that was interrupted, or 0."""

    @property
    def upto(self) -> int:
        """The last event that it holds."""
        return read_number(self._root / "upto")

    def extend(self, pages: Iterable[Sequence[StoredEvent]], on_piece: Callable[[int], None] | None = None) -> int:
        """Takes in events that follow `upto`, in order, page by page; how many. `on_piece` is told how far it is.

        Raises ArchiveError, OSError and what the pages raise; what was taken in until then stays.
        """
        taken = size = 0
        piece: list[StoredEvent] = []
        for event in itertools.chain.from_iterable(pages):
            piece.append(event)
            size += len(event.body) + len(event.private)
            # A piece that was interrupted is cut where it was cut before.
            full = len(piece) == _PIECE_EVENTS or size >= _PIECE_BYTES
            if event.seq == self._begun if self._begun else full:
                self._append(piece)
                taken += len(piece)
                if on_piece is not None:
                    on_piece(event.seq)
                piece, size = [], 0
        if piece:
            self._append(piece)
        return taken + len(piece)

    def _append(self, piece: Sequence[StoredEvent]) -> None:
        name = f"{piece[0].seq:020}-{piece[-1].seq:020}.parquet"
        days: dict[str, list[bytes]] = {}
        for event in piece:
            row = record.flatten(record.Logged(**msgspec.structs.asdict(event)))  # type: ignore[typeddict-item]
            days.setdefault(_day(event.at_us), []).append(record.to_json(row))
        for day, lines in days.items():
            self._write(self._root / f"day={day}" / name, lines)
        replace_number(self._root / "upto", piece[-1].seq)
        self._begun = 0

    def erase(self) -> int:
        """Rewrites the files that hold features of sessions that it knows to be erased; how many.

        Raises ArchiveError and OSError; then it is to be called again.
        """
        upto, done = self.upto, read_number(self._root / "erased")
        files = [str(path) for path in self._root.glob("day=*/*.parquet")]
        if done >= upto or not files:
            return 0
        columns = {name: f'held."{name}"' for name in record.COLUMNS}
        columns["private"] = "CASE WHEN erased.seq > held.seq THEN '' ELSE held.private END"
        columns["features"] = "CASE WHEN erased.seq > held.seq THEN NULL ELSE held.features END"
        kept = ", ".join(f'{value} AS "{name}"' for name, value in columns.items())
        join = "LEFT JOIN erased ON erased.router = held.router AND erased.session_id = held.session_id"
        try:
            self._duck.execute(
                "CREATE OR REPLACE TEMP TABLE erased AS SELECT router, session_id, max(seq) AS seq "
                "FROM read_parquet($1) WHERE kind = 'erased' AND seq > $2 GROUP BY ALL",
                [files, done],
            )
            holding = self._duck.execute(
                f"SELECT DISTINCT filename FROM read_parquet($1, filename = true) AS held {join} "
                "WHERE held.private <> '' AND erased.seq > held.seq",
                [files],
            ).fetchall()
            for (name,) in holding:
                path = Path(name)
                target = path.with_suffix(".parquet.tmp")
                quoted = str(target).replace("'", "''")
                self._duck.execute(
                    f"COPY (SELECT {kept} FROM read_parquet($1, hive_partitioning = false) AS held {join} "
                    f"ORDER BY held.seq) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)",
                    [name],
                )
                _publish(target, path)
        except duckdb.Error as error:
            raise ArchiveError(f"{self._root}: {error}") from error
        replace_number(self._root / "erased", upto)
        return len(holding)

    def delete_before(self, day: str) -> list[str]:
        """Deletes the days before `day`, YYYY-MM-DD; their names."""
        old = sorted(folder for folder in self._root.glob("day=*") if folder.name < f"day={day}")
        for folder in old:
            shutil.rmtree(folder)
        return [folder.name.removeprefix("day=") for folder in old]

    def close(self) -> None:
        """Gives everything back."""
        self._duck.close()
        self._lock.release()

    def _write(self, path: Path, lines: Sequence[bytes]) -> None:
        make_directory(path.parent)
        source, target = path.with_suffix(".json.tmp"), path.with_suffix(".parquet.tmp")
        try:
            with source.open("wb") as file:
                file.writelines(lines)
            statement = record.to_parquet(str(source), str(target), max(map(len, lines)))
            written = self._duck.execute(statement).fetchall()
            if written != [(len(lines),)]:
                raise ArchiveError(f"{path}: {written} rows were written of {len(lines)}")
        except duckdb.Error as error:
            raise ArchiveError(f"{path}: {error}") from error
        finally:
            source.unlink(missing_ok=True)
        _publish(target, path)


def pages(reader: EventReader, after: int) -> Iterator[list[StoredEvent]]:
    """The log's events after one, to its end."""
    while events := reader.read(after, _READ_EVENTS):
        yield events
        after = events[-1].seq


def read(source: Path) -> Iterator[list[record.Logged]]:
    """The events of an archive or of a file of one, in order, file by file.

    Raises ArchiveError where it cannot be read.
    """
    files = [source] if source.is_file() else list(source.rglob("*.parquet"))
    if not files:
        raise ArchiveError(f"{source}: there are no Parquet files")
    # The files of one piece, one a day, have equal names.
    pieces: dict[str, list[str]] = {}
    for path in files:
        pieces.setdefault(path.name, []).append(str(path))
    duck = _connect()
    columns = ", ".join(record.LOGGED)
    try:
        for _, paths in sorted(pieces.items()):
            found = duck.execute(f"SELECT {columns} FROM read_parquet($1) ORDER BY seq", [paths])
            while values := found.fetchmany(_READ_EVENTS):
                yield [record.unflatten(row) for row in values]
    except (duckdb.Error, ValueError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{source}: not events of an archive: {error}") from error
    finally:
        duck.close()


def _connect() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"threads": "1", "memory_limit": _MEMORY})


def _day(at_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).date().isoformat()


def _publish(target: Path, path: Path) -> None:
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    target.replace(path)
    fsync_directory(path.parent)


def _keep_up(place: Place, data_dir: Path, seconds: float, days: float) -> None:
    """The child: archives now and then until its standard input ends."""
    reader = place.reader()
    archive = Archive(data_dir / "archive")
    while True:
        try:
            archive.extend(pages(reader, archive.upto))
            archive.erase()
            if days:
                archive.delete_before(_day(int((time.time() - days * 86_400) * 1e6)))
        except (ArchiveError, StoreError, OSError) as error:
            _log.warning("the archive stands still: %s", error)
        if not child.wait(seconds):
            return


def main() -> None:
    """Runs the child; see the module."""
    child.live_with_parent()
    logs.write("archive")
    data_dir = Path(sys.argv[1])
    _keep_up(of_child(data_dir), data_dir, float(sys.argv[2]), float(sys.argv[3]))


if __name__ == "__main__":
    main()
