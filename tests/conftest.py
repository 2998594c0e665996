"""Shared by all tests: where skips are forbidden, and where the measured outcomes lie."""

import os
from pathlib import Path

import pytest

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
