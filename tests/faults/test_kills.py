"""What is sampled here `make faults` does at length; so in the other tests of this folder."""

from tests.faults import kills


def test_what_was_acknowledged_survives_being_killed(trial):
    found = kills.run(trial)
    assert found["kills"] >= 1 and found["acknowledged"] > 500
