"""The real server as a process, for the tests of faults."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tests.server.conftest import UNIFORM, Server

__all__ = ["UNIFORM", "Server", "start"]


def start(
    data_dir: Path,
    config: str,
    *flags: str,
    module: Sequence[str] = ("server.cli",),
    environment: Mapping[str, str] | None = None,
    stderr: TextIO | None = None,
) -> Server:
    """A server that has said that it is ready. AssertionError where it ends instead."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = data_dir.with_suffix(".toml")
    file.write_text(config)
    return Server(data_dir, "--config", str(file), *flags, module=module, environment=environment, stderr=stderr)
