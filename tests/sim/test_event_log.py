"""The events that `simulate --log` writes."""

from pathlib import Path

import duckdb

from bandit import record
from bandit.learner import Learner
from server import cli
from sim import runner, synthetic
from sim.event_log import folder
from sim.world import Terms


def folded(log: Path) -> Learner:
    learner = Learner()
    rows = duckdb.sql(f"SELECT {', '.join(record.LOGGED)} FROM '{log}/*.parquet' ORDER BY seq").fetchall()
    for row in rows:
        logged = record.unflatten(row)
        event = record.decode(logged["kind"], logged["body"], logged["private"]).event
        learner.feed(logged["seq"], event, logged["session_id"], logged["at_us"])
    return learner


def test_folding_the_files_again_gives_the_run_s_posterior(tmp_path, monkeypatch, capfd):
    log = tmp_path / "log"
    policies = ["thompson", "uniform"]
    given = [word for policy in policies for word in ("--policy", policy)]
    words = ["simulate", "--world", "independent", "--sessions", "40", "--seeds", "2", "--jobs", "2"]
    assert cli.main([*words, "--log", str(log), *given]) == 0
    assert sorted(path.relative_to(log).parts[:2] for path in log.rglob("*.parquet")) == [
        (policy, f"seed-{seed}") for policy in policies for seed in range(2)
    ]
    assert not list(log.rglob("*.tmp"))
    # The same runs again, their learners looked at.
    learners: list[Learner] = []
    make = Learner.__init__

    def watched(self, *arguments):
        make(self, *arguments)
        learners.append(self)

    monkeypatch.setattr(Learner, "__init__", watched)
    world = synthetic.make("independent")
    for policy in policies:
        for seed in range(2):
            learners.clear()
            runner.run(world, Terms(), policy, seed, 40)
            (learner,) = learners
            again = folded(folder(log, policy, seed))
            assert (again.seq, again.vintage.epoch) == (learner.seq, learner.vintage.epoch)
            assert again.vintage.epoch_hash == learner.vintage.epoch_hash


def test_names_are_encoded_and_time_runs_a_session_a_second(tmp_path, capfd):
    log = tmp_path / "log"
    words = ["simulate", "--world", "independent", "--sessions", "10", "--seeds", "1", "--jobs", "1"]
    assert cli.main([*words, "--log", str(log), "--policy", "vw:bag"]) == 0
    files = f"{log}/vw%3Abag/seed-0/*.parquet"
    rows = duckdb.sql(f"SELECT epoch_us(\"at\") FROM '{files}' WHERE kind = 'decided' AND attempt = 1 ORDER BY seq")
    assert rows.fetchall() == [(1_000_000 * n,) for n in range(10)]
    assert cli.main([*words, "--log", str(log), "--policy", "uniform"]) == 2
    assert "is not empty" in capfd.readouterr().err
