"""Runs on a real Ray cluster: the same numbers as in one process, a killed worker included."""

import os
import signal
import time
from pathlib import Path

import pytest

from bandit.errors import InvalidInput
from server.cli import main
from sim import ray_cluster, runner, spread
from sim.world import Terms
from tests.sim.logs import world

ray = pytest.importorskip("ray", reason="ray is an extra: pip install 'pointsman[ray]'")

# Ray leaves sockets and files open as it ends, and warns of things of its own.
pytestmark = pytest.mark.filterwarnings("default")


def _once(folder: str, number: int) -> int:
    """Kills its own worker the first time it is called with 3."""
    mark = Path(folder) / "killed"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def _slowly(_given: None, number: int) -> int:
    time.sleep(0.5)
    return number * number


def _refuse(_given: None, number: int) -> int:
    raise InvalidInput("number", f"{number} is refused")


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    told: list[None] = []
    found = ray_cluster.run(
        ray_cluster.LOCAL, _once, str(tmp_path), {n: (n,) for n in range(6)}, on_result=lambda: told.append(None)
    )
    assert found == {n: n * n for n in range(6)}
    assert (tmp_path / "killed").exists()
    assert len(told) == 6


def test_a_killed_node_changes_nothing() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
        cluster.wait_for_nodes()

        def kill_one() -> None:
            if nodes:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                nodes.clear()

        calls = {n: (n,) for n in range(12)}
        found = ray_cluster.run(cluster.address, _slowly, None, calls, on_result=kill_one)
        assert found == {n: n * n for n in range(12)}
        assert not nodes
    finally:
        cluster.shutdown()


def test_what_a_task_raises_is_raised_here() -> None:
    with pytest.raises(InvalidInput, match="3 is refused"):
        ray_cluster.run(ray_cluster.LOCAL, _refuse, None, {3: (3,)}, on_result=lambda: None)


def test_runs_are_those_of_one_process() -> None:
    terms = Terms()
    policies = {name: runner.plain(name, terms) for name in ("thompson", "uniform")}
    table = world()
    alone, spread_out = (
        spread.run_all(table, terms, policies, seeds=2, sessions=30, jobs=1, ray=address, on_run=lambda: None)
        for address in (None, ray_cluster.LOCAL)
    )
    for name in policies:
        for mine, theirs in zip(alone[name], spread_out[name], strict=True):
            assert mine.success.tolist() == theirs.success.tolist()
            assert mine.cost_usd.tolist() == theirs.cost_usd.tolist()


def test_a_cluster_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["simulate", "--world", "correlated", "--sessions", "2", "--policy", "uniform", "--seeds", "1"]
    assert main([*asked, "--ray", "nonsense://nowhere"]) == 2
    error = capsys.readouterr().err
    assert "--ray" in error
    assert error.count("\n") == 1
