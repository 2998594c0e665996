import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'pointsman[postgres]'")
from tests.faults import replicas
from tests.faults.shim import NoShim


def test_replicas_survive_what_happens_to_them_and_their_database(trial):
    try:
        found = replicas.run(trial)
    except NoShim as error:
        pytest.skip(str(error))
    assert found["splits"] == 3 and found["acknowledged"] > 100
