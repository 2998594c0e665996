import pytest

from tests.faults import power
from tests.faults.trial import Broken


def test_what_was_acknowledged_is_on_the_disk_when_the_power_is_lost(shimmed):
    assert power.run(shimmed)["times_power_was_lost"] > 50


def test_a_store_that_syncs_nothing_is_caught(shimmed):
    with pytest.raises(Broken):
        power.of_a_store(shimmed, groups=12, points=40, lying=12)
