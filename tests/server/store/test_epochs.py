"""Epoch files: whole or absent, never overwritten, thinned the same however often."""

import logging
import os
from pathlib import Path

import pytest

from server.store.epochs import Epoch, EpochFiles
from server.store.errors import StoreConflict


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    epochs = EpochFiles(tmp_path)
    assert epochs.load("default", "v1", 1) is None
    assert epochs.numbers("default", "v1") == []
    assert epochs.latest("default", "v1", 100) is None
    for number in (1, 2, 10):
        epochs.save("default", "v1", number, number * 64, b"blob %d" % number)
    assert EpochFiles(tmp_path).load("default", "v1", 10) == (640, b"blob 10")
    assert epochs.numbers("default", "v1") == [1, 2, 10]
    assert epochs.latest("default", "v1", 640) == Epoch(10, 640, b"blob 10")
    assert epochs.latest("default", "v1", 639) == Epoch(2, 128, b"blob 2")
    assert epochs.latest("default", "v1", 63) is None
    assert epochs.latest("default", "v2", 640) is None


def test_an_epoch_is_immutable(tmp_path: Path) -> None:
    epochs = EpochFiles(tmp_path)
    epochs.save("default", "v1", 1, 64, b"blob")
    epochs.save("default", "v1", 1, 64, b"blob")
    with pytest.raises(StoreConflict):
        epochs.save("default", "v1", 1, 64, b"other")
    with pytest.raises(StoreConflict):
        epochs.save("default", "v1", 1, 65, b"blob")
    with pytest.raises(ValueError, match="empty"):
        epochs.save("", "v1", 1, 64, b"blob")


@pytest.mark.parametrize(
    "name", ["..", ".", "../../x", "a/b", "ä %2F", ".hidden", "a\0b", "x" * 256, "\N{SNOWMAN}" * 256]
)
def test_no_name_leaves_the_directory_or_meets_another(tmp_path: Path, name: str) -> None:
    epochs = EpochFiles(tmp_path / "data")
    epochs.save(name, name, 1, 5, name.encode())
    epochs.save("%2E.", "a%2Fb", 1, 6, b"another")
    epochs.save(name[:-1] + "y", name, 1, 7, b"alike")
    assert epochs.load(name, name, 1) == (5, name.encode())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).parts[:2] for path in files} == {("data", "epochs")}
    assert {len(path.relative_to(tmp_path).parts) for path in files} == {5}


def test_the_policy_versions_of_a_router_are_found(tmp_path: Path) -> None:
    epochs = EpochFiles(tmp_path)
    assert epochs.versions("default") == []
    for version in ("2", "1", "a/b"):
        epochs.save("default", version, 1, 5, b"blob")
    epochs.save("other", "3", 1, 5, b"blob")
    assert sorted(epochs.versions("default")) == ["1", "2", "a/b"]


def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    epochs = EpochFiles(tmp_path)
    epochs.save("default", "v1", 1, 64, b"older")
    epochs.save("default", "v1", 2, 128, b"newer")
    path = tmp_path / "epochs/default/v1/2.epoch"
    whole = path.read_bytes()
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        assert epochs.load("default", "v1", 2) is None
        path.write_bytes(whole[:offset])
        with caplog.at_level(logging.WARNING):
            assert epochs.load("default", "v1", 2) is None
    assert "2.epoch" in caplog.text
    assert epochs.latest("default", "v1", 1000) == Epoch(1, 64, b"older")
    epochs.save("default", "v1", 2, 128, b"newer")
    assert epochs.latest("default", "v1", 1000) == Epoch(2, 128, b"newer")


def test_a_file_in_the_wrong_place_counts_as_absent(tmp_path: Path) -> None:
    epochs = EpochFiles(tmp_path)
    epochs.save("default", "v1", 1, 64, b"blob")
    path = tmp_path / "epochs/default/v1/1.epoch"
    path.with_name("2.epoch").write_bytes(path.read_bytes())
    assert epochs.load("default", "v1", 2) is None


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_save_that_fails_leaves_nothing_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    epochs = EpochFiles(tmp_path)
    epochs.save("default", "v1", 1, 64, b"blob")

    def fail(*_: object) -> None:
        raise OSError(28, "disk full")

    with monkeypatch.context() as failing:
        failing.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
        with pytest.raises(OSError, match="full"):
            epochs.save("default", "v1", 2, 128, b"new")
    assert epochs.numbers("default", "v1") == [1]
    assert epochs.load("default", "v1", 2) is None
    epochs.save("default", "v1", 2, 128, b"new")
    assert epochs.load("default", "v1", 2) == (128, b"new")


def test_thinning_often_or_once_comes_to_the_same(tmp_path: Path) -> None:
    often, once = EpochFiles(tmp_path / "often"), EpochFiles(tmp_path / "once")
    for number in range(1, 101):
        often.save("r", "v", number, number, b"")
        once.save("r", "v", number, number, b"")
        often.thin("r", "v", 8)
    deleted = once.thin("r", "v", 8)
    kept = once.numbers("r", "v")
    assert kept == often.numbers("r", "v")
    assert sorted(kept + deleted) == list(range(1, 101))
    assert kept[-8:] == list(range(93, 101))
    assert len(kept) <= 8 + 4 * 4
    # Between an age and its double something is left, so a recomputation never starts much further back.
    for age in range(8, 50):
        assert any(100 - 2 * age <= number <= 100 - age for number in kept)
    assert once.thin("r", "v", 8) == []
    assert once.thin("none", "v", 8) == []
