"""Arrays in ``.npz`` files, row by row: written and read in constant memory, and never pickled."""

import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidInput
from sim.formats import files

Array: TypeAlias = npt.NDArray[Any]

_UNREADABLE = (
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the libraries raise over files that are damaged, encrypted or of another kind."""
_ROWS_BYTES = 1 << 20
"""Read of an array at once."""
_MOST_BYTES = 16 << 20
"""Of one row."""
_THEN = (1980, 1, 1, 0, 0, 0)
"""Equal arrays make equal files."""


class Rows(AbstractContextManager["Rows"]):
    """Arrays that grow by rows, kept beside until they are written. To be used as a context."""

    def __init__(self, shapes: Mapping[str, tuple[type[np.generic], tuple[int, ...]]]) -> None:
        """By name the kind of number and the shape of a row."""
        self._shapes = shapes
        self._folder = tempfile.TemporaryDirectory(prefix="pointsman-")
        self._open: dict[str, IO[bytes]] = {name: (Path(self._folder.name) / name).open("w+b") for name in shapes}
        self.count = 0

    def add(self, row: Mapping[str, npt.ArrayLike]) -> None:
        """Takes in the next row of every array."""
        for name, (kind, shape) in self._shapes.items():
            values = np.asarray(row[name], kind)
            assert values.shape == shape, name
            self._open[name].write(values.tobytes())
        self.count += 1

    def write(self, target: Path, others: Mapping[str, npt.ArrayLike]) -> None:
        """Writes them with `others`, whole arrays, as one ``.npz`` file. Raises OSError."""
        with files.replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (kind, shape) in self._shapes.items():
                with archive.open(_member(name), "w", force_zip64=True) as member:
                    head = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (self.count, *shape)}
                    np.lib.format.write_array_header_1_0(member, head)
                    self._open[name].seek(0)
                    shutil.copyfileobj(self._open[name], member)
            for name, array in others.items():
                with archive.open(_member(name), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for file in self._open.values():
            file.close()
        self._folder.cleanup()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy", date_time=_THEN)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


class Stored(AbstractContextManager["Stored"]):
    """The arrays of an ``.npz`` file that somebody else wrote. To be used as a context."""

    def __init__(self, source: Path) -> None:
        """Raises OSError, and InvalidInput where it is no such file."""
        self._source = source
        try:
            self._archive = zipfile.ZipFile(source)
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            raise InvalidInput(str(source), f"not an .npz file: {error}") from error

    def __contains__(self, name: str) -> bool:
        """Whether there is such an array, of numbers or texts. One of objects is as good as none: it is not opened."""
        return f"{name}.npy" in self._archive.namelist() and not self._head(name)[1].hasobject

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape. Raises InvalidInput as `rows` does."""
        return self._head(name)[0]

    def rows(self, name: str) -> Iterator[Array]:
        """The rows of an array, each a scalar or an array.

        Raises InvalidInput naming the array where there is none or it cannot be read.
        """
        shape, kind, by_column = self._head(name)
        if kind.hasobject:
            raise InvalidInput(f"{self._source}: {name}", "holds Python objects, which are not opened")
        if kind.kind not in "biufU":
            raise InvalidInput(f"{self._source}: {name}", f"holds neither numbers nor texts but {kind}")
        if int(np.prod(shape[1:], dtype=object)) * kind.itemsize > _MOST_BYTES:
            raise InvalidInput(f"{self._source}: {name}", f"has rows of more than {_MOST_BYTES >> 20} MiB")
        try:
            with self._archive.open(f"{name}.npy") as member:
                if by_column:
                    # Its rows do not lie together.
                    yield from np.lib.format.read_array(member, allow_pickle=False)
                    return
                _skip_head(member)
                yield from _chunks(member, shape, kind)
        except _UNREADABLE as error:
            raise InvalidInput(f"{self._source}: {name}", f"cannot be read: {error}") from error

    def whole(self, name: str, most: int) -> Array:
        """An array of at most `most` numbers; raises InvalidInput as `rows` does."""
        shape = self.shape(name)
        if int(np.prod(shape, dtype=object)) > most:
            raise InvalidInput(f"{self._source}: {name}", f"holds more than {most} values")
        if not shape:
            return np.asarray(next(self.rows(name)))
        return np.array(list(self.rows(name)))

    def _head(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        try:
            with self._archive.open(f"{name}.npy") as member:
                return _skip_head(member)
        except KeyError as error:
            raise InvalidInput(f"{self._source}: {name}", "is missing") from error
        except _UNREADABLE as error:
            raise InvalidInput(f"{self._source}: {name}", f"cannot be read: {error}") from error

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._archive.close()


def _skip_head(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, kind = read(member)
    return shape, kind, by_column and len(shape) > 1


def _chunks(member: IO[bytes], shape: tuple[int, ...], kind: np.dtype[Any]) -> Iterator[Array]:
    count, row = (shape[0], shape[1:]) if shape else (1, ())
    each = int(np.prod(row, dtype=object))
    step = max(1, _ROWS_BYTES // max(1, each * kind.itemsize))
    for first in range(0, count, step):
        rows = min(step, count - first)
        wanted = rows * each * kind.itemsize
        read = member.read(wanted)
        if len(read) < wanted:
            raise EOFError("it ends too early")
        yield from np.frombuffer(read, kind).reshape(rows, *row)
