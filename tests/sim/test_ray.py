"""Runs on a real Ray cluster: the same numbers as in one process, a killed worker included."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bandit import policy
from bandit.errors import InvalidInput
from server.cli import main
from sim import log_reader, ray_cluster, runner, spread
from sim.candidates import rule
from sim.logged import Log
from sim.piece import Piece
from sim.scoring import evaluate_all
from sim.world import Floats, Terms
from tests.sim.logs import ARMS, events_of, world, write

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

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
    if number == 3:
        raise InvalidInput("number", f"{number} is refused")
    return number


@pytest.fixture(scope="module")
def cluster() -> Iterator["Cluster"]:
    """One node, of two processors."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        yield nodes
    finally:
        nodes.shutdown()


def on_cluster(
    address: str, function: Callable[..., int], given: object, numbers: int, told: Callable[[int], None]
) -> dict[int, int]:
    with ray_cluster.connected(address, function, given) as cluster:
        return cluster.run({n: (n,) for n in range(numbers)}, on_result=told)


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    told: list[int] = []
    found = on_cluster(ray_cluster.LOCAL, _once, str(tmp_path), 6, told.append)
    assert found == {n: n * n for n in range(6)}
    assert (tmp_path / "killed").exists()
    assert sorted(told) == list(range(6))


@pytest.mark.long
def test_a_killed_node_changes_nothing(cluster: "Cluster") -> None:
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    left: list[int] = []

    def kill(number: int) -> None:
        if not left:
            cluster.remove_node(lost, allow_graceful=False)
        left.append(number)

    found = on_cluster(cluster.address, _slowly, None, 12, kill)
    assert found == {n: n * n for n in range(12)}
    assert sorted(left) == list(range(12))


def test_what_a_task_raises_is_raised_here(cluster: "Cluster") -> None:
    with pytest.raises(InvalidInput, match="3 is refused"):
        on_cluster(cluster.address, _refuse, None, 4, lambda _: None)


@pytest.mark.long
def test_runs_are_those_of_one_process(cluster: "Cluster") -> None:
    terms = Terms()
    policies = {name: runner.plain(name, terms) for name in ("thompson", "uniform")}
    table = world()
    alone, spread_out = (
        spread.run_all(table, terms, policies, seeds=2, sessions=30, jobs=1, ray=address, on_run=lambda: None)
        for address in (None, cluster.address)
    )
    for name in policies:
        for mine, theirs in zip(alone[name], spread_out[name], strict=True):
            assert mine.success.tolist() == theirs.success.tolist()
            assert mine.cost_usd.tolist() == theirs.cost_usd.tolist()


@dataclass(frozen=True)
class Fatal:
    """A ladder that kills the first worker that asks it."""

    mark: Path
    by: int
    name: str = "fatal"
    begins: int = 0

    def targets(self, piece: Piece) -> Floats:
        if os.getpid() != self.by and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        found = rule("ladder:a>c", policy.parse("ladder:a>c"), ARMS, 3)
        assert found is not None
        return found.targets(piece)


def test_a_replay_is_that_of_one_process(cluster: "Cluster", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_NUMBERS_IN_PIECE", 2_000)
    candidate = Fatal(mark=tmp_path / "killed", by=os.getpid())
    with Log(write(events_of("uniform", sessions=600), tmp_path / "log")) as log:
        (alone,), (spread_out,) = (
            evaluate_all(log, [candidate], value_usd=5.0, ray=address) for address in (None, cluster.address)
        )
    assert candidate.mark.exists()
    for metric in ("success", "cost", "utility"):
        assert alone.level(metric) == spread_out.level(metric)
    assert alone.trust == spread_out.trust


@pytest.mark.parametrize("command", ["simulate", "replay"])
def test_a_cluster_that_is_not_there_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(events_of("uniform", sessions=2), tmp_path / "log")
    asked = {
        "simulate": ["--world", "correlated", "--sessions", "2", "--policy", "uniform", "--seeds", "1"],
        "replay": ["--events", str(log), "--candidate", "always:a"],
    }[command]
    assert main([command, *asked, "--ray", "nonsense://nowhere"]) == 2
    error = capsys.readouterr().err
    assert "--ray" in error
    assert error.count("\n") == 1
