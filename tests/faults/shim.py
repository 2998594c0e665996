"""Faults below a process, through a small library that is preloaded into it; see `shim.c`."""

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path
from types import TracebackType
from typing import Self

SOURCE = Path(__file__).with_name("shim.c")

_FIELDS = ("clock_offset_ns", "kinds", "calls", "first", "last", "failed", "recorded")
_LAYOUT = struct.Struct("<q6Q")
_NEVER = 2**63


class NoShim(Exception):
    """Faults cannot be injected on this machine; the text says what is missing."""


class Kind(IntFlag):
    """How a call fails. The values are those of `shim.c`."""

    SYNC = 1
    """fsync and fdatasync say EIO and do nothing."""
    FULL = 2
    """Writing, creating and renaming say ENOSPC and do nothing."""
    SHORT = 4
    """Half of a write is done, and the caller is told so."""
    TORN = 8
    """Half of a write is done, and the caller is told EIO."""
    UNREADABLE = 16
    """Reading says EIO."""
    LYING = 32
    """fsync and fdatasync do nothing and say nothing, as of a store that forgot them."""


def build(folder: Path) -> Path:
    """The library, compiled into a folder. Raises NoShim."""
    compiler = shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        raise NoShim("injecting faults needs Linux and a C compiler (cc)")
    library = folder / "faults.so"
    if not library.exists():
        made = subprocess.run(
            [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise NoShim(f"{SOURCE.name} cannot be compiled: {made.stderr.strip()}")
    return library


class Shim:
    """The faults of one process and its children, changed while they run.

    `environment` is what the process is to be started with.
    """

    def __init__(self, folder: Path, under: Path, *, record: Path | None = None) -> None:
        """`under` is the directory whose files are meant; `record` is a file for all that changes there.

        Raises NoShim.
        """
        library = build(folder)
        file = folder / f"control-{under.name}"
        file.write_bytes(_LAYOUT.pack(*[0] * len(_FIELDS)))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _LAYOUT.size)
        self.environment: Mapping[str, str] = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "FAULTS_CONTROL": str(file),
            "FAULTS_UNDER": str(under.resolve()),
            **({"FAULTS_RECORD": str(record)} if record is not None else {}),
        }

    def fail(self, kinds: Kind, first: int = 1, last: int = _NEVER) -> None:
        """From now on the calls of those kinds number `first` to `last`, counted from 1, fail."""
        self._set("kinds", 0)
        for name, value in (("calls", 0), ("failed", 0), ("first", first), ("last", last), ("kinds", int(kinds))):
            self._set(name, value)

    def heal(self) -> None:
        """Nothing fails any more."""
        self._set("kinds", 0)

    def set_clock(self, ahead_seconds: float) -> None:
        """The wall clock is wrong by so much; time itself goes on as ever."""
        self._set("clock_offset_ns", round(ahead_seconds * 1e9))

    @property
    def calls(self) -> int:
        """Calls of the kinds asked for, since `fail`."""
        return self._get("calls")

    @property
    def failed(self) -> int:
        """How many of them have failed."""
        return self._get("failed")

    @property
    def recorded(self) -> int:
        """Bytes in the record: all that happened until now lies before it."""
        return self._get("recorded")

    def close(self) -> None:
        """Gives the control file back."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _set(self, name: str, value: int) -> None:
        place = 8 * _FIELDS.index(name)
        self._map[place : place + 8] = value.to_bytes(8, "little", signed=value < 0)

    def _get(self, name: str) -> int:
        place = 8 * _FIELDS.index(name)
        return int.from_bytes(self._map[place : place + 8], "little")
