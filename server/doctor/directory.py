"""Is a data directory fit to serve from, and is its log whole?"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from server.doctor import filesystem
from server.doctor.finding import Finding, Severity
from server.store.errors import StoreDamaged, StoreError
from server.store.files import read_number
from server.store.protocol import EventReader
from server.store.sqlite import DATABASE, HEAD, LOCK, SqliteStore

_LITTLE_BYTES = 1 << 30
_BEHIND_SECONDS = 3600.0


def check(path: Path, *, served: bool) -> Iterator[Finding]:
    """What is wrong with it. `served`: a server is known to be running, so that it may hold the directory."""

    def finding(code: str, severity: Severity, found: str, remedy: str) -> Finding:
        return Finding(code=code, severity=severity, where=str(path), found=found, remedy=remedy)

    if not path.is_dir():
        there = path.exists()
        yield finding(
            "data-dir-missing",
            Severity.ERROR if there else Severity.WARNING,
            "it is no directory" if there else "there is none",
            "name the directory that `serve --data-dir` gets; one that is not there is made when a server starts",
        )
        return
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        yield finding(
            "data-dir-unwritable",
            Severity.ERROR,
            f"it cannot be written: {error.strerror}",
            "give it to the user that serves; a volume must not be mounted read-only",
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield finding(
            "data-dir-open",
            Severity.WARNING,
            f"mode {mode:o}: others can look into it, at features of tasks among other things",
            f"chmod 700 {path}",
        )
    kind = filesystem.kind(path)
    yield from fit(path, kind, shutil.disk_usage(path).free)
    holder = _holder(path / LOCK)
    if holder and not served:
        yield finding(
            "data-dir-held",
            Severity.WARNING,
            f"process {holder} serves from it: a second server is refused",
            "nothing, if that is the server you mean (name it with --server to have it looked at); else stop it",
        )
    yield from _log(path)


def fit(path: Path, kind: str, free: int) -> Iterator[Finding]:
    """What is wrong with a file system of that kind with so many bytes left, for a log at `path`."""
    if kind in filesystem.NETWORK:
        yield Finding(
            code="network-filesystem",
            severity=Severity.ERROR,
            where=str(path),
            found=f"it lies on {kind}: its locks and syncs are another machine's word, and the log may be damaged",
            remedy="use a local disk or a block volume; for several replicas, PostgreSQL (--store)",
        )
    if kind in filesystem.VOLATILE:
        yield Finding(
            code="volatile-filesystem",
            severity=Severity.ERROR,
            where=str(path),
            found=f"it lies on {kind}, in memory: the log is lost with the machine or the container",
            remedy="use a disk or a volume",
        )
    database = path / DATABASE
    size = database.stat().st_size if database.exists() else 0
    if free < max(_LITTLE_BYTES, size):
        little = free < _LITTLE_BYTES
        yield Finding(
            code="disk-low",
            severity=Severity.ERROR if little else Severity.WARNING,
            where=str(path),
            found=f"{_size(free)} left, the log takes {_size(size)}" + ("" if little else ": no backup fits beside it"),
            remedy="make room: without it the service stops taking decisions; `archive_days` keeps the archive short",
        )


def _size(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB"


def _holder(lock: Path) -> str:
    """The process that serves from the directory; empty: none does."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return ""
    except BlockingIOError:
        return os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
    finally:
        os.close(fd)


def _log(path: Path) -> Iterator[Finding]:
    if not (path / DATABASE).exists() and not (path / HEAD).exists():
        return
    try:
        reader = SqliteStore.open_reader(path)
        try:
            reader.verify_end()
            yield from _archive(path, reader)
        finally:
            reader.close()
    except StoreDamaged as error:
        yield Finding(
            code="log-damaged",
            severity=Severity.ERROR,
            where=str(path),
            found=str(error),
            remedy="do not serve from it: keep a copy, see all of it with `pointsman check`, and restore a backup "
            'with what the archive has beyond it (README, "Backup and restore")',
        )
    except (StoreError, OSError) as error:
        yield Finding(
            code="log-unreadable",
            severity=Severity.ERROR,
            where=str(path),
            found=str(error),
            remedy="make it readable to the user that serves, and use the release that wrote it or a later one",
        )


def _archive(path: Path, reader: EventReader) -> Iterator[Finding]:
    root = path / "archive"
    last = reader.last_seq
    if not root.is_dir() or not last:
        return
    try:
        upto = read_number(root / "upto")
    except (ValueError, OSError) as error:
        yield Finding(
            code="archive-unreadable",
            severity=Severity.ERROR,
            where=str(root / "upto"),
            found=str(error),
            remedy="move the archive away: a server writes it anew from the log",
        )
        return
    waiting, newest = reader.event(upto + 1), reader.event(last)
    if waiting is None or newest is None:
        return
    # By the log's own times: while nothing is logged, nothing falls behind.
    behind = (newest.at_us - waiting.at_us) / 1e6
    if behind > _BEHIND_SECONDS:
        yield Finding(
            code="archive-behind",
            severity=Severity.WARNING,
            where=str(root),
            found=f"it ends at event {upto:,}, {last - upto:,} before the log does, and {behind / 3600:,.1f} hours",
            remedy="look for what the server's log says of the archive's process; `pointsman export` writes the same",
        )
