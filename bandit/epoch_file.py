"""An epoch as a file: a header (magic, sequence number, digest) and a learner's snapshot.

The digest covers router, policy version, epoch and sequence number beside the snapshot, so that a file in the wrong
place is as bad as a damaged one.
"""

import struct
from hashlib import blake2b
from typing import NamedTuple

from bandit.learner import Learner

_MAGIC = b"pm-epoc1"
_DIGEST_BYTES = 32
_HEADER = struct.Struct(f"<8sQ{_DIGEST_BYTES}s")

HEADER_BYTES = _HEADER.size


class EpochId(NamedTuple):
    """Which epoch a file is to hold."""

    router: str
    version: str
    """The policy's."""
    number: int


def pack(epoch: EpochId, seq: int, blob: bytes) -> bytes:
    """The file of an epoch: `blob` is the snapshot of the fold up to and including event `seq`."""
    return _HEADER.pack(_MAGIC, seq, _digest(epoch, seq, blob)) + blob


def seq_of(header: bytes) -> int | None:
    """The sequence number in a file's first HEADER_BYTES; None where they are too few."""
    return int(_HEADER.unpack(header)[1]) if len(header) == HEADER_BYTES else None


def unpack(epoch: EpochId, content: bytes) -> tuple[int, bytes] | None:
    """(seq, blob) of a file that is to hold that epoch; None where it is damaged or another's."""
    if len(content) < HEADER_BYTES:
        return None
    magic, seq, digest = _HEADER.unpack_from(content)
    blob = content[HEADER_BYTES:]
    if magic != _MAGIC or digest != _digest(epoch, seq, blob):
        return None
    return seq, blob


def resume(content: bytes) -> Learner:
    """The learner in an epoch's file, wherever the file lies. Raises ValueError where it is damaged or none."""
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it is no epoch file")
    learner = Learner.resume(content[HEADER_BYTES:])
    settings, vintage = learner.configuration.settings, learner.vintage
    assert vintage is not None, "a snapshot has an epoch"
    if settings is None or unpack(EpochId(settings.id, vintage.policy_version, vintage.epoch), content) is None:
        raise ValueError("it is damaged")
    return learner


def _digest(epoch: EpochId, seq: int, blob: bytes) -> bytes:
    names = epoch.router.encode(), epoch.version.encode()
    hasher = blake2b(digest_size=_DIGEST_BYTES, person=b"pm epoch")
    hasher.update(struct.pack("<IIQQ", len(names[0]), len(names[1]), epoch.number, seq))
    for part in (*names, blob):
        hasher.update(part)
    return hasher.digest()
