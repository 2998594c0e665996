"""DuckDB for the simulator: the only module here that imports it."""

from pathlib import Path

import duckdb

Connection = duckdb.DuckDBPyConnection
Error = duckdb.Error
NotTheShape = duckdb.InvalidInputException
"""A file is not of the format as which it is read."""


def connect() -> Connection:
    """A database in memory that fetches nothing from anywhere."""
    return duckdb.connect(config={"autoinstall_known_extensions": False, "threads": 1})


def connect_out_of_core(folder: Path, *, threads: int, memory_mb: int) -> Connection:
    """A database that holds at most so much in memory and puts the rest into a folder; it fetches nothing.

    Of two joined tables it is the second that it hashes, as written: by its own estimates it often took the wider one.
    """
    return duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "threads": threads,
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": str(folder),
            "preserve_insertion_order": True,
            "disabled_optimizers": "build_side_probe_side",
        }
    )


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
