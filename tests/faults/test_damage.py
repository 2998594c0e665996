from tests.faults import damage


def test_no_damage_is_silent(trial):
    found = damage.run(trial)
    assert found["flipped_bits"] >= 100 and found["noticed"] > 100
