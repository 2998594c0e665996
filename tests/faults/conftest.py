"""A sample of each fault, as the default tests try it."""

import os
import sys
from pathlib import Path

import pytest

from tests.faults.shim import NoShim, build
from tests.faults.trial import Trial


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(folder=tmp_path, seed=1, quick=True)


@pytest.fixture
def shimmed(trial: Trial) -> Trial:
    """As `trial`, where faults can be injected below a process."""
    try:
        build(trial.folder)
    except NoShim as error:
        pytest.skip(str(error))
    return trial


@pytest.fixture(scope="session", autouse=True)
def _children_find_the_rooms() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
