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


def make_directory(path: Path, *, mode: int = 0o777) -> None:
    """Create a directory and its parents, each entry durable. An existing one is left alone.

    `mode` are the permissions of the directory itself, before the umask.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode, exist_ok=True)
    fsync_directory(path.parent)


def replace_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Put `content` at `path`, durably: after a crash there is the old file or the new one, whole.

    `mode` are the permissions of the new file, before the umask.
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


def read_number(path: Path) -> int:
    """The whole number at `path`, 0 where there is no file. Raises ValueError where it holds something else."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


def replace_number(path: Path, number: int) -> None:
    """Put a whole number at `path`, durably; see `replace_file`."""
    replace_file(path, f"{number}\n".encode())
