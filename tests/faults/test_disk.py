import pytest

from tests.faults import disk


@pytest.mark.timeout(200)
def test_a_failing_disk_loses_nothing_that_was_acknowledged(shimmed):
    assert disk.run(shimmed)["failed_calls"] > 10
