"""The power is lost at any moment: what was acknowledged is on the disk.

kill -9 leaves the page cache and so proves nothing of fsync. Here a process's every change to its files is recorded
in order (`shim.c`), and the files are built anew as a disk may hold them that stopped at some point of the record: all
that had been synced, and of what had not been, nothing, everything, or any part, down to single sectors. A name counts
once its directory was synced. Then the store is opened and asked for what had been acknowledged by then.
"""

import bisect
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from pointsman.v1 import routing_pb2 as pb
from server.store.errors import StoreDamaged
from server.store.sqlite import SqliteStore
from tests.faults.appender import event
from tests.faults.processes import UNIFORM, start
from tests.faults.shim import Kind, Shim
from tests.faults.trial import Broken, Figures, Trial, require

AIM = "power lost at every point of the record, un-synced writes kept, dropped and torn: no acknowledged write lost"

_SECTOR = 512
_PAGE = 4096
_HEAD = struct.Struct("<IIQQ")
_LOG = ("events.db", "events.db-wal", "head", "head.tmp")
"""The files of the log. All others can be computed from it."""
_SAID = "acknowledged"


class _What(IntEnum):
    WROTE = 1
    SYNCED = 2
    TRUNCATED = 3
    CREATED = 4
    RENAMED = 5
    UNLINKED = 6
    SYNCED_DIRECTORY = 7
    NOT_SYNCED = 8


class Change(NamedTuple):
    """One change, and the place in the record by which it had happened."""

    what: int
    path: str
    offset: int
    data: bytes
    ends: int


def read_record(path: Path) -> list[Change]:
    """The changes to the files of the log, in order. What a killed process left half written is left out."""
    content = path.read_bytes()
    changes, at = [], 0
    while at + _HEAD.size <= len(content):
        what, name_length, offset, size = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        name = content[at : at + name_length].decode()
        at += name_length
        length = size if what in (_What.WROTE, _What.RENAMED) else 0
        data = content[at : at + length]
        at += length
        if at > len(content):
            break
        if what == _What.SYNCED_DIRECTORY or Path(name).name in (*_LOG, _SAID):
            changes.append(Change(what, name, offset, data, at))
    return changes


Keep = Callable[[], bool]
"""Whether a sector, or a change of length, that was not synced is on the disk all the same."""


@dataclass
class _File:
    """A file's bytes on the disk, and what was changed since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)
    """As processes see it."""
    forgotten: set[int] = field(default_factory=set)
    """Pages that a sync failed to write: the system takes them for written and does not try again."""

    def change(self, change: Change) -> None:
        _apply(self.seen, change)
        if change.what == _What.WROTE:
            # A page that is written to is written whole, with what had been forgotten of it.
            again = self.forgotten.intersection(_pages(change))
            self.forgotten -= again
            for page in again:
                content = bytes(self.seen[page * _PAGE : (page + 1) * _PAGE])
                self.pending.append(change._replace(offset=page * _PAGE, data=content))
        self.pending.append(change)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()

    def fail_to_sync(self) -> None:
        for change in self.pending:
            if change.what == _What.WROTE:
                self.forgotten.update(_pages(change))
        self.pending.clear()

    def after(self, keep: Keep) -> bytes:
        """As the disk may hold it after the power is lost."""
        content = bytearray(self.durable)
        for change in self.pending:
            for part in _sectors(change):
                if keep():
                    _apply(content, part)
        return bytes(content)


def _pages(change: Change) -> range:
    return range(change.offset // _PAGE, (change.offset + len(change.data) - 1) // _PAGE + 1)


def _apply(content: bytearray, change: Change) -> None:
    if change.what == _What.TRUNCATED:
        del content[change.offset :]
        content.extend(bytes(max(0, change.offset - len(content))))
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data


def _sectors(change: Change) -> Iterator[Change]:
    """A write in pieces that reach the disk each for itself."""
    if change.what == _What.TRUNCATED:
        yield change
        return
    start = change.offset
    end = start + len(change.data)
    while start < end:
        stop = min(end, (start // _SECTOR + 1) * _SECTOR)
        yield change._replace(offset=start, data=change.data[start - change.offset : stop - change.offset])
        start = stop


class Disk:
    """What a disk holds after some changes."""

    def __init__(self) -> None:
        self._names: dict[str, _File] = {}
        """As the processes see them, …"""
        self._durable: dict[str, _File] = {}
        """… and as they would be found again."""

    def take(self, change: Change) -> None:
        """The next change happens."""
        match change.what:
            case _What.CREATED:
                self._names[change.path] = _File()
            case _What.WROTE | _What.TRUNCATED:
                self._names[change.path].change(change)
            case _What.SYNCED:
                self._names[change.path].sync()
            case _What.NOT_SYNCED:
                if change.path in self._names:  # else it is a directory
                    self._names[change.path].fail_to_sync()
            case _What.RENAMED:
                self._names[change.data.decode()] = self._names.pop(change.path)
            case _What.UNLINKED:
                del self._names[change.path]
            case _What.SYNCED_DIRECTORY:
                inside = {path: file for path, file in self._names.items() if str(Path(path).parent) == change.path}
                gone = [path for path in self._durable if str(Path(path).parent) == change.path]
                for path in gone:
                    del self._durable[path]
                self._durable |= inside

    def build(self, folder: Path, keep: Keep) -> None:
        """Writes the files as they are found when the power is back."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        names = self._names if keep() else self._durable
        for path, file in names.items():
            (folder / Path(path).name).write_bytes(file.after(keep))


