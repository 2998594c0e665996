"""Shared by all tests: where skips are forbidden, where the measured outcomes lie, and a PostgreSQL."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Cluster, NoPostgres

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With POINTSMAN_FORBID_SKIPS set, a skip is a failure: continuous integration must have everything."""
    report = yield
    if report.skipped and os.environ.get("POINTSMAN_FORBID_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skips are forbidden here: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def outcomes_folder() -> Path:
    """The folder with `outcomes.parquet`, `tasks.parquet` and `models.csv`; the test skips where there is none."""
    folder = Path(os.environ.get("POINTSMAN_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "outcomes.parquet").exists():
        pytest.skip(f"no measured outcomes in {folder}; name their folder with POINTSMAN_DATA")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A running PostgreSQL; the test skips where there is none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'pointsman[postgres]'")
    try:
        cluster = Cluster()
    except NoPostgres as error:
        pytest.skip(str(error))
    yield cluster
    cluster.remove()


@pytest.fixture
def database_url(postgres: Cluster) -> str:
    """A new, empty database."""
    return postgres.database()
