"""The durable head: the last acknowledged sequence number and its chain digest, in a file of its own.

A database that lost its tail can look whole (SQLite takes a damaged WAL frame for the end of the log), and a
hash chain cannot see that its end is missing. So each commit is followed by a write here, before it is
acknowledged. A log longer than the head is an interrupted commit, and fine; a shorter one is damaged.

The file has two slots in two disk blocks, written in turn: a torn write spoils the slot being written and leaves
the one before.
"""

import os
import struct
from hashlib import blake2b
from pathlib import Path
from typing import Self

import msgspec

from server.store.chain import DIGEST_BYTES
from server.store.errors import StoreDamaged
from server.store.files import replace_file

_MAGIC = b"pm-head1"
_CONTENT = struct.Struct(f"<8sQ{DIGEST_BYTES}s")
_CHECKSUM_BYTES = 16
_SLOT_BYTES = _CONTENT.size + _CHECKSUM_BYTES
_SLOT_OFFSETS = (0, 4096)
_FILE_BYTES = 8192


class Head(msgspec.Struct, frozen=True):
    """Last acknowledged sequence number and the chain's digest there."""

    seq: int
    digest: bytes


class HeadFile:
    """The head file, open for writing. OSError on I/O trouble; a failed write may be tried again."""

    def __init__(self, fd: int, head: Head, slot: int) -> None:
        self._fd = fd
        self._slot = slot
        self.head = head

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing file. Raises StoreDamaged if neither slot is valid."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            head, slot = _newest(os.pread(fd, _FILE_BYTES, 0))
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, head, slot)

    def write(self, head: Head) -> None:
        """Make `head` durable."""
        slot = 1 - self._slot
        content = _pack(head)
        if os.pwrite(self._fd, content, _SLOT_OFFSETS[slot]) != len(content):
            raise OSError("short write to the head file")
        os.fdatasync(self._fd)
        self._slot = slot
        self.head = head

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def create_head(path: Path, head: Head) -> None:
    """Create the file durably, full-sized, so that later writes change data only."""
    replace_file(path, _pack(head).ljust(_FILE_BYTES, b"\0"))


def read_head(path: Path) -> Head | None:
    """The head, or None if there is no file. Raises StoreDamaged if neither slot is valid."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return _newest(content)[0]


def _pack(head: Head) -> bytes:
    content = _CONTENT.pack(_MAGIC, head.seq, head.digest)
    return content + blake2b(content, digest_size=_CHECKSUM_BYTES).digest()


def _newest(content: bytes) -> tuple[Head, int]:
    heads = []
    for slot, offset in enumerate(_SLOT_OFFSETS):
        data = content[offset : offset + _SLOT_BYTES]
        if len(data) == _SLOT_BYTES:
            magic, seq, digest = _CONTENT.unpack_from(data)
            head = Head(seq, digest)
            if magic == _MAGIC and data == _pack(head):
                heads.append((head, slot))
    if not heads:
        raise StoreDamaged(None, "the head file has no valid slot")
    return max(heads, key=lambda found: found[0].seq)
