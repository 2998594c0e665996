"""Published epochs: immutable files, one per epoch, any of which can be recomputed from the log.

`epochs/<router>/<policy version>/<number>.epoch`, names percent-encoded; `bandit.epoch_file` says what is in them.
"""

import logging
import struct
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote, unquote

from bandit import epoch_file
from bandit.epoch_file import EpochId
from server.store.errors import StoreConflict
from server.store.files import fsync_directory, make_directory, replace_file

_SUFFIX = ".epoch"
_STAMP = "stamp"
_LONGEST_NAME = 200

_log = logging.getLogger(__name__)


class Epoch(NamedTuple):
    """One published epoch: `blob` is the fold of the log up to and including event `seq`."""

    number: int
    seq: int
    blob: bytes


class Epochs(Protocol):
    """Published epochs, wherever they are kept. One process saves and thins at a time; any process loads."""

    def stamp(self, seq: int, digest: bytes) -> None:
        """Say, before an epoch is saved that folds event `seq`, what that event's digest is."""
        ...

    def save(self, router: str, version: str, number: int, seq: int, blob: bytes) -> None:
        """Publish an epoch, durably. Doing it again changes nothing. Raises StoreConflict where another one was."""
        ...

    def load(self, router: str, version: str, number: int) -> tuple[int, bytes] | None:
        """(seq, blob), or None where there is no such epoch; a damaged one is logged and counts as none."""
        ...

    def latest(self, router: str, version: str, upto_seq: int) -> Epoch | None:
        """The newest whole epoch that folds no event after `upto_seq`."""
        ...

    def versions(self, router: str) -> list[str]:
        """The policy versions there are epochs of, in no meaningful order."""
        ...

    def numbers(self, router: str, version: str) -> list[int]:
        """The numbers there are, ascending."""
        ...

    def thin(self, router: str, version: str, recent: int) -> list[int]:
        """Delete all but about the last `recent` epochs and `recent` / 2 for each doubling of age before them.

        An epoch whose age (the newest number minus its own) is in [recent·2^k, recent·2^(k+1)) stays if its
        number is divisible by 2^(k+1). What stays at one age stayed at all earlier ones, so thinning often or
        seldom comes to the same. The newest always stays: folds go on from it, whatever was erased of the log
        before it. Returns the numbers deleted.
        """
        ...


class EpochFiles:
    """The epochs under a data directory.

    Beside them stands a stamp: the last event that any of them folds, by its number and chain digest. It tells
    whether they belong to the log that is there, after a backup was put back say.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "epochs"

    def stamp(self, seq: int, digest: bytes) -> None:
        """See Epochs."""
        make_directory(self._root)
        replace_file(self._root / _STAMP, struct.pack("<Q", seq) + digest)

    def stamped(self) -> tuple[int, bytes] | None:
        """The event last stamped, or None where there is no stamp."""
        try:
            content = (self._root / _STAMP).read_bytes()
        except FileNotFoundError:
            return None
        return (int(struct.unpack_from("<Q", content)[0]), content[8:]) if len(content) > 8 else None

    def discard(self, after_seq: int) -> int:
        """Delete every epoch that folds an event after `after_seq`; the log can give them again. Returns how many."""
        deleted = 0
        for path in sorted(self._root.glob(f"*/*/*{_SUFFIX}")):
            with path.open("rb") as file:
                seq = epoch_file.seq_of(file.read(epoch_file.HEADER_BYTES))
            if seq is None or seq > after_seq:
                path.unlink()
                deleted += 1
        return deleted

    def save(self, router: str, version: str, number: int, seq: int, blob: bytes) -> None:
        """Publish an epoch, durably and at once or not at all.

        Publishing the same again does nothing; something else under the same number raises StoreConflict, unless
        what is there is damaged.
        """
        if number < 0 or seq < 0:
            raise ValueError("epoch number and seq must not be negative")
        there = self.load(router, version, number)
        if there is not None:
            if there != (seq, blob):
                raise StoreConflict("epoch", f"epoch {number} of {router!r} {version!r} is published otherwise")
            return
        path = self._path(router, version, number)
        make_directory(path.parent)
        replace_file(path, epoch_file.pack(EpochId(router, version, number), seq, blob))

    def copy(self, data_dir: Path) -> None:
        """Copy what there is to another data directory, durably, while it is being published and thinned."""
        stamped = self.stamped()
        if stamped is None:
            return
        target = EpochFiles(data_dir)
        target.stamp(*stamped)
        for path in sorted(self._root.glob(f"*/*/*{_SUFFIX}")):
            # One that is published after the stamp was read does not belong to the copy, and is discarded by it.
            with suppress(FileNotFoundError):
                content = path.read_bytes()
                place = target._root / path.relative_to(self._root)
                make_directory(place.parent)
                replace_file(place, content)

    def load(self, router: str, version: str, number: int) -> tuple[int, bytes] | None:
        """See Epochs."""
        path = self._path(router, version, number)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        found = epoch_file.unpack(EpochId(router, version, number), content)
        if found is None:
            _log.warning("epoch file %s is damaged and will be recomputed", path)
        return found

    def latest(self, router: str, version: str, upto_seq: int) -> Epoch | None:
        """See Epochs."""
        for number in reversed(self.numbers(router, version)):
            found = self.load(router, version, number)
            if found is not None and found[0] <= upto_seq:
                return Epoch(number, *found)
        return None

    def versions(self, router: str) -> list[str]:
        """See Epochs."""
        directory = self._root / _encoded(router)
        return sorted(unquote(path.name) for path in directory.iterdir()) if directory.is_dir() else []

    def numbers(self, router: str, version: str) -> list[int]:
        """The numbers there are files for, ascending."""
        directory = self._directory(router, version)
        if not directory.is_dir():
            return []
        stems = (path.stem for path in directory.iterdir() if path.suffix == _SUFFIX)
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal())

    def thin(self, router: str, version: str, recent: int) -> list[int]:
        """See Epochs."""
        deleted = to_thin(self.numbers(router, version), recent)
        for number in deleted:
            self._path(router, version, number).unlink(missing_ok=True)
        if deleted:
            fsync_directory(self._directory(router, version))
        return deleted

    def _directory(self, router: str, version: str) -> Path:
        return self._root / _encoded(router) / _encoded(version)

    def _path(self, router: str, version: str, number: int) -> Path:
        return self._directory(router, version) / f"{number}{_SUFFIX}"


def to_thin(numbers: Sequence[int], recent: int) -> list[int]:
    """Those of ascending epoch numbers that are to be deleted, see `Epochs.thin`."""
    if recent < 1:
        raise ValueError("recent must be at least 1")
    return [number for number in numbers if number % _spacing(numbers[-1] - number, recent)]


def _spacing(age: int, recent: int) -> int:
    spacing = 1
    while age >= recent * spacing:
        spacing *= 2
    return spacing


def _encoded(name: str) -> str:
    if not name:
        raise ValueError("router and policy version must not be empty")
    encoded = quote(name, safe="")
    if len(encoded) > _LONGEST_NAME:
        # File systems take 255 bytes. No encoded name has a "+" in it.
        encoded = f"{encoded[:_LONGEST_NAME]}+{blake2b(name.encode(), digest_size=16).hexdigest()}"
    # "." and ".." are directories of another meaning; a leading dot would hide the rest.
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded
