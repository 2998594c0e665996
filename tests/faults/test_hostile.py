from tests.faults import hostile


def test_hostile_input_gets_a_documented_status(trial):
    found = hostile.run(trial)
    assert found["inputs"] >= 600 and found["ok"] > 10
