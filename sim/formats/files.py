"""Files of other formats: whole or not at all, and gzip where their name ends in ``.gz``."""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bandit.errors import InvalidInput

_LONGEST_LINE = 16 << 20
"""Bytes."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """A file that takes the place of `path` where no error ends the block. Raises OSError."""
    making = path.with_name(f".{path.name}.making")
    try:
        with making.open("wb") as file:
            if path.suffix == ".gz":
                # Equal contents make equal files: neither name nor time.
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                    yield packed
            else:
                yield file
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, each with its number from 1.

    Raises OSError, and InvalidInput where a line is too long or the file is no whole gzip file.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise InvalidInput(f"{path} line {number}", f"is longer than {_LONGEST_LINE >> 20} MiB")
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"{path} line {number + 1}", f"not a whole gzip file: {error}") from error
