import dataclasses

from tests.faults import soak


def test_a_short_soak_counts_right_and_draws(trial, tmp_path):
    found = soak.run(dataclasses.replace(trial, pictures=tmp_path / "pictures"))
    assert found["sessions"] > 20
    assert (tmp_path / "pictures" / "soak.png").stat().st_size > 10_000
