from tests.faults import parsers


def test_malformed_input_is_refused_on_purpose(trial):
    assert parsers.run(trial)["inputs"] >= 1500
