"""The durable head survives a torn write and tells when it cannot be trusted."""

import os
from pathlib import Path

import pytest

from server.store.errors import StoreDamaged
from server.store.head import Head, HeadFile, create_head, read_head


def head(seq: int) -> Head:
    return Head(seq, bytes([seq]) * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_head(tmp_path / "head", head(0))
    return tmp_path / "head"


def write(path: Path, *seqs: int) -> None:
    file = HeadFile.open(path)
    for seq in seqs:
        file.write(head(seq))
        assert file.head == read_head(path) == head(seq)
    file.close()


def test_the_last_write_is_read(path: Path) -> None:
    assert read_head(path) == head(0)
    write(path, 1, 2, 3)
    write(path, 4)
    assert read_head(path) == head(4)
    assert read_head(path.with_name("none")) is None


def test_a_torn_write_leaves_the_one_before(path: Path) -> None:
    write(path, 1, 2)
    old = path.read_bytes()
    write(path, 3)
    new = path.read_bytes()
    changed = [i for i in range(len(new)) if new[i] != old[i]]
    for end in range(changed[0], changed[-1] + 1):
        path.write_bytes(new[:end] + old[end:])
        assert read_head(path) == head(2)
        write(path, 9)
        assert read_head(path) == head(9)


def test_every_bit_flip_gives_a_head_that_was_written_or_none(path: Path) -> None:
    write(path, 1, 2)
    whole = path.read_bytes()
    for offset in [*range(80), *range(4090, 4180)]:
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << bit
            path.write_bytes(damaged)
            assert read_head(path) in (head(1), head(2))


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"x" * 100])
def test_no_valid_slot_is_damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreDamaged):
        read_head(path)
    with pytest.raises(StoreDamaged):
        HeadFile.open(path)


def test_a_failed_write_can_be_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = HeadFile.open(path)
    file.write(head(1))

    def fail(_fd: int) -> None:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="I/O"):
            file.write(head(2))
        assert file.head == head(1)
    file.write(head(3))
    file.close()
    assert read_head(path) == head(3)
