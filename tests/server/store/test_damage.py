"""Damaged files: what a store says of them, and that it leaves them as they are. More in `tests/faults/damage.py`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from server.store.errors import StoreDamaged
from server.store.protocol import NewEvent, StoredEvent
from server.store.sqlite import SqliteStore

MakeEvent = Callable[[int], NewEvent]


@pytest.fixture
def killed(tmp_path: Path, make_event: MakeEvent) -> tuple[Path, list[StoredEvent]]:
    """A data directory as a killed server leaves it, half of it still in the WAL, and what it acknowledged."""
    whole = tmp_path / "whole"
    store = SqliteStore.open(tmp_path / "data")
    store.append([make_event(n) for n in range(40)])
    store.close()
    store = SqliteStore.open(tmp_path / "data")
    for n in range(40, 80, 2):
        store.append([make_event(n), make_event(n + 1)])
    events = store.read(0, 1000)
    shutil.copytree(tmp_path / "data", whole)
    store.close()
    return whole, events


def copy(whole: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(whole, to))


def test_a_truncated_wal_is_never_silently_short(killed: tuple[Path, list[StoredEvent]], tmp_path: Path) -> None:
    whole, events = killed
    wal = (whole / "events.db-wal").read_bytes()
    assert len(wal) > 50_000
    for length in range(0, len(wal), len(wal) // 60):
        data_dir = copy(whole, tmp_path / "copy")
        (data_dir / "events.db-wal").write_bytes(wal[:length])
        with pytest.raises(StoreDamaged) as damaged:
            SqliteStore.open(data_dir)
        assert damaged.value.seq is not None
        assert 40 < damaged.value.seq <= len(events)
        # Refusing leaves what is there for whoever wants to rescue it.
        assert (data_dir / "events.db-wal").read_bytes() == wal[:length]
        assert (data_dir / "events.db").read_bytes() == (whole / "events.db").read_bytes()
        with pytest.raises(StoreDamaged):
            SqliteStore.open_reader(data_dir)


@pytest.mark.parametrize("missing", [["events.db-wal"], ["head"], ["events.db", "events.db-wal"]])
def test_a_missing_file_is_damage(killed: tuple[Path, list[StoredEvent]], tmp_path: Path, missing: list[str]) -> None:
    data_dir = copy(killed[0], tmp_path / "copy")
    for name in missing:
        (data_dir / name).unlink()
    with pytest.raises(StoreDamaged):
        SqliteStore.open(data_dir)


def test_a_head_of_another_log_is_damage(killed: tuple[Path, list[StoredEvent]], tmp_path: Path) -> None:
    data_dir = copy(killed[0], tmp_path / "copy")
    other = SqliteStore.open(tmp_path / "other")
    other.append([NewEvent(at_us=1, kind="arm_put", body=b"{}")])
    other.close()
    shutil.copy(tmp_path / "other/head", data_dir / "head")
    with pytest.raises(StoreDamaged) as damaged:
        SqliteStore.open(data_dir)
    assert damaged.value.seq == 1


def test_a_log_longer_than_its_head_is_an_interrupted_commit(tmp_path: Path, make_event: MakeEvent) -> None:
    data_dir = tmp_path / "data"
    store = SqliteStore.open(data_dir)
    store.append([make_event(0)])
    head = (data_dir / "head").read_bytes()
    store.append([make_event(1), make_event(2)])
    store.close()
    (data_dir / "head").write_bytes(head)
    store = SqliteStore.open(data_dir)
    assert store.last_seq == 3
    assert store.append([make_event(3)]) == 4
    assert store.verify() == []
    store.close()
