from tests.faults import backups


def test_a_backup_of_a_server_at_work_holds_what_was_acknowledged(trial):
    assert backups.run(trial)["events_in_the_last"] > 100
