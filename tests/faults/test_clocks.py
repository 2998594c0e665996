import pytest

from tests.faults import clocks


@pytest.mark.timeout(150)
def test_a_clock_that_jumps_by_an_hour_does_no_harm(shimmed):
    assert clocks.run(shimmed)["decisions"] > 4