def _outcomes(rng: random.Random) -> list[Keep]:
    """Nothing that was not synced is there; all of it; most, half and little of it."""
    shares = (0.98, 0.5, 0.05)
    return [lambda: False, lambda: True, *(lambda share=share: rng.random() < share for share in shares)]


def _lose_power(
    trial: Trial, changes: Sequence[Change], told: Sequence[int], check: Callable[[SqliteStore, int], None], points: int
) -> int:
    """Loses it after some of the changes, at most `points` times; how often, over all that a disk may then hold.

    `told` are the places in the record by which the acknowledgements had come, in order; `check` gets the store that
    was opened afterwards, and how many had come.
    """
    rng = random.Random(trial.seed)
    chosen = set(rng.sample(range(len(changes)), min(points, len(changes))))
    folder = trial.folder / "after"
    disk, lost = Disk(), 0
    for number, change in enumerate(changes):
        disk.take(change)
        if number not in chosen:
            continue
        for keep in _outcomes(rng):
            disk.build(folder, keep)
            try:
                store = SqliteStore.open(folder)
            except StoreDamaged as error:
                raise Broken(f"after {number} changes: {error}") from error
            try:
                problems = store.verify()
                require(not problems, f"after {number} changes the log is not whole: {problems[:3]}")
                check(store, bisect.bisect_right(told, change.ends))
            finally:
                store.close()
            lost += 1
        trial.tell(number, len(changes))
    return lost


def of_a_store(trial: Trial, groups: int, points: int, *, lying: int = 0, failing: int = 0) -> int:
    """Through every step of a store that is created, appended to, checkpointed, closed and opened again.

    From sync number `lying` on nothing is synced in truth; sync number `failing` fails, and is told to have failed.
    """
    data_dir, record = trial.folder / "data", trial.folder / "record"
    data_dir.mkdir()
    # What it says is recorded among its changes, and so is exactly as late as it was.
    with Shim(trial.folder, data_dir, record=record) as shim, (data_dir / _SAID).open("wb") as said:
        if lying:
            shim.fail(Kind.LYING, lying)
        if failing:
            shim.fail(Kind.SYNC, failing, failing)
        command = [sys.executable, "-m", "tests.faults.appender", str(data_dir), str(groups)]
        subprocess.run(command, env=dict(shim.environment), stdout=said, check=True, timeout=300)
    everything = read_record(record)
    lines = [change for change in everything if Path(change.path).name == _SAID and b"acknowledged" in change.data]
    last = [int(change.data.split()[2]) for change in lines]
    # What was refused may be in the log all the same, and is not appended again.
    require(len(last) >= groups - 1, f"{groups} groups were appended, {len(last)} acknowledged")

    def check(store: SqliteStore, count: int) -> None:
        wanted = last[count - 1] if count else 0
        require(store.last_seq >= wanted, f"event {wanted} was acknowledged, the log ends at {store.last_seq}")
        for stored in store.read(0, 10_000):
            require(stored.body == event(stored.seq).body, f"event {stored.seq} is another one")

    changes = [change for change in everything if Path(change.path).name != _SAID]
    return _lose_power(trial, changes, [change.ends for change in lines], check, points)


def _of_a_service(trial: Trial, calls: int, points: int) -> int:
    """With many agents at once, whose calls are made durable together."""
    data_dir, record = trial.folder / "service", trial.folder / "service-record"
    told: list[tuple[int, str]] = []
    with Shim(trial.folder, data_dir, record=record) as shim:
        server = start(data_dir, UNIFORM, environment=shim.environment)

        def work(number: int) -> None:
            name = f"session-{number}"
            chosen = server.routing.Select(pb.SelectRequest(session_id=name, request_id=name), timeout=60)
            told.append((shim.recorded, chosen.decision_id))
            reward = pb.RewardRequest(decision_id=chosen.decision_id, request_id=name, success=1.0)
            server.routing.Reward(reward, timeout=60)
            told.append((shim.recorded, f"reward {chosen.decision_id}"))

        try:
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(work, range(calls // 2)))
        finally:
            server.kill()
    told.sort()

    def check(store: SqliteStore, count: int) -> None:
        there = {
            event.decision_id if event.kind == "decided" else f"reward {event.decision_id}"
            for event in store.read(0, 1_000_000)
        }
        missing = {name for _, name in told[:count]} - there
        require(not missing, f"{len(missing)} acknowledged events are missing: {next(iter(missing), None)}")

    return _lose_power(trial, read_record(record), [place for place, _ in told], check, points)


def run(trial: Trial) -> Figures:
    """Records a store and a service at work, and loses their power."""
    of_store = of_a_store(trial, trial.size(full=60, quick=12), trial.size(full=5000, quick=20))
    of_service = 0 if trial.quick else _of_a_service(trial, calls=2000, points=trial.size(full=1000, quick=10))
    return {"times_power_was_lost": of_store + of_service, "lost": 0}
