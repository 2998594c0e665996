import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'pointsman[postgres]'")
from tests.faults import replicas
from tests.postgres import NoPostgres, programs


def test_replicas_survive_what_happens_to_them_and_their_database(trial):
    try:
        programs()
    except NoPostgres as error:
        pytest.skip(str(error))
    found = replicas.run(trial)
    assert found["splits"] == 3 and found["acknowledged"] > 100
