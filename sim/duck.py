"""DuckDB for the simulator: the only module here that imports it."""

import duckdb

Error = duckdb.Error
NotTheShape = duckdb.InvalidInputException
"""A file is not of the format as which it is read."""


def connect() -> duckdb.DuckDBPyConnection:
    """A database in memory that fetches nothing from anywhere."""
    return duckdb.connect(config={"autoinstall_known_extensions": False, "threads": 1})
