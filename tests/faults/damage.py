"""Damaged files: a store gives back all that was acknowledged, or says that it cannot. Never less without a word.

Torn: its files end early at any offset, or go on with what was never written. Flipped: any single bit, and whole
sectors that come back empty.
"""

import random
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from server.store.errors import StoreDamaged, StoreError
from server.store.protocol import StoredEvent
from server.store.sqlite import SqliteStore
from tests.faults.appender import event
from tests.faults.trial import Figures, Trial, require

AIM = "a tail torn at every offset of WAL and head; 10,000 flipped bits: none silent"

FILES = ("events.db", "events.db-wal", "head")
_SECTOR = 512
_COPIED, _AHEAD = 30, 6
"""Events in the database itself, and events in its write-ahead log alone."""
_FEW = 10
"""So many of the last events are verified by some starts, that the others have to be found by `check`."""


class Killed:
    """A data directory as a killed server leaves it, and what it had acknowledged."""

    def __init__(self, folder: Path) -> None:
        source = folder / "source"
        store = SqliteStore.open(source)
        store.append([event(seq) for seq in range(1, _COPIED + 1)])
        store.close()
        store = SqliteStore.open(source)
        for seq in range(_COPIED + 1, _COPIED + _AHEAD + 1, 2):
            store.append([event(seq), event(seq + 1)])
        self.acknowledged: list[StoredEvent] = store.read(0, 1000)
        self.content = {name: (source / name).read_bytes() for name in FILES}
        store.close()
        self._folder = folder / "damaged"

    def put(self, name: str, content: bytes) -> Path:
        """The directory with one file changed."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for file, whole in self.content.items():
            (self._folder / file).write_bytes(content if file == name else whole)
        return self._folder


class Tally:
    """What became of damaged directories."""

    def __init__(self, killed: Killed) -> None:
        self._killed = killed
        self.cases = self.harmless = self.noticed = self.named = 0
        """All; nothing was lost; it was said; and said with the number of an event."""

    def take(self, name: str, content: bytes, what: str, verify_tail: int = 10_000) -> None:
        """Opens and checks a directory with one file changed. Raises Broken where something is gone without a word."""
        data_dir = self._killed.put(name, content)
        self.cases += 1
        try:
            store = SqliteStore.open(data_dir, verify_tail=verify_tail)
        except StoreError as error:
            self._notice(error.seq if isinstance(error, StoreDamaged) else None)
            return
        try:
            if problems := store.verify():
                self._notice(problems[0].seq)
                return
            require(_reads_back(store, self._killed.acknowledged), f"{what} of {name}: damaged without a word")
            self.harmless += 1
        finally:
            store.close()

    def _notice(self, seq: int | None) -> None:
        self.noticed += 1
        self.named += seq is not None


def _reads_back(store: SqliteStore, acknowledged: Iterable[StoredEvent]) -> bool:
    """Whether every event is there, and found by each of the ways that there are to it."""
    found = store.read(0, 1000)
    return found == list(acknowledged) and all(
        store.event(one.seq) == one
        and store.decision(one.decision_id) == one
        and one in store.session(one.router, one.session_id)
        and store.requests([one.request_key]) == {one.request_key: (one.request_digest, one.seq)}
        for one in found
    )


def _torn(trial: Trial, killed: Killed, tally: Tally, rng: random.Random) -> None:
    """Ends of the write-ahead log and of the head, at every offset."""
    for name in ("events.db-wal", "head"):
        whole = killed.content[name]
        offsets = rng.sample(range(len(whole)), trial.size(full=len(whole), quick=40))
        for number, offset in enumerate(offsets):
            tally.take(name, whole[:offset], f"the first {offset} bytes")
            if offset % _SECTOR == 0 or trial.quick:
                rest = len(whole) - offset
                tally.take(name, whole[:offset] + bytes(rest), f"the first {offset} bytes and zeros")
                tally.take(name, whole[:offset] + rng.randbytes(rest), f"the first {offset} bytes and noise")
            if number % 100 == 0:
                trial.tell(number, len(offsets))


def _flipped(trial: Trial, killed: Killed, tally: Tally, rng: random.Random, flips: int) -> None:
    """Single bits, in each file as often as its size says, in the head as often as in a page."""
    sizes = [max(len(killed.content[name]), 4096) for name in FILES]
    for number in range(flips):
        (name,) = rng.choices(FILES, sizes)
        damaged = bytearray(killed.content[name])
        offset, bit = rng.randrange(len(damaged)), rng.randrange(8)
        damaged[offset] ^= 1 << bit
        tally.take(name, bytes(damaged), f"bit {bit} of byte {offset}", rng.choice((_FEW, 10_000)))
        trial.tell(number, flips)


def _emptied(trial: Trial, killed: Killed, tally: Tally, rng: random.Random) -> None:
    """Each sector of each file."""
    for name in FILES:
        whole = killed.content[name]
        sectors = range(0, len(whole), _SECTOR)
        for start in rng.sample(sectors, 5) if trial.quick else sectors:
            damaged = whole[:start] + bytes(_SECTOR) + whole[start + _SECTOR :]
            tally.take(name, damaged[: len(whole)], f"sector {start // _SECTOR}")


def run(trial: Trial) -> Figures:
    """Damages a small log in every way, on copies."""
    # Nothing here depends on a disk, and each case would wait for it several times.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else trial.folder) as folder:
        return _damage(trial, Killed(Path(folder)))


def _damage(trial: Trial, killed: Killed) -> Figures:
    rng = random.Random(trial.seed)
    tally = Tally(killed)
    tally.take("head", killed.content["head"], "nothing")
    require(tally.harmless == 1, "what is not damaged is said to be")
    counts = {}
    for what, damage in (
        ("torn", lambda: _torn(trial, killed, tally, rng)),
        ("flipped_bits", lambda: _flipped(trial, killed, tally, rng, trial.size(full=10_000, quick=150))),
        ("empty_sectors", lambda: _emptied(trial, killed, tally, rng)),
    ):
        before = tally.cases
        damage()
        counts[what] = tally.cases - before
    require(tally.noticed > tally.cases // 10, "hardly any damage was noticed: is it done at all?")
    return {**counts, "harmless": tally.harmless, "noticed": tally.noticed, "with_a_number": tally.named, "silent": 0}
