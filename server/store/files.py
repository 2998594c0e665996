"""Small durable-file helpers."""

import os
from pathlib import Path


def fsync_directory(path: Path) -> None:
    """Make the entries of a directory durable (files created, renamed or deleted in it)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Create a directory and its parents, each entry durable. An existing one is left alone."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync_directory(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`, durably: after a crash there is the old file or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)
